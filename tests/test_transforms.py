"""jit, vmap and grad go through the core."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxreg import Gaussian, MeanOnlyRegressor, MeanVarRegressor, make_trainer, predict, run_epochs, sgd

MODELS = {
    "MeanVarRegressor": MeanVarRegressor(hidden=(8,)),
    "MeanOnlyRegressor": MeanOnlyRegressor(hidden=(8,)),
    "two outputs": MeanVarRegressor(hidden=(8,), outputs=2),
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
    equal(jax.vmap(run)(KEYS), stacked)
    equal(jax.lax.map(run, KEYS), stacked)


def test_vmap_over_numbers_is_a_sweep(rows):
    data, rates = rows[None], jnp.array([1e-3, 1e-2, 5e-2])

    def run(rate):
        trainer = make_trainer(MODELS["MeanVarRegressor"], sgd(rate, 0.9, 1e-3))
        state = trainer.init(KEYS[0], data[0])
        return run_epochs(KEYS[1], trainer, state, data, epochs=3, batch_size=4)[1]

    equal(jax.jit(jax.vmap(run))(rates), jnp.stack([run(float(rate)) for rate in rates]))


def test_gradient_through_a_whole_run(rows):
    data = rows[None]

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


METHODS = {
    "log_prob": lambda d, y: d.log_prob(y),
    "cdf": lambda d, y: d.cdf(y),
    "crps": lambda d, y: d.crps(y),
    "quantile": lambda d, y: d.quantile(jnp.array([0.1, 0.7])),
    "interval": lambda d, y: d.interval(0.9),
    "sample": lambda d, y: d.sample(jax.random.key(0), (3,)),
    "std": lambda d, y: d.std,
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_of_a_gaussian(x64, name):
    rng = np.random.default_rng(0)
    mean, log_var, y = (jnp.asarray(a) for a in rng.normal(size=(3, 4, 5)))
    method = METHODS[name]
    eager = method(Gaussian(mean, log_var), y)
    equal(jax.jit(lambda *a: method(Gaussian(*a[:2]), a[2]))(mean, log_var, y), eager)
    if name != "sample":
        mapped = jax.vmap(lambda m, s, y: method(Gaussian(m, s), y))(mean, log_var, y)
        looped = [method(Gaussian(m, s), t) for m, s, t in zip(mean, log_var, y, strict=True)]
        equal(mapped, jax.tree.map(lambda *a: jnp.stack(a), *looped))
    check_grads(lambda m, s: method(Gaussian(m, s), y), (mean, log_var), order=1, rtol=1e-5)
