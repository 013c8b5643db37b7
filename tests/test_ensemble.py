"""An ensemble is the single fit mapped over keys: every test compares one with the other."""

import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from jax.sharding import Mesh

from jaxreg import (
    Hook,
    MeanVarRegressor,
    data,
    fit,
    fit_ensemble,
    machine,
    make_trainer,
    predict,
    predict_ensemble,
    prediction,
    sgd,
    without_failed,
)
from jaxreg.training import chunks, feeds
from jaxreg.training import members as places
from jaxreg.training.feeds import CHUNK_EPOCHS

MODEL = MeanVarRegressor(hidden=(8,))
TRAINER = make_trainer(MODEL, sgd(5e-3, 0.9, 1e-4))
KEY = jax.random.key(1)
SETTINGS = {"epochs": 4, "batch_size": 64}


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b, tolerance=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), a, b)


def member(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def key_of(i, members=40):
    return jax.random.split(KEY, members)[i]


@pytest.fixture
def wide(sinusoid, x64):
    return tuple(a.astype(np.float64) for a in sinusoid)


@pytest.fixture
def split(wide):
    return tuple(a[:192] for a in wide), tuple(a[192:] for a in wide)


# The ways in which members may be dealt: (members, side by side, cores, with validation). 33 members on one
# core go two to a call, the last one alone.
LAYOUTS = [
    (1, None, 2, False),
    (5, 2, 2, True),
    (33, 1, 1, False),
    pytest.param(3, 1, 2, True, marks=pytest.mark.slow),
    pytest.param(7, 3, 1, False, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("members,side_by_side,cores,validated", LAYOUTS)
def test_a_member_is_the_solo_fit_with_its_key(split, monkeypatch, members, side_by_side, cores, validated):
    monkeypatch.setattr(places, "cores", lambda: cores)
    settings = SETTINGS | ({"validation": split[1], "patience": 2} if validated else {})
    states, history = fit_ensemble(
        KEY, TRAINER, split[0], members=members, side_by_side=side_by_side, **settings
    )
    assert history.loss.shape == (members, 4) and states.step.shape == (members,)
    for i in {0, members - 1}:
        state, solo = fit(key_of(i), TRAINER, split[0], **settings)
        close((member(states, i), member(history, i)), (state, solo))


def test_a_member_does_not_depend_on_the_others(sinusoid):
    few, many = (fit_ensemble(KEY, TRAINER, sinusoid, members=n, side_by_side=1, **SETTINGS) for n in (2, 5))
    same(member(few, slice(2)), member(many, slice(2)))


@pytest.mark.slow
def test_first_500_steps_in_float32(sinusoid):
    # With a smooth activation: a ReLU flips on a rounding now and then, and two programs round apart.
    trainer = make_trainer(MeanVarRegressor(activation="silu"), sgd(5e-3, 0.9, 1e-4))
    for side_by_side in (1, 2):
        states, history = fit_ensemble(
            KEY, trainer, sinusoid, members=2, epochs=125, batch_size=64, side_by_side=side_by_side
        )
        for i in range(2):
            _, solo = fit(key_of(i), trainer, sinusoid, epochs=125, batch_size=64)
            assert np.abs(history.loss[i] - solo.loss).max() <= 1e-5


@pytest.mark.parametrize("old_style", [False, True])
def test_keys_of_either_style(wide, old_style):
    key = jax.random.PRNGKey(1) if old_style else KEY
    states, _ = fit_ensemble(key, TRAINER, wide, members=2, **SETTINGS)
    close(member(states, 1), fit(jax.random.split(key)[1], TRAINER, wide, **SETTINGS)[0])


def test_context_managers_of_the_caller_reach_the_threads(sinusoid):
    with jax.enable_x64(True), jax.default_matmul_precision("float32"):
        wide = tuple(a.astype(np.float64) for a in sinusoid)
        states, history = fit_ensemble(KEY, TRAINER, wide, members=3, side_by_side=1, **SETTINGS)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(states.params)} == {"float64"}
    assert history.loss.dtype == np.float64


ROWS = np.array([[0, 1, 2, 3, 4, 5], [9, 8, 7, 6, 5, 4], [10, 10, 11, 11, 12, 12]])


def test_rows_are_the_fit_on_those_rows(wide):
    rows, held_out = ROWS, ROWS[::-1] + 20
    states, history = fit_ensemble(
        KEY, TRAINER, wide, members=3, epochs=4, batch_size=4, rows=rows, validation_rows=held_out
    )
    for i in range(3):
        train, validation = (tuple(a[r[i]] for a in wide) for r in (rows, held_out))
        solo = fit(key_of(i), TRAINER, train, epochs=4, batch_size=4, validation=validation)
        close((member(states, i), member(history, i)), solo)


@pytest.mark.parametrize("batch_size", [None, 8])
def test_a_row_of_minus_one_is_no_row(wide, batch_size):
    padded = np.concatenate([ROWS, np.full((3, 2), -1)], axis=1)
    settings = {"members": 3, "epochs": 4, "batch_size": batch_size}
    short, long = (
        fit_ensemble(KEY, TRAINER, wide, rows=rows, validation_rows=rows, **settings)
        for rows in (ROWS, padded)
    )
    close(short, long)  # eight rows of which two are absent make one batch


@pytest.mark.parametrize("outputs,own_weight", [(None, None), (2, "rows"), (2, "entries")])
def test_weights_of_members_multiply_those_of_the_data(wide, outputs, own_weight):
    rng = np.random.default_rng(0)
    x, y = (a[:40] for a in wide)
    y = y if outputs is None else np.stack([y, rng.normal(size=40)], axis=1)
    shape = y.shape if own_weight == "entries" else (40,)
    weight = rng.integers(0, 3, shape).astype(float)
    mine = rng.integers(0, 3, (2, 40)).astype(float)
    trainer = make_trainer(MeanVarRegressor(hidden=(8,), outputs=outputs), sgd(5e-3))
    rows = (x, y) if own_weight is None else (x, y, weight)
    states, _ = fit_ensemble(KEY, trainer, rows, members=2, weights=mine, **SETTINGS)
    for i in range(2):
        total = mine[i].reshape((-1,) + (1,) * (len(shape) - 1)) * (1 if own_weight is None else weight)
        close(member(states, i), fit(key_of(i), trainer, (x, y, total), **SETTINGS)[0])


def test_bootstrap(wide):
    rows, left_out = data.bootstrap_rows(KEY, 256, 3)
    same(rows, data.bootstrap_rows(KEY, 256, 8)[0][:3])
    for drawn, rest in zip(rows, left_out, strict=True):
        assert set(drawn) | set(rest) - {-1} == set(range(256)) and not set(drawn) & set(rest)
        assert 0.55 < len(set(drawn)) / 256 < 0.72  # 1 - 1/e, give or take
    drawn, given = (
        fit_ensemble(KEY, TRAINER, wide, members=3, **how, **SETTINGS)
        for how in ({"bootstrap": True}, {"rows": rows})
    )
    same(drawn, given)


def clipped_and_scheduled(learning_rate):
    schedule = optax.exponential_decay(1.0, transition_steps=5, decay_rate=0.5)
    return optax.chain(
        optax.clip_by_global_norm(0.1), sgd(learning_rate, 0.9), optax.scale_by_schedule(schedule)
    )


SWEEPS = {
    "sgd": (sgd, {"learning_rate": [1e-3, 1e-2], "momentum": [0.9, 0.0], "weight_decay": [0.0, 0.1]}),
    "clipped and scheduled": (clipped_and_scheduled, {"learning_rate": [1e-3, 1e-2]}),
    "adam": (optax.inject_hyperparams(optax.adam), {"learning_rate": [1e-3, 1e-2], "b1": [0.9, 0.5]}),
}


@pytest.mark.parametrize(
    "name", [n if n == "sgd" else pytest.param(n, marks=pytest.mark.slow) for n in SWEEPS]
)
def test_a_sweep_is_a_fit_for_each_setting(wide, name):
    build, numbers = SWEEPS[name]
    trainer = make_trainer(MODEL, build(learning_rate=1.0))
    states, history = fit_ensemble(KEY, trainer, wide, members=2, numbers=numbers, **SETTINGS)
    for i in range(2):
        solo = fit(
            key_of(i),
            make_trainer(MODEL, build(**{name: values[i] for name, values in numbers.items()})),
            wide,
            **SETTINGS,
        )
        close((member(states.params, i), history.loss[i]), (solo[0].params, solo[1].loss))


def test_a_run_goes_on_from_given_states(wide):
    half, _ = fit_ensemble(KEY, TRAINER, wide, members=3, epochs=3)
    kept = jax.tree.map(np.array, half)
    whole, _ = fit_ensemble(KEY, TRAINER, wide, members=3, epochs=6)
    more, _ = fit_ensemble(KEY, TRAINER, wide, members=3, epochs=3, states=half)
    close(more, whole)  # in full batches, so that the order of rows doesn't matter
    same(half, kept)
    slower, _ = fit_ensemble(
        KEY, TRAINER, wide, members=3, epochs=3, states=half, numbers={"learning_rate": [0.0, 5e-3, 0.0]}
    )
    same(member(slower.params, 0), member(half.params, 0))
    close(member(slower.params, 1), member(whole.params, 1))


class Watching(Hook):
    def __init__(self, every=None, stop_at=None):
        self.every, self.stop_at, self.runs, self.seen = every, stop_at, [], []

    def after_chunk(self, run, history):
        self.runs.append(run)
        self.seen.append(int(np.max(run.cursor[0])))
        assert run.cursor[0].shape == history.loss.shape[:1]
        assert np.isfinite(history.loss[:, : self.seen[-1]]).all()
        return self.seen[-1] == self.stop_at


@pytest.mark.parametrize(
    "members,side_by_side,validated",
    [(3, 1, True), (3, 2, False), (2, 2, True), pytest.param(3, 2, True, marks=pytest.mark.slow)],
)
def test_a_run_cut_into_chunks_is_bit_identical(sinusoid, monkeypatch, members, side_by_side, validated):
    monkeypatch.setattr(places, "cores", lambda: 2 if side_by_side < members else 1)
    settings = {
        "members": members,
        "side_by_side": side_by_side,
        "epochs": CHUNK_EPOCHS + 2,
        "batch_size": 128,
    }
    settings["validation"] = sinusoid if validated else None
    hook = Watching(every=50)
    whole, cut = (fit_ensemble(KEY, TRAINER, sinusoid, hooks=hooks, **settings) for hooks in ([], [hook]))
    same(whole, cut)
    assert {50, 100} < set(hook.seen)
    # What a hook was shown stays as it was, and a run goes on from it.
    at_50 = hook.runs[hook.seen.index(50)]
    assert set(np.asarray(at_50.state.step)) == {100}

    class Resume(Hook):
        def restore(self, run):
            return at_50

    resumed, history = fit_ensemble(KEY, TRAINER, sinusoid, hooks=[Resume()], **settings)
    same(resumed, whole[0])
    same(history.loss[:, 50:], whole[1].loss[:, 50:])


def test_a_hook_stops_all_members(sinusoid):
    states, history = fit_ensemble(
        KEY, TRAINER, sinusoid, members=3, epochs=20, hooks=[Watching(every=5, stop_at=5)]
    )
    assert np.isfinite(history.loss).sum(axis=1).tolist() == [5, 5, 5] and set(states.step.tolist()) == {5}


@pytest.mark.parametrize("side_by_side", [1, 4])
def test_each_member_stops_early_by_itself(split, side_by_side):
    (x, y), held_out = split
    trainer = make_trainer(MODEL, sgd(5e-2, 0.9))
    settings = {"epochs": 200, "batch_size": 20, "validation": held_out, "patience": 4}
    states, history = fit_ensemble(
        KEY, trainer, (x[:40], y[:40]), members=4, side_by_side=side_by_side, **settings
    )
    ran = np.isfinite(history.loss).sum(axis=1)
    assert (ran == history.best_epoch + 5).all() and len(set(ran.tolist())) > 1
    assert (np.nanargmin(history.validation_nll, axis=1) == history.best_epoch).all()
    for i in range(4):
        nll = trainer.nll(member(states.params, i), held_out).mean()
        close(nll, history.validation_nll[i, history.best_epoch[i]])
        assert states.step[i] == 2 * ran[i]
    alone, solo = fit(key_of(2), trainer, (x[:40], y[:40]), **settings)
    close((member(states, 2), member(history, 2)), (alone, solo))


@pytest.mark.parametrize("side_by_side", [1, 4])
def test_members_that_diverge_keep_their_last_finite_epoch(wide, side_by_side):
    numbers = {"learning_rate": [5e-3, 1e3, 5e-3, 2e3]}
    settings = SETTINGS | {"members": 4, "side_by_side": side_by_side, "epochs": 30}
    with pytest.warns(RuntimeWarning, match=r"2 of 4 members failed: 1, 3; without_failed.*lower learning"):
        states, history = fit_ensemble(KEY, TRAINER, wide, numbers=numbers, **settings)
    assert (history.failed_epoch[[0, 2]] == -1).all() and (history.failed_epoch[[1, 3]] >= 0).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states.params))
    expected, _ = fit_ensemble(KEY, TRAINER, wide, **settings)
    close(member(states.params, 2), member(expected.params, 2))
    same(member(without_failed(states, history), 1), member(states, 2))
    # The state kept is that of a run which ends just before.
    last = int(history.failed_epoch[1])
    trainer = make_trainer(MODEL, sgd(1e3, 0.9, 1e-4))
    before, _ = fit(key_of(1), trainer, wide, epochs=last, batch_size=64)
    close(member(states.params, 1), before.params)


