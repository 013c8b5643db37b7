import csv
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from jaxreg import data
from jaxreg.training import feeds

# The same examples each time, however long one takes; `--hypothesis-profile long` takes more of them.
for profile in ("short", "long"):
    settings.register_profile(
        profile, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
settings.load_profile("short")

MEASURED = pytest.StashKey[dict]()


def pytest_addoption(parser):
    parser.addoption(
        "--record-parity", type=Path, help="write the largest difference of each row to this CSV"
    )
    parser.addoption("--bare-python", help="an interpreter with jax and flatbuffers alone, to run exports in")
    parser.addoption("--record-properties", type=Path, help="write how examples of inputs ended to this CSV")
    parser.addoption(
        "--many-processes", action="store_true", help="runs of four processes too, and ones that are killed"
    )
    parser.addoption(
        "--all-seeds",
        action="store_true",
        help="whole runs beside PyTorch's: 20 seeds of every kind, not 1",
    )


def pytest_configure(config):
    config.stash[MEASURED] = {}


def pytest_sessionfinish(session):
    path, measured = session.config.getoption("--record-parity"), session.config.stash[MEASURED]
    if path and measured:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["what", "dtype", "bound", "largest_difference", "cases", "platform", *VERSIONS])
            for (what, dtype, bound), values in measured.items():
                row = [what, dtype, f"{bound:g}", f"{max(values):.1e}", len(values), jax.default_backend()]
                writer.writerow([*row, *VERSIONS.values()])


VERSIONS = {name: __import__(name).__version__ for name in ("jax", "flax", "optax", "torch")}


@pytest.fixture
def agree(request):
    """Asserts a difference against its bound, and keeps it for the parity table."""

    def check(what, difference, bound, dtype="float64"):
        request.config.stash[MEASURED].setdefault((what, dtype, bound), []).append(float(difference))
        assert difference <= bound, f"{what}: {difference:.2e} is more than {bound:g}"

    return check


@pytest.fixture
def x64():
    """float64 for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def sinusoid():
    """The notebook's 256 rows, as NumPy arrays."""
    return tuple(np.asarray(a) for a in data.sinusoid(jax.random.key(0)))


class Counting(nn.Module):
    """Counts how often it is traced."""

    traces = []

    @nn.compact
    def __call__(self, x):
        self.traces.append(x.shape)
        return tuple(nn.Dense(2, param_dtype=x.dtype)(x).T)


@pytest.fixture
def counting():
    """A model whose `traces` grow with each trace."""
    return Counting()


@dataclass
class Rows:
    """Arrays as a source, in the order in which `fit` visits rows in memory."""

    x: np.ndarray
    y: np.ndarray

    def batches(self, batch_size):
        return -(-len(self.x) // batch_size)

    def stream(self, seed, *, batch_size, batches):
        *words, epoch = seed
        key = jax.random.wrap_key_data(np.array(words, np.uint32))
        size = batch_size * batches
        order = np.asarray(data.batch_order(key, epoch, len(self.x)))
        for start in range(0, self.batches(batch_size) * batch_size, size):
            rows = np.resize(order[start : start + size], size)
            numbers = np.where(np.arange(start, start + size) < len(order), rows, -1)
            parts = numbers, self.x[rows], self.y[rows]
            yield data.Block(*(part.reshape(batches, batch_size, *part.shape[1:]) for part in parts))

    def take(self, seed, most):
        kept = np.flatnonzero(data.row_fractions(seed, np.arange(len(self.x))) < most / len(self.x))
        return kept, self.x[kept], self.y[kept]

    def describe(self):
        return {"x": self.x, "y": self.y}


@pytest.fixture
def as_source(monkeypatch):
    """Makes a source of arrays, whose blocks have a few batches alone."""
    monkeypatch.setattr(feeds, "BLOCK_ROWS", 150)
    return Rows
