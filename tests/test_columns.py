"""Tables as people have them: what each column is taken as, whatever library holds it."""

import datetime
import math
import warnings
import zoneinfo
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxreg import ColumnEmbedding, Columns, MeanVarRegressor, PeriodicEmbedding, adamw, fit, make_trainer
from jaxreg.columns import as_table
from jaxreg.columns.categories import Category, Ordered
from jaxreg.columns.kinds import Nothing
from jaxreg.columns.numbers import FAR, QUARTILES_APART, Number, draw_in
from jaxreg.columns.times import Time

ROWS = 60
RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(3, 2, ROWS).round(3)
CITIES = ["Rome", "Oslo", "Kyiv"] * 20
DAYS = [datetime.datetime(2024, 1, 1) + datetime.timedelta(days=5 * i, hours=i % 24) for i in range(ROWS)]
MONTH_FIRST = [f"{d.month}/{d.day}/{d.year}" for d in DAYS]
STREETS = [f"street {i % 15}" for i in range(90)]
quiet = pytest.mark.filterwarnings("ignore:columns taken otherwise", "ignore:columns with values")


def with_gaps(values, gap=None, every=7):
    return [gap if i % every == 0 else value for i, value in enumerate(values)]


# A column in each library's types, and what it has to be taken as.
CASES = {
    "floats": (pd.Series(NUMBERS), Number),
    "NumPy's NaN": (pd.Series(with_gaps(NUMBERS, math.nan)), Number),
    "pandas' nullable integers": (pd.Series(with_gaps(range(ROWS)), dtype="Int64"), Number),
    "pandas' nullable floats": (pd.Series(with_gaps(NUMBERS), dtype="Float64"), Number),
    "Arrow's integers": (pd.Series(with_gaps(range(ROWS)), dtype="int64[pyarrow]"), Number),
    "Booleans": (pd.Series([True, False, False] * 20), Number),
    "Booleans with gaps": (pd.Series(with_gaps([True, False, False] * 20), dtype="boolean"), Number),
    "decimals": (pd.Series([Decimal("1.5"), Decimal("2.25"), None] * 20), Number),
    "objects that are numbers": (pd.Series(with_gaps(NUMBERS.tolist()), dtype=object), Number),
    "polars' integers": (pl.Series(with_gaps(range(ROWS))), Number),
    "polars' decimals": (pl.Series(with_gaps(list(map(Decimal, range(ROWS))))), Number),
    "polars' durations": (pl.Series([datetime.timedelta(seconds=i) for i in range(ROWS)]), Number),
    "polars' times of the day": (pl.Series([datetime.time(i % 24) for i in range(ROWS)]), Number),
    "pandas' timedeltas": (pd.Series(pd.to_timedelta(np.arange(ROWS), unit="h")), Number),
    "numbers as text": (pd.Series([f" {v} " for v in NUMBERS]), Number),
    "numbers as text, words for gaps": (pd.Series(with_gaps([str(v) for v in NUMBERS], "?")), Number),
    "text": (pd.Series(CITIES), Category),
    "text with gaps": (pd.Series(with_gaps(CITIES)), Category),
    "objects of several kinds": (pd.Series(["a", 1, 2.5] * 20, dtype=object), Category),
    "pandas' categories": (pd.Series(CITIES, dtype="category"), Category),
    "categories that are numbers": (pd.Series([3, 1, 3] * 20, dtype="category"), Category),
    "unused categories": (pd.Series(pd.Categorical(CITIES, [*set(CITIES), "Bonn"])), Category),
    "Arrow's text": (pd.Series(with_gaps(CITIES), dtype="string[pyarrow]"), Category),
    "polars' text": (pl.Series(with_gaps(CITIES)), Category),
    "polars' Categorical": (pl.Series(with_gaps(CITIES), dtype=pl.Categorical), Category),
    "many levels": (pd.Series([f"street {i % 13}" for i in range(ROWS * 2)][: ROWS * 2]), Category),
    "pandas' ordered": (pd.Series(pd.Categorical(CITIES, sorted(set(CITIES)), ordered=True)), Ordered),
    "polars' Enum": (pl.Series(with_gaps(CITIES), dtype=pl.Enum(sorted(set(CITIES)))), Ordered),
    "NumPy's times": (pd.Series(DAYS), Time),
    "times with gaps": (pd.Series(with_gaps(DAYS, pd.NaT)), Time),
    "times in a zone": (pd.Series(DAYS).dt.tz_localize("Europe/Kyiv"), Time),
    "Python's dates": (pd.Series([day.date() for day in DAYS]), Time),
    "polars' dates": (pl.Series([day.date() for day in DAYS]), Time),
    "polars' times in a zone": (pl.Series(DAYS).dt.replace_time_zone("Asia/Tokyo"), Time),
    "ISO 8601": (pd.Series([day.isoformat() for day in DAYS]), Time),
    "ISO dates with gaps": (pd.Series(with_gaps([str(day.date()) for day in DAYS], "NA")), Time),
    "times without marks": (pd.Series([f"{day:%Y%m%dT%H%M%S}" for day in DAYS]), Time),
    "month first": (pd.Series(MONTH_FIRST), Time),
    "day first": (pd.Series([f"{day:%d.%m.%Y}" for day in DAYS]), Time),
    "times that are ambiguous": (pd.Series(["1/2/2024", "3/4/2024"] * 30), Category),
    "text that is there or not": (pd.Series([f"note {i}" if i % 3 else None for i in range(ROWS)]), Category),
    "constant": (pd.Series([7.0] * ROWS), Nothing),
    "empty": (pd.Series([None] * ROWS, dtype=object), Nothing),
    "words for gaps alone": (pd.Series(["?", "NA"] * 30), Nothing),
    "polars' Null": (pl.Series([None] * ROWS), Nothing),
    "names": (pd.Series([f"{i:x} Smith" for i in range(ROWS)]), Nothing),
}


