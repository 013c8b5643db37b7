"""Hooks of `fit`: checkpoints, from which a run goes on bit for bit, and an orderly end on Ctrl-C."""

import hashlib
import json
import math
import platform
import re
import signal
import threading
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock, Timeout

from jaxreg.files import check_folder
from jaxreg.machine import cores
from jaxreg.model.archive import FORMAT
from jaxreg.model.store import SUFFIX, Store
from jaxreg.plain import warn
from jaxreg.training import History, Hook, Job, Run
from jaxreg.training.hooks import periods

LIBRARIES = ("jaxreg", "jax", "jaxlib", "flax", "optax", "numpy")
# What of a run may differ from its checkpoint's, with a warning: the bits may then differ too.
TOLERATED = ("cores",)
# Checkpoints are called epoch_12.jaxreg or batch_345.jaxreg, so that nobody else's files are taken for one.
PREFIXES = "epoch", "batch"
CHECKPOINT = re.compile(rf"({'|'.join(PREFIXES)})_\d+({re.escape(SUFFIX)})?")
# What a folder epoch_12 of earlier versions holds.
EARLIER = "_CHECKPOINT_METADATA", "commit_success.txt", "default/run.npz"
RUNNING = ("_store", "_lock", "_latest", "_job")
MOST_SHOWN = 6


