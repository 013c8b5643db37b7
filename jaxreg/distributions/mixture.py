"""The mixture of normal distributions: what an ensemble predicts."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, logsumexp, ndtr
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxreg.checks import as_key, check_same_shape, check_std
from jaxreg.distributions.base import (
    Levels,
    Record,
    Values,
    as_floating,
    as_shape,
    both_tails,
    check_shares,
    compiled_method,
    compiled_property,
    one_line,
    pair,
    result_dtype,
    select_rows,
    tails,
    with_checked_weights,
)
from jaxreg.distributions.gaussian import Gaussian, mean_distance
from jaxreg.distributions.quantile import LARGEST_Z, as_column, normal_log_density, tail_root, weighted_sum


class GaussianMixture(Record):
    """A mixture of normal distributions for each entry of `mean`: what an ensemble predicts.

    Members that disagree widen it, and may give it several peaks; nothing is averaged away. Lakshminarayanan
    et al. 2017, "Simple and scalable predictive uncertainty estimation using deep ensembles".

    Args:
        means: the members' means, `(members, n)` or `(members, n, d)`, in units of y.
        log_vars: their log variances, the same shape, in log units of y squared.
        weights: share of each member, `(members,)`, not negative; only their ratios count.
            None is equal shares.

    A NamedTuple, of which an index selects rows.

    Where the cdf is flat, between members far apart, any point of the flat piece is a right quantile.

    >>> import jax.numpy as jnp
    >>> from jaxreg import GaussianMixture
    >>> two = GaussianMixture(means=jnp.array([[-1.0], [1.0]]), log_vars=jnp.log(jnp.array([[4.0], [4.0]])))
    >>> print(two.aleatoric[0], two.epistemic[0], two.std[0] ** 2)
    2.0 1.0 5.0
    >>> lo, hi = two.interval(0.95)
    >>> print(f"{hi[0]:.4f} {two.cdf(hi)[0]:.4f}")
    4.3630 0.9750
    >>> two
    GaussianMixture(means (2, 1) -1 to 1, stds (2, 1) 2)
    """

    means: Float[Array | np.ndarray, "members ..."]
    log_vars: Float[Array | np.ndarray, "members ..."]
    weights: Float[Array | np.ndarray, " members"] | None = None

    __repr__ = one_line

    def __getitem__(self, rows: Any) -> "GaussianMixture":
        """The distribution of some rows, by a number, a slice, or a list of numbers or booleans."""
        means, log_vars = (select_rows(part, rows, axis=1) for part in (self.means, self.log_vars))
        return self._replace(means=means, log_vars=log_vars)

    @classmethod
    def from_std(
        cls, means: ArrayLike, stds: ArrayLike, weights: ArrayLike | None = None
    ) -> "GaussianMixture":
        """A mixture from the members' standard deviations, which are checked.

        Raises:
            ValueError: if a standard deviation is zero, negative, or not finite, if a weight is negative or
                all are zero, or if the shapes differ.
        """
        check_same_shape(means=means, stds=stds)
        check_std(stds=stds)
        if weights is not None:
            check_shares(weights)
        return cls(*as_floating(means, 2 * jnp.log(jnp.asarray(stds, result_dtype(stds)))), weights)

    @compiled_property
    def mean(self) -> Float[Array, "..."]:
        """Mean, in units of y."""
        means, _, shares = _members(self)
        return weighted_sum(shares, means)

    @compiled_property
    def aleatoric(self) -> Float[Array, "..."]:
        """Standard deviation of the noise: the root of the members' mean variance, in units of y."""
        _, stds, shares = _members(self)
        return _root_mean_square(shares, stds)

    @compiled_property
    def epistemic(self) -> Float[Array, "..."]:
        """Standard deviation of the members' means: how far they disagree, in units of y."""
        means, _, shares = _members(self)
        return _root_mean_square(shares, means - self.mean[None])

    @compiled_property
    def std(self) -> Float[Array, "..."]:
        """Standard deviation, `sqrt(aleatoric^2 + epistemic^2)`, in units of y."""
        return jnp.hypot(self.aleatoric, self.epistemic)

    def moment_matched(self) -> Gaussian:
        """The Gaussian of the same mean and variance."""
        return Gaussian(self.mean, 2 * jnp.log(self.std))

    @compiled_method
    def log_prob(self, y: Values) -> Float[Array, "..."]:
        """Log density at y, elementwise, in nats: `logsumexp(log weights + log densities)`.

        Raises:
            ValueError: if y has another shape than the mean.
        """
        z, stds, shares = _standardised(self, y)
        return logsumexp(normal_log_density(z, stds), axis=0, b=as_column(shares, z))

    @compiled_method
    def cdf(self, y: Values) -> Float[Array, "..."]:
        """Probability of a value at most y, elementwise."""
        z, _, shares = _standardised(self, y)
        return jnp.minimum(weighted_sum(shares, ndtr(z)), 1)  # rounded shares may sum to more

    @compiled_method
    def log_cdf(self, y: Values) -> Float[Array, "..."]:
        """Log of the cdf, accurate in the lower tail."""
        z, _, shares = _standardised(self, y)
        z = jnp.clip(z, -LARGEST_Z, LARGEST_Z)
        return jnp.minimum(logsumexp(log_ndtr(z), axis=0, b=as_column(shares, z)), 0)

    def quantile(self, q: Levels) -> Float[Array, "..."]:
        """Value below which a share q of the probability lies; shape `q.shape + mean.shape`.

        The root of the exact cdf, or above the median of the survival function. Derivatives are those of
        the implicit function.

        Raises:
            ValueError: if a q lies outside (0, 1).
        """
        return _mixture_quantile(with_checked_weights(self), *tails(q, self.means))

    def interval(self, level: Levels = 0.95) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Central interval `(lo, hi)` that holds a share `level`, with as much below it as above.

        Either end has the shape `level.shape + mean.shape`.

        Raises:
            ValueError: if the level lies outside (0, 1).
        """
        return pair(_mixture_quantile(with_checked_weights(self), *both_tails(level, self.means)))

    def sample(self, key: Array | int, shape: tuple[int, ...] | int = ()) -> Float[Array, "..."]:
        """Independent draws, of shape `shape + mean.shape`; `shape` may be a number of draws."""
        return _mixture_sample(with_checked_weights(self), as_key(key), as_shape(shape))

    @compiled_method
    def crps(self, y: Values) -> Float[Array, "..."]:
        """Continuous ranked probability score, elementwise, in units of y; lower is better.

        Grimit et al. 2006, "The continuous ranked probability score for circular variables and its
        application to mesoscale forecast ensemble verification", equation 5.
        """
        z, stds, shares = _standardised(self, y)
        means, y = jnp.asarray(self.means), jnp.asarray(y)

        def from_member(total: Array, member: tuple[Array, Array, Array]) -> tuple[Array, None]:
            mean, std, share = member
            apart = weighted_sum(shares, mean_distance(means - mean[None], jnp.hypot(stds, std[None])))
            return total + share * (mean_distance(y - mean, std) - 0.5 * apart), None

        start = jnp.zeros(z.shape[1:], z.dtype)
        return jax.lax.scan(from_member, start, (means, stds, shares))[0]

    def pit(self, y: Values) -> Float[Array, "..."]:
        """Probability integral transform: the cdf at y, uniform if the prediction is right."""
        return self.cdf(y)

    def output(self, i: int) -> "GaussianMixture":
        """The distribution of one of several outputs, over `(n,)`."""
        return self._replace(means=self.means[..., i], log_vars=self.log_vars[..., i])


def _members(dist: GaussianMixture) -> tuple[Array, Array, Array]:
    """Means, standard deviations and shares, after a look at their shapes."""
    check_same_shape(means=dist.means, log_vars=dist.log_vars)
    means, log_vars = as_floating(dist.means, dist.log_vars)
    stds = jnp.exp(0.5 * log_vars)
    if means.ndim == 0 or len(means) == 0:
        raise ValueError(f"a mixture needs a leading axis of at least 1 member, means has {means.shape}")
    if dist.weights is None:
        return means, stds, jnp.full(len(means), 1 / len(means), means.dtype)
    weights = jnp.asarray(dist.weights, means.dtype)
    if weights.shape != means.shape[:1]:
        raise ValueError(
            f"weights has shape {weights.shape}, expected {means.shape[:1]}: one for each member"
        )
    return means, stds, weights / weights.sum()


def _standardised(dist: GaussianMixture, y: ArrayLike) -> tuple[Array, Array, Array]:
    """Residuals in units of each member's standard deviation, these, and the shares."""
    means, stds, shares = _members(dist)
    if np.shape(y) != means.shape[1:]:
        check_same_shape(y=y, mean=means[0])
    return (jnp.asarray(y)[None] - means) * jnp.exp(-0.5 * jnp.asarray(dist.log_vars)), stds, shares


