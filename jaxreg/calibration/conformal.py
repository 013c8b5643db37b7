"""Conformal intervals, whose coverage is guaranteed whatever the model."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxreg.calibration.recalibration import Calibrated
from jaxreg.calibration.scaling import as_mixture, check_held_out, check_outputs
from jaxreg.checks import check_probability
from jaxreg.data.frames import TableLike
from jaxreg.distributions.base import Levels, Prediction
from jaxreg.distributions.mixture import GaussianMixture
from jaxreg.distributions.transformed import Affine
from jaxreg.metrics.checked import check_prediction

# Values that the jackknife+ partitions at once.
SORTED_AT_ONCE = 2**22


class Conformal(Calibrated):
    """A prediction with conformal intervals; mean and std are those of the prediction.

    It has no density and no cdf: only the coverage of its intervals is known.
    """

    __slots__ = ()

    def interval(self, level: Levels = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Interval `(lo, hi)`; either end has the shape `level.shape + mean.shape`.

        Raises:
            ValueError: if the level lies outside (0, 1), or asks for more held-out rows than there were.
        """
        check_probability("level", level)
        level = np.asarray(level, np.float64)
        ends = [self.calibration.interval(self.prediction, float(one)) for one in level.flat]
        lower, upper = (
            np.stack(end).reshape(level.shape + np.shape(self.mean)) for end in zip(*ends, strict=True)
        )
        return lower, upper

    def quantile(self, q: Levels) -> np.ndarray:
        """An end of the interval of level `abs(1 - 2 q)`; shape `q.shape + mean.shape`.

        At 0.5 it is the middle of the narrowest interval. Only the total probability outside an interval is
        guaranteed: a single quantile has no guarantee.
        """
        check_probability("q", q)
        q = np.asarray(q, np.float64)
        lower, upper = self.interval(np.maximum(np.abs(1 - 2 * q), 1e-9))
        below = q.reshape(q.shape + (1,) * np.ndim(self.mean))
        return np.where(below < 0.5, lower, np.where(below > 0.5, upper, 0.5 * (lower + upper)))


def rank(level: float, n: int) -> int:
    """The rank, counted from 1, of the score below which a new score lies with probability `level`.

    `ceil(level (n + 1))`: each rank among the n others is equally likely for the new score.

    Raises:
        ValueError: if the level lies outside (0, 1), or n is too small, with the number that is needed.

    >>> from jaxreg.calibration import rank
    >>> rank(0.9, n=99)
    90
    >>> rank(0.95, n=10)
    Traceback (most recent call last):
    ...
    ValueError: an interval of level 0.95 needs at least 19 held-out rows, there are 10
    """
    check_probability("level", level)
    found = _rank(level, n)
    if found > n:
        needed = math.ceil(level / (1 - level)) + 1
        while _rank(level, needed - 1) <= needed - 1:
            needed -= 1
        raise ValueError(
            f"an interval of level {level:g} needs at least {needed} held-out rows, there are {n}"
        )
    return found


def _rank(level: float, n: int) -> int:
    # Rounded, because products such as 0.55 * 100 come out a little above the whole number.
    return max(math.ceil(round(level * (n + 1), 9)), 1)


