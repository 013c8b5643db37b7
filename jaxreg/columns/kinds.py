"""How single columns become what a network takes: numbers, categories, ordered categories, times, nothing.

Each kind has `fit`, which learns from the training rows; `inputs`, what other rows give the network;
`has_number`, whether a scaled number is among it; `vector`, how many levels have learned vectors and of which
size, None without; `told`, what the column is and as what it is taken, in words; and `faults`, what is wrong
with one that a file holds.
"""

import datetime
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from jaxreg.columns.values import TIME_FORMATS, is_numbers, numbers_in, time_formats, times_in, without_gaps
from jaxreg.plain import counted

# From here on scaled numbers grow as their logarithm, so that a mistake costs its own row and no other.
FAR = 4.0
LARGEST = 1e300
# The quartiles of a normal distribution lie so many standard deviations apart.
QUARTILES_APART = 1.3489795003921634

# Levels of fewer rows share one. Up to so many levels have an input each, more have a learned vector.
ROWS_OF_A_LEVEL = 5
MOST_INPUTS = 12
LARGEST_VECTOR = 32
# A share of texts that stand in one row alone from which on a column names its rows.
ALL_DIFFERENT = 0.9

DAY = datetime.timedelta(days=1)
YEAR_OF_DAYS, WEEK_OF_DAYS = 365.2425, 7.0


class Inputs(NamedTuple):
    """What a column gives the network.

    Attributes:
        numbers: scaled numbers, which an embedding may follow, `(rows, any)`.
        flags: standardised 0s and 1s, and points on circles, `(rows, any)`.
        levels: the number of a level each, for a learned vector, `(rows, 0)` or `(rows, 1)`.
        guessed: how many values were taken otherwise than they were written.
    """

    numbers: Float[np.ndarray, "rows _"]
    flags: Float[np.ndarray, "rows _"]
    levels: Float[np.ndarray, "rows _"]
    guessed: int = 0


def nothing_for(rows: int) -> Float[np.ndarray, "rows 0"]:
    """No inputs."""
    return np.zeros((rows, 0))


@dataclass(frozen=True)
class Number:
    """A column of numbers, scaled by median and quartiles, drawn in far outside, and then standardised.

    Attributes:
        name: of the column.
        center: the median.
        scale: the distance of the quartiles as a standard deviation, or that itself where they are equal;
            0 where all training values are equal.
        mean: of what was drawn in.
        std: likewise, 1 where that is 0.
        gaps: the share of training rows that lack it; unless it is 0 an input says which rows do.
        text: whether the numbers were written as text.
    """

    name: str
    center: float
    scale: float
    mean: float
    std: float
    gaps: float
    text: bool = False

    @classmethod
    def fit(cls, name: str, column: pl.Series) -> "Number":
        """Learn the scale."""
        text = column.dtype == pl.String
        numbers = _numbers(column)
        known = numbers.drop_nulls().to_numpy()
        low, center, high = np.quantile(known, [0.25, 0.5, 0.75]) if len(known) else (0.0, 0.0, 0.0)
        with np.errstate(over="ignore"):
            scale = (high - low) / QUARTILES_APART
        if not 0 < scale < math.inf:
            largest = max(np.abs(known).max(initial=0.0), np.finfo(float).tiny)
            scale = float(np.std(known / largest) * largest) if len(known) else 0.0
        drawn = draw_in(known, center, scale) if len(known) else np.zeros(1)
        drawn = np.clip(drawn, -2 * FAR, 2 * FAR)  # one mistake among few rows is far even so
        std, gaps = float(np.std(drawn)) or 1.0, numbers.null_count() / len(numbers)
        return cls(name, float(center), float(scale), float(np.mean(drawn)), std, gaps, text)

    @property
    def has_number(self) -> bool:
        """True."""
        return True

    @property
    def vector(self) -> None:
        """None."""
        return None

    def inputs(self, column: pl.Series) -> Inputs:
        """Scaled numbers; 0 and an indicator where one is missing."""
        numbers = _numbers(column)
        missing = numbers.is_null().to_numpy()
        drawn = draw_in(numbers.fill_null(self.center).to_numpy(), self.center, self.scale)
        scaled = np.where(missing, 0.0, (drawn - self.mean) / self.std)
        flags = flagged(missing[:, None], (self.gaps,)) if self.gaps else nothing_for(len(missing))
        unread = numbers.null_count() - _known(column).null_count()
        unknown = 0 if self.gaps else column.null_count()
        return Inputs(scaled[:, None], flags, nothing_for(len(missing)), unread + unknown)

    def faults(self) -> Iterator[str]:
        """Figures that no numbers have."""
        finite = math.isfinite(self.center) and math.isfinite(self.mean) and 0 <= self.gaps < 1
        if not (finite and 0 <= self.scale < math.inf and 0 < self.std < math.inf):
            yield f"its center is {self.center}, its scale {self.scale}, its mean {self.mean}, std {self.std}"

    def told(self) -> tuple[str, str]:
        """A number."""
        kind = "number, written as text" if self.text else "number"
        return kind, "scaled" + (", and whether it is missing" if self.gaps else "")


