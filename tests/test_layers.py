"""Imports run one way, and a light import stays light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxreg

# A file imports only files that stand before it.
ORDER = """
    plain settings checks machine
    distributions.base distributions.quantile distributions.family distributions.gaussian
    distributions.mixture distributions.any_mixture distributions.scale_families distributions.maps
    distributions.families distributions.transformed distributions.clipped distributions
    data.frames data.far data.scaler data.border data.rows data.held_out data.example data
    networks.embeddings networks.models networks.prediction networks
    training.losses training.optimizers training.trainer training.hooks training.feeds training.run
    training.inputs training.members training.chunks training.fitting training
    columns.values columns.counts columns.numbers columns.categories columns.times columns.kinds
    columns.columns columns.growth columns.fingerprints columns
    metrics.checked metrics.scores metrics.columns metrics.groups metrics.evaluation metrics.scorers metrics
    calibration.scaling calibration.recalibration calibration.conformal calibration.mondrian
    calibration
    model model.fitted
    isotonic importance files model.archive model.header model.store cache
    plots.drawing plots.pictures plots.groups plots.importance plots.page plots
    report progress hosts
    going_on training_data table_rows recipe
    tables.form tables.lines tables.notation tables.csv tables.workbook tables.plain tables.read
    tables.writer tables.prefetch tables.row_groups tables.learn tables.stream tables.find tables
    model.checkpoints model.model_file model.export model.onnx_graph model.onnx_export
    model.torch_weights estimator skpro_regressor
    cli.console cli.ending cli.aborts cli.standard_input cli.outputs cli.inputs cli.json_output cli.options
    cli.demo cli.fit cli.predict cli.evaluate cli.info cli.export cli.app cli
""".split()
# Where names are imported when they are asked for.
LATE = "__init__", "cli.app"
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
    "openpyxl",
    "onnx",
    "pandas",
    "skpro",
]
FOLDER = Path(jaxreg.__file__).parent


def imported(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("jaxreg"):
            for name in (f"{node.module}.{a.name}".removeprefix("jaxreg.") for a in node.names):
                yield name if name in ORDER else name.rpartition(".")[0]
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix("jaxreg.") for a in node.names if a.name.startswith("jaxreg."))


def name_of(path):
    """The dotted name of a file within the package; that of a folder for its `__init__`."""
    return ".".join(path.relative_to(FOLDER).with_suffix("").parts).removesuffix(".__init__")


def test_every_file_has_its_place():
    assert {*map(name_of, FOLDER.rglob("*.py"))} == {"__init__", "__main__", *ORDER}


def test_the_page_of_files_has_them_in_order():
    page = (FOLDER.parent / "docs" / "project" / "files.md").read_text()
    listed = re.findall(r"^jaxreg/(\S+)", page, flags=re.M)
    files = (path for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert sorted(listed) == sorted(str(path.relative_to(FOLDER)) for path in files)
    names = [name_of(FOLDER / path) for path in listed if path.endswith(".py")]
    assert names == ["__init__", *ORDER, "__main__"]


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_files_above_it(name):
    allowed = ORDER[: ORDER.index(name)]
    path = FOLDER / name.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert set(imported(path)) <= set(allowed)


@pytest.mark.parametrize("path", [*FOLDER.rglob("*.py")], ids=name_of)
def test_nothing_is_imported_inside_a_function(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and name_of(path) not in LATE:
            assert not any(isinstance(child, ast.Import | ast.ImportFrom) for child in ast.walk(node)), (
                node.name
            )


@pytest.mark.parametrize("module", ["jaxreg", "jaxreg.training", "jaxreg.torch_weights"])
def test_light_import(module):
    code = f"import sys, {module}; print(*{{m.split('.')[0] for m in sys.modules}})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(loaded) & set(OPTIONAL)


def test_public_names_load_no_more_than_they_need():
    code = "import sys, jaxreg; names = set(jaxreg.__all__) - {'DeepEnsembleRegressor'}; "
    code += "[getattr(jaxreg, name) for name in names]"
    code += "; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "jax" in loaded and not {"scipy.optimize", "sklearn", "pandas", "torch"} & set(loaded)


def test_public_names_are_written_twice_alike():
    tree = ast.parse((FOLDER / "__init__.py").read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {line.names[0].asname: line.module for line in checked.body}
    assert homes == jaxreg.HOME_OF and set(jaxreg.__all__) <= set(dir(jaxreg))
    assert all(getattr(jaxreg, name).__name__ == name for name in jaxreg.__all__)
    with pytest.raises(AttributeError, match="module 'jaxreg' has no attribute 'prophet'"):
        _ = jaxreg.prophet


MOVED = """checkpoints.Checkpoint embeddings.PeriodicEmbedding ensemble.fit_ensemble ensemble.predict_ensemble
export.save fitted.Fitted gaussian.Gaussian gaussian.Affine losses.scaled_nll model_file.load models.predict
models.ACTIVATIONS optimizers.sgd prediction.predict_ensemble sources.from_files sources.Files
torch_weights.to_state_dict calibration.SplitConformal data.sinusoid metrics.crps tables.read
estimator.DeepEnsembleRegressor training.fit hosts.start plots.band cli.main""".split()


@pytest.mark.parametrize("name", MOVED)
def test_names_that_people_import_stay(name):
    module, _, what = name.partition(".")
    found = {}
    exec(
        f"from jaxreg.{module} import {what}\nfrom jaxreg import {module}\nimport jaxreg.{module} as m", found
    )
    assert found[what] is getattr(found[module], what) is getattr(found["m"], what)
    with pytest.raises(ImportError):
        exec(f"from jaxreg.{module} import nothing_of_the_kind")


def test_rich_comes_with_flax_alone():
    code = "import sys, flax.linen, optax, jaxtyping; before = set(sys.modules); import jaxreg; "
    code += "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "rich" not in loaded
