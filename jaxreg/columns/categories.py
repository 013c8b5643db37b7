"""Columns of levels, ordered ones among them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import polars as pl
from jaxtyping import Float

from jaxreg.columns.counts import Counts, levels_of
from jaxreg.columns.numbers import Inputs, Number, flagged, nothing_for
from jaxreg.columns.values import without_gaps
from jaxreg.plain import counted

# Levels of fewer rows share one. Up to so many levels have an input each, more have a learned vector.
ROWS_OF_A_LEVEL = 5
MOST_INPUTS = 12
LARGEST_VECTOR = 8
# A file may have longer ones.
MOST_OF_A_VECTOR = 64


def vector_size(levels: int) -> int:
    """The size of the learned vectors of so many levels; 0 for few, which have an input each."""
    return min(math.ceil(levels**0.4), LARGEST_VECTOR) if levels > MOST_INPUTS else 0


@dataclass(frozen=True)
class Category:
    """A column of levels: an input for each of a few, a learned vector for each of many.

    Attributes:
        name: of the column.
        levels: those of enough rows, the most frequent first, and then those that later rows brought.
        rare: whether training rows had others, which share one.
        gaps: whether training rows lacked one.
        size: of the learned vector, 0 for one input each.
        shares: of the training rows that have each input, of the levels, of rare ones and of gaps.
    """

    name: str
    levels: tuple[str, ...]
    rare: bool
    gaps: bool
    size: int
    shares: tuple[float, ...] = ()

    has_number: ClassVar[bool] = False

    @classmethod
    def fit(cls, name: str, column: pl.Series) -> "Category":
        """Learn which levels there are."""
        return cls.of(name, cls.count(column))

    @staticmethod
    def count(column: pl.Series) -> Counts:
        """How often each level is there."""
        text = as_text(column)
        return Counts(len(text), text.null_count(), levels_of(text))

    @classmethod
    def of(cls, name: str, counts: Counts) -> "Category":
        """The same from what was counted."""
        levels = counts.levels.sort(["count", "level"], descending=[True, False])
        kept = levels.filter(levels["count"] >= ROWS_OF_A_LEVEL)["level"].to_list()
        rare, size = len(kept) < len(levels) or counts.forgotten, vector_size(len(kept))
        numbers = levels["count"].to_list()[: len(kept)]
        others = counts.rows - counts.missing - sum(numbers)
        rows = [*numbers, *[others] * rare, *[counts.missing] * (counts.missing > 0)]
        shares = () if size else tuple(count / counts.rows for count in rows)
        return cls(name, tuple(kept), rare, counts.missing > 0, size, shares)

    @property
    def vector(self) -> tuple[int, int] | None:
        """The levels, the rare ones as one, and gaps."""
        return (len(self.levels) + 2, self.size) if self.size else None

    def codes(self, column: pl.Series) -> Float[np.ndarray, " rows"]:
        """The levels' numbers; those of other levels and of gaps come after them."""
        text = as_text(column)
        numbers = dict(zip(self.levels, range(len(self.levels)), strict=True))
        at = text.replace_strict(numbers, default=len(numbers), return_dtype=pl.Float64)
        return at.set(text.is_null(), len(numbers) + 1).to_numpy()

    def encoded(self, codes: Any, xp: Any = np) -> Inputs:
        """1 at the level's input, or the level's number."""
        rare, gap = len(self.levels), len(self.levels) + 1
        none = nothing_for(codes)
        if self.size:
            return Inputs(none, none, xp.where(xp.isnan(codes), gap, codes)[:, None])
        shown = [*range(rare), *[rare] * self.rare, *[gap] * self.gaps]
        present = xp.where(xp.isnan(codes), gap, codes)[:, None] == np.array(shown, float)[None]
        return Inputs(none, flagged(present, self.shares, xp), none)

    def guessed(self, column: pl.Series, codes: np.ndarray) -> int:
        """Levels and gaps that no training row had."""
        unseen, gaps = (int((codes == len(self.levels) + i).sum()) for i in range(2))
        return unseen * (not self.rare) + gaps * (not self.gaps)

    def recounted(self, counts: Counts) -> "Category":
        """The same from other rows' levels."""
        return Category.of(self.name, counts)

    @property
    def flags(self) -> tuple[str, ...]:
        """What its flags say."""
        levels = (f"is {level}" for level in self.levels)
        return () if self.size else (*levels, *["rare"] * self.rare, *["missing"] * self.gaps)

    def grown(self, counts: Counts) -> "Category":
        """The same with the levels that other rows have often enough, after those that there are.

        Where they become too many for an input each, what the inputs were becomes the learned vectors.
        """
        sorted_ = counts.levels.sort(["count", "level"], descending=[True, False])
        more = {level: rows for level, rows in sorted_.iter_rows() if level not in set(self.levels)}
        fresh = {level: rows for level, rows in more.items() if rows >= ROWS_OF_A_LEVEL}
        others = sum(more.values()) - sum(fresh.values())
        found = replace(
            self,
            levels=(*self.levels, *fresh),
            rare=self.rare or others > 0 or counts.forgotten,
            gaps=self.gaps or counts.missing > 0,
            shares=(),
        )
        if not self.size and len(found.levels) <= MOST_INPUTS:
            rows = {f"is {level}": rows for level, rows in fresh.items()}
            rows |= {"rare": max(others, 1), "missing": counts.missing}
            shares = {flag: max(own, 1) / max(counts.rows, 1) for flag, own in rows.items()}
            shares |= dict(zip(self.flags, self.shares, strict=True))
            return replace(found, shares=tuple(shares[flag] for flag in found.flags))
        return replace(found, size=self.size or max(len(self.shares), 1))

    def faults(self) -> Iterator[str]:
        """Levels that stand twice, or vectors of another size than theirs."""
        if len(set(self.levels)) < len(self.levels):
            yield "a level stands twice"
        if not 0 <= self.size <= MOST_OF_A_VECTOR or (self.size > 0) != (len(self.levels) > MOST_INPUTS):
            yield f"its {len(self.levels):,} levels have vectors of {self.size}"
        inputs = 0 if self.size else len(self.levels) + self.rare + self.gaps
        if len(self.shares) != inputs or not all(0 < share <= 1 for share in self.shares):
            yield f"the shares of its {inputs} inputs are {self.shares[:9]}"

    def told(self) -> tuple[str, str]:
        """Its levels."""
        if not self.levels:
            return "text, rarely there", "whether it is missing"
        more = ", rare ones as one" * self.rare + ", and whether it is missing" * self.gaps
        taken = f"a vector of {self.size} for each" if self.size else "an input for each"
        return f"category, {counted(len(self.levels), 'level')}", taken + more


