"""The estimator with skpro's interface: frames in, distributions and frames out."""

from typing import Any, no_type_check

import numpy as np
import pandas as pd
from sklearn.base import clone
from skpro.distributions import NormalMixture
from skpro.regression.base import BaseProbaRegressor

from jaxreg.distributions.clipped import Clipped
from jaxreg.estimator import DeepEnsembleRegressor


class DeepEnsembleProbaRegressor(BaseProbaRegressor):
    """A `DeepEnsembleRegressor` as skpro's pipelines, metrics and searches take one.

    Args:
        estimator: the regressor, which is cloned; None is one with its defaults.

    Attributes:
        estimator_: the fitted regressor.

    >>> import pandas as pd
    >>> from jaxreg import DeepEnsembleRegressor
    >>> from jaxreg.skpro_regressor import DeepEnsembleProbaRegressor
    >>> x = pd.DataFrame({"a": range(40)})
    >>> small = DeepEnsembleRegressor(members=2, hidden=(8,), frequency_scale=0.0, epochs=5, noise=1)
    >>> model = DeepEnsembleProbaRegressor(small).fit(x, 2.0 * x)
    >>> model.predict_interval(x, coverage=0.9).columns.tolist()
    [('a', 0.9, 'lower'), ('a', 0.9, 'upper')]
    """

    _tags = {"capability:multioutput": True, "capability:missing": True, "python_dependencies": "jax"}

    @no_type_check  # skpro looks at the signature
    def __init__(self, estimator: DeepEnsembleRegressor | None = None):
        self.estimator = estimator
        super().__init__()

    def _fit(self, X: pd.DataFrame, y: pd.DataFrame, C: Any = None) -> "DeepEnsembleProbaRegressor":
        regressor = DeepEnsembleRegressor() if self.estimator is None else self.estimator
        self.estimator_ = clone(regressor)
        self.estimator_.fit(_named(X), y if y.shape[1] > 1 else y.iloc[:, 0])
        self.targets_ = y.columns
        return self

    def _predict(self, X: pd.DataFrame) -> pd.DataFrame:
        mean = self.estimator_.predict(_named(X)).reshape(len(X), -1)
        return pd.DataFrame(mean, X.index, self.targets_)

    def _predict_var(self, X: pd.DataFrame) -> pd.DataFrame:
        _, std = self.estimator_.predict(_named(X), return_std=True)
        return pd.DataFrame(std.reshape(len(X), -1) ** 2, X.index, self.targets_)

    def _predict_quantiles(self, X: pd.DataFrame, alpha: list[float]) -> pd.DataFrame:
        quantiles = self.estimator_.predict_quantiles(_named(X), alpha).reshape(len(X), -1)
        columns = pd.MultiIndex.from_product([self.targets_, alpha])
        return pd.DataFrame(quantiles, X.index, columns)

    def _predict_proba(self, X: pd.DataFrame) -> NormalMixture:
        dist = self.estimator_.predict_dist(_named(X))
        if isinstance(dist, Clipped):
            raise ValueError(
                "a NormalMixture of skpro has no bounds: ask for quantiles or intervals, or leave bounds out"
            )
        mixture = dist.dist
        weights = np.ones(np.shape(mixture.means)) if mixture.weights is None else mixture.weights
        means, stds, shares = (
            np.moveaxis(np.asarray(part, np.float64).reshape(len(part), len(X), -1), 0, 1)
            for part in (mixture.means, np.exp(0.5 * np.asarray(mixture.log_vars, np.float64)), weights)
        )
        if means.shape[2] > 1 and not (shares == shares[:, :, :1]).all():
            raise ValueError(
                "a NormalMixture of skpro has one weight for all targets: ask for quantiles or intervals, or "
                "give the regressor noise=1"
            )
        units = {"index": X.index, "columns": self.targets_}
        return NormalMixture(shares[:, :, 0], dist.loc + dist.scale * means, dist.scale * stds, **units)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict]:
        """Settings with which skpro tests the class."""
        small = {"members": 2, "hidden": (4,), "frequencies": 0, "noise": 1, "epochs": 3, "batch_size": None}
        return [
            {"estimator": DeepEnsembleRegressor(**small, loss=loss, random_state=0)}
            for loss in ("beta_nll", "crps")
        ]


def _named(X: pd.DataFrame) -> pd.DataFrame:
    """The frame with names of text, which are all that scikit-learn takes."""
    return X.rename(columns=str)
