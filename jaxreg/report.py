"""What a model is worth on data it hasn't seen: the scores as a table, and a page with pictures."""

import base64
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from rich.table import Table
from scipy.stats import binom

from jaxreg import plots
from jaxreg.data.frames import TableLike
from jaxreg.distributions.base import Prediction
from jaxreg.files import replacing
from jaxreg.metrics.columns import Dependence, Importance
from jaxreg.metrics.groups import GroupCoverage, coverage_by
from jaxreg.plain import counted

SUFFIXES = (".html", ".pdf")

# How unlikely a share of rows inside the intervals has to be for a right prediction.
SURPRISE = 1e-3

# Fewer rows say nothing about calibration: a right prediction's calibration error is about 0.3 / sqrt(rows).
FEWEST_ROWS = 10
FEWEST_ROWS_BY_GROUP = 100
# Groups that a table shows.
MOST_GROUPS = 40
CALIBRATION = "calibration_error", "max_calibration_error", "ence"

# Of each score: how it is called, whether it is a share or has the target's unit, and what it says.
SCORES = {
    "rmse": ("RMSE", "unit", "root mean squared error of the mean"),
    "mae": ("MAE", "unit", "mean absolute error of the mean"),
    "nll": ("NLL (nats)", "", "negative log-likelihood, lower is better; it depends on the unit"),
    "crps": ("CRPS", "unit", "mean distance of the predicted distribution, lower is better"),
    "coverage": ("inside the {level} interval", "share", "should be {level}"),
    "below": (
        "below the {level} interval",
        "share",
        "should be {tail}",
    ),
    "above": ("above the {level} interval", "share", "should be {tail}"),
    "width": ("width of the {level} interval", "unit", "the narrower the better, at equal coverage"),
    "interval_score": ("interval score", "unit", "width, and a penalty for values outside; lower is better"),
    "calibration_error": ("calibration error", "share", "mean distance of quantiles from their levels"),
    "max_calibration_error": ("largest calibration error", "share", "that of the quantile furthest off"),
    "ence": ("ENCE", "share", "how far predicted stds are from the errors of rows like them"),
    "sharpness": ("sharpness", "unit", "root of the mean predicted variance"),
    "aleatoric": ("of the noise alone", "unit", "root of the mean variance that members see in the data"),
    "epistemic": ("of disagreement alone", "unit", "root of the mean variance of the members' means"),
}

CAPTIONS = {
    "observed_against_predicted": "Points on the dashed line were predicted exactly; hollow ones lie outside "
    "their interval.",
    "error_by_std": "Rows in groups of similar predicted std. On the dashed line the errors are as large as "
    "predicted; above it the model is too sure.",
    "reliability": "How many values lie below each predicted quantile. A right model stays in the grey band.",
    "pit_histogram": "Flat is right; a hill means too wide, a valley too narrow, a slope off to one side.",
    "densities": "Predicted densities, each as high as all others, and what was observed.",
    "coverage_by": "How many values lie inside their interval, group by group; the level should lie within "
    "nearly all bars.",
    "importance": "By how much the CRPS rises when the values of a column are shuffled; whiskers are one "
    "standard deviation over repeats.",
    "importance_of_std": "By how much the predicted std changes then.",
    "dependence": "Mean and interval where a column has these values in all rows, averaged over the rows.",
    "band": "The mean and the interval over the feature, and the observed values.",
    "history": "Loss and validation NLL over the epochs.",
}


class Row(NamedTuple):
    """A score as it is shown."""

    name: str
    model: str
    trivial: str
    meaning: str


def score_rows(scores: Mapping[str, Any], rows: int | None = None) -> list[Row]:
    """The scores of one output, from `metrics.evaluate`, as text; few rows have no calibration errors."""
    words = {"level": f"{100 * scores['level']:g}%", "tail": f"{50 * (1 - scores['level']):.3g}%"}
    trivial = scores.get("baseline", {})
    hidden = () if scores["epistemic"] > 0 else ("aleatoric", "epistemic")
    hidden = (*hidden, *CALIBRATION) if rows is not None and rows < FEWEST_ROWS else hidden
    found = []
    for key, (name, kind, meaning) in SCORES.items():
        if key in scores and key not in hidden:
            shown = [_shown(values[key], kind) if key in values else "" for values in (scores, trivial)]
            found.append(Row(name.format(**words), *shown, meaning.format(**words)))
    return found


