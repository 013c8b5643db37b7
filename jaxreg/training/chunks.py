"""From chunk to chunk: compile, run, show the run to hooks, and report."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxreg.data.frames import TableLike
from jaxreg.data.rows import Source
from jaxreg.plain import MOST, check_whole, warn
from jaxreg.training.feeds import CHUNK_EPOCHS, CHUNK_SECONDS, Arrays, PerMember, Stream
from jaxreg.training.hooks import ROUNDING, History, Hook, Job, Run, periods, start_run
from jaxreg.training.inputs import Asked, Inputs, from_arrays, from_source
from jaxreg.training.members import (
    CALL_SECONDS,
    SIDE_BY_SIDE,
    find_place,
    for_all_members,
    lay_out,
    map_members,
)
from jaxreg.training.optimizers import check_swept, set_numbers
from jaxreg.training.run import Limits, Report, advance
from jaxreg.training.trainer import Batch, Trainer, TrainState, check_trainer


def first_member(tree: PyTree) -> PyTree:
    """The first member's part of a tree, taken on the host, where that costs next to nothing."""
    return jax.tree.map(lambda leaf: leaf[0], jax.device_get(tree))


class Alone(Hook):
    """Shows a hook a run of one member without its axis of members."""

    def __init__(self, hook: Hook):
        self._hook, self.begin, self.close = hook, hook.begin, hook.close

    @property
    def every(self) -> Any:
        """As the hook has it."""
        return self._hook.every

    def restore(self, run: Run) -> Run:
        """What the hook makes of the run."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[None], self._hook.restore(first_member(run)))

    def after_chunk(self, run: Run, history: History) -> Any:
        """Show the hook the run."""
        return self._hook.after_chunk(first_member(run), first_member(history))


def train(
    key: Array,
    keys: Array,
    trainer: Trainer,
    data: Batch | Source,
    asked: Asked,
    *,
    epochs: int,
    patience: int | None,
    states: TrainState | None,
    hooks: Sequence[Hook],
    alone: bool = False,
    numbers: Mapping[str, TableLike] | None = None,
    mesh: Mesh | None = None,
    side_by_side: int | None = None,
) -> tuple[TrainState, History]:
    """Train a member for each key; if it is `alone`, its state and messages have no axis of members."""
    check_trainer(trainer)
    members, batch_size, first_epoch = len(keys), asked.batch_size, asked.first_epoch
    held_out = asked.validation, asked.validation_rows, asked.folds
    check_settings(epochs, batch_size, patience, first_epoch, validated=any(p is not None for p in held_out))
    place = find_place(mesh, members)
    prepare = from_source if isinstance(data, Source) else from_arrays
    inputs = prepare(key, trainer, data, members, asked)
    expected = inputs.state
    numbers = check_swept(numbers or {}, expected.opt_state, members)
    check_state("state" if alone else "states", states, expected, () if alone else (members,))
    states = jax.tree.map(lambda leaf: np.asarray(leaf)[None], states) if alone else states
    parameters = sum(leaf.size for leaf in jax.tree.leaves(expected.params))

    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    per_member = inputs.per_member._replace(key=np.asarray(jax.random.key_data(keys) if typed else keys))
    keys, per_member, numbers, states = jax.tree.map(place.members_of, (keys, per_member, numbers, states))
    layout = lay_out(place.count, parameters * inputs.most, place, side_by_side)
    key_impl = jax.random.key_impl(keys) if typed else None
    limits = Limits(0, MOST if patience is None else patience, first_epoch)
    limits = Limits(*(np.asarray(number, np.int32) for number in limits))
    settings = {"batch_size": batch_size, "epochs": epochs, "patience": int(limits.patience)}
    settings |= {"first_epoch": first_epoch} | inputs.settings
    if place.processes > 1:
        settings |= {"first member here": place.first, "mesh": str(dict(mesh.shape))}
    with ThreadPoolExecutor(layout.workers) as pool, _rows_as_given(trainer, expected, data):
        shared = trainer, inputs.validation, inputs.example
        trainer, validation, example = jax.device_put(shared, layout.everywhere)
        feed, begin = inputs.feed.put(layout.everywhere), (per_member, states, numbers)
        shared = trainer, feed.first, validation, limits

        def prepared(side_by_side: int | None) -> tuple[Run, Callable]:
            """The run before its first step, and the program for so many members side by side."""
            layout = lay_out(place.count, parameters * inputs.most, place, side_by_side)
            how = _How(key_impl, layout.side_by_side, layout.mesh)
            for_all, start = partial(for_all_members, layout=layout, pool=pool), (trainer, example)
            state = for_all(partial(_start, how=how), each=begin, shared=start)(begin, start)
            # Wait here: a program whose input didn't fit into memory never ends.
            check_memory(jax.block_until_ready(state))
            run = start_run(state, validated=validation is not None)
            program = for_all(partial(_advance, how=how), each=(per_member, run), shared=shared)
            if layout.workers == 1 and layout.side_by_side > 1:  # takes its memory for no step at all
                jax.block_until_ready(program((per_member, run), shared))
            return run, program

        run, program = into_memory(prepared, layout.side_by_side)

        def chunk(run: Run, stop: float | int) -> Run:
            (epoch, batch), reports = run.position, []
            series = [None if part is None else part.copy() for part in (run.losses, run.scores)]
            run = run._replace(losses=None, scores=None)
            upto = limits._replace(stop=np.asarray(math.ceil(stop), np.int32))
            for part in feed.parts(epoch, batch, stop):
                shared = trainer, part, validation, upto
                # Overwritten only without hooks, because a hook may keep the run that it was shown.
                run, report = program((per_member, run), shared, None if hooks else run)
                if reports:  # the device may be one block behind, no more
                    jax.block_until_ready(reports[-1])
                reports.append(report)
            for report in reports:
                _record(series, report, epoch)
            return run._replace(losses=series[0], scores=series[1])

        def job(state: TrainState) -> Job:
            return _described(keys, trainer, inputs, state, per_member, settings=settings, limits=limits)

        calls = math.ceil(place.count / (layout.call * layout.workers))
        seconds = max(CHUNK_SECONDS, calls * CALL_SECONDS)
        series = np.full((place.count, epochs), np.nan, run.best_nll.dtype)
        runs = [run._replace(losses=series, scores=None if validation is None else series.copy())]
        del run  # popped below, so that the run before the first epoch isn't held until the last
        run = drive(chunk, runs.pop(), feed, hooks, job, seconds=seconds)
    final, history = place.all_members((run.final_state, run.history))
    return final, history


@contextmanager
def _rows_as_given(trainer: Trainer, state: TrainState, data: Batch | Source) -> Iterator[None]:
    """Errors of shapes speak of the rows that the user has, not of those that are padded."""
    try:
        yield
    except ValueError:
        if not isinstance(data, Source):
            jax.eval_shape(trainer.step, state, tuple(map(np.asarray, data)))  # raises the same
        raise


def memory_of(device: jax.Device) -> float:
    """The bytes that a device lets us have; infinity where it doesn't say."""
    return (device.memory_stats() or {}).get("bytes_limit", math.inf)


