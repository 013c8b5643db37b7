"""One factor for the variance: for all of it or for the noise alone."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float
from scipy.optimize import minimize_scalar

from jaxreg.data.frames import TableLike
from jaxreg.distributions.any_mixture import Mixture
from jaxreg.distributions.base import Distribution, Prediction
from jaxreg.distributions.mixture import GaussianMixture
from jaxreg.distributions.transformed import Affine
from jaxreg.metrics.checked import check_prediction

Scalable = TypeVar("Scalable", bound=Prediction)

# Factors of the variance that are tried before the best is refined.
GRID = 100

# Smallest share of some members' squared residual that the squared residual of all is taken to be.
LEAST_SHARE = 0.05


class VarianceScaling(NamedTuple):
    """Multiplies every predicted variance by one number, or by one for each output.

    A mixture is stretched about its mean, which keeps its shape and the split of its variance.

    Attributes:
        factor: of the variance; a number or `(d,)`.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Gaussian
    >>> from jaxreg.calibration import VarianceScaling
    >>> held_out = Gaussian(jnp.zeros(4), jnp.zeros(4))
    >>> scaling = VarianceScaling.fit(held_out, [-2.0, 2.0, -2.0, 2.0])
    >>> print(f"{scaling.factor:.2f} {scaling(held_out).std[0]:.2f}")
    4.00 2.00
    """

    factor: Float[ArrayLike, "..."]

    @classmethod
    def fit(
        cls,
        prediction: Prediction,
        y: TableLike,
        *,
        score: str = "nll",
        sample_weight: TableLike | None = None,
    ) -> "VarianceScaling":
        """Find the factor that gives held-out rows the best score.

        Args:
            prediction: of held-out rows, `(n,)` or `(n, d)`: a Gaussian, GaussianMixture, or Affine of one.
            y: observed values, the same shape.
            score: "nll", or "crps", which outliers affect less.
            sample_weight: weight of each row or value.

        Raises:
            ValueError: as `metrics.check_prediction`, for another score, or if every prediction is exact.
        """
        return cls(_fit_factor(prediction, y, sample_weight, score=score, scaled="scale_variance"))

    def __call__(self, prediction: Scalable) -> Scalable:
        """The prediction with its variance scaled: a Gaussian stays a Gaussian, a mixture a mixture."""
        return _apply_factor(self.factor, prediction, "scale_variance")


class NoiseScaling(NamedTuple):
    """Multiplies the variance that each member of a mixture predicts, and leaves the members' means.

    The members' disagreement needs no factor: more members don't shrink it. The noise that each member
    predicts does: it is too small after training if the member has overfitted. The noise of a member that
    predicts several components is stretched about its mean, which keeps its shape. The variance of a Gaussian
    is scaled as `VarianceScaling` does.

    Attributes:
        factor: of the members' variances; a number or `(d,)`.

    >>> import jax.numpy as jnp
    >>> from jaxreg import GaussianMixture
    >>> from jaxreg.calibration import NoiseScaling
    >>> held_out = GaussianMixture(jnp.array([[0.0] * 4, [1.0] * 4]), jnp.zeros((2, 4)))
    >>> print(NoiseScaling(4.0)(held_out).aleatoric[0], NoiseScaling(4.0)(held_out).epistemic[0])
    2.0 0.5
    """

    factor: Float[ArrayLike, "..."]

    @classmethod
    def fit(
        cls,
        prediction: Prediction,
        y: TableLike,
        *,
        score: str = "nll",
        sample_weight: TableLike | None = None,
    ) -> "NoiseScaling":
        """Find the factor that gives held-out rows the best score; as `VarianceScaling.fit`."""
        return cls(_fit_factor(prediction, y, sample_weight, score=score, scaled="scale_noise"))

    @classmethod
    def fit_held_out(
        cls,
        prediction: Prediction,
        y: TableLike,
        held_out: TableLike,
        *,
        sample_weight: TableLike | None = None,
        prior_rows: float = 0.0,
    ) -> "NoiseScaling":
        """Find the factor from rows of the training data, each of which some members of an ensemble held out.

        Each row is scored as if no member had seen it. Where each member predicts a Gaussian, the ensemble's
        mixture is moved so that its residual is that of the members that held the row out; the residual of a
        few members is larger than that of all, and is shrunk by as much as the members' disagreement says;
        the score is the NLL. Where members predict several components, each in a place of its own, nothing
        can be moved: the mixture of those that held the row out is scored, by the CRPS, and the factor is
        multiplied by the share of their squared error that isn't the members' disagreement, which the
        ensemble adds itself. Rows that all members saw are left out.

        Args:
            prediction: the ensemble's, of all rows that it was trained on: a GaussianMixture over `(n,)` or
                `(n, d)`, or an Affine of one.
            y: observed values, the same shape.
            held_out: booleans `(members, n)`, whether a member held a row out.
            sample_weight: weight of each row or value.
            prior_rows: weight of the prior for a factor of 1, in rows; it keeps chance from determining the
                factor of few rows. Under the CRPS it shrinks the logarithm of the factor likewise.

        Raises:
            ValueError: as `metrics.check_prediction`, or if no row was held out.
        """
        y, weight = check_prediction(prediction, y, sample_weight)
        if isinstance(prediction, Affine):
            prediction, y = prediction.dist, prediction.standardised(y)
        mixture = as_mixture(prediction)
        held_out = check_held_out(held_out, mixture, y)
        if not held_out.any():
            raise ValueError("held_out names no row: there is nothing to find the factor from")
        own = held_out.reshape(held_out.shape + (1,) * (y.ndim - 1))
        weight = np.broadcast_to(own.any(axis=0) * (1.0 if weight is None else weight), y.shape)
        means, count = mixture.member_means(), np.maximum(own.sum(axis=0), 1)
        residual = y - np.sum(own * means, axis=0) / count
        members, average = len(means), partial(np.average, axis=0, weights=weight)
        disagreement = np.var(means, axis=0, ddof=1) if members > 1 else np.zeros(y.shape)
        if isinstance(mixture, GaussianMixture) and len(mixture.means) > members:
            anybody = np.arange(members)[:, None] == 0  # for rows that weigh nothing
            alone = mixture.of_rows(held_out | (anybody & ~held_out.any(axis=0)))
            found = _for_each_output(
                partial(_best_factor, scaled="scale_noise", score="crps"), alone, y, weight
            )
            noise = average(residual**2) - average(disagreement / count)
            whole = np.maximum(noise + average(disagreement * (2 / count - 1)), np.finfo(float).tiny)
            share = noise / whole
            rows = (weight > 0).sum(axis=0)
            return cls((found * np.clip(share, LEAST_SHARE, 1)) ** (rows / (rows + prior_rows)))
        share = 1 - average(disagreement * (1 / count - 1 / members)) / average(residual**2)
        residual = residual * np.sqrt(np.clip(share, LEAST_SHARE, 1))
        if not hasattr(getattr(mixture, "dist", mixture), "moved"):
            family = type(mixture.dist).__name__
            raise ValueError(
                f"members that predict a {family} can't be moved: use NoiseScaling.fit on other rows"
            )
        moved = mixture.moved(y - residual - means.mean(axis=0))
        factor = partial(_best_factor, scaled="scale_noise", prior_rows=prior_rows)
        return cls(_for_each_output(factor, moved, y, weight))

    def __call__(self, prediction: Scalable) -> Scalable:
        """The prediction with its members' variances scaled."""
        return _apply_factor(self.factor, prediction, "scale_noise")


