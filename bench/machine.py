"""What the machine can do, and what it is: the limits that times are compared with, versions and device."""

import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

LARGE = 2048


def versions() -> dict[str, str]:
    """Columns that every row of a result carries."""
    modules = {"jax": jax, "flax": flax, "optax": optax, "torch": torch}
    found = {"python": platform.python_version()}
    found |= {name: module.__version__ for name, module in modules.items()}
    return found | {"device": device()}


def device() -> str:
    """The accelerator, or the processor and its cores."""
    if jax.default_backend() != "cpu":
        return jax.devices()[0].device_kind
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} cores"


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def multiply_adds(widths: tuple[int, ...], rows: int) -> int:
    """Multiply-adds of a training step: each weight forward, and backward twice but in the first layer.

    Args:
        widths: features, hidden widths, and 2 for the two heads.
        rows: rows of the batch.
    """
    forward = [rows * a * b for a, b in zip(widths, widths[1:], strict=False)]
    return 3 * sum(forward) - forward[0]


def matmul_rates(rows: int, width: int, cores: int) -> dict[str, float]:
    """Multiply-adds per second of a large product and of a step's own, on one core and on all.

    The best of PyTorch's and XLA's products counts, in float32.
    """
    torch.set_num_threads(1)
    rates = {
        "large, one core": _torch_rate(LARGE, LARGE, 1),
        "small, one core": _torch_rate(rows, width, 200),
    }
    chain = _jax_chain(rows, width)
    rates["small, one core"] = max(rates["small, one core"], _rate(rows, width, 200, chain))
    torch.set_num_threads(cores)
    rates["large, all cores"] = _torch_rate(LARGE, LARGE, 1)
    with ThreadPoolExecutor(cores) as pool:
        together = _rate(rows, width, 200, lambda: list(pool.map(lambda _: chain(), range(cores))))
    batched = _torch_batched_rate(rows, width, 16 * cores)
    rates["small, all cores"] = max(cores * together, batched, rates["small, one core"])
    return rates


def _rate(rows: int, width: int, repeats: int, function: Callable[[], object]) -> float:
    function()
    return rows * width * width * repeats / np.median([seconds(function) for _ in range(5)])


def _torch_rate(rows: int, width: int, repeats: int) -> float:
    a, b, out = torch.randn(rows, width), torch.randn(width, width), torch.empty(rows, width)

    def products() -> None:
        for _ in range(repeats):
            torch.mm(a, b, out=out)

    return _rate(rows, width, repeats, products)


def _torch_batched_rate(rows: int, width: int, batch: int) -> float:
    a, b = torch.randn(batch, rows, width), torch.randn(batch, width, width)
    return _rate(rows, width, batch, lambda: torch.bmm(a, b))


def _jax_chain(rows: int, width: int) -> Callable[[], object]:
    """200 products one after another in one program."""
    x, w = jnp.ones((rows, width)), jnp.eye(width)
    run = jax.jit(lambda x, w: jax.lax.fori_loop(0, 200, lambda _, x: x @ w, x)).lower(x, w).compile()
    return lambda: run(x, w).block_until_ready()
