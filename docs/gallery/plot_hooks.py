"""Hooks: a logger, and a stop at a target
=======================================

A hook is an object that ``fit`` calls while it works. This page has two: one writes the loss to a CSV file,
one stops the run when the validation NLL is low enough.
"""

import csv
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

from jaxreg import Hook, MeanVarRegressor, data, fit, make_trainer, sgd

# %%
# ``fit`` runs many epochs in one compiled program and calls its hooks between them. ``every`` says after how
# many epochs at the latest. ``history`` has a number for each epoch, and NaN for those to come, so a hook
# that is called after several epochs misses none. For TensorBoard, call ``add_scalar`` of a ``SummaryWriter``
# where this hook calls ``writerow``.


class CsvLogger(Hook):
    """Writes the loss and the validation NLL of each epoch to a file."""

    every = 10

    def __init__(self, path: Path):
        self.path, self.written = path, 0

    def begin(self, job):
        """Open the file before the first epoch."""
        self.file = self.path.open("w", newline="")
        self.writer = csv.writer(self.file)
        self.writer.writerow(["epoch", "loss", "validation_nll"])

    def after_chunk(self, run, history):
        """Write the epochs that are new."""
        done = int(run.cursor[0])
        for epoch in range(self.written, done):
            self.writer.writerow([epoch + 1, history.loss[epoch], history.validation_nll[epoch]])
        self.written = done

    def close(self):
        """Close the file, also after an error."""
        self.file.close()


# %%
# A hook whose ``after_chunk`` returns True stops the run. It needs ``every = 1``: otherwise the clock says
# when it is called, and each run stops at another epoch.


class StopAt(Hook):
    """Stops the run once the validation NLL is at most ``target``."""

    every = 1

    def __init__(self, target: float):
        self.target = target

    def after_chunk(self, run, history):
        """Say whether the last epoch reached the target."""
        return history.validation_nll[int(run.cursor[0]) - 1] <= self.target


# %%
# Both hooks go into one list.

path, target = Path(tempfile.mkdtemp()) / "log.csv", -0.15
trainer = make_trainer(MeanVarRegressor(), sgd(2e-3))
_, history = fit(
    jax.random.key(2),
    trainer,
    data.sinusoid(jax.random.key(0)),
    epochs=500,
    batch_size=64,
    validation=data.sinusoid(jax.random.key(1)),
    hooks=[CsvLogger(path), StopAt(target)],
)
print(f"stopped after {np.isfinite(history.loss).sum()} of {len(history.loss)} epochs")
print(*path.read_text().splitlines()[:4], sep="\n")

# %%
# The file is there as soon as the run ends, however it ends.

epoch, loss, nll = np.loadtxt(path, delimiter=",", skiprows=1).T
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.plot(epoch, loss, label="training loss")
ax.plot(epoch, nll, "--", label="validation NLL")
ax.axhline(target, color="0.4", linestyle=":", label="target")
ax.set(xlabel="epoch", ylabel="mean over rows (nats)")
legend = ax.legend()
