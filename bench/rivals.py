"""What a user would write in PyTorch instead: each trains the same networks on the same batches.

Every rival is a class whose `run(orders)` trains on given permutations of the rows, `(epochs, members, n)`,
an array or a tensor on the rows' device, and returns the mean loss of the last epoch's steps, weighted by
rows, `(members,)`.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, TensorDataset

import torch_ref.training
from torch_ref.losses import gaussian_nll

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 5e-3, 0.9, 1e-4


class Rival:
    """Base class: a module for each member, and the rows."""

    name: str

    def __init__(
        self,
        modules: list[torch.nn.Module],
        data: tuple[torch.Tensor, torch.Tensor],
        batch_size: int,
        backend: str = "inductor",
    ):
        self.modules = [copy.deepcopy(module) for module in modules]
        self.data, self.batch_size, self.backend = data, batch_size, backend
        numbers = LEARNING_RATE, MOMENTUM, WEIGHT_DECAY
        self.optimizers = [torch_ref.training.sgd(module, *numbers) for module in self.modules]

    def run(self, orders: np.ndarray | torch.Tensor) -> np.ndarray:
        """Train for `len(orders)` epochs; each member's loss in the last."""
        raise NotImplementedError


class Notebook(Rival):
    """The notebook's loop: a DataLoader, eager steps, `.item()` after each, one member after another."""

    name = "notebook's loop"

    def run(self, orders: np.ndarray | torch.Tensor) -> np.ndarray:
        """Each epoch's order is handed to the DataLoader as its sampler, which costs less than shuffling."""
        rows = TensorDataset(*self.data)
        last = []
        for i, (module, optimizer) in enumerate(zip(self.modules, self.optimizers, strict=True)):
            for order in orders[:, i].tolist():
                total = 0.0
                for x, y in DataLoader(rows, batch_size=self.batch_size, sampler=order):
                    total += torch_ref.training.step(module, optimizer, x, y).item() * len(x)
            last.append(total / len(rows))
        return np.array(last)


class Eager(Rival):
    """Eager steps on rows picked from the tensors, one member after another."""

    name = "PyTorch eager step"

    def run(self, orders: np.ndarray | torch.Tensor) -> np.ndarray:
        """One member after another."""
        x, y = self.data
        last = []
        for i, (module, optimizer) in enumerate(zip(self.modules, self.optimizers, strict=True)):
            for order in _on_device(orders[:, i], x):
                total = 0.0
                for rows in order.split(self.batch_size):
                    total += torch_ref.training.step(module, optimizer, x[rows], y[rows]) * len(rows)
            last.append(total / len(x))
        return torch.stack(last).cpu().numpy()


class Functional(Rival):
    """`torch.func`: the members stacked, their gradients by vmap over grad, SGD on the stacked tensors."""

    name = "torch.func"

    def __init__(self, *arguments: object, **settings: object):
        super().__init__(*arguments, **settings)
        params, _ = stack_module_state(self.modules)
        self.state = _start(params)
        self.step = self.compile(_step(self.modules[0], vectorised=True))

    def compile(self, step: Callable) -> Callable:
        """Eager."""
        return step

    def run(self, orders: np.ndarray | torch.Tensor) -> np.ndarray:
        """All members at once."""
        x, y = self.data
        for order in _on_device(orders, x):
            total = 0.0
            for rows in order.split(self.batch_size, dim=1):
                *self.state, losses = self.step(*self.state, x[rows], y[rows])
                total += losses * rows.shape[1]
        return (total / len(x)).cpu().numpy()


class CompiledFunctional(Functional):
    """The same step through `torch.compile`."""

    name = "torch.func, compiled"

    def compile(self, step: Callable) -> Callable:
        """With Inductor."""
        return torch.compile(step, dynamic=False, backend=self.backend)


class CudaGraphs(Functional):
    """The same step through `torch.compile` with CUDA graphs."""

    name = "torch.func, compiled, CUDA graphs"

    def compile(self, step: Callable) -> Callable:
        """Copies what is returned, because a CUDA graph overwrites it."""
        fast = torch.compile(step, mode="reduce-overhead", dynamic=False)
        return lambda *arguments: tree_map(torch.clone, fast(*arguments))


class EpochGraph(CompiledFunctional):
    """The compiled step, an epoch of it captured as one CUDA graph, which writes over the state."""

    name = "torch.func, compiled, an epoch a CUDA graph"

    def __init__(self, *arguments: object, **settings: object):
        super().__init__(*arguments, **settings)
        members, n = len(self.modules), len(self.data[0])
        self.order = torch.arange(n, device=self.data[0].device).repeat(members, 1)
        self.total = torch.zeros(members, device=self.order.device)
        kept, stream = tree_map(torch.clone, self.state), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is captured has to have run before, on a stream of its own
            for _ in range(3):
                self._epoch()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._epoch()
        tree_map(lambda now, then: now.copy_(then), self.state, kept)

    def _epoch(self) -> None:
        x, y = self.data
        state, total = self.state, 0.0
        for rows in self.order.split(self.batch_size, dim=1):
            *state, losses = self.step(*state, x[rows], y[rows])
            total += losses * rows.shape[1]
        tree_map(lambda now, new: now.copy_(new), self.state, state)
        self.total.copy_(total)

    def run(self, orders: np.ndarray | torch.Tensor) -> np.ndarray:
        """All members at once."""
        for order in _on_device(orders, self.data[0]):
            self.order.copy_(order)
            self.graph.replay()
        return (self.total / len(self.data[0])).cpu().numpy()


class CompiledStep(Rival):
    """The step of one network through `torch.compile`, one member after another."""

    name = "PyTorch compiled step"

    def __init__(self, *arguments: object, **settings: object):
        super().__init__(*arguments, **settings)
        self.states = [_start(dict(module.named_parameters())) for module in self.modules]
        self.step = torch.compile(
            _step(self.modules[0], vectorised=False), dynamic=False, backend=self.backend
        )

    def run(self, orders: np.ndarray | torch.Tensor) -> np.ndarray:
        """One member after another."""
        x, y = self.data
        last = []
        for i, state in enumerate(self.states):
            for order in _on_device(orders[:, i], x):
                total = 0.0
                for rows in order.split(self.batch_size):
                    *state, loss = self.step(*state, x[rows], y[rows])
                    total += loss * len(rows)
            self.states[i] = state
            last.append(total / len(x))
        return torch.stack(last).cpu().numpy()


def _start(params: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Parameters and their velocity."""
    params = {name: value.detach().clone() for name, value in params.items()}
    return [params, {name: torch.zeros_like(value) for name, value in params.items()}]


def _step(module: torch.nn.Module, *, vectorised: bool) -> Callable:
    """A pure step of SGD with momentum, of one network or of stacked ones."""
    base = copy.deepcopy(module).to("meta")

    def loss(params: dict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return gaussian_nll(y, *functional_call(base, params, (x,))).mean()

    gradients = vmap(grad_and_value(loss)) if vectorised else grad_and_value(loss)

    def step(
        params: dict, velocity: dict, x: torch.Tensor, y: torch.Tensor
    ) -> tuple[dict, dict, torch.Tensor]:
        grads, losses = gradients(params, x, y)
        velocity = {k: MOMENTUM * velocity[k] + (grads[k] + WEIGHT_DECAY * p) for k, p in params.items()}
        return {k: p - LEARNING_RATE * velocity[k] for k, p in params.items()}, velocity, losses

    return step


def _on_device(orders: np.ndarray | torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if isinstance(orders, torch.Tensor):
        return orders
    return torch.from_numpy(np.array(orders, np.int64)).to(x.device)
