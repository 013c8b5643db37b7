"""The normal distribution."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxreg.checks import as_key, check_same_shape, check_std
from jaxreg.distributions.base import (
    INV_SQRT_PI,
    LOG_2PI,
    SQRT_HALF,
    Floats,
    Levels,
    Record,
    Values,
    as_floating,
    as_shape,
    both_tails,
    compiled_method,
    compiled_property,
    of_rank,
    one_line,
    pair,
    result_dtype,
    select_rows,
    tails,
)


class Gaussian(Record):
    """A normal distribution for each entry of `mean`.

    Args:
        mean: shape `(n,)` or `(n, d)`, in units of y.
        log_var: log variance, the same shape, in log units of y squared.

    A NamedTuple, so that `mean, log_var = model.apply(params, x)` works; an index selects rows. Numbers and
    nested lists become arrays by `from_std`.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Gaussian
    >>> dist = Gaussian(mean=jnp.array([0.0, 10.0]), log_var=jnp.log(jnp.array([1.0, 4.0])))
    >>> dist.std
    Array([1., 2.], dtype=float32)
    >>> lo, hi = dist.interval(0.95)
    >>> [round(float(v), 2) for v in hi]
    [1.96, 13.92]
    >>> dist[1:]
    Gaussian(mean (1,) 10, std (1,) 2)
    """

    mean: Floats
    log_var: Floats

    row_axis = 0
    __repr__ = one_line

    def __getitem__(self, rows: Any) -> "Gaussian":
        """The distribution of some rows, by a number, a slice, or a list of numbers or booleans."""
        return Gaussian(*(select_rows(part, rows) for part in self))

    @classmethod
    def from_std(cls, mean: ArrayLike, std: ArrayLike) -> "Gaussian":
        """A Gaussian from standard deviations, which are checked.

        Raises:
            ValueError: if a standard deviation is zero, negative, or not finite, or the shapes differ.

        >>> from jaxreg import Gaussian
        >>> print(Gaussian.from_std(mean=0.0, std=2.0).log_var)
        1.3862944
        """
        check_same_shape(mean=mean, std=std)
        check_std(std=std)
        return cls(*as_floating(mean, 2 * jnp.log(jnp.asarray(std, result_dtype(std)))))

    @classmethod
    def from_natural(cls, eta_1: ArrayLike, eta_2: ArrayLike) -> "Gaussian":
        """A Gaussian from its natural parameters: `mean / var` and `-1 / (2 var)`, which is negative.

        Immer et al. 2023, "Effective Bayesian heteroscedastic regression with deep neural networks".

        Raises:
            ValueError: if an eta_2 isn't negative, or the shapes differ.
        """
        check_same_shape(eta_1=eta_1, eta_2=eta_2)
        if not isinstance(eta_2, jax.core.Tracer) and not np.all(np.asarray(eta_2) < 0):
            raise ValueError(f"eta_2 must be negative, its largest value is {np.max(eta_2):g}")
        precision = -2 * jnp.asarray(eta_2)
        return cls(eta_1 / precision, -jnp.log(precision))

    @compiled_property
    def std(self) -> Float[Array, "..."]:
        """Standard deviation, in units of y."""
        return jnp.exp(0.5 * jnp.asarray(self.log_var))

    @property
    def aleatoric(self) -> Float[Array, "..."]:
        """Standard deviation of the noise, which is all of it, as for a mixture of one."""
        return self.std

    @property
    def epistemic(self) -> Float[Array, "..."]:
        """Standard deviation of the members' means, which is 0, as for a mixture of one."""
        return jnp.zeros_like(self.std)

    def moment_matched(self) -> "Gaussian":
        """The Gaussian of the same mean and variance: itself."""
        return self

    def output(self, i: int) -> "Gaussian":
        """The distribution of one of several outputs, over `(n,)`."""
        return Gaussian(self.mean[..., i], self.log_var[..., i])

    def _z(self, y: ArrayLike) -> Float[Array, "..."]:
        check_same_shape(y=y, mean=self.mean)
        # The residual is scaled before anything is squared: a std below 1e-19 has no float32 square.
        return (jnp.asarray(y) - self.mean) * jnp.exp(-0.5 * jnp.asarray(self.log_var))

    @compiled_method
    def log_prob(self, y: Values) -> Float[Array, "..."]:
        """Log density at y, elementwise, in nats: `-0.5 (z^2 + log_var + log 2 pi)`.

        Raises:
            ValueError: if y has another shape than the mean.
        """
        z = self._z(y)
        return -0.5 * (z * z + self.log_var + LOG_2PI)

    @compiled_method
    def cdf(self, y: Values) -> Float[Array, "..."]:
        """Probability of a value at most y, elementwise."""
        return ndtr(self._z(y))

    @compiled_method
    def log_cdf(self, y: Values) -> Float[Array, "..."]:
        """Log of the cdf, accurate in the lower tail."""
        return log_ndtr(self._z(y))

    @compiled_method
    def log_sf(self, y: Values) -> Float[Array, "..."]:
        """Log of the probability above y, accurate in the upper tail."""
        return log_ndtr(-self._z(y))

    def quantile(self, q: Levels) -> Float[Array, "..."]:
        """Value below which a share q of the probability lies; shape `q.shape + mean.shape`.

        Raises:
            ValueError: if a q lies outside (0, 1).
        """
        return _gaussian_quantile(self, *tails(q, self.mean))

    def interval(self, level: Levels = 0.95) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Central interval `(lo, hi)` that holds a share `level` of the probability.

        Either end has the shape `level.shape + mean.shape`.

        Raises:
            ValueError: if the level lies outside (0, 1).
        """
        return pair(_gaussian_quantile(self, *both_tails(level, self.mean)))

    def sample(self, key: Array | int, shape: tuple[int, ...] | int = ()) -> Float[Array, "..."]:
        """Independent draws, of shape `shape + mean.shape`; `shape` may be a number of draws."""
        return _gaussian_sample(self, as_key(key), as_shape(shape))

    @compiled_method
    def crps(self, y: Values) -> Float[Array, "..."]:
        """Continuous ranked probability score, elementwise, in units of y; lower is better.

        Gneiting et al. 2005, "Calibrated probabilistic forecasting using ensemble model output
        statistics and minimum CRPS estimation", equation 5.
        """
        check_same_shape(y=y, mean=self.mean)
        return mean_distance(jnp.asarray(y) - self.mean, self.std) - self.std * INV_SQRT_PI

    def pit(self, y: Values) -> Float[Array, "..."]:
        """Probability integral transform: the cdf at y, uniform if the prediction is right."""
        return self.cdf(y)

    def scale_variance(self, log_factor: ArrayLike) -> "Gaussian":
        """The Gaussian with its variance multiplied; NumPy arrays stay NumPy arrays."""
        if not isinstance(log_factor, jax.Array):
            log_factor = np.asarray(log_factor, jnp.result_type(self.mean, 0.0))
        return self._replace(log_var=self.log_var + of_rank(log_factor, self.log_var))

    scale_noise = scale_variance


@jax.jit
def _gaussian_quantile(dist: Gaussian, tail: ArrayLike, upper: ArrayLike) -> Array:
    mean, std = as_floating(dist.mean, dist.std)
    z = ndtri(jnp.asarray(tail, mean.dtype))
    z = jnp.where(upper, -z, z).reshape(z.shape + (1,) * mean.ndim)
    over = (1,) * (z.ndim - mean.ndim) + mean.shape
    return mean.reshape(over) + std.reshape(over) * z


@partial(jax.jit, static_argnums=2)
def _gaussian_sample(dist: Gaussian, key: Array, shape: tuple[int, ...]) -> Array:
    mean, over = jnp.asarray(dist.mean), (1,) * len(shape) + np.shape(dist.mean)
    noise = jax.random.normal(key, shape + mean.shape, mean.dtype)
    return mean.reshape(over) + noise * dist.std.reshape(over)


def mean_distance(distance: Array, std: Array) -> Array:
    """The mean of `abs(X)` for a normal X of mean `distance`."""
    # Beyond 100 exp is 0 and erf is 1. A division would have a NaN gradient where its square overflows.
    z = jnp.clip(distance * jnp.exp(-jnp.log(std)), -100, 100)
    return std * jnp.exp(-0.5 * z * z) * (2 / jnp.pi) ** 0.5 + distance * jax.lax.erf(z * SQRT_HALF)
