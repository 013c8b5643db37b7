"""Ensembles: one run mapped over members, dealt to every core or device, and what they predict."""

import math
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from jaxreg.data import (
    Block,
    Source,
    TableLike,
    bootstrap_rows,
    check_data,
    check_features,
    check_rows,
    check_trainable,
    check_weights,
    key_words,
    row_folds,
)
from jaxreg.gaussian import GaussianMixture, as_key
from jaxreg.layout import CALL_SECONDS, cores, dealt, find_place, lay_out, map_members
from jaxreg.models import PREDICTION_BLOCK, Model, check_params, join_blocks, misfit, row_blocks
from jaxreg.training import (
    CHUNK_SECONDS,
    MOST,
    Batch,
    Feed,
    History,
    Hook,
    Run,
    SGDState,
    Trainer,
    TrainState,
    blocks_in_turn,
    check_alike,
    check_hooks,
    check_on_host,
    check_settings,
    check_state,
    check_whole,
    checked_batch_size,
    describe_job,
    describe_stream,
    drive,
    failure_message,
    final_state,
    memory_errors,
    run_block,
    run_chunk,
    start_run,
)

# Rows of a source that are kept in memory for the validation of members, of all folds together.
HELD_OUT_ROWS = 2**17

# Where a uniform number of 32 bits passes to the next count of a Poisson distribution of mean 1, and what
# its key is folded with, far from the numbers of epochs.
POISSON_TERMS = [math.exp(-1) / math.factorial(k) for k in range(12)]
POISSON_EDGES = [np.uint32(min(p * 2**32, 2**32 - 1)) for p in np.cumsum(POISSON_TERMS)]
POISSON_TAG = np.uint32(2**32 - 2)

# Rows that a core predicts at once, of all members: few enough that the cores share a few thousand rows.
ENSEMBLE_PREDICTION_BLOCK = 2048


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
    validated = validation is not None or validation_rows is not None or folds is not None
    check_settings(epochs, batch_size, patience, first_epoch, validated=validated)
    place = find_place(mesh, members)
    given = _given_source if isinstance(data, Source) else _given_arrays
    given = given(
        key, data, members, batch_size, validation=validation, rows=rows,
        validation_rows=validation_rows, bootstrap=bootstrap, folds=folds, weights=weights,
        first_epoch=first_epoch,
    )  # fmt: skip
    keys = jax.random.split(key, members)
    state = jax.eval_shape(trainer.init, keys[0], jnp.asarray(given.example))
    numbers = _check_numbers(numbers or {}, state.opt_state, members)
    check_state("states", states, state, (members,))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    given = given.astype(jnp.result_type(*jax.tree.leaves(state.params)))
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    own = given.own._replace(key=np.asarray(jax.random.key_data(keys) if typed else keys))
    keys, own, numbers, states = jax.tree.map(place.members_of, (keys, own, numbers, states))
    layout = lay_out(place.count, parameters * given.most, place, side_by_side)
    static = {
        "key_impl": jax.random.key_impl(keys) if typed else None,
        "side_by_side": layout.side_by_side,
        "mesh": layout.mesh,
    }
    patience = np.asarray(MOST if patience is None else patience, np.int32)
    settings = {"batch_size": batch_size, "epochs": epochs, "patience": int(patience)}
    settings["first_epoch"], first = first_epoch, np.asarray(first_epoch, np.int32)
    if place.processes > 1:
        settings |= {"first member here": place.first, "mesh": str(dict(mesh.shape))}
    calls = math.ceil(place.count / (layout.call * layout.workers))
    with ThreadPoolExecutor(layout.workers) as pool:
        deal = partial(dealt, layout=layout, pool=pool)
        shared = trainer, given.data, given.validation, given.example
        *common, example = jax.device_put(shared, layout.everywhere)
        begin, start = (own, states, numbers), (common[0], example)
        lower = partial(_start.lower, **static, validated=validated, streamed=given.feed is not None)
        # Popped, so that the run before the first epoch isn't held until the last.
        begun = [deal(lower, each=begin, shared=start)(begin, start)]
        if given.feed is None:
            lower = partial(_chunk.lower, batch_size=batch_size, **static)
            limits = np.zeros((), np.int32), patience, first
            program = deal(lower, each=(own, begun[0]), shared=(*common, *limits))

            def chunk(run: Run, stop: int) -> tuple[Run, ArrayLike, ArrayLike | None]:
                limits = np.asarray(stop, np.int32), patience, first
                # A hook may keep a run that it was shown, so only without hooks is it written over.
                return program((own, run), (*common, *limits), None if hooks else run)

            job = partial(
                describe_job, keys, trainer, given.data, given.validation, members=True, rows=own.rows,
                validation_rows=own.validation_rows, weights=own.weight, **settings,
            )  # fmt: skip
        else:
            trainer, _, validation = common
            block, *_ = given.feed.block(0, 0)
            limits = np.zeros((), np.int32), np.zeros((), bool), patience
            rows = _for_members(block, key, given, bootstrap)
            shared = trainer, jax.device_put(rows, layout.everywhere), validation
            lower = partial(_block.lower, bootstrap=bootstrap, **static)
            program = deal(lower, each=(own, begun[0]), shared=(*shared, *limits))

            def advance(run: Run, block: Block, count: int, last: bool) -> tuple:
                rows = _for_members(block, key, given, bootstrap)
                limits = np.asarray(count, np.int32), np.asarray(last), patience
                shared = trainer, jax.device_put(rows, layout.everywhere), validation
                return program((own, run), (*shared, *limits), None if hooks else run)

            chunk = blocks_in_turn(given.feed, advance)
            job = partial(
                describe_stream, keys, trainer, data, given.feed, given.validation, members=True,
                validation_rows=own.validation_rows, folds=folds, bootstrap=bootstrap,
                **settings,
            )  # fmt: skip
        seconds = max(CHUNK_SECONDS, calls * CALL_SECONDS)
        run, history = drive(chunk, begun.pop(), epochs, hooks, job, given.feed, seconds)
    final, history = place.all_members((final_state(run), history))
    _report_failed(history)
    return jax.device_put(final), history


