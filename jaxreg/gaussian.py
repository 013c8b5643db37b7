"""Predictive distributions: what every model returns and every score reads."""

import math
from collections.abc import Callable, Sequence
from functools import partial, wraps
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, logsumexp, ndtr, ndtri
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxreg.checks import as_key, check_probability, check_same_shape, check_std

# Arrays of any library, nested lists, and series.
Values = Any

LOG_2PI = float(np.log(2 * np.pi))
INV_SQRT_PI = float(1 / np.sqrt(np.pi))
SQRT_HALF = float(np.sqrt(0.5))

# Of which float32 has the square.
LARGEST_Z = 1e18

# Far more halvings of a bracket than a float64 has bits: reached by no root, it only bounds the loop.
MOST_ROOT_STEPS = 256


def _as_shape(shape: tuple[int, ...] | int) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    for size in sizes:
        if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 0:
            raise ValueError(f"shape must be whole numbers of draws, got {shape!r}")
    return sizes


def _dtype(*arrays: ArrayLike) -> np.dtype:
    """What arrays are computed in together: whole numbers as floats."""
    return jnp.result_type(*arrays, 0.0)


def _floating(*arrays: ArrayLike) -> tuple[Array, ...]:
    return tuple(jnp.asarray(array, _dtype(*arrays)) for array in arrays)


def _at(function: Callable) -> Callable:
    """Compile a method that takes values of y: arrays of any library, nested lists, or traced arrays."""
    compiled = jax.jit(function)

    @wraps(function)
    def method(self: Any, y: Any) -> Array:
        return compiled(_checked(self), y if isinstance(y, jax.Array) else np.asarray(y))

    return method


def _property(function: Callable) -> property:
    """Compile a property."""
    compiled = jax.jit(function)
    return property(wraps(function)(lambda self: compiled(_checked(self))))


def _checked(dist: Any) -> Any:
    if getattr(dist, "weights", None) is not None:
        check_shares(dist.weights)
    return dist


