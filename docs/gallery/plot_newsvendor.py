"""How much to order: the newsvendor
=================================

A shop orders bread for the next day. A loaf that is missing costs 4 euros of profit. A loaf that is left over
costs 1 euro. The cheapest order isn't the mean of the demand but its quantile of the level
``missing / (missing + left over)``. A model of the mean alone can't give it.
"""

import matplotlib.pyplot as plt
import numpy as np

from jaxreg import DeepEnsembleRegressor

MISSING, LEFT_OVER = 4.0, 1.0


def sales(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Days by temperature, weekday and event, which makes demand larger and less certain."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.uniform(0, 30, n), rng.integers(0, 7, n), rng.uniform(size=n) < 0.3])
    mean = 100 + 2 * x[:, 0] + 30 * (x[:, 1] >= 5) + 60 * x[:, 2]
    return x, mean + np.where(x[:, 2] == 1, 50, 10) * rng.normal(size=n)


def cost(order: np.ndarray, demand: np.ndarray) -> float:
    """Mean cost of a day."""
    return float(np.mean(MISSING * np.maximum(demand - order, 0) + LEFT_OVER * np.maximum(order - demand, 0)))


# %%
# The model is trained once. ``predict_quantiles`` gives any number of orders for each day.

model = DeepEnsembleRegressor(
    members=3, hidden=(64,), epochs=100, noise=1, frequency_scale=0.25, numbers=[0, 1, 2], random_state=0
).fit(*sales(512, 0))
x, demand = sales(4000, 1)
levels = np.linspace(0.05, 0.95, 19)
orders = model.predict_quantiles(x, levels)
level = MISSING / (MISSING + LEFT_OVER)
mean, std = model.predict(x, return_std=True)
best = model.predict_quantiles(x, [level])[:, 0]

# %%
# A margin over the mean that is the same for all days is better than the mean alone. It is still too much on
# plain days and too little on days with an event.

margins = np.linspace(0, 60, 61)
margin = margins[np.argmin([cost(mean + each, demand) for each in margins])]
for name, order in {
    "mean": mean,
    f"mean + {margin:.0f}, the best margin in hindsight": mean + margin,
    f"quantile {level:.2f}": best,
}.items():
    print(f"{name}: {cost(order, demand):.1f} euros a day")

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.plot(levels, [cost(order, demand) for order in orders.T], "o-", label="a quantile of each day")
ax.axhline(cost(mean, demand), color="C1", linestyle="--", label="the mean of each day")
ax.axhline(cost(mean + margin, demand), color="C2", linestyle="-.", label="the mean and one margin")
ax.axvline(level, color="0.4", linestyle=":", label="missing / (missing + left over)")
ax.set(xlabel="level of the quantile that is ordered", ylabel="mean cost of a day (euros)", ylim=(0, None))
legend = ax.legend(fontsize="small")
