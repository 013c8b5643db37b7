"""Shapley values of mean and std
==============================

Why is this prediction so high, and why so unsure? Shapley values say by how much each feature moves the mean,
and the std, of one row away from the average. With three features there are eight sets of them, so the values
can be computed exactly. For many features ``examples/shap_values.py`` has the ``shap`` package sample them.
"""

from itertools import combinations
from math import factorial

import matplotlib.pyplot as plt
import numpy as np

from jaxreg import DeepEnsembleRegressor

NAMES = ["area (m²)", "age (years)", "distance (km)"]
rng = np.random.default_rng(0)
x = np.column_stack([rng.uniform(40, 160, 576), rng.uniform(0, 80, 576), rng.uniform(0, 20, 576)])
price = 3 * x[:, 0] - 1.5 * x[:, 1] + (10 + 3 * x[:, 2]) * rng.normal(size=576)
model = DeepEnsembleRegressor(
    members=3, hidden=(64,), epochs=100, noise=1, frequency_scale=0.25, random_state=0
).fit(x[:512], price[:512])

# %%
# A feature that isn't in the set takes its values from other rows, the background. Lundberg & Lee 2017, "A
# unified approach to interpreting model predictions".


def value_of(known: tuple[int, ...], rows: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Mean and std of each row, ``(rows, 2)``, if only some features are known."""
    mixed = np.tile(background, (len(rows), 1, 1))
    mixed[:, :, known] = rows[:, None, known]
    predicted = np.stack(model.predict(mixed.reshape(-1, rows.shape[1]), return_std=True), axis=-1)
    return predicted.reshape(len(rows), len(background), 2).mean(axis=1)


def shapley(rows: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Shapley values ``(rows, features, 2)``: what a feature adds, averaged over the orders of features."""
    d = rows.shape[1]
    sets = [known for size in range(d + 1) for known in combinations(range(d), size)]
    value = {known: value_of(known, rows, background) for known in sets}
    found = np.zeros((len(rows), d, 2))
    for i in range(d):
        for known in (known for known in sets if i not in known):
            share = factorial(len(known)) * factorial(d - len(known) - 1) / factorial(d)
            found[:, i] += share * (value[tuple(sorted((*known, i)))] - value[known])
    return found


# %%
# The values of a row add up to its prediction less the mean prediction of the background.

rows, background = x[512:], x[:64]
values = shapley(rows, background)
whole = value_of((0, 1, 2), rows, background) - value_of((), rows, background)
print(f"largest difference of the sums: {np.abs(values.sum(axis=1) - whole).max():.1e}")

# %%
# Each point is a row. The area moves the mean most, and the distance the std.

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
shift = np.random.default_rng(1).uniform(-0.2, 0.2, len(rows))
for k, (ax, what) in enumerate(zip(axes, ["mean", "std"], strict=True)):
    for i in range(3):
        rank = rows[:, i].argsort().argsort() / (len(rows) - 1)
        points = ax.scatter(values[:, i, k], i + shift, c=rank, s=14, cmap="viridis")
    ax.axvline(0, color="0.6", linewidth=1, zorder=0)
    ax.set(xlabel=f"Shapley value of the {what} (thousand euros)", yticks=range(3))
axes[0].set_yticklabels(NAMES)
axes[0].invert_yaxis()
bar = figure.colorbar(points, ax=axes, label="feature, from its lowest value to its highest", ticks=[])
