"""The mixture of normal distributions: what an ensemble predicts."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, logsumexp, ndtr
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

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
    map_rows,
    of_rank,
    one_line,
    pair,
    result_dtype,
    select_rows,
    tails,
    with_checked_weights,
)
from jaxreg.distributions.gaussian import Gaussian, mean_distance
from jaxreg.distributions.quantile import (
    LARGEST_Z,
    mixture_tail,
    normal_log_density,
    of_components,
    tail_root,
    weighted_sum,
)

# Shares of a tail between which its square is integrated.
SQUARE_CUTS = (1e-6, 1e-4, 3e-3, 0.03, 0.15, 0.4, 0.7, 0.9, 0.98, 0.998, 1 - 1e-4, 1 - 1e-6)


class GaussianMixture(Record):
    """A mixture of normal distributions for each entry of `mean`: what an ensemble predicts.

    Components of one member are the shape of its noise, skewed or with several humps; members that disagree
    widen the mixture. Nothing is averaged away. Lakshminarayanan et al. 2017, "Simple and scalable predictive
    uncertainty estimation using deep ensembles"; Bishop 1994, "Mixture density networks".

    Args:
        means: the components' means, `(components, n)` or `(components, n, d)`, in units of y.
        log_vars: their log variances, the same shape, in log units of y squared.
        weights: share of each component, `(components,)`, or of each row `(components, n)` or
            `(components, n, d)`, not negative; only their ratios count. None is equal shares.
        members: whose each component is, whole numbers `(components,)` from 0; None if each is a member of
            its own.

    A NamedTuple, of which an index selects rows.

    Where the cdf is flat, between components far apart, any point of the flat piece is a right quantile.

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

    The same two humps as the noise of one member, who doesn't disagree with anybody:

    >>> one = two._replace(members=jnp.array([0, 0]))
    >>> print(one.epistemic[0], one.aleatoric[0] ** 2)
    0.0 5.0
    """

    means: Float[Array | np.ndarray, "components ..."]
    log_vars: Float[Array | np.ndarray, "components ..."]
    weights: Float[Array | np.ndarray, "components ..."] | None = None
    members: Int[Array | np.ndarray, " components"] | None = None

    row_axis = 1
    __repr__ = one_line

    def __getitem__(self, rows: Any) -> "GaussianMixture":
        """The distribution of some rows, by a number, a slice, or a list of numbers or booleans."""
        if np.ndim(self.means) < 2:
            select_rows(self.means, rows, axis=1)  # raises
        return map_rows(lambda part, axis: select_rows(part, rows, axis), self)

    @classmethod
    def from_std(
        cls, means: ArrayLike, stds: ArrayLike, weights: ArrayLike | None = None
    ) -> "GaussianMixture":
        """A mixture from the components' standard deviations, which are checked.

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
        means, _, shares = _components(self)
        return weighted_sum(shares, means)

    @compiled_property
    def aleatoric(self) -> Float[Array, "..."]:
        """Standard deviation of the noise, the root of the members' mean variance, in units of y."""
        means, stds, shares = _components(self)
        within = root_mean_square(shares, stds)
        if self.members is None:
            return within
        return jnp.hypot(within, root_mean_square(shares, means - _member_means(self)))

    @compiled_property
    def epistemic(self) -> Float[Array, "..."]:
        """Standard deviation of the members' means, how far they disagree, in units of y."""
        _, _, shares = _components(self)
        return root_mean_square(shares, _member_means(self) - self.mean[None])

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
        return logsumexp(normal_log_density(z, stds), axis=0, b=jnp.broadcast_to(shares, z.shape))

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
        return jnp.minimum(logsumexp(log_ndtr(z), axis=0, b=jnp.broadcast_to(shares, z.shape)), 0)

    @compiled_method
    def log_sf(self, y: Values) -> Float[Array, "..."]:
        """Log of the probability above y, accurate in the upper tail."""
        return self._replace(means=-jnp.asarray(self.means)).log_cdf(-jnp.asarray(y))

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

        def from_component(total: Array, component: tuple[Array, ...]) -> tuple[Array, None]:
            mean, std, share = component
            apart = weighted_sum(shares, mean_distance(means - mean[None], jnp.hypot(stds, std[None])))
            return total + share * (mean_distance(y - mean, std) - 0.5 * apart), None

        start = jnp.zeros(z.shape[1:], z.dtype)
        return jax.lax.scan(from_component, start, (means, stds, shares))[0]

    def pit(self, y: Values) -> Float[Array, "..."]:
        """Probability integral transform: the cdf at y, uniform if the prediction is right."""
        return self.cdf(y)

    def output(self, i: int) -> "GaussianMixture":
        """The distribution of one of several outputs, over `(n,)`."""
        weights = self.weights
        if np.ndim(weights) == np.ndim(self.means):
            weights = weights[..., i]
        return self._replace(means=self.means[..., i], log_vars=self.log_vars[..., i], weights=weights)

    def count_members(self) -> int:
        """How many members the components are of."""
        return len(self.means) if self.members is None else int(np.max(self.members)) + 1

    def member_means(self) -> Float[np.ndarray, "members ..."]:
        """The mean of each member, in float64."""
        means = np.asarray(_member_means(self), np.float64)
        if self.members is None:
            return means
        first = [np.flatnonzero(np.asarray(self.members) == i)[:1] for i in range(self.count_members())]
        return means[np.concatenate(first)]

    def by_members(self, kept: Bool[np.ndarray, "members ..."]) -> "GaussianMixture":
        """The mixture of some members alone, or of some for each row: components of others weigh nothing."""
        means = self.means
        weights = np.ones(len(means)) if self.weights is None else np.asarray(self.weights)
        kept = np.asarray(kept if self.members is None else kept[np.asarray(self.members)])
        rank = max(kept.ndim, weights.ndim)
        kept, weights = (each.reshape(each.shape + (1,) * (rank - each.ndim)) for each in (kept, weights))
        return self._replace(weights=jnp.asarray(kept * weights, jnp.result_type(means, 0.0)))

    def of_rows(self, kept: Bool[np.ndarray, "members n"]) -> "GaussianMixture":
        """Of each row the mixture of some members alone, in as few components as that takes."""
        count, components = self.count_members(), len(self.means)
        whose = np.arange(components) if self.members is None else np.asarray(self.members)
        alone = self.by_members(kept)
        if (np.bincount(whose, minlength=count) * count != components).any():
            return alone
        by_member = np.argsort(whose, kind="stable")
        each, own = components // count, kept[whose[by_member]]
        order = np.argsort(~own, axis=0, kind="stable")[: own.sum(axis=0).max()]
        rank = np.ndim(self.means)

        def compact(part: ArrayLike) -> np.ndarray:
            part = np.broadcast_to(part, np.shape(self.means))[by_member]
            return np.take_along_axis(part, order.reshape(order.shape + (1,) * (rank - 2)), 0)

        weights = np.asarray(alone.weights)
        weights = weights.reshape(weights.shape + (1,) * (rank - weights.ndim))
        members = np.repeat(np.arange(len(order) // each), each)
        return GaussianMixture(compact(self.means), compact(self.log_vars), compact(weights), members)

    def moved(self, distance: ArrayLike) -> "GaussianMixture":
        """The mixture with each row moved by a distance, in units of y."""
        means = np.asarray(self.means, np.float64) + distance
        return self._replace(means=means.astype(self.means.dtype))

    def scale_variance(self, log_factor: ArrayLike) -> "GaussianMixture":
        """The mixture with every distance from its mean multiplied."""
        return self._about(jnp.asarray(self.mean)[None], log_factor)

    def scale_noise(self, log_factor: ArrayLike) -> "GaussianMixture":
        """The mixture with every member's distances from that member's own mean multiplied."""
        if self.members is None:
            return self._replace(log_vars=self.log_vars + _like(log_factor, self.log_vars))
        return self._about(_member_means(self), log_factor)

    def _about(self, centre: ArrayLike, log_factor: ArrayLike) -> "GaussianMixture":
        """The mixture stretched about centres of its components, by a log factor of the variance."""
        log_factor = _like(log_factor, self.means)
        xp = np if isinstance(centre, np.ndarray) and isinstance(log_factor, np.ndarray) else jnp
        means = centre + xp.exp(0.5 * log_factor) * (xp.asarray(self.means) - centre)
        return self._replace(means=means, log_vars=self.log_vars + log_factor)


def as_one_mixture(dist: Any) -> GaussianMixture:
    """A Gaussian as a mixture of one component."""
    if isinstance(dist, GaussianMixture):
        return dist
    if not isinstance(dist, Gaussian):
        raise ValueError(f"a Gaussian or a GaussianMixture is needed, got a {type(dist).__name__}")
    return GaussianMixture(jnp.asarray(dist.mean)[None], jnp.asarray(dist.log_var)[None])


@jax.jit
def lower_square(dist: Any, at: ArrayLike, sign: ArrayLike) -> Array:
    """The integral of the squared cdf up to a place, or with a `sign` of -1 that of the survival from it on.

    Piece by piece between places where the cdf is a certain share of what it is there.
    """
    means, stds, shares = (part.reshape(len(part), -1) for part in _components(as_one_mixture(dist)))
    means, at = sign * means, sign * jnp.asarray(at, means.dtype)
    up, flat = jnp.ones_like(at.ravel())[None], at.ravel()[None]

    def below(x: Array) -> Array:
        return mixture_tail(x, up[:, :1], means, stds, shares)[0]

    whole, parts = below(flat), jnp.asarray(SQUARE_CUTS, means.dtype)
    cuts = tail_root(means, stds, shares, jnp.maximum(whole * parts[:, None], 1e-30), up[:, :1])
    cuts = jnp.concatenate([jnp.minimum(cuts, flat), flat])
    nodes, weights = (jnp.asarray(part, means.dtype) for part in np.polynomial.legendre.leggauss(16))
    half, middle = 0.5 * jnp.diff(cuts, axis=0), 0.5 * (cuts[1:] + cuts[:-1])

    def add(total: Array, node: tuple[Array, Array]) -> tuple[Array, None]:
        place, weight = node
        return total + weight * (half * below(middle + half * place) ** 2).sum(axis=0), None

    found, _ = jax.lax.scan(add, jnp.zeros_like(at.ravel()), (nodes, weights))
    return jnp.where(whole[0] > 1e-12, found, 0).reshape(at.shape)


def _like(values: ArrayLike, like: ArrayLike) -> ArrayLike:
    """Values in the dtype and of the rank of others; NumPy's stay NumPy's."""
    if not isinstance(values, jax.Array):
        values = np.asarray(values, jnp.result_type(like, 0.0))
    return of_rank(values, like)


def _components(dist: GaussianMixture) -> tuple[Array, Array, Array]:
    """Means, standard deviations and shares, these of the same rank, after a look at their shapes."""
    check_same_shape(means=dist.means, log_vars=dist.log_vars)
    means, log_vars = as_floating(dist.means, dist.log_vars)
    stds = jnp.exp(0.5 * log_vars)
    if means.ndim == 0 or len(means) == 0:
        raise ValueError(f"a mixture needs a leading axis of at least 1 component, means has {means.shape}")
    if dist.weights is None:
        return means, stds, jnp.full((len(means),) + (1,) * (means.ndim - 1), 1 / len(means), means.dtype)
    weights = jnp.asarray(dist.weights, means.dtype)
    if weights.ndim == 0 or weights.shape != means.shape[: weights.ndim]:
        raise ValueError(
            f"weights has shape {weights.shape}, expected {means.shape[:1]}: one for each component; or "
            f"{means.shape}: one for each in each row"
        )
    weights = weights.reshape(weights.shape + (1,) * (means.ndim - weights.ndim))
    return means, stds, weights / weights.sum(axis=0)[None]


def _member_means(dist: GaussianMixture) -> ArrayLike:
    """For each component the mean of the member that it is of; NumPy arrays stay NumPy arrays."""
    if dist.members is None:
        return dist.means
    means, xp = dist.means, np if isinstance(dist.means, np.ndarray) else jnp
    shares = xp.ones(len(means), means.dtype) if dist.weights is None else xp.asarray(dist.weights)
    shares = shares.reshape(shares.shape + (1,) * (means.ndim - shares.ndim))
    same = xp.asarray(dist.members[:, None] == dist.members[None], means.dtype)
    total = _combined(same, shares)
    return _combined(same, shares * means) / xp.where(total > 0, total, 1)


def _combined(same: ArrayLike, values: ArrayLike) -> ArrayLike:
    """For each component the sum over those of the same member."""
    if isinstance(values, np.ndarray) and isinstance(same, np.ndarray):
        return np.tensordot(same, values, 1)
    return jnp.tensordot(same, values, 1, precision="highest")


def _standardised(dist: GaussianMixture, y: ArrayLike) -> tuple[Array, Array, Array]:
    """Residuals in units of each component's standard deviation, these, and the shares."""
    means, stds, shares = _components(dist)
    if np.shape(y) != means.shape[1:]:
        check_same_shape(y=y, mean=means[0])
    return (jnp.asarray(y)[None] - means) * jnp.exp(-0.5 * jnp.asarray(dist.log_vars)), stds, shares


def root_mean_square(shares: Array, values: Array) -> Array:
    """Values are divided by their largest before they are squared; a root of 0 has gradient 0."""
    largest = jax.lax.stop_gradient(jnp.abs(values).max(axis=0))
    unit = jnp.where(largest > 0, largest, 1)
    square = weighted_sum(shares, (values / unit[None]) ** 2)
    return unit * jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


@partial(jax.jit, static_argnums=2)
def _mixture_sample(dist: GaussianMixture, key: Array, shape: tuple[int, ...]) -> Array:
    means, stds, shares = _components(dist)
    component_key, noise_key = jax.random.split(key)
    shape = shape + means.shape[1:]
    component = jax.random.categorical(component_key, jnp.log(shares), axis=0, shape=shape)
    mean, std = (_take_component(array, component) for array in (means, stds))
    return mean + std * jax.random.normal(noise_key, shape, means.dtype)


def _take_component(array: Array, component: Array) -> Array:
    """For each entry of `component`, whose last axes are those of one, that component's value."""
    entries = np.arange(math.prod(array.shape[1:])).reshape(array.shape[1:])
    flat = array.reshape(len(array), -1)
    return flat[component, jnp.broadcast_to(entries, component.shape)]


@jax.jit
def _mixture_quantile(dist: GaussianMixture, tail: ArrayLike, upper: ArrayLike) -> Array:
    means, stds, shares = _components(dist)
    tail = jnp.asarray(tail, means.dtype)
    sign = jnp.where(jnp.asarray(upper), -1, 1).astype(means.dtype)
    if not of_components(shares):
        shares = jnp.broadcast_to(shares, means.shape)
    flat = (array.reshape(len(means), -1) for array in (means, stds, shares))
    root = tail_root(*flat, tail.reshape(-1, 1), sign.reshape(-1, 1))
    return root.reshape(tail.shape + means.shape[1:])
