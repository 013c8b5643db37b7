"""Ensembles: one run mapped over members, dealt to every core or device, and what they predict."""

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from jaxreg.data import (
    TableLike,
    bootstrap_rows,
    check_data,
    check_features,
    check_rows,
    check_trainable,
    check_weights,
)
from jaxreg.gaussian import GaussianMixture
from jaxreg.models import PREDICTION_BLOCK, join_blocks, row_blocks
from jaxreg.training import (
    CHUNK_SECONDS,
    Batch,
    History,
    Hook,
    Run,
    SGDState,
    Trainer,
    TrainState,
    check_alike,
    check_on_host,
    check_settings,
    check_whole,
    describe_job,
    drive,
    failure_message,
    final_state,
    memory_errors,
    run_chunk,
    start_run,
)

AXIS = "members"

# A CPU core works through the members one after another, because their matrix products are then fastest.
# Steps of fewer multiply-adds than this cost more to start than to do, and share one start between several.
SMALL_STEP = 2**20
SMALL_SIDE_BY_SIDE = 4

# A call of a compiled program costs a core about 1 ms in Python, which calls of this length hide. A core
# makes several calls for a chunk of epochs, so that a core that is done early takes work from the others.
CALL_SECONDS = 0.05
CALLS_PER_CORE = 16
MEMBERS_IN_TURN = 4

# Rows that a core predicts at once, of all members: few enough that the cores share a few thousand rows.
ENSEMBLE_PREDICTION_BLOCK = 2048


