"""Scores of predictive distributions: means over rows, one number for each output."""

from jaxreg.distributions.base import Distribution as Distribution
from jaxreg.metrics.checked import Score as Score
from jaxreg.metrics.checked import check_prediction as check_prediction
from jaxreg.metrics.evaluation import Scores as Scores
from jaxreg.metrics.evaluation import evaluate as evaluate
from jaxreg.metrics.scorers import neg_crps as neg_crps
from jaxreg.metrics.scorers import neg_nll as neg_nll
from jaxreg.metrics.scores import LEVELS as LEVELS
from jaxreg.metrics.scores import calibration_error as calibration_error
from jaxreg.metrics.scores import coverage as coverage
from jaxreg.metrics.scores import crps as crps
from jaxreg.metrics.scores import ence as ence
from jaxreg.metrics.scores import error_by_std as error_by_std
from jaxreg.metrics.scores import interval_score as interval_score
from jaxreg.metrics.scores import mae as mae
from jaxreg.metrics.scores import max_calibration_error as max_calibration_error
from jaxreg.metrics.scores import nll as nll
from jaxreg.metrics.scores import observed_levels as observed_levels
from jaxreg.metrics.scores import outside as outside
from jaxreg.metrics.scores import pinball as pinball
from jaxreg.metrics.scores import pit as pit
from jaxreg.metrics.scores import rmse as rmse
from jaxreg.metrics.scores import sharpness as sharpness
from jaxreg.metrics.scores import variance_split as variance_split
from jaxreg.metrics.scores import width as width