class _Given(NamedTuple):
    """What members train on, checked.

    Attributes:
        own: what each member has for itself.
        data: rows in memory; None where they come from a source.
        validation: rows that are held out.
        example: some features.
        most: rows of a step.
        feed: the blocks of a source.
        folds: in how many the rows of a source are parted.
    """

    own: "_Own"
    data: Batch | None
    validation: Batch | None
    example: np.ndarray
    most: int
    feed: Feed | None = None
    folds: int | None = None

    def astype(self, dtype: np.dtype) -> "_Given":
        """The same with arrays of the parameters' dtype."""
        arrays = self.data, self.validation, self.own.weight, self.example
        data, validation, weight, example = jax.tree.map(partial(np.asarray, dtype=dtype), arrays)
        own = self.own._replace(weight=weight)
        return self._replace(own=own, data=data, validation=validation, example=example)


def _given_arrays(
    key: Array, data: Batch, members: int, batch_size: int | None, *,
    validation: Batch | None, rows: TableLike | None, validation_rows: TableLike | None, bootstrap: bool,
    folds: int | None, weights: TableLike | None, first_epoch: int,
) -> _Given:  # fmt: skip
    """What members train on, from rows in memory; with weights where some rows are none."""
    if folds is not None:
        raise ValueError("folds are for rows that come from a source: pass what data.fold_rows gives as rows")
    data = check_data(data)
    if bootstrap:
        if rows is not None:
            raise ValueError("bootstrap draws the rows of each member itself: pass either bootstrap or rows")
        rows, _ = bootstrap_rows(key, len(data[0]), members)
    validation, validation_rows = _checked_validation(data, validation, validation_rows, members)
    if rows is not None:
        rows = check_rows("rows", rows, members, len(data[0]))
    if weights is not None:
        weights = check_weights(weights, members, len(data[0]))
    _check_each_trainable(data, rows, weights)
    data = data if rows is None else _weighted_if_absent(data, rows)
    most = len(data[0]) if rows is None else rows.shape[1]
    own = _Own(None, rows, validation_rows, weights)
    return _Given(own, data, validation, data[0][:1], min(batch_size or most, most))


