"""What an ensemble predicts: the exact mixture of its members, on every core of a CPU."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import flax
import jax
import numpy as np
from jaxtyping import Array, PyTree

from jaxreg.data import TableLike, check_features
from jaxreg.gaussian import GaussianMixture
from jaxreg.models import PREDICTION_BLOCK, Model, check_params, join_blocks, misfit, row_blocks
from jaxreg.training.members import cores

# Rows that a core predicts at once, of all members: few enough that the cores share a few thousand rows.
ENSEMBLE_PREDICTION_BLOCK = 2048


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