class Checkpoint(Hook):
    """Keeps a run in a folder, and goes on from there.

    A run that goes on is, bit for bit, the one that was never stopped: parameters, history and early
    stopping. It may go on for more epochs than it began with, unless patience ended it. That holds on the
    same kind of device, number of cores, dtype and versions, which a checkpoint records; one of other data,
    settings or versions is refused by name of what differs. Each process of a run over many keeps its own
    members, in a folder `process_3` within.

    Args:
        folder: where checkpoints are kept; made if its parent is there. One run has it for itself.
        every: epochs between two checkpoints, of a source also a share of one, 0.1 for example. One more is
            written at the end, however it comes.
        keep: how many of the last checkpoints stay.
        resume: go on from the last good checkpoint, or from the beginning, with a warning, where there is
            none. Without it the folder must hold none.
        about: more that has to be equal, by name, for example the settings that were given.

    Raises:
        ValueError: when the run begins, if the folder can't be used, holds checkpoints of another run, only
            damaged ones, or something else of a checkpoint's name, or is in use.

    Warns:
        UserWarning: names a damaged checkpoint, in whose place the one before is used; and says so where
            there is none, or where the number of cores is another one.

    >>> import jax, tempfile
    >>> from jaxreg import MeanVarRegressor, data, fit, make_trainer, sgd
    >>> from jaxreg.checkpoints import Checkpoint
    >>> trainer = make_trainer(MeanVarRegressor(hidden=(8,)), sgd(5e-3))
    >>> rows, folder = data.sinusoid(jax.random.key(0)), tempfile.mkdtemp()
    >>> run = lambda hook: fit(jax.random.key(1), trainer, rows, epochs=6, hooks=[hook])
    >>> state, history = run(Checkpoint(folder, every=2))
    >>> again, same = run(Checkpoint(folder, every=2, resume=True))  # reads the result
    >>> bool((same.loss == history.loss).all())
    True
    """

    def __init__(
        self,
        folder: str | Path,
        every: float | int = 50,
        *,
        keep: int = 3,
        resume: bool = False,
        about: Mapping[str, Any] | None = None,
    ):
        if not 0 < every < math.inf:
            raise ValueError(f"every must be a positive number of epochs, got {every}")
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.folder, self.every, self.keep, self.resume = Path(folder), every, keep, resume
        self.about = dict(about or {})
        self.resumed_epoch: int | None = None
        self._per_epoch, self._prefix, self._written = 1, PREFIXES[0], 0
        self.quiet = self.over = False
        self._store: Store | None = None
        self._lock: FileLock | None = None
        self._latest: Run | None = None
        self._job: dict[str, Any] | None = None

    @property
    def _own_folder(self) -> Path:
        """Where this process keeps its part."""
        return self.folder / f"process_{jax.process_index()}" if jax.process_count() > 1 else self.folder

    def check(self) -> None:
        """Raise if the folder can't be used, or holds checkpoints that aren't to be resumed."""
        self._check(trial=True)

    def _check(self, *, trial: bool) -> None:
        check_folder(self.folder)
        if self._own_folder != self.folder:
            check_folder(self._own_folder)
        if self._kept(trial=trial) and not self.resume:
            raise ValueError(
                f"{self.folder} holds checkpoints of an earlier run: resume it, or choose another folder"
            )

    def for_trial(self) -> "Checkpoint":
        """The same in a folder within, for a run that prepares this one."""
        check_folder(self.folder)
        inner = Checkpoint(
            self.folder / "trial", self.every, keep=self.keep, resume=self.resume, about=self.about
        )
        inner.quiet = True
        # What it found has been used; a clock that stopped it must not let it find another thing.
        inner.over = self.resume and self._kept(trial=False)
        return inner

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to a run under way."""
        return {name: value for name, value in vars(self).items() if name not in RUNNING} | dict.fromkeys(
            RUNNING
        )

    def _kept(self, *, trial: bool) -> bool:
        """Whether there are checkpoints, of the run or of one that prepares it; raise for what isn't one."""
        within = [self._own_folder]
        if trial:
            within.append(self.folder / "trial" / self._own_folder.relative_to(self.folder))
        paths = [path for folder in within if folder.is_dir() for path in folder.iterdir()]
        for path in paths:
            _check_written(path)
        return any(CHECKPOINT.fullmatch(path.name) for path in paths)

    def begin(self, job: Job) -> None:
        """Take the folder."""
        self._latest = None
        self._check(trial=False)  # this run's own trial may be over
        self._lock = FileLock(self._own_folder / "lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(
                f"another run keeps its checkpoints in {self.folder}: wait for its end, or choose another "
                "folder"
            ) from None
        self._job = _described(job, self.about)
        # A run on a source may end within an epoch: its checkpoints are counted in batches.
        per_epoch = job.settings.get("batches_per_epoch")
        self._per_epoch, self._prefix, self._written = per_epoch or 1, PREFIXES[per_epoch is not None], 0
        self._store = Store(self._own_folder, self._prefix, self.keep)

    def restore(self, run: Run) -> Run:
        """The run where its last good checkpoint left it."""
        if not self.resume:
            return run
        steps = self._store.steps()[::-1]
        good = next(filter(None, map(self._readable, steps)), None)
        if steps and good is None:
            raise ValueError(f"every checkpoint in {self.folder} is damaged: begin anew in another folder")
        if good is None:
            if not self.quiet:
                warn(f"{self.folder} holds no checkpoint: the run begins at its start")
            return run
        step, about, arrays = good
        self._check_same(about)
        self.resumed_epoch = step // self._per_epoch
        self._written = self._periods(step)
        run = _unpacked(run, arrays)
        return run._replace(active=run.active & (not self.over))

    def _readable(self, step: int) -> tuple[int, dict, dict[str, np.ndarray]] | None:
        """A checkpoint, or None, with a warning, where it is damaged."""
        try:
            header, arrays = self._store.load(step)
            return step, header["job"], arrays
        except (OSError, ValueError) as error:
            path = self._store.path(step)
            reason = _one_line(str(error).replace(str(path), "it"))
            warn(f"the checkpoint {path} is damaged ({reason}), the one before it is used")
            self._store.put_aside(step)
            return None

    def after_chunk(self, run: Run, history: History) -> None:
        """Keep the run at each multiple of `every` epochs."""
        self._latest = run
        over = self._periods(self._step(run))
        if over > self._written:
            self._write()
            self._written = over

    def close(self) -> None:
        """Keep the run as it ended, and give the folder back."""
        try:
            if self._latest is not None:
                self._write()
        finally:
            if self._lock is not None:
                self._lock.release()
            self._store = self._lock = self._latest = self._job = None

    def _step(self, run: Run) -> int:
        """Epochs that are done, or batches of all epochs."""
        epoch, batch = run.position
        return epoch * self._per_epoch + batch

    def _periods(self, step: int) -> int:
        return periods(step / self._per_epoch, self.every)

    def _write(self) -> None:
        run = self._latest
        step = self._step(run)
        if step in self._store.steps():
            return
        header = {"format": FORMAT, "versions": {"jaxreg": version("jaxreg")}, "job": self._job}
        try:
            self._store.save(step, header, _packed(run))
        except OSError as error:
            self._latest = None
            raise OSError(
                f"the checkpoint of {self._prefix} {step} can't be written to {self.folder}: "
                f"{_one_line(str(error.__cause__ or error))}"
            ) from error

    def _check_same(self, theirs: dict) -> None:
        """Raise unless the checkpoint is one of this run."""
        names = {name for name in {**self._job, **theirs} if self._job.get(name) != theirs.get(name)}
        # The program is the same for any number of epochs.
        longer = {"epochs"} if theirs.get("epochs", math.inf) < self._job["epochs"] else set()
        if names - longer - set(TOLERATED):
            raise ValueError(
                f"the checkpoints in {self.folder} are of another run: {self._differences(theirs, names)}: "
                "resume with what it had, or choose another folder"
            )
        if names - longer:
            warn(
                f"the run goes on on another machine than it began on "
                f"({self._differences(theirs, names - longer)}): its last bits may differ"
            )

    def _differences(self, theirs: dict, names: set[str]) -> str:
        """Some of what differs, in the order in which it was described."""
        ordered = [name for name in {**self._job, **theirs} if name in names]
        shown = [_difference(name, theirs.get(name), self._job.get(name)) for name in ordered[:MOST_SHOWN]]
        more = [f"and {len(names) - MOST_SHOWN} more"] if len(names) > MOST_SHOWN else []
        return "; ".join(shown + more)


