"""Losses for mean-variance networks: elementwise `(y, mean, log_var) -> loss`, the caller reduces.

`faithful_nll` belongs with a `MeanVarRegressor(detach_variance=True)`, and the natural parametrisation is a
model, `NaturalRegressor`, under `gaussian_nll`. `beta_nll` and `faithful_nll` are no scores: compare models
trained with them by `gaussian_nll` or by the CRPS.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxreg.checks import check_same_shape
from jaxreg.distributions.gaussian import Gaussian
from jaxreg.distributions.mixture import GaussianMixture

# Factors of the variance that `scaled_nll` tries for a mixture.
LOG_FACTORS = np.linspace(-1.0, 3.0, 9)


def gaussian_nll(
    y: Float[ArrayLike, "*shape"],
    mean: Float[ArrayLike, "*shape"],
    log_var: Float[ArrayLike, "*shape"],
) -> Float[Array, "*shape"]:
    """Gaussian negative log-likelihood without its constant: `0.5 (log_var + (y - mean)^2 / var)`.

    Nix & Weigend 1994, "Estimating the mean and variance of the target probability distribution".

    Args:
        y: targets, `(n,)` or `(n, d)`.
        mean: predicted means, the same shape and units.
        log_var: predicted log variances, the same shape.

    Returns:
        The loss of each entry, in nats; add `0.5 log(2 pi)` for the negative log density.

    Raises:
        ValueError: if the shapes differ.

    >>> import jax.numpy as jnp
    >>> from jaxreg import gaussian_nll
    >>> gaussian_nll(jnp.array([0.0, 2.0]), mean=jnp.zeros(2), log_var=jnp.zeros(2))
    Array([0., 2.], dtype=float32)
    """
    check_same_shape(y=y, mean=mean, log_var=log_var)
    y, mean, log_var = jnp.asarray(y), jnp.asarray(mean), jnp.asarray(log_var)
    # Scaled before it is squared: residuals of 1e30 or a std of 1e-30 have no float32 square.
    z = (y - mean) * jnp.exp(-0.5 * log_var)
    return 0.5 * (log_var + z * z)


def nll(y: ArrayLike, dist: Any) -> Array:
    """The negative log density of each entry, that of a Gaussian without its constant."""
    return gaussian_nll(y, *tuple(dist)) if isinstance(dist, Gaussian) else -dist.log_prob(y)


def squared_error(
    y: Float[ArrayLike, "*shape"],
    mean: Float[ArrayLike, "*shape"],
    log_var: Float[ArrayLike, "*shape"],
) -> Float[Array, "*shape"]:
    """Half the squared error, `0.5 (y - mean)^2`, which trains the mean alone.

    A first run with it is the warm-up of Sluijterman et al. 2024, "Optimal training of mean variance
    estimation neural networks"; `start_variance` then says how wide the second one begins. Validation
    during it is of little use: epochs are compared by `gaussian_nll`, under a variance not yet trained.

    Args:
        y: targets, `(n,)` or `(n, d)`.
        mean: predicted means, the same shape and units.
        log_var: predicted log variances, the same shape; without effect.

    Raises:
        ValueError: if the shapes differ.
    """
    check_same_shape(y=y, mean=mean, log_var=log_var)
    return 0.5 * (jnp.asarray(y) - mean) ** 2


def beta_nll(beta: float | int = 0.5) -> Callable[[Array, Array, Array], Array]:
    """Make the loss `var^beta gaussian_nll`, whose factor has no gradient.

    With beta 0 it is the NLL, in which rows of large variance hardly move the mean; with beta 1 the mean
    has the gradient of the squared error. Seitzer et al. 2022, "On the pitfalls of heteroscedastic
    uncertainty estimation with probabilistic neural networks".

    Args:
        beta: from 0 to 1.

    Returns:
        A loss `(y, mean, log_var) -> loss`, or `(y, *fields)` of a GaussianMixture, whose variance is then
        the factor; the same function for the same beta, so that trainers share their compiled programs.

    Raises:
        ValueError: if beta lies outside [0, 1].

    >>> import jax.numpy as jnp
    >>> from jaxreg import beta_nll
    >>> print(beta_nll(1.0)(jnp.array([2.0]), mean=jnp.zeros(1), log_var=jnp.log(jnp.array([4.0]))))
    [4.7725887]
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must lie between 0 (the NLL) and 1 (as squared error), got {beta}")
    return _beta_nll(float(beta))


