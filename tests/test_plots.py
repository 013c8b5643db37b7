import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pytest
from matplotlib.figure import Figure

from jaxreg import Affine, Gaussian, plots

X = np.array([3.0, 1.0, 2.0], np.float32)
PREDICTION = Gaussian(np.array([9.0, 1.0, 4.0], np.float32), np.log(np.array([4.0, 1.0, 0.25], np.float32)))
SORTED = {"x": [1, 2, 3], "mean": [1, 4, 9], "std": np.array([1, 0.5, 2])}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize("x", [X, X[:, None], pd.DataFrame({"a": X}), pl.Series(X), X.tolist()])
def test_what_is_drawn(x):
    ax = Figure().subplots()
    train = np.array([[0.0], [5.0]]), np.array([2.0, -20.0])
    got = plots.band(
        x, PREDICTION, train=train, level=0.9, title="Prices", labels=("area [m²]", "price"), ax=ax
    )
    assert got is ax
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xydata(), np.stack([SORTED["x"], SORTED["mean"]], 1), rtol=1e-6)
    points, band = ax.collections
    np.testing.assert_allclose(points.get_offsets(), [[0, 2], [5, -20]])
    corners = band.get_paths()[0].vertices
    for sign in (-1, 1):
        edge = np.stack([SORTED["x"], SORTED["mean"] + sign * 1.644854 * SORTED["std"]], 1)
        distance = np.abs(corners[:, None] - edge).max(axis=2).min(axis=0)
        assert distance.max() < 1e-4
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("Prices", "area [m²]", "price")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["train", "μ(x)", "90% interval"]
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert left < 0 and right > 5 and bottom < -20 and top > 9 + 1.644854 * 2
    ax.figure.canvas.draw()


def test_a_figure_of_its_own():
    ax = plots.band(X, Affine(PREDICTION, 1e6, 10.0))
    np.testing.assert_allclose(ax.figure.get_size_inches(), (8, 5))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [1e6 + 10, 1e6 + 40, 1e6 + 90])
    assert ax.get_title() == "" and len(ax.collections) == 1
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"one feature, x has shape \(3, 2\)"):
        plots.band(np.zeros((3, 2)), PREDICTION)
    with pytest.raises(ValueError, match="x has 2 rows, the prediction has shape"):
        plots.band(X[:2], PREDICTION)
    with pytest.raises(ValueError, match="train: x has 3 rows, y has shape"):
        plots.band(X, PREDICTION, train=(X, X[:2]))
    with pytest.raises(ValueError, match="level must lie"):
        plots.band(X, PREDICTION, level=95.0)
    assert not plt.get_fignums()  # no empty figure is left behind
