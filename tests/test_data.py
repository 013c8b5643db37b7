import datetime
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.stats

from jaxreg import Scaler, data
from jaxreg.data.border import check_data, check_features, check_trainable
from jaxreg.estimator import DeepEnsembleRegressor


def test_sinusoid_is_the_notebooks():
    x, y = (np.asarray(a, np.float64) for a in data.sinusoid(jax.random.key(0), 50_000))
    assert x.shape == (50_000, 1) and y.shape == (50_000,)
    assert scipy.stats.kstest(x[:, 0], scipy.stats.uniform(-3, 6).cdf).pvalue > 1e-3
    z = (y - np.sin(1.3 * x[:, 0])) / (0.15 + 0.25 * np.abs(x[:, 0]))
    assert scipy.stats.kstest(z, scipy.stats.norm.cdf).pvalue > 1e-3


def test_grid():
    np.testing.assert_allclose(data.grid([[2.0], [0.0], [1.0]], n=5, margin=0.5)[:, 0], [-1, 0, 1, 2, 3])
    assert data.grid(np.zeros((3, 1)) + [[1.0]]).shape == (400, 1)
    with pytest.raises(ValueError, match="x has 2"):
        data.grid(np.zeros((3, 2)))


@pytest.mark.parametrize("n", [1, 2, 3, 255, 256, 257, 5000, 70_000])
def test_batch_order_is_a_permutation(n):
    order = data.batch_order(jax.random.key(0), 3, n)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    assert order.dtype == jnp.int32
    again = jax.jit(data.batch_order, static_argnums=2)(jax.random.key(0), 3, n)
    np.testing.assert_array_equal(order, again)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(order, data.batch_order(jax.random.key(0), 3, n))
    if n > 3:
        assert (order != data.batch_order(jax.random.key(0), 4, n)).any()
        assert (order != data.batch_order(jax.random.key(1), 3, n)).any()


@pytest.mark.parametrize("n", [4, 5])
def test_every_order_is_as_likely(n):
    orders = jax.vmap(lambda epoch: data.batch_order(jax.random.key(0), epoch, n))(jnp.arange(24_000))
    _, counts = np.unique(np.asarray(orders), axis=0, return_counts=True)
    assert len(counts) == np.prod(np.arange(1, n + 1))
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_rows_stand_anywhere_and_beside_any_other():
    # Two rounds of sorting: positions and neighbours of 5,000 rows over 400 epochs.
    n, epochs = 5000, 400
    orders = np.asarray(jax.vmap(lambda e: data.batch_order(jax.random.key(1), e, n))(jnp.arange(epochs)))
    where = np.argsort(orders, axis=1)
    for row in (0, 1, n // 2, n - 1):
        assert scipy.stats.kstest(where[:, row] / n, scipy.stats.uniform.cdf).pvalue > 1e-3
    after = np.diff(orders.astype(np.int64), axis=1)
    rises = (after > 0).mean()
    assert abs(rises - 0.5) < 4 * 0.3 / np.sqrt(after.size)  # the std of a rise count is sqrt(n / 12)
    next_row = (after == 1).mean() * n
    assert abs(next_row - 1) < 4 / np.sqrt(after.size / n)


FRAMES = {
    "list": lambda a: a.tolist(),
    "float32": lambda a: a.astype(np.float32),
    "float16": lambda a: a.astype(np.float16),
    "int8": lambda a: a.astype(np.int8),
    "bool": lambda a: a > 2,
    "object": lambda a: a.astype(object),
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "jax": jnp.asarray,
    "pandas": lambda a: pd.DataFrame(a, columns=["a", "b"]),
    "pandas nullable": lambda a: pd.DataFrame(a, columns=["a", "b"]).astype("Int64"),
    "polars": lambda a: pl.DataFrame(a, schema=["a", "b"]),
    "masked": np.ma.masked_array,
}


@pytest.mark.parametrize("kind", FRAMES)
def test_array_likes(kind):
    values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    given = FRAMES[kind](values)
    checked = check_features(given)
    assert checked.dtype == np.float32 and checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, values > 2 if kind == "bool" else values)
    with jax.enable_x64(True):
        assert check_features(given).dtype == (np.float32 if kind in ("float32", "jax") else np.float64)


