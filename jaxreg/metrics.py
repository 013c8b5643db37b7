"""Scores of predictive distributions: means over rows, one number for each output."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxreg.checks import check_probability, check_same_shape, check_std, check_whole, over_outputs
from jaxreg.data import TableLike, as_floats, check_numbers, check_targets
from jaxreg.gaussian import Affine, Gaussian

# What scores take: a Gaussian, GaussianMixture or Affine, or what a calibration made of one.
Distribution = Any
Score = Float[Array | np.ndarray | np.generic, "..."]

# The levels at which the calibration of quantiles is looked at: 1 % to 99 %.
LEVELS = np.arange(1, 100) / 100

# By which share of a value its map's slope is taken, and how much slopes of a straight line may differ.
STEP, STRAIGHT = 1e-4, 1e-6


def check_prediction(
    prediction: Distribution, y: TableLike, sample_weight: TableLike | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Targets and row weights as checked arrays, and the prediction checked with them.

    Args:
        prediction: over `(n,)` or `(n, d)`.
        y: observed values, of exactly that shape.
        sample_weight: `(n,)`, or y's shape; not negative.

    Returns:
        y in the prediction's dtype, and weights of y's rank or None.

    Raises:
        ValueError: if y is empty, of another shape, or holds missing or infinite values; if the prediction
            has means that aren't finite or standard deviations that aren't positive and finite; if weights
            are negative, all zero, or of another shape.
    """
    mean = np.asarray(prediction.mean)
    infinite = (~np.isfinite(mean)).sum()
    if infinite:
        raise ValueError(f"the prediction's mean isn't finite in {infinite} of {mean.size} places")
    check_std(**{"the prediction's std": prediction.std})
    y = check_targets(y, dtype=mean.dtype if mean.dtype.kind == "f" else None)
    check_same_shape(y=y, mean=mean)
    if y.size == 0:
        raise ValueError("y has no rows: at least one is needed")
    if sample_weight is None:
        return y, None
    weight = _of_rank(check_targets(sample_weight, "sample_weight", np.float64), y)
    if (weight < 0).any():
        raise ValueError(f"sample_weight has {(weight < 0).sum()} negative values; 0 leaves a row out")
    if not weight.any(axis=0).all():
        raise ValueError("sample_weight is zero everywhere: no row is left")
    return y, weight


def _of_rank(weight: ArrayLike, y: ArrayLike) -> ArrayLike:
    """Weights of rows with an axis more where y has one."""
    if weight.shape not in (np.shape(y), np.shape(y)[:1]):
        raise ValueError(
            f"sample_weight has shape {weight.shape}, expected {np.shape(y)[:1]} or y's {np.shape(y)}"
        )
    return over_outputs(weight, np.shape(y))


def _checked(
    prediction: Distribution, y: ArrayLike | TableLike, sample_weight: TableLike | None
) -> tuple[ModuleType, ArrayLike, ArrayLike | None]:
    """The array library to compute in, y and weights; traced arrays have their shapes checked alone.

    Unless it is traced a score is computed by NumPy in float64: in JAX each number of rows would cost a
    program more, and a sum over many rows the last digits.
    """
    if not any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves((prediction, y, sample_weight))):
        return np, *check_prediction(prediction, y, sample_weight)
    y = jnp.asarray(y)
    check_same_shape(y=y, mean=prediction.mean)
    return jnp, y, None if sample_weight is None else _of_rank(jnp.asarray(sample_weight), y)


def _able(prediction: Distribution, name: str) -> Distribution:
    """The prediction, or an error that says what it can't give."""
    inner = prediction.dist if isinstance(prediction, Affine) else prediction
    if not hasattr(inner, name):
        raise ValueError(
            f"a {type(inner).__name__} prediction has no {name}: score it by coverage and interval_score"
        )
    return prediction


