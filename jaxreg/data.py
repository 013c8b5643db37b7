"""Data on its way in: the notebook's example, the border check, standardisation, batch order."""

import datetime
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from numbers import Real
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import DTypeLike

from jaxreg.checks import as_key, check_varies, over_outputs

# What the border takes: arrays of any library, nested lists, pandas and polars frames and series.
TableLike = Any

# What lies far outside: at most this share of a column, behind a gap so many times as wide as the range of
# all the rest. Draws of t(3) and of log-normals with sigma 1.5, whose tails are heavy, have no such gaps.
FAR_SHARE = 0.1
FAR_GAP = 30
FAR_ROWS = 10
# Numbers of nines from here on are codes also where they stand once.
LARGE_CODE = 999

# A column whose range is fewer steps of float32 than this is looked at for values that fall together.
FEW_STEPS = 4096
# Differences of this share of a value are float64's own rounding, after some arithmetic.
ROUNDED = 1e-12

DATES = datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64
PANDAS_DATES = "Period", "Interval"
MOST_FAULTS = 20
LONGEST_SHOWN = 40


def sinusoid(key: Array | int, n: int = 256) -> tuple[Float[Array, "n 1"], Float[Array, " n"]]:
    """The notebook's data: `y = sin(1.3 x) + Normal(0, 0.15 + 0.25 |x|)`, x uniform on [-3, 3].

    Args:
        key: a JAX random key.
        n: number of rows.

    Returns:
        `(x, y)` of shapes `(n, 1)` and `(n,)`.

    >>> import jax
    >>> from jaxreg import data
    >>> x, y = data.sinusoid(jax.random.key(0))
    >>> x.shape, y.shape
    ((256, 1), (256,))
    """
    return _sinusoid(as_key(key), n)


@partial(jax.jit, static_argnums=1)
def _sinusoid(key: Array, n: int) -> tuple[Array, Array]:
    x_key, noise_key = jax.random.split(key)
    x = jax.random.uniform(x_key, (n, 1), minval=-3.0, maxval=3.0)
    sigma = 0.15 + 0.25 * jnp.abs(x[:, 0])
    return x, jnp.sin(1.3 * x[:, 0]) + sigma * jax.random.normal(noise_key, (n,))


def grid(x: TableLike, n: int = 400, margin: float = 0.25) -> Float[np.ndarray, "n 1"]:
    """Evenly spaced points over the range of a single feature and a margin on either side.

    Args:
        x: the feature, `(rows, 1)`.
        n: number of points.
        margin: how far to go past either end, as a share of the range.

    Raises:
        ValueError: if x holds more than one feature.

    >>> from jaxreg import data
    >>> data.grid([[0.0], [4.0]], n=3)[:, 0]
    array([-1.,  2.,  5.], dtype=float32)
    """
    x = check_features(x)
    if x.shape[1] != 1:
        raise ValueError(f"a grid needs one feature, x has {x.shape[1]}: pass one column, x[:, :1]")
    low, high = float(x.min()), float(x.max())
    reach = margin * (high - low)
    return np.linspace(low - reach, high + reach, n, dtype=x.dtype)[:, None]


def batch_order(
    key: Array | int, epoch: int | Int[Array, ""], n: int | Int[Array, ""], size: int | None = None
) -> Int[Array, " n"]:
    """The order in which an epoch visits the rows: a permutation of n, drawn from `fold_in(key, epoch)`.

    It depends on the key and the epoch alone, so a run may be cut and resumed anywhere, and another
    library can be handed the same batches.

    Args:
        key: a JAX random key.
        epoch: its number.
        n: number of rows; it may be traced where `size` is given.
        size: length of what is returned, n by default: after the first n, numbers that mean nothing.

    >>> import jax
    >>> from jaxreg import data
    >>> sorted(data.batch_order(jax.random.key(0), epoch=3, n=4).tolist())
    [0, 1, 2, 3]
    """
    return _batch_order(as_key(key), epoch, n, n if size is None else size)


