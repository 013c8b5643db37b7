"""What networks predict: row by row, whatever their number, alone or as an ensemble's mixture."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import flax
import jax
import numpy as np
from jaxtyping import Array, PyTree

from jaxreg.data.border import check_features
from jaxreg.data.frames import TableLike
from jaxreg.distributions.base import fill_rows, map_rows
from jaxreg.distributions.families import as_distribution, mixture_of
from jaxreg.machine import cores
from jaxreg.networks.models import Model
from jaxreg.plain import counted

# Rows of one call, at most and at least: one program serves any few rows.
PREDICTION_BLOCK = 8192
FEWEST_ROWS = 8


@partial(jax.jit, static_argnums=0)
def _apply(model: Model, params: PyTree, x: Array) -> Any:
    return as_distribution(model.apply(params, x))


def predict(model: Model, params: PyTree, x: TableLike) -> Any:
    """Predict a distribution for each row of x.

    Rows are padded to a power of two up to 8,192 and go block by block, so that any number of rows is
    served by a handful of compiled programs. Under `jax.jit` and the like x is taken as it is.

    Args:
        model: a Linen module that returns a distribution, or `(mean, log_var)`.
        params: what `model.init` gave or a `TrainState` holds.
        x: features, `(n, features)`; arrays, data frames and nested lists serve.

    Returns:
        What the model returns, over `(n,)` or `(n, d)`, in the units that it was trained in; `(mean,
        log_var)` as a Gaussian.

    Raises:
        ValueError: if x isn't two-dimensional, has no rows, or holds missing or infinite values; if params
            are a TrainState, an ensemble's, another model's, or for another number of features.

    >>> import jax
    >>> from jaxreg import MeanVarRegressor, predict
    >>> model = MeanVarRegressor(hidden=(8,))
    >>> params = model.init(jax.random.key(0), jax.numpy.ones((1, 2)))
    >>> dist = predict(model, params, [[0.0, 1.0], [2.0, 3.0]])
    >>> dist.mean.shape
    (2,)
    """
    check_params(model, params)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, x))):
        return as_distribution(model.apply(params, x))
    x = check_features(x)
    try:
        parts = [jax.device_get(_apply(model, params, block)) for block in row_blocks(x, PREDICTION_BLOCK)]
    except (flax.errors.FlaxError, TypeError, ValueError) as error:
        raise ValueError(misfit(model, params, x) or str(error)) from error
    return join_blocks(parts, len(x))


def check_params(model: Model, params: PyTree) -> None:
    """Raise if a whole state is given for its parameters, or something else for the model."""
    if not hasattr(model, "apply"):
        raise TypeError(f"a model has init and apply, got a {type(model).__name__}: pass model, params, x")
    if hasattr(params, "opt_state"):
        raise ValueError("params must be a model's parameters, got a TrainState: pass state.params")


def misfit(model: Model, params: PyTree, x: np.ndarray) -> str | None:
    """Why parameters don't fit a model and features; None if they do."""

    def shapes(features: int) -> PyTree:
        return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, features), x.dtype))

    expected = shapes(x.shape[1])
    if jax.tree.structure(params) != jax.tree.structure(expected):
        return f"params aren't those of this {type(model).__name__}: they have other names"
    pairs = [*zip(map(np.shape, jax.tree.leaves(params)), jax.tree.leaves(expected), strict=True)]
    if all(ours == like.shape for ours, like in pairs):
        return None
    if all(ours[1:] == like.shape for ours, like in pairs):
        members = pairs[0][0][0]
        return (
            f"params have a leading axis of {members} members: use predict_ensemble, or "
            f"Fitted(..., members={members})"
        )
    for features in {ours[0] for ours, like in pairs if ours[1:] == like.shape[1:] and ours != like.shape}:
        if [ours for ours, _ in pairs] == [leaf.shape for leaf in jax.tree.leaves(shapes(features))]:
            return f"x has {counted(x.shape[1], 'feature')}, the params are for {features}"
    return f"params aren't those of this {type(model).__name__}: they have other shapes"


def row_blocks(x: np.ndarray, size: int) -> list[np.ndarray]:
    """Blocks of rows; a last, smaller one is filled up to a power of two with repeats of its last row.

    A row's prediction depends on the rows beside it by rounding alone: each size of block is a program of its
    own, whose products may add up in another order.
    """
    *whole, last = (x[i : i + size] for i in range(0, len(x), size))
    return [*whole, fill_rows(last, fewest=FEWEST_ROWS, most=size)]


def join_blocks(parts: list[Any], n: int) -> Any:
    """The distribution of all blocks' rows, without what filled them up.

    In NumPy: a slice of a device array is one more program for each new length.
    """

    def joined(*blocks_and_axis: Any) -> np.ndarray:
        *blocks, axis = blocks_and_axis
        return np.concatenate(blocks, axis)[(slice(None),) * axis + (slice(n),)]

    return jax.device_put(map_rows(joined, *parts))


# Rows that a core predicts at once, of all members: few enough that the cores share a few thousand rows.
ENSEMBLE_PREDICTION_BLOCK = 2048


def predict_ensemble(model: Model, params: PyTree, x: TableLike) -> Any:
    """Predict the exact mixture of an ensemble's members for each row of x, on every core of a CPU.

    Rows are padded and go block by block, as in `predict`. Under `jax.jit` and the like x is taken as it is.

    Args:
        model: a Linen module that returns a distribution, or `(mean, log_var)`.
        params: parameters with a leading axis of members, such as `fit_ensemble`'s `states.params`.
        x: features, `(n, features)`; arrays, data frames and nested lists serve.

    Returns:
        A mixture over `(n,)` or `(n, d)`, in the units that the members were trained in; a `GaussianMixture`
        of members that predict Gaussians or mixtures of them.

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
    check_params(model, params)
    leaves = jax.tree.leaves(params)
    counts = sorted({np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in leaves})
    if len(counts) != 1 or counts[0] == 0:
        raise ValueError(
            f"params must have a leading axis of members, its leaves have lengths {counts}: those of one "
            "network are for predict"
        )
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, x))):
        return mixture_of(jax.vmap(partial(_apply, model), (0, None))(params, x))
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

    def one(block: np.ndarray) -> Any:
        with jax.enable_x64(wide):
            return jax.device_get(programs[len(block)](params, block))

    with ThreadPoolExecutor(cores() if on_cpu else 1) as pool:
        return join_blocks(list(pool.map(one, blocks)), len(x))


@partial(jax.jit, static_argnames=("model", "in_turn"))
def _apply_members(model: Model, params: PyTree, x: Array, *, in_turn: bool) -> Any:
    if in_turn:
        return mixture_of(jax.lax.map(lambda own: _apply(model, own, x), params))
    return mixture_of(jax.vmap(partial(_apply, model), (0, None))(params, x))
