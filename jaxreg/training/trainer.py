"""One step: the functions that train a network, and a run of epochs made of them, pure throughout."""

import inspect
from collections.abc import Callable, Sequence
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

from jaxreg.checks import as_key, check_same_shape, over_outputs
from jaxreg.data.border import check_features
from jaxreg.data.frames import TableLike
from jaxreg.data.rows import batch_order
from jaxreg.distributions.base import shape_of
from jaxreg.distributions.families import as_distribution
from jaxreg.distributions.gaussian import Gaussian
from jaxreg.distributions.mixture import GaussianMixture
from jaxreg.networks.models import Model
from jaxreg.training import losses
from jaxreg.training.losses import average, nll

# `(y, *fields) -> loss` of each entry, and `(y, *fields, weight) -> score` of all.
Loss = Callable[..., Array]
Score = Callable[..., Array]
Batch = tuple[TableLike, ...] | list[TableLike]


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
            `sum(weight * loss) / sum(weight)`. A batch of weight 0 has loss 0 and changes nothing. A weight
            of -1 marks a row that repeats another to pad the batch: it counts as 0, and y is left as is.
        nll: `(params, batch) -> nll` of each entry, whatever loss is trained on.
        score: `(params, batch) -> score`, one number for all held-out rows, by which `fit` picks the epoch.
    """

    init: Callable[[Array | int, TableLike], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, Array]] = field(metadata={"static": True})
    nll: Callable[[PyTree, Batch], Array] = field(metadata={"static": True})
    score: Callable[[PyTree, Batch], Array] = field(metadata={"static": True})

    def __reduce__(self) -> tuple:
        # Its functions can't be pickled; what they were made of can, if the optimizer is one of ours.
        return _remade, (self.init.args[0], self.init.func.made_of)


def make_trainer(
    model: Model,
    optimizer: optax.GradientTransformation,
    loss: Loss | None = None,
    score: Score | None = None,
) -> Trainer:
    """Build the functions that train a model.

    Compiled programs are shared between trainers of an equal model, the same `optimizer.update` and the
    same loss. `sgd` keeps one update whatever its numbers; `optax.adam(1e-3)` and its like make a new one
    at each call, so build such an optimizer once and keep it.

    A trainer can be pickled where its optimizer, loss and score can, as all of `jaxreg` can.

    Args:
        model: a Linen module with only `params` that returns a distribution, of which `(mean, log_var)` is a
            Gaussian; or anything with `init(key, x) -> variables` and `apply(variables, x)` likewise.
        optimizer: `sgd(...)` or any Optax transformation; those that ask for the loss, such as `optax.lbfgs`
            and `optax.contrib.reduce_on_plateau`, are given it.
        loss: elementwise, `(y, *fields) -> loss` of the distribution's fields; None is `-log_prob(y)`, that
            of a Gaussian without its constant, `gaussian_nll`. What the model returns is predicted
            afterwards, whatever the loss: under another loss intervals of a Gaussian are a Gaussian's.
        score: of held-out rows, `(y, *fields, weight) -> score`, lower is better; `scaled_nll` if the noise
            will be scaled afterwards. None is the mean of `-log_prob(y)`, as above.

    Raises:
        TypeError: for a model without `init` and `apply`, and for a loss with other arguments.

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
    """Raise unless a trainer can call a model, an optimizer and a loss."""
    name = type(model).__name__
    parts = [getattr(model, part, None) for part in ("init", "apply")]
    if isinstance(model, type) or not all(map(callable, parts)):
        raise TypeError(
            f"model must have init(key, x) and apply(variables, x), as a Linen module has, got a {name}: "
            "make a class into an object first; a Flax NNX module becomes Linen by nnx.bridge.to_linen, "
            "an Equinox module needs an object with these two functions (docs/howto/own_networks.md)"
        )
    if not all(callable(getattr(optimizer, part, None)) for part in ("init", "update")):
        given = getattr(optimizer, "__name__", repr(optimizer))
        raise TypeError(f"optimizer must be one of Optax's or jaxreg.sgd(1e-3), got {given}: call it first")
    if loss is None:
        return
    if not callable(loss):
        raise TypeError(f"loss must be a function of (y, *fields) such as (y, mean, log_var), got {loss!r}")
    try:
        takes = inspect.signature(loss).parameters.values()
    except ValueError:  # its signature can't be read
        return
    if not any(each.kind is each.VAR_POSITIONAL for each in takes):
        if sum(each.kind is not each.KEYWORD_ONLY for each in takes) < 2:
            called = getattr(loss, "__name__", repr(loss))
            raise TypeError(
                f"loss must take (y, *fields) such as (y, mean, log_var), {called} takes "
                f"{inspect.signature(loss)}: a function that makes a loss is called first, as in "
                "beta_nll(0.5)"
            )


def _remade(start: Callable, made_of: tuple) -> Trainer:
    model, update, told, loss, score = made_of
    kind = optax.GradientTransformationExtraArgs if told else optax.GradientTransformation
    return make_trainer(model, kind(start, update), loss, score)


