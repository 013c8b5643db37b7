"""The rows that a command trains on, from files that are read at once or as they are needed."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import polars as pl

from jaxreg import hosts
from jaxreg.checks import check_varies
from jaxreg.cli.console import err
from jaxreg.columns import as_table, fingerprints, picked
from jaxreg.data import HeldOut
from jaxreg.data.border import check_features, check_trainable
from jaxreg.machine import memory
from jaxreg.model.checkpoints import LIBRARIES
from jaxreg.plain import counted, did_you_mean, listed, warn
from jaxreg.tables import (
    AS_FOUND,
    Files,
    Form,
    check_columns,
    columns,
    joined,
    numeric,
    read,
    size,
    typed,
    without_index,
)

FEWEST_TEST_ROWS = 2
FEWEST_TRAINING_ROWS = 4
# Rows of files that aren't held in memory are kept from training by a seed of their own, at most so many.
MOST_TEST_ROWS = 2**16
TEST_TAG = 1
# Copies of a table that training in memory makes, about.
IN_MEMORY_COPIES = 10


class Rows(NamedTuple):
    """What a command trains on.

    Attributes:
        train: what the estimator's `fit` is given.
        test: features and target of the rows to score it on, as they are in the file.
        total: rows in all.
        dtypes: of the columns, the target last.
        decimal: the decimal mark of text files, where one was found or said.
        held_out: by which rows of a table are kept to score it on; None for those of files, and for none.
    """

    train: tuple[Any, ...]
    test: tuple[pl.DataFrame | np.ndarray, np.ndarray]
    total: int
    dtypes: tuple[str, ...]
    decimal: str | None = None
    held_out: HeldOut | None = None


def is_streamed(paths: list[Path], how: str) -> bool:
    """Whether rows are read as they are needed; where their size decides it, that is said."""
    if how != "auto":
        return how == "stream"
    values = size(paths)
    streamed = values * IN_MEMORY_COPIES > memory()
    if streamed:
        what = f"{len(paths):,} files hold" if len(paths) > 1 else f"{paths[0]} holds"
        text = f"{what} {values / 1e9:.1f} GB of values: rows are read as they are needed"
        err.print(f"{text} (--read whole reads all)", soft_wrap=True)
    return streamed


def split_names(option: str, given: Sequence[str], names: Sequence[str], path: Path) -> list[str]:
    """Names of columns, each an option's text as it is or part of a list `a,b,c`."""
    known = set(names)
    found = [name for text in given for name in ([text] if text in known else text.split(","))]
    if unknown := [name for name in found if name not in known]:
        similar = did_you_mean(unknown[0], names)
        raise ValueError(f"{option}: {path} has no {listed(unknown)}: it has {listed(names)}{similar}")
    return found


