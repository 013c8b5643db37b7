"""Rows of a table in memory, as scikit-learn's conventions have them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, validate_data

from jaxreg.checks import check_varies
from jaxreg.columns import as_table, as_text, table_names
from jaxreg.data.frames import (
    TableLike,
    as_array,
    as_floats,
    check_numbers,
    column_dtypes,
    column_names,
)
from jaxreg.data.scaler import without_unit
from jaxreg.plain import counted, listed, warn
from jaxreg.training_data import FEWEST_ROWS


@contextmanager
def numbers_fit() -> Iterator[None]:
    """Python's whole numbers know no bounds, and scikit-learn lets the error of those too large through."""
    try:
        yield
    except OverflowError as error:
        raise ValueError(f"a value is too large for float64 ({error}): scale it first") from None


class TableRows(NamedTuple):
    """Rows of a table, their targets and weights.

    Attributes:
        table: the features, as `as_table` gives them.
        y: targets, float64, NaN where one is missing.
        weight: of each row, None where all weigh the same.
        names: of the columns and of the targets, None where they have none.
        types: of both.
    """

    table: pl.DataFrame
    y: np.ndarray
    weight: np.ndarray | None
    names: tuple[tuple[str, ...] | None, tuple[str, ...] | None]
    types: tuple[tuple[str, ...], tuple[str, ...]]

    @classmethod
    @numbers_fit()
    def checked(
        cls,
        estimator: BaseEstimator,
        given: tuple[TableLike, TableLike | None, TableLike | None],
        *,
        reset: bool,
        least: int,
    ) -> "TableRows":
        """Features, targets and weights that a user gave.

        Args:
            estimator: that learns from them.
            given: all three.
            reset: whether the estimator learns from no others, and may be given any columns.
            least: rows that are needed.
        """
        X, y, sample_weight = given
        if y is None:
            who = f"This {type(estimator).__name__} estimator"
            raise ValueError(f"{who} requires y to be passed, but the target y is None.")
        names, types = (column_names(X), target_names(y)), (column_dtypes(X), column_dtypes(y))
        table, y = as_table(seen(estimator, X, reset=reset, least=least)), unmasked(y)
        check_numbers(y, "y", gaps=True)
        y = y if column_names(y) is None else as_floats(y)
        y = check_array(
            y,
            ensure_2d=False,
            allow_nd=True,
            dtype=np.float64,
            ensure_all_finite="allow-nan",
            input_name="y",
        )
        if y.ndim not in (1, 2):
            raise ValueError(f"y must have shape (rows,) or (rows, outputs), got {y.shape}")
        check_consistent_length(table, y)
        weight, y = sample_weight, y.copy()  # which outlive the caller's arrays
        if weight is not None:
            weight = _check_sample_weight(weight, y, dtype=np.float64, ensure_non_negative=True).copy()
        return cls(
            table, y, weight, *(tuple(part and tuple(part) for part in pair) for pair in (names, types))
        )

    def joined(self, more: "TableRows") -> "TableRows":
        """These rows and more of the same columns.

        Raises:
            ValueError: names what doesn't go together.
        """
        if self.table.columns != more.table.columns:
            before, now = listed(self.table.columns), listed(more.table.columns)
            raise ValueError(f"the rows have {now}, those before had {before}: give both names, or neither")
        weight = None
        if self.weight is not None or more.weight is not None:
            ones = (np.ones(len(rows.y)) if rows.weight is None else rows.weight for rows in (self, more))
            weight = np.concatenate(list(ones))
        found, faults = [], []
        for name in self.table.columns:
            parts = [rows.table.get_column(name).alias("") for rows in (self, more)]
            kinds = {part.dtype for part in parts if part.null_count() < len(part)}
            if len(kinds) > 1 and any(kind == pl.Datetime for kind in kinds):
                faults.append(name)
            same = pl.String if len(kinds) > 1 else next(iter(kinds), parts[0].dtype)
            parts = [as_text(part) if len(kinds) > 1 else part.cast(same) for part in parts]
            found.append(parts[0].append(parts[1]).alias(name))
        if faults:
            raise ValueError(
                f"{listed(faults)}: times in some rows, something else in others: give all as times or text"
            )
        y = np.concatenate([self.y, more.y])
        return self._replace(table=pl.DataFrame(found), y=y, weight=weight)

    def known(self) -> tuple[pl.DataFrame, np.ndarray, np.ndarray | None]:
        """Features, targets and weights of the rows that can be learned from; missing targets weigh 0."""
        table, y, weight = self.table, self.y, self.weight
        kept = np.ones(len(y), bool)
        if weight is not None:
            kept = weight > 0
            check_enough(kept, "a positive sample_weight")
            weight = without_unit(np.where(kept, weight, 0.0))
        if (missing := np.isnan(y)).any():
            check_known(~missing)
            known = ~missing.reshape(len(y), -1).all(axis=1)
            if y.ndim == 2:
                weight = ~missing * (1.0 if weight is None else weight[:, None])
            kept &= known
            check_enough(kept, "a target")
            if not known.all():
                count = int((~known).sum())
                warn(f"{count:,} of {len(y):,} rows have no target: left out")
        check_enough(kept, "all that is needed")
        table, y, weight = table.filter(kept), y[kept], None if weight is None else weight[kept]
        for i, column in enumerate(y.reshape(len(y), -1).T):
            which = "y" if y.ndim == 1 else f"y, column {i},"
            check_varies(which, float(np.nanmin(column)), float(np.nanmax(column)))
        return table, y, weight


def seen(estimator: BaseEstimator, X: TableLike, *, reset: bool, least: int = 1) -> TableLike:
    """Features that scikit-learn has seen: numbers as float64, else as they are."""
    X = unmasked(X)
    if not _is_array_of_numbers(X):
        table_names(X)
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        return X
    # What isn't finite is named by column where it can't be taken.
    settings = {"dtype": np.float64, "ensure_all_finite": False, "ensure_min_samples": least}
    return validate_data(estimator, X, reset=reset, **settings)


def check_known(known: np.ndarray) -> None:
    """Raise, and name the target, if one is missing in all rows."""
    empty = np.flatnonzero(~known.any(axis=0))
    if empty.size:
        which = "y" if known.ndim == 1 else f"y, column {empty[0]},"
        raise ValueError(f"{which} is missing in all rows: leave it out")


def check_enough(kept: np.ndarray, what: str) -> None:
    """Raise if too few rows have what is needed."""
    if (count := int(kept.sum())) < FEWEST_ROWS:
        few = counted(count, "row")
        why = f"{few} have {what}, {FEWEST_ROWS} are needed"
        raise ValueError(f"{few} are too few, {FEWEST_ROWS} are needed" if kept.all() else why)


def _is_array_of_numbers(values: Any) -> bool:
    """Whether scikit-learn is to check it: an array, sparse ones among them, or nested lists of numbers."""
    if column_names(values) is not None:
        return False
    dtype = values.dtype if hasattr(values, "dtype") else as_array(values).dtype
    return np.dtype(dtype).kind in "biufc"


def unmasked(values: Any) -> Any:
    """Masked values as missing ones."""
    return values.astype(np.float64).filled(np.nan) if isinstance(values, np.ma.MaskedArray) else values


def target_names(y: TableLike) -> tuple[str, ...] | None:
    """Names of the targets, None where they have none."""
    names = column_names(y)
    if names is not None:
        return tuple(names)
    name = getattr(y, "name", None)
    return None if name is None else (str(name),)
