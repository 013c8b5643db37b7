"""Predictive distributions: what every model returns and every score reads."""

from jaxreg.distributions.any_mixture import Mixture as Mixture
from jaxreg.distributions.base import Distribution as Distribution
from jaxreg.distributions.base import Prediction as Prediction
from jaxreg.distributions.base import Values as Values
from jaxreg.distributions.base import check_shares as check_shares
from jaxreg.distributions.base import fill_rows as fill_rows
from jaxreg.distributions.clipped import Clipped as Clipped
from jaxreg.distributions.families import FAMILIES as FAMILIES
from jaxreg.distributions.families import register_family as register_family
from jaxreg.distributions.family import Family as Family
from jaxreg.distributions.family import LocationScale as LocationScale
from jaxreg.distributions.gaussian import Gaussian as Gaussian
from jaxreg.distributions.maps import LOG as LOG
from jaxreg.distributions.maps import LOGIT as LOGIT
from jaxreg.distributions.maps import SOFTPLUS as SOFTPLUS
from jaxreg.distributions.maps import LogNormal as LogNormal
from jaxreg.distributions.maps import Map as Map
from jaxreg.distributions.maps import Transformed as Transformed
from jaxreg.distributions.maps import yeo_johnson as yeo_johnson
from jaxreg.distributions.mixture import GaussianMixture as GaussianMixture
from jaxreg.distributions.scale_families import Laplace as Laplace
from jaxreg.distributions.scale_families import StudentT as StudentT
from jaxreg.distributions.transformed import Affine as Affine