def _average(xp: ModuleType, values: ArrayLike, weight: ArrayLike | None, leading: int = 0) -> Score:
    """The weighted mean over rows, the axis after so many leading ones."""
    values = xp.asarray(values, float)
    if weight is None:
        return values.mean(axis=leading)
    weight = xp.broadcast_to(weight, values.shape[leading:])
    share = (weight / weight.sum(axis=0)).reshape((1,) * leading + weight.shape)
    return (values * share).sum(axis=leading)


def rmse(prediction: Distribution, y: TableLike, *, sample_weight: TableLike | None = None) -> Score:
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
    xp, y, weight = _checked(prediction, y, sample_weight)
    return xp.sqrt(_average(xp, (_values(xp, prediction.mean) - y) ** 2, weight))


def _values(xp: ModuleType, values: ArrayLike) -> ArrayLike:
    return np.asarray(values, np.float64) if xp is np else values


def mae(prediction: Distribution, y: TableLike, *, sample_weight: TableLike | None = None) -> Score:
    """Mean absolute error of the mean, in units of y."""
    xp, y, weight = _checked(prediction, y, sample_weight)
    return _average(xp, abs(_values(xp, prediction.mean) - y), weight)


def nll(prediction: Distribution, y: TableLike, *, sample_weight: TableLike | None = None) -> Score:
    """Negative log-likelihood with its constant, `-log_prob(y)`, in nats; a mixture's is its own.

    It depends on the unit of y: in one that is c times as large it is `log(c)` less.
    """
    xp, y, weight = _checked(prediction, y, sample_weight)
    return -_average(xp, _able(prediction, "log_prob").log_prob(y), weight)


def crps(prediction: Distribution, y: TableLike, *, sample_weight: TableLike | None = None) -> Score:
    """Continuous ranked probability score in closed form, in units of y; lower is better.

    Gneiting & Raftery 2007, "Strictly proper scoring rules, prediction, and estimation".
    """
    xp, y, weight = _checked(prediction, y, sample_weight)
    return _average(xp, _able(prediction, "crps").crps(y), weight)


def pit(prediction: Distribution, y: TableLike) -> Float[Array | np.ndarray, "..."]:
    """Probability integral transform, the cdf at y: uniform on (0, 1) if predictions are right.

    Returns:
        A value for each of y's.
    """
    xp, y, _ = _checked(prediction, y, None)
    return _values(xp, _able(prediction, "pit").pit(y))


