"""What pictures share: axes, legends, bands of what chance allows, and checks."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from scipy.special import bdtrik

from jaxreg.data.frames import TableLike
from jaxreg.distributions.base import Prediction
from jaxreg.metrics.checked import check_prediction

# Share of pictures of a right prediction that stay inside a consistency band, at each point.
CONSISTENCY = 0.95

# Dark enough to be seen over points and band in black and white.
DARK = "#a33c00"


def literal(text: str) -> str:
    """A name as it is, for a label: matplotlib takes what stands between two `$` for a formula."""
    return text.replace("$", r"\$")


def axes_or_new(ax: Axes | None, size: tuple[int, int] = (5, 5)) -> Axes:
    """The axes that are given, or those of a new figure."""
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def finished(ax: Axes, title: str | None, front: Axes | None = None) -> Axes:
    """Axes with title and legend, which stands on those in front of them where there are two."""
    if title is not None:
        ax.set_title(title)
    front = front or ax
    drawn = [handle for each in dict.fromkeys((ax, front)) for handle in each.get_legend_handles_labels()[0]]
    for handle in front.legend(handles=drawn, fontsize="small").legend_handles:
        if isinstance(handle, PathCollection):  # small, pale points are not so in the legend
            handle.set(alpha=1, sizes=[20])
    return ax


def one_output(prediction: Prediction, y: TableLike) -> np.ndarray:
    """Checked targets of a prediction, or an error if it has several outputs."""
    if np.ndim(prediction.mean) != 1:
        shape = f"the prediction has {np.shape(prediction.mean)}"
        raise ValueError(f"one output is drawn at a time, {shape}: pass prediction.output(i)")
    return check_prediction(prediction, y)[0]


def binomial(n: int, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shares between which a binomial one lies with a probability of at least CONSISTENCY."""
    tail = (1 - CONSISTENCY) / 2
    return tuple(np.ceil(np.maximum(bdtrik(q, n, share), 0)) / n for q in (tail, 1 - tail))


def single_feature(x: TableLike) -> np.ndarray:
    """The feature that a band is drawn over, or an error if there are several."""
    x = np.asarray(x)
    if x.ndim == 2 and x.shape[1] == 1:
        return x[:, 0]
    if x.ndim != 1:
        raise ValueError(f"a band is drawn over one feature, x has shape {x.shape}: pass one column")
    return x
