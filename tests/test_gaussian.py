import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.integrate
import scipy.stats
import scoringrules
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from jaxreg import Affine, Gaussian, GaussianMixture

SHAPES = [(7,), (7, 3)]
METHODS = ["log_prob", "cdf", "log_cdf", "crps", "pit"]
ENDS = [("float64", 1e-9), ("float32", 1e-4)]


def make(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    mean, log_var, y = rng.normal(size=shape), rng.uniform(-6, 6, shape), rng.normal(size=shape)
    return mean.astype(dtype), log_var.astype(dtype), y.astype(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype,tolerance", [("float64", 1e-10), ("float32", 1e-5)])
def test_methods_against_scipy(shape, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        mean, log_var, y = make(shape, dtype)
        dist = Gaussian(jnp.asarray(mean), jnp.asarray(log_var))
        mean, log_var, y = (a.astype(np.float64) for a in (mean, log_var, y))
        oracle = scipy.stats.norm(mean, np.exp(0.5 * log_var))
        np.testing.assert_allclose(dist.std, oracle.std(), rtol=tolerance)
        np.testing.assert_allclose(dist.log_prob(y), oracle.logpdf(y), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(dist.cdf(y), oracle.cdf(y), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(dist.log_cdf(y), oracle.logcdf(y), rtol=tolerance, atol=tolerance)
        q = np.array([[1e-6, 0.3], [0.5, 1 - 1e-5]])
        expected = oracle.ppf(q.reshape(q.shape + (1,) * len(shape)))
        assert dist.quantile(q).shape == (2, 2, *shape)
        scale = np.abs(expected - mean) + np.abs(mean)
        assert np.max(np.abs(dist.quantile(q) - expected) / scale) < tolerance
        assert dist.interval([0.5, 0.9])[0].shape == (2, *shape)
        upper = dist.interval([0.5, 0.9])[1]
        np.testing.assert_allclose(upper, dist.quantile([0.75, 0.95]), rtol=tolerance, atol=tolerance)
        lo, hi = dist.interval(0.9)
        crps = scoringrules.crps_normal(y, mean, oracle.std())
        np.testing.assert_allclose(dist.crps(y), crps, rtol=tolerance, atol=tolerance * oracle.std().max())
        np.testing.assert_allclose(lo, oracle.ppf(0.05), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(hi, oracle.ppf(0.95), rtol=tolerance, atol=tolerance)
        assert dist.mean.dtype == lo.dtype == dist.log_prob(y.astype(dtype)).dtype == dtype


def test_far_apart_values_keep_their_precision():
    # Neither the residual nor the std has a float32 square here.
    dist = Gaussian(jnp.array([1e30, 1e-30]), jnp.array([np.log(1e25) * 2, np.log(1e-28) * 2], jnp.float32))
    y = jnp.array([1.00001e30, 2e-30])
    expected = scipy.stats.norm(np.asarray(dist.mean, float), [1e25, 1e-28]).logpdf(np.asarray(y, float))
    np.testing.assert_allclose(dist.log_prob(y), expected, rtol=1e-2)
    assert np.isfinite(dist.crps(y)).all()
    # Nor has the residual in stds.
    far, y = Gaussian.from_std(np.zeros(2, np.float32), np.float32([1e-30, 1e-20])), np.float32([1e10, 1e30])
    np.testing.assert_allclose(far.crps(y), y, rtol=1e-6)
    slopes = jax.grad(lambda dist: dist.crps(y).sum())(far)
    np.testing.assert_allclose(slopes.mean, -1, rtol=1e-6)
    assert np.isfinite(slopes.log_var).all()


def make_mixture(shape, members, *, spread=1.0, widths=3.0, weighted=False, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    means = (spread * rng.normal(size=(members, *shape))).astype(dtype)
    log_vars = (widths * rng.uniform(-1, 1, size=(members, *shape))).astype(dtype)
    weights = rng.dirichlet(np.ones(members)).astype(dtype) if weighted else None
    return GaussianMixture(*map(jnp.asarray, (means, log_vars)), None if weights is None else weights)


def parts(dist):
    """Means, standard deviations and shares as SciPy takes them, float64."""
    means, log_vars = (np.asarray(a, np.float64) for a in (dist.means, dist.log_vars))
    shares = np.full(len(means), 1 / len(means)) if dist.weights is None else np.asarray(dist.weights, float)
    return means, np.exp(0.5 * log_vars), shares / shares.sum()


@pytest.mark.parametrize("shape,weighted", [((7,), True), ((7, 3), False)])
def test_mixture_against_sums(shape, weighted, x64):
    dist = make_mixture(shape, 5, weighted=weighted)
    means, stds, shares = parts(dist)
    y = np.random.default_rng(1).normal(size=shape) * 3
    oracle = scipy.stats.norm(means, stds)
    mean = np.tensordot(shares, means, 1)
    aleatoric, epistemic = np.tensordot(shares, stds**2, 1), np.tensordot(shares, (means - mean) ** 2, 1)
    density, cdf = np.tensordot(shares, oracle.pdf(y), 1), np.tensordot(shares, oracle.cdf(y), 1)
    crps = (
        scoringrules.crps_mixnorm(
            y, *(np.moveaxis(a, 0, -1) for a in (means, stds, np.broadcast_to(shares[:, None], (5, 7)))[:3])
        )
        if len(shape) == 1
        else None
    )
    for found, expected in [
        (dist.mean, mean),
        (dist.aleatoric, np.sqrt(aleatoric)),
        (dist.epistemic, np.sqrt(epistemic)),
        (dist.std, np.sqrt(aleatoric + epistemic)),
        (dist.moment_matched().mean, mean),
        (dist.moment_matched().std, np.sqrt(aleatoric + epistemic)),
        (dist.log_prob(y), np.log(density)),
        (dist.cdf(y), cdf),
        (dist.pit(y), cdf),
        (dist.log_cdf(y), np.log(cdf)),
    ]:
        assert found.shape == shape
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    if crps is not None:
        np.testing.assert_allclose(dist.crps(y), crps, rtol=1e-9)
    for i in [(0, 0), (6, 2)] if len(shape) == 2 else [(0,), (6,)]:
        own = (slice(None), *i)

        def squared(x, step, own=own):
            return (shares @ scipy.stats.norm.cdf(x, means[own], stds[own]) - step) ** 2

        below = scipy.integrate.quad(squared, -60, y[i], args=(0,), epsabs=1e-11, limit=500)[0]
        above = scipy.integrate.quad(squared, y[i], 60, args=(1,), epsabs=1e-11, limit=500)[0]
        np.testing.assert_allclose(dist.crps(y)[i], below + above, rtol=1e-9)


def root(means, stds, shares, q):
    """The quantile by SciPy, searched on the side of the smaller tail."""
    tail, sign = (q, 1) if q <= 0.5 else (1 - q, -1)
    ends = means + sign * stds * ndtri(tail)
    over = [shares @ ndtr(sign * (x - means) / stds) - tail for x in (ends.min(), ends.max())]
    if over[0] * over[1] >= 0:  # all members agree to the last digit
        return ends.min()
    return brentq(
        lambda x: shares @ ndtr(sign * (x - means) / stds) - tail,
        ends.min(), ends.max(), xtol=1e-300, rtol=1e-15, maxiter=10_000,
    )  # fmt: skip


@pytest.mark.parametrize("dtype,bound", ENDS)
@pytest.mark.parametrize("members", [2, 16, 64])
def test_quantiles_of_a_mixture_against_brentq(members, dtype, bound):
    levels = np.array([1e-6, 1e-3, 0.025, 0.3, 0.5, 0.500001, 0.75, 0.975, 1 - 1e-4, 1 - 1e-6])
    with jax.enable_x64(dtype == "float64"):
        cases = [
            make_mixture((4,), members, spread=spread, widths=widths, weighted=weighted, seed=i, dtype=dtype)
            for i, (spread, widths, weighted) in enumerate(
                itertools.product([1e-6, 1e-3, 1.0, 1e3, 1e6], [0.0, 3.0, 14.0], [False, True])
            )
        ]
        if members == 2:  # the one has a share that the other's tail hides, then one is a spike
            cases[0] = cases[0]._replace(weights=np.array([1.0, 1e-7], dtype))
        for dist in cases:
            found, std = np.asarray(dist.quantile(levels), np.float64), np.asarray(dist.std, np.float64)
            means, stds, shares = parts(dist)
            for (k, q), i in itertools.product(enumerate(levels), range(4)):
                own = means[:, i], stds[:, i]
                off = abs(found[k, i] - root(*own, shares, q)) / std[i]
                tail, sign = (q, 1) if q <= 0.5 else (1 - q, -1)
                beyond = shares @ ndtr(sign * (found[k, i] - own[0]) / own[1])
                assert min(off, abs(beyond - tail) / tail) < bound, (q, dist)


def test_intervals_of_a_mixture(x64):
    dist = make_mixture((5, 2), 3)
    for level, ends in [(0.9, [0.05, 0.95]), (1 - 2e-9, [1e-9, 1 - 1e-9])]:
        lo, hi = dist.interval(level)
        np.testing.assert_allclose(np.stack([lo, hi]), dist.quantile(ends), rtol=1e-6)
        np.testing.assert_allclose(dist.cdf(lo), ends[0], rtol=1e-7)
    lo, hi = dist.interval([0.5, 0.9])
    assert lo.shape == hi.shape == (2, 5, 2) and (lo[1] < lo[0]).all() and (hi[0] < hi[1]).all()


def test_a_mixture_of_equal_members_is_a_gaussian(x64):
    mean, log_var, y = make((6,))
    one = Gaussian(jnp.asarray(mean), jnp.asarray(log_var))
    same = GaussianMixture(
        jnp.stack([one.mean] * 3), jnp.stack([one.log_var] * 3), jnp.array([0.0, 2.0, 1.0])
    )
    for method in METHODS:
        np.testing.assert_allclose(getattr(same, method)(y), getattr(one, method)(y), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(same.quantile([0.01, 0.6]), one.quantile([0.01, 0.6]), rtol=1e-12)
    for name in ("mean", "std", "aleatoric", "epistemic"):
        np.testing.assert_allclose(getattr(same, name), getattr(one, name), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(one.moment_matched().mean, one.mean)


def test_a_mixture_keeps_its_precision_far_from_1():
    # No square of these, and no sum of such squares, is a float32.
    means, stds = jnp.array([[1e30, 1e-30], [3e30, 3e-30]]), jnp.array([[1e25, 1e-28], [2e25, 1e-28]])
    dist = GaussianMixture.from_std(means, stds)
    np.testing.assert_allclose(dist.epistemic, [1e30, 1e-30], rtol=1e-5)
    np.testing.assert_allclose(dist.std, np.hypot([1e30, 1e-30], [1.58e25, 1e-28]), rtol=1e-3)
    assert np.isfinite(dist.crps(dist.mean)).all() and np.isfinite(dist.log_prob(means[0])).all()
    np.testing.assert_allclose(dist.cdf(dist.quantile(0.25)), 0.25, rtol=1e-3)


@pytest.mark.parametrize("kind", ["Gaussian", "GaussianMixture"])
def test_samples_follow_the_distribution(kind):
    dist = make_mixture((3, 2), 4, widths=1.0, weighted=True, dtype=np.float32)
    if kind == "Gaussian":
        dist = Gaussian(dist.means[0], dist.log_vars[0])
    n = 200_000
    samples = np.asarray(dist.sample(jax.random.key(0), (n,)), np.float64)
    assert samples.shape == (n, 3, 2) and dist.sample(jax.random.key(0)).shape == (3, 2)
    assert dist.sample(jax.random.key(0), (2, 5)).shape == (2, 5, 3, 2)
    std = samples.std(0)
    kurtosis = ((samples - samples.mean(0)) ** 4).mean(0) / std**4
    assert np.all(np.abs(samples.mean(0) - dist.mean) < 4 * std / np.sqrt(n))
    assert np.all(np.abs(std**2 - dist.std**2) < 4 * std**2 * np.sqrt((kurtosis - 1) / n))
    np.testing.assert_allclose(dist.aleatoric**2 + dist.epistemic**2, dist.std**2, rtol=1e-5)
    for q in (0.01, 0.3, 0.9):
        share = (samples <= np.asarray(dist.quantile(q))).mean(0)
        assert np.all(np.abs(share - q) < 4 * np.sqrt(q * (1 - q) / n))
    if kind == "GaussianMixture":  # what members say of a draw, and how far they disagree
        member = np.random.default_rng(0).choice(4, size=n, p=np.asarray(dist.weights, float))
        means = np.asarray(dist.means, np.float64)[member]
        variances = np.exp(np.asarray(dist.log_vars, np.float64))[member]
        error = means.std(0) ** 2 * np.sqrt(3 / n)
        assert np.all(np.abs(means.std(0) ** 2 - dist.epistemic**2) < 4 * error)
        assert np.all(np.abs(variances.mean(0) - dist.aleatoric**2) < 4 * variances.std(0) / np.sqrt(n))


@pytest.mark.parametrize("method", METHODS)
def test_y_of_another_shape_is_named(method):
    dist, mixture = (
        Gaussian(jnp.zeros(4), jnp.zeros(4)),
        GaussianMixture(jnp.zeros((2, 4)), jnp.zeros((2, 4))),
    )
    for given in (dist, mixture, Affine(dist, 1.0, 2.0), Affine(mixture, 1.0, 2.0)):
        with pytest.raises(ValueError, match=r"y \(4, 1\), mean \(4,\)"):
            getattr(given, method)(np.zeros((4, 1), np.float32))


@pytest.mark.parametrize("level", [0, 1, -0.5, 95, np.nan])
def test_levels_and_quantiles_outside_0_1(level):
    dist = Gaussian(jnp.zeros(2), jnp.zeros(2))
    for given in (dist, Affine(dist, 0.0, 1.0), GaussianMixture(jnp.zeros((3, 2)), jnp.zeros((3, 2)))):
        with pytest.raises(ValueError, match="level must lie strictly between 0 and 1"):
            given.interval(level)
        with pytest.raises(ValueError, match="q must lie strictly between 0 and 1"):
            given.quantile([0.5, level])


def test_y_may_be_a_list_or_a_series():
    mixture = GaussianMixture.from_std(np.zeros((2, 3)), np.ones((2, 3)))
    for dist in (Gaussian.from_std(np.zeros(3), np.ones(3)), mixture):
        for method in METHODS:
            expected = getattr(dist, method)(jnp.array([0.0, 1.0, 2.0]))
            for y in ([0, 1, 2], pd.Series([0.0, 1.0, 2.0])):
                np.testing.assert_allclose(getattr(dist, method)(y), expected, rtol=1e-6)


def test_whole_numbers_and_mixed_precision_are_floats(x64):
    whole = Gaussian.from_std(np.array([1, 2]), np.array([1, 2]))
    assert whole.mean.dtype == whole.quantile(0.3).dtype == np.float64
    given = Gaussian(np.array([1, 2]), np.array([0, 1]))
    np.testing.assert_allclose(given.interval(0.9)[1], scipy.stats.norm.ppf(0.95, [1, 2], np.exp([0, 0.5])))
    mixed = GaussianMixture(np.zeros((2, 3), np.float32), np.zeros((2, 3)), np.array([1, 3]))
    np.testing.assert_allclose(mixed.quantile(0.9), scipy.stats.norm.ppf(0.9), rtol=1e-12)
    assert mixed.std.dtype == np.float64 and mixed.crps(np.zeros(3)).dtype == np.float64


@pytest.mark.parametrize("members", [22, 26, 40])
def test_a_cdf_is_at_most_1(members):
    dist = GaussianMixture(jnp.zeros((members, 1)), jnp.zeros((members, 1)))
    assert dist.cdf(np.array([50.0])) <= 1 and dist.log_cdf(np.array([50.0])) <= 0


def test_levels_that_float32_takes_for_0():
    for dist in (Gaussian(jnp.zeros(1), jnp.zeros(1)), GaussianMixture(jnp.zeros((2, 1)), jnp.zeros((2, 1)))):
        with pytest.raises(ValueError, match="q leaves a tail of 1e-39, which float32 takes for 0"):
            dist.quantile(1e-39)
        np.testing.assert_allclose(dist.quantile(1e-30), scipy.stats.norm.ppf(1e-30), rtol=1e-4)
        np.testing.assert_allclose(dist.interval(1 - 1e-15)[1], scipy.stats.norm.isf(5e-16), rtol=1e-3)


def test_what_is_no_mixture():
    means, log_vars = jnp.zeros((2, 4)), jnp.zeros((2, 4))
    for dist, message in [
        (GaussianMixture(means, log_vars[:, :3]), r"means \(2, 4\), log_vars \(2, 3\)"),
        (GaussianMixture(means, log_vars, jnp.ones(4)), r"weights has shape \(4,\), expected \(2,\)"),
        (GaussianMixture(means[:0], log_vars[:0]), "at least 1 component"),
    ]:
        for use in (lambda d: d.mean, lambda d: d.cdf(jnp.zeros(4)), lambda d: d.quantile(0.5)):
            with pytest.raises(ValueError, match=message):
                use(dist)
    for wrong in (0.0, -1.0, np.nan, np.inf):
        stds = np.array([[1.0, wrong]])
        with pytest.raises(ValueError, match=f"std must be positive and finite, 1 of 2 values.*{wrong:g}"):
            Gaussian.from_std(np.zeros(2), stds[0])
        with pytest.raises(ValueError, match="stds must be positive and finite"):
            GaussianMixture.from_std(np.zeros((1, 2)), stds)
    for weights in ([-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="weights must be finite, not negative and not all 0"):
            GaussianMixture.from_std(np.zeros((2, 1)), np.ones((2, 1)), np.array(weights))
        given = GaussianMixture(jnp.zeros((2, 1)), jnp.zeros((2, 1)), np.array(weights))
        for use in (lambda d: d.std, lambda d: d.quantile(0.5), lambda d: d.cdf([0.0])):
            with pytest.raises(ValueError, match="weights must be finite, not negative and not all 0"):
                use(given)
    with pytest.raises(ValueError, match="eta_2 must be negative, its largest value is 0"):
        Gaussian.from_natural(np.zeros(2), np.array([-1.0, 0.0]))
    assert GaussianMixture(means[:, :0], log_vars[:, :0]).quantile(0.5).shape == (0,)


@pytest.mark.parametrize("shape", SHAPES)
def test_affine_is_the_distribution_in_other_units(shape, x64):
    mean, log_var, z = make(shape)
    loc = np.linspace(1e9, 2e9, shape[-1]) if len(shape) == 2 else 1.7e9
    scale = np.linspace(0.5, 2, shape[-1]) if len(shape) == 2 else 0.25
    dist = Affine(Gaussian(jnp.asarray(mean), jnp.asarray(log_var)), loc, scale)
    y = loc + scale * z
    oracle = scipy.stats.norm(loc + scale * mean, scale * np.exp(0.5 * log_var))
    np.testing.assert_allclose(dist.mean, oracle.mean(), rtol=1e-15)
    np.testing.assert_allclose(dist.std, oracle.std(), rtol=1e-12)
    np.testing.assert_allclose(dist.log_prob(y), oracle.logpdf(y), rtol=1e-4)
    np.testing.assert_allclose(dist.cdf(y), oracle.cdf(y), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(dist.quantile([0.1, 0.9])[1], oracle.ppf(0.9), rtol=1e-14)
    np.testing.assert_allclose(dist.interval(0.8)[0], oracle.ppf(0.1), rtol=1e-14)
    np.testing.assert_allclose(dist.crps(y), scale * np.asarray(dist.dist.crps(z)), rtol=1e-4)
    assert dist.sample(jax.random.key(0), (5,)).shape == (5, *shape)
    np.testing.assert_array_equal(dist.pit(y), dist.cdf(y))
    np.testing.assert_allclose(dist.log_cdf(y), oracle.logcdf(y), rtol=1e-4)


def test_affine_of_a_mixture(x64):
    mixture = make_mixture((4, 2), 3)
    loc, scale = np.array([1e3, -5.0]), np.array([10.0, 0.1])
    dist = Affine(mixture, loc, scale)
    means, stds, shares = parts(mixture)
    there = GaussianMixture(loc + scale * means, 2 * np.log(scale * stds))
    y = np.asarray(there.mean) + 0.3
    for name in ("mean", "std", "aleatoric", "epistemic"):
        np.testing.assert_allclose(getattr(dist, name), getattr(there, name), rtol=1e-9)
    for method in METHODS:
        np.testing.assert_allclose(getattr(dist, method)(y), getattr(there, method)(y), rtol=1e-9)
    np.testing.assert_allclose(dist.quantile([0.1, 0.9]), there.quantile([0.1, 0.9]), rtol=1e-12)
    np.testing.assert_allclose(dist.interval(0.5)[1], there.interval(0.5)[1], rtol=1e-12)
    matched = dist.moment_matched()
    np.testing.assert_allclose(matched.std, dist.std, rtol=1e-12)
    assert isinstance(matched, Affine) and isinstance(matched.dist, Gaussian)
    for whole in (dist, matched, mixture):
        one = whole.output(1)
        np.testing.assert_allclose(one.std, whole.std[:, 1], rtol=1e-12)
        np.testing.assert_allclose(one.quantile(0.1), whole.quantile(0.1)[:, 1], rtol=1e-9)
    np.testing.assert_allclose(
        Affine(mixture, 1.0, 2.0).output(0).mean, 1 + 2 * mixture.mean[:, 0], rtol=1e-12
    )


def test_affine_works_in_float64_on_float32_models():
    dist = Affine(Gaussian(jnp.zeros(1), jnp.zeros(1)), loc=1.7e9, scale=1.0)
    assert dist.mean.dtype == np.float64
    np.testing.assert_allclose(dist.interval(0.95)[1] - 1.7e9, 1.959964, atol=1e-5)
    np.testing.assert_allclose(dist.cdf(np.array([1.7e9 + 1])), scipy.stats.norm.cdf(1), rtol=1e-6)


@pytest.mark.parametrize("members", [None, 3])
def test_a_number_of_draws_and_a_seed(members):
    mean = jnp.zeros((2,) if members is None else (members, 2))
    dist = Gaussian(mean, mean) if members is None else GaussianMixture(mean, mean)
    for one in (dist, Affine(dist, 1.0, 2.0)):
        draws = one.sample(jax.random.key(3), (5,))
        np.testing.assert_array_equal(one.sample(3, 5), draws)
