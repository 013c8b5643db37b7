"""A table's columns as a network takes them, learned on the training rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
import polars as pl
from jaxtyping import Float

from jaxreg.columns.categories import Category
from jaxreg.columns.counts import Counts
from jaxreg.columns.kinds import Kind, Nothing, count, kind_of
from jaxreg.columns.numbers import known_of
from jaxreg.columns.times import Time
from jaxreg.columns.values import as_table, picked, time_formats
from jaxreg.data.frames import MOST_FAULTS, TableLike, column_names
from jaxreg.data.scaler import without_unit
from jaxreg.networks.embeddings import ColumnEmbedding
from jaxreg.plain import counted, did_you_mean, listed, warn


class Columns(NamedTuple):
    """How a table's columns become what a network takes, learned on the training rows.

    Numbers are drawn in far outside the quartiles and standardised; a gap is 0 with an indicator beside it.
    Text and categories of few levels have one input each, of many a learned vector, whose number
    `ColumnEmbedding` looks up. Times become days and circles. Ordered categories are both numbers and
    categories. Columns that tell nothing are left out.

    Attributes:
        kinds: what was learned of each column, in the order of the training table.
        named: whether the columns had names.

    >>> import pandas as pd
    >>> from jaxreg import Columns
    >>> frame = pd.DataFrame({"area": [50.0, None, 80.0] * 10, "city": ["Rome", "Oslo", "Rome"] * 10})
    >>> columns = Columns.fit(frame)
    >>> print(columns)
    area  number              scaled, and whether it is missing
    city  category, 2 levels  an input for each
    >>> columns.transform(frame[:2]).round(2).tolist()
    [[-1.0, -0.71, 0.71, -0.71], [0.0, 1.41, -1.41, 1.41]]
    """

    kinds: tuple[Kind, ...]
    named: bool

    @classmethod
    def fit(
        cls,
        table: TableLike,
        weight: TableLike | None = None,
        *,
        categories: Sequence[str | int] = (),
        numbers: Sequence[str | int] = (),
        drop: Sequence[str | int] = (),
    ) -> "Columns":
        """Learn what each column is.

        Args:
            table: rows to train on, `(rows, columns)`: frames of pandas or polars, arrays, nested lists.
            weight: of each row, `(rows,)`, for the scales of numbers; levels are counted in rows.
            categories: columns to take as categories, numbers among them; by name, or by their number as
                text where they have no names.
            numbers: columns to take as numbers; text that is none is a gap.
            drop: columns to leave out.

        Raises:
            ValueError: names columns that aren't there, that are asked to be two things, or that hold what
                can't be taken; if there are no rows, or nothing is left.

        Warns:
            UserWarning: names what is guessed: text taken as numbers or times, ambiguous times, and
                columns that are left out.
        """
        rows = as_table(table)
        if not rows.height:
            raise ValueError("the table has no rows")
        weight = None if weight is None else without_unit(np.asarray(weight, np.float64))
        asked = _asked(rows.columns, {"category": categories, "number": numbers, "drop": drop})
        kinds = tuple(
            Nothing(name, "as asked")
            if asked.get(name) == "drop"
            else kind_of(name, _column(rows, name), weight, asked=asked.get(name))
            for name in rows.columns
        )
        if all(isinstance(kind, Nothing) for kind in kinds):
            told = ", ".join(f"{kind.name!r} ({kind.why})" for kind in kinds[:MOST_FAULTS])
            raise ValueError(f"no column tells anything: {told}")
        _warn_of_guesses(kinds, rows)
        return cls(kinds, column_names(table) is not None)

    @classmethod
    def of_sample(cls, sample: pl.DataFrame, counts: Mapping[str, Counts], **asked: Any) -> "Columns":
        """The same, learned of a sample of rows, but for the levels and gaps, which were counted in all.

        Args:
            sample: rows as `as_table` gives them.
            counts: of all rows, for each column.
            **asked: as `fit` has it.
        """
        learned = cls.fit(sample, **asked)
        if forgot := [name for name, own in counts.items() if own.forgotten and name in learned.names]:
            most = max(len(counts[name].levels) for name in forgot)
            warn(f"{listed(forgot)}: more than {most:,} levels, of which the rarest are taken as one")
        kinds = (kind.recounted(counts[kind.name]) for kind in learned.kinds)
        return learned._replace(kinds=tuple(kinds))

    def counts_of(self, table: TableLike) -> dict[str, Counts]:
        """What rows have of levels and gaps, by column, as `grown` takes it."""
        rows, levels = self._known(table), set(self.with_levels)
        return {name: count(_column(rows, name), name in levels) for name in self.names}

    def warn_of_left_out(self, table: TableLike) -> None:
        """Name columns that told nothing once, are left out, and would tell something now."""
        names = column_names(table)
        told = [
            f"{kind.name!r} ({kind.why})"
            for kind in self.kinds
            if isinstance(kind, Nothing) and kind.why != "as asked" and kind.name in (names or ())
            if known_of(_column(table, kind.name)).drop_nulls().n_unique() > 1
        ]
        if told:
            named = f"{', '.join(told[:MOST_FAULTS])}; a new model takes them"
            warn(f"columns left out still, as of the first rows: {named}")

    def grown(self, counts: Mapping[str, Counts]) -> "Columns":
        """The same with the levels and gaps that more rows bring; all scales stay as they are.

        Args:
            counts: of the columns that are taken, from `counts_of`.

        Warns:
            UserWarning: names the columns that grew.
        """
        kinds = [kind if isinstance(kind, Nothing) else kind.grown(counts[kind.name]) for kind in self.kinds]
        if grew := [
            f"{new.name!r} ({': '.join(new.told())})"
            for new, old in zip(kinds, self.kinds, strict=True)
            if new != old
        ]:
            more = f" and {len(grew) - MOST_FAULTS:,} more" if len(grew) > MOST_FAULTS else ""
            warn(f"columns with levels or gaps that are new: {', '.join(grew[:MOST_FAULTS])}{more}")
        return self._replace(kinds=tuple(kinds))

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns that are taken."""
        return tuple(kind.name for kind in self.taken)

    @property
    def with_levels(self) -> tuple[str, ...]:
        """Names of the columns that are categories."""
        return tuple(kind.name for kind in self.kinds if isinstance(kind, Category))

    @property
    def taken(self) -> tuple[Any, ...]:
        """The kinds of the columns that aren't left out."""
        return tuple(kind for kind in self.kinds if not isinstance(kind, Nothing))

    @property
    def numbers(self) -> int:
        """How many inputs are scaled numbers; they stand first."""
        return sum(kind.has_number for kind in self.kinds)

    @property
    def vectors(self) -> tuple[tuple[int, int], ...]:
        """Number of levels and size of each learned vector."""
        return tuple(kind.vector for kind in self.kinds if kind.vector is not None)

    def transform(self, table: TableLike) -> Float[np.ndarray, "rows inputs"]:
        """What a network takes of each row, float64: scaled numbers, then flags, then numbers of levels.

        Args:
            table: other columns than those of the training table are ignored, and any order will do, where
                they have names.

        Raises:
            ValueError: if columns are missing, by name, or hold what can't be taken.

        Warns:
            UserWarning: names columns with values that training rows had none of: other levels, gaps,
                text where numbers were.
        """
        rows = self._known(table)
        codes = self._codes(rows)
        guessed = [
            f"{kind.name!r} ({counted(count, 'row')}{_read_as(kind)})"
            for kind, own in zip(self.taken, codes, strict=True)
            if (count := kind.guessed(_column(rows, kind.name), own))
        ]
        if guessed:
            more = f" and {len(guessed) - MOST_FAULTS:,} more" if len(guessed) > MOST_FAULTS else ""
            warn(
                f"columns with values as no training row had them, taken as missing or as a rare level: "
                f"{', '.join(guessed[:MOST_FAULTS])}{more}"
            )
        return self.encoded(codes)

    def inputs(self, table: TableLike) -> Float[np.ndarray, "rows inputs"]:
        """The same without a warning."""
        return self.encoded(self._codes(self._known(table)))

    def encoded(self, codes: Sequence[Any], xp: Any = np) -> Any:
        """What a network takes, of each taken column's `codes`, arrays `(rows,)` of NumPy or JAX."""
        found = [kind.encoded(own, xp) for kind, own in zip(self.taken, codes, strict=True)]
        return xp.concatenate([part for group in zip(*found, strict=True) for part in group], axis=1)

    @property
    def width(self) -> int:
        """How many inputs a network is given."""
        return self.encoded([np.zeros(0)] * len(self.taken)).shape[1]

    def embedding(self, numbers: nn.Module | None = None) -> ColumnEmbedding:
        """What stands before a network's first layer, as `MeanVarRegressor(embedding=...)` takes it.

        Args:
            numbers: an embedding of the scaled numbers alone, a `PeriodicEmbedding` for example.
        """
        return ColumnEmbedding(self.numbers, self.vectors, numbers)

    def told(self) -> list[tuple[str, str, str]]:
        """Of each column its name, what it is, and as what it is taken."""
        return [(kind.name, *kind.told()) for kind in self.kinds]

    def faults(self) -> Iterator[str]:
        """What `fit` never learns, as a file that was made up may have it."""
        names = [kind.name for kind in self.kinds]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            yield f"{listed(twice)}: more than one column has that name"
        if not self.names:
            yield "all columns are left out"
        for kind in self.kinds:
            yield from (f"column {kind.name!r}: {fault}" for fault in kind.faults())

    def __str__(self) -> str:
        lines = self.told()
        widths = [max(len(line[i]) for line in lines) for i in range(2)]
        return "\n".join(f"{a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in lines)

    def _codes(self, rows: pl.DataFrame) -> list[np.ndarray]:
        return [kind.codes(_column(rows, kind.name)) for kind in self.taken]

    def _known(self, table: TableLike) -> pl.DataFrame:
        """The columns that are taken, in any order among others; as they stand, where there were no names."""
        names = column_names(table)
        if names is None or not self.named:
            shape = np.shape(table if hasattr(table, "shape") else np.asarray(table, object))
            if len(shape) != 2 or shape[1] != len(self.kinds):
                expected = counted(len(self.kinds), "column")
                raise ValueError(f"the table has shape {shape}, expected rows of {expected}")
            rows = as_table(table)
            rows.columns = [kind.name for kind in self.kinds]
            return rows
        missing = [name for name in self.names if name not in set(names)]
        if missing:
            raise ValueError(
                f"the table lacks {listed(missing)}; it has {listed(names)}{did_you_mean(missing[0], names)}"
            )
        if isinstance(table, pl.DataFrame):
            return as_table(picked(table, self.names))
        at = dict(zip(names, table.columns, strict=True))
        return as_table(table[[at[name] for name in self.names]])


def _read_as(kind: Any) -> str:
    """How text of times is read, for a message."""
    form = getattr(kind, "time_format", None)
    return f", times are read as {form}" if form else ""


def _column(rows: pl.DataFrame, name: str) -> pl.Series:
    """A column without its name, which polars may take for a pattern."""
    return rows.get_column(name).alias("")


def _asked(names: Sequence[str], asked: dict[str, Iterable[str | int]]) -> dict[str, str]:
    """What the user says of columns, by name."""
    found: dict[str, str] = {}
    faults = []
    for what, given in asked.items():
        for name in [given] if isinstance(given, str) else given:
            name = str(name)
            if name not in names:
                faults.append(f"there is no column {name!r}{did_you_mean(name, names)}")
            elif found.setdefault(name, what) != what:
                faults.append(f"column {name!r} is asked to be two things, {found[name]} and {what}")
    if faults:
        raise ValueError("; ".join(faults))
    return found


def _warn_of_guesses(kinds: Sequence[Kind], rows: pl.DataFrame) -> None:
    """Say in one line what was guessed."""
    told = []
    for kind in kinds:
        is_guess = getattr(kind, "text", False) or (isinstance(kind, Time) and kind.time_format is not None)
        if is_guess or (isinstance(kind, Nothing) and kind.why != "as asked"):
            told.append(f"{kind.name!r}: {', '.join(kind.told())}")
        elif len(formats := time_formats(_column(rows, kind.name))) > 1:
            why = f"because its times may be {' or '.join(formats)}"
            told.append(f"{kind.name!r}: {kind.told()[0]}, {why}")
    if told:
        more = f"; and {len(told) - MOST_FAULTS:,} more" if len(told) > MOST_FAULTS else ""
        warn(f"columns taken otherwise than they may seem: {'; '.join(told[:MOST_FAULTS])}{more}")
