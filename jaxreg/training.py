"""Training: SGD with momentum, one step, a whole run as one compiled program, and the host's door to it."""

import inspect
import math
import operator
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial, wraps
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxreg.data import (
    Block,
    Source,
    TableLike,
    batch_order,
    check_data,
    check_features,
    check_trainable,
    key_words,
)
from jaxreg.gaussian import as_key, check_same_shape
from jaxreg.losses import gaussian_nll, mean_nll
from jaxreg.models import Model

Loss = Callable[[Array, Array, Array], Array]
Score = Callable[[Array, Array, Array, Array | None], Array]
Batch = tuple[TableLike, ...] | list[TableLike]

# The longest stretch of epochs between two looks of the host; one compiled program serves all shorter ones.
CHUNK_EPOCHS = 512
CHUNK_SECONDS = 0.25
# Rows of a source that a compiled program is handed at once.
BLOCK_ROWS = 2**16
MOST = np.iinfo(np.int32).max
# Epochs by which a sum of shares of one may miss a whole number of periods.
ROUNDING = 1e-9


class SGDState(NamedTuple):
    """What `sgd` carries: its numbers, as arrays of the parameters' dtype, and the velocity."""

    learning_rate: Float[Array, "..."]
    momentum: Float[Array, "..."]
    weight_decay: Float[Array, "..."]
    velocity: PyTree


def sgd(
    learning_rate: ArrayLike | optax.Schedule, momentum: ArrayLike = 0.9, weight_decay: ArrayLike = 0.0
) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay, update for update that of `torch.optim.SGD`.

    `v <- momentum v + (g + weight_decay p)`, then `p <- p - learning_rate v`. Sutskever et al. 2013,
    "On the importance of initialization and momentum in deep learning", in PyTorch's form.

    The numbers live in the optimizer's state, so another learning rate needs no other program. Clipping
    comes from Optax: `optax.chain(optax.clip_by_global_norm(1.0), sgd(1e-2))`.

    Args:
        learning_rate: step size, not negative; or a schedule of Optax's, a function of the number of steps,
            with which each optimizer is a program of its own.
        momentum: share of the velocity that is kept, not negative.
        weight_decay: added to every gradient, times its parameter; not negative.

    Raises:
        ValueError: if a number is none, is negative or not finite.

    >>> import jax.numpy as jnp
    >>> from jaxreg import sgd
    >>> optimizer = sgd(0.1, momentum=0.9)
    >>> state = optimizer.init(jnp.ones(()))
    >>> updates, state = optimizer.update(jnp.ones(()), state, jnp.ones(()))
    >>> print(updates)
    -0.1
    """
    if callable(learning_rate):
        return optax.chain(sgd(1.0, momentum, weight_decay), optax.scale_by_schedule(learning_rate))
    for name, number in (
        ("learning_rate", learning_rate),
        ("momentum", momentum),
        ("weight_decay", weight_decay),
    ):
        check_number(name, number)
    # A Partial is a pytree whose leaves are the numbers: a trainer made of it passes through jit and
    # vmap as an argument, and two of them that differ in numbers alone share one program.
    return optax.GradientTransformation(
        Partial(_sgd_init, learning_rate, momentum, weight_decay), _sgd_update
    )


def check_number(name: str, number: Any, *, positive: bool = False) -> None:
    """Raise unless a number, or each of an array, is finite and not negative; traced ones pass unchecked."""
    if isinstance(number, jax.core.Tracer):
        return
    array, bound = np.asarray(number), "positive" if positive else "not negative"
    if array.dtype.kind not in "iuf" and array.dtype != jnp.bfloat16:
        raise ValueError(f"{name} must be a number, finite and {bound}, got {number!r}")
    if not np.all((array > 0 if positive else array >= 0) & np.isfinite(array)):
        raise ValueError(f"{name} must be finite and {bound}, got {number}")


def _sgd_init(
    learning_rate: ArrayLike, momentum: ArrayLike, weight_decay: ArrayLike, params: PyTree
) -> SGDState:
    leaves = jax.tree.leaves(params)
    dtype = jnp.result_type(*leaves) if leaves else jnp.float32  # a part of a model may have none
    numbers = (jnp.asarray(number, dtype) for number in (learning_rate, momentum, weight_decay))
    return SGDState(*numbers, velocity=jax.tree.map(jnp.zeros_like, params))


def _sgd_update(grads: PyTree, state: SGDState, params: PyTree | None = None) -> tuple[PyTree, SGDState]:
    if params is None:
        raise ValueError(optax.NO_PARAMS_MSG)
    velocity = jax.tree.map(
        lambda v, g, p: state.momentum * v + (g + state.weight_decay * p), state.velocity, grads, params
    )
    return jax.tree.map(lambda v: -state.learning_rate * v, velocity), state._replace(velocity=velocity)


class TrainState(NamedTuple):
    """What a step changes: the number of steps taken, the parameters, the optimizer's state."""

    step: Array
    params: PyTree
    opt_state: PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trainer:
    """Pure functions that train one network; a pytree whose leaves are the optimizer's numbers.

    Attributes:
        init: `(key, x) -> TrainState`; parameters take the dtype of x.
        step: `(state, batch) -> (state, loss)`, jitted; the given state stays valid. A batch is `(x, y)`
            or `(x, y, weight)` with weights `(n,)` or `(n, d)`, 0 for an absent target; the loss is
            `sum(weight * loss) / sum(weight)`. A batch of no weight has loss 0 and changes nothing.
        nll: `(params, batch) -> gaussian_nll` of each entry, whatever loss is trained on.
        score: `(params, batch) -> score`, one number for all held-out rows, by which `fit` picks the epoch.
    """

    init: Callable[[Array | int, TableLike], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, Array]] = field(metadata={"static": True})
    nll: Callable[[PyTree, Batch], Array] = field(metadata={"static": True})
    score: Callable[[PyTree, Batch], Array] = field(metadata={"static": True})

    def __reduce__(self) -> tuple:
        # Its functions can't be pickled; what they were made of can, if the optimizer is one of ours.
        return _remade, (self.init.args[0], *self.init.func.made_of)


