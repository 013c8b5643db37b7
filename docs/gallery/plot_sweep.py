"""Sixty-four settings of the optimizer at once
============================================

``fit_ensemble`` gives each member its own learning rate, momentum and weight decay, by ``numbers``. All
members are one compiled program, so a sweep compiles once.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np

from jaxreg import MeanVarRegressor, data, fit_ensemble, make_trainer, sgd

settings = 64
rng = np.random.default_rng(0)
numbers = {
    "learning_rate": 10 ** rng.uniform(-4, -1.7, settings),
    "momentum": rng.uniform(0, 0.95, settings),
    "weight_decay": 10 ** rng.uniform(-6, -2, settings),
}
train, validation = data.sinusoid(jax.random.key(0)), data.sinusoid(jax.random.key(1))

# %%
# The numbers replace those of ``sgd``. A member that gets no better for 30 epochs stops; the others go on.

trainer = make_trainer(MeanVarRegressor(hidden=(32, 32)), sgd(1e-3))
states, history = fit_ensemble(
    jax.random.key(2), trainer, train, members=settings, numbers=numbers,
    epochs=150, batch_size=64, validation=validation, patience=30,
)  # fmt: skip
score = np.nanmin(history.validation_nll, axis=1)

# %%
# The learning rate and the momentum matter together: momentum ``m`` makes a step ``1 / (1 - m)`` times as
# long in the end. So the picture on the right puts all settings on about one curve.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
points = left.scatter(numbers["learning_rate"], numbers["momentum"], c=score, cmap="viridis_r")
figure.colorbar(points, ax=left, label="best validation NLL (nats)")
left.set(xscale="log", xlabel="learning rate", ylabel="momentum")
right.scatter(numbers["learning_rate"] / (1 - numbers["momentum"]), score)
right.set(xscale="log", xlabel="learning rate / (1 - momentum)", ylabel="best validation NLL (nats)")

# %%
# The five best settings, and how long they took.

for i in np.argsort(score)[:5]:
    chosen = ", ".join(f"{name} {values[i]:.2g}" for name, values in numbers.items())
    print(f"NLL {score[i]:.3f}, best epoch {history.best_epoch[i] + 1}: {chosen}")
