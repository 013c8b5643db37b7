"""Each loss and its gradients against closed forms, and the ways to train with it."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.stats import norm

from jaxreg import (
    Gaussian,
    MeanOnlyRegressor,
    MeanVarRegressor,
    NaturalRegressor,
    beta_nll,
    by_head,
    crps_gaussian,
    faithful_nll,
    gaussian_nll,
    make_trainer,
    sgd,
    squared_error,
    start_variance,
    torch_gaussian_nll,
    warm_up,
)
from jaxreg.networks.models import head_labels
from jaxreg.training import losses


def nll(r, v):
    return 0.5 * (np.log(v) + r**2 / v), -r / v, 0.5 * (1 - r**2 / v)


def beta(power):
    return lambda r, v: tuple(v**power * part for part in nll(r, v))


def crps(r, v):
    sd = np.sqrt(v)
    z = r / sd
    value = sd * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - np.pi**-0.5)
    return value, 1 - 2 * norm.cdf(z), 0.5 * sd * (2 * norm.pdf(z) - np.pi**-0.5)


# Of a residual and a variance: the loss, and its derivatives by the mean and by the log variance.
LOSSES = {
    "gaussian_nll": (gaussian_nll, nll),
    "torch_gaussian_nll": (torch_gaussian_nll, nll),
    "beta_nll(0)": (beta_nll(0), nll),
    "beta_nll()": (beta_nll(), beta(0.5)),
    "beta_nll(1)": (beta_nll(1.0), beta(1.0)),
    "squared_error": (squared_error, lambda r, v: (0.5 * r**2, -r, 0 * r)),
    "faithful_nll": (faithful_nll, lambda r, v: (0.5 * r**2 + nll(r, v)[0], -r, nll(r, v)[2])),
    "crps_gaussian": (crps_gaussian, crps),
}


@pytest.mark.parametrize("shape", [(40,), (10, 3)])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(name, shape, x64):
    loss, closed_form = LOSSES[name]
    rng = np.random.default_rng(0)
    y, mean, log_var = 3 * rng.normal(size=shape), rng.normal(size=shape), rng.uniform(-3, 3, shape)
    value, back = jax.vjp(lambda *a: loss(y, *a), jnp.asarray(mean), jnp.asarray(log_var))
    found = value, *back(jnp.ones(shape))
    assert value.shape == shape
    scale = 1 + (y - mean) ** 2 * (1 + np.exp(-log_var))  # terms of this size may cancel
    for ours, theirs in zip(found, closed_form(y - mean, np.exp(log_var)), strict=True):
        assert np.max(np.abs(ours - theirs) / scale) < 1e-12


@pytest.fixture
def untyped():
    """Without the type checks that only tests have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_never_broadcast(name, untyped):
    for shapes in ([(3,), (3, 1), (3,)], [(3,), (3,), (1,)], [(), (3,), (3,)]):
        with pytest.raises(ValueError, match="shapes differ"):
            LOSSES[name][0](*map(jnp.zeros, shapes))


def test_equal_betas_are_one_function():
    assert beta_nll(0.5) is beta_nll() is losses.beta_nll(beta=0.5) and beta_nll(1) is beta_nll(1.0)
    for wrong in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match=f"beta must lie between 0 .* got {wrong}"):
            beta_nll(wrong)


def test_natural_gradients(x64):
    rng = np.random.default_rng(0)
    y, eta_1, eta_2 = rng.normal(size=20), rng.normal(size=20), -rng.uniform(0.1, 4, 20)
    dist = Gaussian.from_natural(eta_1, eta_2)
    mean, var = np.asarray(dist.mean), np.asarray(dist.std) ** 2
    np.testing.assert_allclose(mean, -eta_1 / (2 * eta_2), rtol=1e-12)
    np.testing.assert_allclose(var, -1 / (2 * eta_2), rtol=1e-12)
    grads = jax.grad(lambda *eta: gaussian_nll(y, *Gaussian.from_natural(*eta)).sum(), (0, 1))(eta_1, eta_2)
    np.testing.assert_allclose(grads[0], mean - y, atol=1e-12)
    np.testing.assert_allclose(grads[1], mean**2 + var - y**2, atol=1e-12 * (mean**2 + var + y**2).max())


ROWS = tuple(np.random.default_rng(1).normal(size=shape) for shape in [(12, 2), (12,)])


def after(model, loss, steps=3, optimizer=None):
    """The parameters after some steps on all rows."""
    trainer = make_trainer(model, optimizer or sgd(0.05), loss)
    state = trainer.init(jax.random.key(0), ROWS[0])
    for _ in range(steps):
        state, _ = trainer.step(state, ROWS)
    return state.params["params"]


def same(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), a, b)