@quiet
@pytest.mark.parametrize("name", CASES)
def test_kinds_of_columns(name):
    column, kind = CASES[name]
    frame = (pl if isinstance(column, pl.Series) else pd).DataFrame(
        {"x": column, "other": range(len(column))}
    )
    columns = Columns.fit(frame)
    found = columns.kinds[0]
    assert type(found) is kind, columns.told()[0]
    inputs = columns.transform(frame)
    assert inputs.shape[1] == columns.width
    assert inputs.dtype == np.float64 and np.isfinite(inputs).all() and len(inputs) == len(column)
    # The same rows come out in another order, as CSV text would bring them, and alone.
    order = np.random.default_rng(1).permutation(len(column))
    shuffled = frame[order.tolist()] if isinstance(frame, pl.DataFrame) else frame.iloc[order]
    np.testing.assert_array_equal(columns.transform(shuffled), inputs[order])
    np.testing.assert_array_equal(columns.transform(shuffled[:1]), inputs[order[:1]])


@quiet
@pytest.mark.parametrize(
    "name", [name for name, (column, _) in CASES.items() if isinstance(column, pd.Series)]
)
def test_pandas_and_polars_agree(name):
    column, _ = CASES[name]
    frame = pd.DataFrame({"x": column, "other": range(len(column))})
    try:
        table = pl.from_pandas(frame)
    except Exception:  # several kinds of objects, which polars has no type for
        return
    if table["x"].dtype == pl.Categorical or hasattr(column, "cat"):
        return  # which loses whether it is ordered
    np.testing.assert_array_equal(Columns.fit(frame).transform(frame), Columns.fit(table).transform(table))


