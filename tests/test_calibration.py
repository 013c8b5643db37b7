"""Calibrations against closed forms, MAPIE, and the coverage that they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from mapie.regression import (
    ConformalizedQuantileRegressor,
    CrossConformalRegressor,
    SplitConformalRegressor,
)
from scipy.optimize import minimize_scalar
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold

from jaxreg import Affine, Gaussian, GaussianMixture, isotonic, metrics
from jaxreg.calibration.conformal import ConformalQuantiles, JackknifePlus, SplitConformal, rank
from jaxreg.calibration.recalibration import Recalibrated
from jaxreg.calibration.scaling import NoiseScaling, VarianceScaling

RNG = np.random.default_rng(0)


def gaussian(shape, stretch=1.5, seed=0):
    """A prediction, and values that stray `stretch` times as far as it says."""
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=shape), np.exp(0.5 * rng.normal(size=shape))
    return Gaussian.from_std(mean, std), mean + stretch * std * rng.normal(size=shape)


def mixture(shape, members=4, seed=0):
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=shape)
    means, stds = (
        mean + 0.5 * rng.normal(size=(members, *shape)),
        np.exp(0.3 * rng.normal(size=(members, *shape))),
    )
    return GaussianMixture.from_std(means, stds), mean + 2 * rng.normal(size=shape)


def test_the_best_factor_of_a_gaussian_is_its_mean_squared_error_in_stds(x64):
    prediction, y = gaussian((300,))
    weight = np.arange(300) % 3
    z2 = np.asarray((y - prediction.mean) ** 2 / prediction.std**2)
    np.testing.assert_allclose(VarianceScaling.fit(prediction, y).factor, z2.mean(), rtol=1e-6)
    weighted = VarianceScaling.fit(prediction, y, sample_weight=weight)
    np.testing.assert_allclose(weighted.factor, np.average(z2, weights=weight), rtol=1e-6)
    scaled = weighted(prediction)
    np.testing.assert_allclose(scaled.std**2, prediction.std**2 * weighted.factor, rtol=1e-12)
    np.testing.assert_array_equal(scaled.mean, prediction.mean)


@pytest.mark.parametrize("score", ["nll", "crps"])
def test_no_other_factor_scores_better(score, x64):
    prediction, y = mixture((200, 2))
    scaling = VarianceScaling.fit(prediction, y, score=score)
    assert scaling.factor.shape == (2,)
    measure = getattr(metrics, score)
    found = measure(scaling(prediction), y)
    for i in range(2):
        alone = prediction._replace(means=prediction.means[..., i], log_vars=prediction.log_vars[..., i])
        best = minimize_scalar(
            lambda log, alone=alone, i=i: measure(VarianceScaling(np.exp(log))(alone), y[:, i]), (-1, 2)
        )
        np.testing.assert_allclose(scaling.factor[i], np.exp(best.x), rtol=1e-4)
        np.testing.assert_allclose(found[i], best.fun, rtol=1e-8)


def test_rows_of_no_weight_are_no_rows(x64):
    prediction, y = gaussian((30,))
    more = Gaussian(*(jnp.append(a, a[:3]) for a in prediction))
    settings = {"sample_weight": np.arange(33) < 30}
    far = np.append(y, [1e9, -1e9, 0])
    for fit in (VarianceScaling.fit, isotonic.fit):
        alone, among = fit(prediction, y), fit(more, far, **settings)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), alone, among)
    with pytest.raises(ValueError, match="every prediction equals its y"):
        exact = np.append(prediction.mean, far[30:])
        VarianceScaling.fit(more, exact, **settings)


@pytest.mark.parametrize("score", ["nll", "crps"])
def test_the_best_of_several_minima_is_found(score, x64):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        dist = GaussianMixture.from_std(5 * rng.normal(size=(3, 20)), np.exp(rng.normal(size=(3, 20))))
        y = np.asarray(dist.mean) + 3 * rng.normal(size=20)
        scaling, measure = VarianceScaling.fit(dist, y, score=score), getattr(metrics, score)
        others = [measure(VarianceScaling(factor)(dist), y) for factor in np.geomspace(1e-3, 1e3, 300)]
        assert measure(scaling(dist), y) <= min(others) + 1e-9


def test_factors_that_float32_cannot_hold():
    dist = Gaussian.from_std(np.zeros(3, np.float32), np.full(3, 1e-15, np.float32))
    scaling = VarianceScaling.fit(dist, np.float32([1e10, -1e10, 1e10]))
    np.testing.assert_allclose(scaling(dist).std, 1e10, rtol=1e-3)
    for factor in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(
            ValueError, match=f"factor of the variance must be positive and finite, got {factor}"
        ):
            VarianceScaling(factor)(dist)


def test_a_scaled_mixture_is_a_mixture(x64):
    prediction, y = mixture((50,))
    scaled = VarianceScaling(4.0)(prediction)
    assert isinstance(scaled, GaussianMixture)
    for name in ("std", "aleatoric", "epistemic"):
        np.testing.assert_allclose(getattr(scaled, name), 2 * getattr(prediction, name), rtol=1e-12)
    np.testing.assert_allclose(scaled.mean, prediction.mean, rtol=1e-12)
    stretched = prediction.mean + 2 * (prediction.quantile(0.9) - prediction.mean)
    np.testing.assert_allclose(scaled.quantile(0.9), stretched, rtol=1e-10)
    other = Affine(prediction, 1e6, 1e-3)
    np.testing.assert_allclose(VarianceScaling(4.0)(other).std, 1e-3 * scaled.std, rtol=1e-12)
    in_other_units = VarianceScaling.fit(other, 1e6 + 1e-3 * y)
    np.testing.assert_allclose(in_other_units.factor, VarianceScaling.fit(prediction, y).factor, rtol=1e-5)


def test_isotonic_levels_are_those_of_scikit_learn(x64):
    prediction, y = gaussian((200,))
    weight = RNG.uniform(0.5, 2, 200)
    recalibrated = isotonic.fit(prediction, y, sample_weight=weight)(prediction)
    pit = np.asarray(prediction.cdf(y))
    order = np.argsort(pit)
    levels = np.cumsum(weight[order]) / weight.sum() * 200 / 201
    oracle = IsotonicRegression().fit(pit[order], levels, sample_weight=weight[order])
    np.testing.assert_allclose(recalibrated.cdf(y), oracle.predict(pit), rtol=1e-12)
    np.testing.assert_array_equal(recalibrated.pit(y), recalibrated.cdf(y))


def test_a_recalibrated_prediction_is_a_distribution(x64):
    held_out, y_held_out = gaussian((100,), stretch=2.0)
    mapped = isotonic.fit(held_out, y_held_out)(mixture((3,))[0])
    assert isinstance(mapped, Recalibrated)
    q = np.array([1e-3, 0.05, 0.5, 0.9, 0.999])
    quantiles = mapped.quantile(q)
    assert quantiles.shape == (5, 3)
    for level, values in zip(q, quantiles, strict=True):
        np.testing.assert_allclose(mapped.cdf(values), level, rtol=1e-9)
    lo, hi = mapped.interval([0.5, 0.9])
    np.testing.assert_allclose(hi[1], mapped.quantile(0.95), rtol=1e-12)
    # The density is the slope of the cdf, and integrates to 1.
    y = np.array([0.1, -0.4, 2.0])
    step = 1e-7
    slope = (mapped.cdf(y + step) - mapped.cdf(y - step)) / (2 * step)
    np.testing.assert_allclose(np.exp(mapped.log_prob(y)), slope, rtol=1e-5)
    grid = np.linspace(-15, 15, 200_001)
    density = np.exp(
        isotonic.fit(held_out, y_held_out)(Gaussian(jnp.zeros(200_001), jnp.zeros(200_001))).log_prob(grid)
    )
    np.testing.assert_allclose(np.trapezoid(density, grid), 1, rtol=1e-3)


def test_each_output_is_recalibrated_by_itself(x64):
    held_out, y = gaussian((150, 2))
    recalibration, new = isotonic.fit(held_out, y), gaussian((5, 2), seed=1)[0]
    both = recalibration(new)
    for i in range(2):
        one = isotonic.fit(held_out.output(i), y[:, i])(new.output(i))
        np.testing.assert_array_equal(both.output(i).quantile(0.2), one.quantile(0.2))
        np.testing.assert_allclose(both.quantile([0.1, 0.7])[..., i], one.quantile([0.1, 0.7]), rtol=1e-10)
        at = np.zeros((5, 2))
        np.testing.assert_allclose(both.log_prob(at)[:, i], one.log_prob(at[:, i]), rtol=1e-10)
    with pytest.raises(ValueError, match=r"outputs of shape \(2,\), the prediction has \(\)"):
        recalibration(gaussian((5,))[0])


def test_recalibration_calibrates():
    held_out, y_held_out = gaussian((2000,), stretch=2.0)
    new, y = gaussian((2000,), stretch=2.0, seed=1)
    before = metrics.calibration_error(new, y)
    for calibration in (isotonic.fit(held_out, y_held_out), VarianceScaling.fit(held_out, y_held_out)):
        assert metrics.calibration_error(calibration(new), y) < 0.02 < 0.1 < before


class Known(RegressorMixin, BaseEstimator):
    """Predicts the columns of x that it is told to: a way to hand MAPIE our predictions."""

    def __init__(self, column=0):
        self.column = column

    def fit(self, x, y):
        self.fitted_ = True
        return self

    def predict(self, x):
        return x[:, self.column]


def test_split_conformal_against_mapie(x64):
    (held_out, y), (new, _) = gaussian((57,)), gaussian((20,), seed=1)
    held_out, new = (d._replace(log_var=jnp.zeros_like(d.log_var)) for d in (held_out, new))
    for level in (0.5, 0.8, 0.9, 0.95):
        mapie = SplitConformalRegressor(Known().fit(None, None), confidence_level=level)
        mapie.conformalize(np.asarray(held_out.mean)[:, None], y)
        _, expected = mapie.predict_interval(np.asarray(new.mean)[:, None])
        found = SplitConformal.fit(held_out, y)(new).interval(level)
        np.testing.assert_allclose(np.stack(found, axis=1), expected[:, :, 0], rtol=1e-10)


def test_conformal_quantiles_against_mapie(x64):
    (held_out, y), (new, _) = gaussian((57,)), gaussian((20,), seed=1)
    for level in (0.5, 0.8, 0.95):
        # MAPIE takes the lower quantile, the upper one and the median of an estimator each.
        estimators = [Known(i).fit(None, None) for i in range(3)]

        def columns(dist, level=level):
            return np.stack([*dist.interval(level), dist.mean], axis=1)

        mapie = ConformalizedQuantileRegressor(estimators, confidence_level=level, prefit=True)
        mapie.conformalize(columns(held_out), y)
        _, expected = mapie.predict_interval(columns(new), symmetric_correction=True)
        found = ConformalQuantiles.fit(held_out, y)(new).interval(level)
        np.testing.assert_allclose(np.stack(found, axis=1), expected[:, :, 0], rtol=1e-10)


def members_of(models, x):
    """The predictions of linear models as a mixture of members with a std of 1."""
    means = jnp.asarray(np.stack([model.predict(x) for model in models]))
    return GaussianMixture(means, jnp.zeros_like(means))


def test_cv_plus_against_mapie(x64):
    x, new = RNG.normal(size=(60, 3)), RNG.normal(size=(15, 3))
    y = x @ [1.0, 2.0, -1.0] + RNG.normal(size=60)
    folds = list(KFold(5).split(x))
    models = [LinearRegression().fit(x[train], y[train]) for train, _ in folds]
    held_out = np.stack([np.isin(np.arange(60), test) for _, test in folds])
    conformal = JackknifePlus.fit(members_of(models, x), y, held_out)(members_of(models, new))
    for level in (0.6, 0.9):
        mapie = CrossConformalRegressor(
            LinearRegression(), confidence_level=level, method="plus", cv=KFold(5)
        )
        mapie.fit_conformalize(x, y)
        _, expected = mapie.predict_interval(new)
        np.testing.assert_allclose(np.stack(conformal.interval(level), axis=1), expected[:, :, 0], rtol=1e-10)


def intervals_by_hand(prediction_train, y, prediction_new, held_out, level):
    """Jackknife+-after-bootstrap, row by row."""
    lower, upper = [], []
    for i in range(len(y)):
        own = held_out[:, i]
        ends = []
        for dist in (prediction_train, prediction_new):
            means, stds = np.asarray(dist.means)[own], np.exp(0.5 * np.asarray(dist.log_vars)[own])
            mean = means.mean(axis=0)
            ends.append((mean, np.sqrt((stds**2).mean(axis=0) + means.var(axis=0))))
        (mean, std), (new_mean, new_std) = ends
        score = abs(y[i] - mean[i]) / std[i]
        lower.append(new_mean - score * new_std)
        upper.append(new_mean + score * new_std)
    first = round((1 - level) * (len(y) + 1) - 0.5)  # the floor
    return np.sort(lower, axis=0)[first - 1], np.sort(upper, axis=0)[len(y) - first]


def test_jackknife_plus_of_bootstrapped_members(x64, monkeypatch):
    monkeypatch.setattr("jaxreg.calibration.conformal.SORTED_AT_ONCE", 100)  # in blocks of two rows
    prediction, y = mixture((40,), members=6)
    new = mixture((11,), members=6, seed=3)[0]
    held_out = RNG.random((6, 40)) < 0.4
    held_out[0, ~held_out.any(axis=0)] = True
    calibration = JackknifePlus.fit(prediction, y, held_out)
    for level in (0.6, 0.9):
        expected = intervals_by_hand(prediction, y, new, held_out, level)
        np.testing.assert_allclose(calibration(new).interval(level), expected, rtol=1e-9)
    # In other units, and for several outputs.
    there = JackknifePlus.fit(Affine(prediction, 5.0, 3.0), 5 + 3 * y, held_out)(Affine(new, 5.0, 3.0))
    np.testing.assert_allclose(
        there.interval(0.9), 5 + 3 * np.stack(calibration(new).interval(0.9)), rtol=1e-9
    )
    two = JackknifePlus.fit(
        *(jax.tree.map(lambda a: jnp.stack([a, a], axis=-1), prediction), np.stack([y, y], axis=1)), held_out
    )(jax.tree.map(lambda a: jnp.stack([a, a], axis=-1), new))
    lower, upper = two.interval(0.9)
    np.testing.assert_allclose(upper, np.stack([calibration(new).interval(0.9)[1]] * 2, axis=1), rtol=1e-9)


CONFORMAL = {
    "split": lambda d, y: SplitConformal.fit(d, y),
    "quantiles": lambda d, y: ConformalQuantiles.fit(d, y),
    "plus": lambda d, y: JackknifePlus.fit(d, y, np.arange(2)[:, None] == (np.arange(len(y)) % 2)[None]),
}


@pytest.mark.parametrize("kind", CONFORMAL)
def test_what_a_conformal_prediction_answers(kind, x64):
    (held_out, y), (new, y_new) = mixture((60, 2), members=2), mixture((5, 2), members=2, seed=1)
    dist = CONFORMAL[kind](held_out, y)(new)
    lower, upper = dist.interval([0.5, 0.9])
    assert lower.shape == upper.shape == (2, 5, 2)
    assert (lower[1] <= lower[0]).all() and (upper[0] <= upper[1]).all()
    q = np.array([0.02, 0.25, 0.4, 0.5, 0.6, 0.75, 0.98])
    quantiles = dist.quantile(q)
    np.testing.assert_array_equal(np.stack([quantiles[1], quantiles[5]]), np.stack([lower[0], upper[0]]))
    assert quantiles.shape == (7, 5, 2) and (np.diff(quantiles, axis=0) >= 0).all()
    for name in ("mean", "std", "aleatoric", "epistemic"):
        np.testing.assert_array_equal(getattr(dist, name), getattr(new, name))
    scores = metrics.evaluate(dist, y_new, level=0.9)
    assert "crps" not in scores and "nll" not in scores and scores["coverage"].shape == (2,)
    # Each output by itself.
    one = CONFORMAL[kind](held_out.output(1), y[:, 1])(new.output(1))
    for alone in (one, dist.output(1)):
        np.testing.assert_allclose(alone.interval(0.9)[0], lower[1][:, 1], rtol=1e-12)


def binomial(inside, low, high):
    """Fails if a share of coverage between low and high is unlikely, two-sided at 1e-3."""
    n, k = inside.size, int(inside.sum())
    assert scipy.stats.binom.sf(k - 1, n, high) > 5e-4, k / n
    assert scipy.stats.binom.cdf(k, n, low) > 5e-4, k / n


@pytest.mark.parametrize("kind", ["split", "quantiles"])
@pytest.mark.parametrize("level,n", [(0.9, 19), (0.8, 30)])
def test_split_conformal_covers_what_it_promises(kind, level, n):
    # 2,000 data sets, an output each, and one new row; the model is wrong in mean and std.
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (n + 1, 2000))
    y = x + (0.2 + np.abs(x)) * rng.standard_t(3, x.shape)
    model = Gaussian.from_std(jnp.asarray(0.5 * x), jnp.full(x.shape, 0.3))
    dist = CONFORMAL[kind](jax.tree.map(lambda a: a[:n], model), y[:n])(jax.tree.map(lambda a: a[n:], model))
    lower, upper = dist.interval(level)
    binomial((lower <= y[n:]) & (y[n:] <= upper), level, level + 1 / (n + 1))


@pytest.mark.slow
def test_cv_plus_covers_what_it_promises(record_property):
    # 2,000 data sets of 40 rows, a line fitted to all folds but one; and to all rows but one.
    rng, n, level = np.random.default_rng(2), 40, 0.9
    x = rng.uniform(-1, 1, (n + 1, 2000))
    y = 1 + 2 * x + (0.2 + np.abs(x)) * rng.standard_t(3, x.shape)
    for folds in (5, n):
        fold = np.arange(n) % folds
        means = []
        for k in range(folds):
            train = np.flatnonzero(fold != k)
            slope = ((x[train] - x[train].mean(0)) * y[train]).sum(0) / (
                (x[train] - x[train].mean(0)) ** 2
            ).sum(0)
            means.append(y[train].mean(0) + slope * (x - x[train].mean(0)))
        ensemble = GaussianMixture(jnp.asarray(np.stack(means)), jnp.zeros((folds, n + 1, 2000)))
        held_out = np.arange(folds)[:, None] == fold[None]
        calibration = JackknifePlus.fit(jax.tree.map(lambda a: a[:, :n], ensemble), y[:n], held_out)
        lower, upper = calibration(jax.tree.map(lambda a: a[:, n:], ensemble)).interval(level)
        inside = (lower <= y[n:]) & (y[n:] <= upper)
        binomial(inside, 1 - 2 * (1 - level) - np.sqrt(2 / n), 1.0)
        assert abs(inside.mean() - level) < 0.02  # 0.907 and 0.902
        record_property(f"coverage with {folds} folds", float(inside.mean()))


def test_scaled_noise_leaves_the_members_means(x64):
    prediction, y = mixture((200,))
    for dist in (prediction, Affine(prediction, 1e6, 1e-3)):
        scaled = NoiseScaling(4.0)(dist)
        np.testing.assert_allclose(scaled.aleatoric, 2 * dist.aleatoric, rtol=1e-12)
        np.testing.assert_allclose(scaled.epistemic, dist.epistemic, rtol=1e-12)
        np.testing.assert_allclose(scaled.mean, dist.mean, rtol=1e-12)
    fitted = NoiseScaling.fit(prediction, y)
    measure = minimize_scalar(
        lambda log: metrics.nll(NoiseScaling(np.exp(log))(prediction), y), bounds=(-2, 4), method="bounded"
    )
    np.testing.assert_allclose(np.log(fitted.factor), measure.x, atol=1e-4)
    alone, y = gaussian((300,))
    np.testing.assert_allclose(
        NoiseScaling.fit(alone, y).factor, VarianceScaling.fit(alone, y).factor, rtol=1e-8
    )


def made_to_order(rows, members, disagreement, noise, seed=0):
    """An ensemble whose members err independently, each about the truth, and whose std is 1."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=rows)
    means = truth + disagreement * rng.normal(size=(members, rows))
    return GaussianMixture(means, np.zeros((members, rows))), truth + noise * rng.normal(size=rows)


