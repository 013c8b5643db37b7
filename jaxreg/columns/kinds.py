"""How single columns become what a network takes: numbers, categories, ordered categories, times, nothing.

Each kind has `fit`, which learns from the training rows; `codes`, other rows as one number each; `encoded`,
what these numbers give the network, in NumPy or JAX; `guessed`, how many were taken otherwise than they are;
`has_number`, whether a scaled number is among it; `vector`, how many levels have learned vectors and of which
size, None without; `flags`, what its flags say; `recounted`, the same where levels and gaps of more rows were
counted; `grown`, the same with what other rows bring, at its place after what there is; `told`, what the
column is and as what it is taken, in words; and `faults`, what is wrong with one that a file holds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from jaxreg.columns.categories import ROWS_OF_A_LEVEL, Category, Ordered
from jaxreg.columns.counts import Counts
from jaxreg.columns.numbers import Number, known_of
from jaxreg.columns.times import Time
from jaxreg.columns.values import is_numbers, time_formats

# A share of texts that stand in one row alone from which on a column names its rows.
ALL_DIFFERENT = 0.9


@dataclass(frozen=True)
class Nothing:
    """A column that is left out.

    Attributes:
        name: of the column.
        why: it is.
    """

    name: str
    why: str

    has_number: ClassVar[bool] = False
    vector: ClassVar[None] = None
    flags: ClassVar[tuple[str, ...]] = ()

    def recounted(self, counts: Counts) -> "Nothing":
        """The same."""
        return self

    def grown(self, counts: Counts) -> "Nothing":
        """The same."""
        return self

    def faults(self) -> Iterator[str]:
        """None."""
        yield from ()

    def told(self) -> tuple[str, str]:
        """Why."""
        return self.why, "left out"


Kind = Number | Category | Ordered | Time | Nothing
KINDS = {kind.__name__.lower(): kind for kind in (Number, Category, Ordered, Time, Nothing)}


def count(column: pl.Series, asked_levels: bool) -> Counts:
    """What of a column's values `recounted` needs; levels where it is text, or they are asked for."""
    if asked_levels or column.dtype not in (pl.Float64, pl.Datetime):
        return Category.count(column)
    return Counts(len(column), column.null_count(), None)


def kind_of(
    name: str, column: pl.Series, weight: np.ndarray | None = None, *, asked: str | None = None
) -> Kind:
    """What a column of training rows is; `asked`, "number" or "category", is the user's word."""
    known = known_of(column)
    values = known.n_unique() - (known.null_count() > 0)
    if values == 0:
        return Nothing(name, "empty")
    if values == 1 and not known.null_count():
        return Nothing(name, "constant")
    if asked == "number":
        return Number.fit(name, column, weight)
    if asked == "category":
        return Category.fit(name, column)
    if column.dtype == pl.Float64:
        return Number.fit(name, column, weight)
    if column.dtype == pl.Datetime:
        return Time.fit(name, column, weight)
    if column.dtype == pl.Enum:
        return Ordered.fit(name, column, weight)
    if is_numbers(column):
        return Number.fit(name, column, weight)
    formats = time_formats(column)
    if len(formats) == 1:
        return Time.fit(name, column, weight, time_format=formats[0])
    category = Category.fit(name, column)
    rows = len(column) - known.null_count()
    if not category.levels and min(rows, known.null_count()) < ROWS_OF_A_LEVEL:
        different = values >= ALL_DIFFERENT * rows
        why = "a different text in nearly every row" if different else "no text in as many as 5 rows"
        return Nothing(name, why)
    return category
