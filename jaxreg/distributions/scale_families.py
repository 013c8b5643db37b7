"""Location-scale families: Student's t and Laplace's distribution."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, gammaln
from jaxtyping import Array, Float

from jaxreg.distributions.base import Floats, Values, compiled_method, compiled_property
from jaxreg.distributions.family import LocationScale


class _Symmetric(LocationScale):
    """What is as likely above the location as below it; `_below(z)` is the cdf in units of the scale."""

    __slots__ = ()

    @compiled_method
    def cdf(self, y: Values) -> Float[Array, "..."]:
        """Probability of a value at most y, elementwise."""
        return self._below(self.standardised(y))

    @compiled_method
    def sf(self, y: Values) -> Float[Array, "..."]:
        """Probability of a value above y, elementwise."""
        return self._below(-self.standardised(y))

    @property
    def mean(self) -> Floats:
        """Mean, in units of y."""
        return self.loc


class _StudentFields(NamedTuple):
    loc: Floats
    log_scale: Floats
    log_df: Floats


class StudentT(_Symmetric, _StudentFields):
    """Student's t distribution, whose tails are heavier than a Gaussian's.

    Lange et al. 1989, "Robust statistical modeling using the t distribution".

    Args:
        loc: the median, `(n,)` or `(n, d)`, in units of y.
        log_scale: logarithm of the scale, the same shape.
        log_df: logarithm of the degrees of freedom, the same shape, above 1 for a mean and a CRPS; those of a
            network are from 2.1, so that there is a variance, to 1,000, beyond which float32 has too few
            digits.

    The density has gradients with respect to all of them, cdf, quantiles and CRPS to all but `log_df`.

    >>> import jax.numpy as jnp
    >>> from jaxreg import StudentT
    >>> dist = StudentT(loc=jnp.zeros(1), log_scale=jnp.zeros(1), log_df=jnp.log(jnp.array([4.0])))
    >>> print(dist.cdf(jnp.array([2.776])).round(3), dist.std.round(3))
    [0.975] [1.414]
    """

    __slots__ = ()

    @classmethod
    def from_raw(cls, loc: Array, raw_scale: Array, raw_df: Array) -> "StudentT":
        """Degrees of freedom of `2.1 + 10 softplus(raw)`, at most 1,000."""
        df = jnp.minimum(2.1 + 10 * jax.nn.softplus(raw_df), 1000)
        return super().from_raw(loc, raw_scale, jnp.log(df))

    @compiled_method
    def log_prob(self, y: Values) -> Float[Array, "..."]:
        """Log density at y, elementwise, in nats."""
        z, df = self.standardised(y), jnp.exp(jnp.asarray(self.log_df))
        constant = gammaln(0.5 * (df + 1)) - gammaln(0.5 * df) - 0.5 * (self.log_df + np.log(np.pi))
        return constant - self.log_scale - 0.5 * (df + 1) * jnp.log1p(z * z / df)

    def _below(self, z: Array) -> Array:
        df = jnp.exp(jnp.asarray(self.log_df))
        # Either form keeps its digits on its side.
        square, near = z * z, z * z < df
        tail = jnp.where(
            near,
            0.5 - 0.5 * betainc(0.5 + 0 * df, 0.5 * df, jnp.where(near, square / (df + square), 0)),
            0.5 * betainc(0.5 * df, 0.5 + 0 * df, jnp.where(near, 1, df / (df + square))),
        )
        return jnp.where(z < 0, tail, 1 - tail)

    @compiled_property
    def std(self) -> Float[Array, "..."]:
        """Standard deviation, in units of y; infinite for at most 2 degrees of freedom."""
        df = jnp.exp(jnp.asarray(self.log_df))
        ratio = jnp.where(df > 2, df / jnp.where(df > 2, df - 2, 1), jnp.inf)
        return jnp.exp(jnp.asarray(self.log_scale)) * jnp.sqrt(ratio)

    @compiled_method
    def crps(self, y: Values) -> Float[Array, "..."]:
        """Continuous ranked probability score, elementwise, in units of y.

        Jordan et al. 2019, "Evaluating probabilistic forecasts with scoringRules".
        """
        z, df = self.standardised(y), jnp.exp(jnp.asarray(self.log_df))
        density = jnp.exp(self.log_prob(y) + self.log_scale)
        # B(1/2, df - 1/2) / B(1/2, df/2)^2
        log_spread = gammaln(df - 0.5) - gammaln(df) - 2 * (gammaln(0.5 * df) - gammaln(0.5 * (df + 1)))
        spread = jnp.exp(log_spread) / np.sqrt(np.pi)
        value = z * (2 * self._below(z) - 1) + 2 * density * (df + z * z) / (df - 1)
        return jnp.exp(jnp.asarray(self.log_scale)) * (value - 2 * jnp.sqrt(df) / (df - 1) * spread)


class _LaplaceFields(NamedTuple):
    loc: Floats
    log_scale: Floats


class Laplace(_Symmetric, _LaplaceFields):
    """Laplace's distribution, whose density falls by the same factor with each step from the median.

    Args:
        loc: the median, `(n,)` or `(n, d)`, in units of y.
        log_scale: logarithm of the mean absolute distance from it, the same shape.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Laplace
    >>> print(Laplace(loc=jnp.zeros(1), log_scale=jnp.zeros(1)).quantile(0.975).round(3))
    [2.996]
    """

    __slots__ = ()

    @compiled_method
    def log_prob(self, y: Values) -> Float[Array, "..."]:
        """Log density at y, elementwise, in nats."""
        return -jnp.abs(self.standardised(y)) - self.log_scale - np.log(2)

    def _below(self, z: Array) -> Array:
        tail = 0.5 * jnp.exp(-jnp.abs(z))
        return jnp.where(z < 0, tail, 1 - tail)

    @compiled_property
    def std(self) -> Float[Array, "..."]:
        """Standard deviation, in units of y."""
        return np.sqrt(2) * jnp.exp(jnp.asarray(self.log_scale))

    @compiled_method
    def crps(self, y: Values) -> Float[Array, "..."]:
        """Continuous ranked probability score, elementwise, in units of y."""
        distance = jnp.abs(self.standardised(y))
        return jnp.exp(jnp.asarray(self.log_scale)) * (distance + jnp.exp(-distance) - 0.75)