def make_trainer(
    model: Model,
    optimizer: optax.GradientTransformation,
    loss: Loss = gaussian_nll,
    score: Score = mean_nll,
) -> Trainer:
    """Build the functions that train a model.

    Compiled programs are shared between trainers of an equal model, the same `optimizer.update` and the
    same loss. `sgd` keeps one update whatever its numbers; `optax.adam(1e-3)` and its like make a new one
    at each call, so build such an optimizer once and keep it.

    A trainer can be pickled where its optimizer, loss and score can, as all of `jaxreg` can.

    Args:
        model: a Linen module with only `params` that returns `(mean, log_var)`, or anything with
            `init(key, x) -> variables` and `apply(variables, x) -> (mean, log_var)`.
        optimizer: `sgd(...)` or any Optax transformation; those that ask for the loss, such as `optax.lbfgs`
            and `optax.contrib.reduce_on_plateau`, are given it.
        loss: elementwise, `(y, mean, log_var) -> loss`. Whatever it is, what the model returns is read as a
            Gaussian afterwards: with a Student-t or Laplace loss intervals are still a Gaussian's.
        score: of held-out rows, `(y, mean, log_var, weight) -> score`, lower is better; or `scaled_nll`,
            where the variance will be scaled afterwards.

    Raises:
        TypeError: for a model without `init` and `apply`, and for a loss of other arguments.

    >>> import jax
    >>> from jaxreg import MeanVarRegressor, data, make_trainer, sgd
    >>> x, y = data.sinusoid(jax.random.key(0))
    >>> trainer = make_trainer(MeanVarRegressor(), sgd(5e-3, momentum=0.9, weight_decay=1e-4))
    >>> state = trainer.init(jax.random.key(1), x)
    >>> state, loss = trainer.step(state, (x, y))
    >>> int(state.step), loss.shape
    (1, ())
    """
    check_parts(model, optimizer, loss)
    told = isinstance(optimizer, optax.GradientTransformationExtraArgs)
    try:
        init, step, nll, score = _functions(model, optimizer.update, told, loss, score)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        init, step, nll, score = _functions.__wrapped__(model, optimizer.update, told, loss, score)
    start = optimizer.init if isinstance(optimizer.init, Partial) else Partial(optimizer.init)
    return Trainer(Partial(init, start), step, nll, score)


def check_parts(model: Model, optimizer: Any, loss: Any) -> None:
    """Raise unless a model, an optimizer and a loss are what a trainer calls."""
    name = type(model).__name__
    parts = [getattr(model, part, None) for part in ("init", "apply")]
    if isinstance(model, type) or not all(map(callable, parts)):
        raise TypeError(
            f"model must have init(key, x) and apply(variables, x), as a Linen module has, got a {name}: "
            "make a class into an object first; a Flax NNX module becomes Linen by nnx.bridge.to_linen, "
            "an Equinox module needs an object with these two functions (docs/guide.md)"
        )
    if not all(callable(getattr(optimizer, part, None)) for part in ("init", "update")):
        given = getattr(optimizer, "__name__", repr(optimizer))
        raise TypeError(f"optimizer must be one of Optax's or jaxreg.sgd(1e-3), got {given}: call it first")
    if not callable(loss):
        raise TypeError(f"loss must be a function of (y, mean, log_var), got {loss!r}")
    try:
        inspect.signature(loss).bind(None, None, None)
    except TypeError:
        called = getattr(loss, "__name__", repr(loss))
        raise TypeError(
            f"loss must take (y, mean, log_var), {called} takes {inspect.signature(loss)}: a function that "
            "makes a loss is called first, as in beta_nll(0.5)"
        ) from None
    except ValueError:  # one that doesn't say what it takes
        return


def _remade(start: Callable, model: Model, update: Callable, told: bool, loss: Loss, score: Score) -> Trainer:
    kind = optax.GradientTransformationExtraArgs if told else optax.GradientTransformation
    return make_trainer(model, kind(start, update), loss, score)


@lru_cache(maxsize=256)
def _functions(model: Model, update: Callable, told: bool, loss: Loss, score: Score) -> tuple[Callable, ...]:
    """The functions of a trainer: one set for equal arguments, so that one compiled program serves.

    `told` says that the optimizer is told the loss, too.
    """

    @jax.jit
    def start(optimizer_init: Callable, key: Array, x: Array) -> TrainState:
        params = model.init(key, x)
        _check_model(model, params, x)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer_init(params))

    def init(optimizer_init: Callable, key: Array | int, x: TableLike) -> TrainState:
        key = as_key(key)
        x = x if isinstance(x, jax.core.Tracer) else jnp.asarray(check_features(x))
        return start(optimizer_init, key, x)

    init.made_of = model, update, told, loss, score

    def batch_loss(params: PyTree, batch: Batch) -> tuple[Array, Array | None]:
        x, y, weight = _present(batch)
        mean, log_var = model.apply(params, x)
        check_same_shape(y=y, mean=mean)
        losses = loss(y.astype(mean.dtype), mean, log_var)
        if jnp.shape(losses) != y.shape:
            raise ValueError(f"the loss must be elementwise: for y {y.shape} it returned {jnp.shape(losses)}")
        return _weighted_mean(losses, weight)

    @_arrays_only
    @jax.jit
    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Array]:
        (value, total), grads = jax.value_and_grad(batch_loss, has_aux=True)(state.params, batch)
        grads, more = _all_at_once(grads), {}
        if told:
            more = {"value": value, "grad": grads, "value_fn": lambda params: batch_loss(params, batch)[0]}
        updates, opt_state = update(grads, state.opt_state, state.params, **more)
        new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)
        return (new if total is None else _where(total > 0, new, state)), value

    @jax.jit
    def nll(params: PyTree, batch: Batch) -> Array:
        x, y, _ = _present(batch)
        mean, log_var = model.apply(params, x)
        return gaussian_nll(y.astype(mean.dtype), mean, log_var)

    @jax.jit
    def score_all(params: PyTree, batch: Batch) -> Array:
        x, y, weight = _present(batch)
        mean, log_var = model.apply(params, x)
        check_same_shape(y=y, mean=mean)
        return score(y.astype(mean.dtype), mean, log_var, weight)

    return init, step, nll, score_all


