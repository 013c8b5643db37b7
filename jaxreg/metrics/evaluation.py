"""All scores at once, beside those of the trivial prediction."""

from typing import TypedDict, overload

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg.checks import check_std
from jaxreg.data.frames import TableLike
from jaxreg.distributions.base import Prediction
from jaxreg.distributions.clipped import Clipped
from jaxreg.distributions.gaussian import Gaussian
from jaxreg.distributions.mixture import GaussianMixture
from jaxreg.distributions.transformed import Affine
from jaxreg.metrics.groups import GroupCoverage, coverage_by
from jaxreg.metrics.scores import (
    calibration_error,
    coverage,
    crps,
    ence,
    interval_score,
    mae,
    max_calibration_error,
    nll,
    outside,
    rmse,
    sharpness,
    variance_split,
    width,
)

Number = float | np.ndarray


class IntervalScores(TypedDict):
    """What every prediction is scored by: numbers, or arrays `(d,)`, by the name of the function."""

    rmse: Number
    mae: Number
    level: Number
    coverage: Number
    below: Number
    above: Number
    width: Number
    interval_score: Number
    ence: Number
    sharpness: Number
    aleatoric: Number
    epistemic: Number


class Scores(IntervalScores):
    """What `evaluate` returns of a Gaussian, a GaussianMixture, or an Affine of one."""

    nll: Number
    crps: Number
    calibration_error: Number
    max_calibration_error: Number


class ComparedScores(Scores):
    """The same with those of a baseline."""

    baseline: Scores


class SomeScores(IntervalScores, total=False):
    """What `evaluate` returns of any prediction; conformal intervals have none of these scores."""

    nll: Number
    crps: Number
    calibration_error: Number
    max_calibration_error: Number
    baseline: Scores
    groups: GroupCoverage


Exact = Gaussian | GaussianMixture | Affine | Clipped
Baseline = tuple[ArrayLike, ArrayLike]


@overload
def evaluate(
    prediction: Exact, y: TableLike, *, level: float = 0.95, sample_weight: TableLike | None = None
) -> Scores: ...
@overload
def evaluate(
    prediction: Exact,
    y: TableLike,
    *,
    level: float = 0.95,
    baseline: Baseline,
    sample_weight: TableLike | None = None,
) -> ComparedScores: ...
@overload
def evaluate(
    prediction: Prediction,
    y: TableLike,
    *,
    level: float = 0.95,
    baseline: Baseline | None = None,
    sample_weight: TableLike | None = None,
    groups: TableLike | str | None = None,
) -> SomeScores: ...
def evaluate(
    prediction: Prediction,
    y: TableLike,
    *,
    level: TableLike = 0.95,
    baseline: Baseline | None = None,
    sample_weight: TableLike | None = None,
    groups: TableLike | str | None = None,
) -> Scores | ComparedScores | SomeScores:
    """All scores of a prediction, and beside them those of a trivial one.

    Args:
        prediction: over `(n,)` or `(n, d)`.
        y: observed values, the same shape.
        level: a number; of the interval that coverage, width, interval score and the shares of values below
            and above are of.
        baseline: mean and standard deviation of the training targets, in units of y: what a reader who
            knows no features would predict for every row. Its scores come under the key "baseline".
        sample_weight: weight of each row or value.
        groups: a label of each row, or "std" or "mean"; their `coverage_by` comes under the key "groups".

    Returns:
        `Scores` by name: numbers, or arrays `(d,)`. A score that the prediction can't give is left out:
        conformal intervals have no density, and the CRPS of recalibrated levels isn't known.

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
    below, above = outside(prediction, y, level, **weighted)
    scores = {"rmse": rmse(prediction, y, **weighted), "mae": mae(prediction, y, **weighted)}
    if hasattr(able, "log_prob"):
        scores["nll"] = nll(prediction, y, **weighted)
    if hasattr(able, "crps"):
        scores["crps"] = crps(prediction, y, **weighted)
    scores |= {
        "level": level,
        "coverage": coverage(prediction, y, level, **weighted),
        "below": below,
        "above": above,
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
    if groups is not None:
        scores["groups"] = coverage_by(prediction, y, groups, level, **weighted)
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