@memory_errors(
    "fewer members at once (side_by_side), smaller layers, smaller batches or fewer rows need less"
)
def fit_ensemble(
    key: Array,
    trainer: Trainer,
    data: Batch,
    *,
    members: int,
    epochs: int,
    batch_size: int | None = None,
    validation: Batch | None = None,
    patience: int | None = None,
    rows: TableLike | None = None,
    validation_rows: TableLike | None = None,
    bootstrap: bool = False,
    weights: TableLike | None = None,
    numbers: Mapping[str, TableLike] | None = None,
    states: TrainState | None = None,
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
        data: `(x, y)` or `(x, y, weight)`, as `fit` takes it; shared by all members.
        members: number of networks.
        epochs: passes over the rows.
        batch_size: rows per step; None for all rows.
        validation: data of the same form, held out. Each member returns its best epoch's parameters.
        patience: stop a member after so many epochs without a better validation NLL.
        rows: the rows of `data` that each member trains on, integers `(members, k)`; -1 stands for no row.
        validation_rows: the rows of `validation`, or without it of `data`, that each member is validated
            on, integers `(members, k)`; -1 stands for no row.
        bootstrap: each member trains on rows drawn with replacement, `data.bootstrap_rows(key, n, members)`.
        weights: `(members, n)`, a weight of each row of `data` for each member, times that of `data`.
        numbers: a sweep: arrays `(members,)` of some of the optimizer's numbers, for example
            `{"learning_rate": [1e-3, 1e-2]}`. Those of `sgd` and of `optax.inject_hyperparams` are
            known. Other values need no other program.
        states: where to begin, with a leading axis of members; they aren't consumed.
        hooks: called between chunks of epochs. The arrays of the `Run` have a leading axis of members.
        mesh: the devices to use, with an axis "members"; by default all of this process.
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
    check_whole("members", members, 1)
    validated = validation is not None or validation_rows is not None
    check_settings(epochs, batch_size, patience, validated=validated)
    data = check_data(data)
    if bootstrap:
        if rows is not None:
            raise ValueError("bootstrap draws the rows of each member itself: pass either bootstrap or rows")
        rows, _ = bootstrap_rows(key, len(data[0]), members)
    data, validation, rows, validation_rows, weights = _checked(
        data, validation, rows, validation_rows, weights, members
    )
    keys = jax.random.split(key, members)
    state = jax.eval_shape(trainer.init, keys[0], jnp.asarray(data[0]))
    numbers = _check_numbers(numbers or {}, state.opt_state, members)
    _check_states(states, state, members)
    most = len(data[0]) if rows is None else rows.shape[1]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    layout = _lay_out(members, parameters * min(batch_size or most, most), mesh, side_by_side)

    dtype = jnp.result_type(*jax.tree.leaves(state.params))
    data, validation, weights = jax.tree.map(partial(np.asarray, dtype=dtype), (data, validation, weights))
    shared = jax.device_put((trainer, data, validation), layout.mesh and _sharding(layout.mesh))
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    key_impl = jax.random.key_impl(keys) if typed else None
    own = _Own(np.asarray(jax.random.key_data(keys) if typed else keys), rows, validation_rows, weights)
    static = {"key_impl": key_impl, "side_by_side": layout.side_by_side, "mesh": layout.mesh}
    patience = np.asarray(np.iinfo(np.int32).max if patience is None else patience, np.int32)
    with ThreadPoolExecutor(layout.workers) as pool:
        start, begin = partial(_start.lower, **static), (own, states, numbers)
        first = [_dealt(start, layout, pool, begin, shared)(begin, shared)]
        limits = np.zeros((), np.int32), patience
        advance = partial(_chunk.lower, batch_size=batch_size, **static)
        program = _dealt(advance, layout, pool, (own, first[0]), (*shared, *limits))

        def chunk(run: Run, stop: int) -> tuple[Run, ArrayLike, ArrayLike | None]:
            limits = np.asarray(stop, np.int32), patience
            # A hook may keep a run that it was shown, so only without hooks is it written over.
            return program((own, run), (*shared, *limits), None if hooks else run)

        calls = math.ceil(members / (layout.call * layout.workers))
        seconds = max(CHUNK_SECONDS, calls * CALL_SECONDS)
        job = partial(
            describe_job, keys, trainer, data, validation, members=True, batch_size=batch_size, rows=rows,
            validation_rows=validation_rows, weights=weights, epochs=epochs, patience=int(patience),
        )  # fmt: skip
        # Popped, so that the run before the first epoch isn't held until the last.
        run, history = drive(chunk, first.pop(), epochs, hooks, job, seconds)
    _report_failed(history)
    return jax.device_put(final_state(run)), history


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


def predict_ensemble(model: nn.Module, params: PyTree, x: TableLike) -> GaussianMixture:
    """Predict the mixture of an ensemble's members for each row of x, on every core of a CPU.

    Rows are padded and go block by block, as in `predict`. Under `jax.jit` and the like x is taken as it is.

    Args:
        model: a Linen module that returns `(mean, log_var)`.
        params: parameters with a leading axis of members, such as `fit_ensemble`'s `states.params`.
        x: features, `(n, features)`; arrays, data frames and nested lists serve.

    Returns:
        A mixture over `(n,)` or `(n, d)`, in the units that the members were trained in.

    Raises:
        ValueError: if the parameters differ in their number of members, or x isn't two-dimensional, has no
            rows, or holds missing or infinite values.

    >>> import jax
    >>> from jaxreg import MeanVarRegressor, predict_ensemble
    >>> model = MeanVarRegressor(hidden=(8,))
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> params = jax.vmap(model.init, (0, None))(keys, jax.numpy.ones((1, 2)))
    >>> dist = predict_ensemble(model, params, [[0.0, 1.0], [2.0, 3.0]])
    >>> dist.means.shape, dist.mean.shape
    ((3, 2), (2,))
    """
    leaves = jax.tree.leaves(params)
    counts = sorted({np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in leaves})
    if len(counts) != 1 or counts[0] == 0:
        raise ValueError(f"params must have a leading axis of members, its leaves have lengths {counts}")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, x))):
        return GaussianMixture(*jax.vmap(model.apply, (0, None))(params, x))
    on_cpu = jax.default_backend() == "cpu"
    blocks = row_blocks(check_features(x), ENSEMBLE_PREDICTION_BLOCK if on_cpu else PREDICTION_BLOCK)
    params = jax.device_put(params)
    wide = jax.config.jax_enable_x64
    # Compiled here, because the context managers of JAX don't reach other threads.
    programs = {
        len(block): _apply_members.lower(model, params, block, in_turn=on_cpu).compile() for block in blocks
    }

    def one(block: np.ndarray) -> GaussianMixture:
        with jax.enable_x64(wide):
            return jax.device_get(programs[len(block)](params, block))

    with ThreadPoolExecutor(cores() if on_cpu else 1) as pool:
        return join_blocks(list(pool.map(one, blocks)), len(x), axis=1)


