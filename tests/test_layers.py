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
    "model.archive",
    "model.store",
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


def file_of(name):
    return FOLDER / f"{name.replace('.', '/')}.py"


def imported(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = [f"{node.module}.{a.name}" for a in node.names] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        for name in (name.removeprefix("jaxreg.") for name in names if name.startswith("jaxreg.")):
            # The last part may be what a file has in it.
            yield name if file_of(name).exists() else name.rpartition(".")[0]


def test_every_file_has_its_place():
    files = {".".join(path.relative_to(FOLDER).with_suffix("").parts) for path in FOLDER.rglob("*.py")}
    assert files == {"__init__", "__main__", "model.__init__", *ORDER}


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_files_above_it(name):
    allowed = ORDER[: ORDER.index(name)]
    assert set(imported(file_of(name))) <= set(allowed)


@pytest.mark.parametrize("path", [*FOLDER.rglob("*.py")], ids=lambda path: path.stem)
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