def check_shares(weights: ArrayLike) -> None:
    """Raise unless members' weights can be shares; traced values pass unchecked."""
    if isinstance(weights, jax.core.Tracer):
        return
    weights = np.asarray(weights)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(f"weights must be finite, not negative and not all 0, got {weights}")


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
        return cls(*_floating(mean, 2 * jnp.log(jnp.asarray(std, _dtype(std)))))

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

    @_property
    def std(self) -> Float[Array, "..."]:
        """Standard deviation, in units of y."""
        return jnp.exp(0.5 * jnp.asarray(self.log_var))

    @property
    def aleatoric(self) -> Float[Array, "..."]:
        """Standard deviation of the noise: all of it, as for a mixture of one."""
        return self.std

    @property
    def epistemic(self) -> Float[Array, "..."]:
        """Standard deviation of the members' means: 0, as for a mixture of one."""
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

    @_at
    def log_prob(self, y: Values) -> Float[Array, "..."]:
        """Log density at y, elementwise, in nats: `-0.5 (z^2 + log_var + log 2 pi)`.

        Raises:
            ValueError: if y has another shape than the mean.
        """
        z = self._z(y)
        return -0.5 * (z * z + self.log_var + LOG_2PI)

    @_at
    def cdf(self, y: Values) -> Float[Array, "..."]:
        """Probability of a value at most y, elementwise."""
        return ndtr(self._z(y))

    @_at
    def log_cdf(self, y: Values) -> Float[Array, "..."]:
        """Log of the cdf, accurate in the lower tail."""
        return log_ndtr(self._z(y))

    def quantile(self, q: ArrayLike | Sequence[ArrayLike]) -> Float[Array, "..."]:
        """Value below which a share q of the probability lies; shape `q.shape + mean.shape`.

        Raises:
            ValueError: if a q lies outside (0, 1).
        """
        return _gaussian_quantile(self, *_tails(q, self.mean))

    def interval(
        self, level: ArrayLike | Sequence[ArrayLike] = 0.95
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Central interval `(lo, hi)` that holds a share `level` of the probability.

        Either end has the shape `level.shape + mean.shape`.

        Raises:
            ValueError: if the level lies outside (0, 1).
        """
        return _pair(_gaussian_quantile(self, *_both_tails(level, self.mean)))

    def sample(self, key: Array | int, shape: tuple[int, ...] | int = ()) -> Float[Array, "..."]:
        """Independent draws, of shape `shape + mean.shape`; `shape` may be a number of draws."""
        return _gaussian_sample(self, as_key(key), _as_shape(shape))

    @_at
    def crps(self, y: Values) -> Float[Array, "..."]:
        """Continuous ranked probability score, elementwise, in units of y; lower is better.

        Gneiting et al. 2005, "Calibrated probabilistic forecasting using ensemble model output
        statistics and minimum CRPS estimation", equation 5.
        """
        check_same_shape(y=y, mean=self.mean)
        return _mean_distance(jnp.asarray(y) - self.mean, self.std) - self.std * INV_SQRT_PI

    def pit(self, y: Values) -> Float[Array, "..."]:
        """Probability integral transform: the cdf at y, uniform if the prediction is right."""
        return self.cdf(y)


def _tails(q: ArrayLike | Sequence[ArrayLike], like: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """Quantile levels as the probability of the smaller tail, and whether that is the upper one.

    Numbers are split before they are rounded to the dtype of a prediction: float32 has no 1 - 1e-9.
    """
    check_probability("q", q)
    xp, q = (jnp, q) if isinstance(q, jax.core.Tracer) else (np, np.asarray(q, np.float64))
    tail = xp.where(q > 0.5, 1 - q, q)
    _check_tail("q", tail, like)
    return tail, q > 0.5


def _both_tails(level: ArrayLike | Sequence[ArrayLike], like: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """The tails outside central intervals, the lower one first."""
    check_probability("level", level)
    xp, level = (jnp, level) if isinstance(level, jax.core.Tracer) else (np, np.asarray(level, np.float64))
    tail = (1 - level) / 2
    _check_tail("level", tail, like)
    return xp.stack([tail, tail]), np.stack([np.zeros(tail.shape, bool), np.ones(tail.shape, bool)])


def _check_tail(name: str, tail: ArrayLike, like: ArrayLike) -> None:
    """Raise if a tail is so small that the prediction's dtype takes it for 0."""
    dtype = jnp.result_type(like, 0.0)
    if not isinstance(tail, jax.core.Tracer) and (tail < jnp.finfo(dtype).tiny).any():
        raise ValueError(f"{name} leaves a tail of {np.min(tail):g}, which {dtype} takes for 0")


def _pair(ends: Array) -> tuple[Array, Array]:
    lower, upper = ends
    return lower, upper


@jax.jit
def _gaussian_quantile(dist: Gaussian, tail: ArrayLike, upper: ArrayLike) -> Array:
    mean, std = _floating(dist.mean, dist.std)
    z = ndtri(jnp.asarray(tail, mean.dtype))
    z = jnp.where(upper, -z, z).reshape(z.shape + (1,) * mean.ndim)
    over = (1,) * (z.ndim - mean.ndim) + mean.shape
    return mean.reshape(over) + std.reshape(over) * z


@partial(jax.jit, static_argnums=2)
def _gaussian_sample(dist: Gaussian, key: Array, shape: tuple[int, ...]) -> Array:
    mean, over = jnp.asarray(dist.mean), (1,) * len(shape) + np.shape(dist.mean)
    noise = jax.random.normal(key, shape + mean.shape, mean.dtype)
    return mean.reshape(over) + noise * dist.std.reshape(over)


class GaussianMixture(NamedTuple):
    """A mixture of normal distributions for each entry of `mean`: what an ensemble predicts.

    Members that disagree widen it, and may give it several peaks; nothing is averaged away. Lakshminarayanan
    et al. 2017, "Simple and scalable predictive uncertainty estimation using deep ensembles".

    Args:
        means: the members' means, `(members, n)` or `(members, n, d)`, in units of y.
        log_vars: their log variances, the same shape, in log units of y squared.
        weights: share of each member, `(members,)`, not negative; only their ratios count.
            None is equal shares.

    Where the cdf is flat, between members far apart, any point of the flat piece is a right quantile.

    >>> import jax.numpy as jnp
    >>> from jaxreg import GaussianMixture
    >>> two = GaussianMixture(means=jnp.array([[-1.0], [1.0]]), log_vars=jnp.log(jnp.array([[4.0], [4.0]])))
    >>> print(two.aleatoric[0], two.epistemic[0], two.std[0] ** 2)
    2.0 1.0 5.0
    >>> lo, hi = two.interval(0.95)
    >>> print(f"{hi[0]:.4f} {two.cdf(hi)[0]:.4f}")
    4.3630 0.9750
    """

    means: Float[ArrayLike, "members ..."]
    log_vars: Float[ArrayLike, "members ..."]
    weights: Float[ArrayLike, " members"] | None = None

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
        return cls(*_floating(means, 2 * jnp.log(jnp.asarray(stds, _dtype(stds)))), weights)

    @_property
    def mean(self) -> Float[Array, "..."]:
        """Mean, in units of y."""
        means, _, shares = _members(self)
        return _weighted(shares, means)

    @_property
    def aleatoric(self) -> Float[Array, "..."]:
        """Standard deviation of the noise: the root of the members' mean variance, in units of y."""
        _, stds, shares = _members(self)
        return _root_mean_square(shares, stds)

    @_property
    def epistemic(self) -> Float[Array, "..."]:
        """Standard deviation of the members' means: how far they disagree, in units of y."""
        means, _, shares = _members(self)
        return _root_mean_square(shares, means - self.mean[None])

    @_property
    def std(self) -> Float[Array, "..."]:
        """Standard deviation, `sqrt(aleatoric^2 + epistemic^2)`, in units of y."""
        return jnp.hypot(self.aleatoric, self.epistemic)

    def moment_matched(self) -> Gaussian:
        """The Gaussian of the same mean and variance."""
        return Gaussian(self.mean, 2 * jnp.log(self.std))

    @_at
    def log_prob(self, y: Values) -> Float[Array, "..."]:
        """Log density at y, elementwise, in nats: `logsumexp(log weights + log densities)`.

        Raises:
            ValueError: if y has another shape than the mean.
        """
        z, stds, shares = _standardised(self, y)
        return logsumexp(_log_density(z, stds), axis=0, b=_column(shares, z))

    @_at
    def cdf(self, y: Values) -> Float[Array, "..."]:
        """Probability of a value at most y, elementwise."""
        z, _, shares = _standardised(self, y)
        return jnp.minimum(_weighted(shares, ndtr(z)), 1)  # rounded shares may sum to more

    @_at
    def log_cdf(self, y: Values) -> Float[Array, "..."]:
        """Log of the cdf, accurate in the lower tail."""
        z, _, shares = _standardised(self, y)
        z = jnp.clip(z, -LARGEST_Z, LARGEST_Z)
        return jnp.minimum(logsumexp(log_ndtr(z), axis=0, b=_column(shares, z)), 0)

    def quantile(self, q: ArrayLike | Sequence[ArrayLike]) -> Float[Array, "..."]:
        """Value below which a share q of the probability lies; shape `q.shape + mean.shape`.

        The root of the exact cdf, or above the median of the survival function. Derivatives are those of
        the implicit function.

        Raises:
            ValueError: if a q lies outside (0, 1).
        """
        return _mixture_quantile(_checked(self), *_tails(q, self.means))

    def interval(
        self, level: ArrayLike | Sequence[ArrayLike] = 0.95
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Central interval `(lo, hi)` that holds a share `level`, with as much below it as above.

        Either end has the shape `level.shape + mean.shape`.

        Raises:
            ValueError: if the level lies outside (0, 1).
        """
        return _pair(_mixture_quantile(_checked(self), *_both_tails(level, self.means)))

    def sample(self, key: Array | int, shape: tuple[int, ...] | int = ()) -> Float[Array, "..."]:
        """Independent draws, of shape `shape + mean.shape`; `shape` may be a number of draws."""
        return _mixture_sample(_checked(self), as_key(key), _as_shape(shape))

    @_at
    def crps(self, y: Values) -> Float[Array, "..."]:
        """Continuous ranked probability score, elementwise, in units of y; lower is better.

        Grimit et al. 2006, "The continuous ranked probability score for circular variables and its
        application to mesoscale forecast ensemble verification", equation 5.
        """
        z, stds, shares = _standardised(self, y)
        means, y = jnp.asarray(self.means), jnp.asarray(y)

        def from_member(total: Array, member: tuple[Array, Array, Array]) -> tuple[Array, None]:
            mean, std, share = member
            apart = _weighted(shares, _mean_distance(means - mean[None], jnp.hypot(stds, std[None])))
            return total + share * (_mean_distance(y - mean, std) - 0.5 * apart), None

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
    means, log_vars = _floating(dist.means, dist.log_vars)
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


def _log_density(z: Array, std: Array) -> Array:
    """Of a normal, at z stds from its mean; so far out that z has no square, its gradient is 0."""
    z = jnp.clip(z, -LARGEST_Z, LARGEST_Z)
    return -0.5 * (z * z + LOG_2PI) - jnp.log(std)


def _column(shares: Array, like: Array) -> Array:
    return shares.reshape((-1,) + (1,) * (like.ndim - 1))


def _weighted(shares: Array, values: Array) -> Array:
    return jnp.tensordot(shares, values, 1, precision="highest")


def _root_mean_square(shares: Array, values: Array) -> Array:
    """Values are divided by their largest before they are squared; a root of 0 has gradient 0."""
    largest = jax.lax.stop_gradient(jnp.abs(values).max(axis=0))
    unit = jnp.where(largest > 0, largest, 1)
    square = _weighted(shares, (values / unit[None]) ** 2)
    return unit * jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _mean_distance(distance: Array, std: Array) -> Array:
    """The mean of `abs(X)` for a normal X of mean `distance`."""
    # Beyond 100 exp is 0 and erf is 1. A division would have a NaN gradient where its square overflows.
    z = jnp.clip(distance * jnp.exp(-jnp.log(std)), -100, 100)
    return std * jnp.exp(-0.5 * z * z) * (2 / jnp.pi) ** 0.5 + distance * jax.lax.erf(z * SQRT_HALF)


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
    root = _tail_root(*flat, shares, tail.reshape(-1, 1), sign.reshape(-1, 1))
    return root.reshape(tail.shape + means.shape[1:])


@jax.custom_jvp
def _tail_root(means: Array, stds: Array, shares: Array, tail: Array, sign: Array) -> Array:
    """Where the probability beyond x, on the side of `sign`, is `tail`.

    The shapes are `(members, n)`, twice, `(members,)`, `(k, 1)`, twice, and of the roots `(k, n)`.

    Newton's method on `ndtri(F(x)) = ndtri(tail)`, which one step solves for a Gaussian. A step that leaves
    the bracket, or comes from one that didn't halve the distance, is a bisection.
    """
    z, eps = ndtri(tail), jnp.finfo(means.dtype).eps

    def go_on(carry: tuple) -> Array:
        *_, done, steps = carry
        return ~done.all() & (steps < MOST_ROOT_STEPS)

    def step(carry: tuple) -> tuple:
        x, low, high, distance, done, steps = carry
        probability, density = _lower_tail(x, sign, means, stds, shares)
        low, high = jnp.where(probability < tail, x, low), jnp.where(probability < tail, high, x)
        now = ndtri(jnp.clip(probability, jnp.finfo(x.dtype).tiny, 1 - eps))
        apart, move = jnp.abs(z - now), (z - now) * jnp.exp(-0.5 * now * now) / density
        smallest = eps * jnp.abs(x)
        found = (apart <= 8 * eps * (1 + jnp.abs(z))) | (high - low <= 2 * smallest) | jnp.isnan(apart)
        # A move that x can't show is made as large as it can, so that the bracket closes behind it.
        tiny = ~found & (jnp.abs(move) < smallest)
        new = x + jnp.where(tiny, jnp.sign(move) * smallest, move)
        inside = (new >= low) & (new <= high)
        new = jnp.where(inside & (found | tiny | (apart < 0.5 * distance)), new, 0.5 * low + 0.5 * high)
        return jnp.where(done | found & ~inside, x, new), low, high, apart, done | found, steps + 1

    low, high = _bracket(z, sign, (means, stds, shares), tail)
    carry = high, low, high, jnp.full_like(high, jnp.inf), jnp.zeros(high.shape, bool), 0
    x, low, high, *_ = jax.lax.while_loop(go_on, step, carry)
    return sign * jnp.clip(x, low, high)


def _bracket(z: Array, sign: Array, members: tuple[Array, ...], tail: Array) -> tuple[Array, Array]:
    """Two points around a mixture's quantile, of which the upper one is near it.

    It lies between the members' own quantiles; and not above where a member's part of the lower tail alone is
    the whole of it, which is where it lies if that member is far below the others.
    """
    means, stds, shares = members
    present = shares > 0
    alone = ndtri(jnp.minimum(tail / jnp.where(present, shares, 1)[None], 1)).T

    def narrow(ends: tuple[Array, ...], member: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        mean, std, present, alone = member
        low, high, highest = ends
        own, whole = (sign * mean[None] + std[None] * at for at in (z, alone[:, None]))
        low = jnp.where(present, jnp.minimum(low, own), low)
        high = jnp.where(present, jnp.maximum(high, own), high)
        return (low, high, jnp.where(present, jnp.minimum(highest, whole), highest)), None

    far = jnp.full((len(tail), means.shape[1]), jnp.inf, means.dtype)
    (low, high, highest), _ = jax.lax.scan(narrow, (far, -far, far), (means, stds, present, alone))
    return low, jnp.minimum(high, highest)


def _lower_tail(x: Array, sign: Array, means: Array, stds: Array, shares: Array) -> tuple[Array, Array]:
    """The cdf of a mixture, mirrored where `sign` is -1, and its density times `sqrt(2 pi)`.

    Member by member: on a CPU ten times as fast as a sum over the leading axis.
    """

    def add(sums: tuple[Array, Array], member: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        mean, std, share = member
        z = (x - sign * mean[None]) / std[None]
        density = jnp.exp(-0.5 * z * z) / std[None]
        return (sums[0] + share * jax.lax.erfc(-SQRT_HALF * z), sums[1] + share * density), None

    zero = jnp.zeros_like(x)
    (probability, density), _ = jax.lax.scan(add, (zero, zero), (means, stds, shares))
    return 0.5 * probability, density


@_tail_root.defjvp
def _tail_root_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The implicit function of `sum(shares * Phi(sign (x - means) / stds)) = tail`."""
    means, stds, shares, tail, sign = primals
    d_means, d_stds, d_shares, d_tail, _ = tangents
    root = _tail_root(*primals)
    z = (root[None] - means[:, None]) / stds[:, None]
    log_density = _column(jnp.log(shares), z) + _log_density(z, stds[:, None])
    # Each member's part of the density at the root; their sum to 1 keeps this finite where all vanish.
    parts = jax.nn.softmax(log_density, axis=0)
    moved = (parts * (d_means[:, None] + z * d_stds[:, None])).sum(axis=0)
    beyond = d_tail - _weighted(d_shares, ndtr(sign[None] * z))
    flat = jnp.finfo(means.dtype).max
    return root, moved + sign * beyond * jnp.minimum(jnp.exp(-logsumexp(log_density, axis=0)), flat)


class Affine(NamedTuple):
    """The distribution of `loc + scale * z`, where z has the distribution `dist`.

    A model works on standardised targets; this takes what it says to the target's units. It does so
    on the host in float64, because targets such as 1.7e9 with a spread of 1 don't fit in float32.

    Args:
        dist: a distribution over `(n,)` or `(n, d)`.
        loc: float64, scalar or `(d,)`, in units of y.
        scale: float64 and positive, scalar or `(d,)`, in units of y.

    Its methods are those of `dist`, and return float64 NumPy arrays.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Affine, Gaussian
    >>> timestamps = Affine(Gaussian(jnp.zeros(2), jnp.zeros(2)), loc=1.7e9, scale=0.5)
    >>> timestamps.std
    array([0.5, 0.5])
    >>> print(f"{timestamps.interval(0.95)[1][0]:.2f}")
    1700000000.98
    """

    dist: Any
    loc: Float[ArrayLike, "..."]
    scale: Float[ArrayLike, "..."]

    def _out(self, values: ArrayLike) -> np.ndarray:
        return self.loc + self.scale * values

    def _of_rows(self, ask: Callable, *y: ArrayLike, axis: int = 0) -> Any:
        """What `ask(dist, *y)` gives, as float64, with rows on `axis`.

        Rows are filled up to a power of two meanwhile, so that a program serves many numbers of them.
        """
        n = _rows_of(self.dist)
        if n is None:
            return jax.tree.map(_float64, ask(self.dist, *y))
        mixture = isinstance(self.dist, GaussianMixture)
        first, second, *weights = self.dist
        filled = type(self.dist)(fill_rows(first, int(mixture)), fill_rows(second, int(mixture)), *weights)
        rows = (slice(None),) * axis + (slice(n),)
        found = ask(filled, *(fill_rows(values) for values in y))
        return jax.tree.map(lambda values: _float64(values)[rows], found)

    def standardised(self, y: ArrayLike) -> np.ndarray:
        """Values of y in the units of `dist`."""
        mean = self.dist.means[0] if isinstance(self.dist, GaussianMixture) else self.dist.mean
        check_same_shape(y=y, mean=mean)
        return ((np.asarray(y, np.float64) - self.loc) / self.scale).astype(jnp.result_type(mean))

    @property
    def mean(self) -> np.ndarray:
        """Mean, in units of y."""
        return self._out(self._of_rows(attrgetter("mean")))

    @property
    def std(self) -> np.ndarray:
        """Standard deviation, in units of y."""
        return self.scale * self._of_rows(attrgetter("std"))

    @property
    def aleatoric(self) -> np.ndarray:
        """Standard deviation of the noise, in units of y."""
        return self.scale * self._of_rows(attrgetter("aleatoric"))

    @property
    def epistemic(self) -> np.ndarray:
        """Standard deviation of the members' means, in units of y."""
        return self.scale * self._of_rows(attrgetter("epistemic"))

    def moment_matched(self) -> "Affine":
        """The Gaussian of the same mean and variance, in units of y."""
        return self._replace(dist=self.dist.moment_matched())

    def log_prob(self, y: ArrayLike) -> np.ndarray:
        """Log density at y, elementwise, in nats."""
        return self._of_rows(lambda dist, y: dist.log_prob(y), self.standardised(y)) - np.log(self.scale)

    def cdf(self, y: ArrayLike) -> np.ndarray:
        """Probability of a value at most y, elementwise."""
        return self._of_rows(lambda dist, y: dist.cdf(y), self.standardised(y))

    def log_cdf(self, y: ArrayLike) -> np.ndarray:
        """Log of the cdf, accurate in the lower tail."""
        return self._of_rows(lambda dist, y: dist.log_cdf(y), self.standardised(y))

    def quantile(self, q: ArrayLike | Sequence[ArrayLike]) -> np.ndarray:
        """Quantiles, in units of y; shape `q.shape + mean.shape`."""
        return self._out(self._of_rows(lambda dist: dist.quantile(q), axis=np.ndim(q)))

    def interval(self, level: ArrayLike | Sequence[ArrayLike] = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Central interval `(lo, hi)`, in units of y."""
        lo, hi = self._of_rows(lambda dist: dist.interval(level), axis=np.ndim(level))
        return self._out(lo), self._out(hi)

    def sample(self, key: Array | int, shape: tuple[int, ...] | int = ()) -> np.ndarray:
        """Independent draws, of shape `shape + mean.shape`, in units of y; `shape` may be a number."""
        return self._out(np.asarray(self.dist.sample(key, shape), np.float64))

    def crps(self, y: ArrayLike) -> np.ndarray:
        """Continuous ranked probability score, elementwise, in units of y."""
        return self.scale * self._of_rows(lambda dist, y: dist.crps(y), self.standardised(y))

    def pit(self, y: ArrayLike) -> np.ndarray:
        """Probability integral transform: the cdf at y."""
        return self.cdf(y)

    def output(self, i: int) -> "Affine":
        """The distribution of one of several outputs, over `(n,)`."""
        loc, scale = (a[i] if np.ndim(a) else a for a in (self.loc, self.scale))
        return Affine(self.dist.output(i), loc, scale)


def _rows_of(dist: Any) -> int | None:
    """The number of rows of a distribution of ours over `(n,)` or `(n, d)`."""
    if not isinstance(dist, Gaussian | GaussianMixture):
        return None
    shape = np.shape(dist[0])[isinstance(dist, GaussianMixture) :]
    return shape[0] if shape else None


def _float64(values: ArrayLike) -> np.ndarray:
    return np.asarray(values, np.float64)


def fill_rows(values: ArrayLike, axis: int = 0, fewest: int = 1, most: int | None = None) -> np.ndarray:
    """Rows filled up with repeats of the last one to a power of two, within bounds; no rows stay none."""
    values = np.asarray(values)
    n = values.shape[axis]
    size = max(1 << (n - 1).bit_length(), fewest) if n else 0
    missing = (size if most is None else min(size, most)) - n
    if not missing:
        return values
    return np.concatenate([values, np.repeat(np.take(values, [-1], axis), missing, axis)], axis)
