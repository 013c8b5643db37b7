"""A run that goes on is, bit for bit, the one that was never stopped."""

import copy
import os
import pickle
import signal
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from filelock import FileLock
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jaxreg import Hook, MeanVarRegressor, beta_nll, data, fit, fit_ensemble, make_trainer, sgd
from jaxreg.estimator import DeepEnsembleRegressor
from jaxreg.model import checkpoints
from jaxreg.model.checkpoints import Checkpoint, Interrupted, StopOnSignal
from jaxreg.model.store import Store
from jaxreg.training import feeds

MODEL = MeanVarRegressor(hidden=(8,))
TRAINER = make_trainer(MODEL, sgd(5e-3, 0.9, 1e-4))
KEY = jax.random.key(1)
ROWS = tuple(np.asarray(a) for a in data.sinusoid(jax.random.key(0)))
HELD_OUT = tuple(np.asarray(a) for a in data.sinusoid(jax.random.key(2), 64))
SETTINGS = {"epochs": 20, "batch_size": 64}


class StopAt(Hook):
    """Ends a run as a crash would, after so many epochs."""

    def __init__(self, epoch):
        self.every = epoch

    def after_chunk(self, run, history):
        if int(np.max(run.cursor[0])) == self.every:
            raise RuntimeError("stopped")


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def run(*hooks, trainer=TRAINER, table=ROWS, key=KEY, **settings):
    settings = SETTINGS | settings
    return (fit_ensemble if "members" in settings else fit)(key, trainer, table, hooks=hooks, **settings)


def stopped(folder, at=7, every=5, **settings):
    with pytest.raises(RuntimeError, match="stopped"):
        run(Checkpoint(folder, every), StopAt(at), **settings)


OWN = np.random.default_rng(0).permutation(100).reshape(2, 50)
KINDS = {
    "one network": {},
    "with validation": {"validation": HELD_OUT, "patience": 3},
    "an ensemble": {"members": 3},
    "members by themselves": {"members": 3, "side_by_side": 1, "validation": HELD_OUT, "patience": 2},
    "rows of their own": {"members": 2, "rows": OWN[:, :40], "validation_rows": OWN[:, 40:]},
    "weights": {"members": 2, "weights": np.random.default_rng(0).uniform(0, 2, (2, 256))},
    "a sweep": {"members": 2, "numbers": {"learning_rate": np.array([1e-3, 1e-2])}},
    "another optimizer": {"trainer": make_trainer(MODEL, optax.adam(1e-3))},
    "bfloat16": {"trainer": make_trainer(MODEL, optax.adam(1e-3, mu_dtype=jnp.bfloat16))},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, kind):
    whole = run(**KINDS[kind])
    stopped(tmp_path / "kept", **KINDS[kind])
    hook = Checkpoint(tmp_path / "kept", every=5, resume=True)
    same(run(hook, **KINDS[kind]), whole)
    assert hook.resumed_epoch == 7
    after_the_end = Checkpoint(tmp_path / "kept", every=5, resume=True)
    same(run(after_the_end, **KINDS[kind]), whole)
    assert after_the_end.resumed_epoch == int(np.isfinite(whole[1].loss).sum(axis=-1).max())


LONGER = "one network", "with validation", "members by themselves"


