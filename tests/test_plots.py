import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.stats
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from jaxreg import Affine, Clipped, Gaussian, GaussianMixture, History, metrics, plots
from jaxreg.calibration.conformal import SplitConformal

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
    (line,) = ax.lines  # a single network has no members that disagree
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


def test_the_noise_alone_is_told_apart():
    mixture = GaussianMixture.from_std(np.array([[0.0, 3.0], [2.0, 3.0]]), np.full((2, 2), 2.0))
    ax = plots.band([0.0, 1.0], mixture, level=0.5)
    mean, lower, upper = (line.get_ydata() for line in ax.lines)
    np.testing.assert_allclose(mean, [1, 3], rtol=1e-6)
    ends = np.stack(mixture.interval(0.5))
    share = 2 / np.sqrt([5, 4])  # of the members' std in all of it
    np.testing.assert_allclose(np.stack([lower, upper]), mean + share * (ends - mean), rtol=1e-5)
    assert ax.lines[1].get_linestyle() == "--" and "of the noise alone" in texts(ax)


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def rows(n=150, seed=0):
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=n), np.exp(0.5 * rng.normal(size=n))
    return Gaussian.from_std(mean, std), mean + 1.5 * std * rng.normal(size=n)


def corners(collection):
    return collection.get_paths()[0].vertices


