"""Pictures of what carries a prediction."""

import numpy as np
from matplotlib.axes import Axes

from jaxreg.metrics.columns import Dependence, Importance
from jaxreg.plots.drawing import axes_or_new, finished, literal
from jaxreg.plots.groups import short

MOST_COLUMNS = 12
OF = {
    "crps": ("rise of the CRPS when shuffled", "C0"),
    "std": ("mean absolute log ratio of stds when shuffled", "C1"),
}


def strongest(found: Importance, of: str = "crps", most: int = MOST_COLUMNS) -> list[str]:
    """The names of the most important columns, the first one most."""
    return [found.names[i] for i in np.argsort(-getattr(found, of), kind="stable")[:most]]


def importance(
    found: Importance, *, of: str = "crps", title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the importance of the most important columns.

    Args:
        found: what `importance.permutation` returns.
        of: "crps", or "std" for that of the predicted std.
        title: of the axes.
        ax: axes to draw on.

    Raises:
        ValueError: for another `of`.
    """
    if of not in OF:
        raise ValueError(f"importance is of 'crps' or 'std', got {of!r}")
    label, color = OF[of]
    names = strongest(found, of)
    at = [found.names.index(name) for name in names]
    ax = axes_or_new(ax)
    spread = getattr(found, f"{of}_spread")[at]
    whiskers = {"ecolor": "0.3", "capsize": 2}
    ax.barh(range(len(at)), getattr(found, of)[at], xerr=spread, color=color, error_kw=whiskers)
    ax.set_yticks(range(len(at)), [short(name) for name in names], fontsize="small")
    ax.invert_yaxis()
    ax.axvline(0, color="0.4", linewidth=1)
    ax.set_xlabel(label, fontsize="small")
    if more := len(found.names) - len(at):
        ax.set_ylabel(f"{more:,} less important left out")
    if title is not None:
        ax.set_title(title)
    return ax


def dependence(
    found: Dependence, *, label: str = "y", title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw how mean and interval depend on a column, averaged over rows.

    Args:
        found: what `importance.dependence` returns.
        label: name of the target, with its unit.
        title: of the axes.
        ax: axes to draw on.
    """
    ax = axes_or_new(ax)
    interval = f"{100 * found.level:g}% interval"
    if found.values.dtype.kind == "O":
        at, reach = np.arange(len(found.values)), [found.mean - found.lower, found.upper - found.mean]
        ax.errorbar(at, found.mean, reach, fmt="o", color="C0", capsize=3, label=interval)
        ax.set_xticks(at, [short(str(value)) for value in found.values], rotation=45, ha="right")
    else:
        ax.fill_between(found.values, found.lower, found.upper, color="C0", alpha=0.2, label=interval)
        ax.plot(found.values, found.mean, color="C0", linewidth=2, label="mean")
        if found.values.dtype.kind == "M":
            ax.tick_params("x", rotation=30)
    ax.set(xlabel=literal(found.name), ylabel=label)
    return finished(ax, title)