def test_numbers_are_scaled_by_median_and_quartiles():
    x = np.random.default_rng(0).normal(5, 3, 10_001)
    (number,) = Columns.fit(x[:, None]).kinds
    assert number.center == np.median(x)
    assert number.scale == pytest.approx((np.quantile(x, 0.75) - np.quantile(x, 0.25)) / 1.34898, rel=1e-5)
    assert number.scale == pytest.approx(3, rel=0.03)
    mostly_zero = np.r_[np.zeros(90), np.arange(10.0)]
    assert Columns.fit(mostly_zero[:, None]).kinds[0].scale == pytest.approx(mostly_zero.std())


@pytest.mark.parametrize("center,unit", [(0.0, 1.0), (1e300, 1e299), (-5.0, 1e-300), (0.0, 0.0)])
def test_far_values_are_drawn_in_smoothly(center, unit):
    z = np.r_[-np.logspace(8, -3, 300), 0, np.logspace(-3, 8, 300)]
    values = center + z * (unit or 1.0)
    scaled = draw_in(values, center, unit)
    assert np.isfinite(scaled).all() and (np.diff(scaled) >= 0).all()
    if unit == 0:
        assert (scaled == 0).all()  # of a column that was constant
    elif unit == 1.0:
        near = np.abs(z) <= FAR
        np.testing.assert_array_equal(scaled[near], z[near])
        np.testing.assert_allclose(np.abs(scaled[~near]), FAR + np.log1p(np.abs(z[~near]) - FAR))
        step = draw_in(np.array([FAR - 1e-6, FAR, FAR + 1e-6]), 0.0, 1.0)
        np.testing.assert_allclose(np.diff(step), 1e-6, rtol=1e-5)  # no kink
    assert np.abs(draw_in(np.array([1.7e308, -1.7e308]), center, unit)).max() < 2e3


def test_a_mistake_costs_its_own_row_alone():
    x = np.random.default_rng(0).normal(size=(1000, 1))
    wrong = x.copy()
    wrong[17] = 1e12
    (before,), (after,) = Columns.fit(x).transform(x).T, Columns.fit(wrong).transform(wrong).T
    others = np.arange(1000) != 17
    np.testing.assert_allclose(after[others], before[others], rtol=0.05, atol=0.02)
    assert 20 < after[17] < 40


def test_levels():
    frame = pd.DataFrame({"x": ["b"] * 20 + ["a"] * 30 + ["rare"] * 4 + [None] * 6, "y": range(60)})
    columns = Columns.fit(frame)
    shares = np.array([30, 20, 4, 6]) / 60
    assert columns.kinds[0] == Category("x", ("a", "b"), True, True, 0, tuple(shares))
    inputs = columns.transform(frame)[:, 1:]
    np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(inputs.std(axis=0), 1)
    shown = pd.DataFrame({"x": ["a", "b", "rare", None, " a ", "NA", "new"], "y": 1.0})
    assert columns.transform(shown)[:, 1:].argmax(axis=1).tolist() == [0, 1, 2, 3, 0, 3, 2]
    np.testing.assert_array_equal(columns.transform(frame[:1])[0, 1:], inputs[0])
    # Levels that are all rare, which only a user asks for, give nothing.
    few = pd.DataFrame({"x": list("abcdefgh"), "y": range(8)})
    assert (Columns.fit(few, categories=["x"]).transform(few)[:, 1:] == 0).all()


def test_many_levels_have_learned_vectors():
    frame = pd.DataFrame({"street": STREETS, "y": range(90)})
    columns = Columns.fit(frame)
    assert columns.kinds[0].size == 3 and columns.vectors == ((17, 3),)
    first = {street: i for i, street in enumerate(columns.kinds[0].levels)}
    inputs = columns.transform(frame)
    assert inputs.shape == (90, 2) and inputs[:, 1].tolist() == [first[street] for street in STREETS]
    with pytest.warns(UserWarning, match=r"'street' \(2 rows\)"):
        assert columns.transform(pd.DataFrame({"street": ["elsewhere", None], "y": 1}))[:, 1].tolist() == [
            15,
            16,
        ]
    sizes = [Category.fit("x", pl.Series([str(i) for i in range(n)] * 5)).size for n in (12, 13, 100, 10_000)]
    assert sizes == [0, 3, 7, 8]