def _fit_factor(
    prediction: Prediction, y: TableLike, sample_weight: TableLike | None, *, score: str, scaled: str
) -> Float[ArrayLike, "..."]:
    """The factor with the best score, or one for each output."""
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(map(repr, SCORES))}, got {score!r}")
    y, weight = check_prediction(prediction, y, sample_weight)
    if isinstance(prediction, Affine):
        prediction, y = prediction.dist, prediction.standardised(y)
    _check_scalable(prediction, scaled)
    weight = np.broadcast_to(1.0 if weight is None else weight, y.shape)
    return _for_each_output(partial(_best_factor, score=score, scaled=scaled), prediction, y, weight)


def _for_each_output(
    factor: Callable, prediction: Distribution, y: np.ndarray, weight: np.ndarray
) -> Float[ArrayLike, "..."]:
    if y.ndim == 1:
        return factor(prediction, y, weight)
    outputs = range(y.shape[1])
    return np.array([factor(prediction.output(i), y[:, i], weight[:, i]) for i in outputs])


def _apply_factor(factor: ArrayLike, prediction: Scalable, scaled: str) -> Scalable:
    if np.ndim(factor):
        check_outputs(np.shape(factor), prediction)
    _check_scalable(prediction, scaled)
    if isinstance(factor, jax.core.Tracer):
        return getattr(prediction, scaled)(jnp.log(factor))
    # In float64 until the logarithm is taken, which any dtype can hold.
    factor = np.asarray(factor, np.float64)
    if not ((factor > 0) & np.isfinite(factor)).all():
        raise ValueError(f"the factor of the variance must be positive and finite, got {factor}")
    return getattr(prediction, scaled)(np.log(factor))