@lru_cache(maxsize=256)
def _functions(
    model: Model, update: Callable, told: bool, loss: Loss | None, score: Score | None
) -> tuple[Callable, ...]:
    """The functions of a trainer, cached so that equal arguments share one compiled program.

    `told` says whether the optimizer's update takes the loss too.
    """

    @jax.jit
    def start(optimizer_init: Callable, key: Array, x: Array) -> TrainState:
        params = model.init(key, x)
        _check_model(model, params, x, (loss, score))
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer_init(params))

    def init(optimizer_init: Callable, key: Array | int, x: TableLike) -> TrainState:
        key = as_key(key)
        x = x if isinstance(x, jax.core.Tracer) else jnp.asarray(check_features(x))
        return start(optimizer_init, key, x)

    init.made_of, init.start = (model, update, told, loss, score), start

    def predicted(params: PyTree, batch: Batch) -> tuple[Any, Array, Array | None]:
        x, y, weight = _present(batch)
        dist = as_distribution(model.apply(params, x))
        if y.shape != shape_of(dist):
            check_same_shape(y=y, mean=dist.mean)
        return dist, y.astype(jax.tree.leaves(dist)[0].dtype), weight

    def batch_loss(params: PyTree, batch: Batch) -> tuple[Array, Array | None]:
        dist, y, weight = predicted(params, batch)
        values = nll(y, dist) if loss is None else loss(y, *tuple(dist))
        if jnp.shape(values) != y.shape:
            raise ValueError(f"the loss must be elementwise: for y {y.shape} it returned {jnp.shape(values)}")
        return _weighted_mean(values, weight)

    @_arrays_only
    @jax.jit
    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Array]:
        (value, total), grads = jax.value_and_grad(batch_loss, has_aux=True)(state.params, batch)
        grads, more = _all_at_once(grads), {}
        if told:
            more = {"value": value, "grad": grads, "value_fn": lambda params: batch_loss(params, batch)[0]}
        # Works under strict promotion too: Optax itself raises floats to integer powers.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = update(grads, state.opt_state, state.params, **more)
        new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)
        return (new if total is None else where(total > 0, new, state)), value

    @jax.jit
    def nll_of_each(params: PyTree, batch: Batch) -> Array:
        dist, y, _ = predicted(params, batch)
        return nll(y, dist)

    @jax.jit
    def score_all(params: PyTree, batch: Batch) -> Array:
        dist, y, weight = predicted(params, batch)
        return average(nll(y, dist), weight) if score is None else score(y, *tuple(dist), weight)

    return init, step, nll_of_each, score_all


def check_trainer(trainer: object) -> None:
    """Raise for anything else, such as a model."""
    if not isinstance(trainer, Trainer):
        kind = type(trainer).__name__
        raise TypeError(f"a Trainer is needed, got a {kind}: make_trainer(model, sgd(5e-3)) makes one")


def state_shapes(trainer: Trainer, key: Array, x: np.ndarray) -> TrainState:
    """Shapes and dtypes of a trainer's first state, for rows like x."""
    start = getattr(getattr(trainer.init, "func", None), "start", None)
    if start is None:  # a Trainer that a user made
        return jax.eval_shape(trainer.init, key, jnp.asarray(x))
    return start.eval_shape(*trainer.init.args, key, x)  # traced once


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

    checked.lower = step.lower  # for compiling ahead of time
    return checked


def _all_at_once(grads: PyTree) -> PyTree:
    """The same gradients, each made to depend on all the others.

    XLA then overwrites no parameter before the last product that reads it, and needs no copies in each step.
    On a CPU that saves 3 % of a step with layers of 128, and 11 % with layers of 512.
    """
    done = 0 * jnp.stack([leaf.ravel()[0] for leaf in jax.tree.leaves(grads) if leaf.size]).sum()
    done = jnp.where(jnp.isnan(done), 0, done)  # where a gradient is infinite
    return jax.tree.map(lambda leaf: leaf + done.astype(leaf.dtype), grads)


def _present(batch: Batch) -> tuple[Array, Array, Array | None]:
    """A batch as x, y and weights of y's shape; absent targets are 0 before any arithmetic sees them.

    Rows with a negative weight repeat present rows: their loss is finite where that of y = 0 may not be.
    """
    x, y, weight = (*(jnp.asarray(a) for a in batch), None)[:3]
    if weight is None:
        return x, y, None
    if weight.shape not in (y.shape, y.shape[:1]):
        raise ValueError(f"weight has shape {weight.shape}, expected {y.shape[:1]} or y's {y.shape}")
    weight = jnp.broadcast_to(over_outputs(weight, y.shape), y.shape)
    return x, jnp.where(weight == 0, 0, y), jnp.maximum(weight, 0)


def _weighted_mean(losses: Array, weight: Array | None) -> tuple[Array, Array | None]:
    """The mean over all entries, and the sum of weights; 0 where there is no weight."""
    if weight is None:
        return losses.mean(), None
    weight = weight.astype(losses.dtype)
    total = weight.sum()
    return jnp.where(weight > 0, weight * losses, 0).sum() / jnp.where(total > 0, total, 1), total


