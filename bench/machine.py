"""What the machine is and what it can do: versions, device, compilations, the limits of a training step."""

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

from jaxreg.machine import cores

LARGE = 2048
PRODUCTS = 200
GPU = jax.default_backend() == "gpu" and torch.cuda.is_available()


def versions() -> dict[str, str]:
    """Columns that every row of a result carries."""
    modules = {"jax": jax, "flax": flax, "optax": optax, "torch": torch}
    found = {"python": platform.python_version()}
    return found | {name: module.__version__ for name, module in modules.items()} | {"device": device()}


def device() -> str:
    """The accelerator, or the processor and its cores."""
    if GPU:
        return jax.devices()[0].device_kind
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {cores()} cores"


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def count_compilations(function: Callable[[], object]) -> int:
    """How many programs XLA compiled during a call."""
    found, listening = [], True

    def listen(event: str, duration: float, **_: object) -> None:
        if listening and event == "/jax/core/compile/backend_compile_duration":
            found.append(duration)

    # Some versions of JAX can't unregister a listener.
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        function()
    finally:
        listening = False
    return len(found)


def multiply_adds(width: int, rows: int) -> int:
    """Multiply-adds of a step of a network 1-width-width-2: forward once, backward twice."""
    return 3 * rows * (width * width + 2 * width) + 2 * rows * width


class Limit:
    """The rate of matrix products that the machine reaches, on one core or on all of them.

    It is the best rate of a large product and of a step's own products (rows x width x width, one after
    another on each core), by PyTorch or XLA, in float32. On a GPU, all products are one batch.
    """

    def __init__(self, width: int, rows: int, members: int):
        self.width, self.rows, self.members = width, rows, members
        x, w = jnp.ones((rows, width)), jnp.eye(width)
        chain = (
            jax.jit(lambda x, w: jax.lax.fori_loop(0, PRODUCTS, lambda _, x: x @ w, x)).lower(x, w).compile()
        )
        self._chain = lambda _=None: chain(x, w).block_until_ready()
        place = "cuda" if GPU else "cpu"
        self._large = torch.ones(LARGE, LARGE, device=place), torch.ones(LARGE, LARGE, device=place)
        self._small = torch.ones(rows, width), torch.ones(width, width), torch.empty(rows, width)
        many = max(members, 16)
        self._batch = (
            torch.ones(many, rows, width, device=place),
            torch.ones(many, width, width, device=place),
        )

    def rate(self) -> float:
        """Multiply-adds per second: of one core for one network, else of all."""
        large, small = LARGE**3, self.rows * self.width**2
        if GPU:
            batch = small * len(self._batch[0])
            return max(large / _median(self._torch_large), batch / _median(self._torch_batch))
        if self.members == 1:
            torch.set_num_threads(1)
            rates = [small * PRODUCTS / _median(f) for f in (self._chain, self._torch_small)]
            return max(large / _median(self._torch_large), *rates)
        torch.set_num_threads(cores())
        with ThreadPoolExecutor(cores()) as pool:
            together = _median(lambda: list(pool.map(self._chain, range(cores()))))
        batch = small * len(self._batch[0]) / _median(self._torch_batch)
        return max(large / _median(self._torch_large), small * PRODUCTS * cores() / together, batch)

    def microseconds(self) -> float:
        """The time of a member's step if it consisted of its products alone."""
        return multiply_adds(self.width, self.rows) / self.rate() * 1e6

    def _torch_large(self) -> None:
        torch.mm(*self._large)
        _wait()

    def _torch_batch(self) -> None:
        torch.bmm(*self._batch)
        _wait()

    def _torch_small(self) -> None:
        a, b, out = self._small
        for _ in range(PRODUCTS):
            torch.mm(a, b, out=out)


def _wait() -> None:
    if GPU:
        torch.cuda.synchronize()


def _median(function: Callable[[], object]) -> float:
    function()
    return float(np.median([seconds(function) for _ in range(3)]))