@partial(jax.jit, static_argnums=3)
def _batch_order(key: Array, epoch: int | Array, n: int | Array, size: int) -> Array:
    # Random high bits and a position in the low bits make one word to sort, which XLA does 4 to 8 times
    # faster on a CPU than the pairs of jax.random.permutation. Rounds are repeated, as it does too, until
    # the random bits are three times those of a position, and ties (kept in order) hardly occur. Positions
    # from n on have all bits set, and come last.
    key = jax.random.fold_in(key, epoch)
    positions, n = jnp.arange(size, dtype=jnp.uint32), jnp.asarray(n, jnp.uint32)
    bits = jnp.maximum(32 - jax.lax.clz(n - 1), 1)
    low = (jnp.uint32(1) << bits) - 1
    present = positions < n

    def shuffle(round_: int | Array, order: Array) -> Array:
        own = jnp.where(round_ == 0, key, jax.random.fold_in(key, round_))
        drawn = jax.random.bits(own, (size,), jnp.uint32)
        words = jnp.where(present, (drawn & ~low) | positions, np.uint32(2**32 - 1))
        shuffled = jnp.where(present, jax.lax.sort(words, is_stable=False) & low, positions)
        return order[shuffled]

    rounds = (3 * bits + 31 - bits) // (32 - bits)
    return jax.lax.fori_loop(jnp.uint32(0), rounds, shuffle, positions).astype(jnp.int32)


def bootstrap_rows(key: Array | int, n: int, members: int) -> tuple[Int[np.ndarray, "members n"], np.ndarray]:
    """Rows drawn with replacement for each member of an ensemble, and those that it was not given.

    Breiman 1996, "Bagging predictors". Member i's rows depend on `jax.random.split(key, members)[i]` alone.

    Args:
        key: a JAX random key; that of `fit_ensemble` may serve.
        n: number of rows to draw from, and to draw.
        members: number of members.

    Returns:
        `(rows, left_out)`, integers `(members, n)` and `(members, most)`; -1 fills up the shorter lists.

    >>> import jax
    >>> from jaxreg import data
    >>> rows, left_out = data.bootstrap_rows(jax.random.key(0), n=6, members=2)
    >>> [sorted({*drawn.tolist(), *rest.tolist()} - {-1}) for drawn, rest in zip(rows, left_out)]
    [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    """
    rows = np.asarray(_draw_rows(jax.random.split(as_key(key), members), n))
    absent = [np.setdiff1d(np.arange(n, dtype=np.int32), drawn) for drawn in rows]
    left_out = np.full((members, max(map(len, absent))), -1, np.int32)
    for line, rest in zip(left_out, absent, strict=True):
        line[: len(rest)] = rest
    return rows, left_out


@partial(jax.jit, static_argnums=1)
def _draw_rows(keys: Array, n: int) -> Array:
    # Far from the numbers of epochs, which draw the order of the rows from the same key.
    keys = jax.vmap(lambda key: jax.random.fold_in(key, np.uint32(2**32 - 1)))(keys)
    return jax.vmap(lambda key: jax.random.randint(key, (n,), 0, n, jnp.int32))(keys)


def fold_rows(
    key: Array | int, n: int, members: int, folds: int
) -> tuple[Int[np.ndarray, "members kept"], Int[np.ndarray, "members left"]]:
    """Rows for each member of an ensemble that leave one of several folds out, and that fold.

    The folds are of equal size and cover all rows but at most `folds - 1` of them, which every member is
    given. Members beyond the number of folds leave out folds of another shuffling. Member i's rows do not
    depend on how many members there are.

    Args:
        key: a JAX random key; that of `fit_ensemble` may serve.
        n: number of rows.
        members: number of members.
        folds: number of parts, from 2 to n.

    Returns:
        `(rows, held_out)`, sorted integers `(members, n - n // folds)` and `(members, n // folds)`.

    Raises:
        ValueError: for fewer than 2 folds, or more than rows.

    >>> import jax
    >>> from jaxreg import data
    >>> rows, held_out = data.fold_rows(jax.random.key(0), n=6, members=3, folds=3)
    >>> sorted(held_out.ravel().tolist())
    [0, 1, 2, 3, 4, 5]
    """
    if not 2 <= folds <= n:
        raise ValueError(f"folds must be from 2 to the {n} rows, got {folds}")
    seed, size = np.asarray(jax.random.key_data(as_key(key))).ravel(), n // folds
    held_out = np.empty((members, size), np.int32)
    for i in range(members):
        turn, fold = divmod(i, folds)
        if fold == 0:
            order = np.random.default_rng([*seed, turn]).permutation(n)
        held_out[i] = np.sort(order[fold * size : (fold + 1) * size])
    kept = np.ones((members, n), bool)
    np.put_along_axis(kept, held_out, False, axis=1)
    return np.nonzero(kept)[1].reshape(members, n - size).astype(np.int32), held_out