@lru_cache
def _beta_nll(beta: float) -> Callable[[Array, Array, Array], Array]:
    return partial(_loss_of_beta, beta)  # which can be pickled


def _loss_of_beta(
    beta: float, y: ArrayLike, mean: ArrayLike, log_var: ArrayLike, *more: ArrayLike | None
) -> Array:
    dist = distribution_of(mean, log_var, *more)
    log_var = dist.log_var if isinstance(dist, Gaussian) else 2 * jnp.log(dist.std)
    return jnp.exp(beta * jax.lax.stop_gradient(jnp.asarray(log_var))) * nll(y, dist)


def distribution_of(mean: ArrayLike, log_var: ArrayLike, *more: ArrayLike | None) -> Any:
    """The distribution of ours that has these fields: a Gaussian, or with more of them a GaussianMixture."""
    fields = (None if part is None else jnp.asarray(part) for part in (mean, log_var, *more))
    return (GaussianMixture if more else Gaussian)(*fields)


def faithful_nll(
    y: Float[ArrayLike, "*shape"],
    mean: Float[ArrayLike, "*shape"],
    log_var: Float[ArrayLike, "*shape"],
) -> Float[Array, "*shape"]:
    """`0.5 (y - mean)^2 + gaussian_nll`, whose second term sees the mean as a constant.

    With `MeanVarRegressor(detach_variance=True)`, whose variance head reads its features as constants, the
    mean trains exactly as under squared error. Stirn et al. 2023, "Faithful heteroscedastic regression with
    neural networks".

    Args:
        y: targets, `(n,)` or `(n, d)`.
        mean: predicted means, the same shape and units.
        log_var: predicted log variances, the same shape.

    Raises:
        ValueError: if the shapes differ.

    >>> import jax.numpy as jnp
    >>> from jaxreg import faithful_nll
    >>> faithful_nll(jnp.array([2.0]), mean=jnp.zeros(1), log_var=jnp.zeros(1))
    Array([4.], dtype=float32)
    """
    fixed = jax.lax.stop_gradient(jnp.asarray(mean))
    return squared_error(y, mean, log_var) + gaussian_nll(y, fixed, log_var)


def crps_gaussian(
    y: Float[ArrayLike, "*shape"], mean: ArrayLike, log_var: ArrayLike, *more: ArrayLike | None
) -> Float[Array, "*shape"]:
    """Continuous ranked probability score, in units of y; single far-off values move it less.

    Gneiting et al. 2005, "Calibrated probabilistic forecasting using ensemble model output statistics and
    minimum CRPS estimation".

    Args:
        y: targets, `(n,)` or `(n, d)`.
        mean: predicted means, the same shape and units.
        log_var: predicted log variances, the same shape.
        *more: with the weights and members of a GaussianMixture the first two are its means and log
            variances.

    Raises:
        ValueError: if the shapes differ.

    >>> import jax.numpy as jnp
    >>> from jaxreg import crps_gaussian
    >>> print(f"{crps_gaussian(jnp.zeros(1), mean=jnp.zeros(1), log_var=jnp.zeros(1))[0]:.4f}")
    0.2337
    """
    if not more:
        check_same_shape(y=y, mean=mean, log_var=log_var)
    return distribution_of(mean, log_var, *more).crps(jnp.asarray(y))