@pytest.mark.parametrize(
    "x,message",
    [
        (np.zeros(3), r"x must have shape \(rows, features\), got \(3,\).*x\[:, None\]"),
        (np.zeros((2, 3, 4)), r"got \(2, 3, 4\)"),
        (np.zeros((0, 3)), "x has no rows"),
        (np.zeros((3, 0)), "x has no columns"),
        (
            [[1.0, np.nan], [np.inf, np.nan]],
            "infinite values in x, column 0: 1, column 1: 2 of 2 rows",
        ),
        ([[1e39, 1.0]], "too large for float32 values in x, column 0: 1 of 1 rows; standardise"),
        ([["a", "b"]], "x holds .*real numbers are needed"),
        ([[1.0, "b"]], "real numbers are needed|numbers are needed"),
        ([[1.0], [1.0, 2.0]], "rows of different lengths"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.array([["2020-01-01"]], "datetime64[D]"), "datetime64"),
        (pd.DataFrame({"a": [1.0, 2.0], "city": ["Oslo", "Rome"]}), "column 'city' holds"),
        (pl.DataFrame({"a": [1.0, None], "b": [1, 2]}), "column 'a': 1 of 2 rows"),
        (pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}), "column 'a': 1 of 2 rows"),
        (pd.DataFrame(np.zeros((2, 2)), columns=["a", "a"]), "more than one column named 'a'"),
        (np.ma.masked_array([[1.0, 2.0]], mask=[[False, True]]), "column 1: 1"),
        (None, r"x must have shape .*got \(\)"),
    ],
)
def test_unusable_features_are_named(x, message):
    with pytest.raises(ValueError, match=message):
        check_features(x)


@pytest.mark.parametrize(
    "rows,message",
    [
        ((np.zeros((3, 1)), np.zeros(4)), "x has 3 rows and y has 4"),
        ((np.zeros((3, 1)), [1.0, np.nan, 2.0]), "missing or infinite values in y: 1 of 3 rows"),
        ((np.zeros((3, 1)), ["a", "b", "c"]), "y holds"),
        ((np.zeros((3, 1)), np.zeros((3, 1, 1))), r"y must have shape .*got \(3, 1, 1\)"),
        ((np.zeros((3, 1)),), r"data must be \(x, y\) or \(x, y, weight\), got a tuple of 1"),
        (np.zeros((3, 1)), r"got a ndarray of shape \(3, 1\)"),
        ((np.zeros((3, 1)), np.zeros(3), [1.0, -1.0, 0.0]), "weight has 1 negative values"),
        ((np.zeros((3, 1)), np.zeros(3), [0.0, 0.0, 0.0]), "weight is zero everywhere"),
        ((np.zeros((3, 1)), np.zeros(3), np.ones((3, 1))), r"weight has shape \(3, 1\), expected \(3,\)"),
        ((np.zeros((3, 1)), np.zeros(3), [1.0, np.nan, 1.0]), "missing or infinite values in weight"),
    ],
)
def test_unusable_data_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        check_data(rows)


def test_absent_targets_may_hold_anything():
    x, y, weight = check_data(
        (np.ones((3, 1)), [[1.0, np.nan], [np.inf, 2.0], [3.0, 4.0]], [[1, 0], [0, 1], [1, 1]])
    )
    np.testing.assert_array_equal(y, [[1, 0], [0, 2], [3, 4]])
    assert x.dtype == y.dtype == weight.dtype


