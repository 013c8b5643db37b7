"""Targets of the faults: a run, saves, readers, each in its own process, so that a crash is noticed.

This module imports no more than they need. Children are forked from a process that has only imported it,
which takes a third of a second; forks of a process with polars or scikit-learn hang.
"""

import multiprocessing
import os
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import jax
import numpy as np

from jaxreg import Fitted, MeanVarRegressor, Scaler, data, fit_ensemble, make_trainer, sgd
from jaxreg.model import export, model_file
from jaxreg.model.checkpoints import Checkpoint

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["bench.victims"])
REFUSED = 3

MODEL = MeanVarRegressor(hidden=(16,))
TRAINER = make_trainer(MODEL, sgd(5e-3))
EPOCHS, EVERY = 120, 2
CHANGED_BITS = 16


def start(function: Callable, *arguments: object) -> ForkServerProcess:
    """A child that calls a function; a `ValueError` ends it with the code REFUSED."""
    process = PROCESSES.Process(target=_quietly, args=(function, *arguments))
    process.start()
    return process


def _quietly(function: Callable, *arguments: object) -> None:
    warnings.simplefilter("ignore")
    try:
        function(*arguments)
    except ValueError:
        sys.exit(REFUSED)


def call(function: Callable, *arguments: object) -> object:
    """What a function returns in a child, or how the child ended if it crashed."""
    ours, theirs = PROCESSES.Pipe()
    process = start(_answer, theirs, function, *arguments)
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        return f"ended with code {process.exitcode}"
    finally:
        process.join()


def _answer(pipe: Connection, function: Callable, *arguments: object) -> None:
    pipe.send(function(*arguments))


def train(folder: Path, out: Path) -> None:
    """A run with checkpoints that goes on if it can, and leaves its result in a file."""
    rows = data.sinusoid(jax.random.key(0))
    result = fit_ensemble(
        jax.random.key(1),
        TRAINER,
        rows,
        members=3,
        epochs=EPOCHS,
        batch_size=64,
        validation=rows,
        hooks=[Checkpoint(folder, EVERY, resume=True)],
    )
    leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(result))}
    part = out.with_suffix(f".{os.getpid()}.npz")
    np.savez(part, **leaves)
    part.replace(out)


def same(a: Path, b: Path) -> bool:
    """Whether two results are equal bit for bit."""
    one, other = (dict(np.load(path)) for path in (a, b))
    return one.keys() == other.keys() and all(one[k].tobytes() == other[k].tobytes() for k in one)


def fitted(seed: int, width: int = 128) -> Fitted:
    """An untrained model of two features."""
    model = MeanVarRegressor(hidden=(width, width))
    rng, one = np.random.default_rng(seed), jax.ShapeDtypeStruct((1, 2), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), one)
    params = jax.tree.map(lambda leaf: rng.normal(size=(4, *leaf.shape)).astype(np.float32), shapes)
    scalers = Scaler(np.zeros(2), np.ones(2)), Scaler(np.zeros(()), np.ones(()))
    return Fitted(model, params, *scalers, ("area", "rooms"), ("price",), {}, 4)


def save_repeatedly(path: Path, ready: Path, seeds: tuple[int, ...], most: int) -> None:
    """Save models to one path, one over the other."""
    models = [fitted(seed) for seed in seeds]
    ready.touch()
    for i in range(most):
        model_file.save(path, models[i % len(models)])


def is_one_of(path: Path, seeds: tuple[int, ...]) -> bool:
    """Whether a file holds one of some models."""
    leaf = np.asarray(jax.tree.leaves(model_file.load(path).params)[0])
    return any(np.array_equal(leaf, jax.tree.leaves(fitted(seed).params)[0]) for seed in seeds)


def damaged(whole: bytes, stride: int) -> Iterator[bytes]:
    """A file with a byte changed, and cut short, at every `stride` bytes."""
    for offset in range(0, len(whole), stride):
        yield whole[:offset] + bytes([whole[offset] ^ CHANGED_BITS]) + whole[offset + 1 :]
        yield whole[:offset]


def _ask_model(path: Path) -> bytes:
    return np.asarray(model_file.load(path).predict(np.ones((3, 2))).mean).tobytes()


def _ask_export(path: Path) -> bytes:
    with jax.enable_x64(True):
        return np.asarray(export.load(path)(np.ones((3, 2)), 0.9)[0]).tobytes()


READERS = {"model": _ask_model, "export": _ask_export}


def read_damaged(path: Path, kind: str, stride: int) -> tuple[int, list[str]]:
    """How many damaged copies of a file there were, and which gave other numbers or no clear error."""
    ask, whole, failures, n = READERS[kind], path.read_bytes(), [], 0
    right = ask(path)
    for n, content in enumerate(damaged(whole, stride), 1):
        path.write_bytes(content)
        try:
            if ask(path) != right:
                failures.append(f"{n}: other numbers")
        except ValueError as error:
            if str(path) not in str(error):
                failures.append(f"{n}: {error}")
        except Exception as error:
            failures.append(f"{n}: {type(error).__name__} {error}")
    return n, failures


def resume_damaged(folder: Path, last: Path, stride: int, whole: Path) -> tuple[int, list[str]]:
    """The same for a checkpoint: a run goes on from a copy of its folder with the last one changed."""
    copy, out, failures, n = whole.with_name("copy"), whole.with_name("damaged.npz"), [], 0
    for n, content in enumerate(damaged((folder / last).read_bytes(), stride), 1):
        shutil.copytree(folder, copy)
        (copy / last).write_bytes(content)
        try:
            train(copy, out)
            if not same(out, whole):
                failures.append(f"{n}: other numbers")
        except Exception as error:
            failures.append(f"{n}: {type(error).__name__} {error}")
        shutil.rmtree(copy)
    return n, failures


def read_hostile(path: Path) -> tuple[str, int, float]:
    """The outcome of reading a model file: what is said, bytes of memory, seconds."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        model_file.load(path)
        said = "read"
    except ValueError as error:
        said = "refused" if str(path) in str(error) else str(error)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    took = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return said, took, time.perf_counter() - began