def test_reliability():
    prediction, y = rows()
    ax = plots.reliability(prediction, y, title="Prices")
    ideal, observed = ax.lines
    np.testing.assert_allclose(ideal.get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_allclose(observed.get_xdata(), np.arange(101) / 100)
    expected = metrics.observed_levels(prediction, y)
    np.testing.assert_allclose(observed.get_ydata(), [0, *expected, 1])
    levels = np.arange(1, 100) / 100
    for tail in (0.025, 0.975):
        edge = np.stack([levels, scipy.stats.binom.ppf(tail, 150, levels) / 150], axis=1)
        apart = np.abs(corners(ax.collections[0])[:, None] - edge).max(axis=2).min(axis=0)
        assert apart.max() < 1e-9
    assert (ax.get_xlim(), ax.get_ylim(), ax.get_title()) == ((0, 1), (0, 1), "Prices")
    assert ax.get_xlabel() == "predicted level" and ax.get_ylabel() == "share of values below"
    assert texts(ax) == ["95% of right predictions", "ideal", "observed"]


def test_pit_histogram():
    prediction, y = rows()
    ax = plots.pit_histogram(prediction, y, bins=8)
    bars = [patch for patch in ax.patches if abs(patch.get_width() - 1 / 8) < 1e-9]
    counts, _ = np.histogram(scipy.stats.norm.cdf(y, prediction.mean, prediction.std), 8, (0, 1))
    np.testing.assert_allclose([bar.get_height() for bar in bars], 8 * counts / 150)
    (span,) = [patch for patch in ax.patches if patch.get_width() == 1]
    limits = span.get_y(), span.get_y() + span.get_height()
    np.testing.assert_allclose(limits, 8 * scipy.stats.binom.ppf([0.025, 0.975], 150, 1 / 8) / 150)
    assert ax.get_xlabel() == "cdf at the observed value (PIT)" and ax.get_ylabel() == "density"


def test_consistency_bands_hold_right_predictions():
    lower, upper = plots.drawing.binomial(80, metrics.LEVELS)
    drawn = np.random.default_rng(0).binomial(80, metrics.LEVELS, (4000, 99)) / 80
    inside = ((lower <= drawn) & (drawn <= upper)).mean(axis=0)
    assert inside.min() > 0.94 and inside.mean() < 0.98


def test_observed_against_predicted():
    prediction, y = rows(40)
    ax = plots.observed_against_predicted(prediction, y, level=0.8, label="price [€]")
    lower, upper = (np.asarray(end) for end in prediction.interval(0.8))
    inside = (lower <= y) & (y <= upper)
    scatters = {c.get_label(): c for c in ax.collections if hasattr(c, "get_sizes") and len(c.get_sizes())}
    points = np.stack([prediction.mean, y], axis=1)
    np.testing.assert_allclose(scatters["inside"].get_offsets(), points[inside], rtol=1e-6)
    outside = f"outside ({100 * np.mean(~inside):.1f}%)"
    np.testing.assert_allclose(scatters[outside].get_offsets(), points[~inside], rtol=1e-6)
    (bars,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    segments = np.array(bars.get_segments())
    order = np.argsort(prediction.mean)
    np.testing.assert_allclose(segments[:, 0, 1], lower[order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(segments[:, 1, 1], upper[order], rtol=1e-5, atol=1e-6)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted price [€]", "observed price [€]")
    many = plots.observed_against_predicted(*rows(900))
    (bars,) = [c for c in many.collections if isinstance(c, LineCollection)]
    assert len(bars.get_segments()) == plots.pictures.MOST_ERROR_BARS


def test_error_by_std():
    prediction, y = rows()
    ax = plots.error_by_std(prediction, y, bins=5, label="price [€]")
    predicted, observed, _ = metrics.error_by_std(prediction, y, 5)
    line = next(line for line in ax.lines if len(line.get_xdata()) == 5 and line.get_linestyle() == "-")
    np.testing.assert_allclose(line.get_xydata(), np.stack([predicted, observed], axis=1))
    (bars,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    ends = np.array(bars.get_segments())[:, :, 1]
    for i, tail in enumerate((0.975, 0.025)):
        expected = observed * np.sqrt(30 / scipy.stats.chi2.ppf(tail, 30))
        np.testing.assert_allclose(ends[:, i], expected, rtol=1e-6)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted std of price [€]", "RMSE of price [€]")
    constant = plots.error_by_std(Gaussian(prediction.mean, np.zeros(150)), y)
    assert texts(constant) == ["ideal", "1 group of rows, 95% interval"]


def test_history_of_one_and_of_many():
    loss, nll = np.array([3.0, 2.0, 1.0, np.nan]), np.array([2.0, 1.0, 1.5, np.nan])
    ax = plots.history(History(loss, nll, np.array(1), np.array(-1)))
    trained, validated, best = ax.lines
    np.testing.assert_array_equal(trained.get_xydata(), [[1, 3], [2, 2], [3, 1]])
    np.testing.assert_array_equal(validated.get_ydata(), [2, 1, 1.5])
    np.testing.assert_array_equal(best.get_xydata(), [[2, 1]])
    assert texts(ax) == ["training loss", "validation NLL", "best epoch (2)"]
    many = History(
        np.stack([loss, loss + 2, loss + 1]), np.stack([nll, nll + 2, nll + 1]), np.array([1, -1, 1]), None
    )
    ax = plots.history(many)
    thin = [line for line in ax.lines if line.get_linewidth() < 1]
    bold = [line for line in ax.lines if line.get_linewidth() > 2]
    assert len(thin) == 6 and len(bold) == 2
    np.testing.assert_array_equal(bold[0].get_ydata(), [4, 3, 2])
    np.testing.assert_array_equal(ax.lines[-1].get_xydata(), [[2, 1], [2, 2]])
    ax = plots.history(History(loss, None, np.array(-1), np.array(-1)))
    assert len(ax.lines) == 1 and texts(ax) == ["training loss"]
    with pytest.raises(ValueError, match="no finite loss"):
        plots.history(History(loss * np.nan, None, np.array(-1), np.array(-1)))


def test_history_of_a_loss_in_other_units():
    loss, nll = np.array([300.0, 200.0, 100.0]), np.array([2.0, 1.0, 1.5])
    labels = {"loss_label": "training squared error", "same_scale": False}
    ax = plots.history(History(loss, nll, np.array(1), np.array(-1)), **labels, title="Prices")
    _, right = ax.figure.axes
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), loss)
    np.testing.assert_array_equal(right.lines[0].get_ydata(), nll)
    np.testing.assert_array_equal(right.lines[1].get_xydata(), [[2, 1]])
    for side, label in (ax, "training squared error"), (right, "validation NLL"):
        color = side.lines[0].get_color()
        assert side.get_ylabel() == f"{label}, mean over rows" and side.yaxis.label.get_color() == color
        assert {tick.get_color() for tick in side.get_yticklabels()} == {color}
    assert ax.get_legend() is None and ax.get_title() == "Prices"
    expected = ["training squared error (left)", "validation NLL (right)", "best epoch (2)"]
    assert texts(right) == expected
    alone = plots.history(History(loss, None, np.array(-1), np.array(-1)), **labels)
    assert alone.figure.axes == [alone] and alone.get_ylabel() == "training squared error, mean over rows"
    page = plots.report(*rows(), training=History(loss, nll, np.array(1), np.array(-1)), same_scale=False)
    assert page.axes[-1].get_ylabel() == "validation NLL, mean over rows"
    page.canvas.draw()


def test_densities_of_a_few_rows():
    humps = GaussianMixture.from_std(np.array([[-3.0] * 9, [3.0] * 9]) + np.arange(9.0), np.full((2, 9), 0.5))
    ax = plots.densities(humps, np.arange(9.0), rows=3, label="price", title="Rows")
    curves = [line.get_xydata() for line in ax.lines]
    assert len(curves) == 3 and (ax.get_xlabel(), ax.get_title()) == ("price", "Rows")
    for place, (curve, row) in enumerate(zip(curves, (1, 4, 7), strict=True)):
        density = np.exp([float(humps[[row]].log_prob(np.array([x]))[0]) for x in curve[::40, 0]])
        whole = np.exp(np.asarray(humps[np.full(400, row)].log_prob(curve[:, 0])))
        np.testing.assert_allclose(curve[::40, 1], place + 0.85 * density / whole.max(), rtol=1e-5)
        left, middle, right = np.interp([row - 3, row, row + 3], *curve.T) - place
        assert left > 0.8 and middle < 0.01 and right > 0.8  # two humps
    np.testing.assert_allclose(ax.collections[-1].get_offsets(), [[1, 0], [4, 1], [7, 2]])
    assert texts(ax) == ["predicted density", "observed"]
    assert len(plots.densities(humps, np.arange(9.0), rows=20).lines) == 9
    # Half of it lies at the bound, where there is no density.
    bounded = Clipped(Affine(Gaussian(np.zeros(2), np.zeros(2)), 0.0, 1000.0), 0.0)
    heights = plots.densities(bounded, np.zeros(2), rows=1).lines[0].get_ydata()
    assert heights.max() == pytest.approx(0.85) and np.median(heights) > 0.2


def test_a_page_for_any_model():
    prediction, y = rows()
    training = History(np.array([2.0, 1.0]), None, np.array(-1), np.array(-1))
    page = plots.report(prediction, y, x=np.arange(150.0), training=training, label="price", title="Page")
    titles = [ax.get_title() for ax in page.axes]
    assert len(set(titles)) == 7 and {"Reliability of the quantiles", "Prediction", "Training"} <= set(titles)
    assert page.get_suptitle() == "Page"
    assert page.get_size_inches()[1] > page.get_size_inches()[0]  # a sheet of paper
    page.canvas.draw()
    # A conformal prediction has no cdf, so three of the pictures are left out.
    conformal = SplitConformal.fit(prediction, y)(prediction)
    assert len(plots.report(conformal, y).axes) == 2
    with pytest.raises(ValueError, match=r"one output .*\(2, 2\): pass prediction.output"):
        plots.report(Gaussian(np.zeros((2, 2)), np.zeros((2, 2))), np.zeros((2, 2)))


@pytest.mark.parametrize(
    "draw",
    [
        plots.reliability,
        plots.pit_histogram,
        plots.observed_against_predicted,
        plots.error_by_std,
        plots.report,
    ],
)
def test_what_is_no_prediction(draw):
    prediction, y = rows(10)
    for wrong, message in [
        (y[:, None], r"y \(10, 1\)"),
        (np.full(10, np.nan), "missing or infinite values in y"),
    ]:
        with pytest.raises(ValueError, match=message):
            draw(prediction, wrong)
    assert not plt.get_fignums()
    if draw is not plots.report:
        ax = Figure().subplots()
        assert draw(prediction, y, ax=ax) is ax


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"one feature, x has shape \(3, 2\)"):
        plots.band(np.zeros((3, 2)), PREDICTION)
    with pytest.raises(ValueError, match="x has 2 rows, the prediction has shape"):
        plots.band(X[:2], PREDICTION)
    with pytest.raises(ValueError, match="train: x has 3 rows, y has shape"):
        plots.band(X, PREDICTION, train=(X, X[:2]))
    with pytest.raises(ValueError, match="level must lie"):
        plots.band(X, PREDICTION, level=95.0)
    for draw in (plots.pit_histogram, plots.error_by_std):
        with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
            draw(PREDICTION, X, bins=0)
    assert not plt.get_fignums()  # no empty figure is left behind
