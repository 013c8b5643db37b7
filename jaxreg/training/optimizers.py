"""SGD, AdamW with an annealed learning rate, and separate optimizers for the heads."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxreg.checks import check_number
from jaxreg.data.frames import TableLike
from jaxreg.networks.models import head_labels
from jaxreg.plain import check_whole


class SGDState(NamedTuple):
    """The state of `sgd`: its hyperparameters, as arrays of the parameters' dtype, and the velocity."""

    learning_rate: Float[Array, "..."]
    momentum: Float[Array, "..."]
    weight_decay: Float[Array, "..."]
    velocity: PyTree


def sgd(
    learning_rate: ArrayLike | optax.Schedule, momentum: ArrayLike = 0.9, weight_decay: ArrayLike = 0.0
) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay, with the same updates as `torch.optim.SGD`.

    `v <- momentum v + (g + weight_decay p)`, then `p <- p - learning_rate v`. Sutskever et al. 2013,
    "On the importance of initialization and momentum in deep learning", in PyTorch's form.

    The hyperparameters are part of the optimizer's state, so another learning rate compiles nothing. Clipping
    comes from Optax: `optax.chain(optax.clip_by_global_norm(1.0), sgd(1e-2))`.

    Args:
        learning_rate: step size, not negative; or an Optax schedule, a function of the number of steps; each
            optimizer with a schedule compiles its own program.
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


def adamw(
    learning_rate: ArrayLike = 3e-3, weight_decay: ArrayLike = 0.1, *, steps: ArrayLike
) -> optax.GradientTransformation:
    """Optax's AdamW with cosine annealing of the learning rate to 0; its state has its hyperparameters.

    Loshchilov & Hutter 2019, "Decoupled weight decay regularization", and 2017, "SGDR: stochastic gradient
    descent with warm restarts". As with `sgd`, other hyperparameters compile nothing, and an ensemble can
    sweep them.

    Args:
        learning_rate: of the first step, not negative.
        weight_decay: share of each parameter that a step takes away, times the learning rate; not negative.
        steps: number of steps after which the learning rate is 0; positive.

    Raises:
        ValueError: if a number is none, is negative or not finite, or `steps` is not positive.

    >>> import jax.numpy as jnp
    >>> from jaxreg import adamw
    >>> optimizer = adamw(1e-2, weight_decay=0.0, steps=100)
    >>> state = optimizer.init(jnp.ones(()))
    >>> updates, state = optimizer.update(jnp.ones(()), state, jnp.ones(()))
    >>> print(f"{updates:.3f}")
    -0.010
    """
    for name, number in (("learning_rate", learning_rate), ("weight_decay", weight_decay), ("steps", steps)):
        check_number(name, number, positive=name == "steps")
    return optax.GradientTransformation(
        Partial(_adamw_init, learning_rate, weight_decay, steps), _adamw_update
    )


def _annealed(learning_rate: Array, weight_decay: Array, steps: Array) -> optax.GradientTransformation:
    def rate(step: Array) -> Array:
        return 0.5 * learning_rate * (1 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1)))

    return optax.adamw(rate, weight_decay=weight_decay)


_numbered = optax.inject_hyperparams(_annealed)


def _adamw_init(
    learning_rate: ArrayLike, weight_decay: ArrayLike, steps: ArrayLike, params: PyTree
) -> optax.OptState:
    leaves = jax.tree.leaves(params)
    dtype = jnp.result_type(*leaves) if leaves else jnp.float32  # a part of a model may have none
    numbers = (jnp.asarray(number, dtype) for number in (learning_rate, weight_decay, steps))
    return _numbered(*numbers).init(params)


_any_adamw = _numbered(1.0, 0.0, 1.0)


def _adamw_update(
    grads: PyTree, state: optax.OptState, params: PyTree | None = None
) -> tuple[PyTree, optax.OptState]:
    """Read the hyperparameters from the state, so that all trainers share one function and one program."""
    return _any_adamw.update(grads, state, params)


def by_head(
    mean: optax.GradientTransformation, variance: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Train the parameters of the variance alone with one optimizer, all others with another.

    The variance needs more weight decay than the mean: `by_head(sgd(5e-3), sgd(5e-3, weight_decay=1e-2))`.
    Build it once and keep it: like every Optax chain, it compiles a new program each time it is built.

    Args:
        mean: for the mean and the layers that both heads share.
        variance: for the parameters that `models.head_labels` labels "variance".
    """
    return optax.partition({"mean": mean, "variance": variance}, head_labels)


def warm_up(optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """Freeze the parameters of the variance alone for the first steps, while the mean is trained.

    Sluijterman et al. 2024, "Optimal training of mean variance estimation neural networks". Another way
    is a run under `squared_error`, then `start_variance`, then a second run from there. Build it once and
    keep it.

    Args:
        optimizer: trains all parameters; for the variance it begins after the warm-up.
        steps: steps of warm-up, not negative.
    """
    check_whole("steps", steps, 0)
    later = optax.conditionally_mask(optimizer, lambda step: step >= steps)
    return by_head(optimizer, later)


def _is_numbered(node: object) -> bool:
    return isinstance(node, SGDState) or hasattr(node, "hyperparams")


def _numbers_of(node: object) -> dict[str, object]:
    """The hyperparameters that an optimizer's update reads from its state."""
    if isinstance(node, SGDState):
        return {name: getattr(node, name) for name in ("learning_rate", "momentum", "weight_decay")}
    scheduled = getattr(node, "hyperparams_states", {})
    return {name: value for name, value in node.hyperparams.items() if name not in scheduled}


def set_numbers(opt_state: optax.OptState, numbers: Mapping[str, Array]) -> optax.OptState:
    """An optimizer's state with other hyperparameters, by name, anywhere in a chain."""

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
            hyperparams={**node.hyperparams, **new}, inner_state=set_numbers(node.inner_state, numbers)
        )

    return jax.tree.map(change, opt_state, is_leaf=_is_numbered)


def check_swept(
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
