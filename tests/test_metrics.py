"""Every score against someone else's, and what holds for all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import properscoring
import pytest
import scipy.stats
import scoringrules
import sklearn.metrics
import uncertainty_toolbox as uct

from jaxreg import Affine, Gaussian, GaussianMixture, isotonic, metrics
from jaxreg.calibration.conformal import SplitConformal
from jaxreg.calibration.scaling import VarianceScaling

LEVELS = np.array([0.5, 0.9])


def make(shape=(200,), seed=0):
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=shape), np.exp(rng.normal(size=shape) * 0.5)
    y = mean + 1.3 * std * rng.normal(size=shape)
    return Gaussian(jnp.asarray(mean), 2 * jnp.log(jnp.asarray(std))), mean, std, y


def loop_over_bins(mean, std, y, bins=10):
    """ENCE, written as its authors describe it."""
    terms = []
    for rows in np.array_split(np.argsort(std), bins):
        predicted = np.sqrt(np.mean(std[rows] ** 2))
        terms.append(abs(predicted - np.sqrt(np.mean((mean - y)[rows] ** 2))) / predicted)
    return np.mean(terms)


def reliability(mean, std, y):
    """Levels 1 % to 99 % as the toolbox observes them; it has 0 and 1 as well, where nothing can be off."""
    expected, observed = uct.metrics_calibration.get_proportion_lists_vectorized(
        mean, std, y, num_bins=101, prop_type="quantile"
    )
    return np.abs(observed - expected)[1:-1]


METRICS = {
    "rmse": (metrics.rmse, lambda m, s, y: sklearn.metrics.root_mean_squared_error(y, m)),
    "mae": (metrics.mae, lambda m, s, y: sklearn.metrics.mean_absolute_error(y, m)),
    "nll": (metrics.nll, lambda m, s, y: uct.nll_gaussian(m, s, y)),
    "crps": (metrics.crps, lambda m, s, y: properscoring.crps_gaussian(y, m, s).mean()),
    "pit": (metrics.pit, lambda m, s, y: scipy.stats.norm.cdf(y, m, s)),
    "coverage": (
        lambda d, y, **w: metrics.coverage(d, y, LEVELS, **w),
        lambda m, s, y: [np.mean(np.abs(y - m) / s <= scipy.stats.norm.ppf((1 + a) / 2)) for a in LEVELS],
    ),
    "outside, below": (
        lambda d, y, **w: metrics.outside(d, y, LEVELS, **w)[0],
        lambda m, s, y: [np.mean((m - y) / s > scipy.stats.norm.ppf((1 + a) / 2)) for a in LEVELS],
    ),
    "outside, above": (
        lambda d, y, **w: metrics.outside(d, y, LEVELS, **w)[1],
        lambda m, s, y: [np.mean((y - m) / s > scipy.stats.norm.ppf((1 + a) / 2)) for a in LEVELS],
    ),
    "width": (
        lambda d, y, **w: metrics.width(d, LEVELS, **w),
        lambda m, s, y: [2 * np.mean(s) * scipy.stats.norm.ppf((1 + level) / 2) for level in LEVELS],
    ),
    "interval_score": (
        lambda d, y, **w: metrics.interval_score(d, y, 0.9, **w),
        lambda m, s, y: scoringrules.interval_score(
            y, *(scipy.stats.norm.ppf(q, m, s) for q in (0.05, 0.95)), 0.1
        ).mean(),
    ),
    "pinball": (
        lambda d, y, **w: metrics.pinball(d, y, 0.3, **w),
        lambda m, s, y: sklearn.metrics.mean_pinball_loss(y, scipy.stats.norm.ppf(0.3, m, s), alpha=0.3),
    ),
    "calibration_error": (metrics.calibration_error, lambda m, s, y: reliability(m, s, y).mean()),
    "max_calibration_error": (metrics.max_calibration_error, lambda m, s, y: reliability(m, s, y).max()),
    "sharpness": (lambda d, y, **w: metrics.sharpness(d, **w), lambda m, s, y: uct.sharpness(s)),
    "variance_split": (lambda d, y, **w: metrics.variance_split(d, **w)[0], lambda m, s, y: uct.sharpness(s)),
    "ence": (metrics.ence, loop_over_bins),
}
WEIGHTED = [name for name in METRICS if name not in ("pit", "ence")]


@pytest.mark.parametrize("name", METRICS)
def test_against_others(name, x64):
    ours, oracle = METRICS[name]
    prediction, mean, std, y = make()
    np.testing.assert_allclose(ours(prediction, y), oracle(mean, std, y), rtol=1e-8)
    if name in ("calibration_error", "max_calibration_error"):
        return
    # A prediction in other units is scored in those.
    affine = Affine(prediction, 50.0, 3.0)
    there = 50 + 3 * mean, 3 * std, 50 + 3 * y
    np.testing.assert_allclose(ours(affine, there[2]), oracle(*there), rtol=1e-8)


def test_toolbox_s_averages_over_levels(x64):
    prediction, mean, std, y = make()
    pinballs = [metrics.pinball(prediction, y, q) for q in np.linspace(0.01, 0.99, 99)]
    np.testing.assert_allclose(np.mean(pinballs), uct.check_score(mean, std, y), rtol=1e-8)
    winklers = [metrics.interval_score(prediction, y, level) for level in np.linspace(0.01, 0.99, 99)]
    np.testing.assert_allclose(np.mean(winklers), uct.interval_score(mean, std, y), rtol=1e-8)


def test_a_mixture_is_scored_as_one(x64):
    rng = np.random.default_rng(0)
    means, stds, y = rng.normal(size=(4, 50)), np.exp(rng.normal(size=(4, 50))), rng.normal(size=50)
    mixture = GaussianMixture.from_std(means, stds)
    density = scipy.stats.norm.pdf(y, means, stds).mean(axis=0)
    np.testing.assert_allclose(metrics.nll(mixture, y), -np.log(density).mean(), rtol=1e-8)
    crps = scoringrules.crps_mixnorm(y, means.T, stds.T).mean()
    np.testing.assert_allclose(metrics.crps(mixture, y), crps, rtol=1e-8)
    aleatoric, epistemic = metrics.variance_split(mixture)
    np.testing.assert_allclose(aleatoric, np.sqrt((stds**2).mean()), rtol=1e-8)
    np.testing.assert_allclose(epistemic, np.sqrt(means.var(axis=0).mean()), rtol=1e-8)
    np.testing.assert_allclose(np.hypot(aleatoric, epistemic), metrics.sharpness(mixture), rtol=1e-8)


@pytest.mark.parametrize("name", WEIGHTED)
def test_integer_weights_are_repeated_rows(name, x64):
    prediction, _, _, y = make((60,))
    weight = np.arange(60) % 3
    rows = np.repeat(np.arange(60), weight)
    repeated = jax.tree.map(lambda leaf: leaf[rows], prediction)
    ours = METRICS[name][0]
    np.testing.assert_allclose(ours(prediction, y, sample_weight=weight), ours(repeated, y[rows]), rtol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_outputs_are_scored_one_by_one(name, x64):
    prediction, _, _, y = make((40, 3))
    ours = METRICS[name][0]
    weights = [{}] if name == "pit" else [{}, {"sample_weight": np.linspace(0, 1, 120).reshape(40, 3)}]
    for weighted in weights:
        found = ours(prediction, y, **weighted)
        for i in range(3):
            one = jax.tree.map(lambda leaf, i=i: leaf[:, i], prediction)
            own = {key: value[:, i] for key, value in weighted.items()}
            np.testing.assert_allclose(found[..., i], ours(one, y[:, i], **own), rtol=1e-12)


def test_all_go_through_jit(x64):
    prediction, _, _, y = make((30,))

    def all_of_them(prediction, y):
        return {name: ours(prediction, y) for name, (ours, _) in METRICS.items()}

    eager, jitted = all_of_them(prediction, y), jax.jit(all_of_them)(prediction, y)
    for name in METRICS:
        np.testing.assert_allclose(jitted[name], eager[name], rtol=1e-12, err_msg=name)
    slope = jax.grad(lambda log_var: metrics.nll(Gaussian(prediction.mean, log_var), y))(prediction.log_var)
    np.testing.assert_allclose(slope, 0.5 * (1 - (y - prediction.mean) ** 2 / prediction.std**2) / 30)
    weight = jnp.linspace(0, 1, 30)
    slope = jax.grad(lambda w: metrics.crps(prediction, jnp.asarray(y), sample_weight=w))(weight)
    assert slope.shape == (30,) and np.isfinite(slope).all()


def test_whole_numbers_are_no_reason_to_round():
    prediction = Gaussian(np.array([1, 2, 3]), np.zeros(3))
    np.testing.assert_allclose(metrics.rmse(prediction, [1.5, 2.7, 3.2]), np.sqrt(0.26), rtol=1e-6)
    assert metrics.evaluate(prediction, [1.5, 2.7, 3.2])["rmse"] > 0.5


@pytest.mark.parametrize("score", [metrics.interval_score, metrics.pinball, metrics.coverage])
@pytest.mark.parametrize("shape", [(4,), (4, 2)])
def test_several_levels_at_once(score, shape, x64):
    prediction, _, _, y = make(shape)
    levels = [0.2, 0.5, 0.7, 0.9]  # as many as there are rows
    together = score(prediction, y, levels)
    assert together.shape == (4, *shape[1:])
    np.testing.assert_allclose(together, [score(prediction, y, level) for level in levels], rtol=1e-12)


def test_what_a_kind_of_prediction_cannot_give():
    prediction, _, _, y = make((30,))
    conformal = SplitConformal.fit(prediction, y)(prediction)
    for score in (metrics.nll, metrics.crps, metrics.pit, metrics.calibration_error, isotonic.fit):
        with pytest.raises(
            ValueError, match="a Conformal prediction has no (log_prob|crps|pit): score it by"
        ):
            score(conformal, y)
    with pytest.raises(ValueError, match="GaussianMixture can be scaled, not that of a Conformal"):
        VarianceScaling.fit(conformal, y)
    with pytest.raises(ValueError, match="GaussianMixture can be scaled, not that of a Conformal"):
        VarianceScaling(2.0)(conformal)


def test_arguments_are_named():
    prediction, y = GOOD, np.zeros(3)
    for settings, message in [
        ({"baseline": (0.0, 0.0)}, "the baseline's std must be positive"),
        ({"baseline": (np.zeros(3), 1.0)}, r"the baseline's mean has shape \(3,\), expected \(\) or \(\)"),
        ({"level": np.array([0.5, 0.9])}, "level must be a number"),
        ({"sample_weight": 1.0}, r"sample_weight must have shape \(rows,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            metrics.evaluate(prediction, y, **settings)
    with pytest.raises(ValueError, match=r"levels must have shape \(levels,\), got \(\)"):
        metrics.observed_levels(prediction, y, 0.5)


def test_bins_of_similar_std(x64):
    prediction, mean, std, y = make((25,))
    predicted, observed, rows = metrics.error_by_std(prediction, y, bins=4)
    assert rows.tolist() == [7, 6, 6, 6]
    order = np.argsort(std)
    np.testing.assert_allclose(predicted[0], np.sqrt((std[order[:7]] ** 2).mean()), rtol=1e-12)
    np.testing.assert_allclose(observed[-1], np.sqrt(((mean - y)[order[-6:]] ** 2).mean()), rtol=1e-12)
    assert metrics.error_by_std(prediction, y, bins=100)[0].shape == (25,)
    weight = np.ones(25)
    weight[order[:7]] = 0
    weighted = metrics.error_by_std(prediction, y, bins=4, sample_weight=weight)
    assert np.isnan(weighted[0][0]) and np.isfinite(metrics.ence(prediction, y, 4, sample_weight=weight))
    np.testing.assert_allclose(weighted[1][1:], observed[1:], rtol=1e-12)
    # Rows of one std share a bin, whatever their order.
    constant = Gaussian(prediction.mean, jnp.zeros(25))
    predicted, observed, rows = metrics.error_by_std(constant, y)
    assert rows[rows > 0].tolist() == [25] and np.isnan(observed[rows == 0]).all()
    by_y = np.argsort(y)
    turned = metrics.ence(Gaussian(prediction.mean[by_y], jnp.zeros(25)), y[by_y])
    np.testing.assert_allclose(metrics.ence(constant, y), turned, rtol=1e-12)
    np.testing.assert_allclose(turned, abs(1 - metrics.rmse(constant, y)), rtol=1e-12)


def test_evaluate_beside_the_trivial_prediction(x64):
    prediction, mean, std, y = make()
    train = np.random.default_rng(5).normal(size=1000)
    scores = metrics.evaluate(prediction, pd.Series(y), level=0.9, baseline=(train.mean(), train.std()))
    for name in METRICS:
        if name in scores and name not in ("coverage", "width"):
            np.testing.assert_allclose(scores[name], METRICS[name][1](mean, std, y), rtol=1e-8)
    assert scores["coverage"] == metrics.coverage(prediction, y, 0.9) and scores["level"] == 0.9
    assert all(isinstance(value, float) for name, value in scores.items() if name != "baseline")
    trivial = np.full(200, train.mean()), np.full(200, train.std())
    np.testing.assert_allclose(scores["baseline"]["nll"], uct.nll_gaussian(*trivial, y), rtol=1e-5)
    np.testing.assert_allclose(scores["baseline"]["rmse"], np.sqrt(np.mean((y - train.mean()) ** 2)))
    assert set(scores["baseline"]) == set(scores) - {"baseline"}
    assert scores["epistemic"] == 0 and scores["aleatoric"] == scores["sharpness"]
    two = metrics.evaluate(make((20, 2))[0], make((20, 2))[3], baseline=(np.zeros(2), np.ones(2)))
    assert two["crps"].shape == two["baseline"]["crps"].shape == (2,)


GOOD, Y = Gaussian(jnp.zeros(3), jnp.zeros(3)), np.zeros(3)
HOLE = jnp.array([jnp.nan, 0, 0])
BAD = {
    "another shape": ((GOOD, Y[:, None]), {}, r"y \(3, 1\), mean \(3,\)"),
    "NaN": ((GOOD, [0.0, np.nan, 1.0]), {}, "missing or infinite values in y: 1 of 3 rows"),
    "empty": ((jax.tree.map(lambda a: a[:0], GOOD), Y[:0]), {}, "y has no rows"),
    "text": ((GOOD, ["a", "b", "c"]), {}, "y holds .* numbers are needed"),
    "NaN mean": ((GOOD._replace(mean=HOLE), Y), {}, "mean isn't finite in 1"),
    "zero variance": ((GOOD._replace(log_var=jnp.log(jnp.arange(3.0))), Y), {}, "std must be positive"),
    "NaN variance": ((GOOD._replace(log_var=HOLE), Y), {}, "std must be positive"),
    "weights of another shape": ((GOOD, Y), {"sample_weight": Y[:2]}, r"weight has shape \(2,\)"),
    "negative weights": ((GOOD, Y), {"sample_weight": Y - 1}, "3 negative values"),
    "no weights": ((GOOD, Y), {"sample_weight": Y}, "zero everywhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_scored(case):
    args, settings, message = BAD[case]
    for score in (metrics.rmse, metrics.nll, metrics.crps, metrics.coverage, metrics.ence, metrics.evaluate):
        with pytest.raises(ValueError, match=message):
            score(*args, **settings)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, np.nan])
def test_levels_outside_0_1(level):
    for score, name in [
        (metrics.coverage, "level"),
        (metrics.interval_score, "level"),
        (metrics.pinball, "q"),
        (metrics.evaluate, "level"),
    ]:
        with pytest.raises(ValueError, match=f"{name} must lie strictly between 0 and 1"):
            score(GOOD, np.zeros(3), **{name: level})
    with pytest.raises(ValueError, match="levels must lie"):
        metrics.observed_levels(GOOD, np.zeros(3), [0.5, level])


def test_what_weighs_nothing_may_be_missing():
    rng = np.random.default_rng(0)
    dist, y = Gaussian(rng.normal(size=(40, 2)), np.zeros((40, 2))), rng.normal(size=(40, 2))
    known = rng.uniform(size=y.shape) < 0.7
    gaps = np.where(known, y, np.nan)
    for i, found in enumerate(metrics.crps(dist, gaps, sample_weight=known)):
        rows = known[:, i]
        np.testing.assert_allclose(found, metrics.crps(dist.output(i)[rows], y[rows, i]), rtol=1e-6)
    with pytest.raises(
        ValueError, match="column 0: .*; drop these rows, weigh what is missing 0, or take one"
    ):
        metrics.crps(dist, gaps)
    with pytest.raises(ValueError, match="missing or infinite values in y, column"):
        metrics.crps(dist, gaps, sample_weight=np.ones(y.shape))
