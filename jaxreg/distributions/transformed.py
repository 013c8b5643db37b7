"""Distributions in other units."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxreg.checks import check_same_shape
from jaxreg.distributions.base import Levels, Record, Values, brief, fill_rows, map_rows, shape_of


class Affine(Record):
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

    def __repr__(self) -> str:
        return f"Affine({self.dist!r}, loc {brief(self.loc)}, scale {brief(self.scale)})"

    def __getitem__(self, rows: Any) -> "Affine":
        """The distribution of some rows, by a number, a slice, or a list of numbers or booleans."""
        return self._replace(dist=self.dist[rows])

    def _out(self, values: ArrayLike) -> np.ndarray:
        return np.asarray(self.loc + self.scale * values)

    def _wide(self, values: ArrayLike) -> np.ndarray:
        return np.asarray(self.scale * values)

    def _of_rows(self, ask: Callable, *y: ArrayLike, axis: int = 0) -> Any:
        """What `ask(dist, *y)` gives, as float64, with rows on `axis`.

        Rows are filled up to a power of two meanwhile, so that a program serves many numbers of them.
        """
        over = shape_of(self.dist)
        if not over:
            return jax.tree.map(_float64, ask(self.dist, *y))
        filled, rows = map_rows(fill_rows, self.dist), (slice(None),) * axis + (slice(over[0]),)
        found = ask(filled, *(fill_rows(values) for values in y))
        return jax.tree.map(lambda values: _float64(values)[rows], found)

    def standardised(self, y: Values) -> np.ndarray:
        """Values of y in the units of `dist`."""
        if np.shape(y) != shape_of(self.dist):
            check_same_shape(y=y, mean=self.dist.mean)
        dtype = jnp.result_type(jax.tree.leaves(self.dist)[0])
        return np.asarray((np.asarray(y, np.float64) - self.loc) / self.scale, dtype)

    @property
    def mean(self) -> np.ndarray:
        """Mean, in units of y."""
        return self._out(self._of_rows(attrgetter("mean")))

    @property
    def std(self) -> np.ndarray:
        """Standard deviation, in units of y."""
        return self._wide(self._of_rows(attrgetter("std")))

    @property
    def aleatoric(self) -> np.ndarray:
        """Standard deviation of the noise, in units of y."""
        return self._wide(self._of_rows(attrgetter("aleatoric")))

    @property
    def epistemic(self) -> np.ndarray:
        """Standard deviation of the members' means, in units of y."""
        return self._wide(self._of_rows(attrgetter("epistemic")))

    def moment_matched(self) -> "Affine":
        """The Gaussian of the same mean and variance, in units of y."""
        return self._replace(dist=self.dist.moment_matched())

    def log_prob(self, y: Values) -> np.ndarray:
        """Log density at y, elementwise, in nats."""
        found = self._of_rows(lambda dist, y: dist.log_prob(y), self.standardised(y))
        return np.asarray(found - np.log(self.scale))

    def cdf(self, y: Values) -> np.ndarray:
        """Probability of a value at most y, elementwise."""
        return self._of_rows(lambda dist, y: dist.cdf(y), self.standardised(y))

    def log_cdf(self, y: Values) -> np.ndarray:
        """Log of the cdf, accurate in the lower tail."""
        return self._of_rows(lambda dist, y: dist.log_cdf(y), self.standardised(y))

    def log_sf(self, y: Values) -> np.ndarray:
        """Log of the probability above y, accurate in the upper tail."""
        return self._of_rows(lambda dist, y: dist.log_sf(y), self.standardised(y))

    def quantile(self, q: Levels) -> np.ndarray:
        """Quantiles, in units of y; shape `q.shape + mean.shape`."""
        return self._out(self._of_rows(lambda dist: dist.quantile(q), axis=np.ndim(q)))

    def interval(self, level: Levels = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Central interval `(lo, hi)`, in units of y."""
        lo, hi = self._of_rows(lambda dist: dist.interval(level), axis=np.ndim(level))
        return self._out(lo), self._out(hi)

    def sample(self, key: Array | int, shape: tuple[int, ...] | int = ()) -> np.ndarray:
        """Independent draws, of shape `shape + mean.shape`, in units of y; `shape` may be a number."""
        return self._out(np.asarray(self.dist.sample(key, shape), np.float64))

    def crps(self, y: Values) -> np.ndarray:
        """Continuous ranked probability score, elementwise, in units of y."""
        return self._wide(self._of_rows(lambda dist, y: dist.crps(y), self.standardised(y)))

    def pit(self, y: Values) -> np.ndarray:
        """Probability integral transform: the cdf at y."""
        return self.cdf(y)

    def output(self, i: int) -> "Affine":
        """The distribution of one of several outputs, over `(n,)`."""
        loc, scale = (a[i] if np.ndim(a) else a for a in (self.loc, self.scale))
        return Affine(self.dist.output(i), loc, scale)

    def scale_variance(self, log_factor: ArrayLike) -> "Affine":
        """The same with every distance from its mean multiplied."""
        return self._replace(dist=self.dist.scale_variance(log_factor))

    def scale_noise(self, log_factor: ArrayLike) -> "Affine":
        """The same with every member's distances from that member's own mean multiplied."""
        return self._replace(dist=self.dist.scale_noise(log_factor))


def _float64(values: ArrayLike) -> np.ndarray:
    return np.asarray(values, np.float64)
