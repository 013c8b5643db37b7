"""Settings of every test: README and docs are run, results are float32 as they come unless a test asks."""

import jax
import matplotlib
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# A product or a sum of arrays of different rank is an error, on a GPU no matmul is rounded to TF32, and
# reference and library each keep to one thread, so that their bits don't depend on the machine's load.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
torch.set_num_threads(1)
matplotlib.use("Agg")

pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"]).pytest()
