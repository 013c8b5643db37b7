"""Regression networks that say how sure they are, trained in JAX as one compiled program."""

from jaxreg import data as data
from jaxreg import metrics as metrics
from jaxreg.data import Scaler as Scaler
from jaxreg.ensemble import fit_ensemble as fit_ensemble
from jaxreg.ensemble import predict_ensemble as predict_ensemble
from jaxreg.ensemble import without_failed as without_failed
from jaxreg.fitted import Fitted as Fitted
from jaxreg.gaussian import Affine as Affine
from jaxreg.gaussian import Gaussian as Gaussian
from jaxreg.gaussian import GaussianMixture as GaussianMixture
from jaxreg.losses import gaussian_nll as gaussian_nll
from jaxreg.losses import torch_gaussian_nll as torch_gaussian_nll
from jaxreg.models import MeanOnlyRegressor as MeanOnlyRegressor
from jaxreg.models import MeanVarRegressor as MeanVarRegressor
from jaxreg.models import predict as predict
from jaxreg.training import History as History
from jaxreg.training import Hook as Hook
from jaxreg.training import Run as Run
from jaxreg.training import Trainer as Trainer
from jaxreg.training import TrainState as TrainState
from jaxreg.training import fit as fit
from jaxreg.training import make_trainer as make_trainer
from jaxreg.training import run_epochs as run_epochs
from jaxreg.training import sgd as sgd

__version__ = "0.1.0"
