"""One process of a measurement of `bench.scale`: `python -m bench.scale_process WHAT ARGUMENTS` prints JSON.

Importing this must not start JAX, because processes have to find each other first.
"""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq

from jaxreg import Fitted, MeanVarRegressor, Scaler, fit_ensemble, hosts, make_trainer, sgd, tables
from jaxreg.model import model_file

FEATURES, MEMBERS, BATCH = 16, 16, 1024
PREDICTING = 4
KEY_SEED = 0
MODEL = MeanVarRegressor(hidden=(64, 64))
TRAINER = make_trainer(MODEL, sgd(1e-3, 0.9))


def peak() -> float:
    """The most memory that this process has had, in MB; `getrusage` would count what started it too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e3


def train(folder: str) -> dict:
    """An epoch on files, which are standardised first."""
    files = tables.from_files(folder, target="y").standardised()
    began = time.perf_counter()
    _, history = fit_ensemble(
        jax.random.key(KEY_SEED), TRAINER, files, members=MEMBERS, epochs=1, batch_size=BATCH
    )
    spent = time.perf_counter() - began
    return {"rows": files.rows, "seconds": spent, "peak_mb": peak(), "loss": float(history.loss.mean())}


def predict(folder: str, read: str) -> dict:
    """Predict as the command does, from files or from one table, into files."""
    x = np.random.default_rng(0).normal(size=(100, FEATURES))
    keys = jax.random.split(jax.random.key(0), PREDICTING)
    params = jax.vmap(TRAINER.init, (0, None))(keys, jnp.asarray(x[:2], jnp.float32)).params
    names = tuple(f"x{i}" for i in range(FEATURES))
    scalers = Scaler.fit(x), Scaler.fit(x[:, 0])
    with tempfile.TemporaryDirectory() as made:
        fitted = Fitted(MODEL, params, *scalers, names, ("y",), {}, PREDICTING)
        model_file.save(Path(made) / "model", fitted)
        arguments = [
            "predict",
            Path(made) / "model",
            folder,
            "--read",
            read,
            "--out",
            Path(made) / "p.parquet",
        ]
        command = [sys.executable, "-m", "jaxreg", *map(str, arguments), "--no-cache"]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        spent = time.perf_counter() - began
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
        rows = pq.ParquetFile(Path(made) / "p.parquet").metadata.num_rows
    return {"rows": rows, "seconds": spent, "peak_mb": most}


def process(folder: str, share: str, count: int, number: int, port: int, core: int) -> dict:
    """One of several processes, each on its own core, that reads all rows or its own share."""
    os.sched_setaffinity(0, [core])
    if count > 1:
        hosts.start(f"localhost:{port}", count, number)
    files = tables.from_files(folder, target="y")
    files = replace(files, process=(number, count), own_share=share == "own").standardised()
    mesh = hosts.make_mesh(MEMBERS) if count > 1 else None
    given = {"members": MEMBERS, "epochs": 1, "batch_size": BATCH, "mesh": mesh}
    fit_ensemble(jax.random.key(0), TRAINER, files, **given)
    began = time.perf_counter()
    fit_ensemble(jax.random.key(0), TRAINER, files, **given)
    spent = time.perf_counter() - began
    began = time.perf_counter()
    for _ in files.stream([0], batch_size=BATCH, batches=64):
        pass
    read = time.perf_counter() - began
    seen = files.rows // (count if share == "own" else 1)  # the shares of these files are equal
    return {"rate": MEMBERS * seen / spent, "seconds": spent, "read_seconds": read}


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    numbers = [int(value) if value.isdigit() else value for value in given]
    print(json.dumps({"train": train, "predict": predict, "process": process}[what](*numbers)))