def _arrays_only(step: Callable) -> Callable:
    """A jitted step whose error for anything but arrays says what to pass."""

    @wraps(step)
    def checked(state: TrainState, batch: Batch) -> tuple[TrainState, Array]:
        try:
            return step(state, batch)
        except TypeError as error:
            odd = [type(part) for part in batch if not isinstance(part, ArrayLike)]
            if not odd:
                raise
            kind = f"{odd[0].__module__.partition('.')[0]}.{odd[0].__name__}"
            raise TypeError(f"a step takes arrays of NumPy or JAX, got a {kind}: convert it first") from error
        except flax.errors.ScopeParamShapeError as error:
            x = np.shape(batch[0])
            raise ValueError(f"x of shape {x} doesn't fit the state's parameters: {error}") from error

    checked.lower = step.lower  # for whoever compiles it ahead
    return checked


def _all_at_once(grads: PyTree) -> PyTree:
    """The same gradients, each of which waits for all the others.

    No parameter is then written before the last product that reads it, and XLA needs no copy of them in each
    step. On a CPU that saves 3 % of a step with layers of 128, and 11 % with layers of 512.
    """
    done = 0 * jnp.stack([leaf.ravel()[0] for leaf in jax.tree.leaves(grads) if leaf.size]).sum()
    done = jnp.where(jnp.isnan(done), 0, done)  # where a gradient is infinite
    return jax.tree.map(lambda leaf: leaf + done.astype(leaf.dtype), grads)


def _present(batch: Batch) -> tuple[Array, Array, Array | None]:
    """A batch as x, y and weights of y's shape; absent targets are 0 before any arithmetic sees them."""
    x, y, weight = (*(jnp.asarray(a) for a in batch), None)[:3]
    if weight is None:
        return x, y, None
    if weight.shape not in (y.shape, y.shape[:1]):
        raise ValueError(f"weight has shape {weight.shape}, expected {y.shape[:1]} or y's {y.shape}")
    weight = jnp.broadcast_to(weight.reshape(weight.shape + (1,) * (y.ndim - weight.ndim)), y.shape)
    return x, jnp.where(weight > 0, y, 0), weight


def _weighted_mean(losses: Array, weight: Array | None) -> tuple[Array, Array | None]:
    """The mean over all entries, and the sum of weights; 0 where there is no weight."""
    if weight is None:
        return losses.mean(), None
    weight = weight.astype(losses.dtype)
    total = weight.sum()
    return jnp.where(weight > 0, weight * losses, 0).sum() / jnp.where(total > 0, total, 1), total


