"""Validation and early stopping
=============================

A large network that is trained on few rows for long learns their noise. Rows that it isn't trained on show
when that begins. ``fit`` scores them after each epoch and returns the parameters of the best one.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np

from jaxreg import MeanVarRegressor, data, fit, make_trainer, metrics, plots, predict, sgd

train = data.sinusoid(jax.random.key(0), 64)
validation = data.sinusoid(jax.random.key(1), 256)
model = MeanVarRegressor()
trainer = make_trainer(model, sgd(5e-3))

# %%
# The first run does all epochs. The second has ``patience``: it stops after 200 epochs without a better
# score. If both find the same best epoch, they return the same parameters, and patience has saved time.

common = {"epochs": 900, "validation": validation}
_, whole = fit(jax.random.key(2), trainer, train, **common)
state, stopped = fit(jax.random.key(2), trainer, train, **common, patience=200)
print(f"epochs run: {np.isfinite(whole.loss).sum()} and {np.isfinite(stopped.loss).sum()}")
print(f"best epoch: {whole.best_epoch + 1} and {stopped.best_epoch + 1}")

# %%
# ``History`` has the training loss and the validation NLL of each epoch, NaN after a stop. Both fall at
# first. Then the loss goes on falling, and the validation NLL rises.

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
plots.history(whole, ax=ax)
end = np.isfinite(stopped.loss).sum()
ax.axvline(end, color="0.4", linestyle=":", label="patience is over")
ax.set_ylim(None, 1)
legend = ax.legend(fontsize="small")

# %%
# The best epoch was chosen by the validation rows, so its score of them is a little too good. Other rows give
# a score without that fault. ``metrics.nll`` is of the whole density. The loss and the validation NLL leave
# out its constant, ``0.5 log(2 pi)``.

fresh_x, fresh_y = data.sinusoid(jax.random.key(3), 2000)
nll = metrics.nll(predict(model, state.params, fresh_x), fresh_y)
print(f"best validation NLL: {stopped.validation_nll[stopped.best_epoch]:.3f}")
print(f"NLL of fresh rows: {nll:.3f}, without the constant {nll - 0.5 * np.log(2 * np.pi):.3f}")
