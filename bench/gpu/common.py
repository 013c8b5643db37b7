"""What the parts of a measurement on a GPU share."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import torch

from bench import rivals
from bench.machine import GPU
from bench.readme import ROOT
from bench.speed import Contender, Effort, Problem, row

# Losses after 50 steps: products in TF32 round to 11 bits.
TF32_DIFFERENCE = 1e-2
MINUTE = 60


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Matrix products of float32 as they are, "float32", or rounded as a GPU likes it, "TF32", in both."""
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    with jax.default_matmul_precision("highest" if precision == "float32" else "default"):
        yield


def within(precision: str, contender: Contender) -> Contender:
    """A contender whose matrix products have a precision."""

    def run(n: int) -> None:
        with products(precision):
            contender.run(n)

    return Contender(run, contender.work)


def single(question: str, what: str, value: float, unit: str, label: dict | None = None) -> dict:
    """A row of something that was measured once."""
    return row(question, label or {}, what, np.array([value]), unit)


def states_of(problem: Problem) -> Any:
    """The members' first states."""
    return jax.jit(jax.vmap(problem.trainer.init, (0, None)))(problem.keys, problem.rows[0])


def compiled_forms(effort: Effort) -> list[type[rivals.Rival]]:
    """The fastest forms in PyTorch."""
    return [rivals.CudaGraphs, rivals.EpochGraph] if GPU else [rivals.CompiledFunctional]


def process(what: str, *arguments: object, **environment: str) -> dict:
    """What another process measures (see bench.gpu.process); environment variables that are "" stay unset."""
    variables = {name: value for name, value in environment.items() if value}
    command = [sys.executable, "-m", "bench.gpu.process", what, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | variables, timeout=5 * MINUTE
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} ended with {done.returncode}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])