def _where(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(partial(jnp.where, condition), new, old)


def _check_model(model: Model, variables: PyTree, x: Array) -> None:
    """Raise unless the model holds only `params`, needs no random numbers, and returns (mean, log_var)."""
    name = type(model).__name__
    extra = sorted(set(variables) - {"params"})
    if extra:
        raise ValueError(
            f"{name} keeps the collection {extra[0]!r} beside its params, as BatchNorm does; only models "
            "with params alone can be trained: use LayerNorm or GroupNorm instead"
        )
    try:
        out = jax.eval_shape(model.apply, variables, x)
    except flax.errors.InvalidRngError as error:
        raise ValueError(
            f"{name} asks for random numbers at each call, as Dropout does ({error}); only models without "
            "them can be trained: remove it, or make it deterministic"
        ) from None
    if not (isinstance(out, tuple) and len(out) == 2 and out[0].shape == out[1].shape):
        shapes = jax.tree.map(lambda a: a.shape, out)
        raise ValueError(f"{name} must return (mean, log_var) of one shape, it returned {shapes}")


def take_rows(data: Batch, rows: Array) -> Batch:
    """The named rows of a batch; where it has weights, a row of -1 weighs nothing."""
    x, y, *weight = data
    if weight:
        weight = [jnp.where((rows >= 0).reshape((-1,) + (1,) * (weight[0].ndim - 1)), weight[0][rows], 0)]
    return x[rows], y[rows], *weight


def _epoch(
    trainer: Trainer, key: Array, epoch: Array, state: TrainState, data: Batch, batch_size: int | None,
    rows: Array | None = None,
) -> tuple[TrainState, Array]:  # fmt: skip
    """One pass over the rows in a fresh order; the loss is the mean over all rows as they were stepped on."""
    n = (data[0] if rows is None else rows).shape[0]
    if batch_size is None or (batch_size >= n):
        return trainer.step(state, data if rows is None else take_rows(data, rows))

    def step(state: TrainState, rows: Array) -> tuple[TrainState, tuple[Array, Array]]:
        batch = take_rows(data, rows)
        state, loss = trainer.step(state, batch)
        return state, (loss, batch[2].sum() if len(batch) == 3 else jnp.asarray(len(rows), loss.dtype))

    order = batch_order(key, epoch, n)
    if rows is not None:
        order = rows[order]
    whole, rest = divmod(n, batch_size)
    state, parts = jax.lax.scan(step, state, order[: whole * batch_size].reshape(whole, batch_size))
    if rest:
        state, last = step(state, order[-rest:])
        parts = jax.tree.map(lambda a, b: jnp.append(a, b), parts, last)
    losses, totals = parts
    return state, (losses * totals).sum() / totals.sum()


def run_epochs(
    key: Array | int,
    trainer: Trainer,
    state: TrainState,
    data: Batch,
    *,
    epochs: int,
    batch_size: int | None = None,
    first_epoch: int | Array = 0,
) -> tuple[TrainState, Float[Array, " epochs"]]:
    """Train for a number of epochs: one pure function, which jit, vmap and grad go through.

    Each epoch visits the rows in the order `batch_order(key, epoch, n)`, in batches of `batch_size`; the
    last, smaller one is used too.

    Args:
        key: a JAX random key, for the order of the rows.
        trainer: from `make_trainer`.
        state: from `trainer.init`, or where another run ended.
        data: `(x, y)` or `(x, y, weight)`, of shapes `(n, features)`, `(n,)` or `(n, d)`, and y's or `(n,)`.
        epochs: number of passes; static.
        batch_size: rows per step; None takes all rows in one step, in their own order. Static.
        first_epoch: number of the first epoch, which its order of the rows comes from: 10 epochs, and then 10
            from the state they led to with `first_epoch=10`, are 20 epochs.

    Returns:
        The last state, and each epoch's loss: the mean over rows of the loss of the batch each was in.

    >>> import jax
    >>> from jaxreg import MeanVarRegressor, data, make_trainer, run_epochs, sgd
    >>> x, y = data.sinusoid(jax.random.key(0))
    >>> trainer = make_trainer(MeanVarRegressor(hidden=(16,)), sgd(5e-3))
    >>> run = jax.jit(run_epochs, static_argnames=("epochs", "batch_size"))
    >>> state = trainer.init(jax.random.key(1), x)
    >>> state, losses = run(jax.random.key(2), trainer, state, (x, y), epochs=3, batch_size=64)
    >>> losses.shape
    (3,)
    """
    key, data = as_key(key), tuple(jnp.asarray(a) for a in data)
    return jax.lax.scan(
        lambda state, epoch: _epoch(trainer, key, epoch, state, data, batch_size),
        state,
        first_epoch + jnp.arange(epochs),
    )


class Run(NamedTuple):
    """What a run carries from one chunk of epochs to the next: all that is needed to go on.

    Attributes:
        state: the last state whose loss and parameters were finite.
        cursor: `(epoch, batch)`, the next to be done; the batch is 0 where rows are arrays.
        best_params: parameters of the best epoch so far by validation NLL; None without validation.
        best_nll: its validation NLL, inf at first.
        best_epoch: its number, counted from 0; -1 at first.
        failed_epoch: the epoch whose loss or parameters weren't finite, -1 if none.
        active: whether the run goes on.
        sums: of weights times losses, and of weights, in the epoch under way; None where rows are arrays.
    """

    state: TrainState
    cursor: tuple[Array, Array]
    best_params: PyTree
    best_nll: Array
    best_epoch: Array
    failed_epoch: Array
    active: Array
    sums: tuple[Array, Array] | None = None


class History(NamedTuple):
    """The report of a run: series of shape `(epochs,)` or `(members, epochs)`, NaN after a stop.

    Attributes:
        loss: mean over rows of the training loss as the batches were stepped on.
        validation_nll: the trainer's score of the validation rows after each epoch, mean `gaussian_nll`
            unless another was asked for; None without them.
        best_epoch: the epoch whose parameters were kept, counted from 0; -1 without validation.
        failed_epoch: the epoch whose loss or parameters stopped being finite, -1 if none.
    """

    loss: Float[np.ndarray, "..."]
    validation_nll: Float[np.ndarray, "..."] | None
    best_epoch: np.ndarray
    failed_epoch: np.ndarray


class Job(NamedTuple):
    """What a run is made of, by which a hook can tell that it is the same run again.

    Attributes:
        settings: numbers that were given, by name.
        arrays: all arrays that were given, by name: the key, data, rows, and the first state.
        program: gives the text of one member's program, which model, loss, optimizer and batches make.
    """

    settings: dict[str, Any]
    arrays: dict[str, ArrayLike]
    program: Callable[[], str]


class Hook:
    """What `fit` calls between chunks of epochs; override any method.

    The chunks' lengths follow the clock, and the result doesn't depend on them, unless a hook without `every`
    stops the run: it then stops at whatever epoch the clock came to, up to 512 after the one it waited for. A
    hook with an attribute `every` is called at each multiple of so many epochs, whatever the clock says; one
    that stops wants `every = 1`.

    >>> import jax
    >>> from jaxreg import Hook, MeanVarRegressor, data, fit, make_trainer, sgd
    >>> class StopAt(Hook):
    ...     every = 1
    ...
    ...     def after_chunk(self, run, history):
    ...         return history.loss[int(run.cursor[0]) - 1] < 0.9
    ...
    >>> trainer = make_trainer(MeanVarRegressor(hidden=(8,)), sgd(5e-3))
    >>> rows = data.sinusoid(jax.random.key(0))
    >>> state, history = fit(jax.random.key(1), trainer, rows, epochs=100, batch_size=64, hooks=[StopAt()])
    >>> int(state.step) < 400
    True
    """

    every: int | None = None

    def begin(self, job: Job) -> None:
        """Called first of all."""

    def restore(self, run: Run) -> Run | tuple[Run, History]:
        """Called once at the start: return the run to begin with, or with it the history that led there."""
        return run

    def after_chunk(self, run: Run, history: History) -> bool | None:
        """Called after each chunk; return True to stop. The history is NaN where the run hasn't been yet."""
        return None

    def close(self) -> None:
        """Called once at the end, however the run ended."""

    def for_trial(self) -> "Hook | None":
        """What to use on a short run that prepares this one, such as the estimator's; by default nothing."""
        return None


def start_run(state: TrainState, *, validated: bool, streamed: bool = False) -> Run:
    """A run that has done nothing yet."""
    # The series take the dtype of the parameters, whose dtype is that of x.
    dtype = jnp.result_type(*jax.tree.leaves(state.params))
    none = jnp.full((), -1, jnp.int32)
    return Run(
        state=state,
        cursor=(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)),
        best_params=state.params if validated else None,
        best_nll=jnp.full((), jnp.inf, dtype),
        best_epoch=none,
        failed_epoch=none,
        active=jnp.ones((), bool),
        sums=(jnp.zeros((), dtype), jnp.zeros((), dtype)) if streamed else None,
    )


