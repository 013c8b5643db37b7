"""The notebook's data, and a grid to predict over."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxreg.checks import as_key
from jaxreg.data.border import check_features
from jaxreg.data.frames import TableLike


def sinusoid(key: Array | int, n: int = 256) -> tuple[Float[Array, "n 1"], Float[Array, " n"]]:
    """The notebook's data: `y = sin(1.3 x) + Normal(0, 0.15 + 0.25 |x|)`, x uniform on [-3, 3].

    Args:
        key: a JAX random key.
        n: number of rows.

    Returns:
        `(x, y)` of shapes `(n, 1)` and `(n,)`.

    >>> import jax
    >>> from jaxreg import data
    >>> x, y = data.sinusoid(jax.random.key(0))
    >>> x.shape, y.shape
    ((256, 1), (256,))
    """
    return _sinusoid(as_key(key), n)


@partial(jax.jit, static_argnums=1)
def _sinusoid(key: Array, n: int) -> tuple[Array, Array]:
    x_key, noise_key = jax.random.split(key)
    x = jax.random.uniform(x_key, (n, 1), minval=-3.0, maxval=3.0)
    sigma = 0.15 + 0.25 * jnp.abs(x[:, 0])
    return x, jnp.sin(1.3 * x[:, 0]) + sigma * jax.random.normal(noise_key, (n,))


def grid(x: TableLike, n: int = 400, margin: float = 0.25) -> Float[np.ndarray, "n 1"]:
    """Evenly spaced points over the range of a single feature and a margin on either side.

    Args:
        x: the feature, `(rows, 1)`.
        n: number of points.
        margin: how far to go past either end, as a share of the range.

    Raises:
        ValueError: if x holds more than one feature.

    >>> from jaxreg import data
    >>> data.grid([[0.0], [4.0]], n=3)[:, 0]
    array([-1.,  2.,  5.], dtype=float32)
    """
    x = check_features(x)
    if x.shape[1] != 1:
        raise ValueError(f"a grid needs one feature, x has {x.shape[1]}: pass one column, x[:, :1]")
    low, high = float(x.min()), float(x.max())
    reach = margin * (high - low)
    return np.linspace(low - reach, high + reach, n, dtype=x.dtype)[:, None]