@pytest.mark.parametrize(
    "rows,message",
    [
        (([[1.0]], [1.0]), "1 row is too few"),
        (([[1.0], [2.0]], [5.0, 5.0]), "the target y has one value, 5,"),
        (([[1.0], [2.0]], [[1.0, 5.0], [2.0, 5.0]]), "the target y, column 1, has one value"),
        (([[1.0], [2.0], [3.0]], [1.0, 5.0, 5.0], [0.0, 1.0, 1.0]), "has one value, 5,"),
    ],
)
def test_targets_without_variance(rows, message):
    with pytest.raises(ValueError, match=message):
        check_trainable(check_data(rows))


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e9, 1e30, 1e200])
def test_scaler_at_any_size(size):
    x = np.random.default_rng(0).normal(3, 2, (500, 2)) * size
    scaler = Scaler.fit(x)
    z = scaler.transform(x)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(z.std(0), 1, rtol=1e-12)
    np.testing.assert_allclose(scaler.inverse(z), x, rtol=1e-12)


def test_scaler_keeps_small_spreads_on_large_values():
    y = 1.7e9 + np.random.default_rng(0).normal(size=1000)
    z = Scaler.fit(y).transform(y)
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=1e-6)


def test_constant_columns_are_warned_of_by_name():
    with pytest.warns(UserWarning, match="constant column 'b'"):
        scaler = Scaler.fit([[1.0, 7.0], [2.0, 7.0]], names=["a", "b"])
    np.testing.assert_array_equal(scaler.transform([[1.0, 7.0]])[:, 1], [0.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Scaler.fit([[1.0], [2.0]])


@pytest.mark.parametrize("n, members, folds", [(10, 5, 5), (23, 10, 4), (7, 3, 7), (8, 1, 2)])
def test_folds_leave_each_row_out_once_a_turn(n, members, folds):
    rows, held_out = data.fold_rows(jax.random.key(0), n, members, folds)
    assert rows.shape == (members, n - n // folds) and held_out.shape == (members, n // folds)
    for own, left in zip(rows, held_out, strict=True):
        np.testing.assert_array_equal(np.sort(np.concatenate([own, left])), np.arange(n))
    for turn in range(0, members, folds):
        drawn = held_out[turn : turn + folds].ravel()
        assert len(set(drawn.tolist())) == drawn.size
    more = data.fold_rows(jax.random.key(0), n, members + 2, folds)
    np.testing.assert_array_equal(more[1][:members], held_out)
    other = data.fold_rows(jax.random.key(1), n, members, folds)
    assert not np.array_equal(other[1], held_out)


@pytest.mark.parametrize("folds", [1, 0, 11])
def test_folds_that_cannot_be(folds):
    with pytest.raises(ValueError, match=f"folds must be from 2 to the 10 rows, got {folds}"):
        data.fold_rows(jax.random.key(0), 10, 3, folds)


def test_a_scaler_of_weighted_rows_is_that_of_repeated_ones():
    rng = np.random.default_rng(0)
    values, weight = rng.normal(5, 3, (30, 2)), rng.integers(0, 4, 30)
    values[weight == 0] = np.nan
    weighted, repeated = Scaler.fit(values, weight=weight), Scaler.fit(np.repeat(values, weight, axis=0))
    for ours, theirs in zip(weighted, repeated, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    by_value = Scaler.fit(values, weight=np.stack([weight, weight > 0], axis=1))
    np.testing.assert_allclose(by_value.loc, [repeated.loc[0], values[weight > 0, 1].mean()], rtol=1e-12)


@pytest.mark.parametrize("take", [data.check_features, lambda x: DeepEnsembleRegressor().fit(x, [1.0] * 9)])
def test_frames_that_have_to_be_asked_for(take):
    frame = pl.DataFrame({"a": np.arange(9.0)})
    with pytest.raises(TypeError, match="LazyFrame has no rows yet: pass its collect()"):
        take(frame.lazy())
    with pytest.raises(TypeError, match="pyarrow Table is no data frame: pass its to_pandas()"):
        take(frame.to_arrow())


def made(kind, n=400, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "normal": rng.normal(size=n),
        "far from 0": rng.normal(5000, 2000, n),
        "shares": rng.uniform(0, 100, n),
        "log-normal": np.exp(rng.uniform(0.1, 1.5) * rng.normal(size=n)),
        "t(3)": rng.standard_t(3, n),
        "counts": rng.poisson(rng.choice([0.02, 0.5, 3, 50]), n).astype(float),
        "one-hot": (rng.uniform(size=n) < rng.choice([0.01, 0.3])).astype(float),
    }[kind]


PLANTS = {
    "a code in 5 %": (-9999.0, 20),
    "a typo": (1e12, 1),
    "another typo": (-1e7, 1),
    "a large target": (1e6, 1),
}


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("kind", ["normal", "far from 0", "shares", "log-normal", "counts"])
def test_values_far_outside_are_found(kind, plant):
    value, times = PLANTS[plant]
    column = made(kind)
    column[7 : 7 + times] = value
    assert data.far_outside(column) == [(value, times)]
    with pytest.warns(
        UserWarning, match=rf"^age holds {re.escape(f'{value:g}')} in {times} of 400 rows, far outside"
    ):
        data.warn_of_far([made(kind, seed=1), column], ["other", "age"])


@pytest.mark.parametrize("kind", ["log-normal", "t(3)", "counts", "one-hot"])
def test_nothing_lies_far_outside_a_distribution(kind):
    sizes = np.random.default_rng(0).choice([12, 30, 100, 1000, 20_000], 50)
    assert [data.far_outside(made(kind, n, seed)) for seed, n in enumerate(sizes)] == [[]] * 50


@pytest.mark.parametrize("kind", ["normal", "shares", "counts"])
def test_values_far_outside_at_both_ends(kind):
    column = made(kind)
    column[:4] = 1e12, -1e12, 1e6, -1e7
    assert sorted(data.far_outside(column)) == [(-1e12, 1), (-1e7, 1), (1e6, 1), (1e12, 1)]


@pytest.mark.parametrize("code, times", [(-9999.0, 160), (1e6, 120), (-1e30, 80), (-999.0, 1)])
def test_codes_for_missing_values_in_many_rows(code, times):
    for kind in ("normal", "shares"):
        column = made(kind)
        column[:times] = code
        assert data.far_outside(column) == [(code, times)]


def test_a_negative_code_among_prices():
    column = np.random.default_rng(0).lognormal(12, 1, 400)
    column[:20] = -9999
    assert data.far_outside(column) == [(-9999.0, 20)]


def test_several_values_far_outside():
    column = np.r_[made("normal"), 1e12, 1e12, -9999.0, np.nan]
    assert sorted(data.far_outside(column)) == [(-9999.0, 1), (1e12, 2)]


DAY = "2020-01-01"
COLUMNS = {
    "text": (["Rome"] * 2 + [None], "text in column 'c' (2 of 3 rows, such as 'Rome')"),
    "NumPy's dates": (np.array([DAY] * 3, "M8[D]"), f"dates in column 'c' (3 of 3 rows, such as {DAY}"),
    "pandas' dates": (pd.to_datetime([DAY, DAY, None]), "dates in column 'c' (3 of 3 rows"),
    "zones": (pd.to_datetime([DAY] * 3).tz_localize("Europe/Rome"), "dates in column 'c' (3 of 3 rows"),
    "durations": (pd.to_timedelta([1, 2, 3], "s"), "dates in column 'c' (3 of 3 rows"),
    "periods": (pd.period_range("2020", periods=3, freq="M"), "dates in column 'c' (3 of 3 rows"),
    "Python's dates": ([datetime.date(2020, 1, 1)] * 3, "dates in column 'c' (3 of 3 rows, such as 2020"),
    "categories": (pd.Categorical([1, 2, 1]), "categories in column 'c' (3 of 3 rows, such as 1)"),
    "NA": (pd.array([1, None, 3], "Int64"), "NaN in column 'c' (1 of 3 rows)"),
    "gaps": ([1.0, np.nan, np.nan], "NaN in column 'c' (2 of 3 rows)"),
    "one text": (["1", "oops", "3"], "text in column 'c' (1 of 3 rows, such as 'oops')"),
    "None": ([1.0, None, 3.0], "NaN in column 'c' (1 of 3 rows)"),
    "infinite": ([1.0, np.inf, 2.0], "infinity or a value too large for float64 in column 'c' (1 of 3 rows)"),
}


@pytest.mark.parametrize("what", COLUMNS)
def test_columns_that_are_no_numbers_are_named_all_at_once(what):
    values, words = COLUMNS[what]
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "c": values, "z": ["x", "y", "z"]})
    with pytest.raises(ValueError, match=re.escape(f"X contains {words}") + ".*text in column 'z' .3 of 3"):
        data.check_numbers(frame, "X")
    data.check_numbers(frame[["a"]], "X")


@pytest.mark.parametrize(
    "series",
    [
        pl.Series([datetime.date(2020, 1, 1)]),
        pl.Series([datetime.datetime(2020, 1, 1)]),
        pl.Series([datetime.timedelta(1)]),
        pl.Series(["x"], dtype=pl.Categorical),
        pl.Series([None], dtype=pl.Float64),
    ],
)
def test_columns_of_polars_that_are_no_numbers(series):
    with pytest.raises(ValueError, match="X contains (dates|categories|NaN) in column 'c'"):
        data.check_numbers(pl.DataFrame({"a": [1.0], "c": series}), "X")


def test_numbers_of_any_library_as_floats():
    frame = pd.DataFrame(
        {
            "a": pd.array([1, None], "Int64"),
            "b": pd.array([1.5, None], "Float64"),
            "c": pd.array([2, None], "int64[pyarrow]"),
        }
    )
    np.testing.assert_array_equal(data.as_floats(frame), [[1, 1.5, 2], [np.nan] * 3])
    nulls = pl.DataFrame({"a": [1, None]})
    np.testing.assert_array_equal(data.as_floats(nulls), [[1], [np.nan]])


@pytest.mark.parametrize("what", ["x", "y"])
def test_values_that_float32_takes_for_one_are_refused(what):
    seconds = 1.7e9 + np.arange(600.0)
    other = np.random.default_rng(0).normal(size=600)
    x, y = (np.column_stack([other, seconds]), other) if what == "x" else (other[:, None], seconds)
    words = "600 different values, and .* in float32: standardise it first"
    with pytest.raises(ValueError, match=rf"^{what}(, column 1,)? has {words}"):
        data.check_data((x, y))
    with jax.enable_x64(True):
        data.check_data((x, y))
    if what == "x":
        shares = np.random.default_rng(0).dirichlet(np.ones(3), 600).sum(axis=1)  # 1, as float64 rounds it
        assert len(set(shares)) > 1 and data.check_data((np.column_stack([other, shares]), y))
        with pytest.raises(ValueError, match="^x, column 'at', has"):
            data.check_data((pd.DataFrame({"z": other, "at": seconds}), y))
        data.check_data((np.column_stack([other, 1.7e9 + 86400 * np.arange(600)]), y))
        data.check_data((np.column_stack([other, 3 + 0 * other]), y))


@pytest.mark.parametrize("unit", [1e-300, 1e-38, 7.0, 1e300])
def test_weights_have_no_unit(unit):
    x, y, weight = np.arange(4.0)[:, None], np.arange(4.0), np.array([1.0, 0.0, 2.0, 3.0])
    expected, found = (data.check_data((x, y, weight * by))[2] for by in (1, unit))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(expected, [0.5, 0, 1, 1.5])


def test_orders_of_other_epochs_compile_nothing(caplog):
    key, compiled = jax.random.key(0), "Finished XLA compilation of jit(_batch_order)"
    with jax.log_compiles():
        data.batch_order(key, 0, 57)
        assert compiled in caplog.text
        caplog.clear()
        for epoch in range(1, 5):
            data.batch_order(key, epoch, 57)
    assert compiled not in caplog.text
