import inspect
import pickle
import warnings
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
import pytest
import torch
from optax.contrib import reduce_on_plateau

from jaxreg import (
    Hook,
    MeanVarRegressor,
    adamw,
    beta_nll,
    data,
    fit,
    fit_ensemble,
    gaussian_nll,
    make_trainer,
    predict,
    predict_ensemble,
    run_epochs,
    scaled_nll,
    sgd,
)
from jaxreg.checks import as_key
from jaxreg.training import feeds, inputs
from jaxreg.training.feeds import CHUNK_EPOCHS
from jaxreg.training.hooks import check_hooks
from jaxreg.training.trainer import check_trainer

MODEL = MeanVarRegressor(hidden=(16,))
KEY = jax.random.key(1)
run_jitted = jax.jit(run_epochs, static_argnames=("epochs", "batch_size"))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b, rtol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), a, b)


def test_fit_is_run_epochs(sinusoid, x64):
    sinusoid = tuple(a.astype(np.float64) for a in sinusoid)
    trainer = make_trainer(MODEL, sgd(5e-3))
    state, history = fit(KEY, trainer, sinusoid, epochs=7, batch_size=64)
    expected, losses = run_jitted(
        KEY, trainer, trainer.init(KEY, sinusoid[0]), sinusoid, epochs=7, batch_size=64
    )
    close((state, history.loss), (expected, losses))
    assert int(state.step) == 28
    assert history.validation_nll is None and history.failed_epoch == -1


@pytest.mark.slow
def test_jit_equals_eager(sinusoid, x64):
    rows = tuple(a[:25].astype(np.float64) for a in sinusoid)
    trainer = make_trainer(MODEL, sgd(5e-3))
    state = trainer.init(KEY, rows[0])
    jitted = run_jitted(KEY, trainer, state, rows, epochs=1, batch_size=10)
    with jax.disable_jit():
        eager = run_epochs(KEY, trainer, state, rows, epochs=1, batch_size=10)
    close(jitted, eager)


def test_two_fits_with_one_key_are_bit_identical(sinusoid):
    trainer = make_trainer(MODEL, sgd(5e-3, 0.9, 1e-4))
    same(*(fit(KEY, trainer, sinusoid, epochs=5, batch_size=50)[0] for _ in range(2)))


class Every(Hook):
    def __init__(self, every, stop_at=None):
        self.every, self.stop_at, self.seen, self.closed = every, stop_at, [], 0

    def after_chunk(self, run, history):
        self.seen.append(int(run.cursor[0]))
        assert (
            np.isnan(history.loss[self.seen[-1] :]).all() and np.isfinite(history.loss[: self.seen[-1]]).all()
        )
        return self.seen[-1] == self.stop_at

    def close(self):
        self.closed += 1


@pytest.mark.parametrize(
    "every, validated", [(1, False), (50, True), pytest.param(3, True, marks=pytest.mark.slow)]
)
def test_a_run_cut_into_chunks_is_bit_identical(sinusoid, every, validated):
    trainer = make_trainer(MODEL, sgd(5e-3, 0.9, 1e-4))
    settings = {"epochs": CHUNK_EPOCHS + 5, "batch_size": 100, "validation": sinusoid if validated else None}
    hook = Every(every)
    whole, cut = (fit(KEY, trainer, sinusoid, hooks=hooks, **settings) for hooks in ([], [hook]))
    same(whole[0], cut[0])
    same(whole[1].loss, cut[1].loss)
    assert set(range(every, CHUNK_EPOCHS + 5, every)) <= set(hook.seen) and hook.closed == 1


def test_a_hook_stops_a_run_and_another_goes_on(sinusoid):
    class Resume(Hook):
        def __init__(self, run=None):
            self.run = run

        def restore(self, run):
            return self.run or run

        def after_chunk(self, run, history):
            self.run = run

    trainer = make_trainer(MODEL, sgd(5e-3))
    kept = Resume()
    _, history = fit(KEY, trainer, sinusoid, epochs=9, batch_size=64, hooks=[Every(4, stop_at=4), kept])
    assert np.isfinite(history.loss).sum() == 4 and np.isnan(history.loss[4:]).all()
    resumed, history = fit(KEY, trainer, sinusoid, epochs=9, batch_size=64, hooks=[Resume(kept.run)])
    whole, expected = fit(KEY, trainer, sinusoid, epochs=9, batch_size=64)
    same(resumed, whole)
    same(history.loss[4:], expected.loss[4:])


