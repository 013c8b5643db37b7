"""What is known of how much columns tell; `jaxreg.importance` finds it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Importance(NamedTuple):
    """How much each column tells of the distribution, and of its std.

    Attributes:
        names: of the columns.
        crps: by how much the CRPS rises when a column is shuffled, in units of y, `(columns,)`.
        crps_spread: its standard deviation over repeats.
        std: by how much the predicted std then changes: the mean of `abs(log(after / before))`.
        std_spread: likewise.
    """

    names: tuple[str, ...]
    crps: Float[np.ndarray, " columns"]
    crps_spread: Float[np.ndarray, " columns"]
    std: Float[np.ndarray, " columns"]
    std_spread: Float[np.ndarray, " columns"]


class Dependence(NamedTuple):
    """The mean and interval, averaged over rows, where a column has each of some values.

    Attributes:
        name: of the column.
        values: numbers or times in order, or the most frequent levels; `(values,)`.
        mean: of the rows' means, in units of y.
        lower: of the lower ends of their intervals.
        upper: of the upper ends.
        level: of the intervals.
    """

    name: str
    values: np.ndarray
    mean: Float[np.ndarray, " values"]
    lower: Float[np.ndarray, " values"]
    upper: Float[np.ndarray, " values"]
    level: float
