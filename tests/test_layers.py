"""Imports run one way, and a light import stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxreg

# A file imports only files that stand before it.
CORE = [
    "gaussian",
    "data",
    "embeddings",
    "models",
    "losses",
    "training",
    "layout",
    "optimizers",
    "ensemble",
    "metrics",
    "calibration",
    "fitted",
    "recipe",
]
LEAVES = [
    "isotonic",
    "files",
    "cache",
    "plots",
    "report",
    "progress",
    "hosts",
    "tables",
    "sources",
    "checkpoints",
    "model_file",
    "export",
    "torch_weights",
    "estimator",
    "skpro_regressor",
]
TOP = ["cli"]
ORDER = [*CORE, *LEAVES, *TOP]
OPTIONAL = [
    "torch",
    "sklearn",
    "matplotlib",
    "orbax",
    "typer",
    "polars",
    "pyarrow",
    "safetensors",
    "msgspec",
    "jinja2",
    "pandas",
    "skpro",
]
FOLDER = Path(jaxreg.__file__).parent


def imported(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("jaxreg"):
            names = [a.name for a in node.names] if node.module == "jaxreg" else [node.module.split(".")[1]]
            yield from names
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("jaxreg."))


def test_every_file_has_its_place():
    assert {path.stem for path in FOLDER.glob("*.py")} == {"__init__", "__main__", *ORDER}


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_files_above_it(name):
    allowed = ORDER[: ORDER.index(name)]
    assert set(imported(FOLDER / f"{name}.py")) <= set(allowed)


@pytest.mark.parametrize("path", [*FOLDER.glob("*.py")], ids=lambda path: path.stem)
def test_nothing_is_imported_inside_a_function(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert not any(isinstance(child, ast.Import | ast.ImportFrom) for child in ast.walk(node)), (
                node.name
            )


@pytest.mark.parametrize("module", ["jaxreg", "jaxreg.torch_weights"])
def test_light_import(module):
    code = f"import sys, {module}; print(*{{m.split('.')[0] for m in sys.modules}})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(loaded) & set(OPTIONAL)


def test_rich_comes_with_flax_alone():
    code = "import sys, flax.linen, optax, jaxtyping; before = set(sys.modules); import jaxreg; "
    code += "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "rich" not in loaded
