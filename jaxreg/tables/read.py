"""Tables in memory: CSV or Parquet files, and what is wrong with their columns."""

import contextlib
import csv
import itertools
import json
import shlex
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from jaxreg.plain import did_you_mean, listed
from jaxreg.tables.csv import (
    BYTES_PER_VALUE,
    INDEX_NAME,
    as_numbers,
    check_memory,
    raise_faults,
    read_csv,
    text_fault,
)
from jaxreg.tables.form import AS_FOUND, Form
from jaxreg.tables.lines import check_suffix, csv_rows, first_line, header, is_written, shown
from jaxreg.tables.plain import by_their_names, plain


@by_their_names()
def read(
    path: Path, *, text: Collection[str] = (), empty: bool = False, form: Form = AS_FOUND
) -> pl.DataFrame:
    """A CSV or Parquet file as a table, with at least one row unless `empty`.

    In a CSV file blank lines are skipped, values may be in quotes, and the separator is a comma or, if the
    first line has none, a semicolon, a tab or a bar. The columns in `text` are left as they are written.
    Numbers may have decimal commas, separated thousands, currency and percent signs, which a warning says.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is neither, can't be read, has no rows or two columns of one name, or needs more
            than the machine's memory.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    path, form = plain([path], form)[0], form.of_values
    table = _read_parquet(path) if check_suffix(path) == ".parquet" else read_csv(path, text, form)
    if table.height == 0 and not empty:
        raise ValueError(f"{path} has no rows: only the {listed(table.columns)}")
    return table


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        found = pl.scan_parquet(path, glob=False)
        rows, names = found.select(pl.len()).collect().item(), found.collect_schema().names()
        check_memory(path, BYTES_PER_VALUE * rows * len(names))
        return found.collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise ValueError(f"{path} can't be read: {str(error).splitlines()[0]}") from None


def index_columns(path: Path) -> list[str]:
    """Columns that hold the index of the pandas frame that a file was written from, not data."""
    if check_suffix(path) != ".parquet":
        first, *others = names = header(path)
        stored = [first] if first == "" and all(others) else []  # as pandas writes it
    else:
        try:
            names, kept = (
                list(pl.read_parquet_schema(path)),
                pl.read_parquet_metadata(path).get("pandas", "{}"),
            )
            stored = [name for name in json.loads(kept).get("index_columns", ()) if isinstance(name, str)]
        except (pl.exceptions.PolarsError, OSError, AttributeError, TypeError, ValueError):
            return []
    return [name for name in names if name in set(stored) or INDEX_NAME.fullmatch(name)]


def check_columns(table: pl.DataFrame, names: Sequence[str], path: Path) -> None:
    """Raise, with the list of columns, unless a table has all these columns."""
    columns = set(table.columns)
    for name in names:
        if name not in columns:
            similar = did_you_mean(name, table.columns)
            raise ValueError(f"{path} has no column {name!r}: it has {listed(table.columns)}{similar}")


def columns(path: Path, names: list[str]) -> pl.DataFrame:
    """Some columns of a file, all of them numeric."""
    table = read(path)
    check_columns(table, names, path)
    return numeric(table, names, path)


def typed(table: pl.DataFrame, names: Collection[str], path: Path) -> pl.DataFrame:
    """Some columns of a table as they are, text of which every value is a number as numbers.

    Raises:
        ValueError: names columns that have no name.
    """
    found, faults = [], []
    for name in names:
        column = table[name]
        if name == "":
            faults.append(f"column {table.columns.index(name) + 1} of {path} has no name: name it")
        if column.dtype == pl.String and column.null_count() < len(column):
            numbers = as_numbers(column)
            column = numbers if numbers.null_count() == column.null_count() else column
        # NumPy has no such types.
        odd = column.dtype in (pl.Int128, pl.UInt128) or column.dtype.is_decimal()
        found.append(column.cast(pl.Float64) if odd else column)
    raise_faults(faults)
    return pl.DataFrame(found)


def joined(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Parts of a table below each other; a column that is text in one of them is text in all."""
    text = {name for part in parts for name, kind in part.schema.items() if kind == pl.String}
    return pl.concat(
        [part.cast({name: pl.String for name in text}) for part in parts], how="vertical_relaxed"
    )


def numeric(
    table: pl.DataFrame, names: Collection[str], path: Path, droppable: Collection[str] = ()
) -> pl.DataFrame:
    """Some columns of a table, or an error that names those of text, of dates or without values.

    A column of text counts as numbers if every value is a number (`+1`, ` 2`, `inf`), true or false.
    """
    found, faults, droppable = [], [], set(droppable)
    for name in names:
        column = table[name]
        drop = f"leave it out with --drop {shlex.quote(name)}, or " if name in droppable else ""
        called = f"column {name!r} of {path}"
        if name == "":
            faults.append(f"column {table.columns.index(name) + 1} of {path} has no name: {drop}name it")
        elif column.null_count() == len(column):
            faults.append(f"{called} holds no values: {drop}fill it in")
        elif column.dtype == pl.String:
            numbers = as_numbers(column)
            if numbers.null_count() > column.null_count():
                odd = numbers.alias("").is_null() & column.alias("").is_not_null()
                faults.append(text_fault(called, column, odd, partial(_where, path, table, name), drop))
            found.append(numbers)
        elif not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
            value = column.drop_nulls().first()
            faults.append(
                f"{called} holds {column.dtype} values such as {shown(value)}, numbers are needed: "
                f"{drop}encode it first"
            )
        else:
            # NumPy has no such types.
            odd = column.dtype in (pl.Int128, pl.UInt128) or column.dtype.is_decimal()
            found.append(column.cast(pl.Float64) if odd else column)
    raise_faults(faults)
    return pl.DataFrame(found)


def _where(path: Path, table: pl.DataFrame, name: str, row: int) -> str:
    """Where a value of a file stands."""
    path = plain([path])[0]
    if check_suffix(path) == ".parquet":
        return f" in row {row + 1}"
    content, i = path.read_bytes(), table.columns.index(name)
    reader = csv_rows(content, first_line(path, content)[0])
    value = table[name][row]
    rows = itertools.islice(filter(is_written, reader), 1, None)  # without the names
    lines = (reader.line_num for cells in rows if len(cells) > i and cells[i] == value)
    with contextlib.suppress(csv.Error, StopIteration):
        return f" in line {next(lines)}"
    return ""
