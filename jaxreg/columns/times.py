"""Columns of dates and times."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import polars as pl
from jaxtyping import Float

from jaxreg.columns.counts import Counts
from jaxreg.columns.numbers import Inputs, Number
from jaxreg.columns.values import TIME_FORMATS, time_formats, times_in

DAY = datetime.timedelta(days=1)
YEAR_OF_DAYS, WEEK_OF_DAYS = 365.2425, 7.0
# The first day that is counted from, a Thursday, and the days from March 1 of the year 0 to it.
EPOCH, THURSDAY, MARCH_OF_0 = datetime.datetime(1970, 1, 1), 3, 719_468


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

    has_number: ClassVar[bool] = True
    vector: ClassVar[None] = None

    @classmethod
    def fit(
        cls,
        name: str,
        column: pl.Series,
        weight: np.ndarray | None = None,
        *,
        time_format: str | None = None,
    ) -> "Time":
        """Learn which parts vary."""
        times = _times(column, time_format)
        known = times.drop_nulls()
        first = known.min()
        parts = [known.dt.ordinal_day(), known.dt.weekday(), known.dt.time()]
        year, week, day = (part.n_unique() > 1 for part in parts)
        days = Number.fit(name, _days(times, first), weight)
        return cls(first, days, year, week, day, time_format)

    @property
    def name(self) -> str:
        """Of the column."""
        return self.days.name

    def codes(self, column: pl.Series) -> Float[np.ndarray, " rows"]:
        """Days since 1970-01-01, NaN where the time is missing."""
        return _days(_times(column, self.time_format), EPOCH).fill_null(np.nan).to_numpy()

    def encoded(self, codes: Any, xp: Any = np) -> Inputs:
        """Days, and two inputs for each circle; those are 0 where the time is missing."""
        days = codes - (self.first - EPOCH) / DAY if self.first is not None else xp.full_like(codes, np.nan)
        found = self.days.encoded(days, xp)
        missing = xp.isnan(codes)
        known = xp.where(missing, 0.0, codes)
        turns = (
            (_day_of_year(known, xp) / YEAR_OF_DAYS, self.year),
            ((xp.floor(known) + THURSDAY) % WEEK_OF_DAYS / WEEK_OF_DAYS, self.week),
            (known % 1, self.day),
        )
        circles = [part(2 * np.pi * turn) for turn, varies in turns if varies for part in (xp.sin, xp.cos)]
        flags = [xp.where(missing, 0.0, circle)[:, None] for circle in circles]
        return found._replace(flags=xp.concatenate([found.flags, *flags], axis=1))

    def guessed(self, column: pl.Series, codes: np.ndarray) -> int:
        """Values that are no times, and gaps where training rows had none."""
        missing = column.null_count()
        return int(np.isnan(codes).sum()) - missing + (0 if self.days.gaps else missing)

    def recounted(self, counts: Counts) -> "Time":
        """The same with other rows' gaps."""
        return self if self.time_format else replace(self, days=self.days.recounted(counts))

    @property
    def flags(self) -> tuple[str, ...]:
        """What its flags say, points on circles among them."""
        varies = {"year": self.year, "week": self.week, "day": self.day}
        circles = (f"{part} {axis}" for part in varies if varies[part] for axis in ("sine", "cosine"))
        return *self.days.flags, *circles

    def grown(self, counts: Counts) -> "Time":
        """The same with an input for gaps where the rows are the first with some."""
        return replace(self, days=self.days.grown(counts))

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


def _day_of_year(days: Any, xp: Any) -> Any:
    """Days since the year began, of days since 1970-01-01 in the Gregorian calendar."""
    # Years begin with March, so that a leap day is the last; 400 of them have 146,097 days.
    since = xp.floor(days) + MARCH_OF_0
    within = since % 146_097
    year = xp.floor((within - within // 1460 + within // 36_524 - within // 146_096) / 365)
    since_march = within - (365 * year + year // 4 - year // 100)
    leap = (((year % 4) == 0) & ((year % 100) != 0)) | ((year % 400) == 0)
    january = since_march - 306
    whole = xp.where(january >= 0, january, since_march + 59 + leap)
    return whole + days % 1


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
