"""Settings of every test: README and docs are run, results are float32 as they come unless a test asks."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from sybil import Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import PythonCodeBlockParser

from docs.blocks import PARSERS, run_shell, save_program

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

# Of the pages that answer one question, those that the site's build alone runs.
ONLY_ON_THE_SITE = "from_other_libraries.md", "own_networks.md", "serve.md"
# Scripts of the site are run by its build.
collect_ignore_glob = ["docs/*.py", "docs/*/*.py", "docs/build/*", "docs/made/*"]


whole_filter = SybilItem._traceback_filter


def traceback_filter(item: SybilItem, error: pytest.ExceptionInfo) -> object:
    """Sybil's, where it has an answer: of an error that followed another one it has none."""
    try:
        return whole_filter(item, error)
    except IndexError:
        return error.traceback


SybilItem._traceback_filter = traceback_filter


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """README's blocks train ensembles of the default size; other pages show what tests ask anyway."""
    for item in items:
        if item.path.suffix != ".md":
            continue
        if item.example.region.evaluator in (run_shell, save_program):
            item.add_marker(pytest.mark.site)
        elif item.path.name == "README.md":
            item.add_marker(pytest.mark.slow)
        elif item.path.parent.name != "howto" or item.path.name in ONLY_ON_THE_SITE:
            item.add_marker(pytest.mark.site)


@pytest.fixture(scope="class")
def page_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A page's folder with what pages read: a made-up table of houses that were sold, and one of others."""
    rng, n = np.random.default_rng(0), 300
    area, year = rng.lognormal(7.2, 0.3, n), rng.integers(1900, 2010, n)
    town = rng.choice(["NAmes", "Edwards", "Sawyer", None], n, p=[0.4, 0.3, 0.25, 0.05])
    price = area * np.where(town == "NAmes", 120, 90) + 300 * (year - 1950) + rng.normal(0, 8000, n)
    table = pd.DataFrame({"PID": range(n), "area": area, "Lot Frontage": rng.normal(70, 9, n), "town": town})
    table["Lot Frontage"] = table["Lot Frontage"].where(rng.uniform(size=n) < 0.8)
    table = table.assign(year=year, price=price.round())
    before, folder = Path.cwd(), tmp_path_factory.getbasetemp() / request.path.name
    folder.mkdir(exist_ok=True)
    table[:250].to_csv(folder / "ames.csv", index=False)
    table[:250].to_parquet(folder / "rows.parquet")
    table[:250].assign(address=[f"{i} Elm St" for i in range(250)]).to_csv(folder / "houses.csv", index=False)
    table[250:].to_csv(folder / "sold.csv", index=False)
    distance = np.linspace(390, 720, 220)
    ratio = -0.7 / (1 + np.exp((580 - distance) / 30)) + 1e-4 * (distance - 390) * rng.normal(size=220)
    pd.DataFrame({"range": distance, "logratio": ratio}).to_csv(folder / "lidar.csv", index=False)
    table[250:].drop(columns="price").to_csv(folder / "new.csv", index=False)
    os.chdir(folder)
    yield
    os.chdir(before)


pages = Sybil(parsers=[PythonCodeBlockParser(), *PARSERS], patterns=["*.md"], fixtures=["page_folder"])
pytest_collect_file = pages.pytest()
