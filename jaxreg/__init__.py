"""Regression networks that say how sure they are, trained in JAX as one compiled program."""

from jaxreg import data as data
from jaxreg import metrics as metrics
from jaxreg.cache import use_cache as use_cache
from jaxreg.data import Scaler as Scaler
from jaxreg.embeddings import PeriodicEmbedding as PeriodicEmbedding
from jaxreg.fitted import Fitted as Fitted
from jaxreg.gaussian import Affine as Affine
from jaxreg.gaussian import Gaussian as Gaussian
from jaxreg.gaussian import GaussianMixture as GaussianMixture
from jaxreg.losses import beta_nll as beta_nll
from jaxreg.losses import crps_gaussian as crps_gaussian
from jaxreg.losses import faithful_nll as faithful_nll
from jaxreg.losses import gaussian_nll as gaussian_nll
from jaxreg.losses import mean_nll as mean_nll
from jaxreg.losses import scaled_nll as scaled_nll
from jaxreg.losses import squared_error as squared_error
from jaxreg.losses import torch_gaussian_nll as torch_gaussian_nll
from jaxreg.models import MeanOnlyRegressor as MeanOnlyRegressor
from jaxreg.models import MeanVarRegressor as MeanVarRegressor
from jaxreg.models import NaturalRegressor as NaturalRegressor
from jaxreg.models import predict as predict
from jaxreg.models import start_variance as start_variance
from jaxreg.optimizers import adamw as adamw
from jaxreg.optimizers import by_head as by_head
from jaxreg.optimizers import sgd as sgd
from jaxreg.optimizers import warm_up as warm_up
from jaxreg.prediction import predict_ensemble as predict_ensemble
from jaxreg.training import History as History
from jaxreg.training import Hook as Hook
from jaxreg.training import Run as Run
from jaxreg.training import Trainer as Trainer
from jaxreg.training import TrainState as TrainState
from jaxreg.training import fit as fit
from jaxreg.training import fit_ensemble as fit_ensemble
from jaxreg.training import make_trainer as make_trainer
from jaxreg.training import run_epochs as run_epochs
from jaxreg.training import without_failed as without_failed

__version__ = "0.1.0"
