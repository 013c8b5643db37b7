"""Settings of every test: README and docs are run, results are float32 as they come unless a test asks."""

import gc
import os

import jax
import matplotlib
import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# Tests compile far more than they run, so XLA optimises little, in processes that they start too; the parity
# tests ask for all of it. JAX_DISABLE_MOST_OPTIMIZATIONS=0 has all tests compile as users do.
UNOPTIMIZED = "JAX_DISABLE_MOST_OPTIMIZATIONS"
QUICK = os.environ.setdefault(UNOPTIMIZED, "1") not in ("0", "false")
jax.config.update(UNOPTIMIZED.lower(), QUICK)
# XLA's older code generator takes two thirds of the time, and code in one part takes less than in several. A
# flag that XLA doesn't know ends the process.
if QUICK and jax.__version_info__ < (0, 11):
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"

# Traced programs make many objects, which stay: looking for garbage among them less often saves a tenth.
gc.set_threshold(200_000, 50, 100)

# A product or a sum of arrays of different rank is an error, on a GPU no matmul is rounded to TF32, and
# reference and library each keep to one thread, so that their bits don't depend on the machine's load.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
torch.set_num_threads(1)
matplotlib.use("Agg")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """README and the page of parts train ensembles of the default size."""
    for item in items:
        if item.path.name in ("README.md", "parts.md"):
            item.add_marker(pytest.mark.slow)


pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"]).pytest()