def run_chunk(
    key: Array, trainer: Trainer, run: Run, data: Batch, validation: Batch | None,
    stop: Array, patience: Array, first_epoch: Array, *, batch_size: int | None,
    rows: Array | None = None, validation_rows: Array | None = None,
) -> tuple[Run, Array, Array | None]:  # fmt: skip
    """Epochs from the run's cursor up to `stop` (traced; at most CHUNK_EPOCHS of them), or until it is over.

    `rows` and `validation_rows` name the rows of `data` and `validation` that this run sees, -1 for none;
    `first_epoch` is added to the numbers of epochs that orders of the rows come from.
    Returns the run and the chunk's losses and validation NLLs, NaN from where it ended.
    """
    first = run.cursor[0]
    blank = jnp.full((CHUNK_EPOCHS,), jnp.nan, run.best_nll.dtype)
    if validation is not None and validation_rows is not None:
        validation = take_rows(validation, validation_rows)

    def one_epoch(carry: tuple) -> tuple:
        run, losses, nlls = carry
        epoch = run.cursor[0]
        state, loss = _epoch(trainer, key, first_epoch + epoch, run.state, data, batch_size, rows)
        finite = jnp.isfinite(loss) & _all_finite(state.params)
        run = run._replace(
            state=state,
            cursor=(epoch + 1, run.cursor[1]),
            failed_epoch=jnp.where(finite, run.failed_epoch, epoch),
            active=finite,
        )
        losses = losses.at[epoch - first].set(loss.astype(losses.dtype))
        if validation is not None:
            run, nll = _judged(trainer, run, epoch, validation, patience)
            nlls = nlls.at[epoch - first].set(nll)
        return run, losses, nlls

    def attempt(carry: tuple) -> tuple:
        _, limit, _, losses, nlls = carry

        def go_on(carry: tuple) -> Array:
            return carry[0].active & (carry[0].cursor[0] < limit)

        end, losses, nlls = jax.lax.while_loop(go_on, one_epoch, (run, losses, nlls))
        failed = end.failed_epoch > run.failed_epoch
        return failed, jnp.where(failed, end.failed_epoch, limit), end, losses, nlls

    # An epoch that fails can't be undone: the chunk is run again up to it. That is rare, whereas a copy of
    # the state kept for each epoch costs 7 % of every run.
    whole = jnp.minimum(stop, first + CHUNK_EPOCHS)
    start = (jnp.ones((), bool), whole, run, blank, None if validation is None else blank)
    _, limit, end, losses, nlls = jax.lax.while_loop(lambda carry: carry[0], attempt, start)
    failed = limit < whole
    end = end._replace(
        cursor=(jnp.where(failed, limit + 1, end.cursor[0]), end.cursor[1]),
        failed_epoch=jnp.where(failed, limit, end.failed_epoch),
        active=end.active & ~failed,
    )
    return end, losses, nlls


def _judged(
    trainer: Trainer, run: Run, epoch: Array, validation: Batch, patience: Array
) -> tuple[Run, Array]:
    """A run that has done an epoch, once its parameters are scored on held-out rows; and the score."""
    score = trainer.score(run.state.params, validation).astype(run.best_nll.dtype)
    nll = jnp.where(run.active, score, jnp.nan)
    better = nll < run.best_nll
    best_epoch = jnp.where(better, epoch, run.best_epoch)
    judged = run._replace(
        best_params=_where(better, run.state.params, run.best_params),
        best_nll=jnp.where(better, nll, run.best_nll),
        best_epoch=best_epoch,
        active=run.active & (epoch - best_epoch < patience),
    )
    return judged, nll


