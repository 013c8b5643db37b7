"""An ONNX graph predicts what the fitted model does, without JAX."""

import json
import subprocess
import sys

import jax
import numpy as np
import onnxruntime
import polars as pl
import pytest

from jaxreg import (
    Columns,
    FamilyRegressor,
    Fitted,
    MeanOnlyRegressor,
    MeanVarRegressor,
    MixtureRegressor,
    PeriodicEmbedding,
    Scaler,
    cli,
)
from jaxreg.calibration.scaling import NoiseScaling, VarianceScaling
from jaxreg.model import model_file, onnx_export

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)) * [1.0, 1e3, 1e-30] + [0, 1e6, 0]
LEVELS = 0.001, 0.05, 0.5, 0.975


def made(model, x_scaler, members=2, *, outputs=(), **more):
    width = len(x_scaler.loc) if isinstance(x_scaler, Scaler) else x_scaler.width
    keys = jax.random.split(jax.random.key(0), members or 1)
    params = jax.vmap(model.init, (0, None))(keys, np.zeros((1, width), np.float32))
    params = params if members else jax.tree.map(lambda leaf: leaf[0], params)
    y = Scaler.fit(1e6 + 20 * RNG.normal(size=(40, *outputs)))
    return Fitted(model, params, x_scaler, y, members=members, **more)


def table(n, seed=0):
    rng = np.random.default_rng(seed)
    frame = {
        "size": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
        "city": rng.choice(["a", "b", "c", ""], n).tolist(),
        "street": rng.choice([f"s{i}" for i in range(30)], n),
        "grade": rng.choice(["low", "mid", "high"], n),
        "day": np.datetime64("2024-01-01") + rng.integers(0, 700, n),
    }
    frame = pl.DataFrame(frame, nan_to_null=True)
    return frame.with_columns(pl.col("grade").cast(pl.Enum(["low", "mid", "high"])))


COLUMNS = Columns.fit(table(300))
SCALER = Scaler.fit(X)
KINDS = {
    "one network": lambda: made(MeanVarRegressor(hidden=(8, 8)), SCALER, None),
    "one shared variance": lambda: made(
        MeanOnlyRegressor(hidden=(8,), activation="tanh"), SCALER, None, calibration=VarianceScaling(2.0)
    ),
    "mixtures of two outputs": lambda: made(
        MixtureRegressor(components=3, hidden=(8,), outputs=2),
        SCALER, outputs=(2,), calibration=NoiseScaling(0.7),
    ),
    "columns": lambda: made(
        MixtureRegressor(components=3, hidden=(16,), embedding=COLUMNS.embedding(PeriodicEmbedding(3))),
        COLUMNS, 3, calibration=NoiseScaling(1.3),
    ),
    "bounds": lambda: made(
        MeanVarRegressor(hidden=(8,), activation="gelu", embedding=COLUMNS.embedding()),
        COLUMNS, bounds=(1e6, np.inf),
    ),
}  # fmt: skip


def feed(session, x):
    """What a graph is given of a table."""
    if isinstance(x, np.ndarray):
        return {"x": x}
    found = {}
    for given in session.get_inputs():
        column = x[given.name]
        if given.type == "tensor(string)":
            found[given.name] = column.cast(pl.String).fill_null("").to_numpy().astype(object)
        elif column.dtype == pl.Date:
            found[given.name] = column.cast(pl.Int32).cast(pl.Float64).to_numpy()
        else:
            found[given.name] = column.fill_null(np.nan).to_numpy()
    return found


def run(path, x):
    session = onnxruntime.InferenceSession(path)
    names = [out.name for out in session.get_outputs()]
    return dict(zip(names, session.run(None, feed(session, x)), strict=True)), session