def check_memory(states: TrainState) -> None:
    """Raise an error if a device can't hold its members' states before and after a step."""
    needed = Counter()
    for leaf in jax.tree.leaves(states):
        for shard in leaf.addressable_shards if isinstance(leaf, jax.Array) else ():
            needed[shard.device] += 2 * shard.data.nbytes
    for device, size in needed.items():
        if size > (most := memory_of(device)):
            raise MemoryError(
                f"the members' states take {size / 1e9:.3g} GB before and after a step, and {device} has "
                f"{most / 1e9:.3g} GB"
            )


def into_memory(prepared: Callable[[int], Any], side_by_side: int) -> Any:
    """What is prepared for as many members side by side as a device has memory for."""
    first = side_by_side
    while True:
        try:
            found = prepared(side_by_side)
        except jax.errors.JaxRuntimeError as error:
            if side_by_side == 1 or "RESOURCE_EXHAUSTED" not in str(error):
                raise
            side_by_side = math.ceil(side_by_side / 2)
        else:
            break
    if side_by_side < first:
        warn(
            f"{first:,} members side by side need more memory than the device has: {side_by_side:,} at a "
            f"time are trained, which takes longer; side_by_side={side_by_side} begins with that",
            RuntimeWarning,
        )
    return found


class _How(NamedTuple):
    """How a program maps over its members; a static argument."""

    key_impl: str | None
    side_by_side: int
    mesh: Mesh | None


@partial(jax.jit, static_argnames="how")
def _start(each: PyTree, real: Array, trainer: Trainer, x: Array, *, how: _How) -> TrainState:
    """The first states of some members."""

    def member(each: PyTree, trainer: Trainer, x: Array) -> TrainState:
        per_member, state, numbers = each
        if state is None:
            state = trainer.init(_wrap_key(per_member.key, how.key_impl), x)
        return state._replace(opt_state=set_numbers(state.opt_state, numbers))

    return map_members(member, each, (trainer, x), how.side_by_side, how.mesh)


@partial(jax.jit, static_argnames="how")
def _advance(each: PyTree, real: Array, *shared: PyTree, how: _How) -> tuple[Run, Report]:
    """`advance` for some members."""

    def member(
        each: PyTree, trainer: Trainer, blocks: PyTree, validation: Batch | None, limits: Limits
    ) -> tuple[Run, Report]:
        (per_member, run), real = each
        run = run._replace(active=run.active & real)
        key = _wrap_key(per_member.key, how.key_impl)
        return advance(key, trainer, run, (blocks, per_member), (validation, limits), axis=axis)

    axis = SIDE_BY_SIDE if how.side_by_side > 1 else None
    return map_members(member, (each, real), shared, how.side_by_side, how.mesh)


_advance_one = jax.jit(advance)


def _wrap_key(key: Array, impl: str | None) -> Array:
    return key if impl is None else jax.random.wrap_key_data(key, impl=impl)