@pytest.mark.parametrize("disagreement, noise", [(0.3, 2.0), (1.0, 1.0), (2.0, 0.5)])
def test_the_noise_that_held_out_rows_show(x64, disagreement, noise):
    members = 8
    prediction, y = made_to_order(4000, members, disagreement, noise)
    held_out = np.arange(4000) % members == np.arange(members)[:, None]
    scaling = NoiseScaling.fit_held_out(prediction, y, held_out)
    # No member has seen anything here: the ensemble's own residuals say what is right.
    right = NoiseScaling.fit(prediction, y)
    single = NoiseScaling.fit_held_out(jax.tree.map(lambda a: a[:1], prediction), y, held_out[:1])
    off, alone_off = (abs(np.log(found.factor / right.factor)) for found in (scaling, single))
    assert off < 0.2 and off < 0.3 * alone_off, (scaling.factor, single.factor, right.factor)
    believed = NoiseScaling.fit_held_out(prediction, y, held_out, prior_rows=1e9)
    np.testing.assert_allclose(believed.factor, 1, rtol=1e-3)
    np.testing.assert_allclose(np.log(single.factor), np.log(disagreement**2 + noise**2), atol=0.2)
    in_units = NoiseScaling.fit_held_out(Affine(prediction, 5.0, 1e3), 5 + 1e3 * y, held_out)
    np.testing.assert_allclose(in_units.factor, scaling.factor, rtol=1e-5)


