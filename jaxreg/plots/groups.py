"""Pictures of groups of rows."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from scipy.special import betaincinv

from jaxreg.metrics.groups import GroupCoverage
from jaxreg.plain import counted
from jaxreg.plots.drawing import CONSISTENCY, axes_or_new, finished, literal

MOST_GROUPS = 15
LONGEST_NAME = 28


def coverage_by(
    found: GroupCoverage | Sequence[GroupCoverage], *, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the share of values inside their interval for each group of rows.

    Bars are 95 % intervals of that share (Clopper & Pearson 1934). Of many groups those are drawn that have
    most rows.

    Args:
        found: what `metrics.coverage_by` returns, or several of one level.
        title: of the axes.
        ax: axes to draw on.

    Raises:
        ValueError: for several levels.
    """
    every = [found] if isinstance(found, GroupCoverage) else list(found)
    if len({each.level for each in every}) != 1:
        raise ValueError(f"groups of one level are drawn, got {sorted({each.level for each in every})}")
    ax, at, ticks, shown = axes_or_new(ax), 0.0, [], []
    tail, level = (1 - CONSISTENCY) / 2, every[0].level
    for i, each in enumerate(every):
        kept = np.sort(np.argsort(-each.rows, kind="stable")[: MOST_GROUPS // len(every)])
        places, rows, share = at + np.arange(len(kept)), each.rows[kept], each.coverage[kept]
        inside = share * rows
        ends = betaincinv(inside, rows - inside + 1, tail), betaincinv(inside + 1, rows - inside, 1 - tail)
        low, high = np.where(inside > 0, ends[0], 0), np.where(inside < rows, ends[1], 1)
        reach = np.maximum([share - low, high - share], 0)
        label = f"{100 * CONSISTENCY:g}% interval" if i == 0 else None
        ax.errorbar(share, places, xerr=reach, fmt="o", color=f"C{i}", capsize=3, label=label)
        ticks += list(places)
        shown += [short(each.names[k]) for k in kept]
        at += len(kept) + 0.6
    ax.axvline(level, linestyle="--", color="0.4", linewidth=1, label=f"{100 * level:g}%")
    if more := sum(len(each.names) for each in every) - len(shown):
        ax.set_ylabel(f"{counted(more, 'smaller group')} left out")
    ax.set_yticks(ticks, shown, fontsize="small")
    ax.invert_yaxis()
    ax.set(xlabel="share inside the interval")
    return finished(ax, title)


def short(name: str) -> str:
    """A name that fits beside axes."""
    return literal(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}...")
