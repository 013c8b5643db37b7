"""Several targets, some missing
=============================

Three quantities were to be measured in each row. The third is expensive and was measured in a quarter of the
rows. A row with some of its targets still helps: ``DeepEnsembleRegressor`` takes NaN in ``y`` for a target
that is missing, and learns from the others.
"""

import matplotlib.pyplot as plt
import numpy as np

from jaxreg import DeepEnsembleRegressor, metrics

NAMES = ["first", "second", "third"]


def measured(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets that depend on the same unknown curve of x, each in its own way and with its own noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 3, (n, 1))
    curve = np.sin(2 * x) + 0.3 * x
    return x, curve * [1.0, -2.0, 10.0] + [0, 5, 100] + rng.normal(size=(n, 3)) * [0.15, 0.3, 2.0]


x, y = measured(256, 0)
rng = np.random.default_rng(1)
y[rng.uniform(size=256) < 0.75, 2] = np.nan
y[rng.uniform(size=256) < 0.2, 0] = np.nan
# %%
# One model learns from all rows, the other from the rows that have all three targets.

settings = {
    "members": 3,
    "hidden": (64,),
    "epochs": 100,
    "noise": 1,
    "frequency_scale": 0.25,
    "random_state": 0,
}
complete = np.isfinite(y).all(axis=1)
models = {
    f"all {len(x)} rows": DeepEnsembleRegressor(**settings).fit(x, y),
    f"{complete.sum()} complete rows": DeepEnsembleRegressor(**settings).fit(x[complete], y[complete]),
}
fresh_x, fresh_y = measured(1000, 2)
for name, model in models.items():
    scores = metrics.crps(model.predict_dist(fresh_x), fresh_y)
    told = ", ".join(f"{target} {score:.3f}" for target, score in zip(NAMES, scores, strict=True))
    print(f"learned from {name}: CRPS of {told}")

# %%
# Predictions have an axis of targets. The points are the values that were there to learn from.

grid = np.linspace(-3, 3, 1000)[:, None]
model = models[f"all {len(x)} rows"]
mean, (lower, upper) = model.predict(grid), model.predict_interval(grid, level=0.9)
figure, axes = plt.subplots(1, 3, figsize=(9, 3.6), layout="constrained")
for i, ax in enumerate(axes):
    ax.scatter(x[:, 0], y[:, i], s=8, alpha=0.5, label="measured")
    ax.plot(grid[:, 0], mean[:, i], color="C1", label="mean")
    ax.fill_between(grid[:, 0], lower[:, i], upper[:, i], color="C1", alpha=0.25, label="90 % interval")
    ax.set(title=f"{NAMES[i]}: {np.isfinite(y[:, i]).sum()} values", xlabel="x", ylabel="y")
legend = axes[0].legend(fontsize="small")
