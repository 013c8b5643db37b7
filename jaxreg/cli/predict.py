"""`jaxreg predict`: the rows of files as means, standard deviations and intervals."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from jaxreg.checks import check_probability
from jaxreg.cli.inputs import is_streamed, no_rows, split_names
from jaxreg.cli.outputs import PREDICTED, check_output, prediction_table, written_as_before
from jaxreg.cli.standard_input import as_file
from jaxreg.data.scaler import Scaler
from jaxreg.model import model_file
from jaxreg.model.fitted import Fitted
from jaxreg.tables import (
    GROUP_ROWS,
    Form,
    RowGroup,
    Writer,
    check_columns,
    check_suffix,
    find,
    from_files,
    names_of,
    numeric,
    plain,
    prefetch,
    read,
    typed,
    without_index,
)


def run(
    model: Path,
    file: Path,
    out_file: Path | None,
    *,
    level: float,
    keep: list[str],
    how: str,
    form: Form,
) -> None:
    """Write a line for each row."""
    check_probability("--level", level)
    paths = find(as_file(file))
    if out_file is not None:
        for path in paths:
            check_output(out_file, model, path)
        check_suffix(out_file)
    paths, form = plain(paths, form), form.of_values
    fitted = model_file.load(model)
    if outputs := np.shape(fitted.y_scaler.loc):
        raise ValueError(
            f"{model} predicts {outputs[0]} targets, this command writes only one: use "
            "jaxreg.model_file.load in Python"
        )
    form = written_as_before(form, fitted)
    keep = list(dict.fromkeys(split_names("--keep", keep, names_of(paths[0]), paths[0])))
    if taken := [name for name in keep if name in PREDICTED]:
        raise ValueError(f"--keep {taken[0]}: predictions have a column of that name, rename it in the file")
    with Writer(out_file) as writer:
        if is_streamed(paths, how):
            parts = rows_in_turn(paths, fitted, keep, form)
        else:
            parts = whole_tables(paths, fitted, keep, form)
        for rows, kept in as_inputs_fault(parts):
            predicted = prediction_table(fitted.predict(rows), level)
            writer.write(pl.DataFrame([*kept.get_columns(), *predicted.get_columns()]))


def as_inputs_fault(parts: Iterator[Any]) -> Iterator[Any]:
    """The same parts, whose errors of the disk aren't taken for those of the file that is written."""
    try:
        yield from parts
    except OSError as error:
        raise ValueError(f"the rows can't be read: {error}") from error


def whole_tables(
    paths: list[Path], fitted: Fitted, keep: list[str], form: Form
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """The tables of some files with numbers in what a model needs, and the columns to keep."""
    tables_read = 0
    for path in paths:
        text = set(keep) - set(fitted.feature_names or ())
        table = read(path, text=text, empty=len(paths) > 1, form=form)
        check_columns(table, keep, path)
        kept = table[keep] if keep else pl.DataFrame()
        if fitted.feature_names is None:
            dropped = {*keep, *without_index(path, keep)}
            needed = [name for name in table.columns if name not in dropped]
        else:
            needed = fitted.feature_names
        if len(table):
            tables_read += 1
            # Columns the model doesn't know may hold anything; one it needs and lacks is named by predict.
            known = set(needed) <= set(table.columns)
            take = numeric if isinstance(fitted.x_scaler, Scaler) else typed
            yield take(table, needed, path) if known else table, kept
    if not tables_read:
        raise ValueError(no_rows(paths))


def rows_in_turn(
    paths: list[Path], fitted: Fitted, keep: list[str], form: Form
) -> Iterator[tuple[np.ndarray | pl.DataFrame, pl.DataFrame]]:
    """Some rows at a time of what a model needs, and of the columns to keep, in the order of the files."""
    drop = keep if fitted.feature_names is None else ()
    numbers = isinstance(fitted.x_scaler, Scaler)
    given = {"features": fitted.feature_names, "drop": drop, "keep": keep, "any_kind": not numbers}
    files = from_files(paths, target=None, form=form, **given)

    def rows_of(row_group: RowGroup) -> np.ndarray | pl.DataFrame:
        return files.read(row_group)[0] if numbers else files.table(row_group)

    for row_group, rows in zip(files.row_groups, prefetch(map(rows_of, files.row_groups)), strict=True):
        kept = files.kept(row_group) if keep else pl.DataFrame()
        for i in range(0, len(rows), GROUP_ROWS):
            yield rows[i : i + GROUP_ROWS], kept.slice(i, GROUP_ROWS)