def _root_mean_square(shares: Array, values: Array) -> Array:
    """Values are divided by their largest before they are squared; a root of 0 has gradient 0."""
    largest = jax.lax.stop_gradient(jnp.abs(values).max(axis=0))
    unit = jnp.where(largest > 0, largest, 1)
    square = weighted_sum(shares, (values / unit[None]) ** 2)
    return unit * jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


@partial(jax.jit, static_argnums=2)
def _mixture_sample(dist: GaussianMixture, key: Array, shape: tuple[int, ...]) -> Array:
    means, stds, shares = _members(dist)
    member_key, noise_key = jax.random.split(key)
    shape = shape + means.shape[1:]
    member = jax.random.categorical(member_key, jnp.log(shares), shape=shape)
    mean, std = (_take_member(array, member) for array in (means, stds))
    return mean + std * jax.random.normal(noise_key, shape, means.dtype)


def _take_member(array: Array, member: Array) -> Array:
    """For each entry of `member`, whose last axes are those of one member, that member's value."""
    entries = np.arange(math.prod(array.shape[1:])).reshape(array.shape[1:])
    flat = array.reshape(len(array), -1)
    return flat[member, jnp.broadcast_to(entries, member.shape)]


@jax.jit
def _mixture_quantile(dist: GaussianMixture, tail: ArrayLike, upper: ArrayLike) -> Array:
    means, stds, shares = _members(dist)
    tail = jnp.asarray(tail, means.dtype)
    sign = jnp.where(jnp.asarray(upper), -1, 1).astype(means.dtype)
    flat = means.reshape(len(means), -1), stds.reshape(len(means), -1)
    root = tail_root(*flat, shares, tail.reshape(-1, 1), sign.reshape(-1, 1))
    return root.reshape(tail.shape + means.shape[1:])