@pytest.mark.parametrize(
    "kind", [kind if kind in LONGER else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_a_run_goes_on_for_more_epochs(tmp_path, kind):
    given = KINDS[kind] | ({"patience": 20} if "patience" in KINDS[kind] else {})
    whole, (_, first) = run(epochs=20, **given), run(Checkpoint(tmp_path), epochs=10, **given)
    hook = Checkpoint(tmp_path, resume=True)
    same(again := run(hook, epochs=20, **given), whole)
    same(again[1].loss[..., :10], first.loss)
    assert hook.resumed_epoch == 10 and np.isfinite(again[1].loss).all()
    with pytest.raises(ValueError, match="epochs 20 there and 10 here"):
        run(Checkpoint(tmp_path, resume=True), epochs=10, **given)


def test_a_run_that_patience_ended_stays_ended(tmp_path):
    lasting = {"validation": HELD_OUT, "patience": 2, "trainer": make_trainer(MODEL, sgd(0.2))}
    ended = run(Checkpoint(tmp_path), epochs=50, **lasting)
    epochs = np.isfinite(ended[1].loss).sum()
    assert epochs < 50
    state, history = run(Checkpoint(tmp_path, resume=True), epochs=80, **lasting)
    same((state, history.best_epoch), (ended[0], ended[1].best_epoch))
    assert np.isfinite(history.loss).sum() == epochs and history.loss.shape == (80,)


def test_in_float64(tmp_path, x64):
    rows = tuple(a.astype(np.float64) for a in ROWS)
    whole = run(table=rows)
    stopped(tmp_path, table=rows)
    same(run(Checkpoint(tmp_path, resume=True), table=rows), whole)


def test_the_last_few_are_kept(tmp_path):
    run(Checkpoint(tmp_path, every=3, keep=4))
    assert sorted(path.name for path in tmp_path.glob("epoch_*")) == [
        f"epoch_{i}.jaxreg" for i in (12, 15, 18, 20)
    ]


def test_from_an_empty_folder_it_begins_at_the_start(tmp_path):
    with pytest.warns(UserWarning, match=f"{tmp_path} holds no checkpoint: the run begins at its start"):
        same(run(Checkpoint(tmp_path, resume=True)), run())


OTHERS = {
    "fewer epochs": ({"epochs": 19}, "epochs 20 there and 19 here"),
    "epochs and more": ({"epochs": 21, "batch_size": 32}, "batch_size 64 .*epochs 20 there and 21 here"),
    "batch_size": ({"batch_size": 32}, "batch_size 64 there and 32 here"),
    "patience": (
        {"validation": HELD_OUT, "patience": 2},
        "patience .*other model, loss, optimizer or batches",
    ),
    "data": ({"table": (ROWS[0], ROWS[1] + 1)}, "of another run: other y: "),
    "key": ({"key": jax.random.key(2)}, "other key"),
    "learning rate": ({"trainer": make_trainer(MODEL, sgd(6e-3, 0.9, 1e-4))}, "learning_rate"),
    "loss": ({"trainer": make_trainer(MODEL, sgd(5e-3, 0.9, 1e-4), beta_nll(0.5))}, "other model, loss"),
    "model": ({"trainer": make_trainer(MeanVarRegressor((9,)), sgd(5e-3, 0.9, 1e-4))}, "model.* and . more"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_run_is_refused_by_name(tmp_path, what):
    stopped(tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    change, message = OTHERS[what]
    with pytest.raises(ValueError, match=message):
        run(Checkpoint(tmp_path, resume=True), **change)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    same(run(Checkpoint(tmp_path, resume=True)), run())


def test_other_versions_are_refused_and_other_cores_warned_of(tmp_path, monkeypatch):
    stopped(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "version", lambda name: "0.0.1" if name == "jax" else "1")
        with pytest.raises(ValueError, match="version of jax '.*' there and '0.0.1' here"):
            run(Checkpoint(tmp_path, resume=True))
    monkeypatch.setattr(checkpoints, "cores", lambda: 64)
    with pytest.warns(UserWarning, match="cores . there and 64 here.*last bits may differ"):
        same(run(Checkpoint(tmp_path, resume=True)), run())


def test_what_a_user_gave_has_to_be_equal(tmp_path):
    with pytest.raises(RuntimeError):
        run(Checkpoint(tmp_path, about={"file": "a.csv"}), StopAt(7))
    with pytest.raises(ValueError, match="file 'a.csv' there and 'b.csv' here"):
        run(Checkpoint(tmp_path, resume=True, about={"file": "b.csv"}))


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def rewritten(path, other=None, **changes):
    """As a file that safetensors has nothing against."""
    with safe_open(path, framework="numpy") as file:
        metadata = {name: text.replace(*other or ("", "")) for name, text in file.metadata().items()}
    save_file(load_file(path) | changes, path, metadata=metadata)


DAMAGES = {
    "a byte": (flipped, ""),
    "the end": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "it is truncated"),
    "nothing left": (lambda path: path.write_bytes(b""), "it is truncated"),
    "an array": (
        lambda path: rewritten(path, **{"0000": np.zeros((1, 8), np.float32)}),
        "it is damaged: its content isn't what",
    ),
    "the description": (
        lambda path: rewritten(path, ('"epochs": 20', '"epochs": 19')),
        "it is damaged: its content isn't what",
    ),
    "the digest": (
        lambda path: rewritten(path, ('"sha256"', '"sha257"')),
        "it is damaged: its digest is missing",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, what):
    damage, words = DAMAGES[what]
    whole = run()
    stopped(tmp_path, at=12)
    damage(tmp_path / "epoch_12.jaxreg")
    hook = Checkpoint(tmp_path, every=5, resume=True)
    message = f"checkpoint {tmp_path / 'epoch_12.jaxreg'} is damaged .*{words}.*the one before it is used"
    with pytest.warns(UserWarning, match=message):
        same(run(hook), whole)
    assert hook.resumed_epoch == 10 and (tmp_path / "epoch_12.jaxreg.damaged").exists()


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    for name in ("1", "2", "2024", "notes", "epoch_x", "epoch_2.csv"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.txt").write_text("precious")
    stopped(tmp_path)
    same(run(Checkpoint(tmp_path, every=2, keep=1, resume=True)), run())
    assert len(list(tmp_path.glob("*/data.txt"))) == 6


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "name",
    ["epoch_10", "batch_7", "epoch_007", "epoch_10/default", "trial/epoch_3", "epoch_3.jaxreg"],
)
def test_what_only_has_the_name_of_a_checkpoint_is_refused_and_left_alone(tmp_path, name, resume):
    precious = tmp_path / name / "data.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    folder = str(tmp_path / name).removesuffix("/default")
    with pytest.raises(ValueError, match=f"{folder} has the name of a checkpoint, but no run wrote it"):
        Checkpoint(tmp_path, resume=resume).check()
    hook = Checkpoint(tmp_path, every=2, keep=1, resume=resume)
    with pytest.raises(ValueError, match=f"{folder} has the name"):
        run(hook) if "trial" not in name else run(hook.for_trial())
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["epoch_10/default/run.npz", "trial/batch_3/_CHECKPOINT_METADATA"])
def test_checkpoints_of_an_earlier_version_are_refused_by_name(tmp_path, name, resume):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    folder = tmp_path / "trial" if "trial" in name else tmp_path
    words = f"^{folder} holds checkpoints of an earlier version of jaxreg: begin anew in another folder"
    with pytest.raises(ValueError, match=words):
        Checkpoint(tmp_path, resume=resume).check()
    assert path.read_text() == "precious"


def test_a_damaged_checkpoint_takes_no_name_that_is_used(tmp_path):
    for name in ("epoch_12.jaxreg.damaged", "epoch_12.jaxreg.damaged_2"):
        (tmp_path / name).write_text("precious")
    stopped(tmp_path, at=12)
    (tmp_path / "epoch_12.jaxreg").write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged"):
        same(run(Checkpoint(tmp_path, every=5, resume=True)), run())
    put_aside = sorted(tmp_path.glob("epoch_12.jaxreg.damaged*"))
    assert [path.read_text() for path in put_aside] == ["precious", "precious", ""]


def test_what_a_killed_process_left_half_written_is_deleted(tmp_path):
    left = tmp_path / ".epoch_3.jaxreg.ab12cd_4.part"
    others = ".epoch_x.jaxreg.ab12cd34.part", ".model.jaxreg.ab12cd34.part", ".epoch_3.part", "a.part"
    kept = [tmp_path / name for name in others]
    for path in (left, *kept):
        path.write_bytes(b"precious")
    run(Checkpoint(tmp_path))
    assert not left.exists() and all(path.exists() for path in kept)


def test_a_bit_that_flips_is_found(tmp_path):
    run(Checkpoint(tmp_path))
    store = Store(tmp_path, "epoch", keep=3)
    whole, rng = store.path(20).read_bytes(), np.random.default_rng(0)
    store.load(20)
    for bit in rng.choice(8 * len(whole), 1000, replace=False):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        store.path(20).write_bytes(changed)
        with pytest.raises(ValueError, match=f"^{store.path(20)} "):
            store.load(20)


def test_a_full_disk_is_named_and_nothing_half_written_left(tmp_path, monkeypatch):
    stopped(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())

    def fail(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(OSError, match=f"of epoch 10 can't be written to {tmp_path}: .*No space left"):
            run(Checkpoint(tmp_path, every=5, resume=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    same(run(Checkpoint(tmp_path, every=5, resume=True)), run())


def test_a_hook_that_has_been_used(tmp_path):
    hook = Checkpoint(tmp_path)
    run(hook)
    again = pickle.loads(pickle.dumps(copy.deepcopy(hook)))
    assert vars(again) == vars(hook)
    with StopOnSignal() as stop:
        stop.signal = signal.SIGINT
        with pytest.raises(Interrupted):
            run(stop)
    with stop:  # another run, of which nothing was asked yet
        same(run(stop), run())


def test_a_trial_that_the_clock_stopped_is_not_tried_again(tmp_path):
    """Else it would find another scale, which the checkpoints don't have."""
    stopped(tmp_path, at=10)
    stopped(tmp_path / "trial", at=7)
    inner = Checkpoint(tmp_path, every=5, resume=True).for_trial()
    state, history = run(inner)
    assert inner.resumed_epoch == 7 and np.isfinite(history.loss).sum() == 7


def test_only_damaged_ones(tmp_path):
    stopped(tmp_path, at=5)
    (tmp_path / "epoch_5.jaxreg").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(ValueError, match=f"every checkpoint in {tmp_path} is damaged"),
    ):
        run(Checkpoint(tmp_path, resume=True))


def test_folders_that_cannot_be_used(tmp_path, monkeypatch):
    stopped(tmp_path / "used")
    with pytest.raises(ValueError, match="used holds checkpoints of an earlier run: resume it"):
        run(Checkpoint(tmp_path / "used"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file can't be made: File exists"):
        run(Checkpoint(tmp_path / "file"))
    with pytest.raises(ValueError, match="a/b can't be made: No such file"):
        run(Checkpoint(tmp_path / "a" / "b"))
    with FileLock(tmp_path / "used" / "lock"), pytest.raises(ValueError, match="another run keeps its"):
        run(Checkpoint(tmp_path / "used", resume=True))
    refused = {"every": "must be a positive number of epochs", "keep": "must be at least 1"}
    for name, words in refused.items():
        settings = {name: 0}
        with pytest.raises(ValueError, match=f"{name} {words}, got 0"):
            Checkpoint(tmp_path, **settings)
    same(run(Checkpoint(tmp_path / "used", resume=True)), run())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_and_keeps_it(tmp_path, number):
    class Send(Hook):
        every = 6

        def after_chunk(self, run, history):
            if int(run.cursor[0]) == 6:
                os.kill(os.getpid(), number)

    before = [signal.getsignal(one) for one in StopOnSignal.SIGNALS]
    with StopOnSignal() as stop, pytest.raises(Interrupted, match=f"{number.name} after epoch 6") as caught:
        run(Checkpoint(tmp_path), Send(), stop)
    assert caught.value.signal == number and isinstance(caught.value, KeyboardInterrupt)
    assert [signal.getsignal(one) for one in StopOnSignal.SIGNALS] == before
    hook = Checkpoint(tmp_path, resume=True)
    same(run(hook), run())
    assert hook.resumed_epoch == 6


def test_a_second_signal_ends_it_at_once():
    with StopOnSignal(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_no_signals_in_other_threads():
    before = signal.getsignal(signal.SIGINT)

    def enter():
        with StopOnSignal():
            assert signal.getsignal(signal.SIGINT) == before

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()


@pytest.mark.slow
def test_the_estimator_with_its_trial(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 2))
    y = x[:, 0] + 0.1 * rng.normal(size=80)
    small = {"members": 2, "hidden": (8,), "frequencies": 2, "noise": 1, "epochs": 12, "random_state": 0}

    def estimate(*hooks):
        return DeepEnsembleRegressor(**small, hooks=hooks).fit(x, y)

    whole = estimate()
    with pytest.raises(RuntimeError):
        estimate(Checkpoint(tmp_path / "kept", every=4), StopAt(8))
    again = estimate(Checkpoint(tmp_path / "kept", every=4, resume=True))
    same(again.members_, whole.members_)
    same(tuple(again.history_), tuple(whole.history_))
    assert again.calibration_.factor == whole.calibration_.factor

    class InTrial(StopAt):
        def for_trial(self):
            return self

    with pytest.raises(RuntimeError):
        estimate(Checkpoint(tmp_path / "early", every=1), InTrial(2))
    assert [path.name for path in (tmp_path / "early").iterdir()] == ["trial"]
    with pytest.warns(UserWarning, match="holds no checkpoint"):
        same(estimate(Checkpoint(tmp_path / "early", every=1, resume=True)).members_, whole.members_)


MORE = {"members": 3, "folds": 3, "patience": 2, "bootstrap": True}


@pytest.mark.parametrize("settings", [{}, pytest.param(MORE, marks=pytest.mark.slow)])
def test_a_run_on_a_source_goes_on_within_an_epoch(tmp_path, as_source, monkeypatch, settings):
    monkeypatch.setattr(feeds, "BLOCK_ROWS", 60)

    class Crash(Hook):
        every = 0.2

        def after_chunk(self, run, history):
            if run.position == (1, 2):
                raise RuntimeError("stopped")

    given = {"table": as_source(*ROWS), "epochs": 4, "batch_size": 30, **settings}
    whole = run(**given)
    with pytest.raises(RuntimeError, match="stopped"):
        run(Checkpoint(tmp_path, 0.5), Crash(), **given)
    kept = sorted(path.name for path in tmp_path.glob("batch_*"))
    # The crash, and where half an epoch was over.
    assert kept == ["batch_11.jaxreg", "batch_6.jaxreg", "batch_9.jaxreg"]
    hook = Checkpoint(tmp_path, 0.5, resume=True)
    same(run(hook, **given), whole)
    assert hook.resumed_epoch == 1
    longer = {**given, "epochs": 6}
    same(run(Checkpoint(tmp_path, 0.5, resume=True), **longer), run(**longer))
    given = longer
    with pytest.raises(ValueError, match="other x"):
        other = as_source(ROWS[0] + 1, ROWS[1])
        run(Checkpoint(tmp_path, 0.5, resume=True), **{**given, "table": other})
    with pytest.raises(ValueError, match="batch_size 30 there and 20 here"):
        run(Checkpoint(tmp_path, 0.5, resume=True), **{**given, "batch_size": 20})


def test_a_signal_within_an_epoch_says_where(as_source):
    with StopOnSignal() as stop:
        stop.every = 0.5
        stop._came(signal.SIGTERM, None)
        with pytest.raises(Interrupted, match="SIGTERM after epoch 0 and 5 batches") as caught:
            run(stop, table=as_source(*ROWS), batch_size=30)
    assert (caught.value.epoch, caught.value.batch) == (0, 5)


def test_checkpoints_of_a_trial_alone_are_an_earlier_run_too(tmp_path):
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "epoch_20.jaxreg").touch()
    with pytest.raises(ValueError, match="holds checkpoints of an earlier run"):
        Checkpoint(tmp_path).check()
    Checkpoint(tmp_path, resume=True).check()
