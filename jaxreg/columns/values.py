"""Tables of any library as a polars table of few types: numbers, text, ordered levels, times."""

import datetime
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import polars as pl

from jaxreg.data.frames import DATES, PANDAS_DATES, TableLike, column_names
from jaxreg.plain import counted, listed

# Texts that stand for a missing value.
GAPS = (
    *("", "?", "\\N", "NA", "N/A", "n/a", "na", "<NA>", "NaN", "nan", "NaT", "NULL", "null", "None"),
    *("#N/A", "#N/A N/A", "#NA", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#NULL!"),
)
# Texts that do so among numbers alone: elsewhere they may be levels.
GAPS_AMONG_NUMBERS = "-", "--", "."

# How text may write a time. One that other formats of the list read otherwise is ambiguous.
TIME_FORMATS = (
    *("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f"),
    *("%Y-%m-%dT%H:%M:%S%.fZ", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S", "%Y%m%dT%H%M%S"),
    *("%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S"),
    *("%m/%d/%Y", "%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y", "%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S"),
)
# A share of the values that a column's text has to be numbers, or times, to be taken as such.
NEARLY_ALL = 0.95
FIRST_VALUES = 200


def table_names(values: TableLike) -> list[str] | None:
    """Names of a table's columns, None where they have none.

    Raises:
        ValueError: if it is no table, or columns share a name.
    """
    names = column_names(values)
    if names is None:
        if (ndim := np.ndim(values)) != 2:
            kind = type(values).__name__
            raise ValueError(
                f"a table of rows and columns is needed, got a {kind} of {counted(ndim, 'dimension')}"
            )
    elif twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{listed(twice)}: more than one column has that name")
    return names


def as_table(values: TableLike) -> pl.DataFrame:
    """A table of numbers (Float64), text (String), levels (Categorical, ordered Enum) and times (Datetime).

    Gaps of any library are null. Columns without names are called by their numbers.

    Args:
        values: data frames of pandas or polars; arrays and nested lists, `(rows, columns)`.

    Raises:
        ValueError: names all columns that hold something else, infinite numbers, or have one name.

    >>> import pandas as pd
    >>> from jaxreg.columns import as_table
    >>> frame = pd.DataFrame({"city": ["Rome", None], "age": [31, pd.NA]})
    >>> print(*as_table(frame).dtypes)
    String Float64
    """
    names = table_names(values)
    if names is None:
        array = values if isinstance(values, np.ndarray) else np.asarray(values, _dtype_of(values))
        columns = {str(i): column for i, column in enumerate(array.T)}
    else:
        # By name polars would take some names for patterns.
        parts = (
            values.get_columns()
            if isinstance(values, pl.DataFrame)
            else (values[own] for own in values.columns)
        )
        columns = dict(zip(names, parts, strict=True))
    found, faults = {}, []
    for name, column in columns.items():
        try:
            found[name] = _series(column)
        except (ValueError, OverflowError) as error:
            what = "holds a number too large for float64" if isinstance(error, OverflowError) else error
            faults.append(f"column {name!r} {what}")
    if faults:
        raise ValueError("; ".join(faults))
    return pl.DataFrame(found)


def picked(table: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
    """Some columns, never more: elsewhere polars takes some names for patterns."""
    return pl.DataFrame({name: table.get_column(name) for name in names})


def _dtype_of(values: Any) -> type | None:
    """Objects, where nested lists hold several kinds: NumPy would make text of their numbers."""
    kinds = {isinstance(value, Real) for row in values for value in (row if np.iterable(row) else [row])}
    return None if kinds == {True} else object


def _series(column: Any) -> pl.Series:
    """A column as one of the types; an error says what it holds otherwise."""
    if not isinstance(column, pl.Series):
        column = _from_others(column)
    kind, column = column.dtype, column.alias("")  # a name that polars may take for a pattern
    if kind.is_numeric() or kind == pl.Boolean:
        numbers = column.cast(pl.Float64).fill_nan(None)
        if count := int(numbers.is_infinite().sum()):
            raise ValueError(f"holds infinity in {counted(count, 'row')}: replace it, or leave it empty")
        return numbers
    if kind == pl.Null:
        return column.cast(pl.Float64)
    if kind in (pl.Enum, pl.Categorical, pl.String):
        return column
    if kind == pl.Datetime:
        zoned = column if column.dtype.time_zone is None else column.dt.convert_time_zone("UTC")
        return zoned.dt.replace_time_zone(None).cast(pl.Datetime("us"))
    if kind == pl.Date:
        return column.cast(pl.Datetime("us"))
    if kind in (pl.Time, pl.Duration):  # seconds since midnight, and seconds
        return column.cast(pl.Duration("us")).dt.total_microseconds().cast(pl.Float64) / 1e6
    raise ValueError(f"holds {kind} values: numbers, text or times are needed")


def _from_others(column: Any) -> pl.Series:
    """A column of pandas or NumPy."""
    if hasattr(column, "cat"):
        texts = [None if text is None else str(text) for text in _objects(column)]
        levels = list(map(str, column.cat.categories))
        return pl.Series(values=texts, dtype=pl.Enum(levels) if column.cat.ordered else pl.Categorical)
    zone = getattr(column.dtype, "tz", None)
    if zone is not None:
        column = column.dt.tz_convert("UTC").dt.tz_localize(None)
    array = column if isinstance(column, np.ndarray) else np.asarray(column)
    if np.ma.isMaskedArray(column):
        array = np.ma.filled(column.astype(np.float64), np.nan)
    if array.dtype.kind in "biuf":
        return pl.Series(values=np.ascontiguousarray(array, np.float64))
    if array.dtype.kind in "mM":
        return pl.Series(values=array.astype(f"{array.dtype.kind}8[us]"))
    return _of_objects(_objects(column))


def _objects(column: Any) -> list[Any]:
    """Python's values, None where one is missing."""
    values = np.asarray(column, object).tolist()
    return [None if _is_gap(value) else value for value in values]


def _is_gap(value: object) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, Real | Decimal | np.datetime64 | np.timedelta64) and bool(value != value)


def _of_objects(values: list[Any]) -> pl.Series:
    """Values of Python's types: all numbers, all times, or text where there is any."""
    known = [value for value in values if value is not None]

    def all_are(*kinds: type) -> bool:
        return all(isinstance(value, kinds) for value in known)

    def each(function: Callable[[Any], Any], dtype: Any) -> pl.Series:
        return pl.Series(values=[None if value is None else function(value) for value in values], dtype=dtype)

    if all_are(Real, Decimal):
        return each(float, pl.Float64)
    if all_are(datetime.timedelta):
        return each(lambda value: value.total_seconds(), pl.Float64)
    if all_are(datetime.time):
        return each(lambda value: value, pl.Time)
    if all_are(datetime.date):
        return each(_in_utc, pl.Datetime("us"))
    odd = [value for value in known if not isinstance(value, (str, Real, Decimal, *DATES))]
    odd = [value for value in odd if type(value).__name__ not in PANDAS_DATES]
    if odd:
        kind = type(odd[0]).__name__
        raise ValueError(
            f"holds {kind} values ({counted(len(odd), 'row')}): numbers, text or times are needed"
        )
    return each(str, pl.String)


def _in_utc(value: datetime.date) -> datetime.datetime:
    if not isinstance(value, datetime.datetime):
        return datetime.datetime(value.year, value.month, value.day)
    return value if value.tzinfo is None else value.astimezone(datetime.UTC).replace(tzinfo=None)


def without_gaps(text: pl.Series) -> pl.Series:
    """Text whose words for a missing value are null, without blanks around it."""
    stripped = text.cast(pl.String).str.strip_chars()
    return stripped.set(stripped.is_in(GAPS), None)


def without_number_gaps(text: pl.Series) -> pl.Series:
    """The same without what stands for a missing value among numbers."""
    bare = without_gaps(text)
    return bare.set(bare.is_in(GAPS_AMONG_NUMBERS), None)


def numbers_in(text: pl.Series) -> pl.Series:
    """The numbers that a column's text writes; null where there is none."""
    numbers = without_gaps(text).cast(pl.Float64, strict=False)
    return numbers.set(~numbers.is_finite(), None)


def is_numbers(column: pl.Series) -> bool:
    """Whether nearly all of a column's text is numbers."""
    if column.dtype != pl.String:
        return False
    bare = without_number_gaps(column)
    return bare.null_count() < len(bare) and _nearly_all(bare, numbers_in)


def times_in(text: pl.Series, time_format: str) -> pl.Series:
    """The times that a column's text writes in a format; null where there is none."""
    return without_gaps(text).str.strptime(pl.Datetime("us"), time_format, strict=False)


def time_formats(column: pl.Series) -> list[str]:
    """The formats in which nearly all of a column's text is a time: several if it is ambiguous."""
    if column.dtype != pl.String:
        return []
    return [each for each in TIME_FORMATS if _nearly_all(column, partial(times_in, time_format=each))]


def _nearly_all(text: pl.Series, read: Callable[[pl.Series], pl.Series]) -> bool:
    """Whether nearly all values can be read; the first ones say at once where most can't."""
    known = without_gaps(text).drop_nulls()
    for part in (known.head(FIRST_VALUES), known):
        if not len(part) or read(part).count() < NEARLY_ALL * len(part):
            return False
    return True
