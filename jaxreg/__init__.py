"""Regression networks that say how sure they are, trained in JAX as one compiled program.

Nothing is imported before it is asked for: `import jaxreg` alone loads no JAX.
"""

import importlib
import pkgutil
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxreg.cache import use_cache as use_cache
    from jaxreg.columns import Columns as Columns
    from jaxreg.data import Scaler as Scaler
    from jaxreg.distributions import Affine as Affine
    from jaxreg.distributions import Clipped as Clipped
    from jaxreg.distributions import Distribution as Distribution
    from jaxreg.distributions import Gaussian as Gaussian
    from jaxreg.distributions import GaussianMixture as GaussianMixture
    from jaxreg.distributions import Laplace as Laplace
    from jaxreg.distributions import LogNormal as LogNormal
    from jaxreg.distributions import Mixture as Mixture
    from jaxreg.distributions import Prediction as Prediction
    from jaxreg.distributions import StudentT as StudentT
    from jaxreg.distributions import Transformed as Transformed
    from jaxreg.distributions import register_family as register_family
    from jaxreg.estimator import DeepEnsembleRegressor as DeepEnsembleRegressor
    from jaxreg.model.fitted import Fitted as Fitted
    from jaxreg.networks import ColumnEmbedding as ColumnEmbedding
    from jaxreg.networks import FamilyRegressor as FamilyRegressor
    from jaxreg.networks import MeanOnlyRegressor as MeanOnlyRegressor
    from jaxreg.networks import MeanVarRegressor as MeanVarRegressor
    from jaxreg.networks import MixtureRegressor as MixtureRegressor
    from jaxreg.networks import NaturalRegressor as NaturalRegressor
    from jaxreg.networks import PeriodicEmbedding as PeriodicEmbedding
    from jaxreg.networks import predict as predict
    from jaxreg.networks import predict_ensemble as predict_ensemble
    from jaxreg.networks import start_variance as start_variance
    from jaxreg.training import History as History
    from jaxreg.training import Hook as Hook
    from jaxreg.training import Run as Run
    from jaxreg.training import Trainer as Trainer
    from jaxreg.training import TrainState as TrainState
    from jaxreg.training import adamw as adamw
    from jaxreg.training import beta_nll as beta_nll
    from jaxreg.training import by_head as by_head
    from jaxreg.training import crps_gaussian as crps_gaussian
    from jaxreg.training import faithful_nll as faithful_nll
    from jaxreg.training import fit as fit
    from jaxreg.training import fit_ensemble as fit_ensemble
    from jaxreg.training import gaussian_nll as gaussian_nll
    from jaxreg.training import make_trainer as make_trainer
    from jaxreg.training import mean_nll as mean_nll
    from jaxreg.training import run_epochs as run_epochs
    from jaxreg.training import scaled_nll as scaled_nll
    from jaxreg.training import sgd as sgd
    from jaxreg.training import squared_error as squared_error
    from jaxreg.training import torch_gaussian_nll as torch_gaussian_nll
    from jaxreg.training import warm_up as warm_up
    from jaxreg.training import without_failed as without_failed

__version__ = "0.1.0"

# Where each public name is.
HOMES = {
    "cache": "use_cache",
    "columns": "Columns",
    "data": "Scaler",
    "distributions": "Affine Clipped Distribution Gaussian GaussianMixture Laplace LogNormal Mixture "
    "Prediction StudentT Transformed register_family",
    "estimator": "DeepEnsembleRegressor",
    "model.fitted": "Fitted",
    "networks": "ColumnEmbedding FamilyRegressor MeanOnlyRegressor MeanVarRegressor MixtureRegressor "
    "NaturalRegressor PeriodicEmbedding predict predict_ensemble start_variance",
    "training": "History Hook Run Trainer TrainState adamw beta_nll by_head crps_gaussian faithful_nll fit "
    "fit_ensemble gaussian_nll make_trainer mean_nll run_epochs scaled_nll sgd squared_error "
    "torch_gaussian_nll warm_up without_failed",
}
HOME_OF = {name: f"{__name__}.{home}" for home, names in HOMES.items() for name in names.split()}
# Modules that moved, by the names that they were imported by, and where what they held is now.
MOVED = {
    "checkpoints": "model.checkpoints",
    "embeddings": "networks.embeddings",
    "ensemble": "training networks training.inputs",
    "export": "model.export",
    "fitted": "model.fitted",
    "gaussian": "distributions",
    "losses": "training.losses",
    "model_file": "model.model_file",
    "models": "networks networks.models",
    "optimizers": "training.optimizers",
    "prediction": "networks.prediction",
    "sources": "tables",
    "torch_weights": "model.torch_weights",
}
__all__ = [*HOME_OF]


class _Moved(ModuleType):
    """A module that is imported, under the name it has now, when something of it is asked for."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        homes = [
            importlib.import_module(f"{__package__}.{home}") for home in MOVED[self.__name__[7:]].split()
        ]
        return getattr(next((home for home in homes if hasattr(home, name)), homes[0]), name)


sys.modules |= {f"{__name__}.{name}": _Moved(f"{__name__}.{name}") for name in MOVED}


def __getattr__(name: str) -> Any:
    if name in HOME_OF:
        return getattr(importlib.import_module(HOME_OF[name]), name)
    home = MOVED.get(name, name)
    if " " in home:  # in several places now
        return sys.modules[f"{__name__}.{name}"]
    path = f"{__name__}.{home}"
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        from jaxreg.plain import did_you_mean

        similar = did_you_mean(name, __all__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{similar}") from None


def __dir__() -> list[str]:
    return sorted({*__all__, *(module.name for module in pkgutil.iter_modules(__path__)), "__version__"})