def test_faithful_trains_the_mean_as_squared_error_does(x64):
    model = MeanVarRegressor(hidden=(6,), detach_variance=True)
    faithful, squared = after(model, faithful_nll), after(model, squared_error)
    start = after(model, faithful_nll, steps=0)
    for name in ("hidden_0", "mean_head"):
        same(faithful[name], squared[name])
        assert not np.allclose(faithful[name]["kernel"], start[name]["kernel"])
    assert not np.allclose(faithful["log_var_head"]["kernel"], start["log_var_head"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, squared["log_var_head"], start["log_var_head"])
    attached = after(MeanVarRegressor(hidden=(6,)), faithful_nll)
    assert not np.allclose(attached["hidden_0"]["kernel"], faithful["hidden_0"]["kernel"])


@pytest.mark.parametrize("model", [MeanVarRegressor(hidden=(6,)), NaturalRegressor(hidden=(6,))])
def test_the_variance_has_labels_of_its_own(model):
    labels = head_labels(model.init(jax.random.key(0), ROWS[0]))["params"]
    head = "log_var_head" if isinstance(model, MeanVarRegressor) else "precision_head"
    assert set(labels.pop(head).values()) == {"variance"}
    assert set(jax.tree.leaves(labels)) == {"mean"}


def test_weight_decay_of_each_head(x64):
    model = MeanVarRegressor(hidden=(6,))
    light, heavy = sgd(0.05, weight_decay=1e-3), sgd(0.05, weight_decay=1.0)
    found = after(model, gaussian_nll, 1, by_head(light, heavy))
    for optimizer, names in [(light, ("hidden_0", "mean_head")), (heavy, ("log_var_head",))]:
        expected = after(model, gaussian_nll, 1, optimizer)
        for name in names:
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found[name], expected[name]
            )


def test_warm_up_leaves_the_variance_alone(x64):
    model = MeanVarRegressor(hidden=(6,))
    start, frozen, moved = (after(model, gaussian_nll, steps, warm_up(sgd(0.05), 2)) for steps in (0, 2, 3))
    jax.tree.map(np.testing.assert_array_equal, start["log_var_head"], frozen["log_var_head"])
    assert not np.allclose(start["mean_head"]["kernel"], frozen["mean_head"]["kernel"])
    # The first step of the variance is one without velocity.
    trainer = make_trainer(model, sgd(0.05))
    state = trainer.init(jax.random.key(0), ROWS[0])._replace(params={"params": frozen})
    expected = trainer.step(state, ROWS)[0].params["params"]["log_var_head"]
    same(moved["log_var_head"], expected)
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        warm_up(sgd(0.05), -1)


@pytest.mark.parametrize("variance", [1e-3, 0.25, 50.0])
def test_the_variance_starts_where_it_is_told_to(variance, x64):
    for model in (MeanVarRegressor(hidden=(6,)), MeanOnlyRegressor(hidden=(6,))):
        params = model.init(jax.random.key(0), ROWS[0])
        if "log_var_head" in params["params"]:
            head = params["params"]["log_var_head"]
            head["kernel"] = jnp.zeros_like(head["kernel"])
        found = model.apply(start_variance(model, params, variance), ROWS[0])
        np.testing.assert_allclose(jnp.exp(found.log_var), variance, rtol=1e-6)
        np.testing.assert_array_equal(found.mean, model.apply(params, ROWS[0]).mean)
        for wrong, message in [
            (-1.0, "variance must be positive and finite, got -1"),
            (np.inf, "variance must be positive and finite, got inf"),
            (np.ones(2), r"variance has shape \(2,\), expected \(\) or \(\)"),
        ]:
            with pytest.raises(ValueError, match=message):
                start_variance(model, params, wrong)
    with pytest.raises(ValueError, match="a NaturalRegressor has no bias"):
        start_variance(NaturalRegressor(), {"params": {}}, variance)


def test_the_natural_model_starts_as_the_other_does():
    x = np.zeros((1, 2), np.float32)
    for outputs in (None, 3):
        first, second = (
            model.apply(model.init(jax.random.key(0), x), x)
            for model in (MeanVarRegressor((), outputs), NaturalRegressor((), outputs))
        )
        assert first.mean.shape == second.mean.shape
        np.testing.assert_allclose(first.log_var, second.log_var, rtol=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_score_after_scaling_is_the_best_that_one_factor_gives(x64, weighted):
    rng = np.random.default_rng(3)
    y, mean, log_var = rng.normal(size=(3, 40, 2))
    w = rng.integers(0, 3, (40, 2)).astype(float) if weighted else np.ones((40, 2))
    expected = []
    for i in range(2):
        # One more value, whose squared error is its variance, and which weighs as much as the mean row.
        present = w[:, i] > 0
        squares = np.append(((y - mean) ** 2 / np.exp(log_var))[present, i], 1.0)
        own = np.append(w[present, i], w[present, i].mean())
        factor = np.average(squares, weights=own)
        scaled, *_ = nll((y - mean)[:, i], factor * np.exp(log_var[:, i]))
        expected.append(np.average(scaled, weights=w[:, i]))
    weight = jnp.asarray(w) if weighted else None
    got = losses.scaled_nll(*map(jnp.asarray, (y, mean, log_var)), weight)
    np.testing.assert_allclose(got, np.mean(expected), rtol=1e-12)


def test_scores_of_rows_without_weight(x64):
    y, mean, log_var = jnp.array([[1.0, 0.0], [2.0, 0.0]]), jnp.full((2, 2), 0.5), jnp.zeros((2, 2))
    weight = jnp.array([[1.0, 0.0], [3.0, 0.0]])
    np.testing.assert_allclose(losses.mean_nll(y, mean, log_var, weight), (0.125 + 3 * 1.125) / 4)
    np.testing.assert_allclose(losses.mean_nll(y, mean, log_var), np.mean(0.5 * (y - mean) ** 2))
    assert np.isfinite(losses.scaled_nll(y, mean, log_var, weight))
