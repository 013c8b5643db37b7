"""What a user does on a GPU: the estimator's fits and intervals, and training on files."""

import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np

from bench.gpu.common import process, single
from bench.machine import GPU, seconds
from bench.speed import Effort
from jaxreg import data, fit_ensemble


def estimators(effort: Effort) -> Iterator[dict]:
    """The estimator's default fit, and prediction with exact intervals, beside the machine's CPU."""
    predicted = 200 if effort.quick else 1_000_000
    for rows in (60,) if effort.quick else (3_000, 50_000):
        places = {"CPU": "cpu"} if not GPU else {"GPU": "", "CPU": "cpu"}
        for place, platform in places.items():
            told = process("estimator", rows, predicted, effort.quick, JAX_PLATFORMS=platform)
            for what, took in told.items():
                yield single(f"the estimator's defaults, {rows:,} rows", f"{what}, {place}", took, "s")


def streaming(effort: Effort) -> Iterator[dict]:
    """Rows per second of an epoch on files, and of reading them alone."""
    if missing := [name for name in ("polars", "pyarrow") if find_spec(name) is None]:
        yield single("training on files", f"left out: needs {' and '.join(missing)}", np.nan, "")
        return
    from bench import scale, scale_process
    from jaxreg import tables

    rows = 8192 if effort.quick else 20_000_000
    with tempfile.TemporaryDirectory() as made:
        files = tables.from_files(scale.make(Path(made) / "files", rows), target="y").standardised()
        size, key = scale_process.BATCH, jax.random.key(scale_process.KEY_SEED)

        def read() -> None:
            for _ in files.stream([*data.key_words(key), 0], batch_size=size, batches=64):
                pass

        def train(members: int) -> None:
            fit_ensemble(key, scale_process.TRAINER, files, members=members, epochs=1, batch_size=size)

        question = f"{rows:,} rows of files, an epoch"
        yield single(question, "reading alone", rows / seconds(read), "rows/s")
        for members in (1,) if effort.quick else (16, 256):
            rate = rows / seconds(partial(train, members))
            yield single(question, f"reading and training {members} members", rate, "rows/s")
