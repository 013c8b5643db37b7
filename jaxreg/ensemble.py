"""Other names of what trains and predicts ensembles, for imports of longer standing."""

from jaxreg.prediction import predict_ensemble as predict_ensemble
from jaxreg.training.fitting import fit_ensemble as fit_ensemble
from jaxreg.training.fitting import without_failed as without_failed
from jaxreg.training.inputs import held_out_sample as held_out_sample
