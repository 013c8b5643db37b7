"""Recalibrated levels of the cdf."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxreg.calibration.scaling import check_outputs
from jaxreg.checks import check_probability
from jaxreg.distributions.base import Distribution, Levels, Record, Values

Own = TypeVar("Own", bound="Calibrated")


class Recalibration(NamedTuple):
    """A map from predicted to observed levels of the cdf, piecewise linear; `isotonic.fit` makes one.

    Kuleshov et al. 2018, "Accurate uncertainties for deep learning using calibrated regression".

    Attributes:
        knots: for each output the predicted levels and the observed levels that they map to, both strictly
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


class Calibrated(Record):
    """A prediction with a calibration; mean and std are those of the prediction."""

    prediction: Any
    calibration: Any

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.prediction!r}, {type(self.calibration).__name__})"

    def __getitem__(self: Own, rows: Any) -> Own:
        """The same for some rows, by a number, a slice, or a list of numbers or booleans."""
        calibration = self.calibration
        if hasattr(calibration, "rows"):  # one that knows of single rows
            calibration = calibration.rows(rows)
        return self._replace(prediction=self.prediction[rows], calibration=calibration)

    @property
    def mean(self) -> Array | np.ndarray:
        """The prediction's mean, in units of y."""
        return self.prediction.mean

    @property
    def std(self) -> Array | np.ndarray:
        """The prediction's standard deviation, in units of y."""
        return self.prediction.std

    @property
    def aleatoric(self) -> Array | np.ndarray:
        """The prediction's standard deviation of the noise, in units of y."""
        return self.prediction.aleatoric

    @property
    def epistemic(self) -> Array | np.ndarray:
        """The prediction's standard deviation of the members' means, in units of y."""
        return self.prediction.epistemic

    def output(self: Own, i: int) -> Own:
        """The same for one of several outputs, over `(n,)`."""
        return type(self)(self.prediction.output(i), self.calibration.output(i))


class Recalibrated(Calibrated):
    """A distribution whose cdf has been mapped; mean and std are those of the prediction it was made from.

    Its density is the prediction's times the slope of the map, which jumps at the knots.
    """

    __slots__ = ()

    def _mapped(self, values: ArrayLike, mapping: Callable) -> np.ndarray:
        """Apply a function of each output's knots to its values."""
        values = np.asarray(values, np.float64)
        if len(self.calibration.knots) == 1:
            return np.asarray(mapping(values, *self.calibration.knots[0]))
        columns = [mapping(values[..., i], *own) for i, own in enumerate(self.calibration.knots)]
        return np.stack(columns, axis=-1)

    def cdf(self, y: Values) -> np.ndarray:
        """Probability of a value at most y, elementwise."""
        return self._mapped(self.prediction.cdf(y), np.interp)

    def pit(self, y: Values) -> np.ndarray:
        """Probability integral transform: the cdf at y."""
        return self.cdf(y)

    def log_prob(self, y: Values) -> np.ndarray:
        """Log density at y, elementwise, in nats."""
        slope = self._mapped(self.prediction.cdf(y), _log_slope)
        return np.asarray(np.asarray(self.prediction.log_prob(y)) + slope)

    def quantile(self, q: Levels) -> np.ndarray:
        """Value below which a share q of the probability lies; shape `q.shape + mean.shape`."""
        check_probability("q", q)
        q = np.asarray(q, np.float64)
        edge = np.finfo(np.float64).eps
        before = [
            np.clip(np.interp(q, levels, pit), edge, 1 - edge) for pit, levels in self.calibration.knots
        ]
        if len(before) == 1:
            return np.asarray(self.prediction.quantile(before[0]))
        columns = [np.asarray(self.prediction.quantile(own))[..., i] for i, own in enumerate(before)]
        return np.stack(columns, axis=-1)

    def interval(self, level: Levels = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Central interval `(lo, hi)`; either end has the shape `level.shape + mean.shape`."""
        check_probability("level", level)
        level = np.asarray(level, np.float64)
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)


def _log_slope(values: ArrayLike, pit: np.ndarray, levels: np.ndarray) -> ArrayLike:
    """Log of the slope of a piecewise linear map."""
    piece = np.clip(np.searchsorted(pit, values, side="right") - 1, 0, len(pit) - 2)
    return np.log(np.diff(levels) / np.diff(pit))[piece]
