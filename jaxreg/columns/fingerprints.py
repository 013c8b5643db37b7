"""Numbers by which rows are found again in other tables."""

import hashlib
from collections.abc import Iterable

import numpy as np
import polars as pl
from jaxtyping import Float, UInt64

from jaxreg.columns.categories import as_text
from jaxreg.columns.columns import Columns
from jaxreg.columns.values import without_gaps
from jaxreg.data.rows import mixed

# Scaled numbers are told apart on a grid so fine, which hides the rounding of another unit.
GRID = 2.0**10
# An odd number without a pattern: the fraction of the golden ratio.
STEP = np.uint64(0x9E3779B97F4A7C15)


def fingerprints(values: Iterable[pl.Series | Float[np.ndarray, " rows"]]) -> UInt64[np.ndarray, " rows"]:
    """A number for each row that depends on its values alone, and of equal rows on how many stand before.

    Args:
        values: of each column, numbers or text; at least one.
    """
    found = np.zeros((), np.uint64)
    for column in values:
        found = mixed(found + STEP + _words(column))
    order = np.argsort(found, kind="stable")
    position, is_first = np.arange(len(order)), np.diff(found[order], prepend=~found[order][:1]) != 0
    repeats = np.empty(len(order), np.uint64)
    repeats[order] = position - np.maximum.accumulate(np.where(is_first, position, 0))
    return mixed(found + STEP + repeats)


def of_scaled(
    columns: Columns,
    table: pl.DataFrame,
    inputs: Float[np.ndarray, "rows inputs"],
    y: Float[np.ndarray, " *targets"],
) -> UInt64[np.ndarray, " rows"]:
    """Those of rows as a network takes them, which stay what they are when columns grow or change their unit.

    Args:
        columns: which take the rows in.
        table: the rows, as `as_table` gives them.
        inputs: the same, as `columns` gives them.
        y: scaled targets, NaN where one is missing.
    """
    scaled = np.concatenate([inputs[:, : columns.numbers], y.reshape(len(y), -1)], axis=1)
    levels = (as_text(table.get_column(name)) for name in columns.with_levels)
    return fingerprints([*np.round(GRID * scaled).T, *levels])


def _words(column: pl.Series | Float[np.ndarray, " rows"]) -> UInt64[np.ndarray, " rows"]:
    """A number for each value, whether the column has it as a number, a time, or text that says the same."""
    if isinstance(column, np.ndarray):
        return np.where(np.isnan(column), np.nan, column + 0.0).view(np.uint64)  # one zero and one NaN
    column = column.alias("")  # polars takes some names for patterns
    if column.dtype == pl.Datetime:
        column = column.dt.strftime("%Y-%m-%d %H:%M:%S%.f").str.strip_suffix(" 00:00:00")
    numbers = column.cast(pl.String).cast(pl.Float64, strict=False) if column.dtype != pl.Float64 else column
    words = _words(numbers.fill_null(np.nan).to_numpy())
    if numbers.null_count() == column.null_count():
        return words
    text = without_gaps(column.cast(pl.String))
    values = text.drop_nulls().unique()
    digests = [hashlib.blake2b(value.encode(), digest_size=8).digest() for value in values]
    of_value = pl.Series(np.frombuffer(b"".join(digests), "<u8"), dtype=pl.UInt64)
    of_text = text.replace_strict(values, of_value, default=0, return_dtype=pl.UInt64).to_numpy()
    return np.where((numbers.is_null() & text.is_not_null()).to_numpy(), of_text, words)
