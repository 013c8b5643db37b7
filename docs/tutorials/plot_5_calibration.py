"""
Calibration, and what it guarantees
===================================

Intervals of a model may hold fewer values than they say. Held-out rows show by how much, and correct it: by
one factor, by other levels, or with a guarantee that holds whatever the model.
"""

# %%
# A model that is too sure of itself
# ----------------------------------
#
# One network that is trained for long on few rows takes its noise for smaller than it is. Three sets of
# rows are needed: to train, to calibrate, and to test what came of it.

import jax
import matplotlib.pyplot as plt
import numpy as np

from jaxreg import MeanVarRegressor, data, fit, isotonic, make_trainer, metrics, plots, predict, sgd
from jaxreg.calibration import SplitConformal, VarianceScaling

x, y = data.sinusoid(jax.random.key(0), 60)
x_held, y_held = data.sinusoid(jax.random.key(1), 200)
x_test, y_test = map(np.asarray, data.sinusoid(jax.random.key(2), 2000))

model = MeanVarRegressor(hidden=(64, 64))
trainer = make_trainer(model, sgd(5e-3, momentum=0.9))
state, _ = fit(0, trainer, (x, y), epochs=1000, batch_size=60)
held, test = (predict(model, state.params, rows) for rows in (x_held, x_test))
print(f"90 % intervals hold {metrics.coverage(test, y_test, level=0.9):.2f} of new values")

# %%
# Three corrections
# -----------------
#
# ``VarianceScaling`` multiplies every variance by one factor. ``isotonic`` asks for other levels.
# ``SplitConformal`` widens each interval by a quantile of the held-out errors, each divided by its
# predicted std. All are fitted to predictions of the same held-out rows.

corrections = {
    "as it came": lambda dist: dist,
    "one factor": VarianceScaling.fit(held, y_held),
    "other levels": isotonic.fit(held, y_held),
    "conformal": SplitConformal.fit(held, y_held),
}
levels = np.linspace(0.05, 0.95, 19)
fig, ax = plt.subplots(figsize=(6, 5))
ax.plot([0, 1], [0, 1], "--", color="0.6")
for name, correct in corrections.items():
    inside = []
    for level in levels:
        lower, upper = correct(test).interval(level)
        inside.append(np.mean((lower <= y_test) & (y_test <= upper)))
    ax.plot(levels, inside, label=name)
ax.set(xlabel="level asked for", ylabel="share of new values inside")
ax.legend()

# %%
# What is guaranteed
# ------------------
#
# The conformal interval holds a new value with a probability of at least its level, on average over rows
# and over the draw of the held-out rows, if these and the new rows are exchangeable. It says nothing of
# single rows or groups. So it can be right on average and wrong in the middle:

dist = corrections["conformal"](test)
lower, upper = dist.interval(0.9)
inside = (lower <= y_test) & (y_test <= upper)
edges = np.linspace(x_test.min(), x_test.max(), 9)
bins = np.clip(np.digitize(x_test[:, 0], edges) - 1, 0, 7)
fig, ax = plt.subplots(figsize=(7, 3.5))
ax.bar(range(8), [inside[bins == i].mean() for i in range(8)])
ax.axhline(0.9, color="k", linestyle="--", label="level asked for")
ax.set_xticks(range(8), [f"{left:.1f}" for left in edges[:-1]])
ax.set(xlabel="x, from", ylabel="share inside")
ax.legend(loc="lower right")
print(f"inside on average: {inside.mean():.2f}")

# %%
# How many rows does it take?
# ---------------------------
#
# With ``n`` held-out rows the share inside varies from one draw of them to the next, by a standard
# deviation of about ``sqrt(0.9 * 0.1 / n)`` at a level of 0.9. A level needs ``n + 1 >= 1 / (1 - level)``
# rows, 9 at 0.9: an error says so where there are fewer.

for n in (20, 50, 200):
    shares = []
    for i in range(0, 2000 - n, n)[:20]:
        fitted = SplitConformal.fit(predict(model, state.params, x_test[i : i + n]), y_test[i : i + n])
        lower, upper = fitted(held).interval(0.9)
        shares.append(np.mean((lower <= y_held) & (y_held <= upper)))
    print(f"{n} rows: {np.mean(shares):.2f}, give or take {np.std(shares):.2f}")
fig, ax = plt.subplots(figsize=(6, 4))
plots.reliability(corrections["other levels"](test), y_test, ax=ax)
