"""The notebook's data."""

import torch


def sinusoid(generator: torch.Generator, n: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """`y = sin(1.3 x) + Normal(0, 0.15 + 0.25 |x|)`, x uniform on [-3, 3]; shapes `(n, 1)` and `(n,)`."""
    x = 6 * torch.rand((n, 1), generator=generator) - 3
    sigma = 0.15 + 0.25 * x[:, 0].abs()
    return x, torch.sin(1.3 * x[:, 0]) + sigma * torch.randn(n, generator=generator)
