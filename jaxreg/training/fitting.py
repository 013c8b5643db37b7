"""`fit` and `fit_ensemble`: check the input, compile, run chunk after chunk, report."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxreg.checks import as_key
from jaxreg.data.frames import TableLike
from jaxreg.data.rows import Source
from jaxreg.plain import check_whole, warn
from jaxreg.training.chunks import Alone, first_member, train
from jaxreg.training.hooks import History, Hook, check_hooks
from jaxreg.training.inputs import Asked
from jaxreg.training.trainer import Batch, Trainer, TrainState


@contextmanager
def memory_errors(remedy: str) -> Iterator[None]:
    """A decorator: say that there isn't enough memory, and what to do, in place of JAX's or NumPy's error."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(f"there isn't enough memory ({str(error).splitlines()[0]}): {remedy}") from error


# Names of JAX's for what the products of two float32 arrays are computed in.
PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "BF16_BF16_F32"}


def products_in(precision: str | None) -> AbstractContextManager:
    """A context in which matrix products have a precision; None leaves it as it is."""
    if precision is None:
        return nullcontext()
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be None or one of {', '.join(PRECISIONS)}, got {precision!r}")
    return jax.default_matmul_precision(PRECISIONS[precision])


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
    precision: str | None = None,
) -> tuple[TrainState, History]:
    """Train a network: check the data, run compiled chunks of epochs, report.

    The epochs are those of `run_epochs` with the same key; without `state` the run begins from
    `trainer.init(key, x)`. A second call with data of the same shape compiles nothing, whatever the
    optimizer's hyperparameters and the number of epochs. Nothing is printed.

    Args:
        key: a JAX random key, or a whole number as its seed.
        trainer: from `make_trainer`.
        data: `(x, y)` or `(x, y, weight)`; arrays, data frames and nested lists serve. x is `(n, features)`,
            y `(n,)` or `(n, d)`, weights `(n,)` or y's shape, 0 for an absent target. Or a `data.Source`,
            which sets the order of its rows itself.
        epochs: passes over the rows.
        batch_size: rows per step; None for all rows, for arrays only.
        validation: arrays of the same form, held out. The parameters of the epoch with the lowest
            validation NLL are returned; the optimizer's state and the step count are the last epoch's.
        patience: stop after this many epochs without a better validation NLL.
        state: where to begin; it isn't consumed. Its optimizer's numbers, such as the learning rate, go on,
            and the trainer's aren't used; `trainer.init(key, x).opt_state` has these.
        first_epoch: number of the first epoch, to continue a run: `fit(epochs=10)` and then `fit(epochs=10,
            state=..., first_epoch=10)` with the same key equal `fit(epochs=20)`. With validation they don't,
            since the returned state has the parameters of the best epoch: use `checkpoints.Checkpoint`, whose
            run may be resumed with more epochs.
        hooks: called between chunks of epochs.
        precision: of matrix products on an accelerator, as in `fit_ensemble`.

    Returns:
        The trained state and a `History`.

    Raises:
        ValueError: for unusable data or settings, by name.
        MemoryError: if there isn't enough, with what was asked for.

    Warns:
        RuntimeWarning: if the loss stops being finite. The state is that of the last finite epoch; for a
            source, that before the block of batches in which it happened.

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
    with products_in(precision):
        states, history = train(
            key,
            key[None],
            trainer,
            data,
            Asked(batch_size, validation, first_epoch),
            alone=True,
            epochs=epochs,
            patience=patience,
            states=state,
            hooks=[Alone(hook) for hook in hooks],
        )
    state, history = jax.device_put(first_member(states)), first_member(history)
    if history.failed_epoch >= 0:
        warn(failure_message("the run", history.loss, int(history.failed_epoch)), RuntimeWarning)
    return state, history


@memory_errors(
    "fewer members, fewer at once (side_by_side), smaller layers, smaller batches or fewer rows need less"
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
    precision: str | None = None,
) -> tuple[TrainState, History]:
    """Train many networks at once: member i is `fit(jax.random.split(key, members)[i], ...)`.

    Members are distributed over all cores of a CPU, or all accelerators; nothing needs to be set. A member's
    result doesn't depend on the number of members. Lakshminarayanan et al. 2017, "Simple and scalable
    predictive uncertainty estimation using deep ensembles".

    Args:
        key: a JAX random key, or a whole number as its seed. It gives each member its own key, for its
            weights and the order of its rows.
        trainer: from `make_trainer`.
        data: `(x, y)` or `(x, y, weight)`, as `fit` takes it, or a `data.Source`; shared by all members. Each
            member has its own order of the rows of arrays; all members share each batch of a source.
        members: number of networks.
        epochs: passes over the rows.
        batch_size: rows per step; None for all rows.
        validation: data of the same form, held out. Each member returns its best epoch's parameters.
        patience: stop a member after this many epochs without a better validation NLL.
        rows: the rows of `data` that each member trains on, integers `(members, k)`; -1 stands for no row.
        validation_rows: the rows of `validation`, or without it of `data`, that each member is validated
            on, integers `(members, k)`; -1 stands for no row.
        bootstrap: each member trains on rows drawn with replacement, `data.bootstrap_rows(key, n, members)`.
            Rows of a source are weighted by draws from a Poisson distribution of mean 1 (Oza and Russell
            2001, "Online bagging and boosting").
        folds: for a source only: member i holds out the rows of fold `i % folds`, by `data.row_folds`, and is
            validated on a sample of them.
        weights: `(members, n)`, each member's weights of the rows, multiplied by the weights in `data`.
        numbers: a sweep: arrays `(members,)` of some of the optimizer's hyperparameters, for example
            `{"learning_rate": [1e-3, 1e-2]}`. `sgd`, `adamw` and `optax.inject_hyperparams` have such. Other
            values compile nothing.
        states: where to begin, with a leading axis of members; they aren't consumed. Their optimizer's
            numbers go on, as in `fit`, but for what `numbers` says.
        first_epoch: number of the first epoch, for a run that goes on, as in `fit`.
        hooks: called between chunks of epochs. The arrays of the `Run` have a leading axis of members.
        mesh: devices with an axis "members", over which members are distributed; by default all devices of
            this process. It may span several processes (`hosts.make_mesh`): each of them calls this function
            with the same arguments, its hooks see its own members, and it returns all members. Members may
            learn from the share of their process alone, as with `own_share` of `tables.Files`.
        side_by_side: members that a core or device runs as one batch of matrix products; by default one
            on a CPU, a few where the network is tiny, and all that its memory holds on an accelerator.
        precision: of matrix products on an accelerator: "float32", "tf32" (10 bits after the point) or
            "bfloat16" (7 bits); sums are float32. None is JAX's choice, TF32 on a GPU that has it. A CPU
            computes in float32 always.

    Returns:
        The trained states, with a leading axis of members, and a `History` of shape `(members, epochs)`.

    Raises:
        ValueError: for unusable data or settings, by name, before anything is compiled.
        FloatingPointError: if the loss of every member stops being finite.
        MemoryError: if there isn't enough, with what was asked for.

    Warns:
        RuntimeWarning: names the members whose loss stopped being finite. Their states are the last
            finite epoch's; `without_failed` leaves them out. And if an accelerator's memory holds fewer
            members side by side than were asked for.

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
    with products_in(precision):
        states, history = train(
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
    warn(
        f"{failed.size} of {members} members failed: {listed}; without_failed(states, history) leaves them "
        f"out. {message}",
        RuntimeWarning,
    )