def test_hooks_are_closed_when_one_raises(sinusoid):
    class Broken(Hook):
        def after_chunk(self, run, history):
            raise KeyboardInterrupt

    bystander = Every(None)
    with pytest.raises(KeyboardInterrupt):
        fit(KEY, make_trainer(MODEL, sgd(5e-3)), sinusoid, epochs=3, hooks=[bystander, Broken()])
    assert bystander.closed == 1


def test_other_numbers_epochs_and_trainers_do_not_retrace(sinusoid, counting):
    fit(KEY, make_trainer(counting, sgd(5e-3)), sinusoid, epochs=3, batch_size=64)
    make_trainer(counting, sgd(5e-3)).init(KEY, sinusoid[0])
    traced = len(counting.traces)
    for numbers in [(1e-3, 0.9, 0.0), (1e-2, 0.0, 0.1), (3e-3, 0.5, 1e-4)]:
        for epochs in (1, 5, CHUNK_EPOCHS + 1):
            trainer = make_trainer(counting, sgd(*numbers))
            fit(jax.random.key(epochs), trainer, sinusoid, epochs=epochs, batch_size=64)
            trainer.step(trainer.init(KEY, sinusoid[0]), tuple(a[:64] for a in sinusoid))
    assert len(counting.traces) - traced <= 1  # the one for a step called from Python
    settings = {"validation": sinusoid, "epochs": 3, "batch_size": 64}
    fit(KEY, trainer, sinusoid, **settings)
    traced = len(counting.traces)
    for patience in (None, 1, 7):
        fit(KEY, trainer, sinusoid, patience=patience, **settings)
    assert len(counting.traces) == traced


def test_equal_settings_share_their_functions():
    a, b = make_trainer(MeanVarRegressor(), sgd(1e-3)), make_trainer(MeanVarRegressor(), sgd(1e-2, 0.5, 0.1))
    assert a.step is b.step and a.nll is b.nll
    assert jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.leaves(a) == [1e-3, 0.9, 0.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_follows_x(sinusoid, dtype):
    with jax.enable_x64(True):
        x, y = sinusoid[0].astype(dtype), sinusoid[1].astype(np.float64)
        trainer = make_trainer(MODEL, sgd(5e-3))
        state, history = fit(KEY, trainer, (x, y), epochs=2, batch_size=100, validation=(x, y))
        floats = [a for a in jax.tree.leaves((state.params, state.opt_state))] + list(history[:2])
        assert {np.dtype(a.dtype).name for a in floats} == {dtype}
        if dtype == "float64":
            assert float(state.opt_state.learning_rate) == 5e-3


@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("per_output", [False, True])
def test_integer_weights_are_repeated_rows(x64, outputs, per_output):
    if per_output and outputs is None:
        outputs = 1
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 2))
    y = rng.normal(size=12 if outputs is None else (12, outputs))
    rows = np.arange(12) % 4
    weight = rows[:, None] * np.ones((1, outputs)) if per_output else rows
    repeated = np.repeat(x, rows, axis=0), np.repeat(y, rows, axis=0)
    trainer = make_trainer(MeanVarRegressor(hidden=(8,), outputs=outputs), sgd(1e-2, 0.9, 1e-3))
    weighted, history = fit(KEY, trainer, (x, y, weight.astype(float)), epochs=20)
    expected, losses = fit(KEY, trainer, repeated, epochs=20)
    close((weighted.params, history.loss), (expected.params, losses.loss), rtol=1e-10)


def test_absent_targets_leave_no_trace(x64):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 2)), rng.normal(size=(10, 2))
    weight = (rng.uniform(size=(10, 2)) > 0.4).astype(float)
    trainer = make_trainer(MeanVarRegressor(hidden=(8,), outputs=2), sgd(1e-2))
    one, other = (
        fit(KEY, trainer, (x, np.where(weight > 0, y, absent), weight), epochs=5, batch_size=4)[0]
        for absent in (np.nan, 1e300)
    )
    same(one, other)


def test_a_batch_of_no_weight_changes_nothing(sinusoid):
    trainer = make_trainer(MODEL, sgd(5e-3))
    state, _ = trainer.step(trainer.init(KEY, sinusoid[0]), sinusoid)
    after, loss = trainer.step(state, (*sinusoid, np.zeros(256, np.float32)))
    assert loss == 0
    same(after, state)


def test_step_does_not_consume_its_state(sinusoid):
    trainer = make_trainer(MODEL, sgd(5e-3))
    state = trainer.init(KEY, sinusoid[0])
    same(trainer.step(state, sinusoid), trainer.step(state, sinusoid))
    fit(KEY, trainer, sinusoid, epochs=2, state=state)
    assert np.isfinite(jax.tree.leaves(state.params)[0]).all()