@partial(jax.jit, static_argnames=("model", "in_turn"))
def _apply_members(model: nn.Module, params: PyTree, x: Array, *, in_turn: bool) -> GaussianMixture:
    if in_turn:
        return GaussianMixture(*jax.lax.map(lambda own: tuple(model.apply(own, x)), params))
    return GaussianMixture(*jax.vmap(model.apply, (0, None))(params, x))


class _Own(NamedTuple):
    """What each member has for itself, with a leading axis of members."""

    key: np.ndarray
    rows: np.ndarray | None
    validation_rows: np.ndarray | None
    weight: np.ndarray | None


@partial(jax.jit, static_argnames=("key_impl", "side_by_side", "mesh"))
def _start(
    each: PyTree, real: Array, trainer: Trainer, data: Batch, validation: Batch | None,
    *, key_impl: str | None, side_by_side: int, mesh: Mesh | None,
) -> Run:  # fmt: skip
    """The runs of some members, before their first epoch."""

    def member(each: PyTree, trainer: Trainer, x: Array) -> Run:
        (own, state, numbers), real = each
        if state is None:
            state = trainer.init(_wrap_key(own.key, key_impl), x)
        state = state._replace(opt_state=_set_numbers(state.opt_state, numbers))
        return start_run(state, validated=validation is not None)._replace(active=real)

    return _map_members(member, (each, real), (trainer, data[0]), side_by_side, mesh)


@partial(jax.jit, static_argnames=("batch_size", "key_impl", "side_by_side", "mesh"))
def _chunk(
    each: PyTree, real: Array, trainer: Trainer, data: Batch, validation: Batch | None,
    stop: Array, patience: Array,
    *, batch_size: int | None, key_impl: str | None, side_by_side: int, mesh: Mesh | None,
) -> tuple[Run, Array, Array | None]:  # fmt: skip
    """`run_chunk` for some members."""

    def member(
        each: PyTree, trainer: Trainer, data: Batch, validation: Batch | None, *limits: Array
    ) -> tuple[Run, Array, Array | None]:  # fmt: skip
        (own, run), real = each
        if own.weight is not None:
            x, y, *weight = data
            weight = weight[0] if weight else jnp.ones_like(own.weight)
            data = x, y, weight * own.weight.reshape((-1,) + (1,) * (weight.ndim - 1))
        return run_chunk(
            _wrap_key(own.key, key_impl), trainer, run._replace(active=run.active & real), data, validation,
            *limits, batch_size=batch_size, rows=own.rows, validation_rows=own.validation_rows,
        )  # fmt: skip

    shared = trainer, data, validation, stop, patience
    return _map_members(member, (each, real), shared, side_by_side, mesh)


def _wrap_key(key: Array, impl: str | None) -> Array:
    return key if impl is None else jax.random.wrap_key_data(key, impl=impl)


def _map_members(
    function: Callable, each: PyTree, shared: tuple, side_by_side: int, mesh: Mesh | None
) -> PyTree:
    """Map a function over members: over the devices of a mesh, on each one after another or side by side."""

    def share(each: PyTree, shared: tuple) -> PyTree:
        # Alone, a member that is over really stops; side by side its loop is masked.
        at_once = side_by_side if side_by_side > 1 else None
        return jax.lax.map(lambda one: function(one, *shared), each, batch_size=at_once)

    if mesh is None:
        return share(each, shared)
    own, common = PartitionSpec(AXIS), PartitionSpec()
    # Each device has its own loop, of its own length: there is nothing to say to the others.
    dealt = jax.shard_map(share, mesh=mesh, in_specs=(own, common), out_specs=own, check_vma=False)
    return dealt(each, shared)


class Layout(NamedTuple):
    """How members are dealt.

    Attributes:
        call: members in one call of the compiled program.
        side_by_side: members that run as one batch of matrix products.
        workers: threads that make calls.
        mesh: devices of one call; None is the default device.
    """

    call: int
    side_by_side: int
    workers: int
    mesh: Mesh | None


