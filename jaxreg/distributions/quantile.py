"""Quantiles where there is no formula: the root of the exact cdf, on plain arrays."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp, ndtr, ndtri
from jaxtyping import Array

from jaxreg.distributions.base import INV_SQRT_2PI, LOG_2PI, SQRT_HALF

# Far more halvings of a bracket than a float64 has bits: reached by no root, it only bounds the loop.
MOST_ROOT_STEPS = 256

# Of which float32 has the square.
LARGEST_Z = 1e18


@jax.custom_jvp
def tail_root(means: Array, stds: Array, shares: Array, tail: Array, sign: Array) -> Array:
    """Where the probability of a mixture of normals beyond x, on the side of `sign`, is `tail`.

    The shapes are `(components, n)`, twice, `(components, n)` or `(components, 1)`, `(k, 1)`, twice, and of
    the roots `(k, n)`.
    """
    components = means, stds, shares
    ends, guess = _bracket(ndtri(tail), sign, components, tail)
    return sign * _root(lambda x: mixture_tail(x, sign, *components), ends, tail, guess)


def any_tail_root(lower_tail: Callable[[Array], tuple[Array, Array]], tail: Array, like: Array) -> Array:
    """Where the probability of a lower tail is `tail`, of any distribution.

    Args:
        lower_tail: the probability of a value below each x, and the density.
        tail: the probability, at most one half.
        like: an array of the roots' shape and dtype.

    Differentiable once, where the probability is: what is closed over moves the root as the implicit function
    says.
    """
    fixed = jax.lax.stop_gradient

    def reach(way: int) -> Array:
        """The first of -1, -2, -4 and so on, or 1, 2, 4, beyond which the root isn't."""

        def short(x: Array) -> Array:
            beyond = fixed(lower_tail(x)[0]) * way > tail * way
            return ~(beyond | jnp.isinf(x) | jnp.isnan(lower_tail(x)[0]))

        def step(x: Array) -> Array:
            return jnp.where(short(x), 2 * x, x)

        return jax.lax.while_loop(lambda x: short(x).any(), step, jnp.full_like(like, way))

    largest = jnp.finfo(like.dtype).max
    ends = tuple(jnp.clip(reach(way), -largest, largest) for way in (-1, 1))
    root = fixed(_root(lambda x: fixed(lower_tail(x)), ends, jnp.broadcast_to(tail, like.shape), ends[1]))
    probability, density = lower_tail(root)
    slope = fixed(density)
    off = jnp.where(slope > 0, (tail - probability) / jnp.where(slope > 0, slope, 1), 0)
    return jnp.where(jnp.isnan(probability), jnp.nan, root + off - fixed(off))


def _root(
    lower_tail: Callable[[Array], tuple[Array, Array]], ends: tuple[Array, Array], tail: Array, guess: Array
) -> Array:
    """The root between two ends, from a first guess.

    Newton's method on `ndtri(F(x)) = ndtri(tail)`, which one step solves for a Gaussian. A step that leaves
    the bracket, or comes from one that didn't halve the distance, is a bisection.
    """
    low, high = ends
    z, eps = ndtri(tail), jnp.finfo(high.dtype).eps

    def go_on(carry: tuple) -> Array:
        *_, done, steps = carry
        return ~done.all() & (steps < MOST_ROOT_STEPS)

    def step(carry: tuple) -> tuple:
        x, low, high, distance, done, steps = carry
        probability, density = lower_tail(x)
        low, high = jnp.where(probability < tail, x, low), jnp.where(probability < tail, high, x)
        now = ndtri(jnp.clip(probability, jnp.finfo(x.dtype).tiny, 1 - eps))
        apart = jnp.abs(z - now)
        move = (z - now) * jnp.exp(-0.5 * (now * now + LOG_2PI)) / density
        smallest = eps * jnp.abs(x)
        found = (apart <= 8 * eps * (1 + jnp.abs(z))) | (high - low <= 2 * smallest) | jnp.isnan(apart)
        # A move that x can't show is made as large as it can, so that the bracket closes behind it.
        tiny = ~found & (jnp.abs(move) < smallest)
        new = x + jnp.where(tiny, jnp.sign(move) * smallest, move)
        inside = (new >= low) & (new <= high)
        new = jnp.where(inside & (found | tiny | (apart < 0.5 * distance)), new, 0.5 * low + 0.5 * high)
        return jnp.where(done | found & ~inside, x, new), low, high, apart, done | found, steps + 1

    carry = guess, low, high, jnp.full_like(high, jnp.inf), jnp.zeros(high.shape, bool), 0
    x, low, high, *_ = jax.lax.while_loop(go_on, step, carry)
    return jnp.clip(x, low, high)