def test_nll_is_gaussian_nll_whatever_the_loss(sinusoid):
    trainer = make_trainer(MODEL, sgd(5e-3), loss=lambda y, mean, log_var: (y - mean) ** 2)
    state = trainer.init(KEY, sinusoid[0])
    close(
        trainer.nll(state.params, sinusoid),
        gaussian_nll(sinusoid[1], *MODEL.apply(state.params, sinusoid[0])),
        1e-6,
    )


def test_validation_keeps_the_best_epoch_and_patience_stops(sinusoid):
    x, y = sinusoid
    train, held_out = (x[:40], y[:40]), (x[40:], y[40:])
    trainer = make_trainer(MeanVarRegressor(), sgd(3e-2, 0.9))
    _, history = fit(KEY, trainer, train, epochs=300, batch_size=10, validation=held_out, patience=20)
    nll, best = history.validation_nll, int(history.best_epoch)
    ran = np.isfinite(history.loss).sum()
    assert best == np.nanargmin(nll) and ran == best + 21 < 300 and np.isnan(nll[ran:]).all()
    state, _ = fit(KEY, trainer, train, epochs=300, batch_size=10, validation=held_out, patience=20)
    close(trainer.nll(state.params, held_out).mean(), nll[best], 1e-5)
    assert int(state.step) == ran * 4


def test_a_run_that_diverges_keeps_its_last_finite_epoch(sinusoid):
    trainer = make_trainer(MODEL, sgd(1e3))
    with pytest.warns(RuntimeWarning, match="lower learning rate, gradient clipping"):
        state, history = fit(KEY, trainer, sinusoid, epochs=50, batch_size=64)
    assert history.failed_epoch >= 0 and not np.isfinite(history.loss[history.failed_epoch :]).any()
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(state.params))


OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-3),
    "adamw with schedule": lambda: optax.adamw(optax.cosine_decay_schedule(1e-3, 100)),
    "clipped sgd": lambda: optax.chain(optax.clip_by_global_norm(1.0), sgd(1e-2)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optax_optimizers(sinusoid, name):
    trainer = make_trainer(MODEL, OPTIMIZERS[name]())
    _, history = fit(KEY, trainer, sinusoid, epochs=30, batch_size=64)
    assert history.loss[-1] < history.loss[0]


class Plain(nn.Module):
    extra: str = ""

    @nn.compact
    def __call__(self, x):
        if self.extra == "BatchNorm":
            x = nn.BatchNorm(use_running_average=False)(x)
        if self.extra == "Dropout":
            x = nn.Dropout(0.5, deterministic=False)(x)
        out = nn.Dense(3 if self.extra == "shape" else 2)(nn.LayerNorm()(nn.Dense(8)(x)))
        return (out[:, 0], out[:, 1:]) if self.extra == "shape" else (out[:, 0], out[:, 1])


def test_any_linen_module_serves(sinusoid):
    _, history = fit(KEY, make_trainer(Plain(), sgd(1e-2)), sinusoid, epochs=20, batch_size=64)
    assert history.loss[-1] < history.loss[0]


class Mixed(nn.Module):
    """Parameters of two dtypes, and one that is empty."""

    @nn.compact
    def __call__(self, x):
        self.param("empty", nn.initializers.zeros_init(), (0, 3))
        hidden = nn.relu(nn.Dense(8, param_dtype=jnp.bfloat16)(x))
        return tuple(nn.Dense(2)(hidden).T)


def test_parameters_may_differ_in_dtype_and_be_empty(sinusoid):
    trainer = make_trainer(Mixed(), optax.adam(1e-2))
    state, history = fit(KEY, trainer, sinusoid, epochs=20, batch_size=64)
    assert history.loss[-1] < history.loss[0] and history.failed_epoch == -1
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"bfloat16", "float32"}