def _given_source(
    key: Array, source: Source, members: int, batch_size: int | None, *,
    validation: Batch | None, rows: TableLike | None, validation_rows: TableLike | None, bootstrap: bool,
    folds: int | None, weights: TableLike | None, first_epoch: int,
) -> _Given:  # fmt: skip
    """What members train on, from rows that are read as they are needed."""
    for name, value in (("rows", rows), ("weights", weights)):
        if value is not None:
            raise ValueError(f"{name} name rows in memory: a source knows bootstrap and folds")
    if folds is not None:
        check_whole("folds", folds, 2)
        if validation is None:
            validation, validation_rows = held_out_sample(key, source, members, folds)
    elif validation is None and validation_rows is not None:
        raise ValueError("validation_rows of a source need validation=(x, y), rows in memory")
    feed = Feed(source, key_words(key), checked_batch_size(batch_size), first_epoch=first_epoch)
    first, *_ = feed.block(0, 0)
    example = first.x[0], first.y[0]
    validation, validation_rows = _checked_validation(example, validation, validation_rows, members)
    fold = None if folds is None else np.arange(members, dtype=np.int32) % folds
    own = _Own(None, None, validation_rows, None, fold)
    return _Given(own, None, validation, first.x[0][:1], batch_size, feed, folds)


def held_out_sample(key: Array, source: Source, members: int, folds: int) -> tuple[Batch, np.ndarray]:
    """Some rows of a source, and for each member those of its fold, which it holds out.

    Returns:
        `(x, y)` and integers `(members, k)`, -1 for no row, as `fit_ensemble` takes them.

    Raises:
        ValueError: if a fold has no row.
    """
    numbers, x, y = source.take([*key_words(key), members], HELD_OUT_ROWS)
    own = [np.flatnonzero(row_folds(key, numbers, folds) == fold) for fold in range(min(members, folds))]
    if not all(map(len, own)):
        raise ValueError(
            f"{len(numbers)} rows are too few for {folds} folds by the hash of their numbers: use fewer "
            "folds, or read the rows into memory"
        )
    listed = np.full((len(own), max(map(len, own))), -1, np.int32)
    for line, rows in zip(listed, own, strict=True):
        line[: len(rows)] = rows
    return (x, y), listed[np.arange(members) % folds]


def _for_members(block: Block, key: Array, given: _Given, bootstrap: bool) -> tuple:
    """A block as members take it: features, targets, folds (-1 for no row), halves of the rows' numbers."""
    fold = 0 if given.folds is None else row_folds(key, block.numbers, given.folds)
    fold = np.where(block.numbers >= 0, fold, -1).astype(np.int32)
    wide, numbers = block.numbers.astype(np.uint64), None
    if bootstrap:  # JAX knows no whole numbers of 64 bits unless it is told to
        numbers = (wide >> np.uint64(32)).astype(np.uint32), wide.astype(np.uint32)
    dtype = given.example.dtype
    return block.x.astype(dtype, copy=False), block.y.astype(dtype, copy=False), fold, numbers


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


def predict_ensemble(model: Model, params: PyTree, x: TableLike) -> GaussianMixture:
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
    check_params(params)
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
    try:
        programs = {
            len(block): _apply_members.lower(model, params, block, in_turn=on_cpu).compile()
            for block in blocks
        }
    except (flax.errors.FlaxError, TypeError, ValueError) as error:
        one_member = jax.tree.map(lambda leaf: leaf[0], params)
        raise ValueError(misfit(model, one_member, blocks[0]) or str(error)) from error

    def one(block: np.ndarray) -> GaussianMixture:
        with jax.enable_x64(wide):
            return jax.device_get(programs[len(block)](params, block))

    with ThreadPoolExecutor(cores() if on_cpu else 1) as pool:
        return join_blocks(list(pool.map(one, blocks)), len(x), axis=1)


@partial(jax.jit, static_argnames=("model", "in_turn"))
def _apply_members(model: Model, params: PyTree, x: Array, *, in_turn: bool) -> GaussianMixture:
    if in_turn:
        return GaussianMixture(*jax.lax.map(lambda own: tuple(model.apply(own, x)), params))
    return GaussianMixture(*jax.vmap(model.apply, (0, None))(params, x))


class _Own(NamedTuple):
    """What each member has for itself, with a leading axis of members."""

    key: np.ndarray | None
    rows: np.ndarray | None
    validation_rows: np.ndarray | None
    weight: np.ndarray | None
    fold: np.ndarray | None = None