def _lay_out(members: int, multiply_adds: int, mesh: Mesh | None, side_by_side: int | None) -> Layout:
    """Deal members to the cores of a CPU, a thread each, or to the devices of a mesh.

    XLA runs one program on about one core, whereas a mesh of CPU devices has to be set up before JAX's
    backend starts; hence the threads. On other devices, and in other processes, only a mesh can compute.
    """
    if mesh is not None and AXIS not in mesh.axis_names:
        raise ValueError(f"mesh must have an axis {AXIS!r}, it has {mesh.axis_names}")
    if side_by_side is not None:
        check_whole("side_by_side", side_by_side, 1)
    default = jax.config.jax_default_device
    devices = [default] if isinstance(default, jax.Device) else jax.local_devices(backend=default)
    if mesh is None and len(devices) > 1:
        mesh = Mesh(np.array(devices), (AXIS,))
    on_cpu = (devices[0] if mesh is None else mesh.devices.flat[0]).platform == "cpu"
    shards = 1 if mesh is None else mesh.shape[AXIS]
    threaded = on_cpu and mesh is None
    workers = cores() if threaded else 1
    share = math.ceil(members / (shards * workers))
    if side_by_side is None:
        side_by_side = share if not on_cpu else SMALL_SIDE_BY_SIDE if multiply_adds < SMALL_STEP else 1
    side_by_side = min(side_by_side, share)
    in_turn = math.ceil(share / side_by_side)
    if threaded:  # a power of two: ensembles of about one size share a program
        in_turn = min(2 ** max(0, int(math.log2(in_turn / CALLS_PER_CORE))), MEMBERS_IN_TURN)
    return Layout(shards * side_by_side * in_turn, side_by_side, workers, mesh)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _dealt(
    lower: Callable, layout: Layout, pool: ThreadPoolExecutor, each: PyTree, shared: tuple
) -> Callable:
    """Compile a program for some members, and return a function that calls it for all of them.

    Where one call takes them all, arrays stay on its devices. Else they are NumPy arrays, of which a call
    copies its members' part in and out, little beside what it computes.
    """
    members = len(jax.tree.leaves(each)[0])

    def part(each: PyTree, first: int) -> tuple[PyTree, np.ndarray]:
        real = np.arange(first, first + layout.call) < members
        part = jax.tree.map(lambda leaf: _piece(leaf, first, layout.call), each), real
        return part if layout.mesh is None else jax.device_put(part, _sharding(layout.mesh, AXIS))

    # Here and not where it is called, because the context managers of JAX don't reach other threads.
    program = lower(*part(each, 0), *shared).compile()
    wide = jax.config.jax_enable_x64

    def one_call(each: PyTree, shared: tuple, out: PyTree = None) -> PyTree:
        whole = program(*part(each, 0), *shared)
        return whole if layout.call == members else jax.tree.map(lambda leaf: leaf[:members], whole)

    def many_calls(each: PyTree, shared: tuple, out: PyTree = None) -> PyTree:
        """With `out`, the first of what is returned is written over it."""
        each = jax.device_get(each)
        blank = jax.tree.map(lambda info: np.empty((members, *info.shape[1:]), info.dtype), program.out_info)
        joined = blank if out is None else (out, *blank[1:])
        for leaf in jax.tree.leaves(joined):
            leaf.flags.writeable = True

        def call(first: int) -> None:
            with jax.enable_x64(wide):
                results = program(*part(each, first), *shared)
            for whole, piece in zip(jax.tree.leaves(joined), jax.tree.leaves(results), strict=True):
                whole[first : first + layout.call] = np.asarray(piece)[: members - first]

        list(pool.map(call, range(0, members, layout.call)))
        for leaf in jax.tree.leaves(joined):
            leaf.flags.writeable = False  # for the hooks that are shown it
        return joined

    return one_call if layout.call >= members else many_calls


def _sharding(mesh: Mesh, *axes: str) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*axes))


def _piece(leaf: ArrayLike, first: int, size: int) -> ArrayLike:
    """Some members' part of an array, the last repeated where there are too few."""
    if first == 0 and size == len(leaf):
        return leaf
    part = leaf[first : first + size]
    if len(part) == size:
        return part
    kind = jnp if isinstance(leaf, jax.Array) else np
    return kind.concatenate([part, kind.repeat(part[-1:], size - len(part), axis=0)])


