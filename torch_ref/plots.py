"""The notebook's picture."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike


def band(ax: Axes, train: tuple, x: ArrayLike, mean: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> Axes:
    """Draw the training points, the mean and the interval."""
    ax.scatter(*train, s=12, alpha=0.6, label="train")
    ax.plot(x, mean, linewidth=2, label="μ(x)", color="C1")
    ax.fill_between(x, lower, upper, alpha=0.25, label="95% interval", color="C1")
    ax.set(xlabel="x", ylabel="y")
    ax.legend()
    return ax


def figure(
    title: str, train: tuple, x: ArrayLike, mean: ArrayLike, lower: ArrayLike, upper: ArrayLike
) -> Figure:
    """One picture of the notebook, 8 x 5 inches."""
    fig = Figure(figsize=(8, 5), layout="constrained")
    band(fig.subplots(), train, x, mean, lower, upper).set_title(title)
    return fig
