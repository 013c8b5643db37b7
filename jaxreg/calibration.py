"""Calibration on held-out rows: one factor for the variance, recalibrated levels, conformal intervals.

A calibration is fitted to predictions of rows that had no part in training, and applied to other
predictions. Rows that chose a member's best epoch had a part: calibrated on them, intervals are a little too
narrow, and what is guaranteed below is guaranteed no more.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float
from scipy.optimize import minimize_scalar

from jaxreg.checks import check_probability
from jaxreg.data import TableLike
from jaxreg.gaussian import Affine, Gaussian, GaussianMixture
from jaxreg.metrics import Distribution, check_prediction

# Factors of the variance that are tried before the best is refined.
GRID = 100

# Of a residual of some members, the least that is taken for the residual of all.
LEAST_SHARE = 0.05

# Values that the jackknife+ sorts at once.
SORTED_AT_ONCE = 2**22


class VarianceScaling(NamedTuple):
    """Multiplies every predicted variance by one number, or by one for each output.

    A mixture is stretched about its mean, so that its shape, and how its variance splits, stay as they are.

    Attributes:
        factor: of the variance; a number or `(d,)`.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Gaussian
    >>> from jaxreg.calibration import VarianceScaling
    >>> held_out = Gaussian(jnp.zeros(4), jnp.zeros(4))
    >>> scaling = VarianceScaling.fit(held_out, [-2.0, 2.0, -2.0, 2.0])
    >>> print(f"{scaling.factor:.2f} {scaling(held_out).std[0]:.2f}")
    4.00 2.00
    """

    factor: Float[ArrayLike, "..."]

    @classmethod
    def fit(
        cls,
        prediction: Distribution,
        y: TableLike,
        *,
        score: str = "nll",
        sample_weight: TableLike | None = None,
    ) -> "VarianceScaling":
        """Find the factor that gives held-out rows the best score.

        Args:
            prediction: of held-out rows, `(n,)` or `(n, d)`: a Gaussian, GaussianMixture, or Affine of one.
            y: observed values, the same shape.
            score: "nll", or "crps" which single far-off values move less.
            sample_weight: weight of each row or value.

        Raises:
            ValueError: as `metrics.check_prediction`, for another score, or if every prediction is exact.
        """
        return cls(_fit_factor(prediction, y, sample_weight, score=score, scaled=_stretched))

    def __call__(self, prediction: Distribution) -> Distribution:
        """The prediction with its variance scaled: a Gaussian stays one, a mixture one."""
        return _apply_factor(self.factor, prediction, _stretched)


class NoiseScaling(NamedTuple):
    """Multiplies the variance that each member of a mixture predicts, and leaves the members' means.

    How far the members disagree is a measure of its own, which more of them don't shrink; what is wrong after
    training is the noise that each one sees, too little of it where it has learnt single rows. Of a Gaussian
    it scales the variance, as `VarianceScaling` does.

    Attributes:
        factor: of the members' variances; a number or `(d,)`.

    >>> import jax.numpy as jnp
    >>> from jaxreg import GaussianMixture
    >>> from jaxreg.calibration import NoiseScaling
    >>> held_out = GaussianMixture(jnp.array([[0.0] * 4, [1.0] * 4]), jnp.zeros((2, 4)))
    >>> print(NoiseScaling(4.0)(held_out).aleatoric[0], NoiseScaling(4.0)(held_out).epistemic[0])
    2.0 0.5
    """

    factor: Float[ArrayLike, "..."]

    @classmethod
    def fit(
        cls,
        prediction: Distribution,
        y: TableLike,
        *,
        score: str = "nll",
        sample_weight: TableLike | None = None,
    ) -> "NoiseScaling":
        """Find the factor that gives held-out rows the best score; as `VarianceScaling.fit`."""
        return cls(_fit_factor(prediction, y, sample_weight, score=score, scaled=_noisier))

    @classmethod
    def fit_held_out(
        cls,
        prediction: Distribution,
        y: TableLike,
        held_out: TableLike,
        *,
        sample_weight: TableLike | None = None,
        prior_rows: float = 0.0,
    ) -> "NoiseScaling":
        """Find the factor from the rows that members of an ensemble held out themselves, each another part.

        A row is predicted by the ensemble as it would be, had none of its members seen it: its mixture, moved
        so that its residual is that of the members which held the row out. Theirs, of a few members, is
        larger than that of all; by how much, the members' disagreement says. Rows that all members saw are
        left out.

        Args:
            prediction: the ensemble's, of all rows that it was trained on: a GaussianMixture over `(n,)` or
                `(n, d)`, or an Affine of one.
            y: observed values, the same shape.
            held_out: booleans `(members, n)`, whether a member had no part of a row.
            sample_weight: weight of each row or value.
            prior_rows: how many more rows are believed to call for a factor of 1; where there are few, they
                keep it from being one of chance.

        Raises:
            ValueError: as `metrics.check_prediction`, or if no row was held out.
        """
        y, weight = check_prediction(prediction, y, sample_weight)
        if isinstance(prediction, Affine):
            prediction, y = prediction.dist, prediction.standardised(y)
        mixture = _mixture(prediction)
        held_out = _check_held_out(held_out, mixture, y)
        if not held_out.any():
            raise ValueError("held_out names no row: there is nothing to find the factor from")
        own = held_out.reshape(held_out.shape + (1,) * (y.ndim - 1))
        weight = np.broadcast_to(own.any(axis=0) * (1.0 if weight is None else weight), y.shape)
        means, count = np.asarray(mixture.means, np.float64), np.maximum(own.sum(axis=0), 1)
        residual = y - np.sum(own * means, axis=0) / count
        members = len(means)
        if members > 1:
            excess = np.var(means, axis=0, ddof=1) * (1 / count - 1 / members)
            average = partial(np.average, axis=0, weights=weight)
            share = 1 - average(excess) / average(residual**2)
            residual = residual * np.sqrt(np.clip(share, LEAST_SHARE, 1))
        moved = means - means.mean(axis=0) + (y - residual)
        moved = GaussianMixture(moved.astype(mixture.means.dtype), mixture.log_vars)
        factor = partial(_best_factor, scaled=_noisier, prior_rows=prior_rows)
        return cls(_for_each_output(factor, moved, y, weight))

    def __call__(self, prediction: Distribution) -> Distribution:
        """The prediction with its members' variances scaled."""
        return _apply_factor(self.factor, prediction, _noisier)


