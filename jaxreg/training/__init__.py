"""Training: losses, optimizers, one step, the pure loop, what it is fed, and the host's door."""

from jaxreg.training.fitting import fit as fit
from jaxreg.training.fitting import fit_ensemble as fit_ensemble
from jaxreg.training.fitting import without_failed as without_failed
from jaxreg.training.hooks import History as History
from jaxreg.training.hooks import Hook as Hook
from jaxreg.training.hooks import Job as Job
from jaxreg.training.hooks import Run as Run
from jaxreg.training.losses import beta_nll as beta_nll
from jaxreg.training.losses import crps_gaussian as crps_gaussian
from jaxreg.training.losses import faithful_nll as faithful_nll
from jaxreg.training.losses import gaussian_nll as gaussian_nll
from jaxreg.training.losses import mean_nll as mean_nll
from jaxreg.training.losses import scaled_nll as scaled_nll
from jaxreg.training.losses import squared_error as squared_error
from jaxreg.training.losses import torch_gaussian_nll as torch_gaussian_nll
from jaxreg.training.optimizers import SGDState as SGDState
from jaxreg.training.optimizers import adamw as adamw
from jaxreg.training.optimizers import by_head as by_head
from jaxreg.training.optimizers import sgd as sgd
from jaxreg.training.optimizers import warm_up as warm_up
from jaxreg.training.trainer import Trainer as Trainer
from jaxreg.training.trainer import TrainState as TrainState
from jaxreg.training.trainer import make_trainer as make_trainer
from jaxreg.training.trainer import run_epochs as run_epochs
