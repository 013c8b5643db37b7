"""Predictive distributions: what every model returns and every score reads."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jax.typing import ArrayLike
from jaxtyping import Array, Float

LOG_2PI = float(np.log(2 * np.pi))
INV_SQRT_PI = float(1 / np.sqrt(np.pi))


def check_same_shape(**arrays: ArrayLike) -> None:
    """Raise unless all arrays have one shape: targets and predictions never broadcast."""
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"shapes differ: {found}. Targets and predictions are never broadcast; "
            "reshape one, for example y[:, 0] for a model with outputs=None."
        )


def check_probability(name: str, value: ArrayLike | Sequence[ArrayLike]) -> None:
    """Raise unless every entry lies strictly between 0 and 1; traced values pass unchecked."""
    if isinstance(value, jax.core.Tracer):
        return
    numbers = np.asarray(value, np.float64)
    outside = numbers[~((numbers > 0) & (numbers < 1))]
    if outside.size:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {outside.flat[0]:g}")


class Gaussian(NamedTuple):
    """A normal distribution for each entry of `mean`.

    Args:
        mean: shape `(n,)` or `(n, d)`, in units of y.
        log_var: log variance, the same shape, in log units of y squared.

    A NamedTuple, so that `mean, log_var = model.apply(params, x)` works.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Gaussian
    >>> dist = Gaussian(mean=jnp.array([0.0, 10.0]), log_var=jnp.log(jnp.array([1.0, 4.0])))
    >>> dist.std
    Array([1., 2.], dtype=float32)
    >>> lo, hi = dist.interval(0.95)
    >>> [round(float(v), 2) for v in hi]
    [1.96, 13.92]
    """

    mean: Float[ArrayLike, "..."]
    log_var: Float[ArrayLike, "..."]

    @property
    @jax.jit
    def std(self) -> Float[Array, "..."]:
        """Standard deviation, in units of y."""
        return jnp.exp(0.5 * jnp.asarray(self.log_var))

    def _z(self, y: ArrayLike) -> Float[Array, "..."]:
        check_same_shape(y=y, mean=self.mean)
        # The residual is scaled before anything is squared: a std below 1e-19 has no float32 square.
        return (jnp.asarray(y) - self.mean) * jnp.exp(-0.5 * jnp.asarray(self.log_var))

    @jax.jit
    def log_prob(self, y: ArrayLike) -> Float[Array, "..."]:
        """Log density at y, elementwise, in nats: `-0.5 (z^2 + log_var + log 2 pi)`.

        Raises:
            ValueError: if y has another shape than the mean.
        """
        z = self._z(y)
        return -0.5 * (z * z + self.log_var + LOG_2PI)

    @jax.jit
    def cdf(self, y: ArrayLike) -> Float[Array, "..."]:
        """Probability of a value at most y, elementwise."""
        return ndtr(self._z(y))

    @jax.jit
    def log_cdf(self, y: ArrayLike) -> Float[Array, "..."]:
        """Log of the cdf, accurate in the lower tail."""
        return log_ndtr(self._z(y))

    def quantile(self, q: ArrayLike | Sequence[ArrayLike]) -> Float[Array, "..."]:
        """Value below which a share q of the probability lies; shape `q.shape + mean.shape`.

        Raises:
            ValueError: if a q lies outside (0, 1).
        """
        check_probability("q", q)
        return _gaussian_quantile(self, jnp.asarray(q))

    def interval(self, level: ArrayLike = 0.95) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Central interval `(lo, hi)` that holds a share `level` of the probability.

        Raises:
            ValueError: if the level lies outside (0, 1).
        """
        check_probability("level", level)
        return _gaussian_interval(self, level)

    def sample(self, key: Array, shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Independent draws, of shape `shape + mean.shape`."""
        return _gaussian_sample(self, key, tuple(shape))

    @jax.jit
    def crps(self, y: ArrayLike) -> Float[Array, "..."]:
        """Continuous ranked probability score, elementwise, in units of y; lower is better.

        Gneiting et al. 2005, "Calibrated probabilistic forecasting using ensemble model output
        statistics and minimum CRPS estimation", equation 5.
        """
        z = self._z(y)
        density = jnp.exp(-0.5 * (z * z + LOG_2PI))
        return self.std * (z * (2 * ndtr(z) - 1) + 2 * density - INV_SQRT_PI)

    def pit(self, y: ArrayLike) -> Float[Array, "..."]:
        """Probability integral transform: the cdf at y, uniform if the prediction is right."""
        return self.cdf(y)


@jax.jit
def _gaussian_quantile(dist: Gaussian, q: ArrayLike) -> Array:
    mean, std = jnp.asarray(dist.mean), dist.std
    q = jnp.asarray(q, mean.dtype)
    z = ndtri(q).reshape(q.shape + (1,) * mean.ndim)
    over = (1,) * q.ndim + mean.shape
    return mean.reshape(over) + std.reshape(over) * z


@jax.jit
def _gaussian_interval(dist: Gaussian, level: ArrayLike) -> tuple[Array, Array]:
    mean = jnp.asarray(dist.mean)
    half_width = -dist.std * ndtri(jnp.asarray((1 - level) / 2, mean.dtype))
    return mean - half_width, mean + half_width


@partial(jax.jit, static_argnums=2)
def _gaussian_sample(dist: Gaussian, key: Array, shape: tuple[int, ...]) -> Array:
    mean, over = jnp.asarray(dist.mean), (1,) * len(shape) + np.shape(dist.mean)
    noise = jax.random.normal(key, shape + mean.shape, mean.dtype)
    return mean.reshape(over) + noise * dist.std.reshape(over)


class Affine(NamedTuple):
    """The distribution of `loc + scale * z`, where z has the distribution `dist`.

    A model works on standardised targets; this takes what it says to the target's units. It does so
    on the host in float64, because targets such as 1.7e9 with a spread of 1 don't fit in float32.

    Args:
        dist: a distribution over `(n,)` or `(n, d)`.
        loc: float64, scalar or `(d,)`, in units of y.
        scale: float64 and positive, scalar or `(d,)`, in units of y.

    Its methods are those of `Gaussian`, and return float64 NumPy arrays.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Affine, Gaussian
    >>> timestamps = Affine(Gaussian(jnp.zeros(2), jnp.zeros(2)), loc=1.7e9, scale=0.5)
    >>> timestamps.std
    array([0.5, 0.5])
    >>> print(f"{timestamps.interval(0.95)[1][0]:.2f}")
    1700000000.98
    """

    dist: Gaussian
    loc: Float[ArrayLike, "..."]
    scale: Float[ArrayLike, "..."]

    def _out(self, values: ArrayLike) -> np.ndarray:
        return self.loc + self.scale * np.asarray(values, np.float64)

    def _in(self, y: ArrayLike) -> np.ndarray:
        check_same_shape(y=y, mean=self.dist.mean)
        return ((np.asarray(y, np.float64) - self.loc) / self.scale).astype(self.dist.mean.dtype)

    @property
    def mean(self) -> np.ndarray:
        """Mean, in units of y."""
        return self._out(self.dist.mean)

    @property
    def std(self) -> np.ndarray:
        """Standard deviation, in units of y."""
        return self.scale * np.asarray(self.dist.std, np.float64)

    def log_prob(self, y: ArrayLike) -> np.ndarray:
        """Log density at y, elementwise, in nats."""
        return np.asarray(self.dist.log_prob(self._in(y)), np.float64) - np.log(self.scale)

    def cdf(self, y: ArrayLike) -> np.ndarray:
        """Probability of a value at most y, elementwise."""
        return np.asarray(self.dist.cdf(self._in(y)), np.float64)

    def quantile(self, q: ArrayLike | Sequence[ArrayLike]) -> np.ndarray:
        """Quantiles, in units of y; shape `q.shape + mean.shape`."""
        return self._out(self.dist.quantile(q))

    def interval(self, level: ArrayLike = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Central interval `(lo, hi)`, in units of y."""
        lo, hi = self.dist.interval(level)
        return self._out(lo), self._out(hi)

    def sample(self, key: Array, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Independent draws, of shape `shape + mean.shape`, in units of y."""
        return self._out(self.dist.sample(key, shape))

    def crps(self, y: ArrayLike) -> np.ndarray:
        """Continuous ranked probability score, elementwise, in units of y."""
        return self.scale * np.asarray(self.dist.crps(self._in(y)), np.float64)

    def pit(self, y: ArrayLike) -> np.ndarray:
        """Probability integral transform: the cdf at y."""
        return self.cdf(y)
