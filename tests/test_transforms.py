"""jit, vmap and grad go through the core."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxreg import (
    Gaussian,
    GaussianMixture,
    MeanOnlyRegressor,
    MeanVarRegressor,
    MixtureRegressor,
    make_trainer,
    predict,
    run_epochs,
    sgd,
)

MODELS = {
    "MeanVarRegressor": MeanVarRegressor(hidden=(8,)),
    "MeanOnlyRegressor": MeanOnlyRegressor(hidden=(8,)),
    "two outputs": MeanVarRegressor(hidden=(8,), outputs=2),
    "mixtures": MixtureRegressor(hidden=(8,), components=2, outputs=2),
}
KEYS = jax.random.split(jax.random.key(0), 3)


@pytest.fixture
def rows(x64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10, 2))
    return {None: (x, x[:, 0] + rng.normal(size=10)), 2: (x, x + rng.normal(size=(10, 2)))}


def equal(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), a, b)


@pytest.mark.parametrize(
    "name,batch_size",
    [
        ("MeanVarRegressor", None),
        ("MeanVarRegressor", 4),
        ("MeanVarRegressor", 5),
        ("MeanOnlyRegressor", 5),
        ("two outputs", None),
        ("two outputs", 4),
        ("mixtures", 4),
    ],
)
def test_vmap_of_run_epochs_is_a_loop(rows, name, batch_size):
    model = MODELS[name]
    data = rows[model.outputs]
    trainer = make_trainer(model, sgd(1e-2))

    def run(key):
        return run_epochs(key, trainer, trainer.init(key, data[0]), data, epochs=3, batch_size=batch_size)

    alone = jax.jit(run)
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *(alone(key) for key in KEYS))
    equal(jax.jit(jax.vmap(run))(KEYS), stacked)


def test_vmap_over_numbers_is_a_sweep(rows):
    data, rates = rows[None], jnp.array([1e-3, 1e-2, 5e-2])

    def run(rate):
        trainer = make_trainer(MODELS["MeanVarRegressor"], sgd(rate, 0.9, 1e-3))
        state = trainer.init(KEYS[0], data[0])
        return run_epochs(KEYS[1], trainer, state, data, epochs=3, batch_size=4)[1]

    alone = jax.jit(run)
    equal(jax.jit(jax.vmap(run))(rates), jnp.stack([alone(rate) for rate in rates]))


def test_gradient_through_a_whole_run(rows):
    data = rows[None]

    @jax.jit
    def last_loss(rate):
        trainer = make_trainer(MODELS["MeanVarRegressor"], sgd(rate, 0.9))
        state = trainer.init(KEYS[0], data[0])
        return run_epochs(KEYS[1], trainer, state, data, epochs=4, batch_size=5)[1][-1]

    step = 1e-7
    numeric = (last_loss(1e-2 + step) - last_loss(1e-2 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(last_loss)(1e-2), numeric, rtol=1e-5)
    np.testing.assert_allclose(jax.jacfwd(last_loss)(1e-2), numeric, rtol=1e-5)


def test_predict_under_transforms(rows):
    model, (x, _) = MODELS["MeanVarRegressor"], rows[None]
    params = jax.vmap(model.init, in_axes=(0, None))(KEYS, x)
    many = jax.vmap(predict, in_axes=(None, 0, None))(model, params, jnp.asarray(x))
    one = predict(model, jax.tree.map(lambda a: a[1], params), x)
    equal(jax.tree.map(lambda a: a[1], many), one)
    equal(jax.jit(predict, static_argnums=0)(model, jax.tree.map(lambda a: a[1], params), x), one)


def everything(dist, y):
    """All that a distribution answers; one program holds it."""
    named = {name: getattr(dist, name)(y) for name in ("log_prob", "cdf", "log_cdf", "crps", "pit")}
    named |= {name: getattr(dist, name) for name in ("mean", "std", "aleatoric", "epistemic")}
    quantiles = dist.quantile(jnp.array([0.1, 0.7])), dist.interval(0.9), dist.moment_matched()
    return named, quantiles


WEIGHTS = jnp.array([1.0, 2.0, 0.5])
DISTRIBUTIONS = {
    "Gaussian": (Gaussian, (), 0),
    "GaussianMixture": (lambda means, log_vars: GaussianMixture(means, log_vars, WEIGHTS), (3,), 1),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions(x64, name):
    build, members, axis = DISTRIBUTIONS[name]
    rng = np.random.default_rng(0)
    mean, log_var = (jnp.asarray(a) for a in rng.normal(size=(2, *members, 4, 5)))
    y = jnp.asarray(rng.normal(size=(4, 5)))

    def of(mean, log_var, y):
        return everything(build(mean, log_var), y)

    whole = jax.jit(of)(mean, log_var, y)  # the values themselves are test_gaussian's
    mapped = jax.jit(jax.vmap(of, in_axes=(axis, axis, 0)))(mean, log_var, y)
    quantiles = mapped[1][0].swapaxes(0, 1)  # their own axis comes first in the whole
    equal((mapped[0], (quantiles, *mapped[1][1:])), whole)
    check_grads(jax.jit(of), (mean, log_var, y), order=1, modes=["rev"], rtol=1e-4)
    noise = jax.jit(lambda *a: build(*a).sample(jax.random.key(0), (3,)))
    check_grads(noise, (mean, log_var), order=1, modes=["rev"], rtol=1e-4)


def test_a_quantile_moves_with_its_level_and_the_shares(x64):
    means, log_vars = jnp.array([[-1.0], [2.0]]), jnp.array([[0.0], [1.0]])

    def quantile(q, weights):
        return GaussianMixture(means, log_vars, weights).quantile(q)

    for q in (0.2, 0.8):
        check_grads(quantile, (jnp.array(q), jnp.array([0.4, 0.6])), order=1, modes=["fwd"], rtol=1e-5)
    density = jnp.exp(GaussianMixture(means, log_vars).log_prob(quantile(0.2, None)))
    np.testing.assert_allclose(jax.grad(lambda q: quantile(q, None)[0])(0.2), 1 / density[0], rtol=1e-10)


def test_gradients_stay_finite_where_a_mixture_is_flat_or_its_members_agree():
    @jax.jit
    @jax.grad
    def slopes(dist):
        at_0 = dist.log_prob(jnp.zeros(1)) + dist.log_cdf(jnp.zeros(1))
        return (dist.quantile(0.5) + dist.std + dist.epistemic + jnp.where(jnp.isfinite(at_0), at_0, 0))[0]

    zero = jnp.zeros((2, 1))
    for means, weights in [
        ([-1e6, 1e6], [1, 1]),
        ([-1e30, 1e30], [1, 1]),
        ([1, 1], [1, 1]),
        ([0, 1], [1, 0]),
    ]:
        dist = GaussianMixture(jnp.array(means, jnp.float32)[:, None], zero, jnp.array(weights, jnp.float32))
        for leaf in jax.tree.leaves(slopes(dist)):
            assert np.isfinite(leaf).all(), (means, weights)
