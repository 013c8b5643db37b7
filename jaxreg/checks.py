"""Checks of what users pass that many files share: numbers, shapes, keys, weights, and names in messages."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array


def check_number(name: str, number: Any, *, positive: bool = False) -> None:
    """Raise unless a number, or each of an array, is finite and not negative; traced ones pass unchecked."""
    if isinstance(number, jax.core.Tracer):
        return
    array, bound = np.asarray(number), "positive" if positive else "not negative"
    if array.dtype.kind not in "iuf" and array.dtype != jnp.bfloat16:
        raise ValueError(f"{name} must be a number, finite and {bound}, got {number!r}")
    if not np.all((array > 0 if positive else array >= 0) & np.isfinite(array)):
        raise ValueError(f"{name} must be finite and {bound}, got {number}")


def check_same_shape(**arrays: ArrayLike) -> None:
    """Raise unless all arrays have one shape: targets and predictions never broadcast."""
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        same_size = len({*map(np.prod, shapes.values())}) == 1
        remedy = "reshape one, for example y[:, 0]" if same_size else "pass as many of each"
        raise ValueError(f"shapes differ: {found}. Targets and predictions are never broadcast; {remedy}")


def check_probability(name: str, value: ArrayLike | Sequence[ArrayLike]) -> None:
    """Raise unless every entry lies strictly between 0 and 1; traced values pass unchecked."""
    if isinstance(value, jax.core.Tracer):
        return
    numbers = np.asarray(value, np.float64)
    outside = numbers[~((numbers > 0) & (numbers < 1))]
    if outside.size:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {outside.flat[0]:g}")


def check_std(**stds: ArrayLike) -> None:
    """Raise unless every standard deviation is positive and finite; traced values pass unchecked."""
    for name, std in stds.items():
        if isinstance(std, jax.core.Tracer):
            continue
        std = np.asarray(std)
        wrong = std[~((std > 0) & np.isfinite(std))]
        if wrong.size:
            raise ValueError(
                f"{name} must be positive and finite, {wrong.size} of {std.size} values aren't, "
                f"such as {wrong.flat[0]:g}"
            )


def check_varies(target: str, least: float, most: float, rows: int | None = None) -> None:
    """Raise if a target has one value, from which no variance can be learned.

    Args:
        target: what the message calls it.
        least: its least value.
        most: its largest value.
        rows: how many there are, where that is to be said.
    """
    if least == most:
        where = "all rows" if rows is None else f"all {rows:,} rows"
        raise ValueError(
            f"the target {target} has one value, {least:g}, in {where}: there is no variance to learn"
        )


def as_key(key: Array | int) -> Array:
    """A JAX random key; a whole number is taken for its seed.

    Raises:
        TypeError: for anything else.

    >>> from jaxreg.checks import as_key
    >>> print(as_key(7))
    Array((), dtype=key<fry>) overlaying:
    [0 7]
    """
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return jax.random.key(int(key))
    if isinstance(key, jax.Array) or isinstance(key, np.ndarray) and key.dtype == np.uint32:
        return key
    raise TypeError(
        "key must be a JAX random key, as jax.random.key(0) makes one, or a whole number, got a "
        f"{type(key).__name__}"
    )


def over_outputs(weight: Any, shape: Sequence[int]) -> Any:
    """Weights of rows, or of single values, with the axes that targets of a shape have; not yet broadcast.

    >>> import numpy as np
    >>> from jaxreg.checks import over_outputs
    >>> over_outputs(np.ones(3), (3, 2)).shape
    (3, 1)
    """
    return weight.reshape(weight.shape + (1,) * (len(shape) - weight.ndim))
