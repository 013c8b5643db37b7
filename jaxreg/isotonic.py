"""Recalibration of the cdf on held-out rows, with scikit-learn's isotonic regression."""

import numpy as np
from sklearn.isotonic import IsotonicRegression

from jaxreg import metrics
from jaxreg.calibration.recalibration import Recalibration
from jaxreg.data.frames import TableLike
from jaxreg.distributions.base import Prediction
from jaxreg.metrics.checked import check_prediction


def fit(prediction: Prediction, y: TableLike, *, sample_weight: TableLike | None = None) -> Recalibration:
    """Map predicted levels of the cdf to those observed on held-out rows.

    The i-th of n sorted levels stands for `i / (n + 1)`. Kuleshov et al. 2018, "Accurate uncertainties for
    deep learning using calibrated regression". Rows that chose a member's best epoch are best left out.

    Args:
        prediction: of held-out rows, `(n,)` or `(n, d)`.
        y: observed values, the same shape.
        sample_weight: weight of each row or value.

    Returns:
        A calibration: calling it maps other predictions.

    Raises:
        ValueError: as `metrics.check_prediction`.

    >>> import jax, jax.numpy as jnp
    >>> from jaxreg import Gaussian, isotonic
    >>> y = 2 * jax.random.normal(jax.random.key(0), (2000,))  # twice as wide as predicted
    >>> recalibration = isotonic.fit(Gaussian(jnp.zeros(2000), jnp.zeros(2000)), y)
    >>> lo, hi = recalibration(Gaussian(jnp.zeros(1), jnp.zeros(1))).interval(0.8)
    >>> print(hi.round(1))  # predicted as 1.3
    [2.5]
    """
    y, weight = check_prediction(prediction, y, sample_weight)
    levels = metrics.pit(prediction, y).reshape(len(y), -1)
    weight = np.broadcast_to(1.0 if weight is None else weight, y.shape).reshape(levels.shape)
    return Recalibration(tuple(_knots(*own) for own in zip(levels.T, weight.T, strict=True)))


def _knots(pit: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predicted levels and those that they stand for, from 0 to 1."""
    order = np.argsort(pit)
    order = order[weight[order] > 0]
    pit, weight = pit[order], weight[order]
    inside = (pit > 0) & (pit < 1)  # a level of 0 or 1 can't be mapped
    levels = (np.cumsum(weight) / (weight.sum() * (1 + 1 / len(pit))))[inside]
    if not inside.any():
        raise ValueError(
            "every y lies so far off that its predicted level is 0 or 1: scale the variance first"
        )
    steps = IsotonicRegression().fit(pit[inside], levels, sample_weight=weight[inside])
    known = steps.X_thresholds_, steps.y_thresholds_
    return tuple(np.concatenate([[0.0], values, [1.0]]) for values in known)
