"""The notebook's two networks, under its own state_dict names."""

import torch
from torch import nn
from torch.nn import functional


class MeanVarRegressor(nn.Module):
    """A mean and a variance for each input (heteroscedastic)."""

    def __init__(self, in_dim: int = 1, hidden: int = 128, outputs: int | None = None):
        super().__init__()
        self.outputs = outputs
        self.shared = nn.Sequential(
            nn.Linear(in_dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.mu_head = nn.Linear(hidden, outputs or 1)
        self.logvar_head = nn.Linear(hidden, outputs or 1)
        nn.init.constant_(self.logvar_head.bias, -1.0)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean and the log variance, `(n,)` each, or `(n, outputs)`."""
        features = self.shared(x)
        mean = self.mu_head(features)
        log_var = torch.log(functional.softplus(self.logvar_head(features)) + 1e-6)
        return (mean[:, 0], log_var[:, 0]) if self.outputs is None else (mean, log_var)


class MeanOnlyRegressor(nn.Module):
    """A mean for each input, one learned log variance per output (homoscedastic)."""

    def __init__(self, in_dim: int = 1, hidden: int = 128, outputs: int | None = None):
        super().__init__()
        self.outputs = outputs
        self.net = nn.Sequential(
            nn.Linear(in_dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, outputs or 1),
        )
        self.log_var = nn.Parameter(torch.zeros(() if outputs is None else (outputs,)))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean and the log variance, `(n,)` each, or `(n, outputs)`."""
        mean = self.net(x)
        if self.outputs is None:
            mean = mean[:, 0]
        return mean, self.log_var.expand(mean.shape)


@torch.no_grad()
def predict(model: nn.Module, x: torch.Tensor, z: float = 1.959963984540054) -> tuple[torch.Tensor, ...]:
    """Mean, standard deviation, and the bounds of the 95 % interval."""
    mean, log_var = model(x)
    std = torch.exp(0.5 * log_var)
    return mean, std, mean - z * std, mean + z * std
