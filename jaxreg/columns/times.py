"""Columns of dates and times."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import polars as pl

from jaxreg.columns.counts import Counts
from jaxreg.columns.numbers import Inputs, Number, nothing_for
from jaxreg.columns.values import TIME_FORMATS, time_formats, times_in

DAY = datetime.timedelta(days=1)
YEAR_OF_DAYS, WEEK_OF_DAYS = 365.2425, 7.0


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

    def recounted(self, counts: Counts) -> "Time":
        """The same with other rows' gaps."""
        return self if self.time_format else replace(self, days=self.days.recounted(counts))

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
