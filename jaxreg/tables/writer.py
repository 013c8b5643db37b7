"""Tables that are written whole or not at all."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from jaxreg.files import replacing
from jaxreg.tables.lines import check_suffix


def write(table: pl.DataFrame, path: Path) -> None:
    """Write a table in the format of the path's suffix, whole or not at all."""
    suffix = check_suffix(path)
    # Opened here, because polars refuses paths that the locale's encoding lacks.
    with replacing(path) as temporary, temporary.open("wb") as file:
        if suffix == ".parquet":
            table.write_parquet(file)
        else:
            table.write_csv(file, separator="\t" if suffix == ".tsv" else ",")


class Writer:
    """A table that is written part by part, whole or not at all: Parquet, a row group for each part, or text.

    Args:
        path: what to write, in the format of its suffix; None is standard output.

    `with Writer(path) as writer: writer.write(table)`.
    """

    def __init__(self, path: Path | None):
        self._path, self._text, self._parquet = path, None, None
        self._within, self._written = ExitStack(), 0

    def __enter__(self) -> "Writer":
        if self._path is None:
            if sys.__stdout__ is None:
                raise OSError("standard output is closed: name a file to write")
            self._text = sys.stdout.buffer
            return self
        self._temporary = self._within.enter_context(replacing(self._path))
        if check_suffix(self._path) != ".parquet":
            self._text = self._within.enter_context(self._temporary.open("wb"))
        return self

    def __exit__(self, *error: Any) -> None:
        self._within.__exit__(*error)

    def write(self, table: pl.DataFrame) -> None:
        """Write more rows."""
        if self._text is not None:
            separator = "\t" if self._path is not None and self._path.suffix.lower() == ".tsv" else ","
            first = self._written == 0
            rest = memoryview(table.write_csv(separator=separator, include_header=first).encode())
            while rest:  # an unbuffered pipe may take only a part
                rest = rest[self._text.write(rest) :]
        else:
            rows = table.to_arrow()
            if self._parquet is None:
                self._parquet = pq.ParquetWriter(self._temporary, rows.schema, compression="zstd")
                self._within.callback(self._parquet.close)
            self._parquet.write_table(rows)
        self._written += len(table)
