"""What to train with beside SGD: AdamW whose learning rate dies away, and optimizers for each head."""

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from jaxreg.models import head_labels
from jaxreg.training import check_number, check_whole


def adamw(
    learning_rate: ArrayLike = 3e-3, weight_decay: ArrayLike = 0.1, *, steps: ArrayLike
) -> optax.GradientTransformation:
    """AdamW whose learning rate falls to 0 along half a cosine: Optax's, with its numbers in its state.

    Loshchilov & Hutter 2019, "Decoupled weight decay regularization", and 2017, "SGDR: stochastic gradient
    descent with warm restarts". As with `sgd`, other numbers need no other program, and an ensemble can sweep
    them.

    Args:
        learning_rate: of the first step, not negative.
        weight_decay: share of each parameter that a step takes away, times the learning rate; not negative.
        steps: after so many the learning rate is 0; positive.

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
    """One function whatever the numbers, which it takes from the state: trainers share a program by it."""
    return _any_adamw.update(grads, state, params)


def by_head(
    mean: optax.GradientTransformation, variance: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Train the parameters of the variance alone by an optimizer of their own, all others by the first.

    The variance wants more weight decay than the mean: `by_head(sgd(5e-3), sgd(5e-3, weight_decay=1e-2))`.
    Build it once and keep it: as every Optax chain it is a new program each time it is built.

    Args:
        mean: for the mean and the layers that both heads share.
        variance: for what `models.head_labels` labels so.
    """
    return optax.partition({"mean": mean, "variance": variance}, head_labels)


def warm_up(optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """Leave the parameters of the variance alone as they are for the first steps, while the mean is trained.

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