@pytest.mark.parametrize(
    "extra,message", [("BatchNorm", "batch_stats"), ("Dropout", "dropout"), ("shape", r"\(mean, log_var\)")]
)
def test_modules_that_cannot_be_trained_are_named(sinusoid, extra, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(Plain(extra), sgd(1e-2)).init(KEY, sinusoid[0])


def bad_loss(y, mean, log_var):
    return gaussian_nll(y, mean, log_var).mean()


@pytest.mark.parametrize(
    "change,message",
    [
        ({"epochs": -1}, "epochs must be at least 0, got -1"),
        ({"epochs": True}, "epochs must be a whole number, got True"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"patience": 3}, "pass validation"),
        ({"patience": 0, "validation": 0}, "patience must be at least 1"),
        ({"data": (np.zeros((4, 1)), np.arange(5.0))}, "x has 4 rows and y has 5"),
        ({"data": (np.zeros((4, 1)), np.arange(4.0)[:, None])}, r"y \(4, 1\), mean \(4,\)"),
        ({"data": (np.zeros((4, 1)), np.ones(4))}, "the target y has one value"),
        ({"data": (np.zeros((1, 1)), np.ones(1))}, "1 row is too few"),
        ({"validation": (np.zeros((4, 2)), np.zeros(4))}, r"validation: x has shape \(4, 2\)"),
        ({"data": (np.zeros((801, 1)), np.arange(801.0)[:, None])}, r"y \(801, 1\), mean \(801,\)"),
        ({"loss": bad_loss}, r"must be elementwise: for y \(256,\)"),
    ],
)
def test_bad_input_is_named(sinusoid, change, message):
    settings = {"epochs": 1, "data": sinusoid, "loss": gaussian_nll} | change
    if settings.get("validation") == 0:
        settings["validation"] = sinusoid
    trainer = make_trainer(MODEL, sgd(1e-3), settings.pop("loss"))
    with pytest.raises(ValueError, match=message):
        fit(KEY, trainer, settings.pop("data"), **settings)


@pytest.mark.parametrize("given", [MODEL, None, make_trainer(MODEL, sgd(1e-3)).step])
def test_a_trainer_is_needed(given):
    with pytest.raises(TypeError, match=r"a Trainer is needed, got a \w+: make_trainer"):
        check_trainer(given)  # types that tests check keep it from `fit`


@pytest.mark.parametrize("number", ["learning_rate", "momentum", "weight_decay"])
@pytest.mark.parametrize("value", [-1e-3, np.nan, np.inf])
def test_sgd_refuses_impossible_numbers(number, value):
    with pytest.raises(ValueError, match=f"{number} must be finite and not negative"):
        sgd(**({"learning_rate": 1e-3} | {number: value}))


@pytest.mark.parametrize("number", ["learning_rate", "weight_decay", "steps"])
@pytest.mark.parametrize(
    "value, message", [(-1e-3, "finite and"), (np.nan, "finite and"), ("1e-3", "a number, .* got '1")]
)
def test_adamw_refuses_impossible_numbers(number, value, message):
    with pytest.raises(ValueError, match=f"{number} must be {message}"):
        adamw.__wrapped__(**({"steps": 9} | {number: value}))


def test_fit_inside_a_transform_names_run_epochs(sinusoid):
    trainer = make_trainer(MODEL, sgd(1e-3))
    with pytest.raises(ValueError, match="run_epochs"):
        jax.vmap(lambda key: fit(key, trainer, sinusoid, epochs=1)[0])(jax.random.split(KEY, 2))


def test_no_epochs_and_no_warnings(sinusoid):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state, history = fit(KEY, make_trainer(MODEL, sgd(1e-3)), sinusoid, epochs=0)
    assert history.loss.shape == (0,) and int(state.step) == 0
    assert jnp.isfinite(jax.tree.leaves(state.params)[0]).all()
    assert data.batch_order(KEY, 0, 4).shape == (4,)


@pytest.mark.parametrize(
    "batch_size, patience",
    [(20, 3), (64, None), (300, 3), *(pytest.param(n, None, marks=pytest.mark.slow) for n in (20, 256))],
)
def test_rows_from_a_source_train_as_rows_in_memory(sinusoid, as_source, x64, batch_size, patience):
    x, y = (a.astype(np.float64) for a in sinusoid)
    trainer = make_trainer(MODEL, sgd(5e-2, 0.9, 1e-4))
    held_out = None if patience is None else (x[200:], y[200:])
    settings = {"epochs": 12, "batch_size": batch_size, "validation": held_out, "patience": patience}
    expected, history = fit(KEY, trainer, (x[:230], y[:230]), **settings)
    state, streamed = fit(KEY, trainer, as_source(x[:230], y[:230]), **settings)
    close(state, expected)
    close(streamed, history)


def test_a_streamed_run_cut_anywhere_is_bit_identical(sinusoid, as_source):
    """A hook sees runs within epochs, and each of them goes on to the same end."""

    class Keep(Hook):
        every = 0.2

        def __init__(self, first=None):
            self.runs, self.first = [], first

        def restore(self, run):
            return self.first or run

        def after_chunk(self, run, history):
            self.runs.append((run, history.loss.copy()))

    trainer, source = make_trainer(MODEL, sgd(5e-3, 0.9)), as_source(*sinusoid)
    settings = {"epochs": 3, "batch_size": 30, "validation": sinusoid}
    whole, history = fit(KEY, trainer, source, **settings)
    keep = Keep()
    cut, same_history = fit(KEY, trainer, source, hooks=[keep], **settings)
    same((cut, same_history), (whole, history))
    places = [run.position for run, _ in keep.runs]
    assert {(0, 5), (1, 0), (1, 5), (2, 0), (2, 5), (3, 0)} == set(places)
    for (epoch, _), (run, losses) in zip(places, keep.runs, strict=True):
        assert np.isfinite(losses).sum() == epoch
        resumed, more = fit(KEY, trainer, source, hooks=[Keep(run)], **settings)
        same(resumed, whole)
        same(more.loss[epoch:], history.loss[epoch:])


