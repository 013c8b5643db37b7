"""The host's door to training: check what is given, compile, run chunk after chunk, report."""

import math
import time
import warnings
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

from jaxreg.checks import MOST, as_key, check_whole
from jaxreg.data import (
    Source,
    TableLike,
)
from jaxreg.optimizers import check_swept, set_numbers
from jaxreg.training.feeds import (
    CHUNK_EPOCHS,
    CHUNK_SECONDS,
    Arrays,
    Own,
    Stream,
)
from jaxreg.training.hooks import ROUNDING, History, Hook, Job, Run, check_hooks, periods, start_run
from jaxreg.training.inputs import Asked, Inputs, from_arrays, from_source
from jaxreg.training.members import CALL_SECONDS, dealt, find_place, lay_out, map_members
from jaxreg.training.run import Limits, Report, advance
from jaxreg.training.trainer import Batch, Trainer, TrainState


@contextmanager
def memory_errors(remedy: str) -> Iterator[None]:
    """In place of JAX's or NumPy's error say that there isn't enough memory, and what to do; a decorator."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(f"there isn't enough memory ({str(error).splitlines()[0]}): {remedy}") from error


@memory_errors("smaller layers, smaller batches or fewer rows need less")
def fit(
    key: Array | int,
    trainer: Trainer,
    data: Batch | Source,
    *,
    epochs: int,
    batch_size: int | None = None,
    validation: Batch | None = None,
    patience: int | None = None,
    state: TrainState | None = None,
    first_epoch: int = 0,
    hooks: Sequence[Hook] = (),
) -> tuple[TrainState, History]:
    """Train a network: check the data, run compiled chunks of epochs, report.

    The epochs are those of `run_epochs` with the same key; without `state` the run begins from
    `trainer.init(key, x)`. A second call with data of the same shape compiles nothing, whatever the
    optimizer's numbers and the number of epochs. Nothing is printed.

    Args:
        key: a JAX random key.
        trainer: from `make_trainer`.
        data: `(x, y)` or `(x, y, weight)`; arrays, data frames and nested lists serve. x is `(n, features)`,
            y `(n,)` or `(n, d)`, weights `(n,)` or y's shape, 0 for an absent target. Or a `data.Source`,
            which says itself in what order its rows come.
        epochs: passes over the rows.
        batch_size: rows per step; None for all rows, which a source can't give.
        validation: arrays of the same form, held out. The parameters of the epoch with the lowest
            validation NLL are returned; the optimizer's state and the step count are the last epoch's.
        patience: stop after so many epochs without a better validation NLL.
        state: where to begin; it isn't consumed.
        first_epoch: number of the first epoch, for a run that goes on: `fit(epochs=10)`, and then
            `fit(epochs=10, state=..., first_epoch=10)` with the same key, are `fit(epochs=20)`. With
            validation they aren't, since the state that is returned has the parameters of the best epoch: use
            `checkpoints.Checkpoint`, whose run may be resumed with more epochs.
        hooks: called between chunks of epochs.

    Returns:
        The trained state and a `History`.

    Raises:
        ValueError: for unusable data or settings, by name.
        MemoryError: if there isn't enough, with what was asked for.

    Warns:
        RuntimeWarning: if the loss stops being finite. The state is the last finite epoch's; of a source's,
            it is the one before the block of batches in which that happened.

    >>> import jax
    >>> from jaxreg import MeanVarRegressor, data, fit, make_trainer, sgd
    >>> trainer = make_trainer(MeanVarRegressor(), sgd(5e-3, momentum=0.9, weight_decay=1e-4))
    >>> state, history = fit(
    ...     jax.random.key(1), trainer, data.sinusoid(jax.random.key(0)), epochs=5, batch_size=64
    ... )
    >>> history.loss.shape
    (5,)
    """
    check_on_host("fit", (key, trainer, data, validation, state))
    key = as_key(key)
    check_hooks(hooks)
    states, history = _train(
        key,
        key[None],
        trainer,
        data,
        Asked(batch_size, validation, first_epoch),
        alone=True,
        epochs=epochs,
        patience=patience,
        states=state,
        hooks=[_Alone(hook) for hook in hooks],
    )
    state, history = jax.device_put(_first(states)), _first(history)
    if history.failed_epoch >= 0:
        warnings.warn(failure_message("the run", history.loss, int(history.failed_epoch)), RuntimeWarning, 2)
    return state, history


@memory_errors(
    "fewer members at once (side_by_side), smaller layers, smaller batches or fewer rows need less"
)
def fit_ensemble(
    key: Array | int,
    trainer: Trainer,
    data: Batch | Source,
    *,
    members: int,
    epochs: int,
    batch_size: int | None = None,
    validation: Batch | None = None,
    patience: int | None = None,
    rows: TableLike | None = None,
    validation_rows: TableLike | None = None,
    bootstrap: bool = False,
    folds: int | None = None,
    weights: TableLike | None = None,
    numbers: Mapping[str, TableLike] | None = None,
    states: TrainState | None = None,
    first_epoch: int = 0,
    hooks: Sequence[Hook] = (),
    mesh: Mesh | None = None,
    side_by_side: int | None = None,
) -> tuple[TrainState, History]:
    """Train many networks at once: member i is `fit(jax.random.split(key, members)[i], ...)`.

    All cores of a CPU, or all accelerators, take their share of the members; nothing needs to be set.
    A member is the same whatever the number of the others. Lakshminarayanan et al. 2017, "Simple and
    scalable predictive uncertainty estimation using deep ensembles".

    Args:
        key: a JAX random key. Each member has its own from it, for its weights and the order of its rows.
        trainer: from `make_trainer`.
        data: `(x, y)` or `(x, y, weight)`, as `fit` takes it, or a `data.Source`; shared by all members, of
            which each has its own order of the rows of arrays, whereas one batch of a source serves them all.
        members: number of networks.
        epochs: passes over the rows.
        batch_size: rows per step; None for all rows.
        validation: data of the same form, held out. Each member returns its best epoch's parameters.
        patience: stop a member after so many epochs without a better validation NLL.
        rows: the rows of `data` that each member trains on, integers `(members, k)`; -1 stands for no row.
        validation_rows: the rows of `validation`, or without it of `data`, that each member is validated
            on, integers `(members, k)`; -1 stands for no row.
        bootstrap: each member trains on rows drawn with replacement, `data.bootstrap_rows(key, n, members)`.
            Rows of a source weigh what is drawn from a Poisson distribution of mean 1 (Oza and Russell 2001,
            "Online bagging and boosting").
        folds: of a source alone: member i holds out the rows of fold `i % folds`, by `data.row_folds`, and
            is validated on a sample of them.
        weights: `(members, n)`, a weight of each row of `data` for each member, times that of `data`.
        numbers: a sweep: arrays `(members,)` of some of the optimizer's numbers, for example
            `{"learning_rate": [1e-3, 1e-2]}`. Those of `sgd` and of `optax.inject_hyperparams` are
            known. Other values need no other program.
        states: where to begin, with a leading axis of members; they aren't consumed.
        first_epoch: number of the first epoch, for a run that goes on, as in `fit`.
        hooks: called between chunks of epochs. The arrays of the `Run` have a leading axis of members.
        mesh: the devices to use, with the axis "members", over which members are dealt; by default all of
            this process. The devices of several processes may be in it (`hosts.make_mesh`), of which each
            then calls this function with the same arguments, is shown its own members by hooks, and is given
            all of them. What members learn from may be the share of the process they are on, as that of
            `sources.Files` with `own_share`.
        side_by_side: members that a core or device runs as one batch of matrix products; by default one
            on a CPU, a few where the network is tiny, and all on an accelerator.

    Returns:
        The trained states, with a leading axis of members, and a `History` of shape `(members, epochs)`.

    Raises:
        ValueError: for unusable data or settings, by name, before anything is compiled.
        FloatingPointError: if the loss of every member stops being finite.
        MemoryError: if there isn't enough, with what was asked for.

    Warns:
        RuntimeWarning: names the members whose loss stopped being finite. Their states are the last
            finite epoch's; `without_failed` leaves them out.

    >>> import jax
    >>> from jaxreg import MeanVarRegressor, data, fit_ensemble, make_trainer, sgd
    >>> trainer = make_trainer(MeanVarRegressor(hidden=(16,)), sgd(5e-3))
    >>> rows = data.sinusoid(jax.random.key(0))
    >>> states, history = fit_ensemble(jax.random.key(1), trainer, rows, members=4, epochs=3, batch_size=64)
    >>> history.loss.shape
    (4, 3)
    """
    check_on_host("fit_ensemble", (key, trainer, data, validation, rows, weights, numbers, states))
    key = as_key(key)
    check_whole("members", members, 1)
    check_hooks(hooks)
    states, history = _train(
        key,
        jax.random.split(key, members),
        trainer,
        data,
        Asked(batch_size, validation, first_epoch, rows, validation_rows, bootstrap, folds, weights),
        epochs=epochs,
        patience=patience,
        numbers=numbers,
        states=states,
        hooks=hooks,
        mesh=mesh,
        side_by_side=side_by_side,
    )
    _report_failed(history)
    return jax.device_put(states), history


def _first(tree: PyTree) -> PyTree:
    """What belongs to the first of several members, on the host, where taking it costs next to nothing."""
    return jax.tree.map(lambda leaf: leaf[0], jax.device_get(tree))


class _Alone(Hook):
    """A hook that is shown a run of one member as a run without an axis of members."""

    def __init__(self, hook: Hook):
        self._hook, self.begin, self.close = hook, hook.begin, hook.close

    @property
    def every(self) -> Any:
        return self._hook.every

    def restore(self, run: Run) -> Run:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[None], self._hook.restore(_first(run)))

    def after_chunk(self, run: Run, history: History) -> Any:
        return self._hook.after_chunk(_first(run), _first(history))


def _train(
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
    """Train a member of each key; one that is `alone` has no axis of members in its state and in messages."""
    members, batch_size, first_epoch = len(keys), asked.batch_size, asked.first_epoch
    held_out = asked.validation, asked.validation_rows, asked.folds
    check_settings(epochs, batch_size, patience, first_epoch, validated=any(p is not None for p in held_out))
    place = find_place(mesh, members)
    prepare = from_source if isinstance(data, Source) else from_arrays
    given = prepare(key, trainer, data, members, asked)
    expected = given.state
    numbers = check_swept(numbers or {}, expected.opt_state, members)
    check_state("state" if alone else "states", states, expected, () if alone else (members,))
    states = jax.tree.map(lambda leaf: np.asarray(leaf)[None], states) if alone else states
    parameters = sum(leaf.size for leaf in jax.tree.leaves(expected.params))

    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    own = given.own._replace(key=np.asarray(jax.random.key_data(keys) if typed else keys))
    keys, own, numbers, states = jax.tree.map(place.members_of, (keys, own, numbers, states))
    layout = lay_out(place.count, parameters * given.most, place, side_by_side)
    how = _How(jax.random.key_impl(keys) if typed else None, layout.side_by_side, layout.mesh)
    limits = Limits(0, MOST if patience is None else patience, first_epoch)
    limits = Limits(*(np.asarray(number, np.int32) for number in limits))
    settings = {"batch_size": batch_size, "epochs": epochs, "patience": int(limits.patience)}
    settings |= {"first_epoch": first_epoch} | given.settings
    if place.processes > 1:
        settings |= {"first member here": place.first, "mesh": str(dict(mesh.shape))}
    with ThreadPoolExecutor(layout.workers) as pool:
        deal = partial(dealt, layout=layout, pool=pool)
        shared = trainer, given.validation, given.example
        trainer, validation, example = jax.device_put(shared, layout.everywhere)
        feed, begin, start = given.feed.put(layout.everywhere), (own, states, numbers), (trainer, example)
        state = deal(partial(_start, how=how), each=begin, shared=start)(begin, start)
        # Waited for: a program that is given what there was no memory for never ends.
        state = jax.block_until_ready(state)
        run = start_run(state, validated=validation is not None)
        shared = trainer, feed.first, validation, limits
        program = deal(partial(_advance, how=how), each=(own, run), shared=shared)

        def chunk(run: Run, stop: float | int) -> Run:
            (epoch, batch), reports = run.position, []
            series = [None if part is None else part.copy() for part in (run.losses, run.scores)]
            run = run._replace(losses=None, scores=None)
            upto = limits._replace(stop=np.asarray(math.ceil(stop), np.int32))
            for part in feed.parts(epoch, batch, stop):
                shared = trainer, part, validation, upto
                # A hook may keep a run that it was shown, so only without hooks is it written over.
                run, report = program((own, run), shared, None if hooks else run)
                if reports:  # the device may be one block behind, no more
                    jax.block_until_ready(reports[-1])
                reports.append(report)
            for report in reports:
                _record(series, report, epoch)
            return run._replace(losses=series[0], scores=series[1])

        def job(state: TrainState) -> Job:
            return _described(keys, trainer, given, state, own, settings=settings, limits=limits)

        calls = math.ceil(place.count / (layout.call * layout.workers))
        seconds = max(CHUNK_SECONDS, calls * CALL_SECONDS)
        series = np.full((place.count, epochs), np.nan, run.best_nll.dtype)
        run = run._replace(losses=series, scores=None if validation is None else series.copy())
        run = drive(chunk, run, feed, hooks, job, seconds=seconds)
    final, history = place.all_members((run.final_state, run.history))
    return final, history


def without_failed(states: TrainState, history: History) -> TrainState:
    """The states of the members whose loss stayed finite.

    >>> import jax, numpy as np
    >>> from jaxreg import History, TrainState, without_failed
    >>> states = TrainState(step=np.array([8, 3, 8]), params=None, opt_state=None)
    >>> history = History(np.zeros((3, 9)), None, np.full(3, -1), failed_epoch=np.array([-1, 4, -1]))
    >>> without_failed(states, history).step
    array([8, 8])
    """
    kept = np.flatnonzero(history.failed_epoch < 0)
    return jax.tree.map(lambda leaf: leaf[kept], states)


class _How(NamedTuple):
    """How a program goes through its members: what of it is static."""

    key_impl: str | None
    side_by_side: int
    mesh: Mesh | None


@partial(jax.jit, static_argnames="how")
def _start(each: PyTree, real: Array, trainer: Trainer, x: Array, *, how: _How) -> TrainState:
    """The first states of some members."""

    def member(each: PyTree, trainer: Trainer, x: Array) -> TrainState:
        own, state, numbers = each
        if state is None:
            state = trainer.init(_wrap_key(own.key, how.key_impl), x)
        return state._replace(opt_state=set_numbers(state.opt_state, numbers))

    return map_members(member, each, (trainer, x), how.side_by_side, how.mesh)


@partial(jax.jit, static_argnames="how")
def _advance(each: PyTree, real: Array, *shared: PyTree, how: _How) -> tuple[Run, Report]:
    """`advance` for some members."""

    def member(
        each: PyTree, trainer: Trainer, blocks: PyTree, validation: Batch | None, limits: Limits
    ) -> tuple[Run, Report]:
        (own, run), real = each
        run = run._replace(active=run.active & real)
        key = _wrap_key(own.key, how.key_impl)
        return advance(key, trainer, run, (blocks, own), (validation, limits))

    return map_members(member, (each, real), shared, how.side_by_side, how.mesh)


_advance_one = jax.jit(advance)


def _wrap_key(key: Array, impl: str | None) -> Array:
    return key if impl is None else jax.random.wrap_key_data(key, impl=impl)


def _described(
    keys: Array,
    trainer: Trainer,
    given: Inputs,
    state: TrainState,
    own: Own,
    *,
    settings: dict[str, Any],
    limits: Limits,
) -> Job:
    """What a run is made of."""
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    arrays = {"rows": own.rows, "validation_rows": own.validation_rows, "weights": own.weight} | given.arrays
    arrays["key"] = jax.random.key_data(keys) if typed else keys
    leaves = jax.tree_util.tree_leaves_with_path(state)
    arrays |= {f"first state{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}

    def program() -> str:
        run = _first(start_run(state, validated=given.validation is not None))
        feed = given.feed.first, _first(own._replace(key=None))
        return _advance_one.lower(jax.random.key(0), trainer, run, feed, (given.validation, limits)).as_text()

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
    """Call chunk after chunk until the epochs are done, all members are over, or a hook says stop.

    Each chunk is made about as long as `seconds`. `job` describes the run that begins with a state. A chunk
    may end within an epoch of a source; what a hook stops there is judged as if the epoch ended.
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
            here = epoch + batch / feed.per_epoch
            marks = [(periods(here, hook.every) + 1) * hook.every for hook in hooks if hook.every]
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
    """The first end of a batch that isn't before a number of epochs."""
    return math.ceil(mark * per_epoch - ROUNDING) / per_epoch


