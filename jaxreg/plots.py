"""Pictures of predictions and of what they are worth, in matplotlib.

Each function draws on `ax`, by default the axes of a new figure, and returns it; `ax.figure.savefig(path)`
writes the picture. What stands for different things differs in shape or in brightness, not in hue alone.
"""

from collections.abc import Callable
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from scipy.special import bdtrik, chdtri

from jaxreg.checks import check_probability
from jaxreg.data.frames import TableLike
from jaxreg.distributions.base import Prediction
from jaxreg.metrics.checked import check_prediction
from jaxreg.metrics.scores import LEVELS, observed_levels, pit
from jaxreg.metrics.scores import error_by_std as binned_error
from jaxreg.plain import check_whole
from jaxreg.training import History

# Share of pictures of a right prediction that stay inside a consistency band, at each point.
CONSISTENCY = 0.95

# More error bars than these can't be told apart: rows between them are left out.
MOST_ERROR_BARS = 60

# Dark enough to be seen over points and band in black and white.
DARK = "#a33c00"

# Both dark enough for the text of their axes.
LOSS_COLOR, SCORE_COLOR = "C0", DARK

# Beyond so many, points are small and pale.
MANY_POINTS = 500


def band(
    x: TableLike,
    prediction: Prediction,
    *,
    train: tuple[TableLike, TableLike] | None = None,
    level: float = 0.95,
    title: str | None = None,
    labels: tuple[str, str] = ("x", "y"),
    points: str = "train",
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean and the central interval over one feature, and the training points.

    Where members disagree, dashed lines show how wide the band would be of the noise alone.

    Args:
        x: where the prediction stands, `(n, 1)` or `(n,)`, in any order.
        prediction: over `(n,)`.
        train: `(x, y)` of the training rows.
        level: share of the probability inside the band.
        title: of the axes.
        labels: names, with units, of the two axes.
        points: what the legend calls the points.
        ax: axes to draw on.

    Returns:
        The axes.

    Raises:
        ValueError: if x holds more than one feature or its rows aren't the prediction's.
    """
    x = _single_feature(x)
    mean, (lower, upper) = np.asarray(prediction.mean), prediction.interval(level)
    if mean.shape != x.shape:
        raise ValueError(f"x has {len(x)} rows, the prediction has shape {mean.shape}: they must agree")
    if train is not None:
        train = _single_feature(train[0]), np.asarray(train[1])
        if train[1].shape != train[0].shape:
            rows, shape = len(train[0]), train[1].shape
            raise ValueError(f"train: x has {rows} rows, y has shape {shape}: they must agree")
    ax = _axes(ax, (8, 5))
    order = np.argsort(x)
    if train is not None:
        many = len(train[0]) > MANY_POINTS
        ax.scatter(*train, s=4 if many else 12, alpha=0.4 if many else 0.6, label=points)
    ax.plot(x[order], mean[order], linewidth=2, color=DARK, label="μ(x)")
    bounds = np.asarray(lower)[order], np.asarray(upper)[order]
    band_label = f"{100 * level:g}% interval"
    ax.fill_between(x[order], *bounds, alpha=0.25, color="C1", linewidth=0, label=band_label)
    if np.any(prediction.epistemic):
        share = np.asarray(prediction.aleatoric / prediction.std)[order]
        for bound, label in zip(bounds, ("of the noise alone", None), strict=True):
            inner = mean[order] + share * (bound - mean[order])
            ax.plot(x[order], inner, "--", linewidth=1, color="0.25", label=label)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    return _finished(ax, title)


def reliability(
    prediction: Prediction,
    y: TableLike,
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the share of values below each predicted quantile against its level.

    A right prediction follows the diagonal, and leaves the grey band at a given level in 5 % of data sets.
    Bröcker & Smith 2007, "Increasing the reliability of reliability diagrams".

    Args:
        prediction: over `(n,)`; it needs a cdf, which conformal intervals haven't.
        y: observed values.
        title: of the axes.
        ax: axes to draw on.

    Raises:
        ValueError: as `metrics.check_prediction`, or for several outputs.
    """
    y = _one_output(prediction, y)
    observed = observed_levels(prediction, y)
    ax = _axes(ax)
    lower, upper = _binomial(len(y), LEVELS)
    label = f"{100 * CONSISTENCY:g}% of right predictions"
    ax.fill_between(LEVELS, lower, upper, color="0.85", linewidth=0, label=label)
    ax.plot([0, 1], [0, 1], "--", color="0.4", linewidth=1, label="ideal")
    ax.plot([0, *LEVELS, 1], [0, *observed, 1], color="C0", linewidth=2, label="observed")
    ax.set(xlabel="predicted level", ylabel="share of values below", xlim=(0, 1), ylim=(0, 1))
    return _finished(ax, title)


def pit_histogram(
    prediction: Prediction,
    y: TableLike,
    *,
    bins: int = 20,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how often values fall into equally likely parts of their predictions (the PIT).

    Flat is right. A hill says that predictions are too wide, a valley that they are too narrow, a slope
    that they are off to one side. A bar of a right prediction leaves the grey band in 5 % of data sets.
    Gneiting et al. 2007, "Probabilistic forecasts, calibration and sharpness".

    Args:
        prediction: over `(n,)`; it needs a cdf, which conformal intervals haven't.
        y: observed values.
        bins: number of parts.
        title: of the axes.
        ax: axes to draw on.

    Raises:
        ValueError: as `metrics.check_prediction`, or for several outputs.
    """
    check_whole("bins", bins, 1)
    y = _one_output(prediction, y)
    counts, edges = np.histogram(pit(prediction, y), bins, (0, 1))
    ax = _axes(ax)
    lower, upper = (bins * share[0] for share in _binomial(len(y), np.array([1 / bins])))
    label = f"{100 * CONSISTENCY:g}% of right predictions"
    heights = bins * counts / len(y)
    ax.bar(edges[:-1], heights, 1 / bins, align="edge", color="C0", edgecolor="white", label="observed")
    ax.axhspan(lower, upper, color="0.5", alpha=0.35, linewidth=0, label=label)
    ax.axhline(1, linestyle="--", color="0.2", linewidth=1, label="ideal")
    ax.set(xlabel="cdf at the observed value (PIT)", ylabel="density", xlim=(0, 1))
    ax.set_ylim(0, 1.35 * max(upper, heights.max()))  # room for the legend
    return _finished(ax, title)


def observed_against_predicted(
    prediction: Prediction,
    y: TableLike,
    *,
    level: float = 0.95,
    label: str = "y",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw observed values against predicted means, with intervals; hollow points lie outside theirs.

    Of more than 60 rows the intervals are drawn of as many, taken evenly along the predicted mean.

    Args:
        prediction: over `(n,)`.
        y: observed values.
        level: of the intervals.
        label: name of the target, with its unit.
        title: of the axes.
        ax: axes to draw on.

    Raises:
        ValueError: as `metrics.check_prediction`, or for several outputs.
    """
    check_probability("level", level)
    y = _one_output(prediction, y)
    mean = np.asarray(prediction.mean)
    lower, upper = (np.asarray(end) for end in prediction.interval(level))
    inside = (lower <= y) & (y <= upper)
    ax = _axes(ax)
    order = np.argsort(mean)
    shown = order[np.unique(np.linspace(0, len(y) - 1, MOST_ERROR_BARS).round().astype(int))]
    reach = np.stack([mean - lower, upper - mean])[:, shown]
    grey = {"fmt": "none", "ecolor": "0.65", "elinewidth": 1, "zorder": 1}
    ax.errorbar(mean[shown], mean[shown], reach, label=f"{100 * level:g}% interval", **grey)
    ends = mean[order[[0, -1]]]
    ax.plot(ends, ends, "--", color="0.1", linewidth=1.5, zorder=3, label="observed as predicted")
    size = 4 if len(y) > MANY_POINTS else 12
    ax.scatter(mean[inside], y[inside], s=size, color="C0", zorder=2, label="inside")
    outside = f"outside ({100 * np.mean(~inside):.1f}%)"
    hollow = {"facecolor": "white", "edgecolor": "C3", "zorder": 2}
    ax.scatter(mean[~inside], y[~inside], s=size + 8, label=outside, **hollow)
    ax.set(xlabel=f"predicted {label}", ylabel=f"observed {label}")
    return _finished(ax, title)


def error_by_std(
    prediction: Prediction,
    y: TableLike,
    *,
    bins: int = 10,
    label: str = "y",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the root mean squared error of rows of similar predicted std against that std.

    A right prediction follows the diagonal; bars are 95 % intervals of the error if errors are normal.
    Levi et al. 2022, "Evaluating and calibrating uncertainty prediction in regression tasks".

    Args:
        prediction: over `(n,)`.
        y: observed values.
        bins: number of groups of rows.
        label: name of the target, with its unit.
        title: of the axes.
        ax: axes to draw on.

    Raises:
        ValueError: as `metrics.check_prediction`, or for several outputs.
    """
    y = _one_output(prediction, y)
    predicted, observed, rows = binned_error(prediction, y, bins)
    predicted, observed, rows = (a[rows > 0] for a in (predicted, observed, rows))
    # n RMSE^2 / sigma^2 is chi-squared with n degrees of freedom.
    tail = (1 - CONSISTENCY) / 2
    ends = [observed * np.sqrt(rows / chdtri(rows, q)) for q in (tail, 1 - tail)]
    ax = _axes(ax)
    top = 1.05 * max(predicted.max(), observed.max())
    ax.plot([0, top], [0, top], "--", color="0.4", linewidth=1, label="ideal")
    reach = np.abs(np.stack(ends) - observed)
    groups = "1 group" if len(predicted) == 1 else f"{len(predicted)} groups"
    bar_label = f"{groups} of rows, {100 * CONSISTENCY:g}% interval"
    ax.errorbar(predicted, observed, reach, fmt="o-", color="C0", capsize=3, label=bar_label)
    ax.set(xlabel=f"predicted std of {label}", ylabel=f"RMSE of {label}", xlim=(0, top))
    ax.set_ylim(0, None)
    return _finished(ax, title)


def history(
    report: History,
    *,
    loss_label: str = "training loss",
    score_label: str = "validation NLL",
    same_scale: bool = True,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the loss and the validation NLL over the epochs, and mark the best epoch.

    Of an ensemble the members are thin lines and their median a bold one; each member's best epoch is a
    mark on its line.

    Args:
        report: of a fit, `(epochs,)`, or of an ensemble, `(members, epochs)`.
        loss_label: name of what was trained on.
        score_label: name of what the held-out rows were scored by.
        same_scale: whether both are negative log-likelihoods in nats, as `gaussian_nll` and the validation
            NLL are. For another loss, `beta_nll` or `squared_error` for example, pass False: the score then
            has an axis of its own, on the right.
        title: of the axes.
        ax: axes to draw on.

    Returns:
        The axes of the loss.

    Raises:
        ValueError: if no epoch has a loss.
    """
    if not np.isfinite(report.loss).any():
        raise ValueError("the history has no finite loss")
    ax = _axes(ax, (8, 5))
    apart = not same_scale and report.validation_nll is not None
    right = ax.twinx() if apart else ax
    _draw_series(ax, report.loss, f"{loss_label} (left)" if apart else loss_label, LOSS_COLOR, "-")
    if report.validation_nll is not None:
        label = f"{score_label} (right)" if apart else score_label
        _draw_series(right, report.validation_nll, label, SCORE_COLOR, "--")
        _mark_best(right, report)
    ax.set(xlabel="epoch", ylabel="mean over rows (nats)" if same_scale else f"{loss_label}, mean over rows")
    if apart:
        right.set_ylabel(f"{score_label}, mean over rows")
        for side, color in ((ax, LOSS_COLOR), (right, SCORE_COLOR)):
            side.yaxis.label.set_color(color)
            side.tick_params(axis="y", labelcolor=color)
    return _finished(ax, title, right)


def _draw_series(ax: Axes, values: np.ndarray, name: str, color: str, style: str) -> None:
    """One line over the epochs; of several members thin ones, and their median."""
    values = np.atleast_2d(values)
    epochs = np.arange(1, values.shape[1] + 1)
    alone = len(values) == 1
    if not alone:
        ax.plot(epochs, values.T, style, color=color, linewidth=0.6, alpha=0.5)
    known = np.isfinite(values).any(axis=0)
    median = np.nanmedian(values[:, known], axis=0)
    label = name if alone else f"{name}, median of {len(values)}"
    ax.plot(epochs[known], median, style, color=color, linewidth=1.5 if alone else 2.5, label=label)


def _mark_best(ax: Axes, report: History) -> None:
    best = np.atleast_1d(report.best_epoch)
    if (best >= 0).any():
        at = np.atleast_2d(report.validation_nll)[np.flatnonzero(best >= 0), best[best >= 0]]
        label = f"best epoch ({best[0] + 1})" if len(best) == 1 else "best epoch of each member"
        ax.plot(best[best >= 0] + 1, at, "v", color="black", markersize=6, label=label)


def report(
    prediction: Prediction,
    y: TableLike,
    *,
    x: TableLike | None = None,
    training: History | None = None,
    same_scale: bool = True,
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
    shown = {"x": x, "training": training, "same_scale": same_scale}
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
    level: float = 0.95,
    label: str = "y",
    x_label: str = "x",
) -> dict[str, Callable[[Axes | None], Axes]]:
    """The pictures of a `report` by name, as functions of the axes to draw on; the arguments are its own."""
    y = _one_output(prediction, y)
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
    if x is not None:
        drawn = {"train": (x, y), "points": "observed", "level": level, "labels": (x_label, label)}
        panels["band"] = partial(band, x, prediction, **drawn, title="Prediction")
    if training is not None:
        panels["history"] = partial(history, training, same_scale=same_scale, title="Training")
    return {name: lambda ax=None, draw=draw: draw(ax=ax) for name, draw in panels.items()}


def literal(text: str) -> str:
    """A name as it is, for a label: matplotlib takes what stands between two `$` for a formula."""
    return text.replace("$", r"\$")


def _axes(ax: Axes | None, size: tuple[int, int] = (5, 5)) -> Axes:
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def _finished(ax: Axes, title: str | None, front: Axes | None = None) -> Axes:
    """Axes with title and legend, which stands on those in front of them where there are two."""
    if title is not None:
        ax.set_title(title)
    front = front or ax
    drawn = [handle for each in dict.fromkeys((ax, front)) for handle in each.get_legend_handles_labels()[0]]
    for handle in front.legend(handles=drawn, fontsize="small").legend_handles:
        if isinstance(handle, PathCollection):  # small, pale points are not so in the legend
            handle.set(alpha=1, sizes=[20])
    return ax


def _one_output(prediction: Prediction, y: TableLike) -> np.ndarray:
    if np.ndim(prediction.mean) != 1:
        shape = f"the prediction has {np.shape(prediction.mean)}"
        raise ValueError(f"one output is drawn at a time, {shape}: pass prediction.output(i)")
    return check_prediction(prediction, y)[0]


def _binomial(n: int, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shares between which a binomial one lies with a probability of at least CONSISTENCY."""
    tail = (1 - CONSISTENCY) / 2
    return tuple(np.ceil(np.maximum(bdtrik(q, n, share), 0)) / n for q in (tail, 1 - tail))


def _single_feature(x: TableLike) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim == 2 and x.shape[1] == 1:
        return x[:, 0]
    if x.ndim != 1:
        raise ValueError(f"a band is drawn over one feature, x has shape {x.shape}: pass one column")
    return x
