"""Predictive distributions: what every model returns and every score reads."""

from jaxreg.distributions.base import Distribution as Distribution
from jaxreg.distributions.base import Prediction as Prediction
from jaxreg.distributions.base import Values as Values
from jaxreg.distributions.base import check_shares as check_shares
from jaxreg.distributions.base import fill_rows as fill_rows
from jaxreg.distributions.gaussian import Gaussian as Gaussian
from jaxreg.distributions.mixture import GaussianMixture as GaussianMixture
from jaxreg.distributions.transformed import Affine as Affine
