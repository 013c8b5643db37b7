"""Whatever a user hands in ends in right numbers or in one error that says what was wrong (Hypothesis).

`--hypothesis-profile long` takes as many examples as docs/benchmarks/inputs.md says, and
`--record-properties FILE` keeps how they ended.
"""

import csv
import io
import json
import unicodedata
import warnings
from collections import Counter
from functools import partial

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from bench.machine import versions
from bench.readme import write
from jaxreg import Fitted, MeanVarRegressor, Scaler, fit, make_trainer, sgd, tables
from jaxreg.estimator import DeepEnsembleRegressor
from jaxreg.model import archive, model_file
from jaxreg.tables.lines import SEPARATORS, is_number

ENDS = "right", "refused", "warned of"
LONG = settings.get_current_profile_name() == "long"
KEY = jax.random.key(0)


def examples(short, long):
    return settings(max_examples=long if LONG else short)


@pytest.fixture(scope="module")
def ends(request):
    """Counts how examples of a kind ended."""
    found = {}
    yield lambda kind, end: found.setdefault(kind, Counter()).update([end])
    path = request.config.getoption("--record-properties")
    if path is not None:
        rows = [
            {"input": kind, "examples": count.total(), **{end: count[end] for end in ENDS}}
            for kind, count in found.items()
        ]
        write([row | versions() for row in rows], path)


# Arrays of any type, shape and layout, and what else people hold numbers in.

ODD = [np.inf, -np.inf, np.nan, 5e-324, -5e-324, 1e-310, 1.7e308, -1.7e308, 3e38, 1e30, 0.0, -0.0]
PAYLOADS = np.array([0x7FF8DEADBEEF0001, 0xFFF0000000000001], np.uint64).view(np.float64).tolist()
TYPES = [*"bBhHiIlLqQefdg", ">f8", "<f4", ">i2"]


def mostly(usual, else_):
    """Four of five examples from one strategy."""
    return st.integers(1, 5).flatmap(lambda i: else_ if i == 5 else usual)


def numbers(shape):
    """Plain numbers of some size and type, perhaps an odd one among them."""

    def make(seed, scale, shift, dtype, odd):
        values = shift + scale * np.random.default_rng(seed).normal(size=shape)
        with np.errstate(all="ignore"):
            values = values.astype(dtype)
            if odd and values.size and values.dtype.kind == "f":
                values.flat[seed % values.size] = odd[0]
        return values

    scales = st.sampled_from([1.0, 1.0, 10.0, 1e-300, 1e-3, 1e6, 1e30, 1e300])
    odd = mostly(st.just([]), st.lists(st.sampled_from(ODD + PAYLOADS), min_size=1, max_size=1))
    shifts, types = st.sampled_from([0.0, 1.0, 1e9]), st.sampled_from(["d", "d", *TYPES])
    return st.builds(make, st.integers(0, 99), scales, shifts, types, odd)


@st.composite
def arrays(draw, shapes):
    """An array of numbers, or of anything, in an order and a layout of its own."""
    shape = draw(shapes)
    anything = hnp.arrays(hnp.scalar_dtypes(), shape)
    array = draw(mostly(numbers(shape), anything))
    layout = draw(st.sampled_from(["C", "F", "strided", "reversed", "read-only", "masked"]))
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "strided" and shape:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if layout == "reversed" and shape:
        return array[::-1]
    if layout == "masked":
        return np.ma.MaskedArray(array, draw(mostly(st.just(False), hnp.arrays(bool, shape))))
    array = np.array(array)
    array.flags.writeable = layout != "read-only"
    return array


def shapes(*usual):
    """Mostly one of some shapes, else any of up to three dimensions."""
    return mostly(st.sampled_from(usual), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))


@st.composite
def handed_in(draw):
    """An array or something that one is made into."""
    array = draw(arrays(shapes((6, 2), (5, 2), (8, 2), (6, 1), (1, 2))))
    kind = draw(st.sampled_from(["array", "array", "array", "list", "objects", "pandas", "polars"]))
    if kind == "list":
        return array.tolist()
    if kind == "objects":
        array = array.astype(object)
        if array.size and draw(st.booleans()):
            array.flat[0] = draw(st.sampled_from([None, "x", "1", 1j, b"1", {}, 10**400, True]))
        return array
    if array.ndim != 2 or kind == "array":
        return array
    names = st.lists(st.sampled_from(["a", "b", 3, ""]), min_size=array.shape[1], max_size=array.shape[1])
    columns = draw(mostly(st.just(["a", "b", "c"][: array.shape[1]]), names))
    try:
        if kind == "pandas":
            return pd.DataFrame(np.asarray(array), columns=columns)
        return pl.DataFrame(np.ascontiguousarray(array), schema=[*map(str, columns)])
    except Exception:  # what such a frame can't hold
        return array


X = np.random.default_rng(0).normal(size=(20, 2))
MODEL = MeanVarRegressor(hidden=(4,))
FITTED = Fitted(
    MODEL, MODEL.init(KEY, X.astype(np.float32)), Scaler.fit(X), Scaler.fit(1e3 * X[:, 0]), ("a", "b"), ("y",)
)
TRAINER = make_trainer(MODEL, sgd(1e-3))
ESTIMATOR = DeepEnsembleRegressor(members=2, hidden=(4,), frequencies=0, epochs=1, batch_size=8)


