"""What carries a prediction and its error bar: columns that are shuffled, or set to one value."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator
from sklearn.inspection import permutation_importance

from jaxreg.checks import check_probability
from jaxreg.columns import as_table
from jaxreg.data.frames import TableLike
from jaxreg.distributions.base import Prediction
from jaxreg.metrics.checked import check_prediction
from jaxreg.metrics.columns import Dependence as Dependence
from jaxreg.metrics.columns import Importance as Importance
from jaxreg.metrics.scores import crps
from jaxreg.plain import check_whole, did_you_mean, listed

# Rows that are predicted for each value of a column, and levels of a category that are shown.
ROWS_AVERAGED, MOST_LEVELS = 500, 12
Predict = Callable[[Any], Prediction]


class _Shuffled(BaseEstimator):
    """Predicts rows of a table whose columns are each taken from other rows, by their numbers."""

    def __init__(self, predict: Predict, table: pl.DataFrame):
        self.predict_rows, self.table = predict, table

    def fit(self, x: Any, y: Any) -> "_Shuffled":
        """Nothing to do."""
        return self

    def of(self, rows: np.ndarray) -> Prediction:
        """The prediction."""
        names = self.table.columns
        columns = {name: self.table.get_column(name)[rows[:, i]] for i, name in enumerate(names)}
        return quietly(self.predict_rows, pl.DataFrame(columns))


def quietly(predict: Predict, rows: Any) -> Prediction:
    """A prediction without warnings, which the first one gave."""
    with warnings.catch_warnings(action="ignore"):
        return predict(rows)


def permutation(
    predict: Predict, X: TableLike, y: TableLike, *, repeats: int = 5, seed: int = 0
) -> Importance:
    """Importance of columns by permutation: how much is lost when the values of one are shuffled.

    A column that others tell as well looks unimportant. Breiman 2001, "Random forests"; scikit-learn's
    `permutation_importance` does it.

    Args:
        predict: gives distributions of a polars frame's rows, `model.predict_dist` or `fitted.predict`.
        X: features, on rows that the model wasn't trained on: frames or arrays as it takes them.
        y: observed values, `(n,)` or `(n, d)`; of several targets their mean CRPS counts.
        repeats: how often each column is shuffled.
        seed: of the shuffles.

    Raises:
        ValueError: as `metrics.check_prediction`, and as `predict` does.

    >>> import numpy as np
    >>> from jaxreg import Gaussian, importance
    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> predict = lambda rows: Gaussian(np.asarray(rows)[:, 0], np.asarray(rows)[:, 1])
    >>> found = importance.permutation(predict, x, x[:, 0])
    >>> print(found.crps > 0.1, found.std > 0.1)
    [ True False False] [False  True False]
    """
    check_whole("repeats", repeats, 1)
    table = as_table(X)
    first = predict(X)  # whose warnings are said
    y, _ = check_prediction(first, y)
    before = np.log(np.asarray(first.std, np.float64))

    def scores(model: _Shuffled, rows: np.ndarray, y: np.ndarray) -> dict[str, float]:
        found = model.of(rows)
        change = np.abs(np.log(np.asarray(found.std, np.float64)) - before).mean()
        return {"crps": -float(np.mean(crps(found, y))), "std": -float(change)}

    rows = np.tile(np.arange(len(table))[:, None], (1, table.width))
    found = permutation_importance(
        _Shuffled(predict, table), rows, y, scoring=scores, n_repeats=repeats, random_state=seed
    )
    means = {name: (own.importances_mean, own.importances_std) for name, own in found.items()}
    return Importance(tuple(table.columns), *means["crps"], *means["std"])


def dependence(
    predict: Predict, X: TableLike, name: str | int, *, level: float = 0.95, points: int = 20, seed: int = 0
) -> Dependence:
    """How mean and interval depend on one column, averaged over the others as they are in at most 500 rows.

    Friedman 2001, "Greedy function approximation: a gradient boosting machine". Where columns go together,
    some of these rows are ones that nobody has.

    Args:
        predict: as `permutation` takes it, of one output.
        X: features.
        name: of the column; its number as text where columns have no names.
        level: of the intervals.
        points: values of a number or time: quantiles, from 1 % to 99 %.
        seed: of the choice of rows.

    Raises:
        ValueError: if there is no such column, by name, or it holds gaps alone.

    >>> import numpy as np
    >>> from jaxreg import Gaussian, importance
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> predict = lambda rows: Gaussian(np.asarray(rows)[:, 0], np.asarray(rows)[:, 1])
    >>> found = importance.dependence(predict, x, "0")
    >>> print(np.abs(found.mean - found.values).max().round(6))
    0.0
    """
    check_probability("level", level)
    check_whole("points", points, 2)
    table, name = as_table(X), str(name)
    if name not in table.columns:
        raise ValueError(
            f"there is no column {name!r}, there is {listed(table.columns)}"
            f"{did_you_mean(name, table.columns)}"
        )
    column = table.get_column(name).alias("")  # a name that polars may take for a pattern
    known = column.drop_nulls()
    if not len(known):
        raise ValueError(f"column {name!r} holds no values")
    if column.dtype in (pl.Float64, pl.Datetime):
        ranks = np.linspace(0.01, 0.99, points) * (len(known) - 1)
        values = known.sort()[np.unique(np.round(ranks).astype(int))].unique(maintain_order=True)
    else:
        values = known.value_counts(sort=True, name="rows").get_column("")[:MOST_LEVELS]
    some = table.sample(min(len(table), ROWS_AVERAGED), seed=seed)
    ends = []
    for value in values:
        constant = pl.Series(name, [value] * len(some), column.dtype)
        found = quietly(predict, some.with_columns(constant))
        if np.ndim(found.mean) > 1:
            raise ValueError("a dependence is of one output: give lambda rows: predict(rows).output(0)")
        ends.append([np.mean(np.asarray(part)) for part in (found.mean, *found.interval(level))])
    return Dependence(name, values.to_numpy(), *np.array(ends, np.float64).T, float(level))
