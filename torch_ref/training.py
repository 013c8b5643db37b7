"""The notebook's training loops."""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torch_ref.losses import gaussian_nll


def sgd(
    model: nn.Module, learning_rate: float = 5e-3, momentum: float = 0.9, weight_decay: float = 1e-4
) -> torch.optim.SGD:
    """PyTorch's SGD with the notebook's numbers."""
    return torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum, weight_decay=weight_decay)


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """One step on one batch; returns the loss before it."""
    optimizer.zero_grad()
    loss = gaussian_nll(y, *model(x)).mean()
    loss.backward()
    optimizer.step()
    return loss.detach()


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[torch.Tensor, torch.Tensor],
    *,
    epochs: int,
    batch_size: int | None = None,
    after_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> list[float]:
    """Train from a shuffling DataLoader or on all rows at once; return each epoch's NLL."""
    if batch_size is None:
        batches: Iterable = [data]
    else:
        batches = DataLoader(TensorDataset(*data), batch_size=batch_size, shuffle=True)
    history = []
    for epoch in range(epochs):
        total = sum(step(model, optimizer, x, y).item() * len(x) for x, y in batches)
        history.append(total / len(data[0]))
        after_epoch(epoch, history[-1])
    return history


def fit_in_order(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[torch.Tensor, torch.Tensor],
    *,
    orders: Iterable[torch.Tensor],
    batch_size: int,
) -> torch.Tensor:
    """Train on given permutations of the rows, one for each epoch; return each epoch's NLL."""
    x, y = data
    history = []
    for order in orders:
        losses = [step(model, optimizer, x[rows], y[rows]) * len(rows) for rows in order.split(batch_size)]
        history.append(torch.stack(losses).sum() / len(x))
    return torch.stack(history)