def test_held_out_rows_of_several_outputs_and_weights(x64):
    first, y0 = made_to_order(900, 3, 0.5, 2.0)
    second, y1 = made_to_order(900, 3, 0.5, 0.7, seed=1)
    both = jax.tree.map(lambda a, b: np.stack([a, b], -1), first, second)
    held_out = np.arange(900) % 4 == np.arange(3)[:, None]  # a quarter of the rows is seen by all
    weight = np.stack([np.ones(900), np.arange(900) % 3], -1)
    factors = NoiseScaling.fit_held_out(both, np.stack([y0, y1], -1), held_out, sample_weight=weight).factor
    alone = NoiseScaling.fit_held_out(first, y0, held_out).factor
    weighted = NoiseScaling.fit_held_out(second, y1, held_out, sample_weight=weight[:, 1]).factor
    np.testing.assert_allclose(factors, [alone, weighted], rtol=1e-6)
    kept = held_out.any(axis=0)
    some = jax.tree.map(lambda a: a[:, kept], first)
    np.testing.assert_allclose(
        NoiseScaling.fit_held_out(some, y0[kept], held_out[:, kept]).factor, alone, rtol=1e-6
    )
    with pytest.raises(ValueError, match="names no row"):
        NoiseScaling.fit_held_out(first, y0, np.zeros((3, 900), bool))
    with pytest.raises(ValueError, match=r"held_out must be booleans of shape \(3, 900\)"):
        NoiseScaling.fit_held_out(first, y0, held_out.T)


