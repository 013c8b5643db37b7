"""Scores of predictive distributions: means over rows, one number for each output."""

from types import ModuleType

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxreg.checks import check_probability
from jaxreg.data.frames import TableLike
from jaxreg.distributions.base import Prediction
from jaxreg.metrics.checked import Score, able, as_wide, checked_arrays, weighted_mean
from jaxreg.plain import check_whole

# The levels at which the calibration of quantiles is looked at: 1 % to 99 %.
LEVELS = np.arange(1, 100) / 100


def rmse(prediction: Prediction, y: TableLike, *, sample_weight: TableLike | None = None) -> Score:
    """Root mean squared error of the mean, in units of y.

    Args:
        prediction: over `(n,)` or `(n, d)`, as for all scores here.
        y: observed values, the same shape.
        sample_weight: weight of each row `(n,)`, or of each value `(n, d)`; default 1.

    Returns:
        A number, or one for each output `(d,)`.

    Raises:
        ValueError: as `check_prediction`; so do all scores here.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Gaussian, metrics
    >>> prediction = Gaussian(mean=jnp.array([1.0, 2.0]), log_var=jnp.zeros(2))
    >>> print(metrics.rmse(prediction, [1.0, 4.0]).round(4))
    1.4142
    """
    xp, y, weight = checked_arrays(prediction, y, sample_weight)
    return xp.sqrt(weighted_mean(xp, (as_wide(xp, prediction.mean) - y) ** 2, weight))


def mae(prediction: Prediction, y: TableLike, *, sample_weight: TableLike | None = None) -> Score:
    """Mean absolute error of the mean, in units of y."""
    xp, y, weight = checked_arrays(prediction, y, sample_weight)
    return weighted_mean(xp, abs(as_wide(xp, prediction.mean) - y), weight)


def nll(prediction: Prediction, y: TableLike, *, sample_weight: TableLike | None = None) -> Score:
    """Negative log-likelihood with its constant, `-log_prob(y)`, in nats; a mixture's is its own.

    It depends on the unit of y: in one that is c times as large it is `log(c)` less.
    """
    xp, y, weight = checked_arrays(prediction, y, sample_weight)
    return -weighted_mean(xp, able(prediction, "log_prob").log_prob(y), weight)


def crps(prediction: Prediction, y: TableLike, *, sample_weight: TableLike | None = None) -> Score:
    """Continuous ranked probability score in closed form, in units of y; lower is better.

    Gneiting & Raftery 2007, "Strictly proper scoring rules, prediction, and estimation".
    """
    xp, y, weight = checked_arrays(prediction, y, sample_weight)
    return weighted_mean(xp, able(prediction, "crps").crps(y), weight)


def pit(prediction: Prediction, y: TableLike) -> Float[Array | np.ndarray, "..."]:
    """Probability integral transform, the cdf at y: uniform on (0, 1) if predictions are right.

    Returns:
        A value for each of y's.
    """
    xp, y, _ = checked_arrays(prediction, y, None)
    return as_wide(xp, able(prediction, "pit").pit(y))


def coverage(
    prediction: Prediction, y: TableLike, level: TableLike = 0.95, *, sample_weight: TableLike | None = None
) -> Score:
    """Share of observed values inside the central interval.

    Args:
        prediction: over `(n,)` or `(n, d)`.
        y: observed values, the same shape.
        level: of the interval, a number or an array of several.
        sample_weight: weight of each row or value.

    Returns:
        Shape `level.shape`, or `level.shape + (d,)`.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Gaussian, metrics
    >>> prediction = Gaussian(mean=jnp.zeros(4), log_var=jnp.zeros(4))
    >>> print(metrics.coverage(prediction, [0.1, -1.0, 1.5, 3.0], level=jnp.array([0.5, 0.95])))
    [0.25 0.75]
    """
    xp, y, weight = checked_arrays(prediction, y, sample_weight)
    (lower, upper), leading = prediction.interval(level), np.ndim(level)
    y = y.reshape((1,) * leading + y.shape)
    return weighted_mean(xp, (lower <= y) & (y <= upper), weight, leading)


