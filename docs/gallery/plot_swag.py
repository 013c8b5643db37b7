"""Members from one run: SWAG
==========================

SWAG makes many networks out of one run. Training goes on with a constant learning rate, and the parameters
are kept after each epoch. Members are drawn from a Gaussian that has their mean and covariance. Maddox et al.
2019, "A simple baseline for Bayesian uncertainty in deep learning". ``predict_ensemble`` doesn't ask where
members come from: it takes any parameters with a leading axis of members.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxreg import Hook, MeanVarRegressor, fit, make_trainer, metrics, plots, predict, predict_ensemble, sgd


def sample(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A sine wave with little noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 3, (n, 1))
    return x, np.sin(1.3 * x[:, 0]) + 0.3 * rng.normal(size=n)


# %%
# A hook keeps the parameters: ``fit`` shows it the run after each epoch.


class Snapshots(Hook):
    """Keeps the parameters of each epoch as vectors."""

    every = 1

    def __init__(self):
        self.taken = []

    def after_chunk(self, run, history):
        """Keep the parameters; None goes on."""
        self.taken.append(np.asarray(ravel_pytree(run.state.params)[0]))


# %%
# The second run begins with the parameters of the first. Its learning rate is higher, so that the parameters
# move about. The learning rate is part of the optimizer's state, so that state is made anew.

rows, snapshots = sample(256, 0), Snapshots()
model = MeanVarRegressor()
state, _ = fit(0, make_trainer(model, sgd(5e-3)), rows, epochs=200, batch_size=64)
optimizer = sgd(1e-2)
start = state._replace(opt_state=optimizer.init(state.params))
trainer = make_trainer(model, optimizer)
fit(0, trainer, rows, epochs=60, batch_size=64, state=start, first_epoch=200, hooks=[snapshots])

# %%
# Half of the covariance is its diagonal. The other half comes from the deviations from the mean themselves.

taken, rng, members = np.stack(snapshots.taken), np.random.default_rng(1), 30
mean, deviations = taken.mean(axis=0), taken - taken.mean(axis=0)
noise = taken.std(axis=0) * rng.normal(size=(members, len(mean)))
spread = rng.normal(size=(members, len(taken))) @ deviations / np.sqrt(len(taken) - 1)
drawn = (mean + (noise + spread) / np.sqrt(2)).astype(np.float32)
params = jax.vmap(ravel_pytree(state.params)[1])(drawn)

# %%
# Members differ little where there are rows, and more beyond them.

grid = np.linspace(-5, 5, 200)[:, None]
together = predict_ensemble(model, params, grid)
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
axes[0].scatter(rows[0][:, 0], rows[1], s=8, alpha=0.5, label="train")
axes[0].plot(grid[:, 0], together.means.T, color="C1", linewidth=0.7, alpha=0.6)
axes[0].plot(grid[:, 0], predict(model, state.params, grid).mean, "k--", label="first run")
axes[0].plot([], [], color="C1", label="members")
axes[0].set(title="means", xlabel="x", ylabel="y", ylim=(-3, 4))
axes[0].legend(fontsize="small")
plots.band(grid, together, train=rows, title=f"mixture of {members} members", ax=axes[1])

x, y = sample(2000, 2)
for name, prediction in {
    "first run": predict(model, state.params, x),
    "members": predict_ensemble(model, params, x),
}.items():
    covered = metrics.coverage(prediction, y, 0.95)
    print(f"{name}: CRPS {metrics.crps(prediction, y):.4f}, 95 % intervals hold {covered:.1%}")