def test_too_few_rows_for_the_level():
    for n, level, needed in [(18, 0.95, 19), (1, 0.9, 9), (98, 0.99, 99), (1, 0.6, 2)]:
        held_out, y = gaussian((n,))
        for kind in ("split", "quantiles"):
            with pytest.raises(ValueError, match=f"level {level:g} needs at least {needed} .*there are {n}"):
                CONFORMAL[kind](held_out, y)(held_out).interval(level)
        assert rank(level, needed) <= needed
        enough, y = gaussian((needed,))
        assert np.isfinite(SplitConformal.fit(enough, y)(enough).interval(level)).all()


@pytest.mark.parametrize("level,needed", [(0.9998, 4999), (0.9999, 9999), (0.99999, 99999), (0.5, 1)])
def test_the_rows_that_a_level_needs(level, needed):
    assert rank(level, needed) == needed
    if needed > 1:
        with pytest.raises(ValueError, match=f"needs at least {needed} held-out rows"):
            rank(level, needed - 1)
    for wrong in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="level must lie strictly between 0 and 1"):
            rank(wrong, 10)


@pytest.mark.parametrize("name", ["scaling", "split", "quantiles", "isotonic"])
def test_what_cannot_calibrate(name):
    fit = {"scaling": VarianceScaling.fit, "isotonic": isotonic.fit, **CONFORMAL}[name]
    good, y = gaussian((30,))
    for dist, values, message in [
        (good, y[:, None], r"y \(30, 1\), mean \(30,\)"),
        (good, np.where(np.arange(30) == 3, np.nan, y), "missing or infinite values in y: 1"),
        (jax.tree.map(lambda a: a[:0], good), y[:0], "y has no rows"),
        (good._replace(log_var=good.log_var.at[2].set(-jnp.inf)), y, "std must be positive"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(dist, values)
    if name in ("split", "quantiles"):
        with pytest.raises(ValueError, match=r"for outputs of shape \(\), the prediction has \(2,\)"):
            fit(good, y)(gaussian((30, 2))[0])
    if name == "scaling":
        with pytest.raises(ValueError, match="every prediction equals its y"):
            fit(good, good.mean)
        with pytest.raises(ValueError, match="score must be one of 'nll', 'crps', got 'rmse'"):
            fit(good, y, score="rmse")
        with pytest.raises(ValueError, match=r"for outputs of shape \(30,\), the prediction has \(\)"):
            VarianceScaling(np.ones(30))(good)


def test_what_is_no_held_out_mask():
    ensemble, y = mixture((30,), members=2)
    good = np.arange(2)[:, None] == (np.arange(30) % 2)[None]
    for mask, message in [
        (good.T, r"booleans of shape \(2, 30\), members and rows, got bool of shape \(30, 2\)"),
        (good.astype(int), "got int64"),
        (good & (np.arange(30) != 7)[None], "row 7 was held out by no member"),
    ]:
        with pytest.raises(ValueError, match=message):
            JackknifePlus.fit(ensemble, y, mask)
    with pytest.raises(ValueError, match="the members of a GaussianMixture .* are needed, got a Gaussian"):
        JackknifePlus.fit(gaussian((30,))[0], y, good)
    weighted = ensemble._replace(weights=np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="held out only by members whose weight in the mixture is 0"):
        JackknifePlus.fit(weighted, y, good)
    with pytest.raises(ValueError, match="held out only by members whose weight in the mixture is 0"):
        JackknifePlus.fit(ensemble, y, good)(weighted)
    with pytest.raises(ValueError, match="fitted to 2 members, the prediction has 3"):
        JackknifePlus.fit(ensemble, y, good)(mixture((4,), members=3)[0])
