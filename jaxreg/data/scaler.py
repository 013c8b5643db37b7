"""Columns and weights in units of their own."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxreg.checks import over_outputs
from jaxreg.data.frames import TableLike
from jaxreg.plain import warn


class Scaler(NamedTuple):
    """Takes columns to mean 0 and standard deviation 1, and back, in float64 on the host.

    Args:
        loc: means, `(features,)`, or a scalar for one target.
        scale: standard deviations, the same shape; 1 for a constant column.

    >>> import numpy as np
    >>> from jaxreg import Scaler
    >>> x = np.array([[1.0, 1e30], [3.0, 3e30]])
    >>> scaler = Scaler.fit(x)
    >>> scaler.transform(x).round(6).tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    >>> np.allclose(scaler.inverse(scaler.transform(x)), x)
    True
    """

    loc: Float[np.ndarray, "..."]
    scale: Float[np.ndarray, "..."]

    @classmethod
    def fit(
        cls,
        values: TableLike,
        names: Sequence[str] | None = None,
        weight: TableLike | None = None,
    ) -> "Scaler":
        """Learn means and standard deviations from rows; a constant column is warned of and kept.

        Args:
            values: rows, `(n,)` or `(n, columns)`.
            names: of the columns, for the warning.
            weight: of each row `(n,)`, or of each value; those of no weight may hold anything.
        """
        values = np.asarray(values, np.float64)
        weight = np.ones(values.shape) if weight is None else np.asarray(weight, np.float64)
        weight = np.broadcast_to(over_outputs(weight, values.shape), values.shape)
        values = np.where(weight > 0, values, np.nan)
        # Moments are taken of values divided by their largest, whose squares neither overflow nor vanish.
        largest = np.nanmax(np.abs(values), axis=0)
        unit = np.where(largest > 0, largest, 1.0)
        constant = np.nanmax(values, axis=0) == np.nanmin(values, axis=0)
        shrunk = np.where(weight > 0, values / unit, 0)
        if np.any(constant):
            flagged = [str(i) for i in np.flatnonzero(constant)]
            if names is not None:
                flagged = [repr(names[int(i)]) for i in flagged]
            warn(f"constant column {', '.join(flagged)}: it tells nothing about the target, and is kept")
        mean = np.average(shrunk, axis=0, weights=weight)
        scale = np.sqrt(np.average((shrunk - mean) ** 2, axis=0, weights=weight)) * unit
        return cls(np.asarray(mean * unit), np.asarray(np.where(constant | (scale == 0), 1.0, scale)))

    def transform(self, values: TableLike) -> np.ndarray:
        """Values in units of their standard deviation, as float64."""
        return (np.asarray(values, np.float64) - self.loc) / self.scale

    def inverse(self, values: TableLike) -> np.ndarray:
        """Standardised values in their own units again, as float64."""
        return np.asarray(values, np.float64) * self.scale + self.loc


def without_unit(weight: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Weights over their mean where they are positive, so that only their ratios count; float64.

    >>> import numpy as np
    >>> from jaxreg.data import without_unit
    >>> without_unit(np.array([1e-300, 0.0, 3e-300]))
    array([0.5, 0. , 1.5])
    """
    share = np.asarray(weight, np.float64) / np.max(weight)
    return share / share[share > 0].mean()
