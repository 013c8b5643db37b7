"""
Your PyTorch notebook in jaxreg
===============================

You have a PyTorch notebook that trains a mean and a variance, and its weights in a ``state_dict``. We load
them, predict the same, go on training where PyTorch stopped, and carry the weights back.
"""

# %%
# The notebook
# ------------
#
# Say the notebook's model is this one, with the names that ``state_dict`` gives its layers. It is trained
# for some epochs by SGD with momentum on the Gaussian negative log-likelihood.

import jax
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from jaxreg import MeanVarRegressor, data, fit, make_trainer, plots, predict, sgd, torch_weights


class Notebook(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(1, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.mu_head = nn.Linear(128, 1)
        self.logvar_head = nn.Linear(128, 1)

    def forward(self, x):
        h = self.shared(x)
        variance = nn.functional.softplus(self.logvar_head(h)) + 1e-6
        return self.mu_head(h)[:, 0], torch.log(variance)[:, 0]


x, y = map(np.array, data.sinusoid(jax.random.key(0)))  # (256, 1) and (256,)
torch.manual_seed(0)
notebook = Notebook()
optimizer = torch.optim.SGD(notebook.parameters(), lr=5e-3, momentum=0.9, weight_decay=1e-4)
x_torch, y_torch = torch.tensor(x), torch.tensor(y)
for _ in range(20):
    for rows in torch.randperm(len(y)).split(64):
        mean, log_var = notebook(x_torch[rows])
        loss = 0.5 * (log_var + (y_torch[rows] - mean) ** 2 / log_var.exp()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"loss of the last batch: {loss.item():.3f}")

# %%
# The weights
# -----------
#
# ``from_state_dict`` takes anything with the right names whose values NumPy can read. It imports nothing
# of PyTorch, and names every key that is missing or too many and every weight of another shape. A module
# whose layers have other names needs ``rename={"fc1": "shared.0", "fc2": "shared.2"}``.

model = MeanVarRegressor(hidden=(128, 128))
params = torch_weights.from_state_dict(model, notebook.state_dict())

# %%
# The same predictions
# --------------------

prediction = predict(model, params, x)
with torch.no_grad():
    mean, log_var = notebook(x_torch)
print("largest difference:", np.max(np.abs(np.asarray(prediction.mean) - mean.numpy())))
np.testing.assert_allclose(prediction.mean, mean, atol=1e-5)
np.testing.assert_allclose(prediction.log_var, log_var, atol=1e-5)

# %%
# Go on training
# --------------
#
# ``sgd`` does what ``torch.optim.SGD`` does, weight decay included. A state begins with PyTorch's weights
# and no velocity. The whole run is one compiled program.

trainer = make_trainer(model, sgd(5e-3, momentum=0.9, weight_decay=1e-4))
state = trainer.init(jax.random.key(1), x)._replace(params=params)
state, history = fit(jax.random.key(2), trainer, (x, y), epochs=200, batch_size=64, state=state)

grid = np.linspace(-5, 5, 200)[:, None]
fig, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
for ax, weights, title in zip(axes, (params, state.params), ("as it came", "200 epochs later"), strict=True):
    plots.band(grid, predict(model, weights, grid), train=(x, y), title=title, ax=ax)

# %%
# And back
# --------

arrays = torch_weights.to_state_dict(model, state.params)
notebook.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
with torch.no_grad():
    mean, _ = notebook(x_torch)
np.testing.assert_allclose(predict(model, state.params, x).mean, mean, atol=1e-5)

# %%
# The second model of the notebook, with one learned variance for all rows, is ``MeanOnlyRegressor``; its
# keys are ``net.0.weight`` to ``net.4.bias`` and ``log_var``. The page "What PyTorch confirms" says how
# whole runs are compared.
