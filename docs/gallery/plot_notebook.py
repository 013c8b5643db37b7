"""Noise that depends on x, with two networks
==========================================

The data are a sine wave whose noise grows away from ``x = 0``. One network predicts a mean and a std for each
``x``; the other predicts a mean for each ``x`` and one std for all of them. Both draw a 95 % interval.
"""

import jax
import matplotlib.pyplot as plt

from jaxreg import MeanOnlyRegressor, MeanVarRegressor, data, fit, make_trainer, metrics, plots, predict, sgd

x, y = data.sinusoid(jax.random.key(0))
fresh_x, fresh_y = data.sinusoid(jax.random.key(1), 4000)

# %%
# ``make_trainer`` joins a model and an optimizer. Both networks have the same layers, the same optimizer and
# the same key, so only the head for the variance differs.

optimizer = sgd(5e-3, momentum=0.9, weight_decay=1e-4)
models = {"a std for each x": MeanVarRegressor(), "one std": MeanOnlyRegressor()}
params = {}
for name, model in models.items():
    state, _ = fit(jax.random.key(2), make_trainer(model, optimizer), (x, y), epochs=200, batch_size=64)
    params[name] = state.params

# %%
# The grid ends with the data: a single network knows nothing of what lies beyond them.

grid = data.grid(x, margin=0.0)
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
for ax, (name, model) in zip(axes, models.items(), strict=True):
    plots.band(grid, predict(model, params[name], grid), train=(x, y), title=name, ax=ax)
axes[0].set_ylim(-3, 4.5)
axes[1].get_legend().remove()

# %%
# Rows that neither network has seen tell which intervals are right. An interval of 95 % should hold 95 % of
# the values everywhere, near ``x = 0`` and away from it. One std for all gives intervals that are too wide in
# the middle and too narrow at the ends.

place = ["inner" if abs(value) < 1 else "outer" for value in fresh_x[:, 0].tolist()]
for name, model in models.items():
    prediction = predict(model, params[name], fresh_x)
    covered = metrics.coverage_by(prediction, fresh_y, place, level=0.95)
    shares = ", ".join(
        f"{share:.1%} of {part} rows" for part, share in zip(covered.names, covered.coverage, strict=True)
    )
    print(f"{name}: NLL {metrics.nll(prediction, fresh_y):.3f}; its 95 % intervals hold {shares}")