def test_times_are_days_and_circles():
    days = pd.date_range("2023-01-01", periods=800, freq="17h")
    columns = Columns.fit(pd.DataFrame({"t": days}))
    inputs = columns.transform(pd.DataFrame({"t": days}))
    assert inputs.shape == (800, 7)
    for i, angle in (
        (1, (days.dayofyear - 1 + days.hour / 24) / 365.2425),
        (3, days.weekday / 7),
        (5, days.hour / 24),
    ):
        np.testing.assert_allclose(inputs[:, i], np.sin(2 * np.pi * angle), atol=1e-9)
        np.testing.assert_allclose(inputs[:, i + 1], np.cos(2 * np.pi * angle), atol=1e-9)
    since = (days - days[0]) / pd.Timedelta(days=1)
    days = columns.kinds[0].days
    drawn = draw_in(since.to_numpy(), days.center, days.scale)
    np.testing.assert_allclose(inputs[:, 0], (drawn - drawn.mean()) / drawn.std())
    weekly = pd.DataFrame({"t": pd.date_range("2024-01-01", periods=40, freq="7D")})
    assert Columns.fit(weekly).transform(weekly).shape == (40, 3)  # one weekday, one time of the day


def test_ordered_levels_are_numbers_and_categories():
    sizes = pd.Categorical(["S", "L", "M", "M"] * 10, ["S", "M", "L"], ordered=True)
    columns = Columns.fit(pd.DataFrame({"size": sizes}))
    inputs = columns.transform(pd.DataFrame({"size": sizes}))
    assert inputs[0, 0] < inputs[2, 0] < inputs[1, 0]
    assert ((inputs[:, 1:] > 0).sum(axis=1) == 1).all()


def test_what_the_user_says():
    frame = pd.DataFrame(
        {"zip": [10, 20, 30] * 20, "code": CITIES, "n": ["1", "x", "2"] * 20, "id": range(60)}
    )
    with pytest.warns(UserWarning, match="'n': number, written as text"):
        columns = Columns.fit(frame, categories="zip", numbers=["n"], drop=["id"])
    assert [type(kind) for kind in columns.kinds] == [Category, Category, Number, Nothing]
    assert columns.kinds[0].levels == ("10", "20", "30") and columns.names == ("zip", "code", "n")
    with pytest.raises(
        ValueError, match="no column 'zap'; did you mean 'zip'.*'id' is asked to be two things"
    ):
        Columns.fit(frame, categories=["zap", "id"], drop=["id"])
    array = Columns.fit(np.array([[1.0, 5.0]] * 6 + [[2.0, 6.0]] * 6), categories=["1"])
    assert [type(kind) for kind in array.kinds] == [Number, Category]


