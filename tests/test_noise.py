"""Noise of any shape: mixtures whose components have weights and members, families, maps and bounds."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
import scoringrules
from scipy.integrate import quad, simpson

from jaxreg import (
    Affine,
    Clipped,
    DeepEnsembleRegressor,
    FamilyRegressor,
    Fitted,
    Gaussian,
    GaussianMixture,
    Laplace,
    LogNormal,
    MeanVarRegressor,
    Mixture,
    MixtureRegressor,
    Scaler,
    StudentT,
    Transformed,
    fit,
    fit_ensemble,
    isotonic,
    make_trainer,
    metrics,
    predict,
    predict_ensemble,
    recipe,
    register_family,
    report,
    sgd,
)
from jaxreg.calibration import JackknifePlus, NoiseScaling, SplitConformal, VarianceScaling
from jaxreg.distributions import FAMILIES, LOG, LOGIT, SOFTPLUS, Family, families, yeo_johnson
from jaxreg.distributions.family import crps_by_quadrature
from jaxreg.model import export, model_file
from jaxreg.networks.models import with_components
from jaxreg.recipe import SCALES, Choice, TrialScore
from jaxreg.training_data import TrainingData

LEVELS = np.array([1e-6, 0.01, 0.3, 0.5, 0.8, 0.999])
ROWS, MEMBERS, COMPONENTS = 7, 3, 2


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def parts(shape=(ROWS,), seed=0, of_rows=True):
    """Means, log variances, weights and members of a mixture."""
    rng, count = np.random.default_rng(seed), MEMBERS * COMPONENTS
    means, log_vars = rng.normal(size=(count, *shape)), rng.normal(-1, 1, (count, *shape))
    weights = rng.dirichlet(np.ones(count), shape if of_rows else ()).astype(np.float64)
    return means, log_vars, np.moveaxis(weights, -1, 0), np.repeat(np.arange(MEMBERS), COMPONENTS)


WEIGHTS = {
    "of components": lambda: GaussianMixture(*parts(of_rows=False)),
    "of rows": lambda: GaussianMixture(*parts()),
    "of outputs": lambda: GaussianMixture(*parts((ROWS, 2))),
    "of rows, for two outputs": lambda: parts((ROWS, 2)) and _two_outputs(),
}


def _two_outputs():
    means, log_vars, _, members = parts((ROWS, 2))
    return GaussianMixture(means, log_vars, parts()[2], members)


def full(dist):
    """Weights with every axis, that sum to 1."""
    weights = dist.weights.reshape(dist.weights.shape + (1,) * (dist.means.ndim - dist.weights.ndim))
    return np.broadcast_to(weights / weights.sum(axis=0), dist.means.shape)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_mixture_with_weights_is_the_sum_of_its_components(name):
    dist, weights = WEIGHTS[name](), full(WEIGHTS[name]())
    normals = st.norm(dist.means, np.exp(0.5 * dist.log_vars))
    y = np.random.default_rng(1).normal(size=dist.means.shape[1:])
    np.testing.assert_allclose(dist.cdf(y), (weights * normals.cdf(y)).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(dist.log_prob(y), np.log((weights * normals.pdf(y)).sum(axis=0)), atol=1e-12)
    oracle = scoringrules.crps_mixnorm(
        y, *(np.moveaxis(a, 0, -1) for a in (dist.means, normals.std(), weights))
    )
    np.testing.assert_allclose(dist.crps(y), oracle, rtol=1e-9)
    quantiles = dist.quantile(LEVELS)
    np.testing.assert_allclose(
        [dist.cdf(each) for each in quantiles], LEVELS.reshape(-1, *(1,) * y.ndim) + 0 * y, rtol=1e-9
    )
    mean = (weights * dist.means).sum(axis=0)
    variance = (weights * (normals.var() + (dist.means - mean) ** 2)).sum(axis=0)
    np.testing.assert_allclose(dist.mean, mean, atol=1e-14)
    np.testing.assert_allclose(dist.std**2, variance, rtol=1e-12)
    draws = np.asarray(dist.sample(0, 4000))
    assert abs(draws.mean(axis=0) - mean).max() < 5 * np.sqrt(variance.max() / 4000)
    assert st.kstest(np.asarray(jax.vmap(dist.cdf)(draws))[:, 0].ravel(), "uniform").pvalue > 1e-4
    if y.ndim == 2:
        np.testing.assert_allclose(dist.output(1).cdf(y[:, 1]), dist.cdf(y)[:, 1], rtol=1e-12)
    np.testing.assert_allclose(dist[2:5].std, np.asarray(dist.std)[2:5], rtol=1e-12)
    np.testing.assert_allclose(dist[3].mean, np.asarray(dist.mean)[3], rtol=1e-12)


def test_components_of_a_member_are_its_noise():
    humps = GaussianMixture(np.array([[-1.0], [1.0]]), np.full((2, 1), -20.0))
    assert humps.epistemic[0] == pytest.approx(1) and humps.aleatoric[0] == pytest.approx(0, abs=1e-4)
    noise = humps._replace(members=np.array([0, 0]))
    assert noise.epistemic[0] == 0 and noise.aleatoric[0] == pytest.approx(1) == noise.std[0]
    dist = GaussianMixture(*parts())
    weights, of_member = full(dist), dist.members
    shares = np.stack([weights[of_member == i].sum(axis=0) for i in range(MEMBERS)])
    means = np.stack([(weights * dist.means)[of_member == i].sum(axis=0) for i in range(MEMBERS)]) / shares
    np.testing.assert_allclose(dist.member_means(), means, rtol=1e-12)
    epistemic = (shares * (means - np.asarray(dist.mean)) ** 2).sum(axis=0)
    np.testing.assert_allclose(dist.epistemic**2, epistemic, rtol=1e-12)
    np.testing.assert_allclose(dist.aleatoric**2 + epistemic, dist.std**2, rtol=1e-12)
    own = dist._replace(members=np.arange(len(dist.means)))
    alone = dist._replace(members=None)
    for name in ("epistemic", "aleatoric", "std", "mean"):
        np.testing.assert_allclose(getattr(own, name), getattr(alone, name), rtol=1e-12)


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_noise_is_scaled_about_each_members_own_mean(factor):
    dist = GaussianMixture(*parts())
    scaled = NoiseScaling(factor)(dist)
    np.testing.assert_allclose(scaled.member_means(), dist.member_means(), rtol=1e-12)
    np.testing.assert_allclose(scaled.epistemic, dist.epistemic, rtol=1e-12)
    np.testing.assert_allclose(scaled.aleatoric, np.sqrt(factor) * dist.aleatoric, rtol=1e-12)
    whole = VarianceScaling(factor)(dist)
    np.testing.assert_allclose(whole.mean, dist.mean, atol=1e-14)
    np.testing.assert_allclose(whole.std, np.sqrt(factor) * dist.std, rtol=1e-12)


def test_one_component_a_member_is_scaled_as_a_gaussian():
    means, log_vars, *_ = parts((200,))
    rng, count = np.random.default_rng(5), len(means)
    y, held_out = rng.normal(size=200) * 2, rng.integers(count, size=200) == np.arange(count)[:, None]
    plain = NoiseScaling.fit_held_out(GaussianMixture(means, log_vars), y, held_out)
    told = GaussianMixture(means, log_vars, np.ones(means.shape), np.arange(count))
    assert NoiseScaling.fit_held_out(told, y, held_out).factor == pytest.approx(plain.factor, rel=1e-12)


def test_held_out_rows_are_scored_by_those_who_held_them_out():
    """Humps of noise that is twice as wide as the members say; those that saw a row say nonsense of it."""
    rng, n = np.random.default_rng(0), 4000
    y = rng.choice([-1.0, 1.0], n) * 3 + 0.2 * rng.normal(size=n)
    held_out = rng.integers(MEMBERS, size=n) == np.arange(MEMBERS)[:, None]
    means = np.where(held_out[:, None], np.array([-3.0, 3.0])[None, :, None], 0.0).reshape(-1, n)
    dist = GaussianMixture(means, np.full(means.shape, np.log(0.01)), members=np.repeat(np.arange(3), 2))
    alone = dist.by_members(held_out)
    np.testing.assert_allclose(alone.mean, 0, atol=1e-12)
    found = NoiseScaling.fit_held_out(dist, y, held_out).factor
    best = NoiseScaling.fit(alone, y, score="crps").factor
    assert found == pytest.approx(best, rel=1e-3) and 1 < found < 1.1


def test_jackknife_takes_members_with_components():
    dist = GaussianMixture(*parts((60,)))
    held_out = np.arange(60) % MEMBERS == np.arange(MEMBERS)[:, None]
    y = np.asarray(dist.mean) + np.random.default_rng(2).normal(size=60)
    lower, upper = JackknifePlus.fit(dist, y, held_out)(dist).interval(0.9)
    assert ((lower <= y) & (y <= upper)).mean() > 0.85


@pytest.mark.parametrize(
    ("members", "weights", "message"),
    [
        ([0, 1], None, "members must be a whole number from 0 to 5 for each of 6 components"),
        ([0.5] * 6, None, "members must be a whole number"),
        ([0, 0, 1, 1, 2, 6], None, "members must be a whole number"),
        (None, np.ones((6, 3)), r"weights has shape \(6, 3\), expected \(6,\)"),
        (None, np.zeros((6, ROWS)), "weights must be finite, not negative and not all 0"),
        (None, np.full((6, ROWS), -1.0), "weights must be finite, not negative"),
    ],
)
def test_members_and_weights_that_none_has(members, weights, message):
    means, log_vars, *_ = parts()
    with pytest.raises(ValueError, match=message):
        GaussianMixture(means, log_vars, weights, members if members is None else np.array(members)).mean  # noqa: B018 - raises


def family(name, seed=0):
    """A distribution of ours and SciPy's, and what scoringrules says its CRPS is."""
    rng = np.random.default_rng(seed)
    loc, log_scale, df = rng.normal(size=ROWS), rng.normal(-0.5, 0.5, ROWS), rng.uniform(2.5, 30, ROWS)
    scale = np.exp(log_scale)
    return {
        "StudentT": (
            StudentT(loc, log_scale, np.log(df)),
            st.t(df, loc, scale),
            lambda y: scoringrules.crps_t(y, df, loc, scale),
        ),
        "Laplace": (
            Laplace(loc, log_scale),
            st.laplace(loc, scale),
            lambda y: scoringrules.crps_laplace(y, loc, scale),
        ),
        "LogNormal": (
            LogNormal(loc, log_scale),
            st.lognorm(scale, scale=np.exp(loc)),
            lambda y: scoringrules.crps_lognormal(y, loc, scale),
        ),
    }[name]


