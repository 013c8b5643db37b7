"""How often a column's values are there, counted part by part."""

from typing import NamedTuple

import polars as pl

# So many levels of a column are counted; where there are more, the rarest are forgotten first.
MOST_LEVELS = 200_000


class Counts(NamedTuple):
    """Of some rows of a column.

    Attributes:
        rows: how many there are.
        missing: rows without a value.
        levels: each and its rows, columns `level` and `count`; None where nobody asks.
        forgotten: whether there were more levels than are counted.
    """

    rows: int
    missing: int
    levels: pl.DataFrame | None
    forgotten: bool = False

    def __add__(self, other: "Counts") -> "Counts":
        rows, missing = self.rows + other.rows, self.missing + other.missing
        forgotten = self.forgotten or other.forgotten
        if self.levels is None or other.levels is None:
            return Counts(rows, missing, None, forgotten)
        levels = pl.concat([self.levels, other.levels]).group_by("level").agg(pl.col("count").sum())
        if len(levels) > MOST_LEVELS:
            levels, forgotten = levels.sort("count", "level", descending=[True, False])[:MOST_LEVELS], True
        return Counts(rows, missing, levels, forgotten)


def levels_of(text: pl.Series) -> pl.DataFrame:
    """Each level and its rows."""
    counted = text.drop_nulls().alias("level").value_counts()
    return counted.cast({"level": pl.String, "count": pl.Int64})