def _known(column: pl.Series) -> pl.Series:
    return without_gaps(column) if column.dtype == pl.String else column


def _numbers(column: pl.Series) -> pl.Series:
    if column.dtype == pl.Datetime:
        return pl.Series(values=[None] * len(column), dtype=pl.Float64)
    is_text = column.dtype in (pl.String, pl.Enum, pl.Categorical)
    return numbers_in(column) if is_text else column.cast(pl.Float64)


def flagged(present: np.ndarray, shares: Sequence[float]) -> Float[np.ndarray, "rows flags"]:
    """0s and 1s, standardised by the shares of training rows that have a 1."""
    share = np.array(shares)[None]
    return (present - share) / np.sqrt(np.where(share < 1, share * (1 - share), 1.0))


def draw_in(values: Float[np.ndarray, " n"], center: float, scale: float) -> Float[np.ndarray, " n"]:
    """Values in units of their scale, and beyond four of them as their logarithm; 0 where the scale is.

    >>> import numpy as np
    >>> from jaxreg.columns.kinds import draw_in
    >>> draw_in(np.array([3.0, 5.0, 1e12]), 1.0, 2.0).round(1)
    array([ 1. ,  2. , 30.9])
    """
    if scale == 0:
        return np.zeros(len(values))
    with np.errstate(over="ignore", invalid="ignore"):
        apart = values / 2 - center / 2  # halves, whose difference doesn't overflow
        scaled = np.clip(2 * (apart / scale), -LARGEST, LARGEST)
    size = np.abs(scaled)
    return np.where(size > FAR, np.sign(scaled) * (FAR + np.log1p(np.maximum(size - FAR, 0))), scaled)


def vector_size(levels: int) -> int:
    """The size of the learned vectors of so many levels; 0 for few, which have an input each."""
    return min(math.ceil(levels**0.4), LARGEST_VECTOR) if levels > MOST_INPUTS else 0