class SplitConformal(NamedTuple):
    """Intervals `mean ± r std`, where r is a quantile of held-out `abs(y - mean) / std`.

    If the held-out rows and a new row are exchangeable and weren't trained on, the interval of level a holds
    the new value with a probability of at least a, whatever the model, and of at most a + 1 / (n + 1) if no
    two scores are equal. Lei et al. 2018, "Distribution-free predictive inference for regression".

    Attributes:
        scores: the n held-out `abs(y - mean) / std`, sorted, `(n,)` or for each output `(n, d)`.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Gaussian
    >>> from jaxreg.calibration import SplitConformal
    >>> conformal = SplitConformal.fit(Gaussian(jnp.zeros(9), jnp.zeros(9)), jnp.arange(9.0))
    >>> lo, hi = conformal(Gaussian(jnp.array([100.0]), jnp.zeros(1))).interval(0.8)
    >>> print(lo, hi)
    [93.] [107.]
    """

    scores: Float[np.ndarray, "n ..."]

    @classmethod
    def fit(cls, prediction: Prediction, y: TableLike) -> "SplitConformal":
        """Learn from held-out rows.

        Args:
            prediction: of held-out rows, `(n,)` or `(n, d)`.
            y: observed values, the same shape.

        Raises:
            ValueError: as `metrics.check_prediction`.
        """
        y, _ = check_prediction(prediction, y)
        return cls(np.sort(normalised_error(prediction, y), axis=0))

    def __call__(self, prediction: Prediction) -> Conformal:
        """The prediction with conformal intervals."""
        check_outputs(self.scores.shape[1:], prediction)
        return Conformal(prediction, self)

    def interval(self, prediction: Prediction, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The interval of one level."""
        mean, std = (np.asarray(a, np.float64) for a in (prediction.mean, prediction.std))
        reach = self.scores[rank(level, len(self.scores)) - 1] * std
        return np.asarray(mean - reach), np.asarray(mean + reach)

    def output(self, i: int) -> "SplitConformal":
        """The calibration of one of several outputs."""
        return SplitConformal(self.scores[:, i])


def normalised_error(prediction: Prediction, y: np.ndarray) -> np.ndarray:
    """Errors in units of the predicted std."""
    mean, std = (np.asarray(a, np.float64) for a in (prediction.mean, prediction.std))
    return np.abs(np.asarray(y, np.float64) - mean) / std


class ConformalQuantiles(NamedTuple):
    """Predicted intervals, widened or narrowed by an amount found from held-out rows.

    The guarantee is that of `SplitConformal`; the amount is in units of y, not of std. Romano et al. 2019,
    "Conformalized quantile regression".

    Attributes:
        prediction: of the held-out rows.
        y: what was observed.
    """

    prediction: Prediction
    y: np.ndarray

    @classmethod
    def fit(cls, prediction: Prediction, y: TableLike) -> "ConformalQuantiles":
        """Keep held-out rows; the arguments and errors are those of `SplitConformal.fit`."""
        y, _ = check_prediction(prediction, y)
        return cls(prediction, y)

    def __call__(self, prediction: Prediction) -> Conformal:
        """The prediction with conformal intervals."""
        check_outputs(self.y.shape[1:], prediction)
        return Conformal(prediction, self)

    def interval(self, prediction: Prediction, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The interval of one level; if it shrinks to nothing, both ends are its middle."""
        found = rank(level, len(self.y))
        lower, upper = (np.asarray(end, np.float64) for end in self.prediction.interval(level))
        moved = np.partition(np.maximum(lower - self.y, self.y - upper), found - 1, axis=0)[found - 1]
        lower, upper = (np.asarray(end, np.float64) for end in prediction.interval(level))
        middle = 0.5 * (lower + upper)
        ends = np.minimum(lower - moved, middle), np.maximum(upper + moved, middle)
        return np.asarray(ends[0]), np.asarray(ends[1])

    def output(self, i: int) -> "ConformalQuantiles":
        """The calibration of one of several outputs."""
        return ConformalQuantiles(self.prediction.output(i), self.y[:, i])


class JackknifePlus(NamedTuple):
    """CV+ and jackknife+: intervals from members that each held out some training rows.

    Every row is used, to train some members and to calibrate the others. If rows are exchangeable, the
    interval of level a holds a new value with a probability of at least 2 a - 1, less `sqrt(2 / n)` for
    folds of rows; in practice it is about a. Barber et al. 2021, "Predictive inference with the jackknife+".
    For members of bootstrapped rows Kim et al. 2020, "Predictive inference is free with the
    jackknife+-after-bootstrap", show the same if their number is drawn at random; for a fixed number it holds
    empirically.

    Attributes:
        held_out: the distinct sets of members that held out the same rows, `(sets, members)`.
        of_row: which of these sets held each row out, `(n,)`.
        scores: `abs(y - mean) / std` of each row by the mixture of those members, `(n,)` or `(n, d)`.
    """

    held_out: Bool[np.ndarray, "sets members"]
    of_row: np.ndarray
    scores: Float[np.ndarray, "n ..."]

    @classmethod
    def fit(cls, prediction: Prediction, y: TableLike, held_out: TableLike) -> "JackknifePlus":
        """Learn from the training rows.

        Args:
            prediction: the ensemble's, of all rows that it was trained on: a GaussianMixture over `(n,)` or
                `(n, d)`, or an Affine of one.
            y: observed values, the same shape.
            held_out: booleans `(members, n)`, whether a member held a row out.

        Raises:
            ValueError: as `metrics.check_prediction`, or if a row was held out by no member.
        """
        y, _ = check_prediction(prediction, y)
        mixture = as_mixture(prediction)
        held_out = check_held_out(held_out, mixture, y)
        seen = np.flatnonzero(~held_out.any(axis=0))
        if seen.size:
            raise ValueError(f"row {seen[0]} was held out by no member, nor were {seen.size - 1} others")
        sets, of_row = np.unique(held_out.T, axis=0, return_inverse=True)
        _check_left(sets, mixture)
        of_row = of_row.ravel()
        scores = np.empty(y.shape)
        for i, members in enumerate(sets):
            scores[of_row == i] = normalised_error(_by_members(prediction, members), y)[of_row == i]
        return cls(sets, of_row, scores)

    def __call__(self, prediction: Prediction) -> Conformal:
        """The ensemble's prediction with conformal intervals."""
        members = as_mixture(prediction).count_members()
        if members != self.held_out.shape[1]:
            raise ValueError(f"fitted to {self.held_out.shape[1]} members, the prediction has {members}")
        _check_left(self.held_out, as_mixture(prediction))
        return Conformal(prediction, self)

    def interval(self, prediction: Prediction, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The interval of one level."""
        n, shape = len(self.scores), np.shape(prediction.mean)
        upper_rank = rank(level, n)
        parts = [_by_members(prediction, members) for members in self.held_out]
        means, stds = (  # with an axis of rows, which a single row's prediction lacks
            np.stack([np.asarray(getattr(part, name), np.float64) for part in parts]).reshape(
                len(parts), -1, *self.scores.shape[1:]
            )
            for name in ("mean", "std")
        )
        lower, upper = np.empty(means.shape[1:]), np.empty(means.shape[1:])
        rows = max(1, SORTED_AT_ONCE // self.scores.size)
        for first in range(0, means.shape[1], rows):
            block = slice(first, first + rows)
            mean, std = means[self.of_row, block], stds[self.of_row, block]
            reach = self.scores[:, None] * std
            upper[block] = np.partition(mean + reach, upper_rank - 1, axis=0)[upper_rank - 1]
            # The same rank from above: floor((1 - level) (n + 1)) from below.
            lower[block] = np.partition(mean - reach, n - upper_rank, axis=0)[n - upper_rank]
        return lower.reshape(shape), upper.reshape(shape)

    def output(self, i: int) -> "JackknifePlus":
        """The calibration of one of several outputs."""
        return self._replace(scores=self.scores[:, i])


def _check_left(sets: np.ndarray, mixture: GaussianMixture) -> None:
    """Raise unless each set of members has a member of positive weight."""
    if mixture.weights is not None:
        for members in sets:
            if not np.asarray(mixture.by_members(members).weights).any(axis=0).all():
                raise ValueError("some rows were held out only by members whose weight in the mixture is 0")


def _by_members(prediction: Prediction, members: np.ndarray) -> GaussianMixture | Affine:
    """The prediction by some of the members alone."""
    alone = as_mixture(prediction).by_members(members)
    return prediction._replace(dist=alone) if isinstance(prediction, Affine) else alone
