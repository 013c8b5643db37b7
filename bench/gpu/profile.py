"""Where the time of an ensemble's step goes on a GPU."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from bench.gpu.common import single
from bench.machine import GPU
from bench.speed import Effort, Problem

KERNELS_SHOWN = 15


def profile(effort: Effort) -> Iterator[dict]:
    """Kernels of a step of an ensemble, and how much of its time they take."""
    members, epochs = (2, 4) if effort.quick else (1024, 16)
    problem = Problem(128, 64, members)
    for _ in range(2):
        problem.fit(epochs)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            problem.fit(epochs)
        (path,) = Path(folder).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
        prefix, line = ("/device:GPU", "Stream") if GPU else ("/host:CPU", "tf_XLA")
        events = [
            (event.name, event.duration_ns)
            for plane in planes
            if plane.name.startswith(prefix)
            for each in plane.lines
            if each.name.startswith(line)
            for event in each.events
            if event.duration_ns
        ]
    steps = epochs * problem.steps
    question, times = "a step of an ensemble, kernel by kernel", {}
    for name, took in events:
        times.setdefault(name, []).append(took)
    yield single(question, "kernels", len(events) / steps, "a step", problem.label)
    total = sum(took for _, took in events)
    yield single(question, "all kernels", total / steps * 1e-3, "us a step", problem.label)
    for name, own in sorted(times.items(), key=lambda item: -sum(item[1]))[:KERNELS_SHOWN]:
        what = f"{name}, {len(own) / steps:.2g} a step"
        yield single(question, what, sum(own) / steps * 1e-3, "us a step", problem.label)
