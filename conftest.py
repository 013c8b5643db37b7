"""Settings of every test: README and docs are run, results are float32 as they come unless a test asks."""

import os

import jax
import matplotlib
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# Tests compile far more than they run, so XLA optimises little, in processes that they start too; the parity
# tests compile as users do. JAX_DISABLE_MOST_OPTIMIZATIONS=0 has all tests do so.
UNOPTIMIZED = "JAX_DISABLE_MOST_OPTIMIZATIONS"
os.environ.setdefault(UNOPTIMIZED, "1")
jax.config.update(UNOPTIMIZED.lower(), os.environ[UNOPTIMIZED] not in ("0", "false"))

# A product or a sum of arrays of different rank is an error, on a GPU no matmul is rounded to TF32, and
# reference and library each keep to one thread, so that their bits don't depend on the machine's load.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
torch.set_num_threads(1)
matplotlib.use("Agg")

pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"]).pytest()
