"""All pictures of a prediction on one page."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxreg.data.frames import TableLike
from jaxreg.distributions.base import Prediction
from jaxreg.metrics.columns import Dependence, Importance
from jaxreg.metrics.groups import GroupCoverage
from jaxreg.plots.drawing import literal, one_output
from jaxreg.plots.groups import coverage_by
from jaxreg.plots.importance import dependence, importance
from jaxreg.plots.pictures import (
    band,
    densities,
    error_by_std,
    history,
    observed_against_predicted,
    pit_histogram,
    reliability,
)
from jaxreg.training import History


def report(
    prediction: Prediction,
    y: TableLike,
    *,
    x: TableLike | None = None,
    training: History | None = None,
    same_scale: bool = True,
    groups: Mapping[str, GroupCoverage | Sequence[GroupCoverage]] | None = None,
    carries: tuple[Importance, Sequence[Dependence]] | None = None,
    level: float = 0.95,
    label: str = "y",
    x_label: str = "x",
    title: str | None = None,
    head: Callable[[Axes], None] | None = None,
) -> Figure:
    """Draw one page for a model and data that it hasn't seen: every picture here that they allow.

    Args:
        prediction: over `(n,)`; of several outputs draw `prediction.output(i)` one by one.
        y: observed values.
        x: the feature, where there is but one: the band over it is drawn too.
        training: the model's history.
        same_scale: whether its loss is in the units of its validation NLL, as in `history`.
        groups: what `metrics.coverage_by` returns, by what the rows are grouped by.
        carries: what `importance.permutation` returns, and for some columns `importance.dependence`.
        level: of intervals.
        label: name of the target, with its unit.
        x_label: name of the feature, with its unit.
        title: of the page.
        head: draws something else on axes above the pictures.

    Returns:
        A figure the size of a sheet of A4 paper.

    Raises:
        ValueError: as `metrics.check_prediction`, or for several outputs.
    """
    shown = {"x": x, "training": training, "same_scale": same_scale, "groups": groups}
    shown |= {"carries": carries}
    panels = report_panels(prediction, y, **shown, level=level, label=label, x_label=x_label)
    page = Figure(figsize=(8.27, 11.69), layout="constrained")
    page.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    above, rows = int(head is not None), -(-len(panels) // 2)
    cells = page.add_gridspec(max(above + rows, 3), 2)
    if head is not None:
        head(page.add_subplot(cells[0, :]))
    for i, draw in enumerate(panels.values()):
        draw(page.add_subplot(cells[above + i // 2, i % 2]))
    if title is not None:
        page.suptitle(title, fontsize="x-large")
    return page


def report_panels(
    prediction: Prediction,
    y: TableLike,
    *,
    x: TableLike | None = None,
    training: History | None = None,
    same_scale: bool = True,
    groups: Mapping[str, GroupCoverage | Sequence[GroupCoverage]] | None = None,
    carries: tuple[Importance, Sequence[Dependence]] | None = None,
    level: float = 0.95,
    label: str = "y",
    x_label: str = "x",
) -> dict[str, Callable[[Axes | None], Axes]]:
    """The pictures of a `report` by name, as functions of the axes to draw on; the arguments are its own."""
    y = one_output(prediction, y)
    of = {"prediction": prediction, "y": y}
    panels = {
        "observed_against_predicted": partial(
            observed_against_predicted, **of, level=level, label=label, title="Observed against predicted"
        ),
        "error_by_std": partial(error_by_std, **of, label=label, title="Error against predicted std"),
    }
    if hasattr(getattr(prediction, "dist", prediction), "cdf"):
        panels["reliability"] = partial(reliability, **of, title="Reliability of the quantiles")
        panels["pit_histogram"] = partial(pit_histogram, **of, title="Where values fall in their predictions")
        panels["densities"] = partial(densities, **of, label=label, title="A few rows as predicted")
    for by, found in (groups or {}).items():
        panels[f"coverage_by {by}"] = partial(coverage_by, found, title=f"Coverage by {by}")
    if carries is not None:
        found, columns = carries
        panels["importance"] = partial(importance, found, title="What carries the prediction")
        panels["importance_of_std"] = partial(importance, found, of="std", title="What carries its std")
        for each in columns:
            panels[f"dependence {each.name}"] = partial(
                dependence, each, label=label, title=f"Depending on {literal(each.name)}"
            )
    if x is not None:
        drawn = {"train": (x, y), "points": "observed", "level": level, "labels": (x_label, label)}
        panels["band"] = partial(band, x, prediction, **drawn, title="Prediction")
    if training is not None:
        panels["history"] = partial(history, training, same_scale=same_scale, title="Training")
    return {name: lambda ax=None, draw=draw: draw(ax=ax) for name, draw in panels.items()}
