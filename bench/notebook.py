"""200 seeds of the notebook's first model beside the figures that the notebook printed."""

import platform
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import torch

import torch_ref.data
import torch_ref.models
import torch_ref.training
from bench.readme import write
from jaxreg import MeanVarRegressor, data, make_trainer, run_epochs, sgd

PRINTED = {
    100: -0.2359,
    200: -0.2312,
    300: -0.2350,
    400: -0.2295,
    500: -0.2332,
    600: -0.2457,
    700: -0.2408,
    800: -0.2491,
}
BATCH_SIZE = 64


@partial(jax.jit, static_argnames="epochs")
def train(keys: jax.Array, *, epochs: int) -> jax.Array:
    """Losses `(keys, epochs)` of the notebook's first model; data, weights and batches follow each key."""
    trainer = make_trainer(MeanVarRegressor(), sgd(5e-3, momentum=0.9, weight_decay=1e-4))

    def run(key: jax.Array) -> jax.Array:
        data_key, weights_key, order_key = jax.random.split(key, 3)
        x, y = data.sinusoid(data_key)
        state = trainer.init(weights_key, x)
        return run_epochs(order_key, trainer, state, (x, y), epochs=epochs, batch_size=BATCH_SIZE)[1]

    return jax.lax.map(run, keys)


def train_torch(seed: int, *, epochs: int) -> list[float]:
    """Losses of the same model in PyTorch, data and weights from a seed."""
    torch.manual_seed(seed)
    rows = torch_ref.data.sinusoid(torch.Generator().manual_seed(seed))
    model = torch_ref.models.MeanVarRegressor()
    optimizer = torch_ref.training.sgd(model)
    return torch_ref.training.fit(model, optimizer, rows, epochs=epochs, batch_size=BATCH_SIZE)


def measure(seeds: int, torch_seeds: int, epochs: int) -> list[dict]:
    """A row for each epoch that the notebook printed: its figure, and where it stands among the seeds."""
    compiled = train.lower(jax.random.split(jax.random.key(0), seeds // 2), epochs=epochs).compile()
    halves = jax.random.split(jax.random.key(0), seeds).reshape(2, seeds // 2)
    with ThreadPoolExecutor(2) as pool:  # one compiled program keeps about one core busy
        ours = np.asarray(jnp.concatenate(list(pool.map(compiled, halves))))
    theirs = np.array([train_torch(seed, epochs=epochs) for seed in range(torch_seeds)])
    versions = {"python": platform.python_version(), "jax": jax.__version__}
    versions |= {"flax": flax.__version__, "torch": torch.__version__}
    rows = []
    for epoch, printed in PRINTED.items():
        if epoch > epochs:
            break
        row = {"epoch": epoch, "notebook": printed, "seeds": seeds, "torch_seeds": torch_seeds}
        for name, losses in (("jaxreg", ours[:, epoch - 1]), ("torch", theirs[:, epoch - 1])):
            row[f"{name}_percentile"] = round(100 * float(np.mean(losses < printed)), 1)
            for q in (5, 50, 95):
                row[f"{name}_q{q}"] = round(float(np.percentile(losses, q)), 4)
        rows.append(row | versions | {"device": jax.devices()[0].device_kind})
    return rows


def main(*, quick: bool, out: Path) -> list[dict]:
    """Measure, print, and keep the result unless it was the quick form."""
    torch.set_num_threads(1)
    rows = measure(4, 2, 100) if quick else measure(200, 20, 800)
    print("epoch  notebook  percentile among jaxreg, torch_ref   jaxreg 5 / 50 / 95 %        torch_ref 50 %")
    for row in rows:
        quantiles = " ".join(f"{row[f'jaxreg_q{q}']:8.4f}" for q in (5, 50, 95))
        print(
            f"{row['epoch']:5d}  {row['notebook']:8.4f}  {row['jaxreg_percentile']:17.1f} "
            f"{row['torch_percentile']:12.1f}  {quantiles}  {row['torch_q50']:14.4f}"
        )
    if not quick:
        write(rows, out / "notebook.csv")
    return rows