def run_block(
    trainer: Trainer, run: Run, block: Batch, count: Array, last: Array, validation: Batch | None,
    patience: Array, *, validation_rows: Array | None = None,
) -> tuple[Run, Array, Array | None]:  # fmt: skip
    """The steps of a block of batches from a source, and at the `last` block the end of the epoch.

    `block` is `(x, y, weight)` of shapes `(batches, size, ...)`, of which the first `count` are stepped on.
    Where loss or parameters are no longer finite afterwards, the run keeps the state from before the block.
    Returns the run, and the epoch's loss and validation NLL, NaN but at its end (the loss also where it
    failed).
    """
    limit = jnp.where(run.active, count, 0)

    def one_batch(carry: tuple) -> tuple:
        i, state, losses = carry
        state, loss = trainer.step(state, jax.tree.map(lambda part: part[i], block))
        return i + 1, state, losses.at[i].set(loss.astype(losses.dtype))

    dtype = run.best_nll.dtype
    start = jnp.zeros((), jnp.int32), run.state, jnp.zeros(len(block[0]), dtype)
    _, state, losses = jax.lax.while_loop(lambda carry: carry[0] < limit, one_batch, start)

    totals = block[2].astype(dtype).reshape(len(losses), -1).sum(axis=1)
    ran = jnp.arange(len(losses)) < limit
    own = jnp.where(ran, losses * totals, 0).sum(), jnp.where(ran, totals, 0).sum()
    finite = jnp.isfinite(own[0]) & _all_finite(state.params)
    sums = jax.tree.map(jnp.add, run.sums, own)
    loss = sums[0] / jnp.where(sums[1] > 0, sums[1], 1)
    epoch, batch = run.cursor
    done = run._replace(
        state=_where(finite, state, run.state),
        cursor=(epoch + last, jnp.where(last, 0, batch + count)),
        failed_epoch=jnp.where(run.active & ~finite, epoch, run.failed_epoch),
        active=run.active & finite,
        sums=jax.tree.map(lambda total: jnp.where(last, 0, total), sums),
    )
    loss = jnp.where(run.active & (last | ~finite), loss, jnp.nan)
    done = _where(run.active, done, run)
    if validation is None:
        return done, loss, None
    if validation_rows is not None:
        validation = take_rows(validation, validation_rows)

    def judged(run: Run) -> tuple[Run, Array]:
        return _judged(trainer, run, epoch, validation, patience)

    done, nll = jax.lax.cond(last, judged, lambda run: (run, jnp.full((), jnp.nan, dtype)), done)
    return done, loss, nll


def _all_finite(tree: PyTree) -> Array:
    # A maximum takes XLA a quarter of the time that isfinite and all do, and is NaN where an entry is.
    return jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(tree) if leaf.size]).max() < jnp.inf


_run_chunk = jax.jit(run_chunk, static_argnames="batch_size")
_run_block = jax.jit(run_block)


