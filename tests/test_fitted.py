import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest

from jaxreg import Fitted, MeanVarRegressor, Scaler, predict


@pytest.fixture
def fitted():
    x, y = np.array([[0.0, 100.0], [2.0, 300.0], [4.0, 800.0]]), np.array([1e6, 2e6, 4e6])
    model = MeanVarRegressor(hidden=(8,))
    params = model.init(jax.random.key(0), x.astype(np.float32))
    return Fitted(model, params, Scaler.fit(x), Scaler.fit(y), ("a", "b"), ("y",))


ROWS = np.array([[1.0, 500.0], [3.0, 200.0]])


def test_units(fitted):
    got = fitted.predict(ROWS)
    scaled = ((ROWS - fitted.x_scaler.loc) / fitted.x_scaler.scale).astype(np.float32)
    inner = predict(fitted.model, fitted.params, scaled)
    loc, scale = fitted.y_scaler
    np.testing.assert_array_equal(got.mean, loc + scale * np.asarray(inner.mean, np.float64))
    np.testing.assert_array_equal(got.std, scale * np.asarray(inner.std, np.float64))
    assert got.mean.dtype == np.float64


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_columns_are_found_by_name(fitted, frame):
    data = frame({"city": ["Rome", "Oslo"], "b": ROWS[:, 1], "a": ROWS[:, 0]})
    np.testing.assert_array_equal(fitted.predict(data).mean, fitted.predict(ROWS).mean)
    with pytest.raises(ValueError, match=r"lack column 'a', which .* they have columns 'city', 'b'"):
        fitted.predict(data[["city", "b"]])
    with pytest.raises(ValueError, match="lack columns 'a', 'b'"):
        fitted.predict(data[["city"]])


def test_many_columns_are_not_all_listed(fitted):
    with pytest.raises(ValueError, match=r"'c19' and 5 more"):
        fitted.predict(pl.DataFrame({f"c{i}": [1.0] for i in range(25)}))


def test_without_names_columns_are_taken_in_order(fitted):
    nameless = fitted._replace(feature_names=None)
    frame = pd.DataFrame({"p": ROWS[:, 0], "q": ROWS[:, 1]})
    np.testing.assert_array_equal(nameless.predict(frame).mean, fitted.predict(ROWS.tolist()).mean)


def test_bad_rows(fitted):
    with pytest.raises(ValueError, match="x has 3 features, the model was trained on 2"):
        fitted.predict(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="x must have shape"):
        fitted.predict(np.zeros(2))
    with pytest.raises(ValueError, match="column 'b': 1 of 2 rows"):
        fitted.predict(pd.DataFrame({"a": [1.0, 2.0], "b": [np.nan, 1.0]}))


def test_large_features_keep_their_digits(fitted):
    scaler = Scaler(np.array([1.7e9, 0.0]), np.ones(2))
    rows = np.array([[1.7e9 + 1, 0.0], [1.7e9 + 2, 0.0]])
    near = fitted._replace(x_scaler=Scaler(np.zeros(2), np.ones(2))).predict(rows - [1.7e9, 0])
    np.testing.assert_array_equal(fitted._replace(x_scaler=scaler).predict(rows).mean, near.mean)


def test_rows_out_of_all_range_are_predicted_at_its_end(fitted):
    far = fitted.predict([[1e300, 500.0], [-1e300, 500.0]])
    assert np.isfinite(far.mean).all() and np.isfinite(far.std).all()
    at_the_end = fitted.x_scaler.inverse([[1e6, 0.0], [-1e6, 0.0]])
    at_the_end[:, 1] = 500.0
    np.testing.assert_array_equal(far.mean, fitted.predict(at_the_end).mean)
