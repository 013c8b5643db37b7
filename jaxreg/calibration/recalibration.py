"""Recalibrated levels of the cdf."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxreg.calibration.scaling import check_outputs
from jaxreg.checks import check_probability
from jaxreg.metrics.checked import Distribution


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
            check_outputs((len(self.knots),), prediction)
        return Recalibrated(prediction, self)

    def output(self, i: int) -> "Recalibration":
        """The map of one of several outputs."""
        return Recalibration(self.knots[i : i + 1])


def passed_on(name: str) -> property:
    """A property that is the prediction's own."""
    return property(
        lambda self: getattr(self.prediction, name), doc=f"The prediction's `{name}`, in units of y."
    )


class Recalibrated(NamedTuple):
    """A distribution whose cdf has been mapped; mean and std are those of the prediction it was made from.

    Its density is the prediction's times the slope of the map, which jumps from knot to knot.
    """

    prediction: Distribution
    calibration: Recalibration

    mean, std, aleatoric, epistemic = map(passed_on, ("mean", "std", "aleatoric", "epistemic"))

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
