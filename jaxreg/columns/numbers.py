"""Columns of numbers, and what any column gives a network."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from jaxreg.columns.counts import Counts
from jaxreg.columns.values import numbers_in, without_gaps

# From here on scaled numbers grow as their logarithm, so that a mistake costs its own row and no other.
FAR = 4.0
LARGEST = 1e300
# The share of gaps from which an input for them is scaled, where the first rows had none.
MOST_GAPS = 0.5
# The quartiles of a normal distribution lie so many standard deviations apart.
QUARTILES_APART = 1.3489795003921634


class Inputs(NamedTuple):
    """What a column gives the network.

    Attributes:
        numbers: scaled numbers, which an embedding may follow, `(rows, any)`.
        flags: standardised 0s and 1s, and points on circles, `(rows, any)`.
        levels: the number of a level each, for a learned vector, `(rows, 0)` or `(rows, 1)`.
    """

    numbers: Float[np.ndarray, "rows _"]
    flags: Float[np.ndarray, "rows _"]
    levels: Float[np.ndarray, "rows _"]


def nothing_for(codes: Any) -> Any:
    """No inputs."""
    return codes[:, None][:, :0]


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

    has_number: ClassVar[bool] = True
    vector: ClassVar[None] = None

    @classmethod
    def fit(cls, name: str, column: pl.Series, weight: np.ndarray | None = None) -> "Number":
        """Learn the scale, each row counting by its weight."""
        text, numbers = column.dtype == pl.String, _numbers(column)
        missing = numbers.is_null().to_numpy()
        weight = np.ones(len(missing)) if weight is None else weight
        gaps = float(np.average(missing, weights=weight))
        known, own = numbers.drop_nulls().to_numpy(), weight[~missing]
        if not len(known):
            return cls(name, 0.0, 0.0, 0.0, 1.0, gaps, text)
        quartiles = np.quantile(known, [0.25, 0.5, 0.75], weights=own, method="inverted_cdf")
        low, center, high = map(float, quartiles)
        with np.errstate(over="ignore"):
            scale = (high - low) / QUARTILES_APART
        if not 0 < scale < math.inf:
            largest = max(np.abs(known).max(), np.finfo(float).tiny)
            scale = _std(known / largest, own) * largest
        drawn = draw_in(known, center, scale)
        drawn = np.clip(drawn, -2 * FAR, 2 * FAR)  # one mistake among few rows is far even so
        mean, std = float(np.average(drawn, weights=own)), _std(drawn, own) or 1.0
        return cls(name, center, float(scale), mean, std, gaps, text)

    def codes(self, column: pl.Series) -> Float[np.ndarray, " rows"]:
        """The numbers, NaN where one is missing."""
        return _numbers(column).fill_null(np.nan).to_numpy()

    def encoded(self, codes: Any, xp: Any = np) -> Inputs:
        """Scaled numbers; 0 and an indicator where one is missing."""
        missing = xp.isnan(codes)
        drawn = draw_in(xp.where(missing, self.center, codes), self.center, self.scale, xp)
        scaled = xp.where(missing, 0.0, (drawn - self.mean) / self.std)
        none = nothing_for(codes)
        flags = flagged(missing[:, None], (self.gaps,), xp) if self.gaps else none
        return Inputs(scaled[:, None], flags, none)

    def guessed(self, column: pl.Series, codes: np.ndarray) -> int:
        """Values that are no numbers, and gaps where training rows had none."""
        known = known_of(column).null_count()
        return int(np.isnan(codes).sum()) - known + (0 if self.gaps else column.null_count())

    def recounted(self, counts: Counts) -> "Number":
        """The same with other rows' gaps; of text those of the sample are kept, which may be more."""
        return self if self.text else replace(self, gaps=counts.missing / counts.rows)

    @property
    def flags(self) -> tuple[str, ...]:
        """What its flags say."""
        return ("missing",) * (self.gaps > 0)

    def grown(self, counts: Counts) -> "Number":
        """The same on the same scale, with an input for gaps where the rows are the first with some."""
        share = counts.missing / max(counts.rows, 1)
        return self if self.gaps or not share else replace(self, gaps=min(share, MOST_GAPS))

    def faults(self) -> Iterator[str]:
        """Figures that no numbers have."""
        finite = math.isfinite(self.center) and math.isfinite(self.mean) and 0 <= self.gaps < 1
        if not (finite and 0 <= self.scale < math.inf and 0 < self.std < math.inf):
            yield f"its center is {self.center}, its scale {self.scale}, its mean {self.mean}, std {self.std}"

    def told(self) -> tuple[str, str]:
        """A number."""
        kind = "number, written as text" if self.text else "number"
        return kind, "scaled" + (", and whether it is missing" if self.gaps else "")


def _std(values: np.ndarray, weight: np.ndarray) -> float:
    mean = np.average(values, weights=weight)
    return float(np.sqrt(np.average((values - mean) ** 2, weights=weight)))


def known_of(column: pl.Series) -> pl.Series:
    """Values without the words for gaps."""
    return without_gaps(column) if column.dtype == pl.String else column


def _numbers(column: pl.Series) -> pl.Series:
    if column.dtype == pl.Datetime:
        return pl.Series(values=[None] * len(column), dtype=pl.Float64)
    is_text = column.dtype in (pl.String, pl.Enum, pl.Categorical)
    return numbers_in(column) if is_text else column.cast(pl.Float64)


def flagged(present: Any, shares: Sequence[float], xp: Any = np) -> Any:
    """0s and 1s, standardised by the shares of training rows that have a 1."""
    share = np.array(shares)[None]
    return (xp.asarray(present, float) - share) / np.sqrt(np.where(share < 1, share * (1 - share), 1.0))


def draw_in(values: Any, center: float, scale: float, xp: Any = np) -> Any:
    """Values in units of their scale, and beyond four of them as their logarithm; 0 where the scale is.

    Args:
        values: `(n,)`, of NumPy or JAX.
        center: their median.
        scale: their unit.
        xp: `numpy` or `jax.numpy`.

    >>> import numpy as np
    >>> from jaxreg.columns.numbers import draw_in
    >>> draw_in(np.array([3.0, 5.0, 1e12]), 1.0, 2.0).round(1)
    array([ 1. ,  2. , 30.9])
    """
    if scale == 0:
        return xp.zeros_like(values)
    with np.errstate(over="ignore", invalid="ignore"):
        apart = values / 2 - center / 2  # halves, whose difference doesn't overflow
        scaled = xp.clip(2 * (apart / scale), -LARGEST, LARGEST)
    far = xp.abs(scaled) > FAR
    if xp is np:  # logarithms take longest, and few values are far
        scaled[far] = _drawn(scaled[far], np)
        return scaled
    return xp.where(far, _drawn(scaled, xp), scaled)


def _drawn(scaled: Any, xp: Any) -> Any:
    return xp.sign(scaled) * (FAR + xp.log1p(xp.maximum(xp.abs(scaled) - FAR, 0)))