@dataclass(frozen=True)
class Category:
    """A column of levels: an input for each of a few, a learned vector for each of many.

    Attributes:
        name: of the column.
        levels: those of enough rows, the most frequent first.
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

    @classmethod
    def fit(cls, name: str, column: pl.Series) -> "Category":
        """Learn which levels there are."""
        text = _text(column)
        counts = text.drop_nulls().value_counts().sort(["count", text.name], descending=[True, False])
        kept = counts.filter(counts["count"] >= ROWS_OF_A_LEVEL)[text.name].to_list()
        rare, gaps, size = len(kept) < len(counts), text.null_count() > 0, vector_size(len(kept))
        numbers = counts["count"].to_list()
        rows = [*numbers[: len(kept)], *[sum(numbers[len(kept) :])] * rare, *[text.null_count()] * gaps]
        shares = () if size else tuple(count / len(text) for count in rows)
        return cls(name, tuple(kept), rare, gaps, size, shares)

    @property
    def has_number(self) -> bool:
        """False."""
        return False

    @property
    def vector(self) -> tuple[int, int] | None:
        """The levels, the rare ones as one, and gaps."""
        return (len(self.levels) + 2, self.size) if self.size else None

    def inputs(self, column: pl.Series) -> Inputs:
        """1 at the level's input, or the level's number."""
        text = _text(column)
        numbers = dict(zip(self.levels, range(len(self.levels)), strict=True))
        rare, gap = len(self.levels), len(self.levels) + 1
        known = text.is_not_null()
        at = text.replace_strict(numbers, default=rare, return_dtype=pl.Int64)
        at = at.set(~known, gap).to_numpy()
        unseen = int((at == rare).sum()) if not self.rare else 0
        unknown = unseen + (0 if self.gaps else text.null_count())
        none = nothing_for(len(at))
        if self.size:
            return Inputs(none, none, at[:, None].astype(float), unknown)
        shown = [*range(rare), *[rare] * self.rare, *[gap] * self.gaps]
        present = at[:, None] == np.array(shown, int)
        return Inputs(none, flagged(present, self.shares), none, unknown)

    def faults(self) -> Iterator[str]:
        """Levels that stand twice, or vectors of another size than theirs."""
        if len(set(self.levels)) < len(self.levels):
            yield "a level stands twice"
        if self.size != vector_size(len(self.levels)):
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


def _text(column: pl.Series) -> pl.Series:
    """Values as text, a whole number without its decimals."""
    if column.dtype == pl.Float64:
        whole = column == column.round(0)
        wide = column.abs() >= 2**53
        numbers = column.set(wide.fill_null(True), None).cast(pl.Int64, strict=False).cast(pl.String)
        return pl.Series(
            "level",
            [
                number if is_whole and number is not None else text
                for number, is_whole, text in zip(numbers, whole, column.cast(pl.String), strict=True)
            ],
            dtype=pl.String,
        )
    text = column.cast(pl.String) if column.dtype != pl.String else column
    return without_gaps(text).alias("level")


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

    @classmethod
    def fit(cls, name: str, column: pl.Series) -> "Ordered":
        """Learn both."""
        order = tuple(column.dtype.categories.to_list())
        numbers = _ranks(order, column)
        return cls(order, replace(Number.fit(name, numbers), gaps=0.0), Category.fit(name, column))

    @property
    def name(self) -> str:
        """Of the column."""
        return self.category.name

    @property
    def has_number(self) -> bool:
        """True."""
        return True

    @property
    def vector(self) -> tuple[int, int] | None:
        """That of the category."""
        return self.category.vector

    def inputs(self, column: pl.Series) -> Inputs:
        """Both, next to each other."""
        category = self.category.inputs(column)
        return category._replace(numbers=self.number.inputs(_ranks(self.order, column)).numbers)

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


@dataclass(frozen=True)
class Time:
    """A column of dates or times: days since the first, and the parts that vary as points on circles.

    Attributes:
        first: of the training rows.
        days: the scale of the days since then.
        year, week, day: whether the time of the year, the day of the week, the time of the day vary.
        time_format: how text writes it; None where it was no text.
    """

    first: datetime.datetime
    days: Number
    year: bool
    week: bool
    day: bool
    time_format: str | None

    @classmethod
    def fit(cls, name: str, column: pl.Series, time_format: str | None = None) -> "Time":
        """Learn which parts vary."""
        times = _times(column, time_format)
        known = times.drop_nulls()
        first = known.min()
        parts = [known.dt.ordinal_day(), known.dt.weekday(), known.dt.time()]
        year, week, day = (part.n_unique() > 1 for part in parts)
        days = Number.fit(name, _days(times, first))
        return cls(first, days, year, week, day, time_format)

    @property
    def name(self) -> str:
        """Of the column."""
        return self.days.name

    @property
    def has_number(self) -> bool:
        """True."""
        return True

    @property
    def vector(self) -> None:
        """None."""
        return None

    def inputs(self, column: pl.Series) -> Inputs:
        """Days, and two inputs for each circle; those are 0 where the time is missing."""
        times = _times(column, self.time_format)
        days = _days(times, self.first)
        found = self.days.inputs(days)
        since = _days(times, datetime.datetime(1, 1, 1)).to_numpy()  # which was a Monday
        year = (times.dt.ordinal_day() - 1).cast(pl.Float64).to_numpy() + since % 1
        turns = [
            angle
            for angle, varies in (
                (year / YEAR_OF_DAYS, self.year),
                (since % WEEK_OF_DAYS // 1 / WEEK_OF_DAYS, self.week),
                (since % 1, self.day),
            )
            if varies
        ]
        circles = [part(2 * np.pi * angle) for angle in turns for part in (np.sin, np.cos)]
        flags = np.nan_to_num(np.stack(circles, axis=1)) if circles else nothing_for(len(column))
        unread = times.null_count() - column.null_count() if column.dtype != pl.Datetime else 0
        return found._replace(
            flags=np.concatenate([found.flags, flags], axis=1), guessed=max(found.guessed, unread)
        )

    def faults(self) -> Iterator[str]:
        """Those of the days, and a format that isn't known."""
        if self.time_format not in (None, *TIME_FORMATS):
            yield f"its format is {self.time_format!r}"
        yield from self.days.faults()

    def told(self) -> tuple[str, str]:
        """Its format and parts."""
        kind = "time" if self.time_format is None else f"time, written as text ({self.time_format})"
        parts = {"time of the year": self.year, "day of the week": self.week, "time of the day": self.day}
        taken = ["days since the first", *(name for name, varies in parts.items() if varies)]
        return kind, ", ".join(taken) + (", and whether it is missing" if self.days.gaps else "")


