"""What every family of distributions has in common: all that follows from a density and a cdf."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxreg.checks import as_key, check_same_shape
from jaxreg.distributions.base import (
    Floats,
    Levels,
    Values,
    as_shape,
    both_tails,
    brief,
    compiled_method,
    compiled_property,
    map_rows,
    of_rank,
    pair,
    select_rows,
    shape_of,
    tails,
    with_checked_weights,
)
from jaxreg.distributions.quantile import any_tail_root

# Points of the normal scale at which moments are summed up: as far out as tails have digits.
NORMAL_POINTS = {np.dtype(np.float64): np.linspace(-8.0, 8.0, 161)}
NORMAL_POINTS_OF_FEW_DIGITS = np.linspace(-4.5, 4.5, 37)
# Quantiles that are found at once, and the points of a quadrature between two of them.
AT_ONCE = 16
LEGENDRE = np.polynomial.legendre.leggauss(24)
# Where a quadrature over y is cut: between neighbours all distributions are smooth.
CUTS = np.array([1e-9, 1e-6, 1e-4, 0.002, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.998, 1 - 1e-4, 1 - 1e-6])


class Family:
    """A family of distributions: what its methods `log_prob(y)` and `cdf(y)` and its arrays give.

    To be put before a NamedTuple of arrays over `(n,)` or `(n, d)`. A family may have `sf`, the probability
    above y, for digits in the upper tail, `mean` and `std`, or whatever else it knows in closed form; and
    `from_raw`, which makes it of numbers without bounds, such as a network's.

    >>> from typing import NamedTuple
    >>> import jax, jax.numpy as jnp
    >>> from jaxreg.distributions import Family
    >>> class LogisticFields(NamedTuple):
    ...     loc: jax.Array
    ...     log_scale: jax.Array
    >>> class Logistic(Family, LogisticFields):
    ...     __slots__ = ()
    ...     def cdf(self, y):
    ...         return jax.nn.sigmoid((y - self.loc) * jnp.exp(-self.log_scale))
    ...     def log_prob(self, y):
    ...         z = (y - self.loc) * jnp.exp(-self.log_scale)
    ...         return -z - 2 * jax.nn.softplus(-z) - self.log_scale
    >>> dist = Logistic(jnp.zeros(1), jnp.zeros(1))
    >>> print(dist.quantile(0.9).round(4), f"{dist.std[0]:.3f}")
    [2.1972] 1.814
    """

    __slots__ = ()
    row_axis = 0

    def __repr__(self) -> str:
        named = zip(self._fields, tuple(self), strict=True)
        shown = ((name, value if isinstance(value, Family) else brief(value)) for name, value in named)
        return f"{type(self).__name__}({', '.join(f'{name} {value}' for name, value in shown)})"

    def __getitem__(self, rows: Any) -> Any:
        """The distribution of some rows, by a number, a slice, or a list of numbers or booleans."""
        if not shape_of(self):
            select_rows(np.zeros(()), rows)  # raises
        return map_rows(lambda part, axis: select_rows(part, rows, axis), self)

    @classmethod
    def from_raw(cls, *raw: Array) -> Any:
        """The distribution of a network's outputs, one for each field, that may be any numbers."""
        return cls(*raw)

    def sf(self, y: Values) -> Floats:
        """Probability of a value above y, elementwise."""
        return 1 - self.cdf(y)

    def pit(self, y: Values) -> Floats:
        """Probability integral transform: the cdf at y, uniform if the prediction is right."""
        return self.cdf(y)

    def log_cdf(self, y: Values) -> Floats:
        """Log of the cdf."""
        return jnp.log(self.cdf(y))

    @compiled_property
    def mean(self) -> Float[Array, "..."]:
        """Mean, in units of y, by quadrature."""
        return moment_of(self, lambda y: y)

    @compiled_property
    def std(self) -> Float[Array, "..."]:
        """Standard deviation, in units of y, by quadrature."""
        mean = self.mean
        return jnp.sqrt(moment_of(self, lambda y: (y - mean[None]) ** 2))

    @property
    def aleatoric(self) -> Floats:
        """Standard deviation of the noise, which is all of it."""
        return self.std

    @property
    def epistemic(self) -> Floats:
        """Standard deviation of the members' means, which is 0."""
        return jnp.zeros_like(self.std)

    def quantile(self, q: Levels) -> Float[Array, "..."]:
        """Value below which a share q of the probability lies; shape `q.shape + mean.shape`."""
        return quantile_of(with_checked_weights(self), *tails(q, jax.tree.leaves(self)[0]))

    def interval(self, level: Levels = 0.95) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Central interval `(lo, hi)`; either end has the shape `level.shape + mean.shape`."""
        return pair(quantile_of(with_checked_weights(self), *both_tails(level, jax.tree.leaves(self)[0])))

    def sample(self, key: Array | int, shape: tuple[int, ...] | int = ()) -> Float[Array, "..."]:
        """Independent draws, of shape `shape + mean.shape`; `shape` may be a number of draws."""
        return _sample(with_checked_weights(self), as_key(key), as_shape(shape))

    @compiled_method
    def crps(self, y: Values) -> Float[Array, "..."]:
        """Continuous ranked probability score, elementwise, in units of y, by quadrature."""
        return crps_by_quadrature(self, y)

    def output(self, i: int) -> Any:
        """The distribution of one of several outputs, over `(n,)`."""
        return jax.tree.map(lambda part: part[..., i] if np.ndim(part) > self.row_axis else part, self)


class LocationScale(Family):
    """A family with fields `loc` and `log_scale`, in units of y and its logarithm."""

    __slots__ = ()

    @classmethod
    def from_raw(cls, loc: Array, raw_scale: Array, *shape: Array) -> Any:
        """A scale of `softplus(raw) + 0.001`, whose bias at 0 is 0.7."""
        return cls(loc, jnp.log(jax.nn.softplus(raw_scale) + 1e-3), *shape)

    def standardised(self, y: ArrayLike) -> Float[Array, "..."]:
        """Distances of y from `loc` in units of the scale."""
        check_same_shape(y=y, loc=self.loc)
        return (jnp.asarray(y) - self.loc) * jnp.exp(-jnp.asarray(self.log_scale))

    def scale_variance(self, log_factor: ArrayLike) -> Any:
        """The same with its variance multiplied."""
        if not isinstance(log_factor, jax.Array):
            log_factor = np.asarray(log_factor, jnp.result_type(self.loc, 0.0))
        return self._replace(log_scale=self.log_scale + 0.5 * of_rank(log_factor, self.log_scale))

    scale_noise = scale_variance

    def moved(self, distance: ArrayLike) -> Any:
        """The same with each row moved by a distance, in units of y."""
        return self._replace(loc=self.loc + distance)


def moment_of(dist: Any, function: Callable[[Array], Array], points: np.ndarray | None = None) -> Array:
    """The mean of a function of y: a sum over quantiles, at even steps of the normal scale."""
    if points is None:
        points = NORMAL_POINTS.get(jax.tree.leaves(dist)[0].dtype, NORMAL_POINTS_OF_FEW_DIGITS)
    weights, values = np.exp(-0.5 * points**2), function(dist.quantile(scipy.special.ndtr(points)))
    return jnp.tensordot(jnp.asarray(weights / weights.sum(), values.dtype), values, 1, precision="highest")


@jax.jit
def quantile_of(dist: Any, tail: ArrayLike, upper: ArrayLike) -> Array:
    """Quantiles of any distribution that has `cdf`, `sf` and `log_prob`: roots of its cdf."""
    first = jax.tree.leaves(dist)[0]
    tail = jnp.asarray(tail, first.dtype)
    like = jnp.zeros(shape_of(dist), first.dtype)
    levels = tail.ravel(), jnp.broadcast_to(upper, tail.shape).ravel()
    roots = jax.lax.map(lambda level: _root_of(dist, *level, like), levels, batch_size=AT_ONCE)
    return roots.reshape(tail.shape + like.shape)


def _root_of(dist: Any, tail: Array, upper: Array, like: Array) -> Array:
    """Where a tail's probability is so much, for a tail of all entries or one of each."""
    sign = jnp.where(upper, -1, 1).astype(like.dtype)

    def lower_tail(x: Array) -> tuple[Array, Array]:
        y = sign * x
        above = dist.sf(y) if hasattr(dist, "sf") else 1 - dist.cdf(y)
        found = jnp.where(upper, above, dist.cdf(y)), jnp.exp(dist.log_prob(y))
        return tuple(part.astype(like.dtype) for part in found)

    return sign * any_tail_root(lower_tail, tail, like)


