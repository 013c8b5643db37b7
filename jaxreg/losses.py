"""Losses for mean-variance networks: elementwise `(y, mean, log_var) -> loss`, the caller reduces."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxreg.gaussian import check_same_shape


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


def torch_gaussian_nll(
    y: Float[ArrayLike, "*shape"],
    mean: Float[ArrayLike, "*shape"],
    log_var: Float[ArrayLike, "*shape"],
    eps: float = 1e-6,
) -> Float[Array, "*shape"]:
    """`torch.nn.GaussianNLLLoss` on a log variance: `0.5 (log v + (y - mean)^2 / v)`.

    The variance is raised to `eps` in value only. Its gradient is taken at the raised value and passed
    on as if nothing had been raised, as PyTorch does it.

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
