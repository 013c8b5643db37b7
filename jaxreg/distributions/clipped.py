"""Distributions of values that have bounds: what lies beyond a bound lies at it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxreg.distributions.base import INV_SQRT_2PI, Levels, Record, Values
from jaxreg.distributions.mixture import GaussianMixture, as_one_mixture, lower_square

# Standard deviations beyond which a bound is as good as infinitely far.
FAR = 1e4


class Clipped(Record):
    """A distribution whose probability beyond bounds lies at the bounds, as in a tobit model.

    Tobin 1958, "Estimation of relationships for limited dependent variables". For targets that can't be
    negative, some of which may be 0: no quantile, interval, draw or mean leaves the bounds.

    Args:
        dist: an Affine of a Gaussian or GaussianMixture.
        lower: bound of y, in units of y; minus infinity for none.
        upper: bound of y; infinity for none.

    At a bound there is a share of the probability and no density: `log_prob` gives the logarithm of that
    share there, and of the density inside. Beyond a bound it is minus infinity.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Affine, Clipped, Gaussian
    >>> dist = Clipped(Affine(Gaussian(jnp.zeros(1), jnp.zeros(1)), loc=1.0, scale=2.0), lower=0.0)
    >>> lo, hi = dist.interval(0.9)
    >>> print(lo, hi.round(2), dist.mean.round(3), dist.cdf([0.0]).round(3))
    [0.] [4.29] [1.396] [0.309]
    """

    dist: Any
    lower: float = -np.inf
    upper: float = np.inf

    def __repr__(self) -> str:
        return f"Clipped({self.dist!r}, {self.lower:g} to {self.upper:g})"

    def __getitem__(self, rows: Any) -> "Clipped":
        """The distribution of some rows, by a number, a slice, or a list of numbers or booleans."""
        return self._replace(dist=self.dist[rows])

    def output(self, i: int) -> "Clipped":
        """The distribution of one of several outputs, over `(n,)`."""
        return self._replace(dist=self.dist.output(i))

    def clip(self, values: ArrayLike) -> np.ndarray:
        """Values beyond a bound as the bound."""
        return np.clip(np.asarray(values), self.lower, self.upper)

    def _moments(self, name: str) -> np.ndarray:
        """What the mixture of the clipped components gives, in units of `dist`."""
        loc, scale = (np.asarray(part, np.float64) for part in (self.dist.loc, self.dist.scale))

        def ask(dist: Any) -> Array:
            return getattr(
                clipped_moments(dist, (self.lower - loc) / scale, (self.upper - loc) / scale), name
            )

        return self.dist._of_rows(ask)

    @property
    def mean(self) -> np.ndarray:
        """Mean, in units of y."""
        return self.clip(self.dist.loc + self.dist.scale * self._moments("mean"))

    @property
    def std(self) -> np.ndarray:
        """Standard deviation, in units of y."""
        return np.asarray(self.dist.scale * self._moments("std"))

    @property
    def aleatoric(self) -> np.ndarray:
        """Standard deviation of the noise, in units of y."""
        return np.asarray(self.dist.scale * self._moments("aleatoric"))

    @property
    def epistemic(self) -> np.ndarray:
        """Standard deviation of the members' means, in units of y."""
        return np.asarray(self.dist.scale * self._moments("epistemic"))

    def log_prob(self, y: Values) -> np.ndarray:
        """Log density at y inside the bounds, log probability at a bound, elementwise, in nats."""
        y = np.asarray(y, np.float64)
        found = self.dist.log_prob(y)
        at_lower = self.dist.log_cdf(y) if np.isfinite(self.lower) else found
        at_upper = self.dist.log_sf(y) if np.isfinite(self.upper) else found
        found = np.where(y == self.lower, at_lower, np.where(y == self.upper, at_upper, found))
        return np.where((y < self.lower) | (y > self.upper), -np.inf, found)

    def cdf(self, y: Values) -> np.ndarray:
        """Probability of a value at most y, elementwise."""
        y = np.asarray(y, np.float64)
        inside = self.dist.cdf(self.clip(y))
        return np.where(y < self.lower, 0.0, np.where(y >= self.upper, 1.0, inside))

    def log_cdf(self, y: Values) -> np.ndarray:
        """Log of the cdf."""
        y = np.asarray(y, np.float64)
        inside = self.dist.log_cdf(self.clip(y))
        return np.where(y < self.lower, -np.inf, np.where(y >= self.upper, 0.0, inside))

    def pit(self, y: Values) -> np.ndarray:
        """Probability integral transform: the cdf at y, at a bound all that lies there."""
        return self.cdf(y)

    def quantile(self, q: Levels) -> np.ndarray:
        """Quantiles, in units of y; shape `q.shape + mean.shape`."""
        return self.clip(self.dist.quantile(q))

    def interval(self, level: Levels = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Central interval `(lo, hi)`, in units of y."""
        lo, hi = self.dist.interval(level)
        return self.clip(lo), self.clip(hi)

    def sample(self, key: Array | int, shape: tuple[int, ...] | int = ()) -> np.ndarray:
        """Independent draws, of shape `shape + mean.shape`, in units of y."""
        return self.clip(self.dist.sample(key, shape))

    def crps(self, y: Values) -> np.ndarray:
        """Continuous ranked probability score, elementwise, in units of y.

        That of `dist` less what lies beyond the bounds, which is a quadrature.
        """
        y = np.asarray(y, np.float64)
        found = self.dist.crps(self.clip(y)) + abs(y - self.clip(y))
        for bound, sign in ((self.lower, 1.0), (self.upper, -1.0)):
            if np.isfinite(bound):
                at = self.dist.standardised(np.full(y.shape, bound))
                beyond = self.dist._of_rows(lambda dist, at, sign=sign: lower_square(dist, at, sign), at)
                found = found - self.dist.scale * beyond
        return np.maximum(found, 0)


@jax.jit
def clipped_moments(dist: Any, lower: ArrayLike, upper: ArrayLike) -> GaussianMixture:
    """A mixture whose components have the means and variances of clipped ones; bounds are of each output."""
    dist = as_one_mixture(dist)
    means, stds = jnp.asarray(dist.means), jnp.exp(0.5 * jnp.asarray(dist.log_vars))
    low, high = ((jnp.asarray(bound, means.dtype) - means) / stds for bound in (lower, upper))
    centre = jnp.clip(0, low, high)
    low, high, near = (jnp.clip(at, -FAR, FAR) for at in (low, high, centre))
    # Of what lies above the centre and below it, each counted up to its bound.
    above = [_beyond(-near, i) - _beyond(-high, i) for i in (0, 1)]
    below = [_beyond(near, i) - _beyond(low, i) for i in (0, 1)]
    above[1] -= 2 * (high - near) * _beyond(-high, 0)
    below[1] -= 2 * (near - low) * _beyond(low, 0)
    first = above[0] - below[0]
    variance = jnp.maximum(above[1] + below[1] - first**2, 0)
    # The centre of a component that lies beyond a bound is the bound.
    centres = jnp.clip(means, lower, upper).astype(means.dtype)
    log_vars = jnp.log(variance) + jnp.asarray(dist.log_vars)
    return dist._replace(means=centres + stds * first, log_vars=log_vars)


def _beyond(t: Array, power: int) -> Array:
    """The mean of `max(t - Z, 0)` for a standard normal Z, or that of its square."""
    density, below = INV_SQRT_2PI * jnp.exp(-0.5 * t * t), ndtr(t)
    return (1 + t * t) * below + t * density if power else t * below + density
