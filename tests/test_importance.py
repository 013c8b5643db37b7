"""Importance of columns and dependence on them, against scikit-learn and closed forms."""

import matplotlib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import BaseEstimator
from sklearn.inspection import permutation_importance

from jaxreg import DeepEnsembleRegressor, Gaussian, importance, metrics, plots

SMALL = {"members": 2, "hidden": (32,), "frequencies": 2, "epochs": 60, "frequency_scale": 0.25, "noise": 1}


def predict(rows):
    """Mean x0 + 2 x1, log variance x2."""
    x = np.asarray(rows, np.float64)
    return Gaussian(x[:, 0] + 2 * x[:, 1], x[:, 2])


class Estimator(BaseEstimator):
    def fit(self, x, y):
        return self


def test_importance_is_scikit_learns(x64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    y = np.asarray(predict(x).mean) + np.exp(0.5 * x[:, 2]) * rng.normal(size=200)

    def score(_, rows, y):
        return -metrics.crps(predict(rows), y)

    def of_std(_, rows, y):
        return -np.abs(np.log(predict(rows).std) - np.log(predict(x).std)).mean()

    found = importance.permutation(predict, x, y, repeats=3, seed=5)
    for name, scoring in (("crps", score), ("std", of_std)):
        expected = permutation_importance(Estimator(), x, y, scoring=scoring, n_repeats=3, random_state=5)
        np.testing.assert_allclose(getattr(found, name), expected.importances_mean, rtol=1e-12, atol=1e-14)
        spread = getattr(found, f"{name}_spread")
        np.testing.assert_allclose(spread, expected.importances_std, rtol=1e-9, atol=1e-14)
    assert found.names == ("0", "1", "2", "3") and found.crps[3] == found.std[3] == 0
    assert plots.strongest(found) == ["1", "0", "2", "3"] and plots.strongest(found, "std", 1) == ["2"]


def test_dependence_is_the_mean_over_the_other_columns(x64):
    x = np.random.default_rng(0).normal(size=(300, 3))
    found = importance.dependence(predict, x, "1", level=0.5, points=7)
    others = x[:, 0].mean()
    np.testing.assert_allclose(found.mean, others + 2 * found.values, rtol=1e-10)
    half = 0.6744897501960817 * np.exp(0.5 * x[:, 2]).mean()
    np.testing.assert_allclose(found.upper - found.mean, half, rtol=1e-6)
    np.testing.assert_allclose(found.mean - found.lower, half, rtol=1e-6)
    assert (np.diff(found.values) > 0).all() and set(found.values) <= set(x[:, 1])


def table(n=900, seed=0):
    """One column moves the mean, one the noise, one nothing."""
    rng = np.random.default_rng(seed)
    day = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, n), "D")
    frame = pd.DataFrame(
        {"day": day, "town": rng.choice(["Bonn", "Oslo", "Rome"], n), "code": rng.normal(size=n)}
    )
    frame.loc[::50, "code"] = None
    std = frame["town"].map({"Bonn": 0.1, "Oslo": 0.5, "Rome": 2.0})
    return frame, np.asarray((day - day[0]).days / 100 + std * rng.normal(size=n))


@pytest.fixture(scope="module")
def fitted():
    return DeepEnsembleRegressor(**SMALL, random_state=0).fit(*table())


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.from_pandas])
def test_what_moves_the_mean_and_what_the_noise_are_found(fitted, kind):
    x, y = table(400, seed=1)
    model = fitted if kind is pd.DataFrame else fitted.fitted_
    predict = model.predict_dist if kind is pd.DataFrame else model.predict
    found = importance.permutation(predict, kind(x), y)
    day, town, code = found.crps
    assert day > 5 * abs(code) and town > 5 * abs(code) and day > town
    day, town, code = found.std
    assert town > 3 * day and town > 3 * code
    towns = importance.dependence(predict, kind(x), "town")
    width = dict(zip(towns.values, towns.upper - towns.lower, strict=True))
    assert width["Bonn"] < width["Oslo"] < width["Rome"]
    days = importance.dependence(predict, kind(x), "day", points=5)
    assert days.values.dtype.kind == "M" and (np.diff(days.mean) > 0).all()
    for axes in (plots.importance(found), plots.importance(found, of="std", title="std")):
        assert [label.get_text() for label in axes.get_yticklabels()] != []
        matplotlib.pyplot.close(axes.figure)
    for each in (towns, days):
        matplotlib.pyplot.close(plots.dependence(each, title="of one").figure)


def test_what_is_refused():
    x = np.zeros((30, 3))
    calls = {
        "no column 'a', there is": lambda: importance.dependence(predict, x, "a"),
        "holds no values": lambda: importance.dependence(predict, x * np.nan, "0"),
        "repeats must be at least 1": lambda: importance.permutation(predict, x, x[:, 0], repeats=0),
        "expected|shape": lambda: importance.permutation(predict, x, x[:9, 0]),
        "one output": lambda: importance.dependence(lambda rows: Gaussian(x, x), x, "0"),
        "'crps' or 'std', got 'rmse'": lambda: plots.importance(
            importance.permutation(predict, x, x[:, 0]), of="rmse"
        ),
    }
    for words, call in calls.items():
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize("name", ["count", "^b.*$", "rows"])
def test_columns_of_any_name(name):
    x = pd.DataFrame({name: ["a", "b"] * 10, "b2": np.arange(20.0)})
    found = importance.dependence(lambda rows: Gaussian(np.zeros(len(rows)), np.zeros(len(rows))), x, name)
    assert sorted(found.values) == ["a", "b"]