def _bracket(
    z: Array, sign: Array, components: tuple[Array, ...], tail: Array
) -> tuple[tuple[Array, Array], Array]:
    """Two points around a mixture's quantile, and a guess between them.

    It lies between the components' own quantiles; and not above where a component's part of the lower tail
    alone is the whole of it, which is where it lies if that component is far below the others. The guess is
    the quantile of the Gaussian of the same moments.
    """
    means, _, shares = components
    middle = weighted_sum(shares, means)

    def narrow(carry: tuple[Array, ...], component: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        mean, std, share = component
        low, high, highest, variance = carry
        variance += share * (std * std + (mean - middle) ** 2)
        present = share[None] > 0
        alone = _at_least_ndtri(jnp.minimum(tail / jnp.where(present, share[None], 1), 1))
        own, whole = (sign * mean[None] + std[None] * at for at in (z, alone))
        low = jnp.where(present, jnp.minimum(low, own), low)
        high = jnp.where(present, jnp.maximum(high, own), high)
        return (low, high, jnp.where(present, jnp.minimum(highest, whole), highest), variance), None

    far = jnp.full((len(tail), components[0].shape[1]), jnp.inf, components[0].dtype)
    carry = far, -far, far, jnp.zeros_like(middle)
    (low, high, highest, variance), _ = jax.lax.scan(narrow, carry, components)
    high = jnp.minimum(high, highest)
    guess = sign * middle[None] + z * jnp.sqrt(variance)[None]
    return (low, high), jnp.where(jnp.isnan(guess), high, jnp.clip(guess, low, high))


def _at_least_ndtri(p: Array) -> Array:
    """A bound from above that costs less than `ndtri`, at most 0.25 off below 0.5.

    From `exp(-t^2/2 - t sqrt(2/pi)) / 2 <= Phi(-t) <= exp(-t^2/2) / 2`.
    """
    square, a = -2 * jnp.log(2 * jnp.minimum(p, 1 - p)), (2 / jnp.pi) ** 0.5
    return jnp.where(p < 0.5, a - jnp.sqrt(a * a + square), jnp.sqrt(jnp.maximum(square, 0)))


def mixture_tail(x: Array, sign: Array, means: Array, stds: Array, shares: Array) -> tuple[Array, Array]:
    """The cdf of a mixture of normals, mirrored where `sign` is -1, and its density.

    Component by component: on a CPU ten times as fast as a sum over the leading axis.
    """

    def add(sums: tuple[Array, Array], component: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        mean, std, share = (part[None] for part in component)
        z = (x - sign * mean) / std
        density = jnp.exp(-0.5 * z * z) / std
        return (sums[0] + share * jax.lax.erfc(-SQRT_HALF * z), sums[1] + share * density), None

    zero = jnp.zeros_like(x)
    (probability, density), _ = jax.lax.scan(add, (zero, zero), (means, stds, shares))
    return 0.5 * probability, density * INV_SQRT_2PI


@tail_root.defjvp
def tail_root_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The implicit function of `sum(shares * Phi(sign (x - means) / stds)) = tail`."""
    means, stds, shares, tail, sign = primals
    d_means, d_stds, d_shares, d_tail, _ = tangents
    root = tail_root(*primals)
    z = (root[None] - means[:, None]) / stds[:, None]
    log_density = jnp.log(shares)[:, None] + normal_log_density(z, stds[:, None])
    # Each component's part of the density at the root; their sum to 1 keeps this finite where all vanish.
    parts = jax.nn.softmax(log_density, axis=0)
    moved = (parts * (d_means[:, None] + z * d_stds[:, None])).sum(axis=0)
    beyond = d_tail - weighted_sum(d_shares[:, None], ndtr(sign[None] * z))
    flat = jnp.finfo(means.dtype).max
    return root, moved + sign * beyond * jnp.minimum(jnp.exp(-logsumexp(log_density, axis=0)), flat)


def normal_log_density(z: Array, std: Array) -> Array:
    """Of a normal, at z stds from its mean; so far out that z has no square, its gradient is 0."""
    z = jnp.clip(z, -LARGEST_Z, LARGEST_Z)
    return -0.5 * (z * z + LOG_2PI) - jnp.log(std)


def of_components(shares: Array) -> bool:
    """Whether shares are the same for all rows."""
    return all(size == 1 for size in shares.shape[1:])  # `size` may be a symbol


def weighted_sum(shares: Array, values: Array) -> Array:
    """The sum over components, each by its share; shares are of the rank of the values."""
    if of_components(shares):  # as a product of matrices: much faster than a sum over the leading axis
        return jnp.tensordot(shares.ravel(), values, 1, precision="highest")
    return (shares * values).sum(axis=0)