def _check_scalable(prediction: Prediction, scaled: str) -> None:
    inner = prediction.dist if isinstance(prediction, Affine) else prediction
    inner = inner.dist if isinstance(inner, Mixture) and scaled == "scale_noise" else inner
    if not hasattr(inner, scaled):
        raise ValueError(
            "the variance of a Gaussian or GaussianMixture can be scaled, not that of a "
            f"{type(inner).__name__}"
        )


def check_held_out(held_out: TableLike, mixture: Any, y: np.ndarray) -> Bool[np.ndarray, "members n"]:
    """Booleans of members and rows, or an error that says what they should be."""
    held_out = np.asarray(held_out)
    expected = (mixture.count_members(), len(y))
    if held_out.shape != expected or held_out.dtype != bool:
        raise ValueError(
            f"held_out must be booleans of shape {expected}, members and rows, got {held_out.dtype} of "
            f"shape {held_out.shape}"
        )
    return held_out


def _nll(prediction: Distribution, y: ArrayLike) -> ArrayLike:
    return -prediction.log_prob(y)


def _crps(prediction: Distribution, y: ArrayLike) -> ArrayLike:
    return prediction.crps(y)


SCORES = {"nll": _nll, "crps": _crps}


@partial(jax.jit, static_argnums=(3, 4))
def _score_scaled(
    prediction: Distribution, y: ArrayLike, log_factor: ArrayLike, score: Callable, scaled: str
) -> ArrayLike:
    return score(getattr(prediction, scaled)(log_factor), y)


def _best_factor(
    prediction: Distribution,
    y: np.ndarray,
    weight: np.ndarray,
    *,
    scaled: str,
    score: str = "nll",
    prior_rows: float = 0.0,
) -> float:
    """The factor of the variance with the lowest mean score, over `(n,)`.

    A prior row adds the mean NLL of standard normal values under a Gaussian whose variance is the factor.
    """
    present = weight > 0  # rows of weight 0 must set no bounds
    weight, rows = weight[present], int(present.sum())
    residual = (y - np.asarray(prediction.mean, np.float64)) / np.asarray(prediction.std, np.float64)
    squares = residual[present] ** 2
    if not squares.any():
        raise ValueError("every prediction equals its y: there is no error to scale the variance to")
    largest = squares.max()
    smallest = max(squares.min(), 1e-12 * largest)

    def mean_score(log_factor: float) -> float:
        values = _score_scaled(prediction, y, log_factor, SCORES[score], scaled)
        mean = float(np.average(np.asarray(values, np.float64)[present], weights=weight))
        prior = 0.5 * (log_factor + math.exp(-log_factor))
        return (rows * mean + prior_rows * prior) / (rows + prior_rows)

    # The score of a mixture may have several minima: the best of a grid is refined.
    low, high = np.log(smallest) - 2, np.log(largest) + 2
    if prior_rows:
        low, high = min(low, -2), max(high, 2)
    grid = np.linspace(low, high, GRID)
    best = int(np.argmin([mean_score(point) for point in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    return float(np.exp(minimize_scalar(mean_score, bounds=bounds, options={"xatol": 1e-8}).x))


def check_outputs(fitted: tuple[int, ...], prediction: Prediction) -> None:
    """Raise unless a prediction has the outputs that a calibration was fitted to."""
    found = np.shape(prediction.mean)[1:]
    if found != fitted:
        raise ValueError(f"the calibration is for outputs of shape {fitted}, the prediction has {found}")


def as_mixture(prediction: Prediction) -> Any:
    """The mixture of members behind a prediction, or an error that names its type."""
    mixture = prediction.dist if isinstance(prediction, Affine) else prediction
    if not hasattr(mixture, "by_members"):
        raise ValueError(
            f"the members of a GaussianMixture or a Mixture are needed, got a {type(mixture).__name__}"
        )
    return mixture