def torch_gaussian_nll(
    y: Float[ArrayLike, "*shape"],
    mean: Float[ArrayLike, "*shape"],
    log_var: Float[ArrayLike, "*shape"],
    eps: float = 1e-6,
) -> Float[Array, "*shape"]:
    """`torch.nn.GaussianNLLLoss` on a log variance: `0.5 (log v + (y - mean)^2 / v)`.

    The variance is clamped to at least `eps` in value only. As in PyTorch, the gradient is taken at the
    clamped value and passed on as if nothing had been clamped.

    Args:
        y: targets, `(n,)` or `(n, d)`.
        mean: predicted means, the same shape and units.
        log_var: predicted log variances, the same shape.
        eps: smallest variance, in units of y squared.

    Raises:
        ValueError: if the shapes differ.

    >>> import jax.numpy as jnp
    >>> from jaxreg import torch_gaussian_nll
    >>> loss = torch_gaussian_nll(jnp.zeros(1), jnp.zeros(1), jnp.array([-100.0]), eps=1e-6)
    >>> print(f"{loss[0]:.4f}")  # log(1e-6) / 2, not -50
    -6.9078
    """
    check_same_shape(y=y, mean=mean, log_var=log_var)
    y, mean = jnp.asarray(y), jnp.asarray(mean)
    var = jnp.exp(jnp.asarray(log_var))
    var = var + jax.lax.stop_gradient(jnp.maximum(var, eps) - var)
    residual = y - mean
    return 0.5 * (jnp.log(var) + residual * residual / var)


def mean_nll(
    y: Float[Array, "*shape"],
    mean: ArrayLike,
    log_var: ArrayLike,
    *more: ArrayLike | None,
    weight: ArrayLike | None = None,
) -> Float[Array, ""]:
    """The mean of `gaussian_nll` over held-out rows: by default it picks the epoch that `fit` keeps.

    Args:
        y: observed values, `(n,)` or `(n, d)`.
        mean: predicted means, the same shape.
        log_var: predicted log variances, the same shape.
        *more: weights and members of a GaussianMixture, whose means and log variances then come first.
        weight: of each value, the same shape, 0 for an absent one; None weights all equally.
    """
    if len(more) % 2:  # the weight stands last, or after the fields
        *more, weight = more
    return average(nll(y, distribution_of(mean, log_var, *more)), weight)


def scaled_nll(
    y: Float[Array, "*shape"],
    mean: ArrayLike,
    log_var: ArrayLike,
    *more: ArrayLike | None,
    weight: ArrayLike | None = None,
) -> Float[Array, ""]:
    """`mean_nll` with the noise of an output scaled by one factor of the variance, as `calibration` does.

    In training, variances fall below the errors of fresh rows long before the means stop improving;
    `mean_nll` then keeps too early an epoch for a network whose variances will be scaled. The factor of a
    Gaussian is the mean of `(y - mean)^2 / var` and one more value of 1, which steadies it for few rows; that
    of a mixture is the best of nine.

    The arguments are those of `mean_nll`; with weights and members of a GaussianMixture before the weight of
    rows the first two are its means and log variances.

    >>> import jax.numpy as jnp
    >>> from jaxreg import mean_nll, scaled_nll
    >>> y, mean, log_var = jnp.full(99, 3.0), jnp.zeros(99), jnp.zeros(99)
    >>> print(f"{mean_nll(y, mean, log_var):.2f} {scaled_nll(y, mean, log_var):.2f}")
    4.50 1.60
    """
    if len(more) % 2:  # the weight stands last, or after the fields
        *more, weight = more
    rows = y.shape[0] if weight is None else (weight > 0).sum(0, dtype=y.dtype)
    dist = distribution_of(mean, log_var, *more)
    if isinstance(dist, Gaussian):
        squared = average(jnp.square((y - dist.mean) * jnp.exp(-0.5 * dist.log_var)), weight, 0)
        factor = (rows * squared + 1) / (rows + 1)
        return 0.5 * jnp.mean(average(dist.log_var, weight, 0) + jnp.log(factor) + squared / factor)

    def of_factor(log_factor: Array) -> Array:
        prior = 0.5 * (log_factor + jnp.exp(-log_factor))
        return (rows * average(nll(y, dist.scale_noise(log_factor)), weight, 0) + prior) / (rows + 1)

    return jax.lax.map(of_factor, jnp.asarray(LOG_FACTORS, y.dtype)).min(axis=0).mean()


def average(values: Array, weight: Array | None, axis: int | None = None) -> Array:
    """The weighted mean; 0 where there is no weight."""
    if weight is None:
        return values.mean(axis)
    total = weight.sum(axis)
    return jnp.where(weight > 0, weight * values, 0).sum(axis) / jnp.where(total > 0, total, 1)