class Interrupted(KeyboardInterrupt):
    """A signal ended a run after a chunk of epochs, or of batches of a source.

    Attributes:
        signal: its number.
        epoch: epochs that were done.
        batch: batches of the next epoch that were done.
    """

    def __init__(self, number: int, epoch: int, batch: int = 0):
        more = f" and {batch:,} batches" if batch else ""
        super().__init__(f"{signal.Signals(number).name} after epoch {epoch}{more}")
        self.signal, self.epoch, self.batch = number, epoch, batch


class StopOnSignal(Hook):
    """Ends a run at the next chunk of epochs on Ctrl-C or SIGTERM, by raising `Interrupted`.

    Before that hooks are closed, so a `Checkpoint` that stands before it keeps the run. A second signal ends
    the run at once. Only a program's main thread can listen to signals.

    `with StopOnSignal() as stop: fit(..., hooks=[Checkpoint("folder"), stop])`.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopOnSignal":
        self.signal = None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._came) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def after_chunk(self, run: Run, history: History) -> None:
        """Raise if a signal came."""
        if self.signal is not None:
            raise Interrupted(self.signal, *run.position)

    def for_trial(self) -> "StopOnSignal":
        """A run that prepares another ends in the same way."""
        return self

    def _came(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number


def _check_written(path: Path) -> None:
    """Raise if something that no run of this version wrote has the name of a checkpoint."""
    name = CHECKPOINT.fullmatch(path.name)
    if name is None or (name[2] and path.is_file()):
        return
    if any((path / part).exists() for part in EARLIER):
        raise ValueError(
            f"{path.parent} holds checkpoints of an earlier version of jaxreg: begin anew in another folder"
        )
    raise ValueError(
        f"{path} has the name of a checkpoint, but no run wrote it: rename it, or choose another folder"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _described(job: Job, about: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be equal for a run to go on, what a user may have changed first."""
    described = {**about, **job.settings}
    described |= {f"version of {name}": version(name) for name in LIBRARIES}
    described |= {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "float64": bool(jax.config.jax_enable_x64),
        "cores": cores(),
        "processes": jax.process_count(),
        "model, loss, optimizer or batches": hashlib.sha256(job.program().encode()).hexdigest(),
    }
    described |= {name: _digest(np.asarray(array)) for name, array in job.arrays.items()}
    return json.loads(json.dumps(described, default=str))


def _difference(name: str, theirs: Any, ours: Any) -> str:
    """One thing that differs, in words."""
    long = any(isinstance(value, str) and len(value) == 64 for value in (theirs, ours))
    return f"other {name}" if long else f"{name} {theirs!r} there and {ours!r} here"


def _packed(run: Run) -> dict[str, np.ndarray]:
    """A run as named arrays, bfloat16 and the like as their bits."""
    leaves = map(np.array, jax.tree.leaves(run))
    plain = (leaf.view(f"u{leaf.itemsize}") if leaf.dtype.kind == "V" else leaf for leaf in leaves)
    return {f"{i:04d}": leaf for i, leaf in enumerate(plain)}


def _unpacked(run: Run, arrays: dict[str, np.ndarray]) -> Run:
    """The opposite; `run` is one of the same kind."""
    like, structure = jax.tree.flatten(run)
    types = [jnp.result_type(leaf) for leaf in like]
    pairs = zip(types, [arrays[name] for name in sorted(arrays)], strict=True)
    return structure.unflatten(leaf.view(kind) if kind.kind == "V" else leaf for kind, leaf in pairs)


def _digest(array: np.ndarray) -> str:
    """SHA-256 of an array with its type and shape."""
    digest = hashlib.sha256(json.dumps([array.dtype.str, array.shape]).encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
