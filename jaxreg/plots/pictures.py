"""Pictures of predictions and of what they are worth, in matplotlib.

Each function draws on `ax`, by default the axes of a new figure, and returns it; `ax.figure.savefig(path)`
writes the picture. What stands for different things differs in shape or in brightness, not in hue alone.
"""

import numpy as np
from matplotlib.axes import Axes
from scipy.special import chdtri

from jaxreg.checks import check_probability
from jaxreg.data.frames import TableLike
from jaxreg.distributions.base import Prediction
from jaxreg.distributions.clipped import Clipped
from jaxreg.metrics.checked import able
from jaxreg.metrics.scores import LEVELS, observed_levels, pit
from jaxreg.metrics.scores import error_by_std as binned_error
from jaxreg.plain import check_whole
from jaxreg.plots.drawing import (
    CONSISTENCY,
    DARK,
    axes_or_new,
    binomial,
    finished,
    one_output,
    single_feature,
)
from jaxreg.training import History

# More error bars than these can't be told apart: rows between them are left out.
MOST_ERROR_BARS = 60

# Both dark enough for the text of their axes.
LOSS_COLOR, SCORE_COLOR = "C0", DARK

# Beyond so many, points are small and pale.
MANY_POINTS = 500

# Points of a curve between two quantiles, and these.
CURVE_POINTS, CURVE_ENDS = 400, (0.002, 0.998)


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
    x = single_feature(x)
    mean, (lower, upper) = np.asarray(prediction.mean), prediction.interval(level)
    if mean.shape != x.shape:
        raise ValueError(f"x has {len(x)} rows, the prediction has shape {mean.shape}: they must agree")
    if train is not None:
        train = single_feature(train[0]), np.asarray(train[1])
        if train[1].shape != train[0].shape:
            rows, shape = len(train[0]), train[1].shape
            raise ValueError(f"train: x has {rows} rows, y has shape {shape}: they must agree")
    ax = axes_or_new(ax, (8, 5))
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
    return finished(ax, title)


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
    y = one_output(prediction, y)
    observed = observed_levels(prediction, y)
    ax = axes_or_new(ax)
    lower, upper = binomial(len(y), LEVELS)
    label = f"{100 * CONSISTENCY:g}% of right predictions"
    ax.fill_between(LEVELS, lower, upper, color="0.85", linewidth=0, label=label)
    ax.plot([0, 1], [0, 1], "--", color="0.4", linewidth=1, label="ideal")
    ax.plot([0, *LEVELS, 1], [0, *observed, 1], color="C0", linewidth=2, label="observed")
    ax.set(xlabel="predicted level", ylabel="share of values below", xlim=(0, 1), ylim=(0, 1))
    return finished(ax, title)


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
    y = one_output(prediction, y)
    counts, edges = np.histogram(pit(prediction, y), bins, (0, 1))
    ax = axes_or_new(ax)
    lower, upper = (bins * share[0] for share in binomial(len(y), np.array([1 / bins])))
    label = f"{100 * CONSISTENCY:g}% of right predictions"
    heights = bins * counts / len(y)
    ax.bar(edges[:-1], heights, 1 / bins, align="edge", color="C0", edgecolor="white", label="observed")
    ax.axhspan(lower, upper, color="0.5", alpha=0.35, linewidth=0, label=label)
    ax.axhline(1, linestyle="--", color="0.2", linewidth=1, label="ideal")
    ax.set(xlabel="cdf at the observed value (PIT)", ylabel="density", xlim=(0, 1))
    ax.set_ylim(0, 1.35 * max(upper, heights.max()))  # room for the legend
    return finished(ax, title)


def densities(
    prediction: Prediction,
    y: TableLike,
    *,
    rows: int = 6,
    label: str = "y",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the predicted densities of a few rows as curves, one above the other, and the observed values.

    The rows are spread evenly over all in the order of their predicted means. Each curve is as high as all
    others, so that its shape can be seen: skewed, with heavy tails, or with several humps. What lies at a
    bound of the target isn't drawn.

    Args:
        prediction: over `(n,)`; it needs a density, which conformal intervals haven't.
        y: observed values.
        rows: how many to draw, at most; fewer where there are fewer.
        label: name of the target, with its unit.
        title: of the axes.
        ax: axes to draw on.

    Raises:
        ValueError: as `metrics.check_prediction`, or for several outputs.
    """
    check_whole("rows", rows, 1)
    y, ax = one_output(able(prediction, "log_prob"), y), axes_or_new(ax)
    order = np.argsort(np.asarray(prediction.mean), kind="stable")
    shown = order[np.unique(((np.arange(rows) + 0.5) * len(order) / rows).astype(int))]
    low, high = (np.asarray(end, np.float64) for end in prediction[shown].quantile(np.array(CURVE_ENDS)))
    # At a bound log_prob is that of a share, which has no density.
    inside = prediction.dist if isinstance(prediction, Clipped) else prediction
    for place, row in enumerate(shown):
        values = np.linspace(low[place], high[place], CURVE_POINTS)
        density = np.exp(inside[np.full(CURVE_POINTS, row)].log_prob(values))
        height = place + 0.85 * density / density.max()
        ax.fill_between(values, place, height, color="C0", alpha=0.3, linewidth=0)
        ax.plot(values, height, color="C0", label="predicted density" if place == 0 else None)
    ax.scatter(y[shown], np.arange(len(shown)), 30, DARK, marker="D", zorder=3, label="observed")
    ax.set(xlabel=label, ylabel="rows, by their predicted mean", yticks=[])
    ax.set_ylim(-0.3, 1.3 * len(shown) + 0.3)  # room for the legend
    return finished(ax, title)


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
    y = one_output(prediction, y)
    mean = np.asarray(prediction.mean)
    lower, upper = (np.asarray(end) for end in prediction.interval(level))
    inside = (lower <= y) & (y <= upper)
    ax = axes_or_new(ax)
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
    return finished(ax, title)


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
    y = one_output(prediction, y)
    predicted, observed, rows = binned_error(prediction, y, bins)
    predicted, observed, rows = (a[rows > 0] for a in (predicted, observed, rows))
    # n RMSE^2 / sigma^2 is chi-squared with n degrees of freedom.
    tail = (1 - CONSISTENCY) / 2
    ends = [observed * np.sqrt(rows / chdtri(rows, q)) for q in (tail, 1 - tail)]
    ax = axes_or_new(ax)
    top = 1.05 * max(predicted.max(), observed.max())
    ax.plot([0, top], [0, top], "--", color="0.4", linewidth=1, label="ideal")
    reach = np.abs(np.stack(ends) - observed)
    groups = "1 group" if len(predicted) == 1 else f"{len(predicted)} groups"
    bar_label = f"{groups} of rows, {100 * CONSISTENCY:g}% interval"
    ax.errorbar(predicted, observed, reach, fmt="o-", color="C0", capsize=3, label=bar_label)
    ax.set(xlabel=f"predicted std of {label}", ylabel=f"RMSE of {label}", xlim=(0, top))
    ax.set_ylim(0, None)
    return finished(ax, title)


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
    ax = axes_or_new(ax, (8, 5))
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
    return finished(ax, title, right)


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
