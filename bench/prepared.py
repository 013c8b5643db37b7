"""A table's columns as numbers, prepared by its training rows, as a careful user does by hand."""

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.preprocessing import OneHotEncoder

GAP = "(gap)"
DATES = 0.95  # share of a column's values that have to parse
FEWEST_DATES = 50  # a column of text with no more values than this is a category


def days(column: pd.Series) -> np.ndarray:
    """Dates, as such or as text, as a number of days since 1970; NaN where a value is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some text is no date
        times = pd.to_datetime(column, errors="coerce", utc=True, format="mixed")
    return ((times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)).to_numpy(np.float64)


def _is_date(column: pd.Series) -> bool:
    if pd.api.types.is_datetime64_any_dtype(column):
        return True
    if pd.api.types.is_numeric_dtype(column):
        return False
    known = column.dropna()
    return known.nunique() > FEWEST_DATES and bool(np.isfinite(days(known)).mean() >= DATES)


class Columns(NamedTuple):
    """What the training rows say about a table's columns.

    Attributes:
        dates: columns that become a number of days.
        numbers: columns of numbers.
        categories: all others.
        medians: of numbers, then of dates; a column of gaps alone has NaN.
        with_gaps: which of these had gaps.
        encoder: of categories, one column for each value that 5 rows have, and one for all others.
    """

    dates: list[str]
    numbers: list[str]
    categories: list[str]
    medians: np.ndarray
    with_gaps: np.ndarray
    encoder: OneHotEncoder | None

    @classmethod
    def fit(cls, train: pd.DataFrame) -> "Columns":
        """Learn from the training rows."""
        dates = [name for name in train if _is_date(train[name])]
        numbers = [name for name in train if name not in dates and pd.api.types.is_numeric_dtype(train[name])]
        categories = [name for name in train if name not in dates + numbers]
        columns = cls(dates, numbers, categories, np.empty(0), np.empty(0), None)
        values = columns.numeric(train)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of columns that are all gaps
            medians = np.nanmedian(values, axis=0)
        encoder = None
        if categories:
            encoder = OneHotEncoder(
                min_frequency=5, handle_unknown="infrequent_if_exist", sparse_output=False
            ).fit(columns.text(train))
        return columns._replace(medians=medians, with_gaps=np.isnan(values).any(axis=0), encoder=encoder)

    def numeric(self, frame: pd.DataFrame) -> np.ndarray:
        """Numbers, then dates as days; gaps are NaN."""
        numbers = [frame[name].to_numpy(np.float64, na_value=np.nan) for name in self.numbers]
        found = [*numbers, *(days(frame[name]) for name in self.dates)]
        return np.stack(found, axis=1) if found else np.empty((len(frame), 0))

    def text(self, frame: pd.DataFrame) -> np.ndarray:
        """Categories as text; a gap is a value like others."""
        found = np.empty((len(frame), len(self.categories)), object)
        for i, name in enumerate(self.categories):
            found[:, i] = frame[name].astype(object).where(frame[name].notna(), GAP).map(str)
        return found

    def one_hot(self, frame: pd.DataFrame) -> np.ndarray:
        """Numbers with medians in place of gaps, a column for each that had gaps, and categories one-hot."""
        values = self.numeric(frame)
        filled = np.where(np.isnan(values), self.medians, values)[:, ~np.isnan(self.medians)]
        parts = [filled, np.isnan(values[:, self.with_gaps]).astype(np.float64)]
        if self.encoder is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of values that no training row had
                parts.append(self.encoder.transform(self.text(frame)))
        return np.concatenate(parts, axis=1)

    def codes(self, train: pd.DataFrame, frame: pd.DataFrame, most: int) -> np.ndarray:
        """Numbers with their gaps, then codes of the `most` frequent categories; others and gaps are NaN."""
        coded = []
        for name in self.categories:
            kept = train[name].dropna().map(str).value_counts().index[:most]
            codes = pd.Categorical(frame[name].map(str, na_action="ignore"), categories=kept).codes
            coded.append(np.where(codes < 0, np.nan, codes))
        return np.column_stack([self.numeric(frame), *coded])
