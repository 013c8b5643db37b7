"""A gap in the data
=================

An ensemble parts its std into two. The aleatoric std is the noise that its members predict. The epistemic std
is how far their means disagree: it grows where there are no rows to learn from.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np

from jaxreg import MeanVarRegressor, adamw, data, fit_ensemble, make_trainer, plots, predict_ensemble

rng = np.random.default_rng(0)
x = np.concatenate([rng.uniform(-3, -0.5, 128), rng.uniform(1, 3, 128)])[:, None]
y = np.sin(2 * x[:, 0]) + 0.15 * rng.normal(size=len(x))

# %%
# All members see the same rows. They begin with other weights and see the rows in another order.

model = MeanVarRegressor(hidden=(64, 64))
trainer = make_trainer(model, adamw(1e-2, weight_decay=1e-3, steps=1200))
states, _ = fit_ensemble(jax.random.key(1), trainer, (x, y), members=8, epochs=300, batch_size=64)
grid = data.grid(x, n=200, margin=0.1)
prediction = predict_ensemble(model, states.params, grid)

# %%
# The dashed lines in the upper picture show how wide the interval would be without the disagreement.

figure, (above, below) = plt.subplots(2, 1, figsize=(7, 6), layout="constrained", sharex=True)
plots.band(grid, prediction, train=(x, y), labels=("", "y"), ax=above)
below.plot(grid[:, 0], prediction.aleatoric, label="aleatoric")
below.plot(grid[:, 0], prediction.epistemic, "--", label="epistemic")
below.axhline(0.15, linestyle=":", color="0.4", label="std of the true noise")
below.axvspan(-0.5, 1, color="0.93", zorder=0, label="gap")
below.set(xlabel="x", ylabel="std, in units of y", ylim=(0, None))
legend = below.legend(fontsize="small")

# %%
# The epistemic std is larger in the gap and beyond the ends. How large it is there depends on the network and
# on how it starts: it says that rows are missing, not how wrong the mean is.

inside = (grid[:, 0] > -0.5) & (grid[:, 0] < 1)
near = (np.abs(grid[:, 0]) < 3) & ~inside
print(f"mean epistemic std in the gap:   {np.asarray(prediction.epistemic)[inside].mean():.3f}")
print(f"mean epistemic std with data:    {np.asarray(prediction.epistemic)[near].mean():.3f}")