def _shown(value: float, kind: str) -> str:
    if kind == "share":
        return f"{100 * value:.1f}%"
    if value == 0 or not 1e-3 <= abs(value) < 1e7:
        return f"{value:.3e}" if value else "0"
    return f"{value:,.{max(3 - math.floor(math.log10(abs(value))), 0)}f}"


def verdict(scores: Mapping[str, Any], rows: int) -> str | None:
    """What to do about intervals that hold too few or too many of so many rows; None where neither is so.

    A right prediction gets such a sentence once in a thousand times.

    >>> from jaxreg import report
    >>> print(report.verdict({"level": 0.95, "coverage": 0.905}, rows=1000))
    90.5% of rows lie in the 95% interval, which is too narrow: recalibrate with jaxreg.isotonic or \
jaxreg.calibration on rows that the model wasn't trained on
    """
    level, inside = scores["level"], round(scores["coverage"] * rows)
    tails = binom.cdf(inside, rows, level), binom.sf(inside - 1, rows, level)
    if 2 * min(tails) > SURPRISE:
        return None
    return (
        f"{100 * scores['coverage']:.1f}% of rows lie in the {100 * level:g}% interval, which is too "
        f"{'narrow' if scores['coverage'] < level else 'wide'}: recalibrate with jaxreg.isotonic or "
        "jaxreg.calibration on rows that the model wasn't trained on"
    )


def score_table(scores: Mapping[str, Any], rows: int | None = None) -> Table:
    """The scores of one output, from `metrics.evaluate`, as a table for the terminal.

    Args:
        scores: of one output.
        rows: how many they are of; fewer than 10 have no calibration errors.

    >>> import jax.numpy as jnp
    >>> from rich import print
    >>> from jaxreg import Gaussian, metrics, report
    >>> prediction = Gaussian(jnp.zeros(3), jnp.zeros(3))
    >>> scores = metrics.evaluate(prediction, [0.5, -1.0, 1.5], baseline=(0.0, 2.0))
    >>> report.score_table(scores).row_count
    13
    """
    caption = "trivial: mean and std of the training rows" if "baseline" in scores else None
    table = Table(caption=caption, caption_justify="left")
    table.add_column("score")
    table.add_column("model", justify="right")
    if caption is not None:
        table.add_column("trivial", justify="right", style="dim")
    for row in score_rows(scores, rows):
        table.add_row(*row[: len(table.columns)])
    return table


def group_table(found: GroupCoverage, by: str) -> Table:
    """Coverage by groups of rows, as a table for the terminal."""
    level = f"{100 * found.level:g}%"
    table = Table(title=f"by {by}", title_justify="left")
    table.add_column("group", overflow="fold")
    for name in ("rows", f"inside {level}", "below", "above", "width"):
        table.add_column(name, justify="right")
    if more := len(found.names) - MOST_GROUPS:
        table.caption = f"{counted(more, 'more group')}: --json has all" if more > 0 else None
    for name, rows, *shares, width in list(zip(*found[:6], strict=True))[:MOST_GROUPS]:
        told = (_shown(share, "share") for share in shares)
        table.add_row(name, f"{rows:,.0f}", *told, _shown(width, "unit"))
    return table


def importance_table(found: Importance, most: int = 20) -> Table:
    """The importance of the most important columns, as a table for the terminal."""
    more = len(found.names) - most
    caption = f"{counted(more, 'column')} of less importance left out" if more > 0 else None
    table = Table(title="what carries the prediction", title_justify="left", caption=caption)
    table.add_column("column shuffled", overflow="fold")
    table.add_column("CRPS rises by", justify="right")
    table.add_column("std changes by", justify="right")
    for name in plots.strongest(found, most=most):
        i = found.names.index(name)
        table.add_row(name, _shown(found.crps[i], "unit"), _shown(np.expm1(found.std[i]), "share"))
    return table


class Section(NamedTuple):
    """What a report says of one output.

    Attributes:
        name: of the target, with its unit.
        prediction: over `(n,)`.
        y: observed values.
        scores: from `metrics.evaluate`.
        x: the feature, where there is but one.
        x_label: its name, with its unit.
        carries: importance of the columns, and how mean and interval depend on some of them.
        groups: coverage by what the rows are grouped by, beside fifths of predicted std and mean.
    """

    name: str
    prediction: Prediction
    y: TableLike
    scores: Mapping[str, Any]
    x: TableLike | None = None
    x_label: str = "x"
    groups: Mapping[str, GroupCoverage] | None = None
    carries: tuple[Importance, Sequence[Dependence]] | None = None