def _fit_factor(
    prediction: Distribution, y: TableLike, sample_weight: TableLike | None, *, score: str, scaled: Callable
) -> Float[ArrayLike, "..."]:
    """The factor with the best score, or one for each output."""
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(map(repr, SCORES))}, got {score!r}")
    y, weight = check_prediction(prediction, y, sample_weight)
    if isinstance(prediction, Affine):
        prediction, y = prediction.dist, prediction.standardised(y)
    _check_scalable(prediction)
    weight = np.broadcast_to(1.0 if weight is None else weight, y.shape)
    return _for_each_output(partial(_best_factor, score=score, scaled=scaled), prediction, y, weight)


def _for_each_output(
    factor: Callable, prediction: Gaussian | GaussianMixture, y: np.ndarray, weight: np.ndarray
) -> Float[ArrayLike, "..."]:
    if y.ndim == 1:
        return factor(prediction, y, weight)
    outputs = range(y.shape[1])
    return np.array([factor(prediction.output(i), y[:, i], weight[:, i]) for i in outputs])


def _apply_factor(factor: ArrayLike, prediction: Distribution, scaled: Callable) -> Distribution:
    if np.ndim(factor):
        _check_outputs(np.shape(factor), prediction)
    if isinstance(prediction, Affine):
        return prediction._replace(dist=_apply_factor(factor, prediction.dist, scaled))
    _check_scalable(prediction)
    if isinstance(factor, jax.core.Tracer):
        return scaled(prediction, jnp.log(factor))
    # As float64 until it is a logarithm, which any dtype holds.
    factor = np.asarray(factor, np.float64)
    if not ((factor > 0) & np.isfinite(factor)).all():
        raise ValueError(f"the factor of the variance must be positive and finite, got {factor}")
    return scaled(prediction, np.log(factor))


def _check_scalable(prediction: Distribution) -> None:
    if not isinstance(prediction, Gaussian | GaussianMixture):
        found = type(prediction).__name__
        raise ValueError(
            f"the variance of a Gaussian or GaussianMixture can be scaled, not that of a {found}"
        )


