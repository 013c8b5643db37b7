"""Sweep 64 settings of the optimizer in one compiled program: `python examples/sweep.py`.

Each member of an ensemble has a learning rate, a momentum and a weight decay of its own. All see the same
rows; the setting with the lowest validation NLL wins.
"""

import argparse

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxreg import MeanVarRegressor, data, fit_ensemble, make_trainer, sgd


def sweep(settings: int, epochs: int) -> list[dict]:
    """Train a network for each of so many random settings; rows of settings and results, best first."""
    rng = np.random.default_rng(0)
    numbers = {
        "learning_rate": 10 ** rng.uniform(-4, -1.5, settings),
        "momentum": rng.uniform(0, 0.95, settings),
        "weight_decay": 10 ** rng.uniform(-6, -2, settings),
    }
    train, validation = (data.sinusoid(jax.random.key(seed)) for seed in (0, 1))
    trainer = make_trainer(MeanVarRegressor(), sgd(learning_rate=1e-3))  # numbers take its place
    _, history = fit_ensemble(
        jax.random.key(2), trainer, train, members=settings, numbers=numbers,
        epochs=epochs, batch_size=64, validation=validation, patience=50,
    )  # fmt: skip
    columns = {
        "rate": numbers["learning_rate"],
        "momentum": numbers["momentum"],
        "decay": numbers["weight_decay"],
        "best epoch": history.best_epoch + 1,
        "epochs run": np.isfinite(history.loss).sum(axis=1),
        "validation NLL": np.nanmin(history.validation_nll, axis=1),
    }
    order = np.argsort(columns["validation NLL"])
    return [{name: values[i].item() for name, values in columns.items()} for i in order]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=300)
    args = parser.parse_args()
    rows = sweep(args.settings, args.epochs)
    table = Table(*rows[0], title=f"{len(rows)} settings, best first")
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
