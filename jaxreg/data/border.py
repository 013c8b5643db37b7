"""The border: what users pass becomes checked arrays, once."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from numpy.typing import DTypeLike

from jaxreg.checks import check_varies, over_outputs
from jaxreg.data.frames import TableLike, as_floats, column_names
from jaxreg.data.scaler import without_unit
from jaxreg.plain import counted

# A column whose range is fewer steps of float32 than this is looked at for values that fall together.
FEW_STEPS = 4096

# Differences of this share of a value are float64's own rounding, after some arithmetic.
ROUNDED = 1e-12


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
    if array.ndim == 2 and name.endswith("y") and fault.startswith("missing"):
        remedy = "drop these rows, weigh what is missing 0, or take one target at a time"
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
    as_given = data[0], y
    y = check_targets(y, f"{name}: y" if name != "data" else "y")
    if len(y) != len(x):
        raise ValueError(f"x has {counted(len(x), 'row')} and y has {len(y)}: each row of x needs its target")
    for what, before, after in zip("xy", as_given, (x, y.astype(x.dtype, copy=False)), strict=True):
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