def _check_held_out(
    held_out: TableLike, mixture: GaussianMixture, y: np.ndarray
) -> Bool[np.ndarray, "members n"]:
    held_out = np.asarray(held_out)
    expected = (len(mixture.means), len(y))
    if held_out.shape != expected or held_out.dtype != bool:
        raise ValueError(
            f"held_out must be booleans of shape {expected}, members and rows, got {held_out.dtype} of "
            f"shape {held_out.shape}"
        )
    return held_out


def _noisier(prediction: Gaussian | GaussianMixture, log_factor: ArrayLike) -> Gaussian | GaussianMixture:
    """The prediction, or each member's, with another variance about the same mean; NumPy's stays NumPy's."""
    mean, log_var, *weights = prediction
    if not isinstance(log_factor, jax.Array):
        log_factor = np.asarray(log_factor, jnp.result_type(mean, 0.0))
    return type(prediction)(mean, log_var + _of_rank(log_factor, log_var), *weights)


def _stretched(prediction: Gaussian | GaussianMixture, log_factor: ArrayLike) -> Gaussian | GaussianMixture:
    """The prediction with every distance from its mean multiplied."""
    noisier = _noisier(prediction, log_factor)
    if isinstance(prediction, Gaussian):
        return noisier
    mean = jnp.asarray(prediction.mean)[None]
    stretch = _of_rank(jnp.exp(0.5 * jnp.asarray(log_factor, mean.dtype)), mean)
    return noisier._replace(means=mean + stretch * (jnp.asarray(prediction.means) - mean))


def _of_rank(values: ArrayLike, like: ArrayLike) -> ArrayLike:
    return values.reshape((1,) * (np.ndim(like) - values.ndim) + values.shape)


def _nll(prediction: Gaussian | GaussianMixture, y: ArrayLike) -> ArrayLike:
    return -prediction.log_prob(y)


def _crps(prediction: Gaussian | GaussianMixture, y: ArrayLike) -> ArrayLike:
    return prediction.crps(y)


SCORES = {"nll": _nll, "crps": _crps}


@partial(jax.jit, static_argnums=(3, 4))
def _score_scaled(
    prediction: Gaussian | GaussianMixture,
    y: ArrayLike,
    log_factor: ArrayLike,
    score: Callable,
    scaled: Callable,
) -> ArrayLike:
    return score(scaled(prediction, log_factor), y)