def where(condition: Array | bool, new: PyTree, old: PyTree) -> PyTree:
    """The new tree if the condition holds, else the old one."""
    return jax.tree.map(partial(jnp.where, condition), new, old)


def _check_model(model: Model, variables: PyTree, x: Array, of_fields: tuple[Callable | None, ...]) -> None:
    """Raise unless the model holds only `params`, needs no random numbers, and returns a distribution."""
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
    pair = isinstance(out, tuple) and len(tuple(out)) == 2
    if hasattr(out, "log_prob") and hasattr(out, "row_axis"):
        kind = type(out)
    elif pair and np.shape(tuple(out)[0]) == np.shape(tuple(out)[1]):
        kind = Gaussian
    elif hasattr(out, "_fields"):
        missing = [part for part in ("log_prob", "row_axis") if not hasattr(out, part)]
        raise ValueError(
            f"{name} returned a {type(out).__name__}, which has no {' and no '.join(missing)}: a model "
            "returns a distribution, such as those of jaxreg.distributions"
        )
    else:
        shapes = jax.tree.map(lambda a: a.shape, out)
        raise ValueError(
            f"{name} must return a distribution, or (mean, log_var) of one shape; it returned {shapes}"
        )
    loss, score = of_fields
    _check_takes(loss, kind, ("y", *kind._fields))
    _check_takes(score, kind, ("y", *kind._fields, "weight"))


def _check_takes(function: Callable | None, kind: type, names: Sequence[str]) -> None:
    """Raise unless a loss or a score takes what it will be given, and is for that kind of distribution."""
    if function is None:
        return
    called = getattr(function, "__name__", repr(function))
    ours = getattr(getattr(function, "func", function), "__module__", None) == losses.__name__
    if ours and kind not in (Gaussian, GaussianMixture):
        raise TypeError(
            f"{called} is for Gaussians, the model returns a {kind.__name__}: leave it out for -log_prob"
        )
    try:
        signature = inspect.signature(function)
    except ValueError:  # it can't be read
        return
    try:
        signature.bind(*names)
    except TypeError:
        raise TypeError(
            f"{called} takes {signature}, and the model's distribution gives it ({', '.join(names)})"
        ) from None


def take_rows(data: Batch, rows: Array) -> Batch:
    """Some rows of a batch by number; if it has weights, -1 stands for a row that is padding."""
    x, y, *weight = data
    at = jnp.maximum(rows, 0) if weight else rows
    if weight:
        weight = [fill_up(weight[0][at], rows >= 0)]
    return x[at], y[at], *weight


def fill_up(weight: Array, present: Array) -> Array:
    """The weights, with -1 for rows that only pad the batch."""
    return jnp.where(over_outputs(present, weight.shape), weight, -1)


def weight_of(batch: Batch) -> Array:
    """How much a batch's loss counts in the mean over an epoch."""
    dtype = jnp.asarray(batch[1]).dtype
    return jnp.maximum(batch[2], 0).sum() if len(batch) == 3 else jnp.asarray(len(batch[1]), dtype)


def _epoch(
    trainer: Trainer, order: Array, state: TrainState, data: Batch, batch_size: int
) -> tuple[TrainState, Array]:
    """One pass over the rows in an order; the loss is the mean over all rows as they were stepped on."""

    def step(state: TrainState, rows: Array) -> tuple[TrainState, tuple[Array, Array]]:
        batch = take_rows(data, rows)
        state, loss = trainer.step(state, batch)
        return state, (loss, weight_of(batch).astype(loss.dtype))

    whole, rest = divmod(len(order), batch_size)
    state, parts = jax.lax.scan(step, state, order[: whole * batch_size].reshape(whole, batch_size))
    if rest:
        state, last = step(state, order[-rest:])
        parts = jax.tree.map(jnp.append, parts, last)
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
    """Train for a number of epochs: a pure function that works under jit, vmap and grad.

    Each epoch visits the rows in the order `batch_order(key, epoch, n)`, in batches of `batch_size`; the
    last, smaller one is used too.

    Args:
        key: a JAX random key, for the order of the rows.
        trainer: from `make_trainer`.
        state: from `trainer.init`, or where another run ended.
        data: `(x, y)` or `(x, y, weight)`, of shapes `(n, features)`, `(n,)` or `(n, d)`, and y's or `(n,)`.
        epochs: number of passes; static.
        batch_size: rows per step; None takes all rows in one step, in their own order. Static.
        first_epoch: number of the first epoch, which determines the order of its rows: 10 epochs, and 10 more
            from the resulting state with `first_epoch=10`, equal 20 epochs.

    Returns:
        The last state, and each epoch's loss: the mean of its batches' losses, weighted by their rows.

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
    n = len(data[0])

    def one_epoch(state: TrainState, epoch: Array) -> tuple[TrainState, Array]:
        if batch_size is None or batch_size >= n:
            return trainer.step(state, data)
        return _epoch(trainer, batch_order(key, epoch, n), state, data, batch_size)

    return jax.lax.scan(one_epoch, state, first_epoch + jnp.arange(epochs))