@partial(jax.jit, static_argnames=("key_impl", "side_by_side", "mesh", "validated", "streamed"))
def _start(
    each: PyTree, real: Array, trainer: Trainer, x: Array,
    *, key_impl: str | None, side_by_side: int, mesh: Mesh | None, validated: bool,
    streamed: bool,
) -> Run:  # fmt: skip
    """The runs of some members, before their first epoch."""

    def member(each: PyTree, trainer: Trainer, x: Array) -> Run:
        (own, state, numbers), real = each
        if state is None:
            state = trainer.init(_wrap_key(own.key, key_impl), x)
        state = state._replace(opt_state=_set_numbers(state.opt_state, numbers))
        return start_run(state, validated=validated, streamed=streamed)._replace(active=real)

    return map_members(member, (each, real), (trainer, x), side_by_side, mesh)


@partial(jax.jit, static_argnames=("batch_size", "key_impl", "side_by_side", "mesh"))
def _chunk(
    each: PyTree, real: Array, trainer: Trainer, data: Batch, validation: Batch | None,
    stop: Array, patience: Array, first_epoch: Array,
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

    shared = trainer, data, validation, stop, patience, first_epoch
    return map_members(member, (each, real), shared, side_by_side, mesh)


@partial(jax.jit, static_argnames=("bootstrap", "key_impl", "side_by_side", "mesh"))
def _block(
    each: PyTree, real: Array, trainer: Trainer, block: PyTree, validation: Batch | None,
    count: Array, last: Array, patience: Array,
    *, bootstrap: bool, key_impl: str | None, side_by_side: int, mesh: Mesh | None,
) -> tuple[Run, Array, Array | None]:  # fmt: skip
    """`run_block` for some members, each with its own weights of the rows."""

    def member(
        each: PyTree, trainer: Trainer, block: PyTree, validation: Batch | None, *limits: Array
    ) -> tuple[Run, Array, Array | None]:  # fmt: skip
        (own, run), real = each
        x, y, fold, numbers = block
        weight = fold >= 0 if own.fold is None else (fold >= 0) & (fold != own.fold)
        weight = weight.astype(x.dtype)
        if bootstrap:
            weight = weight * _poisson(_wrap_key(own.key, key_impl), *numbers).astype(x.dtype)
        run, (count, last, patience) = run._replace(active=run.active & real), limits
        return run_block(
            trainer, run, (x, y, weight), count, last, validation, patience,
            validation_rows=own.validation_rows,
        )  # fmt: skip

    shared = trainer, block, validation, count, last, patience
    return map_members(member, (each, real), shared, side_by_side, mesh)


def _poisson(key: Array, high: ArrayLike, low: ArrayLike) -> Array:
    """A draw from the Poisson distribution of mean 1 for each row, by the halves of its number."""
    key = jax.random.fold_in(key, POISSON_TAG)

    def bits(high: Array, low: Array) -> Array:
        return jax.random.bits(jax.random.fold_in(jax.random.fold_in(key, high), low), dtype=jnp.uint32)

    drawn = jax.vmap(bits)(high.ravel(), low.ravel()).reshape(low.shape)
    return sum((drawn > edge).astype(jnp.int32) for edge in POISSON_EDGES)


def _wrap_key(key: Array, impl: str | None) -> Array:
    return key if impl is None else jax.random.wrap_key_data(key, impl=impl)


def _checked_validation(
    data: Batch, validation: Batch | None, validation_rows: TableLike | None, members: int
) -> tuple[Batch | None, np.ndarray | None]:
    """What members are validated on, as checked arrays; with weights where some rows are none."""
    if validation is not None:
        validation = check_data(validation, "validation")
        check_alike(data, validation)
    if validation_rows is not None:
        validation = data if validation is None else validation
        validation_rows = check_rows("validation_rows", validation_rows, members, len(validation[0]))
        validation = _weighted_if_absent(validation, validation_rows)
    return validation, validation_rows


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
                f"its numbers are {', '.join(known)}"
                if known
                else "it has none that can be swept: use jaxreg.sgd, jaxreg.adamw, or "
                "optax.inject_hyperparams, as in optax.inject_hyperparams(optax.adam)(1e-3)"
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