@pytest.mark.parametrize("side_by_side", [1, 4])
def test_parameters_that_break_are_seen_where_the_loss_is_none_the_worse(wide, side_by_side):
    def init(key, x):
        return {"params": {"used": MODEL.init(key, x), "spare": jnp.zeros((), x.dtype)}}

    def apply(variables, x):
        return MODEL.apply(variables["params"]["used"], x)

    def burst(at):
        def update(updates, count, params=None):
            own = updates["params"]
            spare = jnp.where(count + 1 == at, -jnp.inf, 0.0).astype(own["spare"].dtype)
            return {"params": own | {"spare": spare}}, count + 1

        return optax.GradientTransformation(lambda params: jnp.zeros((), int), update)

    model = SimpleNamespace(init=init, apply=apply)
    trainer = make_trainer(model, optax.chain(sgd(5e-3), optax.inject_hyperparams(burst)(at=0)))
    settings = {"members": 3, "epochs": 6, "batch_size": 64, "side_by_side": side_by_side}
    with pytest.warns(RuntimeWarning, match="2 of 3 members failed: 0, 2"):
        states, history = fit_ensemble(KEY, trainer, wide, numbers={"at": [10, 0, 1]}, **settings)
    assert history.failed_epoch.tolist() == [2, -1, 0] and states.step.tolist() == [8, 24, 0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states.params))


