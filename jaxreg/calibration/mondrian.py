"""Conformal intervals whose coverage is guaranteed in each group of rows."""

from typing import NamedTuple

import numpy as np

from jaxreg.calibration.conformal import Conformal, normalised_error, rank
from jaxreg.data.frames import TableLike
from jaxreg.distributions.base import Prediction
from jaxreg.metrics.checked import check_prediction
from jaxreg.metrics.groups import check_one_output, edges_of, fifths_of, group_rows
from jaxreg.plain import quoted

STD = "predicted std"
MOST_NAMED = 5


class MondrianConformal(NamedTuple):
    """Intervals `mean ± r std`, with an r of each group of rows: `SplitConformal` in each group by itself.

    Within a group the guarantee is that of `SplitConformal` with the group's held-out rows: at least a, at
    most a + 1 / (n + 1). Vovk et al. 2003, "Mondrian confidence machine"; Boström & Johansson 2020, "Mondrian
    conformal regressors", group by the predicted difficulty.

    Attributes:
        names: of the groups.
        scores: of each group its held-out `abs(y - mean) / std`, sorted.
        edges: what parts the predicted std into fifths; None where rows have labels.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Gaussian
    >>> from jaxreg.calibration import MondrianConformal
    >>> held_out = Gaussian(jnp.zeros(8), jnp.zeros(8))
    >>> y, town = [1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0], ["Oslo"] * 4 + ["Rome"] * 4
    >>> conformal = MondrianConformal.fit(held_out, y, town)
    >>> lo, hi = conformal(held_out[:2], ["Rome", "Oslo"]).interval(0.8)
    >>> print(hi)
    [40.  4.]
    """

    names: tuple[str, ...]
    scores: tuple[np.ndarray, ...]
    edges: np.ndarray | None = None

    @classmethod
    def fit(
        cls, prediction: Prediction, y: TableLike, groups: TableLike | None = None
    ) -> "MondrianConformal":
        """Learn from held-out rows.

        Args:
            prediction: of held-out rows, `(n,)`.
            y: observed values, `(n,)`.
            groups: a label of each row, known before y is; by default fifths of the predicted std.

        Raises:
            ValueError: as `metrics.coverage_by`.
        """
        y, _ = check_prediction(prediction, y)
        check_one_output(prediction)
        if groups is None:
            std = np.asarray(prediction.std, np.float64)
            edges = edges_of(std)
            names, of_row = fifths_of(std, edges, STD)
        else:
            if isinstance(groups, str):
                raise ValueError(
                    f"groups are labels of rows, got {groups!r}: leave them out for fifths of the std"
                )
            edges, (names, of_row) = None, group_rows(prediction, groups)
        scores = normalised_error(prediction, y)
        return cls(names, tuple(np.sort(scores[of_row == i]) for i in range(len(names))), edges)

    def __call__(self, prediction: Prediction, groups: TableLike | None = None) -> Conformal:
        """The prediction with conformal intervals; `groups` as `fit` was given them.

        Raises:
            ValueError: for labels that no held-out row had, by name; without labels where there were some.
        """
        if (groups is None) != (self.edges is not None):
            given = "by the predicted std" if groups is not None else "with a label of each row"
            raise ValueError(f"it was fitted {given}: give groups as fit was given them")
        if groups is None:
            std = np.asarray(prediction.std, np.float64)
            return Conformal(prediction, OfRows(self, np.searchsorted(self.edges, std)))
        names, of_row = group_rows(prediction, groups)
        if unknown := [name for name in names if name not in self.names]:
            raise ValueError(f"no held-out row had the group {quoted(unknown, MOST_NAMED)}: {self}")
        own = np.array([self.names.index(name) for name in names], int)
        return Conformal(prediction, OfRows(self, own[of_row]))

    def __repr__(self) -> str:
        return f"MondrianConformal({quoted(self.names, MOST_NAMED)})"


class OfRows(NamedTuple):
    """A `MondrianConformal` for rows whose groups are known.

    Attributes:
        conformal: the calibration.
        of_row: the number of each row's group.
    """

    conformal: MondrianConformal
    of_row: np.ndarray

    def rows(self, rows: object) -> "OfRows":
        """The same for some rows."""
        return self._replace(of_row=self.of_row[rows])

    def interval(self, prediction: Prediction, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The interval of one level."""
        mean, std = (np.asarray(a, np.float64) for a in (prediction.mean, prediction.std))
        reach = np.full(len(self.conformal.names), np.nan)
        for i in np.unique(self.of_row):
            scores = self.conformal.scores[i]
            try:
                reach[i] = scores[rank(level, len(scores)) - 1]
            except ValueError as error:
                raise ValueError(f"the group {self.conformal.names[i]!r}: {error}") from None
        reach = reach[self.of_row] * std
        return np.asarray(mean - reach), np.asarray(mean + reach)