def test_a_streamed_run_stopped_within_an_epoch_is_judged_there(sinusoid, as_source):
    class Stop(Hook):
        every = 0.5

        def after_chunk(self, run, history):
            return True

    trainer = make_trainer(MODEL, sgd(5e-3, 0.9))
    settings = {"epochs": 3, "batch_size": 30, "validation": sinusoid, "hooks": [Stop()]}
    state, history = fit(KEY, trainer, as_source(*sinusoid), **settings)
    assert int(state.step) == 5 and history.best_epoch == 0
    nll = trainer.score(state.params, sinusoid)
    np.testing.assert_allclose(history.validation_nll, [nll, np.nan, np.nan], rtol=1e-6)
    assert np.isfinite(history.loss).tolist() == [True, False, False]


def test_a_streamed_run_that_fails_keeps_the_state_before_the_block(sinusoid, as_source):
    trainer, found = make_trainer(MODEL, sgd(1e18)), []

    class Keep(Hook):
        every = 0.1

        def after_chunk(self, run, history):
            found.append(run)

    with pytest.warns(RuntimeWarning, match="the run stopped in epoch 1: its loss or parameters"):
        state, history = fit(KEY, trainer, as_source(*sinusoid), epochs=3, batch_size=30, hooks=[Keep()])
    assert history.failed_epoch == 0 and not np.isfinite(history.loss).any()
    same(state.params, trainer.init(KEY, sinusoid[0]).params)
    assert found[-1].position == (1, 0)


def test_a_source_needs_a_batch_size(sinusoid, as_source):
    with pytest.raises(ValueError, match="need a batch_size"):
        fit(KEY, make_trainer(MODEL, sgd(5e-3)), as_source(*sinusoid), epochs=1)


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_in_two_halves_is_the_whole_run(sinusoid, as_source, members, streamed):
    trainer, rows = make_trainer(MODEL, sgd(5e-3, 0.9)), as_source(*sinusoid) if streamed else sinusoid
    train, given, begin = fit, {"batch_size": 60}, "state"
    if members:
        train, given, begin = fit_ensemble, given | {"members": members}, "states"
    whole, history = train(KEY, trainer, rows, epochs=6, **given)
    half, first = train(KEY, trainer, rows, epochs=4, **given)
    more, second = train(KEY, trainer, rows, epochs=2, first_epoch=4, **{begin: half}, **given)
    same(more, whole)
    np.testing.assert_array_equal(np.concatenate([first.loss, second.loss], axis=-1), history.loss)
    again, _ = train(KEY, trainer, rows, epochs=2, **{begin: half}, **given)  # the first two orders again
    assert not np.array_equal(jax.tree.leaves(again.params)[0], jax.tree.leaves(whole.params)[0])


def test_run_epochs_goes_on(sinusoid, x64):
    rows, trainer = tuple(a.astype(float) for a in sinusoid), make_trainer(MODEL, sgd(5e-3, 0.9))
    start = trainer.init(KEY, rows[0])
    whole, losses = run_jitted(KEY, trainer, start, rows, epochs=5, batch_size=60)
    half, first = run_jitted(KEY, trainer, start, rows, epochs=3, batch_size=60)
    more, second = run_jitted(KEY, trainer, half, rows, epochs=2, batch_size=60, first_epoch=3)
    close((more, np.r_[first, second]), (whole, losses))


OURS = {
    "sgd": lambda: make_trainer(MODEL, sgd(5e-3, 0.9)),
    "adamw": lambda: make_trainer(MODEL, adamw(1e-3, steps=20), beta_nll(0.5), scaled_nll),
}


@pytest.mark.parametrize("name", OURS)
def test_a_trainer_can_be_pickled(sinusoid, name):
    trainer = OURS[name]()
    again = pickle.loads(pickle.dumps(trainer))
    same(fit(KEY, again, sinusoid, epochs=3)[0], fit(KEY, trainer, sinusoid, epochs=3)[0])
    assert make_trainer(MODEL, sgd(1e-3)).step is pickle.loads(pickle.dumps(OURS["sgd"]())).step


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(optax.lbfgs, marks=pytest.mark.slow),
        lambda: optax.chain(sgd(1e-2), reduce_on_plateau(patience=2)),
    ],
)
def test_optimizers_that_are_told_the_loss(sinusoid, build):
    trainer = make_trainer(MODEL, build())
    _, history = fit(KEY, trainer, sinusoid, epochs=15)
    assert history.loss[-1] < history.loss[0]
    states, both = fit_ensemble(KEY, trainer, sinusoid, members=2, epochs=3)
    assert (both.loss[:, -1] < both.loss[:, 0]).all()


