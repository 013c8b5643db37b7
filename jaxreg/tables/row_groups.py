"""Row groups of Parquet files: what is read at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from jaxreg.plain import counted


class RowGroup(NamedTuple):
    """A row group of a file: what is read at once.

    Attributes:
        path: the file.
        group: which of its row groups.
        rows: how many rows it has.
        first: the number of its first row among those of all files.
        file: the user's file, of which `path` may be a copy as Parquet.
        within: the number of its first row in that file.
    """

    path: Path
    group: int
    rows: int
    first: int
    file: Path
    within: int

    @property
    def numbers(self) -> Int[np.ndarray, " rows"]:
        """The numbers of its rows among those of all files."""
        return np.arange(self.first, self.first + self.rows)

    def read(self, names: Sequence[str]) -> pa.Table:
        """Some of its columns.

        Raises:
            ValueError: if it can't be read, or has other rows than it had.
        """
        try:
            with pq.ParquetFile(self.path, memory_map=False) as file:
                table = file.read_row_group(self.group, columns=list(names))
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self} can't be read: {reason}") from None
        if len(table) != self.rows:
            raise ValueError(
                f"{self.file} was changed: row group {self.group} had {counted(self.rows, 'row')}"
            )
        return table

    def __str__(self) -> str:
        if self.path == self.file:
            return f"{self.file}, row group {self.group},"
        return f"{self.file}, rows {self.within + 1:,} to {self.within + self.rows:,},"


def as_floats(column: pa.ChunkedArray) -> Float[np.ndarray, " rows"]:
    """Nulls of any type become NaN; whole numbers beyond 2**53 are rounded, as NumPy does it."""
    return column.cast(pa.float64(), safe=False).to_numpy()
