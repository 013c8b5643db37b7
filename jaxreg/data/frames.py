"""What users pass as tables: names and types of columns, gaps, and why one isn't numbers."""

import datetime
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

# What the border takes: arrays of any library, nested lists, pandas and polars frames and series.
TableLike = Any
DATES = datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64
PANDAS_DATES = "Period", "Interval"
MOST_FAULTS = 20
LONGEST_SHOWN = 40


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
        array = np.asanyarray(values) if hasattr(values, "dtype") else as_array(values)
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


def as_array(values: TableLike) -> np.ndarray:
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