class Block(NamedTuple):
    """Several batches of a source.

    Attributes:
        numbers: of the rows among all those of the source, `(batches, batch_size)`; -1 where there is no row.
        x: features, `(batches, batch_size, features)`; of finite values also where there is no row.
        y: targets, `(batches, batch_size)`.
    """

    numbers: Int[np.ndarray, "batches size"]
    x: Float[np.ndarray, "batches size features"]
    y: Float[np.ndarray, "batches size"]


@runtime_checkable
class Source(Protocol):
    """Rows that are read when they are needed: what `fit` and `fit_ensemble` take in place of arrays.

    `sources.from_files` makes one of Parquet files. Any object with these methods serves.
    """

    def batches(self, batch_size: int) -> int:
        """Batches of an epoch."""
        ...

    def stream(self, seed: Sequence[int], *, batch_size: int, batches: int) -> Iterator[Block]:
        """The rows of an epoch in blocks of so many batches, the last one filled up; the same for a seed."""
        ...

    def take(self, seed: Sequence[int], most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """At most about so many rows, drawn at random: `(numbers, x, y)`, in the order of their numbers."""
        ...

    def describe(self) -> dict[str, np.ndarray]:
        """Small arrays by which to tell that these are the same rows."""
        ...


def row_fractions(seed: Sequence[int], numbers: Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """A random number in [0, 1) for each number of a row, from the seed and that number alone.

    The mixing function of Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".

    Args:
        seed: whole numbers.
        numbers: of rows, of any shape.

    >>> import numpy as np
    >>> from jaxreg.data import row_fractions
    >>> fractions = row_fractions([0], np.arange(10_000))
    >>> bool(abs(fractions.mean() - 0.5) < 0.01), bool(row_fractions([0], np.array(7)) == fractions[7])
    (True, True)
    """
    start, step = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    z = start + np.ravel(numbers).astype(np.uint64) * (step | np.uint64(1))  # arrays wrap around in silence
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    fractions = ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
    return fractions.reshape(np.shape(numbers))


def row_folds(key: Array, numbers: Int[np.ndarray, "..."], folds: int) -> Int[np.ndarray, "..."]:
    """The fold of each row of a source, from a key and the row's number alone.

    >>> import jax, numpy as np
    >>> from jaxreg.data import row_folds
    >>> sorted(set(row_folds(jax.random.key(0), np.arange(100), 3).tolist()))
    [0, 1, 2]
    """
    return (row_fractions(key_words(key), numbers) * folds).astype(np.int32)


def key_words(key: Array) -> list[int]:
    """The words of a JAX random key, as a seed for NumPy."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(key) if typed else key).ravel().tolist()


class Scaler(NamedTuple):
    """Takes columns to mean 0 and standard deviation 1, and back, in float64 on the host.

    Args:
        loc: means, `(features,)`, or a scalar for one target.
        scale: standard deviations, the same shape; 1 for a constant column.

    >>> import numpy as np
    >>> from jaxreg import Scaler
    >>> x = np.array([[1.0, 1e30], [3.0, 3e30]])
    >>> scaler = Scaler.fit(x)
    >>> scaler.transform(x).round(6).tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    >>> np.allclose(scaler.inverse(scaler.transform(x)), x)
    True
    """

    loc: Float[np.ndarray, "..."]
    scale: Float[np.ndarray, "..."]

    @classmethod
    def fit(
        cls,
        values: TableLike,
        names: Sequence[str] | None = None,
        weight: TableLike | None = None,
    ) -> "Scaler":
        """Learn means and standard deviations from rows; a constant column is warned of and kept.

        Args:
            values: rows, `(n,)` or `(n, columns)`.
            names: of the columns, for the warning.
            weight: of each row `(n,)`, or of each value; those of no weight may hold anything.
        """
        values = np.asarray(values, np.float64)
        weight = np.ones(values.shape) if weight is None else np.asarray(weight, np.float64)
        weight = np.broadcast_to(over_outputs(weight, values.shape), values.shape)
        values = np.where(weight > 0, values, np.nan)
        # Moments are taken of values divided by their largest, whose squares neither overflow nor vanish.
        largest = np.nanmax(np.abs(values), axis=0)
        unit = np.where(largest > 0, largest, 1.0)
        constant = np.nanmax(values, axis=0) == np.nanmin(values, axis=0)
        shrunk = np.where(weight > 0, values / unit, 0)
        if np.any(constant):
            flagged = [str(i) for i in np.flatnonzero(constant)]
            if names is not None:
                flagged = [repr(names[int(i)]) for i in flagged]
            warnings.warn(
                f"constant column {', '.join(flagged)}: it tells nothing about the target, and is kept",
                stacklevel=2,
            )
        mean = np.average(shrunk, axis=0, weights=weight)
        scale = np.sqrt(np.average((shrunk - mean) ** 2, axis=0, weights=weight)) * unit
        return cls(np.asarray(mean * unit), np.asarray(np.where(constant | (scale == 0), 1.0, scale)))

    def transform(self, values: TableLike) -> np.ndarray:
        """Values in units of their standard deviation, as float64."""
        return (np.asarray(values, np.float64) - self.loc) / self.scale

    def inverse(self, values: TableLike) -> np.ndarray:
        """Standardised values in their own units again, as float64."""
        return np.asarray(values, np.float64) * self.scale + self.loc


def column_names(values: TableLike) -> list[str] | None:
    """Names of a data frame's columns, None for anything else.

    Raises:
        TypeError: for a frame whose rows have to be asked for, and a pyarrow.Table.
    """
    if hasattr(values, "collect"):
        raise TypeError(f"a {type(values).__name__} has no rows yet: pass its collect()")
    if hasattr(values, "column_names") and hasattr(values, "to_pandas"):
        raise TypeError(f"a pyarrow {type(values).__name__} is no data frame: pass its to_pandas()")
    columns = getattr(values, "columns", None)
    return None if columns is None else [str(column) for column in columns]


def column_dtypes(values: TableLike) -> tuple[str, ...]:
    """Types of a data frame's columns, or an array's for each of its columns.

    >>> from jaxreg.data import column_dtypes
    >>> column_dtypes([[1, 2], [3, 4]])
    ('int64', 'int64')
    """
    if column_names(values) is not None:
        return tuple(map(str, values.dtypes))
    array = values if hasattr(values, "dtype") and hasattr(values, "shape") else np.asarray(values)
    return (str(array.dtype),) * (array.shape[1] if len(array.shape) > 1 else 1)


def as_floats(values: TableLike) -> np.ndarray:
    """Numbers as float64, with NaN for gaps of any library; frames of any number types.

    >>> import pandas as pd
    >>> from jaxreg.data import as_floats
    >>> as_floats(pd.Series([1, None], dtype="Int64"))
    array([ 1., nan])
    """
    if np.ma.isMaskedArray(values):
        return np.ma.filled(values.astype(np.float64), np.nan)
    if column_names(values) is not None:
        return np.stack([as_floats(values[column]) for column in values.columns], axis=1)
    array = np.asarray(values)
    if array.dtype.kind == "O":
        array = np.where(_missing(array), np.nan, array)
    return array.astype(np.float64)


def _missing(array: np.ndarray) -> np.ndarray:
    """Where an array of objects has None, NaN, NaT or pandas' NA."""

    def is_missing(value: object) -> bool:
        return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(value != value)

    return np.frompyfunc(is_missing, 1, 1)(array).astype(bool)


class Fault(NamedTuple):
    """Why a column isn't numbers: what it holds, in how many rows, and an example."""

    kind: str
    count: int
    example: object = None


def check_numbers(values: TableLike, what: str, *, gaps: bool = False) -> None:
    """Raise unless all columns hold finite numbers; the error names all that don't, and why.

    Args:
        values: array-like or data frame, `(n,)` or `(n, columns)`; anything else is left to others.
        what: what the message calls it.
        gaps: whether missing values are allowed.

    Raises:
        ValueError: for text, categories, dates, missing and infinite values.

    >>> import pandas as pd
    >>> from jaxreg.data import check_numbers
    >>> check_numbers(pd.DataFrame({"city": ["Rome", "Oslo"], "age": [1, None]}), "X")
    Traceback (most recent call last):
    ...
    ValueError: Input X contains text in column 'city' (2 of 2 rows, such as 'Rome'), NaN in column 'age' \
(1 of 2 rows): numbers are needed, encode, fill in or leave out what isn't
    """
    names = column_names(values)
    if names is None:
        array = np.asanyarray(values) if hasattr(values, "dtype") else _as_array(values)
        if array.ndim not in (1, 2) or array.dtype.kind == "f" and np.isfinite(array).all():
            return
        columns = [("", values if array.ndim == 1 else array)] if array.ndim == 1 else []
        columns += (
            [(f" in column {i}", column) for i, column in enumerate(array.T)] if array.ndim == 2 else []
        )
    else:
        columns = [
            (f" in column {name!r}", values[column])
            for name, column in zip(names, values.columns, strict=True)
        ]
    found = [(where, fault) for where, column in columns if (fault := _fault(column, gaps)) is not None]
    if found:
        shown = [
            f"{fault.kind}{where} ({fault.count:,} of {len(columns[0][1]):,} rows"
            + (")" if fault.example is None else f", such as {_shown(fault.example)})")
            for where, fault in found[:MOST_FAULTS]
        ]
        more = f" and {len(found) - MOST_FAULTS:,} more columns" if len(found) > MOST_FAULTS else ""
        raise ValueError(
            f"Input {what} contains {', '.join(shown)}{more}: numbers are needed, encode, fill in or leave "
            "out what isn't"
        )


def _as_array(values: TableLike) -> np.ndarray:
    """Nested lists as an array, of objects where they don't make another."""
    try:
        return np.asarray(values)
    except ValueError:
        return np.empty((), object)


def _fault(column: TableLike, gaps: bool) -> Fault | None:
    """What a column holds that isn't a finite number; None if there is nothing, or something unknown."""
    array = np.asarray(column)
    kind = str(getattr(column, "dtype", "")).partition("(")[0].lower()
    if kind in ("category", "categorical", "enum") and len(array):
        return Fault("categories", len(array), array[0])
    if array.dtype.kind in "mM":
        return Fault("dates", len(array), array[0]) if len(array) else None
    if array.dtype.kind in "OUS":
        missing = _missing(array)
        present = array[~missing]
        for name, is_one in (("text", _is_text), ("dates", _is_date)):
            odd = [value for value in present if is_one(value) and not _is_numeric(value)]
            if odd:
                return Fault(name, len(odd), odd[0])
        if missing.any():
            return None if gaps else Fault("NaN", int(missing.sum()))
        known = [value for value in present if isinstance(value, Real | Decimal)]
        array = np.array(known, np.float64) if len(known) == len(array) else np.zeros(0)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        if np.isinf(array).any():
            return Fault("infinity or a value too large for float64", int(np.isinf(array).sum()))
        return None if gaps else Fault("NaN", int(np.isnan(array).sum()))
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str | bytes)


def _is_date(value: object) -> bool:
    return isinstance(value, DATES) or type(value).__name__ in PANDAS_DATES


def _is_numeric(value: object) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _shown(value: object) -> str:
    text = repr(value.item() if isinstance(value, np.str_) else value) if _is_text(value) else str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def far_outside(values: Float[np.ndarray, " n"]) -> list[tuple[float, int]]:
    """Values that lie so far outside a column that they must be codes or mistakes, and how often each stands.

    At either end the widest gap is looked for, of which a tenth of the rows at most lie outside; it counts if
    it is 30 times as wide as the range of the rest without a tenth at the other end. So does that of a value
    that is repeated, in up to half of the rows. Of a number of nines, as codes for missing values are, a gap
    as wide as the middle nine tenths is enough, or none if it is negative and nothing else is.

    >>> import numpy as np
    >>> from jaxreg.data import far_outside
    >>> far_outside(np.r_[np.arange(30.0), -9999.0, -9999.0])
    [(-9999.0, 2)]
    """
    found: list[tuple[float, int]] = []
    rest = np.sort(values[np.isfinite(values)])
    most = int(FAR_SHARE * len(rest))
    while len(rest) >= FAR_ROWS and most > 0:
        (upper, high), (lower, low) = _end_gap(rest, most), _end_gap(-rest[::-1], most)
        if max(upper, lower) < FAR_GAP:
            break
        far = rest[len(rest) - high :] if upper >= lower else rest[:low]
        rest = rest[: len(rest) - high] if upper >= lower else rest[low:]
        most -= len(far)
        found += zip(*(part.tolist() for part in np.unique(far, return_counts=True)), strict=True)
    while len(rest) >= FAR_ROWS and (codes := [end for end in rest[[0, -1]] if _is_code(float(end), rest)]):
        found.append((float(codes[0]), int((rest == codes[0]).sum())))
        rest = rest[rest != codes[0]]
    return found


def _end_gap(ordered: np.ndarray, most: int) -> tuple[float, int]:
    """The widest gap among the last values, by the range below it from a tenth on, and how many lie above."""
    above = np.arange(1, most + 1)
    below = ordered[len(ordered) - above - 1]
    with np.errstate(over="ignore", invalid="ignore"):
        gap, reach = ordered[len(ordered) - above] - below, below - ordered[most]
        reach = np.where(reach > 0, reach, below - ordered[0])  # where most are one value
        ratio = np.where(reach > 0, gap / np.where(reach > 0, reach, 1), 0)
    at = int(np.argmax(ratio))
    return float(ratio[at]), int(above[at])


def _is_code(end: float, ordered: np.ndarray) -> bool:
    """Whether the first or last of some values is one that is repeated far outside the others."""
    others = ordered[ordered != end]
    count, nines = len(ordered) - len(others), set(f"{abs(end):.0f}") == {"9"} and end % 1 == 0
    if not 1 <= count <= len(ordered) / 2:
        return False
    low, high = np.quantile(others, [0.05, 0.95])
    with np.errstate(over="ignore"):
        gap, spread = np.abs(others - end).min(), high - low
    if nines and abs(end) >= LARGE_CODE:
        return bool(gap > spread) or (end < 0 <= others[0] and count > 1)
    return count > 1 and bool(gap > spread * (1 if nines and abs(end) > 9 else FAR_GAP) > 0)


def warn_of_far(
    columns: Iterable[Float[np.ndarray, " n"]],
    called: Sequence[str],
    *,
    rows: str = "rows",
    stacklevel: int = 2,
) -> None:
    """Warn of columns with values far outside the rest, which spoil how the column is standardised.

    Args:
        columns: values of each.
        called: what the warning calls each.
        rows: what it calls the rows.
        stacklevel: as that of `warnings.warn`, from the caller on.
    """
    shown = [
        f"{name} holds {value:g} in {count:,} of {len(column):,} {rows}"
        for name, column in zip(called, columns, strict=True)
        for value, count in far_outside(column)
    ]
    if shown:
        more = f" and {len(shown) - MOST_FAULTS:,} more" if len(shown) > MOST_FAULTS else ""
        warnings.warn(
            f"{', '.join(shown[:MOST_FAULTS])}{more}, far outside the rest: if these are codes for missing "
            "values, or mistakes, drop or replace them, because they spoil the scale of the column",
            stacklevel=stacklevel + 1,
        )


def without_unit(weight: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Weights over their mean where they are positive, so that only their ratios count; float64.

    >>> import numpy as np
    >>> from jaxreg.data import without_unit
    >>> without_unit(np.array([1e-300, 0.0, 3e-300]))
    array([0.5, 0. , 1.5])
    """
    share = np.asarray(weight, np.float64) / np.max(weight)
    return share / share[share > 0].mean()


def _numbers(values: TableLike, what: str) -> np.ndarray:
    """One array of real numbers, or an error that names `what`."""
    array = np.asarray(values)
    if array.dtype.kind == "O":
        odd = next((v for v in array.flat if isinstance(v, str | bytes | complex)), None)
        try:
            array = np.asarray(values, np.float64) if odd is None else array
        except OverflowError:
            raise ValueError(f"{what} holds a whole number too large for float64: scale it first") from None
        except (TypeError, ValueError):
            odd = next((v for v in array.flat if not isinstance(v, int | float)), None)
        if array.dtype.kind == "O":
            raise ValueError(
                f"{what} holds {type(odd).__name__} values such as {odd!r}, numbers are needed: "
                "encode or drop it"
            )
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.kind != "f":  # bfloat16 and the like
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        example = f" such as {array.flat[0]!r}" if array.size else ""
        raise ValueError(
            f"{what} holds {array.dtype} values{example}, real numbers are needed: encode or drop it"
        )
    return array


def default_dtype(dtype: np.dtype) -> np.dtype:
    """What values of a dtype are computed in: float32 stays, all else is as wide as JAX allows."""
    wide = np.dtype(np.float64 if jax.config.jax_enable_x64 else np.float32)
    return np.dtype(np.float32) if dtype == np.float32 else wide


def _to_array(values: TableLike, name: str, dtype: DTypeLike | None = None) -> np.ndarray:
    """Array-likes and data frames as a NumPy array of finite numbers, by default in `default_dtype`."""
    names = column_names(values)
    if names is not None:
        repeated = sorted(n for n, count in Counter(names).items() if count > 1)
        if repeated:
            raise ValueError(f"{name} has more than one column named {repeated[0]!r}: rename or drop one")
        columns = [_numbers(values[column], f"column {str(column)!r}") for column in values.columns]
        if not columns:
            raise ValueError(f"{name} has no columns: pass at least one")
        array = np.stack(columns, axis=1)
    else:
        try:
            array = _numbers(np.asanyarray(values), name)
        except ValueError as error:
            if "inhomogeneous" not in str(error):
                raise
            raise ValueError(f"{name} has rows of different lengths: {error}") from None
    if np.ma.isMaskedArray(values):
        array = np.ma.filled(np.ma.asarray(values, np.float64), np.nan)
    dtype = np.dtype(default_dtype(array.dtype) if dtype is None else dtype)
    if array.ndim == 0:
        return array  # the caller names the shape it wants
    finite = np.isfinite(array)
    with np.errstate(over="ignore"):
        converted = np.asarray(array, dtype, order="C")
    _check_finite(array, finite, name, names, "missing or infinite")
    _check_finite(array, np.isfinite(converted), name, names, f"too large for {dtype}")
    return converted


def _check_finite(
    array: np.ndarray, finite: np.ndarray, name: str, names: list[str] | None, fault: str
) -> None:
    """Raise with a count for each column that holds a value that isn't finite."""
    if finite.all():
        return
    counts = (~finite).reshape(len(array), -1).sum(axis=0)
    where = [(f"column {names[i]!r}" if names else f"column {i}", counts[i]) for i in np.flatnonzero(counts)]
    if array.ndim == 1:
        where = [(name, counts[0])]
        listed = f"{name}: {counts[0]}"
    else:
        listed = f"{name}, " + ", ".join(f"{label}: {count}" for label, count in where[:5])
        listed += f" and {len(where) - 5} more columns" if len(where) > 5 else ""
    remedy = "standardise it first" if fault.startswith("too large") else "drop these rows or fill them in"
    raise ValueError(f"{fault} values in {listed} of {len(array)} rows; {remedy}")


def check_features(
    x: TableLike, name: str = "x", dtype: DTypeLike | None = None
) -> Float[np.ndarray, "n features"]:
    """Features as a checked array `(n, features)`: real, finite, at least one row and one column.

    Args:
        x: array-like or data frame.
        name: what messages call it.
        dtype: what to convert to; by default float32 stays, and all else is as wide as JAX allows.

    Raises:
        ValueError: names the column, what was found in it, and what to do.

    >>> from jaxreg import data
    >>> data.check_features([1.0, 2.0])
    Traceback (most recent call last):
    ...
    ValueError: x must have shape (rows, features), got (2,): for a single feature pass x[:, None]
    """
    array = _to_array(x, name, dtype)
    if array.ndim != 2:
        hint = ": for a single feature pass x[:, None]" if array.ndim == 1 else ""
        raise ValueError(f"{name} must have shape (rows, features), got {array.shape}{hint}")
    if 0 in array.shape:
        missing = "rows" if len(array) == 0 else "columns"
        raise ValueError(f"{name} has no {missing}: its shape is {array.shape}")
    return array


def check_targets(y: TableLike, name: str = "y", dtype: DTypeLike | None = None) -> np.ndarray:
    """Targets as a checked array `(n,)` or `(n, d)`: real and finite.

    The arguments are those of `check_features`.

    Raises:
        ValueError: names what was found, and what to do.
    """
    array = _to_array(y, name, dtype)
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] == 0):
        raise ValueError(f"{name} must have shape (rows,) or (rows, outputs), got {array.shape}")
    return array


