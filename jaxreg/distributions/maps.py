"""Distributions of transformed values: the log-normal, and any other under a monotone map."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logit, ndtr
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxreg.checks import check_same_shape
from jaxreg.distributions.base import (
    SQRT_HALF,
    Floats,
    Levels,
    Values,
    compiled_method,
    compiled_property,
    shape_of,
)
from jaxreg.distributions.family import Family, moment_of
from jaxreg.distributions.gaussian import Gaussian


@jax.tree_util.register_static
@dataclass(frozen=True)
class Map:
    """An increasing map of values of y, from all between two bounds to all numbers.

    Attributes:
        name: of the map.
        forward: `y -> z`.
        inverse: `z -> y`.
        log_slope: the logarithm of the slope of `forward` at y.
        lower: bound of y.
        upper: bound of y.
    """

    name: str
    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    log_slope: Callable[[Array], Array]
    lower: float = -np.inf
    upper: float = np.inf


def _log_slope_of_logit(y: Array) -> Array:
    return -jnp.log(y) - jnp.log1p(-y)


def _inverse_softplus(y: Array) -> Array:
    return y + jnp.log(-jnp.expm1(-y))


def _log_slope_of_inverse_softplus(y: Array) -> Array:
    return -jnp.log(-jnp.expm1(-y))


LOG = Map("log", jnp.log, jnp.exp, lambda y: -jnp.log(y), lower=0.0)
LOGIT = Map("logit", logit, jax.nn.sigmoid, _log_slope_of_logit, lower=0.0, upper=1.0)
SOFTPLUS = Map("softplus", _inverse_softplus, jax.nn.softplus, _log_slope_of_inverse_softplus, lower=0.0)


@lru_cache
def yeo_johnson(power: float | int) -> Map:
    """Yeo and Johnson's power map, which takes negative values too; 1 is the identity.

    Yeo & Johnson 2000, "A new family of power transformations to improve normality or symmetry". The same map
    for the same power, so that compiled programs are shared.

    Args:
        power: from 0 to 2, where the map has all numbers for values.

    Raises:
        ValueError: if the power lies outside.
    """
    if not 0 <= power <= 2:
        raise ValueError(f"power must lie between 0 and 2, got {power}")

    def one_side(y: Array, power: float | int) -> Array:
        return jnp.log1p(y) if power == 0 else jnp.expm1(power * jnp.log1p(y)) / power

    def back(z: Array, power: float | int) -> Array:
        return jnp.expm1(z) if power == 0 else jnp.expm1(jnp.log1p(power * z) / power)

    def forward(y: Array) -> Array:
        size = jnp.abs(y)
        return jnp.where(y < 0, -one_side(size, 2 - power), one_side(size, power))

    def inverse(z: Array) -> Array:
        size = jnp.abs(z)
        return jnp.where(z < 0, -back(size, 2 - power), back(size, power))

    def log_slope(y: Array) -> Array:
        return jnp.where(y < 0, 1 - power, power - 1) * jnp.log1p(jnp.abs(y))

    return Map(f"yeo_johnson({power:g})", forward, inverse, log_slope)


# Points of the normal scale, of which `dist` has quantiles with digits however far out; close enough for maps
# whose second derivative jumps, as Yeo and Johnson's does at 0.
MANY_POINTS = np.linspace(-8.0, 8.0, 321)


class _TransformedFields(NamedTuple):
    dist: Any
    map: Map


class Transformed(Family, _TransformedFields):
    """The distribution of y where `map.forward(y)` has the distribution `dist`.

    Args:
        dist: any distribution over `(n,)` or `(n, d)`.
        map: `LOG`, `LOGIT`, `SOFTPLUS`, `yeo_johnson(power)`, or a `Map` of your own.

    The density is that of `dist` times the slope of the map, quantiles are mapped, and mean, standard
    deviation and CRPS are quadratures. Values outside the map's bounds have probability 0.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Gaussian
    >>> from jaxreg.distributions import LOG, Transformed
    >>> dist = Transformed(Gaussian(jnp.zeros(1), jnp.zeros(1)), LOG)
    >>> print(dist.quantile(0.5), dist.mean.round(3), dist.cdf(jnp.array([-1.0])))
    [1.] [1.649] [0.]
    """

    __slots__ = ()

    @property
    def row_axis(self) -> int:
        """The axis of its arrays that the rows are on."""
        return self.dist.row_axis

    def _inside(self, y: ArrayLike) -> tuple[Array, Array]:
        """Values that the map takes, and which of y's are such."""
        y = jnp.asarray(y, jnp.result_type(jax.tree.leaves(self.dist)[0]))
        if y.shape != shape_of(self):
            check_same_shape(y=y, mean=self.dist.mean)
        inside = ~((y <= self.map.lower) | (y >= self.map.upper))  # NaN stays NaN
        return jnp.where(inside, y, self.map.inverse(jnp.zeros_like(y))), inside

    @compiled_method
    def log_prob(self, y: Values) -> Float[Array, "..."]:
        """Log density at y, elementwise, in nats."""
        y, inside = self._inside(y)
        found = self.dist.log_prob(self.map.forward(y)) + self.map.log_slope(y)
        return jnp.where(inside, found, -jnp.inf)

    @compiled_method
    def cdf(self, y: Values) -> Float[Array, "..."]:
        """Probability of a value at most y, elementwise."""
        values, inside = self._inside(y)
        return jnp.where(inside, self.dist.cdf(self.map.forward(values)), y >= self.map.upper)

    @compiled_method
    def sf(self, y: Values) -> Float[Array, "..."]:
        """Probability of a value above y, elementwise."""
        values, inside = self._inside(y)
        mapped = self.map.forward(values)
        above = self.dist.sf(mapped) if hasattr(self.dist, "sf") else 1 - self.dist.cdf(mapped)
        return jnp.where(inside, above, y <= self.map.lower)

    def quantile(self, q: Levels) -> Float[Array, "..."]:
        """Quantiles of `dist`, mapped; shape `q.shape + mean.shape`."""
        return self.map.inverse(jnp.asarray(self.dist.quantile(q)))

    def interval(self, level: Levels = 0.95) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """The central interval of `dist`, mapped."""
        low, high = self.dist.interval(level)
        return self.map.inverse(jnp.asarray(low)), self.map.inverse(jnp.asarray(high))

    @compiled_property
    def mean(self) -> Float[Array, "..."]:
        """Mean, in units of y, by quadrature."""
        return moment_of(self, lambda y: y, MANY_POINTS)

    @compiled_property
    def std(self) -> Float[Array, "..."]:
        """Standard deviation, in units of y, by quadrature."""
        mean = self.mean[None]
        return jnp.sqrt(moment_of(self, lambda y: (y - mean) ** 2, MANY_POINTS))

    def sample(self, key: Array | int, shape: tuple[int, ...] | int = ()) -> Float[Array, "..."]:
        """Draws of `dist`, mapped; of shape `shape + mean.shape`."""
        return self.map.inverse(jnp.asarray(self.dist.sample(key, shape)))

    def output(self, i: int) -> "Transformed":
        """The distribution of one of several outputs, over `(n,)`."""
        return self._replace(dist=self.dist.output(i))

    def scale_noise(self, log_factor: ArrayLike) -> "Transformed":
        """The same with the variance of the mapped values multiplied."""
        return self._replace(dist=self.dist.scale_noise(log_factor))