def test_all_members_failing_is_an_error(sinusoid):
    with pytest.raises(FloatingPointError, match=r"all 3 members failed; member 0 stopped in epoch \d+"):
        fit_ensemble(KEY, make_trainer(MODEL, sgd(1e3)), sinusoid, members=3, epochs=50, batch_size=64)


# In a process of its own, because what checks types in these tests holds arguments until a call ends.
LET_GO = """
import weakref
import jax, numpy as np
from jaxreg import Hook, MeanVarRegressor, data, fit_ensemble, make_trainer, sgd

class Looks(Hook):
    every = 1

    def begin(self, job):
        self.first = [weakref.ref(a) for name, a in job.arrays.items() if name.startswith("first state")]

    def after_chunk(self, run, history):
        print(sum(ref() is not None for ref in self.first), len(self.first) > 5)

rows = tuple(map(np.asarray, data.sinusoid(jax.random.key(0))))
trainer = make_trainer(MeanVarRegressor(hidden=(8,)), sgd(1e-2))
fit_ensemble(jax.random.key(1), trainer, rows, members=40, epochs=3, side_by_side=1, hooks=[Looks()])
"""


@pytest.mark.slow
def test_the_first_state_is_let_go_of():
    done = subprocess.run([sys.executable, "-c", LET_GO], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["0 True"] * 2


def test_one_program_serves_any_numbers_epochs_and_members(sinusoid, counting):
    def run(learning_rates, epochs):
        trainer = make_trainer(counting, sgd(1e-3))
        numbers = {"learning_rate": learning_rates}
        fit_ensemble(
            KEY, trainer, sinusoid, members=len(learning_rates), numbers=numbers, epochs=epochs,
            batch_size=64, side_by_side=1,
        )  # fmt: skip

    run(np.full(6, 1e-3), 3)
    traced = len(counting.traces)
    run(np.geomspace(1e-4, 1e-2, 6), 5)
    run(np.full(7, 1e-2), CHUNK_EPOCHS + 1)
    assert len(counting.traces) == traced


MESH_CODE = """
import jax, numpy as np
from jax.sharding import Mesh
from jaxreg import MeanVarRegressor, data, fit, fit_ensemble, make_trainer, sgd
jax.config.update("jax_num_cpu_devices", 3)
jax.config.update("jax_enable_x64", True)
rows = tuple(np.asarray(a, float) for a in data.sinusoid(jax.random.key(0)))
trainer, key = make_trainer(MeanVarRegressor(hidden=(8,)), sgd(5e-3, 0.9, 1e-4)), jax.random.key(1)
settings = {"epochs": 3, "batch_size": 64}
grid = Mesh(np.array(jax.devices()[:2]), ("members",))
for members, mesh, side_by_side in [(5, None, 2), (4, grid, None)]:
    states, history = fit_ensemble(
        key, trainer, rows, members=members, mesh=mesh, side_by_side=side_by_side, **settings
    )
    assert history.loss.shape == (members, 3)
    devices = {device for leaf in jax.tree.leaves(states.params) for device in leaf.devices()}
    assert len(devices) == (2 if mesh is grid else 3), devices
    for i in {0, members - 1}:
        state, solo = fit(jax.random.split(key, members)[i], trainer, rows, **settings)
        for ours, theirs in zip(jax.tree.leaves((states, history)), jax.tree.leaves((state, solo))):
            np.testing.assert_allclose(np.asarray(ours)[i], theirs, rtol=1e-12, atol=1e-12)
print("equal")
"""


@pytest.mark.slow
def test_members_over_the_devices_of_a_mesh():
    # In a process of its own: the number of CPU devices is fixed when JAX's backend starts.
    process = subprocess.run([sys.executable, "-c", MESH_CODE], capture_output=True, text=True)
    assert process.stdout == "equal\n", process.stderr


def rows_mesh():
    return Mesh(np.array(jax.devices()), ("rows",))


@pytest.mark.parametrize(
    "change,message",
    [
        ({"members": 0}, "members must be at least 1, got 0"),
        ({"members": -2}, "members must be at least 1, got -2"),
        ({"members": True}, "members must be a whole number, got True"),
        ({"epochs": True}, "epochs must be a whole number, got True"),
        (
            {"mesh": rows_mesh},
            r"mesh must have one axis, 'members', it has \('rows',\); batches aren't split over devices",
        ),
        ({"side_by_side": 0}, "side_by_side must be at least 1"),
        (
            {"numbers": {"learning_rate": [1e-3]}},
            r"numbers\['learning_rate'\] has shape \(1,\), expected \(2,\)",
        ),
        ({"numbers": {"lr": [1e-3, 1e-2]}}, "no 'lr'; its numbers are learning_rate, momentum, weight_decay"),
        (
            {"numbers": {"momentum": [0.9, -1.0]}},
            r"numbers\['momentum'\] must be finite and not negative, got -1",
        ),
        ({"numbers": {"momentum": [0.9, np.nan]}}, "must be finite and not negative, got nan"),
        ({"rows": [[0, 1], [2, 256]]}, "rows names row 256, the data have rows 0 to 255"),
        ({"rows": [[0, 1], [2, -2]]}, "rows names row -2"),
        ({"rows": [[0, 1]]}, r"rows has shape \(1, 2\), expected \(2, k\)"),
        ({"rows": np.ones((2, 256), bool)}, "rows must hold whole numbers, it holds bool"),
        ({"rows": [[0, 1], [-1, -1]]}, "rows has no row for member 1"),
        ({"rows": [[0, 1], [3, -1]]}, "member 1: 1 row is too few"),
        ({"rows": [[0, 1], [3, 3]]}, "member 1: the target y has one value"),
        ({"rows": [[0, 1], [2, 3]], "bootstrap": True}, "pass either bootstrap or rows"),
        ({"validation_rows": [[0], [999]]}, "validation_rows names row 999"),
        ({"validation": (np.zeros((4, 2)), np.zeros(4))}, r"validation: x has shape \(4, 2\)"),
        ({"patience": 2}, "pass validation"),
        ({"weights": np.ones(256)}, r"weights has shape \(256,\), expected \(2, 256\)"),
        ({"weights": -np.ones((2, 256))}, "weights has 512 negative values"),
        ({"weights": np.eye(2, 256) * [[0], [1]]}, "weights is zero everywhere for member 0"),
        ({"data": (np.zeros((4, 1)), np.arange(5.0))}, "x has 4 rows and y has 5"),
        ({"states": "other"}, "states must be those of this trainer"),
        ({"states": "three"}, r"states.step has shape \(3,\), expected \(2,\)"),
    ],
)
def test_bad_input_is_named_before_anything_compiles(sinusoid, monkeypatch, change, message):
    other = make_trainer(MODEL, optax.adam(1e-3))
    if change.get("states") == "other":
        change = {"states": other.init(KEY, sinusoid[0])}
    if change.get("states") == "three":
        change = {"states": fit_ensemble(KEY, TRAINER, sinusoid, members=3, epochs=0)[0]}
    if callable(change.get("mesh")):
        change = {"mesh": change["mesh"]()}
    monkeypatch.setattr(chunks, "for_all_members", None)
    settings = SETTINGS | {"members": 2, "data": sinusoid} | change
    with pytest.raises(ValueError, match=message):
        fit_ensemble(KEY, TRAINER, settings.pop("data"), **settings)


def test_numbers_of_an_optimizer_without_any(sinusoid):
    with pytest.raises(ValueError, match="none that can be swept"):
        fit_ensemble(
            KEY, make_trainer(MODEL, optax.adam(1e-3)), sinusoid, members=1, numbers={"b1": [0.9]}, epochs=1
        )


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_inside_a_transform_it_names_run_epochs(sinusoid, transform):
    with pytest.raises(ValueError, match="fit_ensemble works on the host.*run_epochs"):
        transform(lambda key: fit_ensemble(key, TRAINER, sinusoid, members=2, epochs=1)[0])(
            jax.random.split(KEY, 2)
        )


def test_no_epochs(sinusoid):
    states, history = fit_ensemble(KEY, TRAINER, sinusoid, members=2, epochs=0)
    assert history.loss.shape == (2, 0) and set(states.step.tolist()) == {0}


@pytest.mark.parametrize("hidden", [(16,), (128, 128)])
def test_a_rows_prediction_depends_on_the_rows_beside_it_by_rounding_alone(hidden):
    # Each number of rows may be another program, which sums up to 128 products of order 1 in its own order.
    model = MeanVarRegressor(hidden=hidden)
    x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    params = jax.vmap(model.init, (0, None))(jax.random.split(KEY, 2), x)
    whole = predict_ensemble(model, params, x)
    alone = predict(model, member(params, 0), x)
    for n in (1, 2, 3, 7, 8, 30, 129):
        few = predict_ensemble(model, params, x[:n])
        close((few.means, few.log_vars), (whole.means[:, :n], whole.log_vars[:, :n]), 2e-6)
        few = predict(model, member(params, 0), x[:n])
        close(few, jax.tree.map(lambda leaf, n=n: leaf[:n], alone), 2e-6)


def test_predictions_are_those_of_each_member(x64):
    model = MeanVarRegressor(hidden=(8,), outputs=2)
    x = np.random.default_rng(0).normal(size=(2 * prediction.ENSEMBLE_PREDICTION_BLOCK + 3, 3))
    params = jax.vmap(model.init, (0, None))(jax.random.split(jax.random.key(0), 3), x[:1])
    dist = predict_ensemble(model, params, x)
    assert dist.means.shape == dist.log_vars.shape == (3, len(x), 2) and dist.weights is None
    for i in range(3):
        one = predict(model, jax.tree.map(lambda leaf, i=i: leaf[i], params), x)
        np.testing.assert_allclose(dist.means[i], one.mean, rtol=1e-12)
        np.testing.assert_allclose(dist.log_vars[i], one.log_var, rtol=1e-12, atol=1e-12)
    few = predict_ensemble(model, params, x[:5].tolist())
    np.testing.assert_allclose(few.means, dist.means[:, :5], rtol=1e-12)
    traced = jax.jit(predict_ensemble, static_argnums=0)(model, params, x[:5])
    np.testing.assert_allclose(traced.log_vars, few.log_vars, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"leading axis of members, its leaves have lengths \[2, 3\]"):
        predict_ensemble(model, {**params, "other": jnp.zeros((2, 1))}, x)
    with pytest.raises(ValueError, match="missing or infinite values in x"):
        predict_ensemble(model, params, x[:2] * np.nan)


@pytest.mark.parametrize(
    "members, cores, side_by_side, bootstrap, folds",
    [
        (3, 2, None, False, None),
        (5, 1, 2, True, 4),
        (1, 1, 1, False, 3),
        pytest.param(3, 2, None, False, 3, marks=pytest.mark.slow),
        pytest.param(5, 1, 2, False, None, marks=pytest.mark.slow),
        pytest.param(1, 1, 1, True, 4, marks=pytest.mark.slow),
    ],
)
def test_members_on_a_source_step_through_its_batches(
    sinusoid, as_source, x64, monkeypatch, members, cores, side_by_side, bootstrap, folds
):
    """Each is a loop of `trainer.step` over the same batches with its own weights of the rows."""
    monkeypatch.setattr(prediction, "cores", lambda: cores)
    x, y = (a.astype(np.float64) for a in sinusoid)
    source, epochs = as_source(x, y), 3
    given = {"epochs": epochs, "batch_size": 40, "bootstrap": bootstrap, "folds": folds}
    states, history = fit_ensemble(
        KEY, TRAINER, source, members=members, side_by_side=side_by_side, patience=folds and 99, **given
    )
    of_fold = np.zeros(len(x), int) if folds is None else data.row_folds(KEY, np.arange(len(x)), folds)
    total = 0
    for i, key in enumerate(jax.random.split(KEY, members)):
        state = TRAINER.init(key, x)
        for epoch in range(epochs):
            losses, weights = [], []
            (block,) = source.stream([*data.key_words(KEY), epoch], batch_size=40, batches=7)
            for numbers, *batch in zip(*block, strict=True):
                weight = (numbers >= 0).astype(float)
                if folds is not None:
                    weight *= of_fold[numbers] != i % folds
                if bootstrap:
                    drawn = feeds.poisson(key, np.zeros(40, np.uint32), numbers.astype(np.uint32))
                    weight *= np.asarray(drawn)
                    total += weight.sum() / members / epochs
                state, loss = TRAINER.step(state, (*batch, weight))
                losses.append(float(loss))
                weights.append(weight.sum())
            np.testing.assert_allclose(
                history.loss[i, epoch], np.average(losses, weights=weights), rtol=1e-12
            )
            if folds is not None:
                own = of_fold == i % folds
                score = TRAINER.score(state.params, (x[own], y[own]))
                np.testing.assert_allclose(history.validation_nll[i, epoch], score, rtol=1e-12)
        close(member(states.opt_state, i), state.opt_state)
        if folds is None:
            close(member(states.params, i), state.params)
    if bootstrap:
        assert 0.8 * 256 * (1 - 1 / folds) < total < 1.2 * 256 * (1 - 1 / folds)


def test_draws_for_rows_are_poisson():
    numbers = np.arange(100_000, dtype=np.uint32)
    drawn = np.asarray(feeds.poisson(KEY, np.zeros_like(numbers), numbers))
    counts = np.bincount(drawn, minlength=8)[:8] / len(drawn)
    np.testing.assert_allclose(counts, scipy.stats.poisson.pmf(np.arange(8), 1), atol=0.006)
    other = np.asarray(feeds.poisson(KEY, np.ones_like(numbers), numbers))
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.01


def test_what_a_source_has_no_use_for(sinusoid, as_source):
    source, some = as_source(*sinusoid), [[0, 1], [2, 3]]
    for given, words in (
        ({"rows": some}, "rows name rows in memory"),
        ({"weights": np.ones((2, 256))}, "weights name rows in memory"),
        ({"validation_rows": some}, "validation_rows of a source need validation"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"folds": 10**6}, "256 rows are too few for 1000000 folds"),
        ({"batch_size": None}, "need a batch_size"),
    ):
        with pytest.raises(ValueError, match=words):
            fit_ensemble(KEY, TRAINER, source, members=2, epochs=1, **{"batch_size": 32, **given})
    with pytest.raises(ValueError, match="folds are for rows that come from a source"):
        fit_ensemble(KEY, TRAINER, sinusoid, members=2, epochs=1, folds=2)


