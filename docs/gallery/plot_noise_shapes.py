"""Noise that is no Gaussian
=========================

Noise may be skewed, heavy-tailed, or have two humps. A network that predicts a mixture of Gaussians for each
row learns such a shape; a network that predicts one Gaussian can't.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from jaxreg import MeanVarRegressor, MixtureRegressor, adamw, fit, make_trainer, metrics, predict

rows, at = 4096, 0.5
densities = {
    "skewed": stats.gamma(1.5, loc=-1, scale=0.7).pdf,
    "heavy-tailed": stats.t(2.5, scale=0.4).pdf,
    "two humps": lambda e: 0.3 * stats.norm.pdf(e, -1, 0.3) + 0.7 * stats.norm.pdf(e, 1, 0.3),
}


def sample(shape: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A sine wave with noise of a shape, whose size grows with x."""
    rng, values = np.random.default_rng(seed), np.linspace(-20, 20, 8001)
    probability = densities[shape](values)
    noise = rng.choice(values, rows, p=probability / probability.sum())
    x = rng.uniform(-1, 1, (rows, 1))
    return x, np.sin(3 * x[:, 0]) + (1 + 0.5 * x[:, 0]) * noise


# %%
# The data sets have equal shapes, so each model is compiled once and trained three times.

epochs, batch_size = 50, 128
optimizer = adamw(3e-3, steps=epochs * rows // batch_size)
models = {
    "one Gaussian": MeanVarRegressor(hidden=(32, 32)),
    "four Gaussians": MixtureRegressor(components=4, hidden=(32, 32)),
}
values = np.linspace(-2.5, 5, rows)
figure, axes = plt.subplots(1, 3, figsize=(9, 3.6), layout="constrained", sharey=True)
for ax, (shape, density) in zip(axes, densities.items(), strict=True):
    size = 1 + 0.5 * at
    ax.fill_between(values, density((values - np.sin(3 * at)) / size) / size, color="0.85", label="truth")
    for i, (name, model) in enumerate(models.items()):
        state, _ = fit(
            0, make_trainer(model, optimizer), sample(shape, 0), epochs=epochs, batch_size=batch_size
        )
        dist = predict(model, state.params, np.full((len(values), 1), at))
        ax.plot(values, np.exp(dist.log_prob(values)), f"C{i}", label=name, linestyle=["--", "-"][i])
        x, y = sample(shape, 1)
        prediction = predict(model, state.params, x)
        print(f"{shape}, {name}: CRPS of fresh rows {metrics.crps(prediction, y):.4f}")
    ax.set(title=shape, xlabel="y")
axes[0].set_ylabel(f"density at x = {at}")
legend = axes[0].legend(fontsize="small")
