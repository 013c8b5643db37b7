"""The families that a network may predict, and the mixture of what an ensemble's members predict."""

from typing import Any

import jax.numpy as jnp

from jaxreg.distributions.any_mixture import Mixture
from jaxreg.distributions.gaussian import Gaussian
from jaxreg.distributions.maps import LogNormal
from jaxreg.distributions.mixture import GaussianMixture
from jaxreg.distributions.scale_families import Laplace, StudentT

# What a `FamilyRegressor` may predict, by the name that model files have.
FAMILIES: dict[str, Any] = {family.__name__: family for family in (StudentT, Laplace, LogNormal)}


def register_family(family: Any) -> Any:
    """Add a family of one's own to those that models and model files know by name; a class decorator.

    Raises:
        ValueError: if it lacks what a family needs, or another one has its name.
    """
    name = family.__name__
    needed = ("_fields", "row_axis", "log_prob", "cdf", "mean", "std", "quantile", "interval", "from_raw")
    if missing := [part for part in needed if not hasattr(family, part)]:
        raise ValueError(
            f"{name} lacks {', '.join(missing)}: put jaxreg.distributions.Family before its fields"
        )
    if FAMILIES.setdefault(name, family) is not family:
        raise ValueError(f"another family is registered as {name}")
    return family


def as_distribution(returned: Any) -> Any:
    """What a model returned, `(mean, log_var)` as a Gaussian."""
    return returned if hasattr(returned, "log_prob") else Gaussian(*returned)


def mixture_of(members: Any) -> Any:
    """The exact mixture, in equal shares, of distributions whose arrays have a leading axis of members."""
    members = as_distribution(members)
    if isinstance(members, Gaussian):
        return GaussianMixture(*tuple(members))
    if not isinstance(members, GaussianMixture):
        return Mixture(members)
    count, components = members.means.shape[:2]

    def flat(values: Any) -> Any:
        return values.reshape(-1, *values.shape[2:])

    weights = members.weights
    if weights is not None:
        weights = flat(weights / weights.sum(axis=1)[:, None])
    whose = jnp.repeat(jnp.arange(count), components)
    return GaussianMixture(flat(members.means), flat(members.log_vars), weights, whose)