def test_a_schedule_is_a_learning_rate(x64):
    """PyTorch's update with another learning rate in each step: v <- 0.9 v + g, p <- p - rate v."""
    schedule = optax.exponential_decay(0.1, 1, 0.5)
    optimizer, params = sgd(schedule, 0.9), jnp.ones(())
    state, velocity, expected = optimizer.init(params), 0.0, 1.0
    for step in range(4):
        grad = jnp.asarray(step + 1.0)
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        velocity = 0.9 * velocity + (step + 1)
        expected -= 0.1 * 0.5**step * velocity
    np.testing.assert_allclose(params, expected, rtol=1e-6)  # the schedule is in float32


def test_a_whole_number_is_a_seed(sinusoid):
    trainer = make_trainer(MODEL, sgd(5e-3))
    same(fit(7, trainer, sinusoid, epochs=2)[0], fit(jax.random.key(7), trainer, sinusoid, epochs=2)[0])
    few = {"members": 2, "epochs": 1}
    same(fit_ensemble(7, trainer, sinusoid, **few), fit_ensemble(jax.random.key(7), trainer, sinusoid, **few))
    same(data.batch_order(7, 0, 9), data.batch_order(jax.random.key(7), 0, 9))
    for wrong in (True, 0.5, "0", None):
        with pytest.raises(TypeError, match=f"key must be a JAX random key, .* got a {type(wrong).__name__}"):
            inspect.unwrap(as_key)(wrong)


def test_features_of_16_bits_are_taken(sinusoid):
    x, y = jnp.asarray(sinusoid[0], jnp.bfloat16), sinusoid[1]
    state, _ = fit(KEY, make_trainer(MODEL, sgd(5e-3)), (x, y), epochs=1)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}
    assert predict(MODEL, state.params, x).mean.shape == (256,)


class Module:
    """Neither init nor apply, as those of NNX and Equinox."""


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: make_trainer(Module(), sgd(1e-3)), TypeError, "model must have .* got a Module: .*to_linen"),
        (lambda: make_trainer(MeanVarRegressor, sgd(1e-3)), TypeError, "make a class into an object first"),
        (lambda: make_trainer(MODEL, sgd(1e-3), beta_nll), TypeError, r"called first, as in beta_nll\(0.5\)"),
        (
            lambda: inspect.unwrap(sgd)("1e-3"),
            ValueError,
            "learning_rate must be a number, finite and not negative, got '1e-3'",
        ),
        (lambda: inspect.unwrap(sgd)(None), ValueError, "learning_rate must be a number, .* got None"),
        (lambda: inspect.unwrap(sgd)(1e-3, "high"), ValueError, "momentum must be a number, .* got 'high'"),
        (lambda: check_hooks(Hook()), TypeError, r"hooks must be a list .* got a Hook alone: pass \[hook\]"),
        (
            lambda: inspect.unwrap(make_trainer)(MODEL, optax.adam),
            TypeError,
            "optimizer must be one .* got adam: call it first",
        ),
        (
            lambda: inspect.unwrap(make_trainer)(MODEL, None),
            TypeError,
            "optimizer must be one of Optax's .* got None",
        ),
        (
            lambda: inspect.unwrap(make_trainer)(MODEL, sgd(1e-3), "nll"),
            TypeError,
            "loss must be .* got 'nll'",
        ),
        (lambda: check_hooks(None), TypeError, "hooks must be a list .* got None"),
        (lambda: check_hooks(print), TypeError, "hooks must be a list of Hook objects, got a builtin"),
        (lambda: check_hooks([print]), TypeError, "got a builtin.*make a class of jaxreg.Hook"),
    ],
)
def test_what_cannot_be_trained_with_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_a_step_or_a_prediction_cannot_take(sinusoid):
    trainer = make_trainer(MODEL, sgd(1e-3))
    state = trainer.init(KEY, sinusoid[0])
    tensors = tuple(map(torch.tensor, sinusoid))
    with pytest.raises(TypeError, match="arrays of NumPy or JAX, got a torch.Tensor: convert it first"):
        trainer.step(state, tensors)
    with pytest.raises(TypeError, match="arrays of NumPy or JAX, got a polars.DataFrame: convert it first"):
        trainer.step(state, (pl.DataFrame(sinusoid[0]), sinusoid[1]))
    with pytest.raises(ValueError, match=r"x of shape \(256, 2\) doesn't fit the state's parameters"):
        trainer.step(state, (np.ones((256, 2), np.float32), sinusoid[1]))
    states, _ = fit_ensemble(KEY, trainer, sinusoid, members=2, epochs=0)
    other = make_trainer(MeanVarRegressor(hidden=(3,)), sgd(1e-3)).init(KEY, sinusoid[0])
    x = sinusoid[0]
    for params, features, message in [
        (state, x, "got a TrainState: pass state.params"),
        (states.params, x, "params have a leading axis of 2 members: use predict_ensemble"),
        (state.params, np.ones((4, 3)), "x has 3 features, the params are for 1"),
        (other.params, x, "params aren't those of this MeanVarRegressor: they have other shapes"),
        ({"params": {}}, x, "params aren't those of this MeanVarRegressor: they have other names"),
    ]:
        with pytest.raises(ValueError, match=message):
            predict(MODEL, params, features)
    for params, features, message in [
        (states, x, "got a TrainState: pass state.params"),
        (states.params, np.ones((4, 3)), "x has 3 features, the params are for 1"),
        (state.params, x, "those of one network are for predict"),
    ]:
        with pytest.raises(ValueError, match=message):
            predict_ensemble(MODEL, params, features)
    with pytest.raises(TypeError, match="got a dict: pass model, params, x"):
        predict(state.params, MODEL, x)
    with pytest.raises(ValueError, match=r"state.params.*'bias'. has shape .3,., expected .16,."):
        fit(KEY, trainer, sinusoid, epochs=1, state=other)
    with pytest.raises(ValueError, match="first_epoch must be at least 0, got -1"):
        fit(KEY, trainer, sinusoid, epochs=1, first_epoch=-1)


