"""
Ensembles, sweeps, and what a member is
=======================================

Many networks train at once, as one compiled program. Each of them is the fit of one network with a key of
its own.
"""

# %%
# What a member is
# ----------------
#
# Eight members differ in their keys, which give their first weights and the order of their rows.

import jax
import matplotlib.pyplot as plt
import numpy as np

from jaxreg import (
    MeanVarRegressor,
    data,
    fit,
    fit_ensemble,
    make_trainer,
    metrics,
    plots,
    predict_ensemble,
    sgd,
)

x, y = data.sinusoid(jax.random.key(0))
held_out = data.sinusoid(jax.random.key(1))
model = MeanVarRegressor(hidden=(64, 64))
trainer = make_trainer(model, sgd(5e-3, momentum=0.9))
settings = {"epochs": 100, "batch_size": 64}

key = jax.random.key(2)
states, history = fit_ensemble(key, trainer, (x, y), members=8, **settings)
print(history.loss.shape)  # members, epochs

# %%
# Every leaf of ``states`` has a leading axis of members. The third member is the fit of the third key:

one, _ = fit(jax.random.split(key, 8)[2], trainer, (x, y), **settings)
third = jax.tree.map(lambda leaf: leaf[2], states.params)
difference = jax.tree.map(lambda a, b: np.max(np.abs(np.asarray(a) - np.asarray(b))), one.params, third)
print(f"largest difference: {max(jax.tree.leaves(difference)):.1e}")

# %%
# Together
# --------
#
# The prediction is the exact mixture of the members' Gaussians. Its variance has two parts: the noise
# that members see, and how far they disagree.

grid = np.linspace(-6, 6, 200)[:, None]
together = predict_ensemble(model, states.params, grid)
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
plots.band(grid, together, train=(x, y), ax=left)
right.plot(grid[:, 0], together.aleatoric, label="aleatoric")
right.plot(grid[:, 0], together.epistemic, label="epistemic")
right.set(xlabel="x", ylabel="std")
right.legend()

# %%
# How many members?
# -----------------
#
# The score of the first members of the ensemble says whether more would help.

counts = range(1, 9)
crps = [
    metrics.crps(
        predict_ensemble(model, jax.tree.map(lambda leaf, n=n: leaf[:n], states.params), held_out[0]),
        held_out[1],
    )
    for n in counts
]
fig, ax = plt.subplots(figsize=(7, 3.5))
ax.plot(counts, crps, "o-")
ax.set(xlabel="members", ylabel="CRPS of new rows")

# %%
# Members with numbers of their own
# ---------------------------------
#
# Learning rate, momentum and weight decay may differ from member to member. So a sweep is an ensemble
# too: it compiles once, whatever the number of settings.

rates = np.geomspace(1e-4, 2e-2, 16)
swept, history = fit_ensemble(
    key, trainer, (x, y), members=16, validation=held_out, numbers={"learning_rate": rates}, **settings
)
fig, ax = plt.subplots(figsize=(7, 3.5))
ax.semilogx(rates, np.nanmin(history.validation_nll, axis=1), "o-")
ax.set(xlabel="learning rate", ylabel="best NLL of held-out rows")

# %%
# Bootstrap
# ---------
#
# With ``bootstrap=True`` each member sees rows drawn with replacement; ``validation=`` and ``patience=``
# stop each member by itself. Members that have stopped cost nothing that changes the others.

states, history = fit_ensemble(
    key, trainer, (x, y), members=8, bootstrap=True, validation=held_out, patience=10, **settings
)
print("best epoch of each:", history.best_epoch)