def check_data(data: TableLike, name: str = "data") -> tuple[np.ndarray, ...]:
    """A checked `(x, y)` or `(x, y, weight)`, of which every array has x's dtype.

    Targets of no weight may hold anything, and come back as 0.

    Raises:
        ValueError: if x or y holds text, missing or infinite values, if their lengths differ, or if the
            weights are negative, all zero, or of another shape than `(n,)` or y's; if values of a column are
            equal in the dtype that they are computed in.
    """
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise ValueError(f"{name} must be (x, y) or (x, y, weight), got {_described(data)}")
    x = check_features(data[0], f"{name}: x" if name != "data" else "x")
    weight = None if len(data) == 2 else _to_array(data[2], "weight", np.float64)
    y = data[1]
    if weight is not None:
        raw = _numbers(np.asanyarray(y), "y")
        if weight.shape not in (raw.shape, raw.shape[:1]):
            raise ValueError(f"weight has shape {weight.shape}, expected {raw.shape[:1]} or y's {raw.shape}")
        if (weight < 0).any():
            raise ValueError(f"weight has {(weight < 0).sum()} negative values; 0 means an absent target")
        if not weight.any():
            raise ValueError("weight is zero everywhere: nothing is left to learn from")
        present = np.broadcast_to(over_outputs(weight, raw.shape), raw.shape)
        y, weight = np.where(present > 0, raw, 0), without_unit(weight)
    given = data[0], y
    y = check_targets(y, f"{name}: y" if name != "data" else "y")
    if len(y) != len(x):
        raise ValueError(f"x has {len(x)} rows and y has {len(y)}: each row of x needs its target")
    for what, before, after in zip("xy", given, (x, y.astype(x.dtype, copy=False)), strict=True):
        _check_distinct(before, after, what if name == "data" else f"{name}: {what}")
    return tuple(a.astype(x.dtype, copy=False) for a in (x, y, weight) if a is not None)