def rows_in_memory(
    paths: list[Path],
    target: str,
    drop: Sequence[str],
    test_fraction: float,
    seed: int,
    *,
    form: Form = AS_FOUND,
    features: Sequence[str] | None = None,
    held_out: HeldOut | None = None,
) -> Rows:
    """All rows of some files, a share of them to score the model on.

    A model to go on from says which columns are its features, and by what rows were held out.
    """
    parts, dtypes = [], None
    for path in paths:
        table = read(path, empty=len(paths) > 1, form=form)
        check_columns(table, [target, *drop, *(features or ())], path)
        if features is None:
            left_out = {target, *drop, *without_index(path, (target, *drop))}
            features = [name for name in table.columns if name not in left_out]
            if not features:
                raise ValueError(f"no column of {path} is left to predict {target!r} from")
        if dtypes is None:
            dtypes = tuple(str(table[name].dtype) for name in [*features, target])
        if len(table):
            target_of_it = numeric(table, [target], path)
            parts.append(typed(table, features, path).with_columns(target_of_it.to_series()))
    if not parts:
        raise ValueError(no_rows(paths))
    table = joined(parts)
    rows = as_table(table[features])  # names what no columns can be
    known = table.get_column(target).alias("").cast(pl.Float64).fill_nan(None).is_not_null()
    table = table.filter(known)
    x, y = table[features], check_features(table[[target]], "the target", dtype=np.float64)[:, 0]
    if len(y) > 1:
        check_varies(repr(target), float(y.min()), float(y.max()), len(y))
    if len(y) < FEWEST_TRAINING_ROWS:
        whole = "" if known.all() else f", of {len(known):,}, with a known {target!r}"
        be = "is" if len(y) == 1 else "are"
        raise ValueError(f"{counted(len(y), 'row')}{whole} {be} too few, {FEWEST_TRAINING_ROWS} are needed")
    if count := len(known) - len(y):
        warn(f"{count:,} of {len(known):,} rows have no {target!r}: left out")

    numbers, size = fingerprints([*rows.filter(known), y]), round(test_fraction * len(x))
    if held_out is None and size >= FEWEST_TEST_ROWS:
        held_out = HeldOut.drawn([seed, TEST_TAG], numbers, members=1, folds=1, size=size)
    parts = ([range(len(x))], [[]]) if held_out is None else held_out.rows(numbers)
    train, test = (np.array(part[0], int) for part in parts)
    if len(train) < FEWEST_TRAINING_ROWS:
        raise ValueError(
            f"a --test-fraction of {test_fraction} leaves {len(train)} of {counted(len(x), 'row')} to train "
            f"on, at least {FEWEST_TRAINING_ROWS} are needed"
        )
    train_rows, test_rows = (x[train], pl.Series(target, y[train])), (x[test], y[test])
    return Rows(train_rows, test_rows, len(x), dtypes, held_out=held_out)


def no_rows(paths: list[Path]) -> str:
    """What to say where none of several files has a row."""
    return f"{paths[0]} and {counted(len(paths) - 1, 'more file')} have no rows"


def streamed_rows(
    files: Files, said: dict[str, Sequence[str]] | None, test_fraction: float, seed: int
) -> Rows:
    """The rows of some files, all but a few of them where they are; `said` is what columns are.

    None of a model that knows them, which learns of the files itself.
    """
    files = replace(files, process=(jax.process_index(), jax.process_count()))
    # First, because it finds what is wrong in all files.
    units = None if said is None else files.learned(**said).units
    most = min(round(test_fraction * files.rows), MOST_TEST_ROWS)
    test = pl.DataFrame(schema=dict.fromkeys(files.features, pl.Float64)), np.zeros(0)
    if most >= FEWEST_TEST_ROWS:
        rows = files.sample([seed, TEST_TAG], most)
        test = picked(rows, files.features), rows.get_column(files.target).to_numpy()
        files = files.without([seed, TEST_TAG], most)
    return Rows((replace(files, units=units),), test, files.rows, files.types)


def check_same_job(files: Files, given: dict[str, Any]) -> None:
    """Raise, on every process, unless all of them were given the same, and see the same files."""
    described = {name: np.asarray(array).tolist() for name, array in files.describe().items()}
    about = {f"the version of {name}": metadata.version(name) for name in LIBRARIES}
    about |= {"the number of files": len({row_group.path for row_group in files.row_groups})}
    about |= {"the number of rows": files.rows, "the columns": described["columns"]}
    about |= {"the names and row groups of files": described["files"]}
    about |= {"the number of devices": jax.local_device_count(), "jax_enable_x64": jax.config.jax_enable_x64}
    for name, value in given.items():  # settings of the estimator are a dictionary of options
        options = value if isinstance(value, dict) else {name: value}
        about |= {f"--{option.replace('_', '-')}": each for option, each in options.items()}
    hosts.agree(about)


def one_feature(path: Path, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a one-dimensional problem."""
    table = columns(path, [x, y] if x != y else [x])
    features, target = (
        check_features(table[[name]], what, dtype=np.float64) for name, what in ((x, "x"), (y, "the target"))
    )
    if len(target) > 1:
        check_varies(repr(y), float(target.min()), float(target.max()), len(target))
    check_trainable((features, target[:, 0]))
    return features, target[:, 0]