def test_a_member_that_fails_on_a_source_lets_the_others_be(sinusoid, as_source):
    given = {"members": 3, "epochs": 4, "batch_size": 30, "numbers": {"learning_rate": [5e-3, 1e18, 5e-3]}}
    with pytest.warns(RuntimeWarning, match="1 of 3 members failed: 1"):
        states, history = fit_ensemble(KEY, TRAINER, as_source(*sinusoid), **given)
    assert history.failed_epoch.tolist() == [-1, 0, -1]
    assert np.isfinite(history.loss).tolist() == [[True] * 4, [False] * 4, [True] * 4]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states.params))
    assert states.step.tolist() == [36, 0, 36]


@pytest.mark.slow
def test_fewer_members_side_by_side_where_memory_holds_no_more(sinusoid, monkeypatch):
    real, limit = chunks._advance, 3
    asked = []

    def limited(*arguments, how):
        asked.append(how.side_by_side)
        if how.side_by_side > limit:
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes"
            )
        return real(*arguments, how=how)

    mesh = Mesh(np.array(jax.devices()[:1]), ("members",))
    settings = {"members": 10, "mesh": mesh, **SETTINGS}
    expected = fit_ensemble(KEY, TRAINER, sinusoid, side_by_side=3, **settings)
    monkeypatch.setattr(chunks, "_advance", limited)
    with pytest.warns(RuntimeWarning, match="10 members side by side need more memory.* 3 at a time"):
        found = fit_ensemble(KEY, TRAINER, sinusoid, side_by_side=10, **settings)
    same(found, expected)
    assert list(dict.fromkeys(asked)) == [10, 5, 3]
    limit = 0
    with (
        pytest.warns(RuntimeWarning, match=" 1 at a time"),
        pytest.raises(MemoryError, match="there isn't enough memory .*smaller layers"),
    ):
        fit_ensemble(KEY, TRAINER, sinusoid, side_by_side=10, **settings)
    monkeypatch.setattr(chunks, "memory_of", lambda device: 1_000)
    with pytest.raises(MemoryError, match=r"states take .* GB before and after a step, and .* has 1e-06 GB"):
        fit_ensemble(KEY, TRAINER, sinusoid, **settings)