def _check_distinct(before: TableLike, after: np.ndarray, name: str) -> None:
    """Raise if half of a column's different values are equal in float32, as seconds since 1970 are."""
    names = column_names(before)
    if after.dtype != np.float32 or getattr(before, "dtype", None) == np.float32:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.ptp(after, axis=0) / np.spacing(np.abs(after).max(axis=0))
    wide = None
    for i in np.flatnonzero(np.atleast_1d(steps) < FEW_STEPS):
        wide = as_floats(before) if wide is None else wide
        columns = (wide, after) if after.ndim == 1 else (wide[:, i], after[:, i])
        if (
            np.ptp(columns[0]) < ROUNDED * np.abs(columns[0]).max()
        ):  # one value, but for float64's own rounding
            continue
        different, left = (len(np.unique(column)) for column in columns)
        if left <= different / 2:
            where = (
                "" if after.ndim == 1 else f", column {i}," if names is None else f", column {names[i]!r},"
            )
            raise ValueError(
                f"{name}{where} has {different:,} different values, and {left:,} in float32: "
                "standardise it first (jaxreg.Scaler), since values of this column are equal in float32"
            )


def check_trainable(data: tuple[np.ndarray, ...]) -> None:
    """Raise if checked data can't train a variance: fewer than two rows, or a target of one value."""
    x, y, *weight = data
    if len(x) < 2:
        raise ValueError(f"{len(x)} row is too few to learn a variance from: at least 2 are needed")
    for i, column in enumerate(y.reshape(len(y), -1).T):
        present = column
        if weight:
            share = weight[0].reshape(len(y), -1)
            present = column[share[:, min(i, share.shape[1] - 1)] > 0]
        which = "y" if y.ndim == 1 else f"y, column {i},"
        if present.size == 0:
            raise ValueError(
                f"the target {which} has no value of positive weight: there is no variance to learn"
            )
        check_varies(which, float(present.min()), float(present.max()))