class _LogNormalFields(NamedTuple):
    loc: Floats
    log_scale: Floats


class LogNormal(Family, _LogNormalFields):
    """The log-normal distribution: the logarithm of y is Gaussian. For positive, skewed values.

    Args:
        loc: mean of the logarithm, `(n,)` or `(n, d)`.
        log_scale: logarithm of its standard deviation, the same shape.

    Targets have to be positive, and standardised ones aren't: scale them by a number alone.

    >>> import jax.numpy as jnp
    >>> from jaxreg import LogNormal
    >>> dist = LogNormal(loc=jnp.zeros(1), log_scale=jnp.zeros(1))
    >>> print(dist.quantile(0.5), dist.mean.round(3))
    [1.] [1.649]
    """

    __slots__ = ()

    @classmethod
    def from_raw(cls, loc: Array, raw_scale: Array) -> "LogNormal":
        """A scale of `softplus(raw) + 0.001`."""
        return cls(loc, jnp.log(jax.nn.softplus(raw_scale) + 1e-3))

    def scale_noise(self, log_factor: ArrayLike) -> "LogNormal":
        """The same with the variance of the logarithm multiplied."""
        return LogNormal(self.loc, 0.5 * self._base().scale_noise(log_factor).dist.log_var)

    def _base(self) -> Transformed:
        return Transformed(Gaussian(jnp.asarray(self.loc), 2 * jnp.asarray(self.log_scale)), LOG)

    @compiled_method
    def log_prob(self, y: Values) -> Float[Array, "..."]:
        """Log density at y, elementwise, in nats."""
        return self._base().log_prob(y)

    @compiled_method
    def cdf(self, y: Values) -> Float[Array, "..."]:
        """Probability of a value at most y, elementwise."""
        return self._base().cdf(y)

    @compiled_method
    def sf(self, y: Values) -> Float[Array, "..."]:
        """Probability of a value above y, elementwise."""
        return self._base().sf(y)

    def quantile(self, q: Levels) -> Float[Array, "..."]:
        """Value below which a share q of the probability lies; shape `q.shape + mean.shape`."""
        return self._base().quantile(q)

    def interval(self, level: Levels = 0.95) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Central interval `(lo, hi)`; either end has the shape `level.shape + mean.shape`."""
        return self._base().interval(level)

    @compiled_property
    def mean(self) -> Float[Array, "..."]:
        """Mean, in units of y."""
        return jnp.exp(self.loc + 0.5 * jnp.exp(2 * jnp.asarray(self.log_scale)))

    @compiled_property
    def std(self) -> Float[Array, "..."]:
        """Standard deviation, in units of y."""
        return self.mean * jnp.sqrt(jnp.expm1(jnp.exp(2 * jnp.asarray(self.log_scale))))

    @compiled_method
    def crps(self, y: Values) -> Float[Array, "..."]:
        """Continuous ranked probability score, elementwise, in units of y.

        Baran & Lerch 2015, "Log-normal distribution based ensemble model output statistics models for
        probabilistic wind-speed forecasting".
        """
        check_same_shape(y=y, loc=self.loc)
        y, std = jnp.asarray(y), jnp.exp(jnp.asarray(self.log_scale))
        positive = jnp.maximum(y, 0)  # below 0 each unit counts as one
        z = (jnp.log(jnp.where(positive > 0, positive, 1)) - self.loc) / std
        below, above = (jnp.where(positive > 0, ndtr(at), 0) for at in (z, z - std))
        gain = above + ndtr(std * SQRT_HALF) - 1
        return positive * (2 * below - 1) - 2 * self.mean * gain + positive - y
