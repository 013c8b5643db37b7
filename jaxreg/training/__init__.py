"""Training: one step, the pure loop, what it is fed, where members run, and the host's door."""

from jaxreg.optimizers import SGDState as SGDState
from jaxreg.optimizers import sgd as sgd
from jaxreg.training.fitting import fit as fit
from jaxreg.training.fitting import fit_ensemble as fit_ensemble
from jaxreg.training.fitting import without_failed as without_failed
from jaxreg.training.hooks import History as History
from jaxreg.training.hooks import Hook as Hook
from jaxreg.training.hooks import Job as Job
from jaxreg.training.hooks import Run as Run
from jaxreg.training.trainer import Trainer as Trainer
from jaxreg.training.trainer import TrainState as TrainState
from jaxreg.training.trainer import make_trainer as make_trainer
from jaxreg.training.trainer import run_epochs as run_epochs