@pytest.mark.slow
def test_precision_of_products(sinusoid):
    class Program(Hook):
        def begin(self, job):
            self.text = job.program()

    marks = {"float32": "HIGHEST", "tf32": "HIGH,", "bfloat16": "bf16"}
    for precision in (None, *marks):
        for train, given in ((fit, {}), (fit_ensemble, {"members": 2})):
            hook = Program()
            train(KEY, TRAINER, sinusoid, hooks=[hook], precision=precision, **given, **SETTINGS)
            products = [line for line in hook.text.splitlines() if "dot_general" in line]
            assert products
            for name, mark in marks.items():
                wanted = name == (precision or "float32")  # which the tests ask for where nothing is said
                assert [mark in line for line in products] == [wanted] * len(products)
    with pytest.raises(ValueError, match="precision must be None or one of float32, tf32, bfloat16"):
        fit(KEY, TRAINER, sinusoid, precision="half", **SETTINGS)


def test_devices_of_different_kinds_are_refused():
    kinds = [SimpleNamespace(device_kind=kind, platform="gpu") for kind in ("A100", "H100")]
    mesh = SimpleNamespace(devices=np.array(kinds), shape={"members": 2})
    with pytest.raises(ValueError, match=r"different kinds \(A100, H100\).*CUDA_VISIBLE_DEVICES"):
        places.lay_out(4, 1, places.Place(mesh, 0, 4, {0: (0, 4)}), None)


def test_what_is_computed_on(monkeypatch):
    assert re.fullmatch(r"\d+ cores? of a CPU", places.computed_on())
    devices = [SimpleNamespace(device_kind="H100", platform="gpu")] * 2
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert places.computed_on() == "2 times H100"
    monkeypatch.setattr(jax, "local_devices", lambda: devices[:1])
    assert places.computed_on() == "H100"


def test_a_gpu_that_is_not_used(monkeypatch, tmp_path):
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "GPU_FILES", (tmp_path / "none",))
    assert machine.unused_gpu("cpu") is None
    monkeypatch.setattr(machine, "GPU_FILES", (tmp_path,))
    assert machine.unused_gpu("gpu") is None and "jaxreg[cuda]" in machine.unused_gpu("cpu")
    for name, value in (("JAX_PLATFORMS", "cpu"), ("CUDA_VISIBLE_DEVICES", "")):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            assert machine.unused_gpu("cpu") is None
