"""How far losses, gradients and steps on a GPU are from PyTorch's on the same one."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import torch_ref.losses
import torch_ref.training
from bench.gpu.common import products, single
from bench.speed import SGD, TORCH_DEVICE, Effort, Problem
from jaxreg import gaussian_nll
from jaxreg.model import torch_weights


def parity(effort: Effort) -> Iterator[dict]:
    """The largest differences from PyTorch on the same device."""
    for wide in (True, False):
        with jax.enable_x64(wide), products("float32"):
            dtype = np.float64 if wide else np.float32
            for what, value, bound in differences(dtype, steps=20 if effort.quick else 200):
                if wide and not value <= bound:
                    raise AssertionError(f"{what} in {dtype.__name__} differs by {value:.1e} from PyTorch's")
                yield single("largest difference from PyTorch", what, value, dtype.__name__)


def differences(dtype: type, steps: int) -> Iterator[tuple[str, float, float]]:
    """What is compared, by how much it differs, and by how much it may in float64."""
    rng = np.random.default_rng(0)
    mean, log_var = rng.normal(size=20_000), rng.uniform(-30, 30, 20_000)
    y = mean + rng.normal(size=20_000) * np.exp(0.5 * log_var)
    given = [a.astype(dtype) for a in (y, mean, log_var)]
    tensors = [torch.tensor(a, device=TORCH_DEVICE) for a in given]
    for tensor in tensors[1:]:
        tensor.requires_grad_()
    theirs = torch_ref.losses.gaussian_nll(*tensors)
    theirs.sum().backward()
    yield "gaussian_nll", _apart(jax.jit(gaussian_nll)(*given), theirs), 1e-12
    gradients = jax.grad(lambda *a: gaussian_nll(*a).sum(), (1, 2))(*given)
    for name, gradient, tensor in zip(("mean", "log_var"), gradients, tensors[1:], strict=True):
        yield f"gaussian_nll, gradient by {name}", _apart(gradient, tensor.grad), 1e-12

    problem = Problem(128, 64, 1)
    x, y = (a.astype(dtype) for a in problem.rows)
    module = problem._module(problem.keys[0]).to(getattr(torch, dtype.__name__))
    optimizer = torch_ref.training.sgd(module, *SGD)
    state = problem.trainer.init(problem.keys[0], x)
    params = torch_weights.from_state_dict(problem.model, module.state_dict())
    state = state._replace(params=jax.tree.map(lambda a: jnp.asarray(a, dtype), params))
    order = np.concatenate([rng.permutation(len(x)) for _ in range(steps // problem.steps + 1)])
    losses = []
    for i in range(steps):
        rows = order[64 * i : 64 * (i + 1)]
        batch = [torch.tensor(a[rows], device=TORCH_DEVICE) for a in (x, y)]
        ours, theirs = (
            problem.trainer.step(state, (x[rows], y[rows])),
            torch_ref.training.step(module, optimizer, *batch),
        )
        state = ours[0]
        losses.append(abs(float(ours[1]) - theirs.item()))
        if i + 1 in (10, steps):
            weights = torch_weights.to_state_dict(problem.model, jax.device_get(state.params))
            own = module.state_dict()
            apart = max(_apart(value, own[name]) for name, value in weights.items())
            yield f"parameters after {i + 1} steps", apart, 1e-9
    yield f"loss, any of {steps} steps", max(losses), 1e-9


def _apart(ours: Any, theirs: torch.Tensor) -> float:
    """The largest difference, beside the size of the number or 1, whichever is larger."""
    ours, theirs = np.asarray(ours, np.float64), theirs.detach().cpu().numpy().astype(np.float64)
    return float(np.max(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1)))
