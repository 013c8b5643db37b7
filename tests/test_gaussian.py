import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxreg import Affine, Gaussian

SHAPES = [(7,), (7, 3)]
METHODS = ["log_prob", "cdf", "log_cdf", "crps", "pit"]


def make(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    mean, log_var, y = rng.normal(size=shape), rng.uniform(-6, 6, shape), rng.normal(size=shape)
    return mean.astype(dtype), log_var.astype(dtype), y.astype(dtype)


def crps_by_quadrature(mean, std, y):
    grid = np.linspace(min(mean - 12 * std, y), max(mean + 12 * std, y), 400_001)
    cdf = scipy.stats.norm.cdf(grid, mean, std)
    return np.trapezoid((cdf - (grid >= y)) ** 2, grid)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype,tolerance", [("float64", 1e-10), ("float32", 1e-5)])
def test_methods_against_scipy(shape, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        mean, log_var, y = make(shape, dtype)
        dist = Gaussian(jnp.asarray(mean), jnp.asarray(log_var))
        mean, log_var, y = (a.astype(np.float64) for a in (mean, log_var, y))
        oracle = scipy.stats.norm(mean, np.exp(0.5 * log_var))
        np.testing.assert_allclose(dist.std, oracle.std(), rtol=tolerance)
        np.testing.assert_allclose(dist.log_prob(y), oracle.logpdf(y), rtol=tolerance * 10)
        np.testing.assert_allclose(dist.cdf(y), oracle.cdf(y), rtol=tolerance * 100, atol=tolerance)
        np.testing.assert_allclose(dist.log_cdf(y), oracle.logcdf(y), rtol=tolerance * 100, atol=tolerance)
        q = np.array([[1e-6, 0.3], [0.5, 1 - 1e-5]])
        expected = oracle.ppf(q.reshape(q.shape + (1,) * len(shape)))
        assert dist.quantile(q).shape == (2, 2, *shape)
        scale = np.abs(expected - mean) + np.abs(mean)
        q_error = 1e-10 if dtype == "float64" else 1e-3  # 1 - 1e-5 has three digits in float32
        assert np.max(np.abs(dist.quantile(q) - expected) / scale) < q_error
        lo, hi = dist.interval(0.9)
        np.testing.assert_allclose(lo, oracle.ppf(0.05), rtol=tolerance, atol=tolerance * 10)
        np.testing.assert_allclose(hi, oracle.ppf(0.95), rtol=tolerance, atol=tolerance * 10)
        assert dist.mean.dtype == lo.dtype == dist.log_prob(y.astype(dtype)).dtype == dtype


def test_crps_against_quadrature(x64):
    mean, log_var, y = make((12,), seed=1)
    expected = [crps_by_quadrature(*a) for a in zip(mean, np.exp(0.5 * log_var), y, strict=True)]
    np.testing.assert_allclose(Gaussian(mean, log_var).crps(y), expected, rtol=1e-3)


def test_far_apart_values_keep_their_precision():
    # Neither the residual nor the std has a float32 square here.
    dist = Gaussian(jnp.array([1e30, 1e-30]), jnp.array([np.log(1e25) * 2, np.log(1e-28) * 2], jnp.float32))
    y = jnp.array([1.00001e30, 2e-30])
    expected = scipy.stats.norm(np.asarray(dist.mean, float), [1e25, 1e-28]).logpdf(np.asarray(y, float))
    np.testing.assert_allclose(dist.log_prob(y), expected, rtol=1e-2)
    assert np.isfinite(dist.crps(y)).all()


def test_samples_follow_the_distribution():
    mean, log_var, _ = make((3, 2), np.float32)
    dist = Gaussian(jnp.asarray(mean), jnp.asarray(log_var))
    samples = np.asarray(dist.sample(jax.random.key(0), (20_000,)), np.float64)
    assert samples.shape == (20_000, 3, 2)
    error = np.asarray(dist.std) / np.sqrt(len(samples))
    assert np.all(np.abs(samples.mean(0) - mean) < 4 * error)
    assert np.all(np.abs(samples.std(0) - dist.std) < 4 * error)


@pytest.mark.parametrize("method", METHODS)
def test_y_of_another_shape_is_named(method):
    dist = Gaussian(jnp.zeros(4), jnp.zeros(4))
    for given in (dist, Affine(dist, 1.0, 2.0)):
        if not hasattr(given, method):
            continue
        with pytest.raises(ValueError, match=r"y \(4, 1\), mean \(4,\)"):
            getattr(given, method)(np.zeros((4, 1), np.float32))


@pytest.mark.parametrize("level", [0, 1, -0.5, 95, np.nan])
def test_levels_and_quantiles_outside_0_1(level):
    dist = Gaussian(jnp.zeros(2), jnp.zeros(2))
    for given in (dist, Affine(dist, 0.0, 1.0)):
        with pytest.raises(ValueError, match="level must lie strictly between 0 and 1"):
            given.interval(level)
        with pytest.raises(ValueError, match="q must lie strictly between 0 and 1"):
            given.quantile([0.5, level])


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


def test_affine_works_in_float64_on_float32_models():
    dist = Affine(Gaussian(jnp.zeros(1), jnp.zeros(1)), loc=1.7e9, scale=1.0)
    assert dist.mean.dtype == np.float64
    np.testing.assert_allclose(dist.interval(0.95)[1] - 1.7e9, 1.959964, atol=1e-5)
    np.testing.assert_allclose(dist.cdf(np.array([1.7e9 + 1])), scipy.stats.norm.cdf(1), rtol=1e-6)