def outside(
    prediction: Prediction, y: TableLike, level: TableLike = 0.95, *, sample_weight: TableLike | None = None
) -> tuple[Score, Score]:
    """Shares of observed values below and above the central interval; each should be `(1 - level) / 2`.

    Returns:
        `(below, above)`, each of shape `level.shape`, or `level.shape + (d,)`.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Gaussian, metrics
    >>> prediction = Gaussian(mean=jnp.zeros(4), log_var=jnp.zeros(4))
    >>> below, above = metrics.outside(prediction, [0.1, -1.0, 1.5, 3.0])
    >>> print(below, above)
    0.0 0.25
    """
    xp, y, weight = checked_arrays(prediction, y, sample_weight)
    (lower, upper), leading = prediction.interval(level), np.ndim(level)
    y = y.reshape((1,) * leading + y.shape)
    below, above = (weighted_mean(xp, beyond, weight, leading) for beyond in (y < lower, y > upper))
    return below, above


def width(
    prediction: Prediction, level: TableLike = 0.95, *, sample_weight: TableLike | None = None
) -> Score:
    """Mean width of the central interval, in units of y; the narrower the better at equal coverage.

    Returns:
        Shape `level.shape`, or `level.shape + (d,)`.
    """
    xp, _, weight = checked_arrays(prediction, prediction.mean, sample_weight)
    lower, upper = (as_wide(xp, end) for end in prediction.interval(level))
    return weighted_mean(xp, upper - lower, weight, np.ndim(level))


def interval_score(
    prediction: Prediction, y: TableLike, level: TableLike = 0.95, *, sample_weight: TableLike | None = None
) -> Score:
    """Winkler's score: the interval's width, and `2 / (1 - level)` times how far a value lies outside it.

    In units of y; lower is better. Winkler 1972, "A decision-theoretic approach to interval estimation".

    Returns:
        Shape `level.shape`, or `level.shape + (d,)`.
    """
    xp, y, weight = checked_arrays(prediction, y, sample_weight)
    lower, upper = (as_wide(xp, end) for end in prediction.interval(level))
    level, y = _against_rows(xp, level, y)
    outside = xp.maximum(lower - y, 0) + xp.maximum(y - upper, 0)
    return weighted_mean(
        xp, upper - lower + 2 / (1 - level) * outside, weight, lower.ndim - prediction.mean.ndim
    )


def pinball(
    prediction: Prediction, y: TableLike, q: TableLike, *, sample_weight: TableLike | None = None
) -> Score:
    """Pinball (quantile) loss of the predicted quantile q, in units of y; lower is better.

    Koenker & Bassett 1978, "Regression quantiles".

    Returns:
        Shape `q.shape`, or `q.shape + (d,)`.
    """
    xp, y, weight = checked_arrays(prediction, y, sample_weight)
    quantile = as_wide(xp, prediction.quantile(q))
    q, y = _against_rows(xp, q, y)
    loss = xp.maximum(q * (y - quantile), (q - 1) * (y - quantile))
    return weighted_mean(xp, loss, weight, quantile.ndim - prediction.mean.ndim)