def _of_length(run: Run, epochs: int) -> Run:
    """A run whose report has room for so many epochs."""

    def grown(series: np.ndarray | None) -> np.ndarray | None:
        if series is None or series.shape[-1] == epochs:
            return series
        whole = np.full((*series.shape[:-1], epochs), np.nan, series.dtype)
        done = series[..., :epochs]
        whole[..., : done.shape[-1]] = done
        return whole

    return run._replace(losses=grown(run.losses), scores=grown(run.scores))


def _record(series: Sequence[np.ndarray | None], report: Report, epoch: int) -> None:
    """Write what a call tells of the epochs from `epoch` on, as many as each member has done."""
    parts = (report.losses, report.done), (report.scores, report.judged)
    for whole, (values, count) in zip(series, parts, strict=True):
        if whole is not None:
            there = whole[..., epoch : epoch + np.shape(values)[-1]]
            values = np.asarray(values)[..., : there.shape[-1]]
            np.copyto(there, values, where=np.arange(there.shape[-1]) < np.asarray(count)[..., None])


def failure_message(who: str, loss: np.ndarray, epoch: int) -> str:
    """What to tell a user whose loss stopped being finite."""
    return (
        f"{who} stopped in epoch {epoch + 1}: its loss or parameters were no longer finite (loss "
        f"{loss[epoch]:g}); the parameters before that are kept. Usual remedies: a lower learning "
        "rate, gradient clipping (optax.clip_by_global_norm), standardised features and targets"
    )