def coverage(
    prediction: Distribution, y: TableLike, level: TableLike = 0.95, *, sample_weight: TableLike | None = None
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
    xp, y, weight = _checked(prediction, y, sample_weight)
    (lower, upper), leading = prediction.interval(level), np.ndim(level)
    y = y.reshape((1,) * leading + y.shape)
    return _average(xp, (lower <= y) & (y <= upper), weight, leading)


def width(
    prediction: Distribution, level: TableLike = 0.95, *, sample_weight: TableLike | None = None
) -> Score:
    """Mean width of the central interval, in units of y; the narrower the better at equal coverage.

    Returns:
        Shape `level.shape`, or `level.shape + (d,)`.
    """
    xp, _, weight = _checked(prediction, prediction.mean, sample_weight)
    lower, upper = (_values(xp, end) for end in prediction.interval(level))
    return _average(xp, upper - lower, weight, np.ndim(level))


def interval_score(
    prediction: Distribution, y: TableLike, level: TableLike = 0.95, *, sample_weight: TableLike | None = None
) -> Score:
    """Winkler's score: the interval's width, and `2 / (1 - level)` times how far a value lies outside it.

    In units of y; lower is better. Winkler 1972, "A decision-theoretic approach to interval estimation".

    Returns:
        Shape `level.shape`, or `level.shape + (d,)`.
    """
    xp, y, weight = _checked(prediction, y, sample_weight)
    lower, upper = (_values(xp, end) for end in prediction.interval(level))
    level, y = _against_rows(xp, level, y)
    outside = xp.maximum(lower - y, 0) + xp.maximum(y - upper, 0)
    return _average(xp, upper - lower + 2 / (1 - level) * outside, weight, lower.ndim - prediction.mean.ndim)


def pinball(
    prediction: Distribution, y: TableLike, q: TableLike, *, sample_weight: TableLike | None = None
) -> Score:
    """Pinball (quantile) loss of the predicted quantile q, in units of y; lower is better.

    Koenker & Bassett 1978, "Regression quantiles".

    Returns:
        Shape `q.shape`, or `q.shape + (d,)`.
    """
    xp, y, weight = _checked(prediction, y, sample_weight)
    quantile = _values(xp, prediction.quantile(q))
    q, y = _against_rows(xp, q, y)
    loss = xp.maximum(q * (y - quantile), (q - 1) * (y - quantile))
    return _average(xp, loss, weight, quantile.ndim - prediction.mean.ndim)


def _against_rows(xp: ModuleType, levels: TableLike, y: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """Levels with an axis for each of y's, and y with one for each of theirs."""
    levels = xp.asarray(levels)
    return levels.reshape(levels.shape + (1,) * y.ndim), y.reshape((1,) * levels.ndim + y.shape)


def observed_levels(
    prediction: Distribution,
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
    xp, y, weight = _checked(prediction, y, sample_weight)
    pit = _values(xp, _able(prediction, "pit").pit(y))
    return xp.stack([_average(xp, pit <= level, weight) for level in levels])


def calibration_error(
    prediction: Distribution, y: TableLike, *, sample_weight: TableLike | None = None
) -> Score:
    """Expected calibration error of the quantiles: the mean of `abs(observed - level)`, 1 % to 99 %.

    After Kuleshov et al. 2018, "Accurate uncertainties for deep learning using calibrated regression", who
    take squares; Chung et al. 2021, "Uncertainty toolbox", take the mean of absolute values as here.
    """
    return _off_level(observed_levels(prediction, y, sample_weight=sample_weight)).mean(axis=0)


def max_calibration_error(
    prediction: Distribution, y: TableLike, *, sample_weight: TableLike | None = None
) -> Score:
    """Maximum calibration error of the quantiles: the largest `abs(observed - level)`, 1 % to 99 %."""
    return _off_level(observed_levels(prediction, y, sample_weight=sample_weight)).max(axis=0)


def _off_level(observed: Score) -> Score:
    return abs(observed - LEVELS.reshape((-1,) + (1,) * (observed.ndim - 1)))


def sharpness(prediction: Distribution, *, sample_weight: TableLike | None = None) -> Score:
    """Root of the mean predicted variance, in units of y: how narrow predictions are, right or wrong."""
    xp, _, weight = _checked(prediction, prediction.mean, sample_weight)
    return xp.sqrt(_average(xp, _values(xp, prediction.std) ** 2, weight))


def variance_split(
    prediction: Distribution, *, sample_weight: TableLike | None = None
) -> tuple[Score, Score]:
    """Roots of the mean aleatoric and epistemic variance, whose squares sum to that of `sharpness`.

    In units of y. Depeweg et al. 2018, "Decomposition of uncertainty in Bayesian deep learning for
    efficient and risk-sensitive learning".

    Returns:
        `(aleatoric, epistemic)`.
    """
    xp, _, weight = _checked(prediction, prediction.mean, sample_weight)
    parts = prediction.aleatoric, prediction.epistemic
    return tuple(xp.sqrt(_average(xp, _values(xp, part) ** 2, weight)) for part in parts)


def error_by_std(
    prediction: Distribution, y: TableLike, bins: int = 10, *, sample_weight: TableLike | None = None
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
    xp, y, weight = _checked(prediction, y, sample_weight)
    std, residual = _values(xp, prediction.std), _values(xp, prediction.mean) - y
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
    prediction: Distribution, y: TableLike, bins: int = 10, *, sample_weight: TableLike | None = None
) -> Score:
    """Expected normalised calibration error: the mean over bins of `abs(predicted - observed) / predicted`.

    Levi et al. 2022, "Evaluating and calibrating uncertainty prediction in regression tasks". The bins are
    those of `error_by_std`.
    """
    predicted, observed, _ = error_by_std(prediction, y, bins, sample_weight=sample_weight)
    xp = np if isinstance(predicted, np.ndarray) else jnp
    return xp.nanmean(abs(predicted - observed) / predicted, axis=0)


def evaluate(
    prediction: Distribution,
    y: TableLike,
    *,
    level: TableLike = 0.95,
    baseline: tuple[ArrayLike, ArrayLike] | None = None,
    sample_weight: TableLike | None = None,
) -> dict[str, Any]:
    """All scores of a prediction, and beside them those of a trivial one.

    Args:
        prediction: over `(n,)` or `(n, d)`.
        y: observed values, the same shape.
        level: a number; of the interval that coverage, width and interval score are of.
        baseline: mean and standard deviation of the training targets, in units of y: what a reader who
            knows no features would predict for every row. Its scores come under the key "baseline".
        sample_weight: weight of each row or value.

    Returns:
        Scores by name: numbers, or arrays `(d,)`. A score that the prediction can't give is left out:
        conformal intervals have no density.

    Raises:
        ValueError: as `check_prediction`, or if the level lies outside (0, 1).

    >>> import jax.numpy as jnp
    >>> from jaxreg import Gaussian, metrics
    >>> prediction = Gaussian(mean=jnp.array([1.0, 2.0, 3.0]), log_var=jnp.zeros(3))
    >>> scores = metrics.evaluate(prediction, [1.5, 2.0, 2.0], baseline=(2.0, 2.0))
    >>> print(f"{scores['crps']:.3f} {scores['baseline']['crps']:.3f}")
    0.389 0.484
    """
    if np.ndim(level):
        raise ValueError(f"level must be a number, got {level}: coverage and width take several")
    weighted = {"sample_weight": sample_weight}
    able = prediction.dist if isinstance(prediction, Affine) else prediction
    aleatoric, epistemic = variance_split(prediction, **weighted)
    scores = {"rmse": rmse(prediction, y, **weighted), "mae": mae(prediction, y, **weighted)}
    if hasattr(able, "log_prob"):
        scores["nll"] = nll(prediction, y, **weighted)
    if hasattr(able, "crps"):
        scores["crps"] = crps(prediction, y, **weighted)
    scores |= {
        "level": level,
        "coverage": coverage(prediction, y, level, **weighted),
        "width": width(prediction, level, **weighted),
        "interval_score": interval_score(prediction, y, level, **weighted),
    }
    if hasattr(able, "cdf"):
        scores["calibration_error"] = calibration_error(prediction, y, **weighted)
        scores["max_calibration_error"] = max_calibration_error(prediction, y, **weighted)
    scores |= {
        "ence": ence(prediction, y, **weighted),
        "sharpness": sharpness(prediction, **weighted),
        "aleatoric": aleatoric,
        "epistemic": epistemic,
    }
    if baseline is not None:
        zeros, outputs = jnp.zeros(np.shape(prediction.mean)), np.shape(prediction.mean)[1:]
        loc, scale = (np.asarray(a, np.float64) for a in baseline)
        for name, number in (("mean", loc), ("std", scale)):
            if number.shape not in ((), outputs):
                raise ValueError(f"the baseline's {name} has shape {number.shape}, expected () or {outputs}")
        check_std(**{"the baseline's std": scale})
        trivial = Affine(Gaussian(zeros, zeros), loc, scale)
        scores["baseline"] = evaluate(trivial, y, level=level, **weighted)
    return {name: float(v) if isinstance(v, np.generic) else v for name, v in scores.items()}


def neg_nll(estimator: Any, X: TableLike, y: TableLike, sample_weight: TableLike | None = None) -> float:
    """Minus the mean negative log-likelihood: a scorer for `cross_val_score` and `GridSearchCV`.

    It sees through a Pipeline, a search, and a TransformedTargetRegressor whose map is monotone, of which it
    takes the density in y's own units. Missing targets, of several, count for nothing.

    Args:
        estimator: fitted, a `DeepEnsembleRegressor` or one of these around it.
        X: features.
        y: observed values, `(n,)` or `(n, d)`.
        sample_weight: of each row.

    Raises:
        ValueError: for targets that `fit` would refuse, for an estimator without predictive distributions, or
            for a map of the target that isn't monotone, by name.
    """
    return -_estimator_score(nll, estimator, X, y, sample_weight)


def neg_crps(estimator: Any, X: TableLike, y: TableLike, sample_weight: TableLike | None = None) -> float:
    """Minus the mean continuous ranked probability score, in units of y: a scorer as `neg_nll` is.

    A TransformedTargetRegressor is seen through where its map is a straight line.
    """
    return -_estimator_score(crps, estimator, X, y, sample_weight)


def _estimator_score(
    score: Callable, estimator: Any, X: TableLike, y: TableLike, sample_weight: TableLike | None
) -> float:
    inner, X, maps = _unwrapped(estimator, X)
    check_numbers(y, "y", gaps=np.asarray(y).ndim == 2)
    y = as_floats(y)
    slopes = np.ones(y.shape)
    if maps and sample_weight is not None:  # what weighs nothing may lie outside the map
        counted = np.asarray(sample_weight) > 0
        y = np.where(counted, y, y[counted][:1])
    for around in maps:
        y, slope = _mapped(around, y, type(estimator).__name__)
        slopes = slopes * slope
    known = ~np.isnan(y)
    if not known.all():
        weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        y, sample_weight = np.where(known, y, 0), known * over_outputs(weight, y.shape)
    found = float(np.mean(score(inner.predict_dist(X), y, sample_weight=sample_weight)))
    if not maps:
        return found
    if score is nll:
        return found - float(np.average(np.log(np.abs(slopes)), weights=sample_weight))
    if np.ptp(slopes) > STRAIGHT * np.abs(slopes).max():
        raise ValueError(
            f"the CRPS of a {type(estimator).__name__} is known where the target's map is a straight line: "
            "score it by neg_nll, or give the regressor the target as it is"
        )
    return found / float(np.abs(slopes).mean())


def _unwrapped(estimator: Any, X: TableLike) -> tuple[Any, TableLike, list[Any]]:
    """The estimator within others that predicts a distribution, its features, and the maps of its target."""
    outer, maps = type(estimator).__name__, []
    while not hasattr(estimator, "predict_dist"):
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif hasattr(estimator, "steps"):
            for _, step in estimator.steps[:-1]:
                X = X if step in (None, "passthrough") else step.transform(X)
            estimator = estimator.steps[-1][1]
        elif hasattr(estimator, "regressor_") and hasattr(estimator, "transformer_"):
            maps.append(estimator.transformer_)
            estimator = estimator.regressor_
        else:
            raise ValueError(
                f"a {outer} has no predictive distribution: give a fitted DeepEnsembleRegressor, or a "
                "Pipeline, a search or a TransformedTargetRegressor around one"
            )
    return estimator, X, maps


def _mapped(around: Any, y: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """What a TransformedTargetRegressor makes of targets, and the slope of its map there.

    The slope is a central difference with one step of Richardson's, right to about ten digits.
    """
    if y.ndim > 1:
        raise ValueError(f"the scores of several targets aren't known through the map of a {name}")

    def transform(values: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):  # what isn't finite is named below
            return np.asarray(around.transform(values[:, None]), np.float64)[:, 0]

    step = STEP * np.where(y == 0, min(1.0, np.abs(y[y != 0]).min(initial=1.0)), np.abs(y))
    one, two = ((transform(y + wide) - transform(y - wide)) / (2 * wide) for wide in (step, 2 * step))
    mapped, slope = transform(y), (4 * one - two) / 3
    wrong = ~(np.isfinite(mapped) & np.isfinite(slope))
    if wrong.any():
        raise ValueError(
            f"the map of the target of a {name} isn't finite, or has no slope, at {y[wrong][0]:g}: its "
            "density isn't known there"
        )
    ordered = np.diff(transform(np.unique(y)))
    if not any((ordered * sign > 0).all() and (slope * sign > 0).all() for sign in (1, -1)):
        raise ValueError(f"the map of the target of a {name} isn't monotone: its density isn't known")
    return mapped, slope
