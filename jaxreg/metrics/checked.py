"""A prediction and targets, checked together."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxreg.checks import check_same_shape, check_std, over_outputs
from jaxreg.data.border import check_targets
from jaxreg.data.frames import TableLike, as_floats
from jaxreg.distributions.base import Prediction
from jaxreg.distributions.transformed import Affine

Score = Float[Array | np.ndarray | np.generic, "..."]


def check_prediction(
    prediction: Prediction, y: TableLike, sample_weight: TableLike | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Targets and row weights as checked arrays, and the prediction checked with them.

    Args:
        prediction: over `(n,)` or `(n, d)`.
        y: observed values, of exactly that shape; what weighs 0 may be missing.
        sample_weight: `(n,)`, or y's shape; not negative.

    Returns:
        y in the prediction's dtype, and weights of y's rank or None.

    Raises:
        ValueError: if y is empty, of another shape, or holds missing or infinite values; if the prediction
            has means that aren't finite or standard deviations that aren't positive and finite; if weights
            are negative, all zero, or of another shape.
    """
    if not hasattr(prediction, "interval"):
        raise TypeError(
            f"a prediction with mean, std and interval is needed, got a {type(prediction).__name__}: pass "
            "what predict_dist(x) gives, or predict(model, params, x)"
        )
    mean = np.asarray(prediction.mean)
    infinite = (~np.isfinite(mean)).sum()
    if infinite:
        raise ValueError(f"the prediction's mean isn't finite in {infinite} of {mean.size} places")
    check_std(**{"the prediction's std": prediction.std})
    y = y if sample_weight is None else _without_absent(y, mean, sample_weight)
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


def _without_absent(y: TableLike, mean: np.ndarray, sample_weight: TableLike) -> TableLike:
    """Targets with the prediction's mean where one is missing that weighs 0."""
    try:
        values, weight = as_floats(y), as_floats(sample_weight)
    except (TypeError, ValueError):
        return y  # others say what is wrong with it
    if values.shape != mean.shape or weight.shape not in (mean.shape, mean.shape[:1]):
        return y
    absent = np.isnan(values) & np.broadcast_to(over_outputs(weight, mean.shape) == 0, mean.shape)
    return np.where(absent, mean, values) if absent.any() else y


def _of_rank(weight: ArrayLike, y: ArrayLike) -> ArrayLike:
    """Weights of rows with an axis more where y has one."""
    if weight.shape not in (np.shape(y), np.shape(y)[:1]):
        raise ValueError(
            f"sample_weight has shape {weight.shape}, expected {np.shape(y)[:1]} or y's {np.shape(y)}"
        )
    return over_outputs(weight, np.shape(y))


def checked_arrays(
    prediction: Prediction, y: ArrayLike | TableLike, sample_weight: TableLike | None
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


def able(prediction: Prediction, name: str) -> Any:
    """The prediction, or an error that says what it can't give."""
    inner = prediction.dist if isinstance(prediction, Affine) else prediction
    if not hasattr(inner, name):
        raise ValueError(
            f"a {type(inner).__name__} prediction has no {name}: score it by coverage and interval_score"
        )
    return prediction


def weighted_mean(xp: ModuleType, values: ArrayLike, weight: ArrayLike | None, leading: int = 0) -> Score:
    """The weighted mean over rows, the axis after so many leading ones."""
    values = xp.asarray(values, float)
    if weight is None:
        return values.mean(axis=leading)
    weight = xp.broadcast_to(weight, values.shape[leading:])
    share = (weight / weight.sum(axis=0)).reshape((1,) * leading + weight.shape)
    return (values * share).sum(axis=leading)


def as_wide(xp: ModuleType, values: ArrayLike) -> ArrayLike:
    """Values in float64, where NumPy computes."""
    return np.asarray(values, np.float64) if xp is np else values