@partial(jax.jit, static_argnums=2)
def _sample(dist: Any, key: Array, shape: tuple[int, ...]) -> Array:
    """Quantiles of uniform shares."""
    like = jnp.zeros(shape_of(dist), jax.tree.leaves(dist)[0].dtype)
    least = jnp.finfo(like.dtype).tiny
    shares = jax.random.uniform(key, (math.prod(shape), *like.shape), like.dtype, least, 1)

    def draw(share: Array) -> Array:
        tail = jnp.maximum(jnp.minimum(share, 1 - share), least)
        return _root_of(dist, tail, share > 0.5, like)

    return jax.lax.map(draw, shares, batch_size=AT_ONCE).reshape(shape + like.shape)


def crps_by_quadrature(dist: Any, y: ArrayLike, more_cuts: ArrayLike | None = None) -> Array:
    """The integral of `(cdf(x) - (x >= y))^2`, piece by piece between quantiles, y and other places."""
    dtype = jax.tree.leaves(dist)[0].dtype
    if np.shape(y) != shape_of(dist):
        check_same_shape(y=y, mean=dist.mean)
    y, levels = jnp.asarray(y, dtype), CUTS if dtype == jnp.float64 else CUTS[1:]
    cuts = quantile_of(dist, np.minimum(levels, 1 - levels), levels > 0.5)
    more = [y[None]] if more_cuts is None else [y[None], jnp.asarray(more_cuts, dtype)]
    cuts = jnp.sort(jnp.concatenate([cuts, *more]), axis=0)
    nodes = tuple(jnp.asarray(each, dtype) for each in LEGENDRE)

    def piece(total: Array, ends: tuple[Array, Array]) -> tuple[Array, None]:
        low, high = ends
        half, middle = 0.5 * (high - low), 0.5 * (high + low)

        def at_node(total: Array, node: tuple[Array, Array]) -> tuple[Array, None]:
            at, weight = node
            x = middle + half * at
            part = jnp.where(x < y, dist.cdf(x), dist.sf(x)).astype(dtype)
            return total + weight * half * part * part, None

        return jax.lax.scan(at_node, total, nodes, unroll=4)[0], None

    return jax.lax.scan(piece, jnp.zeros_like(y), (cuts[:-1], cuts[1:]))[0]
