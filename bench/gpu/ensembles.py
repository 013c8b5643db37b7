"""Whole fits on a GPU, beside PyTorch's and the limits of the device."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import numpy as np
import torch

from bench import rivals
from bench.gpu.common import TF32_DIFFERENCE, compiled_forms, process, products, single, states_of, within
from bench.machine import GPU, multiply_adds, seconds
from bench.speed import OURS, TORCH_DEVICE, Effort, Problem, row, timed

# An unfused step reads and writes parameters, velocities and gradients.
TRIPS = 6
# Bytes of a device's memory that are left to a fit: 4,096 members' states fit in, not all their steps.
SMALL = 1.4e9
# Numbers of members, in order of worth.
SIZES = 1024, 64, 1, 4096, 256, 16


def notebook(effort: Effort) -> Iterator[dict]:
    """Whole fits of the notebook's one network."""
    kinds = [rivals.Eager, *compiled_forms(effort)]
    if not effort.quick:
        kinds = [rivals.Notebook, rivals.CompiledStep, *kinds]
    with products("float32"):  # one network's products take next to no time on a GPU
        torch._dynamo.reset()
        problem = Problem(128, 64, 1)
        contenders = {OURS: problem.ours()} | {
            kind.name: problem.rival(kind, effort.backend) for kind in kinds
        }
        yield from timed("one network, whole fit", problem.label, contenders, effort)


def ensembles(effort: Effort) -> Iterator[dict]:
    """Compilation, and time per member and step beside PyTorch and the limits, by members."""
    sizes = (2, 4) if effort.quick else SIZES
    problems = {members: Problem(128, 64, members, TF32_DIFFERENCE) for members in sorted(sizes)}
    params = sum(leaf.size for leaf in jax.tree.leaves(states_of(Problem(128, 64, 1)).params))
    for problem in problems.values():
        first, then = (seconds(partial(problem.fit, 1)) for _ in range(2))
        yield single("ensemble, to compile", OURS, first - then, "s", problem.label)
    rates = {}
    for name, rate, unit in ceilings(effort):
        rates[name] = rate
        yield single("limits of the machine", name, rate, unit)
    for members in sizes:
        problem = problems[members]
        torch._dynamo.reset()
        contenders = {OURS: within("TF32", problem.ours())}
        if members in (64, 1024):
            contenders[f"{OURS}, products in float32"] = problem.ours(precision="float32")
        with products("TF32"):
            for kind in compiled_forms(effort):
                contenders[kind.name] = within("TF32", problem.rival(kind, effort.backend))
        found = timed("ensemble, whole fit", problem.label, contenders, effort)
        yield from found
        ours = float(found[0]["median"])
        limits = {
            "limit: memory traffic of a step": 4 * TRIPS * params / rates["copy"] * 1e-3,
            "limit: products in TF32": 2 * multiply_adds(128, 64) / rates["products, TF32"] * 1e-6,
            "limit: products in float32": 2 * multiply_adds(128, 64) / rates["products, float32"] * 1e-6,
        }
        for name, value in limits.items():
            values = np.array([value])
            yield row("ensemble, whole fit", problem.label, name, values, "us", values / ours)


def memory(effort: Effort) -> Iterator[dict]:
    """A member's memory, and how many are trained side by side where there is little, which is made up."""
    few, members = (2, 4) if effort.quick else (1024, 4096)
    of_one = process("memory", few, members)["of_a_member"]
    yield single("ensemble, memory", f"of a member, {few} to {members}", of_one, "times its parameters")
    share = SMALL / torch.cuda.get_device_properties(0).total_memory if GPU else 1
    small = {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{share:.6f}"}
    told = process("limited", members, **small)
    what, label = f"in {told['bytes'] / 1e9:.3g} GB, made up", {"members": members}
    yield single("ensemble, memory", f"side by side {what}", told["side_by_side"], "members", label)
    yield single("ensemble, memory", f"until the end of an epoch {what}", told["seconds"], "s", label)


def ceilings(effort: Effort) -> Iterator[tuple[str, float, str]]:
    """What the device reaches: bytes read and written by a copy, and products, one large or many small."""
    size = 2**16 if effort.quick else 2**29
    numbers = torch.ones(2, size, device=TORCH_DEVICE)
    yield "copy", 8 * size / _best(lambda: numbers[0].copy_(numbers[1])) * 1e-9, "GB/s"
    width, many = (256, 4) if effort.quick else (8192, 1024)
    large = torch.randn(width, width, device=TORCH_DEVICE)
    rows = torch.randn(many, 64, 128, device=TORCH_DEVICE)
    weights = torch.randn(many, 128, 128, device=TORCH_DEVICE)
    for precision in ("TF32", "float32"):
        with products(precision):
            one = 2 * width**3 / _best(lambda: large @ large) * 1e-12
            batch = 2 * many * 64 * 128**2 / _best(lambda: rows @ weights) * 1e-12
        yield f"products, {precision}", max(one, batch), "TFLOP/s"
        yield f"products of a step, {precision}", batch, "TFLOP/s"


def _best(function: Callable[[], object]) -> float:
    """The median time of a call, of many calls in a row."""

    def several() -> None:
        for _ in range(10):
            function()
        if GPU:
            torch.cuda.synchronize()

    several()
    return float(np.median([seconds(several) for _ in range(5)])) / 10
