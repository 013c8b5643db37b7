"""Quantiles of mixtures: the root of the exact cdf, on plain arrays."""

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp, ndtr, ndtri
from jaxtyping import Array

from jaxreg.distributions.base import LOG_2PI, SQRT_HALF

# Far more halvings of a bracket than a float64 has bits: reached by no root, it only bounds the loop.
MOST_ROOT_STEPS = 256

# Of which float32 has the square.
LARGEST_Z = 1e18


@jax.custom_jvp
def tail_root(means: Array, stds: Array, shares: Array, tail: Array, sign: Array) -> Array:
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


@tail_root.defjvp
def tail_root_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The implicit function of `sum(shares * Phi(sign (x - means) / stds)) = tail`."""
    means, stds, shares, tail, sign = primals
    d_means, d_stds, d_shares, d_tail, _ = tangents
    root = tail_root(*primals)
    z = (root[None] - means[:, None]) / stds[:, None]
    log_density = as_column(jnp.log(shares), z) + normal_log_density(z, stds[:, None])
    # Each member's part of the density at the root; their sum to 1 keeps this finite where all vanish.
    parts = jax.nn.softmax(log_density, axis=0)
    moved = (parts * (d_means[:, None] + z * d_stds[:, None])).sum(axis=0)
    beyond = d_tail - weighted_sum(d_shares, ndtr(sign[None] * z))
    flat = jnp.finfo(means.dtype).max
    return root, moved + sign * beyond * jnp.minimum(jnp.exp(-logsumexp(log_density, axis=0)), flat)


def normal_log_density(z: Array, std: Array) -> Array:
    """Of a normal, at z stds from its mean; so far out that z has no square, its gradient is 0."""
    z = jnp.clip(z, -LARGEST_Z, LARGEST_Z)
    return -0.5 * (z * z + LOG_2PI) - jnp.log(std)


def as_column(shares: Array, like: Array) -> Array:
    """Shares with an axis for each of the rows'."""
    return shares.reshape((-1,) + (1,) * (like.ndim - 1))


def weighted_sum(shares: Array, values: Array) -> Array:
    """The sum over members, each by its share."""
    return jnp.tensordot(shares, values, 1, precision="highest")
