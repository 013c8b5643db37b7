"""`jaxreg evaluate`: what a model is worth on rows whose target is known."""

from pathlib import Path

import numpy as np

from jaxreg import report
from jaxreg.checks import check_probability
from jaxreg.cli.console import say, show
from jaxreg.cli.json_output import print_json, scores_of
from jaxreg.cli.outputs import check_output, only_numbers, trivial
from jaxreg.cli.standard_input import as_file, called
from jaxreg.data import Scaler, check_features
from jaxreg.metrics import evaluate
from jaxreg.model import model_file
from jaxreg.plain import counted
from jaxreg.tables import Form, check_columns, numeric, plain, read, typed


def run(
    model: Path,
    file: Path,
    *,
    level: float,
    report_file: Path | None,
    as_json: bool,
    form: Form,
) -> None:
    """Print scores, and write a report if one is asked for."""
    check_probability("--level", level)
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
    table = read(file, form=form)
    check_columns(table, fitted.target_names, file)
    known = set(fitted.feature_names) <= set(table.columns)
    if isinstance(fitted.x_scaler, Scaler):
        names = [*fitted.feature_names, *fitted.target_names]
        rows = targets = numeric(table, names, file) if known else table
    else:
        rows = typed(table, fitted.feature_names, file) if known else table
        targets = numeric(table, fitted.target_names, file)
    prediction = fitted.predict(rows)
    y = check_features(targets[[*fitted.target_names]], "the target", dtype=np.float64)

    about = f"{counted(len(y), 'row')} of {given}, predicted by {model.name}"
    x = only_numbers(rows[[*fitted.feature_names]])
    sections, found = [], {}
    for i, name in enumerate(fitted.target_names):
        one = prediction if prediction.mean.ndim == 1 else prediction.output(i)
        result = evaluate(one, y[:, i], level=level, baseline=trivial(fitted.y_scaler, i))
        sections.append(report.Section(name, one, y[:, i], result, x, fitted.feature_names[0]))
        advice = report.verdict(result, len(y))
        found[name] = scores_of(result) | {"advice": advice}
        if not as_json:
            say(f"{name}: {about}")
            show(report.score_table(result, len(y)))
            if advice:
                say(advice)
    if report_file is not None:
        title = f"How well {', '.join(fitted.target_names)} is predicted"
        report.write(report_file, sections, title=title, about=about)
    if as_json:
        print_json({"model": model, "file": given, "rows": len(y), "scores": found, "report": report_file})
    elif report_file is not None:
        say(f"the report is in {report_file}")