def _described(
    keys: Array,
    trainer: Trainer,
    inputs: Inputs,
    state: TrainState,
    per_member: PerMember,
    *,
    settings: dict[str, Any],
    limits: Limits,
) -> Job:
    """All that determines a run."""
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    arrays = {
        "rows": per_member.rows,
        "validation_rows": per_member.validation_rows,
        "weights": per_member.weight,
    } | inputs.arrays
    arrays["key"] = jax.random.key_data(keys) if typed else keys
    leaves = jax.tree_util.tree_leaves_with_path(state)
    arrays |= {f"first state{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}

    def program() -> str:
        run = first_member(start_run(state, validated=inputs.validation is not None))
        feed = inputs.feed.first, first_member(per_member._replace(key=None))
        return _advance_one.lower(
            jax.random.key(0), trainer, run, feed, (inputs.validation, limits)
        ).as_text()

    return Job(settings, {name: array for name, array in arrays.items() if array is not None}, program)


def drive(
    chunk: Callable[[Run, float | int], Run],
    run: Run,
    feed: Arrays | Stream,
    hooks: Sequence[Hook],
    job: Callable[[TrainState], Job],
    *,
    seconds: float | int = CHUNK_SECONDS,
) -> Run:
    """Call chunk after chunk until the epochs are done, all members have ended, or a hook says stop.

    Each chunk takes about `seconds`. `job` describes the run that begins with a state. A chunk may end within
    an epoch of a source; a run that a hook stops there is scored as if the epoch had ended.
    """
    epochs = run.losses.shape[-1]
    try:
        if hooks:
            described = job(run.state)
            for hook in hooks:
                hook.begin(described)
            del described  # the first state, which nothing else may need any more
        for hook in hooks:
            run = _of_length(hook.restore(run), epochs)
        (epoch, batch), length = run.position, 1
        while epoch < epochs and np.any(np.asarray(run.active)):
            epochs_done = epoch + batch / feed.per_epoch
            marks = [(periods(epochs_done, hook.every) + 1) * hook.every for hook in hooks if hook.every]
            stop = min(epochs, epoch + length, *(_at_batch(mark, feed.per_epoch) for mark in marks))
            began = time.perf_counter()
            run = chunk(run, stop)
            each = (time.perf_counter() - began) / max(stop - epoch, 1)
            length = int(np.clip(seconds / each, 1, CHUNK_EPOCHS))
            epoch, batch = run.position
            # A list, so that every hook is called, also when an earlier one says stop.
            if any([hook.after_chunk(run, run.history) for hook in hooks]):
                return chunk(run, 0) if batch else run
    finally:
        for each in (*hooks, feed):
            each.close()
    return run


def _at_batch(mark: float | int, per_epoch: int) -> float:
    """A number of epochs, rounded up to the end of a batch."""
    return math.ceil(mark * per_epoch - ROUNDING) / per_epoch


def _of_length(run: Run, epochs: int) -> Run:
    """The run with room for `epochs` epochs in its report."""

    def grown(series: np.ndarray | None) -> np.ndarray | None:
        if series is None or series.shape[-1] == epochs:
            return series
        whole = np.full((*series.shape[:-1], epochs), np.nan, series.dtype)
        done = series[..., :epochs]
        whole[..., : done.shape[-1]] = done
        return whole

    return run._replace(losses=grown(run.losses), scores=grown(run.scores))


def _record(series: Sequence[np.ndarray | None], report: Report, epoch: int) -> None:
    """Write what a call reports of the epochs from `epoch` on, for the epochs that each member has done."""
    parts = (report.losses, report.done), (report.scores, report.judged)
    for whole, (values, count) in zip(series, parts, strict=True):
        if whole is not None:
            there = whole[..., epoch : epoch + np.shape(values)[-1]]
            values = np.asarray(values)[..., : there.shape[-1]]
            np.copyto(there, values, where=np.arange(there.shape[-1]) < np.asarray(count)[..., None])


def check_settings(
    epochs: int, batch_size: int | None, patience: int | None, first_epoch: int, *, validated: bool
) -> None:
    """Raise for invalid numbers."""
    check_whole("epochs", epochs, 0)
    check_whole("first_epoch", first_epoch, 0)
    check_whole("first_epoch + epochs", first_epoch + epochs, 0)
    for name, value in (("batch_size", batch_size), ("patience", patience)):
        if value is not None:
            check_whole(name, value, 1)
    if patience is not None and not validated:
        raise ValueError("patience counts epochs without a better validation NLL: pass validation=(x, y) too")


def check_state(name: str, state: Any, expected: TrainState, members: tuple[int, ...] = ()) -> None:
    """Raise unless a state is None or one of this trainer, with the given axis of members."""
    if state is None:
        return
    if jax.tree.structure(state) != jax.tree.structure(expected):
        raise ValueError(f"{name} must be those of this trainer's model and optimizer, a TrainState")
    shapes = {path: leaf.shape for path, leaf in jax.tree.leaves_with_path(expected)}
    for path, leaf in jax.tree.leaves_with_path(state):
        want = (*members, *shapes[path])
        if np.shape(leaf) != want:
            where = jax.tree_util.keystr(path)
            raise ValueError(f"{name}{where} has shape {np.shape(leaf)}, expected {want}")
