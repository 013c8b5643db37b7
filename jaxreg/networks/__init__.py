"""Networks: Flax modules that map x to a Gaussian, and what they predict."""

from jaxreg.networks.embeddings import ColumnEmbedding as ColumnEmbedding
from jaxreg.networks.embeddings import PeriodicEmbedding as PeriodicEmbedding
from jaxreg.networks.models import ACTIVATIONS as ACTIVATIONS
from jaxreg.networks.models import FamilyRegressor as FamilyRegressor
from jaxreg.networks.models import MeanOnlyRegressor as MeanOnlyRegressor
from jaxreg.networks.models import MeanVarRegressor as MeanVarRegressor
from jaxreg.networks.models import MixtureRegressor as MixtureRegressor
from jaxreg.networks.models import NaturalRegressor as NaturalRegressor
from jaxreg.networks.models import head_labels as head_labels
from jaxreg.networks.models import start_variance as start_variance
from jaxreg.networks.prediction import predict as predict
from jaxreg.networks.prediction import predict_ensemble as predict_ensemble