def test_what_is_guessed_is_said():
    frame = pd.DataFrame(
        {
            "n": [str(v) for v in NUMBERS],
            "t": MONTH_FIRST,
            "who": [f"{i} Smith" for i in range(ROWS)],
            "one": 1,
        }
    )
    frame["when"] = ["1/2/2024", "3/4/2024"] * 30
    with pytest.warns(UserWarning) as told:
        columns = Columns.fit(frame)
    (message,) = [str(each.message) for each in told]
    for words in (
        "'n': number, written as text",
        "'t': time, written as text (%m/%d/%Y), days since the first, time of the year, day of the week",
        "'who': a different text in nearly every row, left out",
        "'one': constant, left out",
        "'when': category, 2 levels, because its times may be %m/%d/%Y or %d/%m/%Y",
    ):
        assert words in message
    assert str(columns).splitlines()[3].split() == ["one", "constant", "left", "out"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Columns.fit(frame[["n"]].astype(float)).transform(frame[["n"]])  # text where numbers were is parsed


def test_other_values_than_in_training():
    frame = pd.DataFrame({"n": NUMBERS, "city": CITIES, "t": DAYS})
    columns = Columns.fit(frame)
    other = pd.DataFrame({"t": [None, "soon"], "more": 1, "city": ["Bonn", None], "n": ["many", None]})
    with pytest.warns(UserWarning, match=r"'n' \(2 rows\), 'city' \(2 rows\), 't' \(2 rows\)"):
        inputs = columns.transform(other)
    assert inputs[:, 0].tolist() == inputs[:, 1].tolist() == [0, 0]  # the middle
    assert (inputs[:, 2:5] < 0).all() and (inputs[:, 5:] == 0).all()  # no city, and no place on a circle
    with pytest.raises(ValueError, match="lacks columns 'n', 't'; it has columns 'city', 'nn'.*did you mean"):
        columns.transform(pd.DataFrame({"city": CITIES, "nn": 1}))
    with pytest.raises(ValueError, match=r"shape \(1, 2\), expected rows of 3 columns"):
        columns.transform([[1, 2]])


def test_tables_that_cannot_be_taken_are_refused_by_name():
    frame = pd.DataFrame({"a": [[1], [2]] * 5, "b": [1.0, np.inf] * 5, "c": [b"x", b"y"] * 5, "d": range(10)})
    with pytest.raises(
        ValueError, match=r"'a' holds list values.*'b' holds infinity in 5 rows.*'c' holds bytes"
    ):
        Columns.fit(frame)
    with pytest.raises(ValueError, match="column '0' holds a number too large for float64"):
        Columns.fit(np.array([[10**400], [1], [2]], object))
    twice = pd.DataFrame([[1, 2]] * 9, columns=["a", "a"])
    with pytest.raises(ValueError, match="column 'a': more than one column has that name"):
        Columns.fit(twice)
    with pytest.raises(ValueError, match="no column tells anything: 'a' .constant."):
        Columns.fit(pd.DataFrame({"a": [1, 1, 1]}))
    with pytest.raises(ValueError, match="no rows"):
        Columns.fit(pd.DataFrame({"a": []}))
    with pytest.raises(ValueError, match="a list of 1 dimension"):
        Columns.fit([1, 2, 3])


TEXTS = st.text(max_size=12) | st.sampled_from(
    ["*", "^x$", "", "NA", "?", "\x1b[31m", "1e5", "2024-01-01", "x" * 10_000]
)
VALUES = {
    "numbers": st.none() | st.floats(allow_nan=True, allow_infinity=False) | st.integers(-(2**70), 2**70),
    "text": st.none() | TEXTS,
    "times": st.none() | st.datetimes() | st.dates(),
    "several kinds": st.none() | TEXTS | st.floats(allow_infinity=False) | st.booleans() | st.datetimes(),
}


@quiet
@given(st.data(), st.sampled_from(list(VALUES)), st.sampled_from(list(VALUES)))
def test_any_columns_end_in_finite_inputs_or_in_a_named_error(data, trained, predicted):
    frames = [
        pd.DataFrame(
            {"col": pd.Series(data.draw(st.lists(VALUES[kind], min_size=1, max_size=30)), dtype=object)}
        )
        for kind in (trained, predicted)
    ]
    try:
        columns = Columns.fit(frames[0])
        inputs = [columns.transform(frame) for frame in frames]
    except ValueError as error:
        assert "'col'" in str(error)
        return
    for frame, found in zip(frames, inputs, strict=True):
        assert found.shape == (len(frame), inputs[0].shape[1]) and np.isfinite(found).all()


@pytest.mark.slow
def test_a_network_with_learned_vectors_learns_them():
    rng = np.random.default_rng(0)
    streets = [f"street {i}" for i in rng.integers(0, 20, 400)]
    effect = {f"street {i}": float(rng.normal()) for i in range(20)}
    frame = pd.DataFrame(
        {"street": streets, "area": rng.normal(size=400), "ok": rng.integers(0, 2, 400).astype(str)}
    )
    frame["ok"] = frame["ok"].map({"0": "no", "1": "yes"})
    y = np.array([effect[street] for street in streets]) + frame["area"].to_numpy()
    columns = Columns.fit(frame)
    x = columns.transform(frame).astype(np.float32)
    module = columns.embedding(PeriodicEmbedding(frequencies=2))
    assert module == ColumnEmbedding(1, ((22, 4),), PeriodicEmbedding(frequencies=2))
    model = MeanVarRegressor(hidden=(16,), embedding=module)
    trainer = make_trainer(model, adamw(1e-2, steps=60 * 7))
    state, history = fit(jax.random.key(0), trainer, (x, y.astype(np.float32)), epochs=60, batch_size=64)
    table = state.params["params"]["embedding"]["levels_0"]
    assert table.shape == (22, 4)
    mean = model.apply(state.params, x).mean
    assert float(jnp.mean((mean - y) ** 2)) < 0.1 * float(np.var(y)) and history.loss[-1] < history.loss[0]
    far = x.copy()
    far[:, -1] = 1e6  # no row is looked up outside the table
    assert np.isfinite(np.asarray(model.apply(state.params, far).mean)).all()


def test_ten_thousand_levels_and_a_hundred_thousand_rows():
    codes = np.random.default_rng(0).integers(0, 10_000, 100_000)
    table = pl.DataFrame({"code": pl.Series(codes).cast(pl.String) + "x", "n": codes})
    columns = Columns.fit(table)
    (levels, size), inputs = columns.vectors[0], columns.transform(table)
    assert size == 8 and levels <= 10_002
    assert inputs.shape == (100_000, 2) and inputs[:, 1].max() < levels


def test_tables_without_names():
    rows = [[1.0, "a", None], [2.0, "b", 3.0]] * 10
    assert as_table(rows).schema == {"0": pl.Float64, "1": pl.String, "2": pl.Float64}
    columns = Columns.fit(rows)
    assert not columns.named and [type(kind) for kind in columns.kinds] == [Number, Category, Number]
    assert columns.transform(rows[:2]).shape == (2, 5)
    assert QUARTILES_APART == pytest.approx(2 * 0.6744897501960817)


def test_levels_of_any_name_are_levels():
    odd = ["*", "", "\x1b[31m", "x" * 10_000, "^.*$", "a\nb", "\u202e", "Ünal"]
    frame = pd.DataFrame({"^.*$": np.resize(odd, 80), "n": np.arange(80.0)})
    columns = Columns.fit(frame)
    assert set(columns.kinds[0].levels) == {level for level in odd if level} and columns.kinds[0].gaps
    assert columns.transform(frame).shape == (80, 9)


def test_times_of_two_zones_are_one_time_line():
    kyiv, tokyo = (zoneinfo.ZoneInfo(name) for name in ("Europe/Kyiv", "Asia/Tokyo"))
    utc = [
        datetime.datetime(2024, 3, 1, tzinfo=datetime.UTC) + datetime.timedelta(hours=7 * i)
        for i in range(40)
    ]
    mixed = [time.astimezone(kyiv if i % 2 else tokyo) for i, time in enumerate(utc)]
    found, expected = (Columns.fit(pd.DataFrame({"t": pd.Series(t, dtype=object)})) for t in (mixed, utc))
    assert found == expected and type(found.kinds[0]) is Time


def test_what_only_new_rows_have_is_finite_and_said():
    frame = pd.DataFrame({"city": ["Rome", "Oslo"] * 20, "gap": [None] * 40, "n": np.arange(40.0)})
    with pytest.warns(UserWarning, match="'gap': empty, left out"):
        columns = Columns.fit(frame)
    new = pd.DataFrame({"city": ["Bonn", None], "gap": [1.0, 2.0], "n": ["7", "seven"]})
    with pytest.warns(UserWarning, match=r"'city' \(2 rows\), 'n' \(1 row\)"):
        assert np.isfinite(columns.transform(new)).all()