def maps():
    """Memory maps of this process, of which Linux allows 65,530."""
    return len(Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells")
@pytest.mark.parametrize("lengths", [range(211, 217), pytest.param(range(211, 261), marks=pytest.mark.slow)])
def test_fits_of_other_lengths_keep_no_memory_maps(sinusoid, lengths):
    trainer = make_trainer(MODEL, sgd(5e-3))
    given = {"epochs": 1, "batch_size": 64}
    fit(KEY, trainer, tuple(a[:210] for a in sinusoid), **given)
    before = maps()
    for n in lengths:
        fit(KEY, trainer, tuple(np.resize(a, (n, *a.shape[1:])) for a in sinusoid), **given)
    assert maps() - before < 20 * len(lengths)


@pytest.mark.longest
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells")
def test_300_lengths_share_20_programs(counting):
    x, y = (np.asarray(a) for a in data.sinusoid(KEY, 341))
    trainer, before = make_trainer(counting, sgd(5e-3)), maps()
    for n in np.random.default_rng(0).permutation(np.arange(40, 340)):
        fit(KEY, trainer, (x[:n], y[:n]), epochs=1, batch_size=32)
    batches = [shape for shape in counting.traces if shape[0] == 32]
    assert len(batches) <= 2 * 20  # one trace for whole batches, one for the last
    assert maps() - before < 8000
    traced, before = len(counting.traces), maps()
    for n in np.random.default_rng(1).permutation(np.arange(41, 341)):
        fit(KEY, trainer, (x[:n], y[:n]), epochs=1, batch_size=32)
    assert len(counting.traces) == traced and maps() - before < 100


def test_a_class_of_rows_has_one_program(counting):
    x, y = (np.asarray(a) for a in data.sinusoid(KEY))
    trainer = make_trainer(counting, sgd(5e-3))
    for n in range(201, 241):
        rows, held_out = data.fold_rows(KEY, n, 2, 10)
        given = {"rows": rows, "validation_rows": held_out, "members": 2, "epochs": 1, "batch_size": 32}
        fit_ensemble(KEY, trainer, (x[:n], y[:n]), **given)
    assert sum(shape[0] == 32 for shape in counting.traces) <= 2 * 2
    assert [feeds.size_class(n) for n in (1, 2, 64, 65, 128, 1000, 1024)] == [1, 2, 64, 74, 128, 1024, 1024]
    for n in range(1, 5000):
        size = feeds.size_class(n)
        assert n <= size <= max(n * 7 / 6, n + 1) and (size - 1).bit_length() == (n - 1).bit_length()
        assert feeds.size_class(size) == size


@pytest.mark.parametrize(
    "impl", ["threefry2x32", *(pytest.param(i, marks=pytest.mark.slow) for i in ("rbg", "unsafe_rbg"))]
)
def test_rows_that_fill_up_come_behind_the_others(impl):
    key, order = jax.random.key(3, impl=impl), jax.jit(data.batch_order, static_argnames="size")
    for n, size in [(1, 1), (3, 4), (201, 223), (230, 300), (257, 295), (5000, 5405), (70000, 77936)]:
        expected = data.batch_order(key, 2, n)
        assert sorted(expected.tolist()) == list(range(n))
        np.testing.assert_array_equal(order(key, 2, n, size=size)[:n], expected)


ROWS = np.stack([np.arange(0, 180), np.arange(20, 200)])
FILLED_UP = {
    "batches": {"batch_size": 32},
    "all rows": {},
    "more than all rows": {"batch_size": 210},
    "validation": {"batch_size": 64, "validation": "rows"},
    "members": {"batch_size": 32, "rows": ROWS, "validation_rows": 200 - ROWS},
    "all rows of members": {"rows": ROWS},
    "weights": {"batch_size": 32, "weights": np.random.default_rng(0).uniform(0, 2, (2, 201)).round()},
    "bootstrap": {"batch_size": 50, "bootstrap": True},
}


ONE_IN_TWO = [pytest.param(n, marks=pytest.mark.slow) if i % 2 else n for i, n in enumerate(FILLED_UP)]


@pytest.mark.parametrize("name", ONE_IN_TWO)
def test_rows_that_fill_up_change_nothing(sinusoid, x64, monkeypatch, name):
    x, y = (np.asarray(a, float)[:201] for a in sinusoid)
    given = {"members": 2, "epochs": 50, "patience": None} | FILLED_UP[name]
    if "validation" in given:
        given["validation"] = x[:37], y[:37]
    trainer = make_trainer(MeanVarRegressor(hidden=(8,), activation="silu"), sgd(1e-2, 0.9, 1e-4))
    filled = fit_ensemble(KEY, trainer, (x, y), **given)
    monkeypatch.setattr(inputs, "size_class", lambda n: n)
    monkeypatch.setattr(inputs, "share_class", lambda count, n: count)
    close(filled, fit_ensemble(KEY, trainer, (x, y), **given))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_at_0_trains(sinusoid):
    def log_normal(y, mean, log_var):
        return gaussian_nll(jnp.log(y), mean, log_var)

    x, y = sinusoid[0][:201], np.exp(sinusoid[1][:201])
    trainer = make_trainer(MODEL, sgd(1e-3), log_normal)
    rows = np.r_[np.arange(150), np.full(10, -1)][None].repeat(2, axis=0)
    for batch_size in (None, 64):
        _, history = fit(KEY, trainer, (x, y), epochs=3, batch_size=batch_size)
        assert np.isfinite(history.loss).all()
        for own in ({}, {"rows": rows}):
            _, history = fit_ensemble(KEY, trainer, (x, y), members=2, epochs=3, batch_size=batch_size, **own)
            assert np.isfinite(history.loss).all()


SWITCHES = {
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_disable_jit": True,
}
SLOW_SWITCHES = "jax_debug_infs", "jax_numpy_dtype_promotion", "jax_disable_jit"


@pytest.mark.slow
@pytest.mark.parametrize(
    "switch", [pytest.param(s, marks=pytest.mark.slow) if s in SLOW_SWITCHES else s for s in SWITCHES]
)
def test_switches_for_debugging_leave_healthy_training_alone(sinusoid, monkeypatch, switch):
    monkeypatch.setattr(feeds, "CHUNK_EPOCHS", 4)
    data_ = tuple(a[:70] for a in sinusoid)
    trainer = make_trainer(MeanVarRegressor(hidden=(4,)), adamw(steps=9))
    given = {"epochs": 3, "batch_size": 32, "validation": data_, "patience": 1}
    ways = [
        lambda: fit(KEY, trainer, data_, **given),
        lambda: fit_ensemble(KEY, trainer, data_, members=3, side_by_side=2, **given | {"patience": 3}),
    ]
    expected = [way() for way in ways]
    before = getattr(jax.config, switch)
    jax.config.update(switch, SWITCHES[switch])
    try:
        for way, (_, history) in zip(ways, expected, strict=True):
            np.testing.assert_allclose(way()[1].loss, history.loss, rtol=1e-5)
    finally:
        jax.config.update(switch, before)


def test_each_line_of_a_user_is_warned_of(sinusoid):
    diverging = make_trainer(MeanVarRegressor(hidden=(4,)), sgd(1e18))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        fit(KEY, diverging, sinusoid, epochs=1, batch_size=64)
        fit(KEY, diverging, sinusoid, epochs=1, batch_size=64)
    assert [each.filename for each in told] == [__file__] * 2 and told[1].lineno == told[0].lineno + 1
