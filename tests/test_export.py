"""An export predicts what the fitted model does, with JAX alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
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
)
from jaxreg.calibration.scaling import NoiseScaling, VarianceScaling
from jaxreg.columns.times import Time
from jaxreg.model import export

SERVE = Path(__file__).parents[1] / "examples" / "serve.py"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)) * [1.0, 1e3, 1e-30] + [0, 1e6, 0]


def made(model, members=None, calibration=None, outputs=()):
    keys = jax.random.split(jax.random.key(0), members or 1)
    params = jax.vmap(model.init, (0, None))(keys, X.astype(np.float32))
    params = params if members else jax.tree.map(lambda leaf: leaf[0], params)
    scaler = Scaler.fit(X)
    y = Scaler.fit(1e6 + 20 * RNG.normal(size=(40, *outputs)))
    constant = scaler._replace(scale=np.array([scaler.scale[0], scaler.scale[1], np.inf]))
    return Fitted(model, params, constant, y, members=members, calibration=calibration)


KINDS = {
    "one network": lambda: made(MeanVarRegressor(hidden=(8, 8))),
    "one shared variance": lambda: made(MeanOnlyRegressor(hidden=(8,)), calibration=VarianceScaling(2.0)),
    "the estimator's": lambda: made(
        MeanVarRegressor(hidden=(128, 128), embedding=PeriodicEmbedding(4)), 3, NoiseScaling(1.7)
    ),
    "mixtures of two outputs": lambda: made(
        MixtureRegressor(components=3, hidden=(8,), outputs=2), 2, NoiseScaling(0.7), (2,)
    ),
    "a family": lambda: made(FamilyRegressor(family="Laplace", hidden=(8,)), 2, NoiseScaling(0.7)),
    "two outputs": lambda: made(
        MeanVarRegressor(hidden=(8,), outputs=2), 2, NoiseScaling(np.array([0.5, 2.0])), (2,)
    ),
}


SLOW = "one shared variance", "mixtures of two outputs", "a family", "two outputs"


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in KINDS],
)
def test_an_export_predicts_what_the_model_does(tmp_path, kind):
    fitted = KINDS[kind]()
    export.save(tmp_path / "m", fitted)
    function = export.load(tmp_path / "m")
    for n, level in ((1, 0.5), (7, 0.95), (40, 0.99)):
        own = fitted.predict(X[:n])
        with jax.enable_x64(True):
            got = [np.asarray(values) for values in function(X[:n], level)]
        for a, b in zip(got, (own.mean, own.std, *own.interval(level)), strict=True):
            assert a.shape == b.shape and a.dtype == np.float64
            # Ends that are roots, in float32: two programs stop a few units of the last place apart.
            assert np.max(np.abs(a - b) / own.std) < (1e-5 if kind == "a family" else 1e-6)


@pytest.mark.parametrize("kind", ["one network", "two outputs"])
def test_a_row_with_a_value_that_is_none_has_no_prediction(tmp_path, kind):
    export.save(tmp_path / "m", KINDS[kind]())
    x = X[:3].copy()
    x[0, 1], x[2, 0] = np.nan, np.inf
    with jax.enable_x64(True):
        for values in export.load(tmp_path / "m")(x, 0.9):
            finite = np.isfinite(np.asarray(values)).reshape(3, -1)
            assert not finite[[0, 2]].any() and finite[1].all()


def test_a_change_anywhere_is_found(tmp_path):
    export.save(tmp_path / "m", KINDS["one network"]())
    whole = (tmp_path / "m").read_bytes()
    for offset in (*range(80), *range(80, len(whole), 997), len(whole) - 1):
        for content in (whole[:offset], whole[:offset] + bytes([whole[offset] ^ 4]) + whole[offset + 1 :]):
            (tmp_path / "m").write_bytes(content)
            with pytest.raises(ValueError, match=f"{tmp_path / 'm'} is (damaged|no export)"):
                export.load(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="there is no export"):
        export.load(tmp_path / "none")
    with pytest.raises(ValueError, match="is a folder"):
        export.save(tmp_path, KINDS["one network"]())


# Runs a program where nothing but JAX and what it needs can be imported.
ALONE = """
import runpy, sys
from importlib.metadata import packages_distributions
kept = {"jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum", "flatbuffers"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in others:
            raise ModuleNotFoundError(f"no {name} here")
others = set(packages_distributions()) - kept
assert "flax" in others
others.add("jaxreg")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def serve(request):
    """Runs the example; `.ci/run` gives an environment that was made for it."""
    bare = request.config.getoption("--bare-python")
    python = [sys.executable, "-c", ALONE] if bare is None else [bare]

    def run(*arguments):
        command = [*python, str(SERVE), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ)

    return run


def learned_columns():
    """Columns of all kinds with a network, and rows with values that no training row had."""
    days = pd.date_range("1999-12-30 06:00", periods=70, freq="37h10min").to_series(index=range(70))
    frame = pd.DataFrame(
        {
            "area": np.where(np.arange(70) % 7, np.exp(RNG.normal(size=70)), np.nan),
            "size": pd.Categorical(np.resize(["S", "M", "L", "M"], 70), ["S", "M", "L"], ordered=True),
            "same": 1,
            "street": [f"street {i % 14}" for i in range(70)],
            "sold": days.where(days > days[3]),
            "city": np.resize(["Rome", "Oslo", None], 70),
            "truth": np.arange(70) % 4 == 0,
        }
    )
    columns = Columns.fit(frame)
    network = MeanVarRegressor(hidden=(8,), embedding=columns.embedding(PeriodicEmbedding(4)))
    inputs = columns.transform(frame).astype(np.float32)
    params = jax.vmap(network.init, (0, None))(jax.random.split(jax.random.key(0), 2), inputs)
    y = Scaler(np.asarray(10.0), np.asarray(3.0))
    fitted = Fitted(network, params, columns, y, columns.names, ("y",), members=2)
    odd = frame[:4].assign(city=["Bonn", "Rome", None, ""], street="elsewhere", area=[1e12, np.nan, 2, -9999])
    return fitted, pd.concat([frame, odd.assign(sold=pd.to_datetime("2096-02-29 23:59"))], ignore_index=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("default:columns")
def test_learned_columns_are_exported_and_served(serve, tmp_path):
    fitted, frame = learned_columns()
    export.save(tmp_path / "m", fitted)
    described = export.read_header(tmp_path / "m")
    assert [column["name"] for column in described["inputs"]] == [*frame.columns.drop("same")]
    assert described["inputs"][1]["order"] == ["S", "M", "L"] and described["targets"] == ["y"]
    assert described["inputs"][4]["levels"] == ["Rome", "Oslo"] and "levels" not in described["inputs"][0]
    frame[[*reversed(frame.columns)]].to_csv(tmp_path / "rows.csv", index=False)
    done = serve(tmp_path / "m", tmp_path / "rows.csv")
    assert done.returncode == 0, done.stderr
    got = np.array([line.split(",") for line in done.stdout.splitlines()[1:]], float)
    own = fitted.predict(frame)
    expected = np.stack([own.mean, own.std, *own.interval(0.95)], 1)
    assert np.max(np.abs(got - expected) / own.std[:, None]) < 2e-6
    codes = np.stack(
        [np.full(3, np.nan), [0.0, np.inf, 7], [1.0, 99, -1], [0.0] * 3, [0.0] * 3, [1.0] * 3], 1
    )
    with jax.enable_x64(True):
        mean = np.asarray(export.load(tmp_path / "m")(codes, 0.9)[0])
    assert np.isfinite(mean).tolist() == [True, False, True]


@pytest.mark.filterwarnings("default:columns")
def test_days_of_any_year_are_where_the_calendar_has_them():
    days = pl.datetime_range(pl.datetime(1795, 1, 1), pl.datetime(2105, 1, 1), "31h", eager=True)
    time = Time.fit("day", days)
    found = time.encoded(time.codes(days)).flags
    turns = ((days.dt.ordinal_day() - 1) + days.dt.hour() / 24) / 365.2425, (days.dt.weekday() - 1) / 7
    expected = [part(2 * np.pi * turn.to_numpy()) for turn in turns for part in (np.sin, np.cos)]
    np.testing.assert_allclose(found[:, :4], np.stack(expected, 1), atol=1e-9)


def test_the_example_serves_with_jax_alone(serve, tmp_path):
    fitted = KINDS["the estimator's"]()
    export.save(tmp_path / "m", fitted)
    np.savetxt(tmp_path / "rows.csv", X[:5], delimiter=",", header="a,b,c", comments="")
    done = serve(tmp_path / "m", tmp_path / "rows.csv")
    assert done.returncode == 0, done.stderr
    own = fitted.predict(X[:5])
    got = np.array([line.split(",") for line in done.stdout.splitlines()[1:]], float)
    expected = np.stack([own.mean, own.std, *own.interval(0.95)], 1)
    assert np.max(np.abs(got - expected) / own.std[:, None]) < 1e-6
    content = bytearray((tmp_path / "m").read_bytes())
    content[-1] ^= 1
    (tmp_path / "m").write_bytes(content)
    done = serve(tmp_path / "m", tmp_path / "rows.csv")
    assert done.returncode == 1 and re.fullmatch(r".* is damaged\n", done.stderr)