def _against_rows(xp: ModuleType, levels: TableLike, y: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """Levels with an axis for each of y's, and y with one for each of theirs."""
    levels = xp.asarray(levels)
    return levels.reshape(levels.shape + (1,) * y.ndim), y.reshape((1,) * levels.ndim + y.shape)


def observed_levels(
    prediction: Prediction,
    y: TableLike,
    levels: TableLike = LEVELS,
    *,
    sample_weight: TableLike | None = None,
) -> Score:
    """Share of values at most the predicted quantile of each level: what a reliability diagram shows.

    Returns:
        Shape `(levels,)`, or `(levels, d)`.
    """
    check_probability("levels", levels)
    if np.ndim(levels) != 1:
        raise ValueError(f"levels must have shape (levels,), got {np.shape(levels)}")
    xp, y, weight = checked_arrays(prediction, y, sample_weight)
    pit = as_wide(xp, able(prediction, "pit").pit(y))
    return xp.stack([weighted_mean(xp, pit <= level, weight) for level in levels])


def calibration_error(
    prediction: Prediction, y: TableLike, *, sample_weight: TableLike | None = None
) -> Score:
    """Expected calibration error of the quantiles: the mean of `abs(observed - level)`, 1 % to 99 %.

    After Kuleshov et al. 2018, "Accurate uncertainties for deep learning using calibrated regression", who
    take squares; Chung et al. 2021, "Uncertainty toolbox", take the mean of absolute values as here.
    """
    return _off_level(observed_levels(prediction, y, sample_weight=sample_weight)).mean(axis=0)


def max_calibration_error(
    prediction: Prediction, y: TableLike, *, sample_weight: TableLike | None = None
) -> Score:
    """Maximum calibration error of the quantiles: the largest `abs(observed - level)`, 1 % to 99 %."""
    return _off_level(observed_levels(prediction, y, sample_weight=sample_weight)).max(axis=0)


def _off_level(observed: Score) -> Score:
    return abs(observed - LEVELS.reshape((-1,) + (1,) * (observed.ndim - 1)))


def sharpness(prediction: Prediction, *, sample_weight: TableLike | None = None) -> Score:
    """Root of the mean predicted variance, in units of y: how narrow predictions are, right or wrong."""
    xp, _, weight = checked_arrays(prediction, prediction.mean, sample_weight)
    return xp.sqrt(weighted_mean(xp, as_wide(xp, prediction.std) ** 2, weight))


def variance_split(prediction: Prediction, *, sample_weight: TableLike | None = None) -> tuple[Score, Score]:
    """Roots of the mean aleatoric and epistemic variance, whose squares sum to that of `sharpness`.

    In units of y. Depeweg et al. 2018, "Decomposition of uncertainty in Bayesian deep learning for
    efficient and risk-sensitive learning".

    Returns:
        `(aleatoric, epistemic)`.
    """
    xp, _, weight = checked_arrays(prediction, prediction.mean, sample_weight)
    parts = prediction.aleatoric, prediction.epistemic
    return tuple(xp.sqrt(weighted_mean(xp, as_wide(xp, part) ** 2, weight)) for part in parts)


def error_by_std(
    prediction: Prediction, y: TableLike, bins: int = 10, *, sample_weight: TableLike | None = None
) -> tuple[Score, Score, Score]:
    """Root mean predicted variance and root mean squared error, in bins of rows of similar std.

    Bins hold about equal numbers of rows, in the order of the predicted standard deviation. Rows of one std
    share a bin, so that there may be fewer: if the std is constant there is one.

    Args:
        prediction: over `(n,)` or `(n, d)`.
        y: observed values, the same shape.
        bins: how many; at most the number of rows.
        sample_weight: weight of each row or value.

    Returns:
        `(predicted, observed, rows)`, each of shape `(bins,)` or `(bins, d)`: the first two in units of y,
        NaN where a bin is empty; and the number of rows of each bin, or their weight.
    """
    check_whole("bins", bins, 1)
    xp, y, weight = checked_arrays(prediction, y, sample_weight)
    std, residual = as_wide(xp, prediction.std), as_wide(xp, prediction.mean) - y
    weight = xp.ones(y.shape) if weight is None else xp.broadcast_to(weight, y.shape)
    firsts = np.array([part[0] for part in np.array_split(np.arange(len(y)), min(bins, len(y)))])
    least = xp.sort(std, axis=0)[firsts]
    own = (std[None] >= least[:, None]).sum(axis=0) - 1
    inside = own[None] == np.arange(len(firsts)).reshape((-1, 1) + (1,) * (y.ndim - 1))
    share = xp.where(inside, weight[None], 0)
    total = share.sum(axis=1)
    divisor = xp.where(total > 0, total, xp.nan)
    predicted, observed = (xp.sqrt((share * a[None] ** 2).sum(axis=1) / divisor) for a in (std, residual))
    return predicted, observed, total


def ence(
    prediction: Prediction, y: TableLike, bins: int = 10, *, sample_weight: TableLike | None = None
) -> Score:
    """Expected normalised calibration error: the mean over bins of `abs(predicted - observed) / predicted`.

    Levi et al. 2022, "Evaluating and calibrating uncertainty prediction in regression tasks". The bins are
    those of `error_by_std`.
    """
    predicted, observed, _ = error_by_std(prediction, y, bins, sample_weight=sample_weight)
    xp = np if isinstance(predicted, np.ndarray) else jnp
    return xp.nanmean(abs(predicted - observed) / predicted, axis=0)