class Feed(Hook):
    """The blocks of a source, epoch after epoch, from any batch on; a hook, so that it ends with the run.

    Args:
        source: where the rows are.
        seed: of the order of the rows, with the number of the epoch.
        batch_size: rows per step.
        first_epoch: is added to the number of the epoch in the seed.

    Attributes:
        per_epoch: batches of an epoch.
        length: batches of a block.
    """

    def __init__(self, source: Source, seed: Sequence[int], batch_size: int, first_epoch: int = 0):
        self._first = first_epoch
        self._open = partial(source.stream, batch_size=batch_size)
        self._seed = list(seed)
        self.per_epoch = source.batches(batch_size)
        self.length = min(self.per_epoch, max(1, BLOCK_ROWS // batch_size))
        self._blocks: Iterator[Block] = iter(())
        self._at = self._next = (-1, 0)

    def block(self, epoch: int, batch: int) -> tuple[Block, int, bool]:
        """The block that begins with a batch, its number of batches, and whether it is the epoch's last."""
        here, count = (epoch, batch), min(self.length, self.per_epoch - batch)
        if here != self._at:
            if here != self._next:
                self.close()
                self._blocks = self._open([*self._seed, self._first + epoch], batches=self.length)
                for _ in range(batch // self.length):
                    next(self._blocks)
            self._block, self._at = next(self._blocks), here
            self._next = (epoch, batch + count)
        return self._block, count, batch + count == self.per_epoch

    def close(self) -> None:
        """End the thread that reads ahead."""
        if hasattr(self._blocks, "close"):
            self._blocks.close()


def position(run: Run) -> tuple[int, int]:
    """Epoch and batch that the farthest of a run's members has come to."""
    epoch, batch = (np.asarray(part).ravel() for part in run.cursor)
    latest = np.lexsort((batch, epoch))[-1]
    return int(epoch[latest]), int(batch[latest])


def blocks_in_turn(
    feed: Feed, advance: Callable[[Run, Block, int, bool], tuple[Run, Array, Array | None]]
) -> Callable[[Run, float | int], tuple[Run, np.ndarray, np.ndarray | None]]:
    """What `drive` calls for a source: block after block, until time is up or an epoch is done.

    `advance` is `run_block`, for one run or many. A `stop` of 0 ends the epoch at once.
    """

    def chunk(run: Run, stop: float | int) -> tuple[Run, np.ndarray, np.ndarray | None]:
        began = time.perf_counter()
        epoch, batch = position(run)
        parts: list[tuple[ArrayLike, ArrayLike | None]] = []
        while True:
            block, count, last = feed.block(epoch, batch)
            if stop == 0:
                count, last = 0, True
            run, *part = advance(run, block, count, last)
            if parts:  # the device may be one block behind, no more
                jax.block_until_ready(parts[-1])
            parts.append(tuple(part))
            batch += count
            due = epoch + batch / feed.per_epoch >= stop - ROUNDING
            if last or due or time.perf_counter() - began > CHUNK_SECONDS:
                losses, nlls = zip(*parts, strict=True)
                return run, _first_number(losses), None if nlls[0] is None else _first_number(nlls)

    return chunk


def _first_number(parts: Sequence[ArrayLike]) -> np.ndarray:
    """Of arrays of one shape the first number of each entry, NaN where there is none; with an axis more."""
    whole = np.array(parts[-1])
    for part in map(np.asarray, reversed(parts)):
        whole = np.where(np.isnan(part), whole, part)
    return whole[..., None]


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
    check_settings(epochs, batch_size, patience, first_epoch, validated=validation is not None)
    check_hooks(hooks)
    begin = _from_source if isinstance(data, Source) else _from_arrays
    # One of the two is always there, so that an epoch more or less never changes the program.
    patience = np.asarray(MOST if patience is None else patience, np.int32)
    run, chunk, *more = begin(
        key, trainer, data, validation, state, epochs, batch_size, patience, first_epoch
    )
    run, history = drive(chunk, run, epochs, hooks, *more)
    if history.failed_epoch >= 0:
        warnings.warn(failure_message("the run", history.loss, int(history.failed_epoch)), RuntimeWarning, 2)
    return final_state(run), history


def _from_arrays(
    key: Array, trainer: Trainer, data: Batch, validation: Batch | None, state: TrainState | None,
    epochs: int, batch_size: int | None, patience: np.ndarray, first_epoch: int,
) -> tuple[Run, Callable, Callable]:  # fmt: skip
    """What `drive` needs for rows in memory."""
    data = check_data(data)
    check_trainable(data)
    if validation is not None:
        validation = check_data(validation, "validation")
        check_alike(data, validation)
    if state is not None:
        check_state("state", state, jax.eval_shape(trainer.init, key, jnp.asarray(data[0][:1])))
    # Waited for: a program that is given what there was no memory for never ends.
    state = jax.block_until_ready(trainer.init(key, data[0])) if state is None else state
    dtype = jnp.result_type(*jax.tree.leaves(state.params))
    data, validation = jax.tree.map(lambda a: jnp.asarray(a, dtype), (data, validation))
    run = start_run(state, validated=validation is not None)
    # Compiled before the first chunk, whose time tells how long the others may be.
    first = np.asarray(first_epoch, np.int32)
    program = _run_chunk.lower(
        key, trainer, run, data, validation, np.zeros((), np.int32), patience, first, batch_size=batch_size
    ).compile()

    def chunk(run: Run, stop: int) -> tuple[Run, Array, Array | None]:
        return program(key, trainer, run, data, validation, np.asarray(stop, np.int32), patience, first)

    settings = {"batch_size": batch_size, "epochs": epochs, "patience": int(patience)}
    settings["first_epoch"] = first_epoch
    return run, chunk, partial(describe_job, key, trainer, data, validation, **settings)


def _from_source(
    key: Array, trainer: Trainer, source: Source, validation: Batch | None, state: TrainState | None,
    epochs: int, batch_size: int | None, patience: np.ndarray, first_epoch: int,
) -> tuple[Run, Callable, Callable, Feed]:  # fmt: skip
    """What `drive` needs for rows that are read as they are needed."""
    feed = Feed(source, key_words(key), checked_batch_size(batch_size), first_epoch=first_epoch)
    first, *_ = feed.block(0, 0)
    if validation is not None:
        validation = check_data(validation, "validation")
        check_alike((first.x[0], first.y[0]), validation)
    state = jax.block_until_ready(trainer.init(key, first.x[0])) if state is None else state
    dtype = jnp.result_type(*jax.tree.leaves(state.params))
    validation = jax.tree.map(lambda a: jnp.asarray(a, dtype), validation)

    def batches(block: Block) -> Batch:
        return tuple(part.astype(dtype) for part in (block.x, block.y, block.numbers >= 0))

    run = start_run(state, validated=validation is not None, streamed=True)
    number, last = np.zeros((), np.int32), np.zeros((), bool)
    program = _run_block.lower(trainer, run, batches(first), number, last, validation, patience).compile()

    def advance(run: Run, block: Block, count: int, last: bool) -> tuple[Run, Array, Array | None]:
        limits = np.asarray(count, np.int32), np.asarray(last)
        return program(trainer, run, batches(block), *limits, validation, patience)

    settings = {"batch_size": batch_size, "epochs": epochs, "patience": int(patience)}
    settings["first_epoch"] = first_epoch
    job = partial(describe_stream, key, trainer, source, feed, validation, **settings)
    return run, blocks_in_turn(feed, advance), job, feed


def checked_batch_size(batch_size: int | None) -> int:
    """The number of rows per step, which a source has to be told."""
    if batch_size is None:
        raise ValueError("rows that are read as they are needed need a batch_size, for example 256")
    return batch_size


def describe_job(
    key: Array,
    trainer: Trainer,
    data: Batch,
    validation: Batch | None,
    state: TrainState,
    *,
    batch_size: int | None,
    rows: ArrayLike | None = None,
    validation_rows: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    members: bool = False,
    **settings: Any,
) -> Job:
    """What a run is made of; with `members`, `key`, `state` and the rows have an axis of them."""
    own: dict[str, ArrayLike | None] = {
        "rows": rows,
        "validation_rows": validation_rows,
        "weights": weights,
    }
    given = _named_arrays(key, state, own, dict(zip(("x", "y", "weight"), data, strict=False)), validation)

    def program() -> str:
        own = state, rows, validation_rows
        own = jax.tree.map(lambda leaf: leaf[0], own) if members else own
        run = start_run(own[0], validated=validation is not None or validation_rows is not None)
        held_out = data if validation is None and validation_rows is not None else validation
        stop = np.zeros((), np.int32)
        return _run_chunk.lower(
            jax.random.key(0), trainer, run, data, held_out, stop, stop, stop,
            batch_size=batch_size, rows=own[1], validation_rows=own[2],
        ).as_text()  # fmt: skip

    return Job({"batch_size": batch_size, **settings}, given, program)


def describe_stream(
    key: Array,
    trainer: Trainer,
    source: Source,
    feed: Feed,
    validation: Batch | None,
    state: TrainState,
    *,
    validation_rows: ArrayLike | None = None,
    members: bool = False,
    **settings: Any,
) -> Job:
    """What a run on a source is made of; with `members`, `key`, `state` and the rows have an axis of them."""
    given = _named_arrays(key, state, {"validation_rows": validation_rows}, source.describe(), validation)
    first, *_ = feed.block(0, 0)

    def program() -> str:
        own = jax.tree.map(np.asarray, (state, validation_rows))
        own = jax.tree.map(lambda leaf: leaf[0], own) if members else own
        run = start_run(own[0], validated=validation is not None, streamed=True)
        batches = tuple(part.astype(run.best_nll.dtype) for part in (first.x, first.y, first.numbers))
        number, last = np.zeros((), np.int32), np.zeros((), bool)
        return _run_block.lower(
            trainer, run, batches, number, last, validation, number, validation_rows=own[1]
        ).as_text()

    return Job({"batches_per_epoch": feed.per_epoch, **settings}, given, program)


def _named_arrays(
    key: Array,
    state: TrainState,
    own: dict[str, ArrayLike | None],
    data: dict[str, ArrayLike],
    validation: Batch | None,
) -> dict[str, ArrayLike]:
    """All that is given to a run, by name."""
    held_out = zip(("x", "y", "weight"), validation or (), strict=False)
    named = own | data | {f"validation {name}": array for name, array in held_out}
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    named["key"] = jax.random.key_data(key) if typed else key
    leaves = jax.tree_util.tree_leaves_with_path(state)
    named |= {f"first state{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
    return {name: array for name, array in named.items() if array is not None}


def drive(
    chunk: Callable[[Run, int], tuple[Run, ArrayLike, ArrayLike | None]],
    run: Run,
    epochs: int,
    hooks: Sequence[Hook],
    job: Callable[[TrainState], Job],
    feed: Feed | None = None,
    seconds: float = CHUNK_SECONDS,
) -> tuple[Run, History]:
    """Call chunk after chunk until the epochs are done, all members are over, or a hook says stop.

    Each chunk is made about as long as `seconds`. `job` describes the run that begins with a state. With a
    `feed` a chunk may end within an epoch; what a hook stops there is judged as if the epoch ended.
    """
    hooks = hooks if feed is None else [*hooks, feed]
    per_epoch = 1 if feed is None else feed.per_epoch
    blank = np.full((*np.shape(run.active), epochs), np.nan, run.best_nll.dtype)
    series = blank, None if run.best_params is None else blank.copy()
    try:
        if hooks:
            described = job(run.state)
            for hook in hooks:
                hook.begin(described)
            del described  # the first state, which nothing else may need any more
        for hook in hooks:
            run, past = _restored(hook.restore(run))
            for whole, part in zip(series, past, strict=True):
                if whole is not None and part is not None:
                    whole[..., : part.shape[-1]] = part[..., :epochs]
        (epoch, batch), length = position(run), 1
        while epoch < epochs and np.any(np.asarray(run.active)):
            here = epoch + batch / per_epoch
            marks = [(periods(here, hook.every) + 1) * hook.every for hook in hooks if hook.every]
            stop = min(epochs, epoch + length, *(marks if feed else map(math.ceil, marks)))
            began = time.perf_counter()
            run, *parts = chunk(run, stop)
            _record(series, parts, epoch)
            each = (time.perf_counter() - began) / max(stop - epoch, 1)
            length = int(np.clip(seconds / each, 1, CHUNK_EPOCHS))
            epoch, batch = position(run)
            history = _history(run, series)
            # A list, so that every hook is called, also when an earlier one says stop.
            if any([hook.after_chunk(run, history) for hook in hooks]):
                if batch:
                    run, *parts = chunk(run, 0)
                    _record(series, parts, epoch)
                break
    finally:
        for hook in hooks:
            hook.close()
    return run, _history(run, series)


def periods(here: float, every: float | int) -> int:
    """How many whole periods of epochs are over."""
    return math.floor(here / every + ROUNDING)


def _record(series: Sequence[np.ndarray | None], parts: Sequence[ArrayLike | None], epoch: int) -> None:
    """Write what a chunk returned over the epochs from `epoch` on, where it is a number."""
    for whole, part in zip(series, parts, strict=True):
        if whole is not None:
            there = whole[..., epoch : epoch + np.shape(part)[-1]]
            part = np.asarray(part)[..., : there.shape[-1]]
            np.copyto(there, part, where=~np.isnan(part))


def _restored(found: Run | tuple[Run, History]) -> tuple[Run, tuple[np.ndarray | None, np.ndarray | None]]:
    """What a hook returned, with the series of the epochs that are done."""
    run, history = (found, None) if isinstance(found, Run) else found
    return run, (None, None) if history is None else (history.loss, history.validation_nll)


def _history(run: Run, series: tuple[np.ndarray, np.ndarray | None]) -> History:
    return History(*series, np.asarray(run.best_epoch), np.asarray(run.failed_epoch))


def final_state(run: Run) -> TrainState:
    """The state that a run returns: with validation, the parameters of its best epoch."""
    return run.state if run.best_params is None else run.state._replace(params=run.best_params)


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


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise unless a number is whole and not too small."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if whole < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if whole > MOST:
        raise ValueError(f"{name} must be at most {MOST:,}, got {value:,}")


def check_hooks(hooks: Any) -> None:
    """Raise unless hooks are a list of `Hook`s."""
    if hooks is None:
        raise TypeError("hooks must be a list of Hook objects, got None: pass [] for none")
    if isinstance(hooks, Hook) or callable(hooks):
        raise TypeError(
            f"hooks must be a list of Hook objects, got a {type(hooks).__name__} alone: pass [hook]"
        )
    for hook in hooks:
        if not isinstance(hook, Hook):
            raise TypeError(
                f"hooks must be Hook objects, got a {type(hook).__name__}: make a class of jaxreg.Hook with "
                "after_chunk(self, run, history)"
            )


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


def check_alike(data: Batch, validation: Batch) -> None:
    """Raise unless validation has the columns of the training data."""
    for name, ours, theirs in zip("xy", data, validation, strict=False):
        if ours.shape[1:] != theirs.shape[1:]:
            raise ValueError(
                f"validation: {name} has shape {theirs.shape}, the training data's has {ours.shape}"
            )
