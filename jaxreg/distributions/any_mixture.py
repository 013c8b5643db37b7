"""The mixture of distributions of any family: what an ensemble of such members predicts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxreg.checks import check_same_shape
from jaxreg.distributions.base import Values, compiled_method, compiled_property, map_rows, shape_of
from jaxreg.distributions.family import Family, crps_by_quadrature
from jaxreg.distributions.mixture import root_mean_square
from jaxreg.distributions.quantile import weighted_sum


class _MixtureFields(NamedTuple):
    dist: Any
    weights: Float[Array | np.ndarray, " members"] | None = None


class Mixture(Family, _MixtureFields):
    """A mixture of members of one family, whichever it is; of Gaussians a `GaussianMixture` is faster.

    Args:
        dist: a distribution whose arrays have a leading axis of members, `(members, n)` or `(members, n, d)`.
        weights: share of each member, `(members,)`, not negative; None is equal shares.

    Quantiles are roots of the exact cdf, and the CRPS is a quadrature, right to about 1e-8 in float64.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Laplace, Mixture
    >>> two = Mixture(Laplace(loc=jnp.array([[-1.0], [1.0]]), log_scale=jnp.zeros((2, 1))))
    >>> print(two.mean, two.epistemic, two.quantile(0.975).round(3))
    [0.] [1.] [3.43]
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Mixture({self.count_members()} of {self.dist!r})"

    @property
    def row_axis(self) -> int:
        """The axis of its arrays that the rows are on."""
        return self.dist.row_axis + 1

    def _each(self, name: str, *values: Any) -> Array:
        """What each member gives."""
        if values and np.shape(values[0]) != shape_of(self):
            check_same_shape(y=values[0], mean=self.mean)

        def ask(member: Any) -> Array:
            found = getattr(member, name)
            return found(*values) if values else found

        return jax.vmap(ask)(self.dist)

    def _shares(self, values: Array) -> Array:
        """The members' shares, of the rank of what they gave."""
        weights = jnp.ones(len(values)) if self.weights is None else jnp.asarray(self.weights)
        return (weights / weights.sum()).astype(values.dtype).reshape(-1, *(1,) * (values.ndim - 1))

    def _mean_of(self, values: Array) -> Array:
        return weighted_sum(self._shares(values), values)

    @compiled_method
    def log_prob(self, y: Values) -> Float[Array, "..."]:
        """Log density at y, elementwise, in nats."""
        values = self._each("log_prob", y)
        return logsumexp(values, axis=0, b=jnp.broadcast_to(self._shares(values), values.shape))

    @compiled_method
    def cdf(self, y: Values) -> Float[Array, "..."]:
        """Probability of a value at most y, elementwise."""
        return jnp.minimum(self._mean_of(self._each("cdf", y)), 1)

    @compiled_method
    def sf(self, y: Values) -> Float[Array, "..."]:
        """Probability of a value above y, elementwise."""
        return jnp.minimum(self._mean_of(self._each("sf", y)), 1)

    @compiled_property
    def mean(self) -> Float[Array, "..."]:
        """Mean, in units of y."""
        return self._mean_of(self._each("mean"))

    @compiled_property
    def aleatoric(self) -> Float[Array, "..."]:
        """Standard deviation of the noise, the root of the members' mean variance, in units of y."""
        stds = self._each("std")
        return root_mean_square(self._shares(stds), stds)

    @compiled_property
    def epistemic(self) -> Float[Array, "..."]:
        """Standard deviation of the members' means, how far they disagree, in units of y."""
        means = self._each("mean")
        return root_mean_square(self._shares(means), means - self.mean[None])

    @compiled_property
    def std(self) -> Float[Array, "..."]:
        """Standard deviation, `sqrt(aleatoric^2 + epistemic^2)`, in units of y."""
        return jnp.hypot(self.aleatoric, self.epistemic)

    @compiled_method
    def crps(self, y: Values) -> Float[Array, "..."]:
        """Continuous ranked probability score, elementwise, in units of y, by quadrature."""
        return crps_by_quadrature(self, y, self._each("mean"))

    def output(self, i: int) -> "Mixture":
        """The distribution of one of several outputs, over `(n,)`."""
        return self._replace(dist=map_rows(lambda part, _: part[..., i], self).dist)

    def scale_noise(self, log_factor: ArrayLike) -> "Mixture":
        """The mixture with every member's variance multiplied."""
        return self._replace(dist=jax.vmap(lambda member: member.scale_noise(log_factor))(self.dist))

    def count_members(self) -> int:
        """How many members there are."""
        return len(jax.tree.leaves(self.dist)[0])

    def member_means(self) -> Float[np.ndarray, "members ..."]:
        """The mean of each member, in float64."""
        return np.asarray(self._each("mean"), np.float64)

    def by_members(self, kept: Bool[np.ndarray, " members"]) -> "Mixture":
        """The mixture of some members alone: others weigh nothing."""
        return self._replace(weights=kept * (1.0 if self.weights is None else np.asarray(self.weights)))

    def moved(self, distance: ArrayLike) -> "Mixture":
        """The mixture with each row moved by a distance."""
        return self._replace(dist=jax.vmap(lambda member: member.moved(distance))(self.dist))
