"""What an ensemble learns from: a table in memory, or rows in files."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import polars as pl
from jax.sharding import Mesh

from jaxreg import hosts
from jaxreg.columns import Columns, of_scaled
from jaxreg.data.border import default_dtype
from jaxreg.data.far import warn_of_far
from jaxreg.data.held_out import HeldOut
from jaxreg.data.rows import Source, key_words
from jaxreg.data.scaler import Scaler
from jaxreg.going_on import OF_COLUMNS, bounds_with, check_all_members, check_targets, held_out_before
from jaxreg.model.fitted import FARTHEST, Fitted
from jaxreg.plain import counted, listed, warn
from jaxreg.training.inputs import HELD_OUT_ROWS, held_out_sample

FEWEST_ROWS = 4
FOLD_ROWS = 2
# Of rows in files so many serve to find the frequency scale.
TRIAL_MOST = 2**14


class TrainingData(NamedTuple):
    """What the members of an ensemble learn from, standardised, in memory or in files.

    Attributes:
        data: `(x, y)` or `(x, y, weight)`, or a source.
        sample: rows in memory that settings are tried out on: all of them, or some of a source's.
        rows: how many there are in all.
        used: how many of them each member trains on.
        sample_used: how many of the sample a member trains on where settings are tried out.
        held_out: which rows each member trains and is validated on, as `fit_ensemble` takes them; empty
            where none are held out.
        scalers: what standardised features and target; `Columns` did the features of a table in memory.
        columns: names of features and targets, None where they have none, and the types of both.
        bounds: of the target, in its own units; None for none.
        folds: which rows of a table members hold out, by their fingerprints; None for none.
        start: the model that training goes on from; None for none.
        all_seen: whether all rows are here that the networks were trained on.
        mesh: devices of all processes, over which members are distributed; None for those of this one.
    """

    data: tuple[np.ndarray, ...] | Source
    sample: tuple[np.ndarray, ...]
    rows: int
    used: int
    sample_used: int
    held_out: dict[str, Any]
    scalers: tuple[Columns | Scaler, Scaler]
    columns: tuple[tuple[str, ...] | None, ...]
    bounds: tuple[float, float] | None = None
    folds: HeldOut | None = None
    start: Fitted | None = None
    all_seen: bool = True
    mesh: Mesh | None = None

    @property
    def trial(self) -> "TrainingData":
        """The sample alone."""
        return self._replace(data=self.sample, rows=len(self.sample[0]), used=self.sample_used, mesh=None)


def of_table(
    key: jax.Array,
    settings: Any,
    rows: tuple[pl.DataFrame, np.ndarray, np.ndarray | None],
    *,
    names: tuple[Sequence[str] | None, Sequence[str] | None],
    types: tuple[Sequence[str], Sequence[str]],
    start: Fitted | None = None,
) -> TrainingData:
    """A table, its checked targets and weights; `names` and `types` of the columns and the targets.

    With a model to go on from, its scales stay, and so do the rows that its members hold out.
    """
    table, y, weight = rows
    called = [f"the target {name!r}" for name in names[1] or ()]
    if names[1] is None:
        called = ["the target"] if y.ndim == 1 else [f"target {i}" for i in range(y.shape[1])]
    warn_of_far(y.reshape(len(y), -1).T, called)
    of_row = None if weight is None else weight.reshape(len(y), -1).max(axis=1)
    if start is None:
        asked = {name: getattr(settings, name) for name in OF_COLUMNS}
        columns = Columns.fit(table, of_row, **asked)._replace(named=names[0] is not None)
        scaler = Scaler.fit(y, weight=weight)
    else:
        start.x_scaler.warn_of_left_out(table)
        columns, scaler = start.x_scaler.grown(start.x_scaler.counts_of(table)), start.y_scaler
    dtype = default_dtype(np.dtype(np.float64))
    # Missing targets, which weigh nothing, are 0.
    inputs, scaled = columns.transform(table), scaler.transform(y)
    arrays = inputs, np.nan_to_num(scaled), weight
    if np.abs(arrays[1]).max() > FARTHEST:
        most = np.nanmax(np.abs(y))
        raise ValueError(f"targets of up to {most:g} are too far from those of the model to go on with them")
    data = tuple(array.astype(dtype) for array in arrays if array is not None)
    held_out, used = {}, len(y)
    numbers = of_scaled(columns, table, inputs, scaled)
    members = int(settings.members) if start is None else start.members
    folds = None if start is None else held_out_before(start, numbers, FOLD_ROWS)
    if folds is None and (parts := folds_of(settings, len(y))) is not None:
        if start is not None:
            warn("members hold out other rows than they did: these are none of them")
        folds = HeldOut.drawn(key_words(key), numbers, members=members, folds=parts)
    if folds is not None:
        own, held_out_rows = folds.rows(numbers)
        held_out, used = {"rows": own, "validation_rows": held_out_rows}, own.shape[1]
    type_of = dict(zip(table.columns, types[0], strict=True))
    about = (
        columns.names if columns.named else None,
        names[1],
        tuple(map(type_of.get, columns.names)),
        types[1],
    )
    bounds = bounds_of(settings.bounds, (float(np.nanmin(y)), float(np.nanmax(y))), called)
    bounds = bounds if start is None else bounds_with(start, bounds, settings.bounds)
    rest = held_out, (columns, scaler), about, bounds, folds, start
    return TrainingData(data, data, len(y), used, used, *rest)


def of_files(key: jax.Array, settings: Any, files: Any, start: Fitted | None = None) -> TrainingData:
    """Rows that are read as they are needed."""
    asked = {name: getattr(settings, name) for name in OF_COLUMNS}
    if not hasattr(files, "learned"):
        raise ValueError(
            f"a {type(files).__name__} doesn't say what its columns are: use tables.from_files, or "
            "fit_ensemble, which takes any source"
        )
    if files.rows < FEWEST_ROWS:
        raise ValueError(f"the files have {counted(files.rows, 'row')}, {FEWEST_ROWS} are needed")
    if settings.batch_size is None:
        raise ValueError("rows in files need a batch_size: a number or 'auto'")
    processes, mesh = jax.process_count(), None
    by_share = processes > 1 and files.own_share
    if by_share and len(files.row_groups) < processes:
        raise ValueError(
            f"{len(files.row_groups)} row groups are too few for {processes} processes with files of "
            "their own: write smaller row groups, use fewer processes, or leave own_files out, so that "
            "each reads all"
        )
    if processes > 1:
        files = replace(files, process=(jax.process_index(), processes))
        mesh = hosts.make_mesh(settings.members)
    if start is not None:
        check_all_members(settings, start)
        check_targets(start, (1,), (files.target,))
        if missing := [name for name in start.x_scaler.names if name not in files.features]:
            raise ValueError(f"the files have no {listed(missing)}, which the model has")
        if (start.settings or {}).get("held_out") is not None:
            warn("members hold out other rows than they did: by their numbers")
        files = files.learned(units=(start.x_scaler, start.y_scaler))
    elif files.units is None:
        files = files.learned(**asked)
    elif said := [name for name, given in asked.items() if len(given)]:
        raise ValueError(f"the files know already how columns are taken: leave out {listed(said)}")
    folds, held_out = folds_of(settings, min(files.rows, HELD_OUT_ROWS)), {}
    if folds is None:
        block = next(files.stream(key_words(key), batch_size=1, batches=1))
        sample = block.x[0], block.y[0]
        sample_used = 1
    else:
        validation, own_rows = held_out_sample(key, files, settings.members, folds)
        held_out = {"folds": folds, "validation": validation, "validation_rows": own_rows}
        some = np.random.default_rng(key_words(key)).permutation(len(validation[0]))[:TRIAL_MOST]
        sample = tuple(part[some] for part in validation)
        sample_used = len(some) - len(some) // max(min(folds, len(some) // FOLD_ROWS), 1)
    taken, type_of = files.features, dict(zip(files.features, files.types[:-1], strict=True))
    taken = files.units[0].names if isinstance(files.units[0], Columns) else taken
    about = taken, (files.target,), tuple(map(type_of.get, taken)), files.types[-1:]
    used = files.rows // processes if by_share else files.rows
    bounds = bounds_of(settings.bounds, files.target_ends, [f"the target {files.target!r}"])
    bounds = bounds if start is None else bounds_with(start, bounds, settings.bounds)
    rest = files.units, about, bounds, None, start, start is None, mesh
    return TrainingData(files, sample, files.rows, used, sample_used, held_out, *rest)


def bounds_of(
    asked: Sequence[float | int | None] | str | None, ends: tuple[float, float] | None, called: Sequence[str]
) -> tuple[float, float] | None:
    """The bounds that are asked for, or those of "auto", for targets between two ends."""
    if asked is None or tuple(asked) == (None, None):
        return None
    if ends is None:
        raise ValueError(
            "bounds can't be held against files that were standardised before: leave that to fit"
        )
    lowest, highest = ends
    if isinstance(asked, str):
        if lowest < 0:
            return None
        return 0.0, 1.0 if highest <= 1 else np.inf
    lower, upper = (
        float(end if end is not None else none) for end, none in zip(asked, (-np.inf, np.inf), strict=True)
    )
    if lowest < lower or highest > upper:
        raise ValueError(
            f"{' and '.join(called)} goes from {lowest:g} to {highest:g}, outside the bounds {asked!r}: "
            "leave these rows out, or give wider bounds"
        )
    return lower, upper


def folds_of(settings: Any, rows: int) -> int | None:
    """In how many folds rows are parted, None for none."""
    if settings.validation_fraction == 0:
        return None
    folds, most = round(min(1 / settings.validation_fraction, 1e9)), rows // FOLD_ROWS
    if most < folds:
        warn(f"{rows} rows are too few for {folds} folds of at least {FOLD_ROWS}: {most} are used")
    return min(folds, most)