def as_text(column: pl.Series) -> pl.Series:
    """Values as text, a whole number without its decimals."""
    column = column.alias("level")  # polars takes some names for patterns
    if column.dtype == pl.Float64:
        known = column.drop_nulls().unique()
        whole = (known == known.round(0)) & (known.abs() < 2**53)
        numbers = [
            str(int(value)) if is_whole else str(value) for value, is_whole in zip(known, whole, strict=True)
        ]
        return column.replace_strict(known, pl.Series(numbers, dtype=pl.String), default=None)
    text = column.cast(pl.String) if column.dtype != pl.String else column
    return without_gaps(text)


@dataclass(frozen=True)
class Ordered:
    """A column of ordered levels: as the number of the level, and as a category.

    Attributes:
        order: all levels.
        number: of their numbers.
        category: of the levels themselves.
    """

    order: tuple[str, ...]
    number: Number
    category: Category

    has_number: ClassVar[bool] = True

    @classmethod
    def fit(cls, name: str, column: pl.Series, weight: np.ndarray | None = None) -> "Ordered":
        """Learn both; levels are counted in rows, whatever their weight."""
        order = tuple(column.dtype.categories.to_list())
        numbers = _ranks(order, column)
        return cls(order, replace(Number.fit(name, numbers, weight), gaps=0.0), Category.fit(name, column))

    @property
    def name(self) -> str:
        """Of the column."""
        return self.category.name

    @property
    def vector(self) -> tuple[int, int] | None:
        """That of the category."""
        return self.category.vector

    def codes(self, column: pl.Series) -> Float[np.ndarray, " rows"]:
        """The levels' places in their order; those of other levels and of gaps come after them."""
        text = column.cast(pl.String)
        at = _ranks(self.order, column).fill_null(len(self.order))
        return at.set(text.is_null(), len(self.order) + 1).to_numpy()

    def encoded(self, codes: Any, xp: Any = np) -> Inputs:
        """Both, next to each other."""
        places = {level: i for i, level in enumerate(self.category.levels)}
        rare, count = len(places), len(self.order)
        level_of = np.array([*(places.get(level, rare) for level in self.order), rare, rare + 1], float)
        at = xp.where(xp.isnan(codes), count + 1, codes)
        category = self.category.encoded(xp.asarray(level_of)[xp.clip(at, 0, count + 1).astype(int)], xp)
        return category._replace(numbers=self.number.encoded(xp.where(at < count, at, np.nan), xp).numbers)

    def guessed(self, column: pl.Series, codes: np.ndarray) -> int:
        """As those of the category."""
        return self.category.guessed(column, self.category.codes(column))

    def recounted(self, counts: Counts) -> "Ordered":
        """The same from other rows' levels."""
        return replace(self, category=self.category.recounted(counts))

    @property
    def flags(self) -> tuple[str, ...]:
        """Those of the category."""
        return self.category.flags

    def grown(self, counts: Counts) -> "Ordered":
        """The same with more levels of the order, in which others have no place."""
        known = counts.levels.filter(counts.levels["level"].is_in(self.order))
        forgotten = counts.forgotten or len(known) < len(counts.levels)
        own = counts._replace(levels=known, forgotten=forgotten)
        return replace(self, category=self.category.grown(own))

    def faults(self) -> Iterator[str]:
        """Those of both, and levels that stand twice."""
        if len(set(self.order)) < len(self.order):
            yield "a level stands twice"
        yield from (*self.number.faults(), *self.category.faults())

    def told(self) -> tuple[str, str]:
        """Its levels."""
        kind, taken = self.category.told()
        return f"ordered {kind}", f"a number, and {taken}"


def _ranks(order: Sequence[str], column: pl.Series) -> pl.Series:
    numbers = dict(zip(order, map(float, range(len(order))), strict=True))
    return column.cast(pl.String).replace_strict(numbers, default=None, return_dtype=pl.Float64)