SLOW = "one network", "one shared variance", "mixtures of two outputs", "bounds"


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in KINDS],
)
@pytest.mark.filterwarnings("ignore:columns with values as no training row")
def test_a_graph_predicts_what_the_model_does(tmp_path, kind):
    fitted = KINDS[kind]()
    onnx_export.save(tmp_path / "m.onnx", fitted, LEVELS)
    for n in (1, 7, 40):
        x = X[:n] if isinstance(fitted.x_scaler, Scaler) else table(n, seed=n)
        if n == 7 and isinstance(x, pl.DataFrame):  # a level that no training row had
            x = x.with_columns(city=pl.lit("z"))
        if n == 40 and isinstance(x, pl.DataFrame):  # and texts that stand for a gap
            x = x.with_columns(city=pl.Series(["None", "#N/A", "a", "?"] * 10))
        found, session = run(tmp_path / "m.onnx", x)
        own = fitted.predict(x)
        for name, expected in {"mean": own.mean, "std": own.std, "quantiles": own.quantile(LEVELS)}.items():
            assert found[name].shape == expected.shape and found[name].dtype == np.float64
            assert np.max(np.abs(found[name] - expected) / own.std) < 1e-4, name
        np.testing.assert_allclose(found["weights"].sum(axis=0), 1, rtol=1e-6)
        if kind != "bounds":
            mean = (found["weights"] * found["means"]).sum(axis=0)
            assert np.max(np.abs(mean - own.mean) / own.std) < 1e-4
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["levels"]) == list(LEVELS)
    if not isinstance(fitted.x_scaler, Scaler):
        assert [own["name"] for own in json.loads(about["inputs"])] == list(COLUMNS.names)


def test_what_cannot_be_taken_is_nan(tmp_path):
    onnx_export.save(tmp_path / "m.onnx", KINDS["one network"]())
    x = X[:3].copy()
    x[1, 2] = np.inf
    found, _ = run(tmp_path / "m.onnx", x)
    assert np.isnan(found["mean"]).tolist() == [False, True, False]
    assert np.isnan(found["quantiles"]).any(axis=0).tolist() == [False, True, False]


@pytest.mark.parametrize("levels", [(), (0.0001,), (0.5, 1.0), (float("nan"),)])
def test_levels_that_cannot_be(tmp_path, levels):
    with pytest.raises(ValueError, match="levels must be numbers from 0.001 to 0.999, got"):
        onnx_export.save(tmp_path / "m.onnx", KINDS["one network"](), levels)
    assert not list(tmp_path.iterdir())


def test_families_are_refused(tmp_path):
    fitted = made(FamilyRegressor(family="Laplace", hidden=(8,)), SCALER)
    with pytest.raises(ValueError, match="networks that predict a Mixture can't be written as ONNX"):
        onnx_export.save(tmp_path / "m.onnx", fitted)
    assert not list(tmp_path.iterdir())


def test_columns_of_any_name(tmp_path):
    rng = np.random.default_rng(0)
    rows = pl.DataFrame(rng.normal(size=(30, 4)), ["v1", "c0", "rows", "row_count"])
    columns = Columns.fit(rows)
    fitted = made(MeanVarRegressor(hidden=(4,), embedding=columns.embedding()), columns)
    onnx_export.save(tmp_path / "m.onnx", fitted)
    found, _ = run(tmp_path / "m.onnx", rows)
    own = fitted.predict(rows)
    assert np.max(np.abs(found["mean"] - own.mean) / own.std) < 1e-4
    columns = Columns.fit(rows.rename({"rows": "std"}))
    fitted = made(MeanVarRegressor(hidden=(4,), embedding=columns.embedding()), columns)
    with pytest.raises(ValueError, match="column 'std': an output of the graph has that name"):
        onnx_export.save(tmp_path / "other.onnx", fitted)
    assert not (tmp_path / "other.onnx").exists()


SERVE = """
import sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
mean, quantiles = session.run(["mean", "quantiles"], {"x": numpy.ones((2, 3))})
assert not {"jax", "jaxreg", "flax"} & set(sys.modules)
print(mean.shape, quantiles.shape)
"""


def test_the_command(tmp_path, monkeypatch, capsys):
    model, out = tmp_path / "m.model", tmp_path / "m.onnx"
    model_file.save(model, KINDS["one network"]())

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jaxreg", "export", str(model), "--out", str(out), *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, capsys.readouterr().err

    for arguments, words in (
        ((), "are for --onnx: give that too"),
        (("--onnx", "--levels", "a,b"), "--levels must be numbers such as 0.05,0.5,0.95, got 'a,b'"),
        (("--onnx", "--levels", "0.5,2"), "levels must be numbers from 0.001 to 0.999, got (0.5, 2.0)"),
    ):
        code, err = call(*arguments)
        assert code == 2 and words in err and not out.exists()
    monkeypatch.setitem(sys.modules, "jaxreg.model.onnx_export", None)
    code, err = call("--onnx")
    assert code == 2 and "pip install 'jaxreg[onnx]'" in err
    monkeypatch.undo()
    assert call("--onnx", "--levels", "0.1,0.9")[0] == 0
    done = subprocess.run([sys.executable, "-c", SERVE, str(out)], capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "(2,) (2, 2)", done.stderr