def check_on_host(name: str, arguments: PyTree) -> None:
    """Raise inside jit, vmap or grad."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
        raise ValueError(f"{name} works on the host; inside jit, vmap or grad call run_epochs instead")


def check_settings(
    epochs: int, batch_size: int | None, patience: int | None, first_epoch: int, *, validated: bool
) -> None:
    """Raise for numbers that no run can have."""
    check_whole("epochs", epochs, 0)
    check_whole("first_epoch", first_epoch, 0)
    check_whole("first_epoch + epochs", first_epoch + epochs, 0)
    for name, value in (("batch_size", batch_size), ("patience", patience)):
        if value is not None:
            check_whole(name, value, 1)
    if patience is not None and not validated:
        raise ValueError("patience counts epochs without a better validation NLL: pass validation=(x, y) too")


def check_state(name: str, state: Any, expected: TrainState, members: tuple[int, ...] = ()) -> None:
    """Raise unless a given state, None for none, is one of this trainer, or of so many members."""
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


def _report_failed(history: History) -> None:
    """Warn of members whose loss stopped being finite; raise if none is left."""
    failed = np.flatnonzero(history.failed_epoch >= 0)
    if not failed.size:
        return
    members = len(history.failed_epoch)
    first = failed[0]
    message = failure_message(f"member {first}", history.loss[first], int(history.failed_epoch[first]))
    if failed.size == members:
        raise FloatingPointError(f"all {members} members failed; {message}")
    listed = ", ".join(map(str, failed[:10])) + (" ..." if failed.size > 10 else "")
    warnings.warn(
        f"{failed.size} of {members} members failed: {listed}; without_failed(states, history) leaves them "
        f"out. {message}",
        RuntimeWarning,
        stacklevel=3,
    )