def write(path: Path, sections: list[Section], *, title: str, about: str) -> None:
    """Write a report that needs nothing beside it: an HTML page, or a PDF of a page for each output.

    The path holds the old file or the whole new one, never a part.

    Args:
        path: ends in .html or .pdf.
        sections: one for each output.
        title: of the report.
        about: a line below it: which rows, which model.

    Raises:
        ValueError: if the path has another ending, or there are no sections.
    """
    path = Path(path)
    check_suffix(path)
    if not sections:
        raise ValueError("a report needs at least one section")
    with replacing(path) as temporary:
        if path.suffix.lower() == ".html":
            temporary.write_text(_html(sections, title, about), encoding="utf-8")
        else:
            with PdfPages(temporary, metadata={"Title": title}) as pages:
                for section in sections:
                    pages.savefig(_page(section, title, about))


def check_suffix(path: Path) -> None:
    """Raise unless a path ends as a report does."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a report is a {' or '.join(SUFFIXES)}, not {path.suffix or 'nameless'!r}")


def _drawn(section: Section) -> dict[str, Any]:
    """What `plots` draws of a section, names as they are."""
    labels = {"x_label": plots.literal(section.x_label), "label": plots.literal(section.name)}
    data = {"prediction": section.prediction, "y": section.y, "x": section.x}
    level = section.scores["level"]
    groups = {plots.literal(by): found for by, found in (section.groups or {}).items()}
    if len(section.y) >= FEWEST_ROWS_BY_GROUP:
        fifths = [coverage_by(section.prediction, section.y, by, level) for by in ("std", "mean")]
        groups = {"predicted std and mean": fifths} | groups
    return data | labels | {"level": level, "groups": groups, "carries": section.carries}


def _made_by() -> str:
    return f"Made by jaxreg {version('jaxreg')} on {date.today().isoformat()}"


def _html(sections: list[Section], title: str, about: str) -> str:
    template = Environment(autoescape=True).from_string(
        files("jaxreg").joinpath("report.html").read_text("utf-8")
    )
    shown = [
        {
            "name": section.name,
            "rows": score_rows(section.scores, len(section.y)),
            "trivial": "baseline" in section.scores,
            "verdict": verdict(section.scores, len(section.y)),
            "pictures": [
                {"caption": CAPTIONS[name.partition(" ")[0]], **_picture(draw)}
                for name, draw in plots.report_panels(**_drawn(section)).items()
            ],
        }
        for section in sections
    ]
    return template.render(title=title, about=about, sections=shown, made_by=_made_by())


def _picture(draw: Any) -> dict[str, str]:
    """A picture as text that a page can hold, and its title."""
    ax = draw(Figure(figsize=(5.2, 4.6), layout="constrained").subplots())
    buffer = io.BytesIO()
    ax.figure.savefig(buffer, format="png", dpi=144)
    return {"title": ax.get_title(), "png": base64.b64encode(buffer.getvalue()).decode("ascii")}


def _page(section: Section, title: str, about: str) -> Figure:
    """One sheet of A4 paper: the scores, then the pictures."""
    head = partial(_draw_table, scores=section.scores, rows=len(section.y))
    page = plots.report(**_drawn(section), title=plots.literal(title), head=head)
    found = verdict(section.scores, len(section.y))
    lines = ([] if found is None else textwrap.wrap(found, 100)) + [f"{section.name}: {about} ({_made_by()})"]
    below = plots.literal("\n".join(lines))
    page.supxlabel(below, fontsize="small", color="0.4")
    return page


def _draw_table(ax: Axes, *, scores: Mapping[str, Any], rows: int) -> None:
    ax.set_axis_off()
    columns = {"score": 0.24, "model": 0.11, "trivial": 0.11, "what it says": 0.54}
    cells = [dict(zip(columns, row, strict=True)) for row in score_rows(scores, rows)]
    if "baseline" not in scores:
        columns.pop("trivial")
    table = ax.table(
        [[row[name] for name in columns] for row in cells],
        colLabels=list(columns),
        colWidths=list(columns.values()),
        cellLoc="left",
        loc="center",
        edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for (row, _), cell in table.get_celld().items():
        cell.set(linewidth=0.3, edgecolor="0.7")
        cell.set_text_props(horizontalalignment="left", weight="bold" if row == 0 else "normal")