def by_predict(x, y):
    return FITTED.predict(x)


def by_fit(x, y):
    state, history = fit(KEY, TRAINER, (x, y), epochs=1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def by_estimator(x, y):
    return ESTIMATOR.fit(x, y).predict_dist(x)


@pytest.mark.slow
@examples(150, 20_000)
@given(how=st.sampled_from([by_predict, by_predict, by_fit, by_estimator]), x=handed_in(), data=st.data())
def test_arrays(ends, how, x, data):
    n = len(x) if np.ndim(x) else 0
    y = data.draw(arrays(shapes((n,), (n,), (n, 2)))) if how is not by_predict else None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            prediction = how(x, y)
        except (ValueError, TypeError) as error:
            assert len(str(error)) > 10, repr(error)
            ends("arrays, frames and lists", "refused")
            return
    if prediction is not None:
        assert np.shape(prediction.mean)[0] == n == np.shape(prediction.std)[0]
        assert np.isfinite(prediction.mean).all() and (np.asarray(prediction.std) > 0).all()
        assert np.isfinite(prediction.std).all()
    named = any("stopped being finite" in str(each.message) for each in said)
    ends("arrays, frames and lists", "warned of" if named else "right")


# Files of rows: what Python's own writer makes of a table, and the same with bytes changed.

CELLS = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63 - 1))
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=8)


@st.composite
def written(draw):
    """A table and a file of it as bytes."""
    separator = draw(st.sampled_from(SEPARATORS))
    usual = NAMES.map(str.strip).filter(lambda name: name and not set(name) & set(SEPARATORS + '"'))
    usual = usual.filter(lambda name: not name.startswith("# ")).map(partial(unicodedata.normalize, "NFC"))
    names = draw(st.lists(usual, min_size=2, max_size=4, unique=True))
    assume(not all(map(is_number, names)))
    rows = draw(st.lists(st.tuples(*[CELLS] * len(names)), min_size=1, max_size=5))
    file = io.StringIO()
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end)
    for row in (names, *rows):
        file.write(draw(st.sampled_from(["", "", end, 2 * end])))
        writer.writerow(row)
    mark = draw(st.sampled_from(["", "\ufeff"]))
    return names, rows, (mark + file.getvalue()).encode()


@pytest.mark.slow
@examples(300, 20_000)
@given(table=written())
def test_tables_that_others_write(ends, tmp_path_factory, table):
    names, rows, content = table
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    path.write_bytes(content)
    read = tables.numeric(tables.read(path), names, path)
    assert read.columns == names
    np.testing.assert_array_equal(read.to_numpy().astype(float), np.array(rows, float))
    ends("CSV files as others write them", "right")


@st.composite
def changed(draw, content):
    """Bytes with some of them changed, put in, taken out or said twice."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        put = draw(
            st.one_of(st.binary(max_size=8), st.sampled_from([b"\0", b'"', b"\n", b",", b"\xff", b"9" * 400]))
        )
        cut = draw(st.one_of(st.integers(0, 4), st.just(len(put)), st.integers(0, len(content))))
        content = content[:at] + put + content[at + cut :]
    return content


@examples(300, 20_000)
@given(data=st.data(), table=written())
@pytest.mark.slow
def test_tables_that_are_damaged(ends, tmp_path_factory, data, table):
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    path.write_bytes(data.draw(changed(table[2])))
    try:
        read = tables.numeric(table := tables.read(path), table.columns, path)
        assert len(read) and read.columns
        ends("CSV files with bytes changed", "right")
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error), error
        ends("CSV files with bytes changed", "refused")


# Model files: any bytes changed, and any word of the header changed with a digest that is right.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "m"
    model_file.save(path, FITTED)
    return path, path.read_bytes(), load_file(path), json.loads(path_header(path))


def path_header(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]["jaxreg"]


def load(path):
    """How reading a model file ends."""
    try:
        fitted = model_file.load(path)
    except ValueError as error:
        assert str(path) in str(error), error
        return "refused", None
    return "right", fitted


@examples(300, 80_000)
@given(data=st.data())
def test_model_files_with_other_bytes(ends, whole, data):
    path, content, *_ = whole
    path.write_bytes(data.draw(changed(content)))
    end, fitted = load(path)
    if fitted is not None:
        np.testing.assert_array_equal(fitted.predict(X).mean, FITTED.predict(X).mean)
    ends("model files with bytes changed", end)


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def altered(draw, value):
    """JSON with something in it replaced, left out or added."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        name = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 5)) == 0:
            return {key: each for key, each in value.items() if key != name}
        return value | {name: draw(altered(value[name]))}
    return draw(ANYTHING)


@examples(300, 20_000)
@given(data=st.data())
def test_model_files_with_another_header(ends, whole, data):
    path, _, stored, header = whole
    changed = data.draw(altered(header))
    if isinstance(changed, dict):
        archive.write(path, "model", changed, stored)
    else:
        save_file(stored, path, metadata={"jaxreg": json.dumps(changed)})
    end, fitted = load(path)
    if fitted is not None:
        assert np.isfinite(fitted.predict(X).std).all()
    ends("model files with another header and a right digest", end)
