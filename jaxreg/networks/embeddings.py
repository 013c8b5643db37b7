"""What stands before a first layer: features at several scales, and learned vectors of levels."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

# sin and cos of 2 pi h for |h| <= 1/4, as polynomials in h^2: Taylor's, to 1e-7, which float32 can't tell.
TURN = 2 * math.pi
SINE = tuple((-1) ** k * TURN ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(6))
COSINE = tuple((-1) ** k * TURN ** (2 * k) / math.factorial(2 * k) for k in range(7))


class PeriodicEmbedding(nn.Module):
    """Each feature as it is, and its sines and cosines at learned frequencies.

    Gorishniy et al. 2022, "On embeddings for numerical features in tabular deep learning". The frequencies
    start from normals whose scales run geometrically between two bounds, since no single one suits all
    features: low ones bend, high ones tell neighbours apart. Meant for standardised features.

    Args:
        frequencies: for each feature.
        scales: least and largest standard deviation of the frequencies at the start, in turns per unit.

    Raises:
        ValueError: if scales aren't two positive, finite numbers of which the second isn't the smaller one.

    >>> import jax
    >>> from jaxreg import MeanVarRegressor, PeriodicEmbedding
    >>> model = MeanVarRegressor(hidden=(32,), embedding=PeriodicEmbedding(frequencies=4))
    >>> params = model.init(jax.random.key(0), jax.numpy.ones((5, 3)))
    >>> params["params"]["embedding"]["frequency"].shape, params["params"]["hidden_0"]["kernel"].shape
    ((3, 4), (27, 32))
    """

    frequencies: int = 16
    scales: Sequence[float] = (0.05, 4.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        if len(self.scales) != 2 or not 0 < self.scales[0] <= self.scales[1] < math.inf:
            raise ValueError(
                f"scales must be two positive, finite numbers, the smaller one first, got {self.scales}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[ArrayLike, "... features"]) -> Float[Array, "... embedded"]:
        """Map `features` columns to `features * (1 + 2 * frequencies)`."""
        x = jnp.asarray(x)
        scale = np.geomspace(*self.scales, self.frequencies)

        def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
            return jax.random.normal(key, shape, dtype) * jnp.asarray(scale, dtype)[None]

        frequency = self.param("frequency", init, (x.shape[-1], self.frequencies), x.dtype)
        turns = x[..., None] * frequency.reshape((1,) * (x.ndim - 1) + frequency.shape)
        embedded = (part.reshape(*x.shape[:-1], -1) for part in sin_cos(turns))
        return jnp.concatenate([x, *embedded], axis=-1)


class ColumnEmbedding(nn.Module):
    """What `Columns.transform` gives, for a first layer: numbers embedded, levels as learned vectors.

    Guo & Berkhahn 2016, "Entity embeddings of categorical variables".

    Args:
        numbers: how many columns hold scaled numbers; they stand first.
        vectors: of each column that holds the number of a level, how many levels there are and the size of
            their vectors; these columns stand last. All between are taken as they are.
        embedding: of the scaled numbers, `(n, numbers) -> (n, any)`; None takes them as they are.

    >>> import jax
    >>> from jaxreg import ColumnEmbedding
    >>> module = ColumnEmbedding(numbers=1, vectors=((40, 5),))
    >>> x = jax.numpy.array([[0.3, 1.0, 39.0], [-0.1, 0.0, 2.0]])
    >>> module.apply(module.init(jax.random.key(0), x), x).shape
    (2, 7)
    """

    numbers: int
    vectors: Sequence[tuple[int, int]] = ()
    embedding: nn.Module | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", tuple(tuple(vector) for vector in self.vectors))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[ArrayLike, "... inputs"]) -> Float[Array, "... embedded"]:
        """Map inputs to what the first layer takes."""
        x = jnp.asarray(x)
        first, last = self.numbers, x.shape[-1] - len(self.vectors)
        numbers = x[..., :first]
        parts = [numbers if self.embedding is None or not first else self.embedding(numbers)]
        parts.append(x[..., first:last])
        for i, (levels, size) in enumerate(self.vectors):
            init = nn.initializers.normal(size**-0.5)
            table = self.param(f"levels_{i}", init, (levels, size), x.dtype)
            parts.append(table.at[x[..., last + i].astype(jnp.int32)].get(mode="clip"))
        return jnp.concatenate(parts, axis=-1)


@jax.custom_jvp
def sin_cos(turns: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Sine and cosine of an angle in turns, which are exact for large angles too.

    In float32 by polynomials, of which XLA makes code for several numbers at once; with its own sine and
    cosine a whole training step takes a third longer.

    >>> import jax.numpy as jnp
    >>> from jaxreg.embeddings import sin_cos
    >>> sine, cosine = sin_cos(jnp.array([0.25, 100.5]))
    >>> print(f"{sine[0]:.3f} {cosine[1]:.3f}")
    1.000 -1.000
    """
    rest = turns - jnp.round(turns)
    if rest.dtype != jnp.float32:
        return jnp.sin(TURN * rest), jnp.cos(TURN * rest)
    # By the half angle, whose polynomials are short.
    half = 0.5 * rest
    sine, cosine = half * _polynomial(SINE, half * half), _polynomial(COSINE, half * half)
    return 2 * sine * cosine, 1 - 2 * sine * sine


@sin_cos.defjvp
def _sin_cos_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple, tuple]:
    sine, cosine = sin_cos(*primals)
    angle = TURN * tangents[0]
    return (sine, cosine), (cosine * angle, -sine * angle)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value