def _times(column: pl.Series, time_format: str | None) -> pl.Series:
    if column.dtype == pl.Datetime:
        return column
    if column.dtype != pl.String:
        return pl.Series(values=[None] * len(column), dtype=pl.Datetime("us"))
    formats = [time_format] if time_format is not None else time_formats(column)
    return times_in(column, formats[0]) if formats else times_in(column, "%Y-%m-%d")


def _days(times: pl.Series, first: datetime.datetime | None) -> pl.Series:
    if first is None:
        return pl.Series(values=[None] * len(times), dtype=pl.Float64)
    return (times - first).dt.total_microseconds().cast(pl.Float64) / (
        DAY / datetime.timedelta(microseconds=1)
    )


@dataclass(frozen=True)
class Nothing:
    """A column that is left out.

    Attributes:
        name: of the column.
        why: it is.
    """

    name: str
    why: str

    @property
    def has_number(self) -> bool:
        """False."""
        return False

    @property
    def vector(self) -> None:
        """None."""
        return None

    def inputs(self, column: pl.Series) -> Inputs:
        """None."""
        return Inputs(*[nothing_for(len(column))] * 3)

    def faults(self) -> Iterator[str]:
        """None."""
        yield from ()

    def told(self) -> tuple[str, str]:
        """Why."""
        return self.why, "left out"


Kind = Number | Category | Ordered | Time | Nothing
KINDS = {kind.__name__.lower(): kind for kind in (Number, Category, Ordered, Time, Nothing)}


def kind_of(name: str, column: pl.Series, asked: str | None = None) -> Kind:
    """What a column of training rows is; `asked`, "number" or "category", is the user's word."""
    known = _known(column)
    values = known.n_unique() - (known.null_count() > 0)
    if values == 0:
        return Nothing(name, "empty")
    if values == 1 and not known.null_count():
        return Nothing(name, "constant")
    if asked == "number":
        return Number.fit(name, column)
    if asked == "category":
        return Category.fit(name, column)
    if column.dtype == pl.Float64:
        return Number.fit(name, column)
    if column.dtype == pl.Datetime:
        return Time.fit(name, column)
    if column.dtype == pl.Enum:
        return Ordered.fit(name, column)
    if is_numbers(column):
        return Number.fit(name, column)
    formats = time_formats(column)
    if len(formats) == 1:
        return Time.fit(name, column, formats[0])
    category = Category.fit(name, column)
    rows = len(column) - known.null_count()
    if not category.levels and min(rows, known.null_count()) < ROWS_OF_A_LEVEL:
        different = values >= ALL_DIFFERENT * rows
        why = "a different text in nearly every row" if different else "no text in as many as 5 rows"
        return Nothing(name, why)
    return category