def check_rows(name: str, rows: TableLike, members: int, n: int) -> Int[np.ndarray, "members k"]:
    """Row numbers for each member as checked integers, -1 for no row."""
    array = np.asarray(rows)
    if array.ndim != 2 or len(array) != members:
        raise ValueError(f"{name} has shape {array.shape}, expected ({members}, k): a list for each member")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} must hold whole numbers, it holds {array.dtype}: a mask is np.flatnonzero(...)"
        )
    outside = array[(array < -1) | (array >= n)]
    if outside.size:
        raise ValueError(f"{name} names row {outside[0]}, the data have rows 0 to {n - 1}; -1 is no row")
    empty = np.flatnonzero((array < 0).all(axis=1))
    if empty.size:
        raise ValueError(f"{name} has no row for member {empty[0]}")
    return array.astype(np.int32)


def check_weights(weights: TableLike, members: int, n: int) -> Float[np.ndarray, "members n"]:
    """Row weights for each member, finite and not negative."""
    array = _to_array(weights, "weights", np.float64)
    if array.shape != (members, n):
        raise ValueError(f"weights has shape {array.shape}, expected ({members}, {n}): members and rows")
    if (array < 0).any():
        raise ValueError(f"weights has {(array < 0).sum()} negative values; 0 means an absent row")
    empty = np.flatnonzero(~array.any(axis=1))
    if empty.size:
        raise ValueError(f"weights is zero everywhere for member {empty[0]}: nothing is left to learn from")
    return np.stack([without_unit(own) for own in array])


def _described(value: object) -> str:
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    if shape is not None:
        return f"a {kind} of shape {shape}"
    return f"a {kind} of {len(value)}" if isinstance(value, tuple | list) else f"a {kind}"
