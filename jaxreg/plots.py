"""Pictures of predictions, in matplotlib."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from jaxreg.data import TableLike
from jaxreg.gaussian import Affine, Gaussian


def band(
    x: TableLike,
    prediction: Gaussian | Affine,
    *,
    train: tuple[TableLike, TableLike] | None = None,
    level: float = 0.95,
    title: str | None = None,
    labels: tuple[str, str] = ("x", "y"),
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean and the central interval over one feature, and the training points.

    Args:
        x: where the prediction stands, `(n, 1)` or `(n,)`, in any order.
        prediction: over `(n,)`.
        train: `(x, y)` of the training rows.
        level: share of the probability inside the band.
        title: of the axes.
        labels: names, with units, of the two axes.
        ax: axes to draw on; by default those of a new figure of 8 x 5 inches.

    Returns:
        The axes; `ax.figure.savefig(path)` writes the picture.

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
            raise ValueError(
                f"train: x has {len(train[0])} rows, y has shape {train[1].shape}: they must agree"
            )
    if ax is None:
        ax = plt.subplots(figsize=(8, 5), layout="constrained")[1]
    order = np.argsort(x)
    if train is not None:
        ax.scatter(*train, s=12, alpha=0.6, label="train")
    ax.plot(x[order], mean[order], linewidth=2, color="C1", label="μ(x)")
    bounds = np.asarray(lower)[order], np.asarray(upper)[order]
    ax.fill_between(
        x[order], *bounds, alpha=0.25, color="C1", linewidth=0, label=f"{100 * level:g}% interval"
    )
    ax.set(xlabel=labels[0], ylabel=labels[1])
    if title is not None:
        ax.set_title(title)
    ax.legend()
    return ax


def _single_feature(x: TableLike) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim == 2 and x.shape[1] == 1:
        return x[:, 0]
    if x.ndim != 1:
        raise ValueError(f"a band is drawn over one feature, x has shape {x.shape}: pass one column")
    return x
