import numpy as np
import pandas as pd
import pytest
from skpro.utils.estimator_checks import check_estimator

from jaxreg.estimator import DeepEnsembleRegressor
from jaxreg.skpro_regressor import DeepEnsembleProbaRegressor

SMALL = {
    "members": 2, "hidden": (8,), "frequency_scale": 0.0, "epochs": 20, "random_state": 0, "noise": 1
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # skpro's own, and of few rows
def test_skpros_checks():
    found = check_estimator(DeepEnsembleProbaRegressor, raise_exceptions=False, verbose=False)
    assert len(found) > 50 and {key for key, value in found.items() if value != "PASSED"} == set()


@pytest.mark.slow
@pytest.mark.parametrize("names", [["price"], ["price", "rent"]])
def test_it_predicts_what_the_estimator_does(names):
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(80, 2)), columns=["a", "b"], index=np.arange(80) + 100)
    y = pd.DataFrame({name: 1e3 * (x["a"] + i * x["b"]) for i, name in enumerate(names, 1)})
    small = SMALL | {"noise": 4 if len(names) == 1 else 1}
    estimator = DeepEnsembleRegressor(**small)
    ours = estimator.fit(x, y if len(names) > 1 else y.iloc[:, 0])
    model = DeepEnsembleProbaRegressor(DeepEnsembleRegressor(**small)).fit(x, y)
    mean, std = (a.reshape(80, -1) for a in ours.predict(x, return_std=True))
    np.testing.assert_array_equal(model.predict(x), mean)
    np.testing.assert_allclose(model.predict_var(x), std**2, rtol=1e-6)
    interval = model.predict_interval(x, coverage=0.8)
    lower, upper = (end.reshape(80, -1) for end in ours.predict_interval(x, 0.8))
    for i, name in enumerate(names):
        np.testing.assert_allclose(interval[name, 0.8, "lower"], lower[:, i], rtol=1e-5, atol=1e-2)
        np.testing.assert_allclose(interval[name, 0.8, "upper"], upper[:, i], rtol=1e-5, atol=1e-2)
    quantiles = model.predict_quantiles(x, alpha=[0.3, 0.6])
    assert quantiles.columns.tolist() == [(name, q) for name in names for q in (0.3, 0.6)]
    assert (quantiles.index == x.index).all()
    dist = model.predict_proba(x)
    np.testing.assert_allclose(dist.mean(), mean, rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(dist.var(), std**2, rtol=1e-4)
    at = dist.cdf(pd.DataFrame(upper, x.index, names))
    np.testing.assert_allclose(at, 0.9, atol=1e-4)


@pytest.mark.slow
def test_frames_of_any_kind():
    x = pd.DataFrame({"city": ["Rome", "Oslo", None, "Rome"] * 15, "a": [np.nan, 1.0, 2.0] * 20})
    y = pd.DataFrame({"price": 3.0 * (x["city"] == "Rome") + 0.01 * np.arange(60)})
    model = DeepEnsembleProbaRegressor(DeepEnsembleRegressor(**SMALL)).fit(x, y)
    assert [type(kind).__name__ for kind in model.estimator_.columns_.kinds] == ["Category", "Number"]
    interval = model.predict_interval(x[:5], coverage=0.9)
    assert interval.shape == (5, 2) and np.isfinite(interval).all(axis=None)