def _checked(
    data: Batch,
    validation: Batch | None,
    rows: TableLike | None,
    validation_rows: TableLike | None,
    weights: TableLike | None,
    members: int,
) -> tuple[Batch, Batch | None, np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """What members are trained and validated on, as checked arrays; with weights where some rows are none."""
    if validation is not None:
        validation = check_data(validation, "validation")
        check_alike(data, validation)
    if rows is not None:
        rows = check_rows("rows", rows, members, len(data[0]))
    if validation_rows is not None:
        validation = data if validation is None else validation
        validation_rows = check_rows("validation_rows", validation_rows, members, len(validation[0]))
        validation = _weighted_if_absent(validation, validation_rows)
    if weights is not None:
        weights = check_weights(weights, members, len(data[0]))
    _check_each_trainable(data, rows, weights)
    data = data if rows is None else _weighted_if_absent(data, rows)
    return data, validation, rows, validation_rows, weights


def _weighted_if_absent(data: Batch, rows: np.ndarray) -> Batch:
    """Data with weights where some rows are -1, so that these can weigh nothing."""
    return (*data, np.ones(len(data[0]), data[0].dtype)) if len(data) == 2 and (rows < 0).any() else data


def _check_each_trainable(data: Batch, rows: np.ndarray | None, weights: np.ndarray | None) -> None:
    """Raise, and name the member, if the rows of one can't train a variance."""
    if rows is None and weights is None:
        return check_trainable(data)
    x, y, *weight = data
    for i in range(len(weights if rows is None else rows)):
        present = slice(None) if rows is None else rows[i][rows[i] >= 0]
        parts = [a[present] for a in weight]
        if weights is not None:
            own = weights[i][present]
            parts = [part * own.reshape((-1,) + (1,) * (part.ndim - 1)) for part in parts] or [own]
        try:
            check_trainable((x[present], y[present], *parts))
        except ValueError as error:
            raise ValueError(f"member {i}: {error}") from None


def _is_numbered(node: object) -> bool:
    return isinstance(node, SGDState) or hasattr(node, "hyperparams")


def _numbers_of(node: object) -> dict[str, object]:
    """The numbers of one optimizer that its update takes from its state."""
    if isinstance(node, SGDState):
        return {name: getattr(node, name) for name in ("learning_rate", "momentum", "weight_decay")}
    scheduled = getattr(node, "hyperparams_states", {})
    return {name: value for name, value in node.hyperparams.items() if name not in scheduled}


def _set_numbers(opt_state: optax.OptState, numbers: Mapping[str, Array]) -> optax.OptState:
    """An optimizer's state with other numbers, by name, wherever in a chain they stand."""

    def change(node: object) -> object:
        if not _is_numbered(node):
            return node
        new = {
            name: numbers[name].astype(old.dtype)
            for name, old in _numbers_of(node).items()
            if name in numbers
        }
        if isinstance(node, SGDState):
            return node._replace(**new)
        return node._replace(
            hyperparams={**node.hyperparams, **new}, inner_state=_set_numbers(node.inner_state, numbers)
        )

    return jax.tree.map(change, opt_state, is_leaf=_is_numbered)


def _check_numbers(
    numbers: Mapping[str, TableLike], opt_state: optax.OptState, members: int
) -> dict[str, np.ndarray]:
    """A sweep's numbers as arrays, or an error that names what is unknown or doesn't fit."""
    nodes = [node for node in jax.tree.leaves(opt_state, is_leaf=_is_numbered) if _is_numbered(node)]
    known = sorted({name for node in nodes for name in _numbers_of(node)})
    checked = {}
    for name, values in numbers.items():
        if name not in known:
            found = (
                f"its numbers are {', '.join(known)}" if known else "it has none that can be swept: use sgd"
            )
            raise ValueError(f"numbers: the optimizer has no {name!r}; {found}")
        array = np.asarray(values)
        if array.shape != (members,):
            raise ValueError(
                f"numbers[{name!r}] has shape {array.shape}, expected ({members},): one for each member"
            )
        if not (np.isfinite(array) & (array >= 0)).all():
            raise ValueError(f"numbers[{name!r}] must be finite and not negative, got {array.min():g}")
        checked[name] = array.astype(float)
    return checked


def _check_states(states: TrainState | None, expected: TrainState, members: int) -> None:
    """Raise unless given states are those of so many members of this trainer."""
    if states is None:
        return
    if jax.tree.structure(states) != jax.tree.structure(expected):
        raise ValueError("states are not those of this trainer's model and optimizer")
    for path, leaf in jax.tree.leaves_with_path(states):
        want = (members, *dict(jax.tree.leaves_with_path(expected))[path].shape)
        if np.shape(leaf) != want:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"states{name} has shape {np.shape(leaf)}, expected {want}")


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
