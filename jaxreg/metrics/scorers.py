"""Scores of estimators, as scikit-learn's searches take them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxreg.checks import over_outputs
from jaxreg.data.frames import TableLike, as_floats, check_numbers
from jaxreg.metrics.scores import crps, nll

# By which share of a value its map's slope is taken, and how much slopes of a straight line may differ.
STEP, STRAIGHT = 1e-4, 1e-6


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