def _best_factor(
    prediction: Gaussian | GaussianMixture,
    y: np.ndarray,
    weight: np.ndarray,
    *,
    scaled: Callable,
    score: str = "nll",
    prior_rows: float = 0.0,
) -> float:
    """The factor of the variance with the lowest mean score, over `(n,)`.

    A prior row adds the mean NLL of a Gaussian of that variance for values of its own.
    """
    present = weight > 0  # rows of no weight set no bounds either
    weight, rows = weight[present], int(present.sum())
    residual = (y - np.asarray(prediction.mean, np.float64)) / np.asarray(prediction.std, np.float64)
    squares = residual[present] ** 2
    if not squares.any():
        raise ValueError("every prediction equals its y: there is no error to scale the variance to")
    largest = squares.max()
    smallest = max(squares.min(), 1e-12 * largest)

    def mean_score(log_factor: float) -> float:
        values = _score_scaled(prediction, y, log_factor, SCORES[score], scaled)
        mean = float(np.average(np.asarray(values, np.float64)[present], weights=weight))
        prior = 0.5 * (log_factor + math.exp(-log_factor))
        return (rows * mean + prior_rows * prior) / (rows + prior_rows)

    # The score of a mixture may have several minima: the best of a grid is refined.
    low, high = np.log(smallest) - 2, np.log(largest) + 2
    if prior_rows:
        low, high = min(low, -2), max(high, 2)
    grid = np.linspace(low, high, GRID)
    best = int(np.argmin([mean_score(point) for point in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    return float(np.exp(minimize_scalar(mean_score, bounds=bounds, options={"xatol": 1e-8}).x))


class Recalibration(NamedTuple):
    """A map from predicted to observed levels of the cdf, piecewise linear; `isotonic.fit` makes one.

    Kuleshov et al. 2018, "Accurate uncertainties for deep learning using calibrated regression".

    Attributes:
        knots: for each output the predicted levels and the levels that they stand for, both strictly
            increasing from 0 to 1.
    """

    knots: tuple[tuple[np.ndarray, np.ndarray], ...]

    def __call__(self, prediction: Distribution) -> "Recalibrated":
        """The prediction with its levels mapped."""
        if len(self.knots) > 1 or np.ndim(prediction.mean) > 1:
            _check_outputs((len(self.knots),), prediction)
        return Recalibrated(prediction, self)

    def output(self, i: int) -> "Recalibration":
        """The map of one of several outputs."""
        return Recalibration(self.knots[i : i + 1])


def _passed_on(name: str) -> property:
    return property(
        lambda self: getattr(self.prediction, name), doc=f"The prediction's `{name}`, in units of y."
    )


class Recalibrated(NamedTuple):
    """A distribution whose cdf has been mapped; mean and std are those of the prediction it was made from.

    Its density is the prediction's times the slope of the map, which jumps from knot to knot.
    """

    prediction: Distribution
    calibration: Recalibration

    mean, std, aleatoric, epistemic = map(_passed_on, ("mean", "std", "aleatoric", "epistemic"))

    def _mapped(self, values: ArrayLike, mapping: Callable) -> np.ndarray:
        """A function of the knots, on the values of each output."""
        values = np.asarray(values, np.float64)
        if values.ndim == 1:
            return mapping(values, *self.calibration.knots[0])
        return np.stack([mapping(values[:, i], *own) for i, own in enumerate(self.calibration.knots)], axis=1)

    def cdf(self, y: ArrayLike) -> np.ndarray:
        """Probability of a value at most y, elementwise."""
        return self._mapped(self.prediction.cdf(y), np.interp)

    def pit(self, y: ArrayLike) -> np.ndarray:
        """Probability integral transform: the cdf at y."""
        return self.cdf(y)

    def log_prob(self, y: ArrayLike) -> np.ndarray:
        """Log density at y, elementwise, in nats."""
        return np.asarray(self.prediction.log_prob(y)) + self._mapped(self.prediction.cdf(y), _log_slope)

    def quantile(self, q: ArrayLike | Sequence[ArrayLike]) -> np.ndarray:
        """Value below which a share q of the probability lies; shape `q.shape + mean.shape`."""
        check_probability("q", q)
        q = np.asarray(q, np.float64)
        edge = np.finfo(np.float64).eps
        before = [
            np.clip(np.interp(q, levels, pit), edge, 1 - edge) for pit, levels in self.calibration.knots
        ]
        if np.ndim(self.mean) == 1:
            return np.asarray(self.prediction.quantile(before[0]))
        columns = [np.asarray(self.prediction.quantile(own))[..., i] for i, own in enumerate(before)]
        return np.stack(columns, axis=-1)

    def interval(self, level: ArrayLike | Sequence[ArrayLike] = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Central interval `(lo, hi)`; either end has the shape `level.shape + mean.shape`."""
        check_probability("level", level)
        level = np.asarray(level, np.float64)
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def output(self, i: int) -> "Recalibrated":
        """The distribution of one of several outputs, over `(n,)`."""
        return Recalibrated(self.prediction.output(i), self.calibration.output(i))


def _log_slope(values: np.ndarray, pit: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Log of the slope of a piecewise linear map."""
    piece = np.clip(np.searchsorted(pit, values, side="right") - 1, 0, len(pit) - 2)
    return np.log(np.diff(levels) / np.diff(pit))[piece]


class Conformal(NamedTuple):
    """A prediction with conformal intervals; mean and std are those of the prediction.

    It has no density and no cdf: that its intervals hold their share is all that is known.
    """

    prediction: Distribution
    calibration: Any

    mean, std, aleatoric, epistemic = map(_passed_on, ("mean", "std", "aleatoric", "epistemic"))

    def interval(self, level: ArrayLike | Sequence[ArrayLike] = 0.95) -> tuple[np.ndarray, np.ndarray]:
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

    def quantile(self, q: ArrayLike | Sequence[ArrayLike]) -> np.ndarray:
        """An end of the interval of level `abs(1 - 2 q)`; shape `q.shape + mean.shape`.

        At 0.5 it is the middle of the narrowest interval. What lies below and what lies above an interval
        is known only together: a single quantile has no guarantee.
        """
        check_probability("q", q)
        q = np.asarray(q, np.float64)
        lower, upper = self.interval(np.maximum(np.abs(1 - 2 * q), 1e-9))
        below = q.reshape(q.shape + (1,) * np.ndim(self.mean))
        return np.where(below < 0.5, lower, np.where(below > 0.5, upper, 0.5 * (lower + upper)))

    def output(self, i: int) -> "Conformal":
        """The intervals of one of several outputs, over `(n,)`."""
        return Conformal(self.prediction.output(i), self.calibration.output(i))


def rank(level: float, n: int) -> int:
    """The number of the score, counted from 1, below which a new one lies with probability `level`.

    `ceil(level (n + 1))`: the new score is as likely to come anywhere among the n others.

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
    # Products such as 0.55 * 100 come out a little above the whole number that they are.
    return max(math.ceil(round(level * (n + 1), 9)), 1)


class SplitConformal(NamedTuple):
    """Intervals `mean ± r std`, where r is a quantile of held-out `abs(y - mean) / std`.

    If the held-out rows and a new one are exchangeable, and none had a part in training, the interval of
    level a holds the new value with a probability of at least a, whatever the model; and of at most
    a + 1 / (n + 1) if no two scores are equal. Lei et al.
    2018, "Distribution-free predictive inference for regression".

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
    def fit(cls, prediction: Distribution, y: TableLike) -> "SplitConformal":
        """Learn from held-out rows.

        Args:
            prediction: of held-out rows, `(n,)` or `(n, d)`.
            y: observed values, the same shape.

        Raises:
            ValueError: as `metrics.check_prediction`.
        """
        y, _ = check_prediction(prediction, y)
        return cls(np.sort(_normalised_error(prediction, y), axis=0))

    def __call__(self, prediction: Distribution) -> Conformal:
        """The prediction with conformal intervals."""
        _check_outputs(self.scores.shape[1:], prediction)
        return Conformal(prediction, self)

    def interval(self, prediction: Distribution, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The interval of one level."""
        mean, std = (np.asarray(a, np.float64) for a in (prediction.mean, prediction.std))
        reach = self.scores[rank(level, len(self.scores)) - 1] * std
        return mean - reach, mean + reach

    def output(self, i: int) -> "SplitConformal":
        """The calibration of one of several outputs."""
        return SplitConformal(self.scores[:, i])


def _normalised_error(prediction: Distribution, y: np.ndarray) -> np.ndarray:
    mean, std = (np.asarray(a, np.float64) for a in (prediction.mean, prediction.std))
    return np.abs(np.asarray(y, np.float64) - mean) / std


class ConformalQuantiles(NamedTuple):
    """Predicted intervals, moved outwards or inwards by as much as held-out rows ask for.

    The guarantee is that of `SplitConformal`, in units of y where that one works in units of std. Romano et
    al. 2019, "Conformalized quantile regression".

    Attributes:
        prediction: of the held-out rows.
        y: what was observed.
    """

    prediction: Distribution
    y: np.ndarray

    @classmethod
    def fit(cls, prediction: Distribution, y: TableLike) -> "ConformalQuantiles":
        """Keep held-out rows; the arguments and errors are those of `SplitConformal.fit`."""
        y, _ = check_prediction(prediction, y)
        return cls(prediction, y)

    def __call__(self, prediction: Distribution) -> Conformal:
        """The prediction with conformal intervals."""
        _check_outputs(self.y.shape[1:], prediction)
        return Conformal(prediction, self)

    def interval(self, prediction: Distribution, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The interval of one level; where it shrinks to nothing, its middle twice."""
        found = rank(level, len(self.y))
        lower, upper = (np.asarray(end, np.float64) for end in self.prediction.interval(level))
        moved = np.partition(np.maximum(lower - self.y, self.y - upper), found - 1, axis=0)[found - 1]
        lower, upper = (np.asarray(end, np.float64) for end in prediction.interval(level))
        middle = 0.5 * (lower + upper)
        return np.minimum(lower - moved, middle), np.maximum(upper + moved, middle)

    def output(self, i: int) -> "ConformalQuantiles":
        """The calibration of one of several outputs."""
        return ConformalQuantiles(self.prediction.output(i), self.y[:, i])


class JackknifePlus(NamedTuple):
    """CV+ and jackknife+: intervals from members that each held some training rows out.

    Every row is used, to train some members and to calibrate the others. If rows are exchangeable, the
    interval of level a holds a new value with a probability of at least 2 a - 1, less `sqrt(2 / n)` for
    folds of rows; in practice it is about a. Barber et al. 2021, "Predictive inference with the jackknife+".
    For members of bootstrapped rows Kim et al. 2020, "Predictive inference is free with the
    jackknife+-after-bootstrap", show the same if their number is drawn at random; for a fixed number it
    is an observation.

    Attributes:
        held_out: the sets of members that held one and the same rows out, `(sets, members)`.
        of_row: which of these sets held each row out, `(n,)`.
        scores: `abs(y - mean) / std` of each row by the mixture of those members, `(n,)` or `(n, d)`.
    """

    held_out: Bool[np.ndarray, "sets members"]
    of_row: np.ndarray
    scores: Float[np.ndarray, "n ..."]

    @classmethod
    def fit(cls, prediction: Distribution, y: TableLike, held_out: TableLike) -> "JackknifePlus":
        """Learn from the training rows.

        Args:
            prediction: the ensemble's, of all rows that it was trained on: a GaussianMixture over `(n,)` or
                `(n, d)`, or an Affine of one.
            y: observed values, the same shape.
            held_out: booleans `(members, n)`, whether a member had no part of a row.

        Raises:
            ValueError: as `metrics.check_prediction`, or if a row was held out by no member.
        """
        y, _ = check_prediction(prediction, y)
        mixture = _mixture(prediction)
        held_out = _check_held_out(held_out, mixture, y)
        seen = np.flatnonzero(~held_out.any(axis=0))
        if seen.size:
            raise ValueError(f"row {seen[0]} was held out by no member, nor were {seen.size - 1} others")
        _check_left(held_out.T, mixture)
        sets, of_row = np.unique(held_out.T, axis=0, return_inverse=True)
        of_row = of_row.ravel()
        scores = np.empty(y.shape)
        for i, members in enumerate(sets):
            scores[of_row == i] = _normalised_error(_by_members(prediction, members), y)[of_row == i]
        return cls(sets, of_row, scores)

    def __call__(self, prediction: Distribution) -> Conformal:
        """The ensemble's prediction with conformal intervals."""
        members = len(_mixture(prediction).means)
        if members != self.held_out.shape[1]:
            raise ValueError(f"fitted to {self.held_out.shape[1]} members, the prediction has {members}")
        _check_left(self.held_out, _mixture(prediction))
        return Conformal(prediction, self)

    def interval(self, prediction: Distribution, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The interval of one level."""
        n = len(self.scores)
        upper_rank = rank(level, n)
        parts = [_by_members(prediction, members) for members in self.held_out]
        means, stds = (
            np.stack([np.asarray(getattr(part, name), np.float64) for part in parts])
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
        return lower, upper

    def output(self, i: int) -> "JackknifePlus":
        """The calibration of one of several outputs."""
        return self._replace(scores=self.scores[:, i])


def _check_outputs(fitted: tuple[int, ...], prediction: Distribution) -> None:
    """Raise unless a prediction has the outputs that a calibration was fitted to."""
    found = np.shape(prediction.mean)[1:]
    if found != fitted:
        raise ValueError(f"the calibration is for outputs of shape {fitted}, the prediction has {found}")


def _check_left(sets: np.ndarray, mixture: GaussianMixture) -> None:
    """Raise unless each set of members has one of positive weight."""
    if mixture.weights is not None and not (sets & (np.asarray(mixture.weights) > 0)).any(axis=1).all():
        raise ValueError("some rows were held out only by members whose weight in the mixture is 0")


def _mixture(prediction: Distribution) -> GaussianMixture:
    mixture = prediction.dist if isinstance(prediction, Affine) else prediction
    if not isinstance(mixture, GaussianMixture):
        raise ValueError(f"the members of a GaussianMixture are needed, got a {type(mixture).__name__}")
    return mixture


def _by_members(prediction: Distribution, members: np.ndarray) -> GaussianMixture | Affine:
    """The prediction by some of the members alone."""
    mixture = _mixture(prediction)
    weights = members * (1.0 if mixture.weights is None else np.asarray(mixture.weights))
    alone = mixture._replace(weights=jnp.asarray(weights, mixture.mean.dtype))
    return prediction._replace(dist=alone) if isinstance(prediction, Affine) else alone
