"""What distributions share: how methods are compiled, checked and take levels."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxreg.checks import check_probability

# Arrays of any library, nested lists, and series.
Values = Any

LOG_2PI = float(np.log(2 * np.pi))
INV_SQRT_PI = float(1 / np.sqrt(np.pi))
SQRT_HALF = float(np.sqrt(0.5))


def as_shape(shape: tuple[int, ...] | int) -> tuple[int, ...]:
    """A shape of draws, of which a number is one axis; or an error that names what is none."""
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    for size in sizes:
        if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 0:
            raise ValueError(f"shape must be whole numbers of draws, got {shape!r}")
    return sizes


def result_dtype(*arrays: ArrayLike) -> np.dtype:
    """What arrays are computed in together: whole numbers as floats."""
    return jnp.result_type(*arrays, 0.0)


def as_floating(*arrays: ArrayLike) -> tuple[Array, ...]:
    """Arrays in the dtype that they are computed in together."""
    return tuple(jnp.asarray(array, result_dtype(*arrays)) for array in arrays)


def compiled_method(function: Callable) -> Callable:
    """Compile a method that takes values of y: arrays of any library, nested lists, or traced arrays."""
    compiled = jax.jit(function)

    @wraps(function)
    def method(self: Any, y: Any) -> Array:
        return compiled(with_checked_weights(self), y if isinstance(y, jax.Array) else np.asarray(y))

    return method


def compiled_property(function: Callable) -> property:
    """Compile a property."""
    compiled = jax.jit(function)
    return property(wraps(function)(lambda self: compiled(with_checked_weights(self))))


def with_checked_weights(dist: Any) -> Any:
    """The same distribution, or an error if its weights can't be shares."""
    if getattr(dist, "weights", None) is not None:
        check_shares(dist.weights)
    return dist


def check_shares(weights: ArrayLike) -> None:
    """Raise unless members' weights can be shares; traced values pass unchecked."""
    if isinstance(weights, jax.core.Tracer):
        return
    weights = np.asarray(weights)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(f"weights must be finite, not negative and not all 0, got {weights}")


def tails(q: ArrayLike | Sequence[ArrayLike], like: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """Quantile levels as the probability of the smaller tail, and whether that is the upper one.

    Numbers are split before they are rounded to the dtype of a prediction: float32 has no 1 - 1e-9.
    """
    check_probability("q", q)
    xp, q = (jnp, q) if isinstance(q, jax.core.Tracer) else (np, np.asarray(q, np.float64))
    tail = xp.where(q > 0.5, 1 - q, q)
    _check_tail("q", tail, like)
    return tail, q > 0.5


def both_tails(level: ArrayLike | Sequence[ArrayLike], like: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """The tails outside central intervals, the lower one first."""
    check_probability("level", level)
    xp, level = (jnp, level) if isinstance(level, jax.core.Tracer) else (np, np.asarray(level, np.float64))
    tail = (1 - level) / 2
    _check_tail("level", tail, like)
    return xp.stack([tail, tail]), np.stack([np.zeros(tail.shape, bool), np.ones(tail.shape, bool)])


def _check_tail(name: str, tail: ArrayLike, like: ArrayLike) -> None:
    """Raise if a tail is so small that the prediction's dtype takes it for 0."""
    dtype = jnp.result_type(like, 0.0)
    if not isinstance(tail, jax.core.Tracer) and (tail < jnp.finfo(dtype).tiny).any():
        raise ValueError(f"{name} leaves a tail of {np.min(tail):g}, which {dtype} takes for 0")


def pair(ends: Array) -> tuple[Array, Array]:
    """Both ends of an interval, which are stacked."""
    lower, upper = ends
    return lower, upper


def fill_rows(values: ArrayLike, axis: int = 0, fewest: int = 1, most: int | None = None) -> np.ndarray:
    """Rows filled up with repeats of the last one to a power of two, within bounds; no rows stay none."""
    values = np.asarray(values)
    n = values.shape[axis]
    size = max(1 << (n - 1).bit_length(), fewest) if n else 0
    missing = (size if most is None else min(size, most)) - n
    if not missing:
        return values
    return np.concatenate([values, np.repeat(np.take(values, [-1], axis), missing, axis)], axis)