SLOW = pytest.mark.slow  # what compiles for seconds: loops within loops
MOST_SLOW = ["Laplace", *(pytest.param(name, marks=SLOW) for name in ("StudentT", "LogNormal"))]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_scipys(name):
    dist, oracle, crps = family(name)
    y = oracle.ppf(np.random.default_rng(1).uniform(0.001, 0.999, ROWS))
    np.testing.assert_allclose(dist.log_prob(y), oracle.logpdf(y), atol=1e-9)
    np.testing.assert_allclose(dist.cdf(y), oracle.cdf(y), rtol=1e-9)
    np.testing.assert_allclose(dist.sf(y), oracle.sf(y), rtol=1e-9)
    np.testing.assert_allclose(dist.mean, oracle.mean(), rtol=1e-9)
    np.testing.assert_allclose(dist.std, oracle.std(), rtol=1e-9)
    np.testing.assert_allclose(dist.crps(y), crps(y), rtol=1e-7, atol=1e-9)
    assert dist[2].mean == dist.mean[2] and repr(dist).startswith(f"{name}(lo") and "\n" not in repr(dist)


@pytest.mark.parametrize("name", MOST_SLOW)
def test_quantiles_draws_and_quadratures_of_a_family(name, request):
    if name == "StudentT" and not request.config.getoption("--all-seeds"):
        pytest.skip("--all-seeds")  # a cdf without a formula, whose roots compile for 20 seconds
    dist, oracle, _ = family(name)
    y = oracle.ppf(np.random.default_rng(1).uniform(0.001, 0.999, ROWS))
    np.testing.assert_allclose(dist.quantile(LEVELS), oracle.ppf(LEVELS[:, None]), rtol=1e-9)
    if name != "StudentT":  # its cdf within two loops compiles for 10 seconds, and its CRPS is scoringrules'
        np.testing.assert_allclose(crps_by_quadrature(dist, y), dist.crps(y), atol=1e-8)
    draws = np.asarray(dist.sample(0, 500))
    assert st.kstest(oracle.cdf(draws).ravel(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("name", ["Laplace", pytest.param("LogNormal", marks=SLOW)])
def test_an_ensemble_of_any_family(name):
    three, oracles = zip(*(family(name, seed)[:2] for seed in range(3)), strict=True)
    dist = Mixture(jax.tree.map(lambda *a: np.stack(a), *three))
    y = oracles[0].ppf(0.7)
    np.testing.assert_allclose(dist.cdf(y), np.mean([each.cdf(y) for each in oracles], axis=0), rtol=1e-9)
    density = np.mean([each.pdf(y) for each in oracles], axis=0)
    np.testing.assert_allclose(dist.log_prob(y), np.log(density), atol=1e-9)
    for q in LEVELS:
        np.testing.assert_allclose(dist.cdf(dist.quantile(q)), q, rtol=1e-9)
    means = np.stack([each.mean() for each in oracles])
    np.testing.assert_allclose(dist.epistemic, means.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(
        dist.aleatoric, np.sqrt(np.mean([each.var() for each in oracles], axis=0)), rtol=1e-9
    )
    for i in (0, 3):

        def cdf(x, i=i):
            return np.mean([each.cdf(x)[i] for each in oracles])

        q = np.array([1e-10, 1e-4, 0.01, 0.25, 0.75, 0.99, 1 - 1e-4, 1 - 1e-10])
        cuts = sorted([y[i], *dist.quantile(q)[:, i].tolist(), *means[:, i]])
        whole = sum(
            quad(lambda x, i=i: (cdf(x) - (x >= y[i])) ** 2, a, b, epsabs=1e-11, limit=200)[0]
            for a, b in zip(cuts[:-1], cuts[1:], strict=True)
        )
        assert dist.crps(y)[i] == pytest.approx(whole, abs=1e-8)
    half = dist.by_members(np.array([True, False, False]))
    np.testing.assert_allclose(half.cdf(y), oracles[0].cdf(y), rtol=1e-9)
    np.testing.assert_allclose(dist[1:3].std, np.asarray(dist.std)[1:3], rtol=1e-9)


MAPS = {each.name: each for each in (LOG, LOGIT, SOFTPLUS, *map(yeo_johnson, (0.0, 0.5, 1.0, 1.7)))}


@pytest.mark.parametrize("name", [name if name == "log" else pytest.param(name, marks=SLOW) for name in MAPS])
def test_a_monotone_map(name):
    rng = np.random.default_rng(3)
    inner = Gaussian(rng.normal(size=4), rng.normal(-1, 0.5, 4))
    dist = Transformed(inner, MAPS[name])
    z = np.asarray(inner.mean) + rng.normal(size=4)
    y = MAPS[name].inverse(jnp.asarray(z))
    np.testing.assert_allclose(MAPS[name].forward(y), z, atol=1e-12)
    np.testing.assert_allclose(dist.cdf(y), inner.cdf(z), rtol=1e-9)
    np.testing.assert_allclose(dist.cdf(y) + dist.sf(y), 1, rtol=1e-12)
    slope = jax.vmap(jax.grad(MAPS[name].forward))(y)
    np.testing.assert_allclose(dist.log_prob(y), inner.log_prob(z) + jnp.log(slope), atol=1e-10)
    np.testing.assert_allclose(dist.quantile(LEVELS), MAPS[name].inverse(inner.quantile(LEVELS)), rtol=1e-12)
    at = np.linspace(-10, 10, 20_001)
    values = MAPS[name].inverse(
        jnp.asarray(np.asarray(inner.mean)[:, None] + np.asarray(inner.std)[:, None] * at)
    )
    mean, square = (simpson(np.asarray(values) ** p * st.norm.pdf(at), x=at) for p in (1, 2))
    np.testing.assert_allclose(dist.mean, mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(dist.std, np.sqrt(square - mean**2), rtol=1e-6)
    outside = jnp.full(4, MAPS[name].lower - 1)
    if np.isfinite(MAPS[name].lower):
        assert (dist.cdf(outside) == 0).all() and (dist.log_prob(outside) == -np.inf).all()


def test_powers_without_an_inverse():
    with pytest.raises(ValueError, match="power must lie between 0 and 2, got 3"):
        yeo_johnson(3)


@pytest.mark.parametrize(
    "bounds",
    [
        pytest.param((0.0, 4.0), marks=SLOW),
        pytest.param((0.5, np.inf), marks=SLOW),
        (-np.inf, 1.0),
        pytest.param((50.0, 60.0), marks=SLOW),
    ],
    ids=str,
)
def test_nothing_leaves_the_bounds(bounds):
    inner = Affine(GaussianMixture(*parts()), 1.0, 2.0)
    dist, (lower, upper) = Clipped(inner, *bounds), bounds
    draws = dist.clip(inner.sample(1, 50_000))
    for values in (*dist.interval(0.9), dist.quantile(LEVELS), dist.mean, dist.sample(0, 100)):
        assert (values >= lower).all() and (values <= upper).all()
    np.testing.assert_allclose(dist.mean, draws.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(dist.std, draws.std(axis=0), atol=0.05)
    np.testing.assert_allclose(np.hypot(dist.aleatoric, dist.epistemic), dist.std, rtol=1e-9)
    y = np.random.default_rng(4).uniform(-1, 6, ROWS)
    weights, mixture = full(inner.dist), inner.dist
    stds = np.exp(0.5 * mixture.log_vars)
    for i in range(0, ROWS, 3):

        def cdf(x, i=i):
            return weights[:, i] @ st.norm.cdf((x - 1) / 2, mixture.means[:, i], stds[:, i])

        ends = np.clip([-40, 40], lower, upper)
        cuts = sorted({*ends, *np.clip([y[i], *dist.quantile(np.arange(1, 10) / 10)[:, i]], *ends)})
        whole = sum(
            quad(lambda x, i=i: (cdf(x) - (x >= y[i])) ** 2, a, b, epsabs=1e-11)[0]
            for a, b in zip(cuts[:-1], cuts[1:], strict=True)
        )
        expected = whole + abs(y[i] - np.clip(y[i], lower, upper))
        assert dist.crps(y)[i] == pytest.approx(expected, abs=1e-8)
    inside = np.clip(y, lower + 0.1, upper - 0.1)
    np.testing.assert_array_equal(dist.log_prob(inside), inner.log_prob(inside))
    if np.isfinite(lower):
        at = np.full(ROWS, lower)
        np.testing.assert_allclose(dist.log_prob(at), np.log(dist.cdf(at)), atol=1e-9)
        assert (dist.log_prob(at - 1) == -np.inf).all() and (dist.cdf(at - 1) == 0).all()
    np.testing.assert_allclose(dist[2:4].mean, dist.mean[2:4], rtol=1e-12)


def test_bounds_of_what_has_no_components():
    with pytest.raises(ValueError, match="a Gaussian or a GaussianMixture is needed, got a Laplace"):
        Clipped(Affine(Laplace(np.zeros(2), np.zeros(2)), 0.0, 1.0), 0.0).mean  # noqa: B018 - raises


def rows(n=300, seed=0):
    """Log-normal noise around a line, positive."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 2))
    return x, np.exp(0.5 * x[:, 0] + 0.7 * rng.normal(size=n))


class LogisticFields(NamedTuple):
    """A location and the logarithm of a scale."""

    loc: jax.Array
    log_scale: jax.Array


class Logistic(Family, LogisticFields):
    """What a user may write: a density and a cdf, and how noise is scaled."""

    __slots__ = ()

    def _z(self, y):
        return (y - self.loc) * jnp.exp(-self.log_scale)

    def cdf(self, y):
        return jax.nn.sigmoid(self._z(y))

    def log_prob(self, y):
        z = self._z(y)
        return -z - 2 * jax.nn.softplus(-z) - self.log_scale

    @property
    def mean(self):
        return self.loc

    @property
    def std(self):
        return jnp.exp(self.log_scale) * np.pi / np.sqrt(3)

    def scale_noise(self, log_factor):
        return self._replace(log_scale=self.log_scale + 0.5 * log_factor)


@pytest.mark.slow
def test_a_family_of_ones_own_goes_all_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", FAMILIES)
    monkeypatch.delitem(FAMILIES, "Logistic", raising=False)
    with pytest.raises(ValueError, match="no family is registered as 'Logistic', there are StudentT"):
        FamilyRegressor(family="Logistic")
    assert register_family(Logistic) is Logistic is register_family(Logistic)
    x, y = (a.astype(np.float32) for a in rows())
    scalers = Scaler.fit(x), Scaler.fit(y)
    data = tuple(scaler.transform(a).astype(np.float32) for scaler, a in zip(scalers, (x, y), strict=True))
    model = FamilyRegressor(family="Logistic", hidden=(8,))
    trainer = make_trainer(model, sgd(1e-2))
    states, history = fit_ensemble(0, trainer, data, members=3, epochs=20, batch_size=50)
    assert (history.loss[:, -1] < history.loss[:, 0]).all()
    dist = predict_ensemble(model, states.params, data[0])
    assert isinstance(dist, Mixture) and isinstance(dist.dist, Logistic)
    locs, scales = (np.asarray(part, np.float64) for part in (dist.dist.loc, np.exp(dist.dist.log_scale)))
    expected = np.log(st.logistic(locs, scales).pdf(data[1]).mean(axis=0))
    np.testing.assert_allclose(dist.log_prob(data[1]), expected, atol=1e-4)
    scaling = NoiseScaling.fit(dist, data[1])
    fitted = Fitted(model, states.params, *scalers, members=3, calibration=scaling)
    prediction = fitted.predict(x)
    for calibrated in (
        isotonic.fit(prediction, y)(prediction),
        SplitConformal.fit(prediction, y)(prediction),
    ):
        assert 0.85 < metrics.coverage(calibrated, y, 0.9) < 0.96
    scores = metrics.evaluate(prediction, y)
    report.write(tmp_path / "r.html", [report.Section("y", prediction, y, scores)], title="t", about="a")
    assert "CRPS" in (tmp_path / "r.html").read_text()
    model_file.save(tmp_path / "m", fitted)
    again = model_file.load(tmp_path / "m").predict(x)
    np.testing.assert_allclose(again.quantile(0.9), prediction.quantile(0.9), rtol=1e-6)
    FAMILIES.pop("Logistic")
    with pytest.raises(
        ValueError, match="the family 'Logistic', which isn't registered: call .*register_family"
    ):
        model_file.load(tmp_path / "m")


def test_what_no_family_is():
    with pytest.raises(ValueError, match="int lacks _fields, row_axis, log_prob"):
        register_family(int)
    with pytest.raises(ValueError, match="another family is registered as Laplace"):
        register_family(type("Laplace", (StudentT,), {}))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_of_a_family_learns_it(name):
    x, y = rows(200)
    model = FamilyRegressor(family=name, hidden=(4,))
    trainer = make_trainer(model, sgd(1e-2))
    state, history = fit(0, trainer, (x, y), epochs=30)
    assert history.loss[-1] < history.loss[0]
    dist = predict(model, state.params, x)
    assert type(dist) is FAMILIES[name]
    np.testing.assert_allclose(
        -np.mean(dist.log_prob(y)), np.mean(trainer.nll(state.params, (x, y))), rtol=1e-9
    )


class NotADistribution(NamedTuple):
    """Fields alone."""

    mean: jax.Array
    spread: jax.Array


class Returns:
    """A model that returns what it is told."""

    def __init__(self, made_of):
        self.made_of = made_of

    def init(self, key, x):
        return {"params": {"a": jnp.zeros(())}}

    def apply(self, variables, x):
        return self.made_of(x[:, 0] + variables["params"]["a"])


@pytest.mark.parametrize(
    ("made_of", "loss", "message"),
    [
        (lambda a: NotADistribution(a, a[:1]), None, "returned a NotADistribution, which has no log_prob"),
        (lambda a: (a, a, a), None, r"must return a distribution, or \(mean, log_var\) of one shape"),
        (
            lambda a: Laplace(a, a),
            lambda y, loc, scale, df: y,
            r"distribution gives it \(y, loc, log_scale\)",
        ),
    ],
)
def test_what_a_model_cannot_return(made_of, loss, message):
    trainer = make_trainer(Returns(made_of), sgd(1e-2), loss)
    with pytest.raises((ValueError, TypeError), match=message):
        trainer.init(0, np.ones((3, 1)))


def test_a_users_own_pair_is_a_gaussian():
    trainer = make_trainer(Returns(lambda a: NotADistribution(a, a)), sgd(1e-2))
    state = trainer.init(0, np.ones((3, 1)))
    assert trainer.nll(state.params, (np.ones((3, 1)), np.ones(3))).shape == (3,)


def test_nan_stays_nan():
    one = Laplace(np.array([np.nan, 0.0]), np.zeros(2))
    for values in (one.quantile(0.9), *one.interval(0.5), one.sample(0, 2)[0]):
        np.testing.assert_array_equal(np.isnan(values), [True, False])
    mapped = LogNormal(np.zeros(2), np.zeros(2))
    for ask in (mapped.log_prob, mapped.cdf, mapped.sf):
        np.testing.assert_array_equal(np.isnan(ask(np.array([np.nan, 1.0]))), [True, False])


def test_far_from_a_bound_its_share_has_a_logarithm():
    dist = GaussianMixture(np.zeros((2, 1)), np.zeros((2, 1)))
    ends = Clipped(Affine(dist, 0.0, 1.0), -40.0, 40.0)
    for end in (-40.0, 40.0):
        assert ends.log_prob([end])[0] == pytest.approx(st.norm.logsf(40), rel=1e-9)


def test_members_need_not_stand_together():
    means, log_vars, *_ = parts((200,))
    rng, order = np.random.default_rng(5), np.array([0, 2, 4, 1, 3, 5])
    y, held_out = rng.normal(size=200) * 2, rng.integers(MEMBERS, size=200) == np.arange(MEMBERS)[:, None]
    members = np.repeat(np.arange(MEMBERS), COMPONENTS)
    together = NoiseScaling.fit_held_out(GaussianMixture(means, log_vars, None, members), y, held_out)
    apart = GaussianMixture(means[order], log_vars[order], None, members[order])
    assert NoiseScaling.fit_held_out(apart, y, held_out).factor == pytest.approx(together.factor, rel=1e-9)


def test_members_that_cannot_be_moved():
    dist = Mixture(LogNormal(np.zeros((2, 4)), np.zeros((2, 4))))
    with pytest.raises(ValueError, match="a LogNormal can't be moved: use NoiseScaling.fit"):
        NoiseScaling.fit_held_out(dist, np.ones(4), np.eye(2, 4, dtype=bool))
    with pytest.raises(ValueError, match="can be scaled, not that of a Mixture"):
        VarianceScaling.fit(dist, np.ones(4))
    with pytest.raises(ValueError, match="weights must be finite, not negative"):
        dist._replace(weights=np.array([-1.0, 3.0])).quantile(0.5)


def test_targets_of_another_shape_than_the_fields():
    trainer = make_trainer(MixtureRegressor(hidden=(4,)), sgd(1e-2))
    state = trainer.init(0, np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"shapes differ: y \(3, 1\), mean \(3,\)"):
        trainer.step(state, (np.ones((3, 1)), np.ones((3, 1))))
    with pytest.raises(ValueError, match="components takes positive whole numbers, got 0"):
        MixtureRegressor(components=0)


@pytest.mark.parametrize("outputs", [None, 2])
def test_components_that_weigh_nothing_can_be_left_out(outputs):
    model = MixtureRegressor(components=3, hidden=(5,), outputs=outputs)
    x = np.random.default_rng(0).normal(size=(6, 2))
    params = model.init(jax.random.key(0), x)
    for kept in (1, 2):
        width = kept * (outputs or 1)
        params["params"]["weight_head"]["bias"] = params["params"]["weight_head"]["bias"].at[width:].set(-1e9)
        smaller, own = with_components(model, params, kept)
        assert isinstance(smaller, MeanVarRegressor if kept == 1 else MixtureRegressor)
        whole, part = predict(model, params, x), predict(smaller, own, x)
        y = x[:, 0] if outputs is None else x
        np.testing.assert_allclose(part.log_prob(y), whole.log_prob(y), rtol=1e-12)
        params = jax.tree.map(lambda leaf: leaf, model.init(jax.random.key(0), x))


SMALL = {"members": 3, "hidden": (16,), "frequencies": 2, "epochs": 40, "random_state": 0}


@pytest.fixture(scope="module")
def skewed():
    with jax.enable_x64(False):
        return DeepEnsembleRegressor(**SMALL, bounds="auto").fit(*rows(400))


@pytest.mark.slow
def test_the_shape_of_the_noise_is_found(skewed):
    x, y = rows(2000, seed=1)
    with jax.enable_x64(False):
        plain = DeepEnsembleRegressor(**SMALL | {"noise": 1, "frequency_scale": 0.25})
        plain = plain.fit(*rows(400))
        ours, theirs = skewed.predict_dist(x), plain.predict_dist(x)
    assert (skewed.components_ == 4).all() and (plain.components_ == 1).all()
    assert metrics.nll(ours, y) < metrics.nll(theirs, y) - 0.05 and metrics.crps(ours, y) < metrics.crps(
        theirs, y
    )
    lower, upper = ours.interval(0.9)
    assert 0.02 < (y < lower).mean() < 0.09 and 0.02 < (y > upper).mean() < 0.09


def test_members_differ_in_what_unseen_rows_leave_open(monkeypatch):
    rng = np.random.default_rng(0)
    settings = DeepEnsembleRegressor(members=40, frequency_scale="auto", noise="auto")
    empty = np.zeros((1000, 1))
    data = TrainingData(
        (empty,), (empty,), 1000, 900, 900, {}, (Scaler.fit([[0.0], [1.0]]),) * 2, (None,) * 4
    )

    def taken(better, rounded=False):
        noise = {
            choice: rng.normal(size=(300, 2))
            for choice in itertools.starmap(Choice, itertools.product(SCALES, (1, 4)))
        }
        weight = rng.uniform(size=(300, 2)) < 0.9

        def scores(key, choices, *_):
            nlls = [None if rounded else noise[each] - better(each) for each in choices]
            return [TrialScore(nll, np.ones((300, 2)), weight) for nll in nlls]

        monkeypatch.setattr(recipe, "_scores_of", scores)
        return set(recipe.try_choices(jax.random.key(0), settings, data, ()))

    assert taken(lambda choice: choice.scale + choice.components) == {(1.0, 4)}
    assert taken(lambda choice: -choice.scale - choice.components) == {(0.0, 1)}
    components = {choice.components for choice in taken(lambda choice: 0.06 * (choice.components == 4))}
    assert components == {1, 4}
    taken(lambda choice: 0.0 * choice.scale, rounded=True)  # by the CRPS alone


@pytest.mark.parametrize("shape", [(50,), (50, 2)])
def test_the_score_of_a_trial(shape):
    rng = np.random.default_rng(0)
    dist, y = Gaussian(np.zeros(shape), np.zeros(shape)), rng.normal(size=shape)
    known, rows = rng.uniform(size=shape) < 0.8, rng.exponential(size=50)
    score = TrialScore(-np.asarray(dist.log_prob(y)), np.asarray(dist.crps(y)), known)
    weight = rows.reshape(-1, *(1,) * (len(shape) - 1)) * known
    nll, crps = (metric(dist, y, sample_weight=weight) for metric in (metrics.nll, metrics.crps))
    np.testing.assert_allclose(score.mean(rows), np.mean(nll + np.log(crps)), rtol=1e-6)
    np.testing.assert_allclose(score._replace(nll=None).mean(rows), np.mean(np.log(crps)), rtol=1e-6)
    without = score._replace(weight=known & (np.arange(shape[-1]) > 0))
    assert np.isfinite(without.mean(rows))  # an output that no unseen row has


@pytest.mark.slow
def test_bounds_are_kept_in_files_and_exports(tmp_path):
    x, given = rows(50, seed=2)[0], {"noise": 4, "frequency_scale": 0.25, "bounds": "auto"}
    with jax.enable_x64(False):
        skewed = DeepEnsembleRegressor(**SMALL | given).fit(*rows(400))
    assert skewed.bounds_ == (0, np.inf) and isinstance(skewed.predict_dist(x), Clipped)
    skewed.save(tmp_path / "m")
    again = DeepEnsembleRegressor.load(tmp_path / "m")
    assert again.bounds_ == skewed.bounds_ and again.bounds == "auto"
    np.testing.assert_array_equal(again.components_, skewed.components_)
    dist = skewed.predict_dist(x)
    np.testing.assert_array_equal(again.predict_dist(x).quantile(0.1), dist.quantile(0.1))
    export.save(tmp_path / "e", skewed.fitted_)
    found = export.load(tmp_path / "e")(x, 0.9)
    for ours, theirs in zip(found, (dist.mean, dist.std, *dist.interval(0.9)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-5)
    assert (found[2] >= 0).all()


@pytest.mark.parametrize(
    ("bounds", "shift", "found"),
    [
        ("auto", 0.0, (0, 1)),
        ("auto", 2.0, (0, np.inf)),
        ("auto", -0.5, None),
        ((None, 3), 0.0, (-np.inf, 3)),
        (None, 0.0, None),
    ],
)
def test_bounds_of_targets(bounds, shift, found):
    x, y = rows(40)
    small = SMALL | {"members": 1, "epochs": 2, "noise": 1, "frequency_scale": 1.0, "validation_fraction": 0}
    model = DeepEnsembleRegressor(**small, bounds=bounds).fit(x, (y - y.min()) / np.ptp(y) + shift)
    assert model.bounds_ == found


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bounds": (1, None)}, r"the target goes from 0\.\d+ to \d+.*, outside the bounds \(1, None\)"),
        ({"bounds": (2, 1)}, r"bounds must have the lower one first, got \(2, 1\)"),
        ({"bounds": "some"}, "bounds must be None, 'auto' or two numbers"),
        ({"bounds": (0, np.nan)}, "bounds must be None, 'auto' or two numbers"),
        ({"noise": 0}, "noise must be at least 1, got 0; 'auto' may stand here too"),
        ({"noise": "skewed"}, "noise must be a whole number"),
    ],
)
def test_settings_of_noise_that_none_can_have(settings, message):
    with pytest.raises(ValueError, match=message):
        DeepEnsembleRegressor(**SMALL | settings).fit(*rows(40))


@pytest.mark.slow
def test_a_target_of_two_values():
    x, y = rows(200)
    with jax.enable_x64(False):
        model = DeepEnsembleRegressor(**SMALL | {"noise": 4, "frequency_scale": 0.25}).fit(x, (y > 1) * 1.0)
        dist = model.predict_dist(x)
    assert np.isfinite(dist.std).all() and (dist.std > 0).all()
    assert np.exp(model.fitted_.predict(x).log_prob((y > 1) * 1.0)).max() < 1e3


@pytest.mark.parametrize(
    ("y", "floor"),
    [
        (np.random.default_rng(0).normal(size=400), 1e-3),
        (np.random.default_rng(0).poisson(30, 400) / 30**0.5, 2.0**-5),  # a unit is 0.18, rounding 0.053
        (np.arange(400.0) % 2, 0.125),
        (np.zeros(1), 1e-3),
        (np.random.default_rng(0).normal(size=1), 1e-3),
        (np.stack([np.arange(400.0) % 2, np.random.default_rng(0).normal(size=400)], 1), 1e-3),
    ],
)
def test_the_floor_under_a_component_is_what_rounding_does(y, floor):
    assert recipe.smallest_std(y) == floor
    if len(y) > 1:  # absent targets, which are 0, say nothing
        weight = np.arange(2 * len(y)) < len(y)
        assert recipe.smallest_std(np.concatenate([y, 0 * y + 0.01]), weight * 1.0) == floor
