"""`jaxreg evaluate`: what a model is worth on rows whose target is known."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from jaxreg import plots, report
from jaxreg.checks import check_probability
from jaxreg.cli.console import say, show
from jaxreg.cli.inputs import split_names
from jaxreg.cli.json_output import print_json, scores_of
from jaxreg.cli.outputs import check_output, only_numbers, trivial, written_as_before
from jaxreg.cli.standard_input import as_file, called
from jaxreg.columns import as_table
from jaxreg.data import Scaler, check_features
from jaxreg.distributions import Prediction
from jaxreg.importance import dependence, permutation
from jaxreg.metrics import coverage_by, evaluate
from jaxreg.metrics.columns import Dependence, Importance
from jaxreg.metrics.groups import edges_of, fifths_of
from jaxreg.model import model_file
from jaxreg.model.fitted import Fitted
from jaxreg.plain import counted, warn
from jaxreg.tables import Form, check_columns, numeric, plain, read, typed

# A column of numbers with more of them is parted into fifths.
MOST_VALUES = 12
# Rows that importance is measured on, and columns whose dependence is drawn.
MOST_ROWS, MOST_DRAWN = 2000, 4


def run(
    model: Path,
    file: Path,
    *,
    level: float,
    report_file: Path | None,
    as_json: bool,
    form: Form,
    by: Sequence[str] = (),
    importance: bool = False,
) -> None:
    """Print scores, and write a report if one is asked for."""
    check_probability("--level", level)
    if file.is_dir():
        raise ValueError(f"{file} is a folder: evaluate takes one file")
    given, file = called(Path(file.name)), as_file(file)
    if report_file is not None:
        report.check_suffix(report_file)
        check_output(report_file, model, file)
    (file,), form = plain([file], form), form.of_values
    fitted = model_file.load(model)
    if fitted.feature_names is None or fitted.target_names is None:
        raise ValueError(
            f"{model} doesn't say what its columns are called: use jaxreg.metrics.evaluate in Python"
        )
    table = read(file, form=written_as_before(form, fitted))
    check_columns(table, fitted.target_names, file)
    known = set(fitted.feature_names) <= set(table.columns)
    if isinstance(fitted.x_scaler, Scaler):
        names = [*fitted.feature_names, *fitted.target_names]
        rows = targets = numeric(table, names, file) if known else table
    else:
        rows = typed(table, fitted.feature_names, file) if known else table
        targets = numeric(table, fitted.target_names, file)
    prediction = fitted.predict(rows)
    about = f"of {given}, predicted by {model.name}"
    x = only_numbers(rows[[*fitted.feature_names]])
    by = split_names("--by", by, table.columns, file)
    groups = {name: labels_of(name, table.get_column(name)) for name in by}
    sections, found = [], {}
    for i, name in enumerate(fitted.target_names):
        known, y = known_of(targets, name)
        one = (prediction if prediction.mean.ndim == 1 else prediction.output(i))[known]
        result = evaluate(one, y, level=level, baseline=trivial(fitted.y_scaler, i))
        covered = {column: coverage_by(one, y, own[known], level) for column, own in groups.items()}
        carries = what_carries(fitted, rows.filter(known), y, i, level) if importance else None
        shown = {"x_label": fitted.feature_names[0], "groups": covered, "carries": carries}
        sections.append(report.Section(name, one, y, result, None if x is None else x[known], **shown))
        advice = report.verdict(result, len(y))
        found[name] = scores_of(result) | {"rows": len(y), "advice": advice}
        if carries is not None:
            found[name]["importance"] = carries[0]._asdict()
        if by:
            found[name]["by"] = {column: own._asdict() for column, own in covered.items()}
        if not as_json:
            say(f"{name}: {counted(len(y), 'row')} {about}")
            show(report.score_table(result, len(y)))
            if carries is not None:
                show(report.importance_table(carries[0]))
            for column, own in covered.items():
                show(report.group_table(own, column))
            if advice:
                say(advice)
    if report_file is not None:
        title = f"How well {', '.join(fitted.target_names)} is predicted"
        report.write(report_file, sections, title=title, about=f"{counted(len(table), 'row')} {about}")
    if as_json:
        told = {"model": model, "file": given, "rows": len(table), "scores": found, "report": report_file}
        print_json(told)
    elif report_file is not None:
        say(f"the report is in {report_file}")


def known_of(targets: pl.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Which rows have a target, and it. Those without are left out, which is said."""
    known = targets.get_column(name).alias("").cast(pl.Float64).fill_nan(None).is_not_null().to_numpy()
    if count := int((~known).sum()):
        warn(f"{count:,} of {len(known):,} rows have no {name!r}: left out")
    return known, check_features(targets.filter(known)[[name]], "the target", dtype=np.float64)[:, 0]


def what_carries(
    fitted: Fitted, rows: pl.DataFrame, y: np.ndarray, i: int, level: float
) -> tuple[Importance, list[Dependence]]:
    """Importance of the columns for one output, and how it depends on the most important ones."""

    def predict(part: pl.DataFrame) -> Prediction:
        found = fitted.predict(part)
        return found if found.mean.ndim == 1 else found.output(i)

    some = np.random.default_rng(0).permutation(len(y))[:MOST_ROWS]
    names = fitted.feature_names
    table = as_table(rows[[*names]])[some]
    found = permutation(predict, table, y[some])
    strongest = plots.strongest(found, most=MOST_DRAWN)
    return found, [dependence(predict, table, name, level=level) for name in strongest]


def labels_of(name: str, column: pl.Series) -> np.ndarray:
    """The group of each row: a column's values, or of a number that has many its fifths."""
    column = column.fill_nan(None) if column.dtype.is_float() else column
    known = column.is_not_null().to_numpy()
    if not column.dtype.is_numeric() or column.n_unique() <= MOST_VALUES:
        return np.array([None if value is None else str(value) for value in column.to_list()], object)
    values = column.drop_nulls().cast(pl.Float64).to_numpy()
    names, of_row = fifths_of(values, edges_of(values), name)
    labels = np.full(len(column), None, object)
    labels[known] = [names[i] for i in of_row]
    return labels
