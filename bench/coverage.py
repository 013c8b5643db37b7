"""Coverage of intervals and estimates of the noise on the notebook's data, where the truth is known.

The settings were fixed on data seeds 100 to 109, and are reported on seeds 0 to 19.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.machine import versions
from bench.readme import write
from jaxreg import (
    Gaussian,
    GaussianMixture,
    MeanVarRegressor,
    data,
    fit_ensemble,
    make_trainer,
    metrics,
    predict_ensemble,
    sgd,
)
from jaxreg.calibration.conformal import Conformal, JackknifePlus

MEMBERS = 16
FRESH = 10_000
MODEL = MeanVarRegressor()
TRAINER = make_trainer(MODEL, sgd(5e-3, 0.9, 1e-4))
INSIDE = np.linspace(-2.5, 2.5, 201, dtype=np.float32)[:, None]


class Setting(NamedTuple):
    """How 16 members are trained: the notebook's network, optimizer and batches of 64 in every one.

    Attributes:
        epochs: largest number of epochs.
        folds: number of folds; each member holds out one and keeps its best epoch on it; 0 for none.
    """

    epochs: int
    folds: int


SETTINGS = {
    "the notebook's 800 epochs": Setting(800, 0),
    "200 epochs": Setting(200, 0),
    "best epoch by 8 held-out folds": Setting(400, 8),
}


def truth(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the standard deviation that the data were made with."""
    return np.sin(1.3 * x[:, 0]), 0.15 + 0.25 * np.abs(x[:, 0])


def train(seed: int, setting: Setting) -> tuple[jax.Array, tuple, np.ndarray | None]:
    """Parameters of the members, the rows, and which member held out which row."""
    data_key, key = jax.random.split(jax.random.key(seed))
    rows = tuple(np.asarray(a) for a in data.sinusoid(data_key))
    parts, held_out = {}, None
    if setting.folds:
        folds = np.random.default_rng(seed).permutation(len(rows[0])).reshape(setting.folds, -1)
        own = np.sort(folds[np.arange(MEMBERS) % setting.folds])
        held_out = np.stack([np.isin(np.arange(len(rows[0])), fold) for fold in own])
        parts = {"validation_rows": own, "rows": np.stack([np.flatnonzero(~out) for out in held_out])}
    states, _ = fit_ensemble(
        key, TRAINER, rows, members=MEMBERS, epochs=setting.epochs, batch_size=64, **parts
    )
    return states.params, rows, held_out


def scored(prediction: GaussianMixture | Gaussian | Conformal, y: np.ndarray) -> dict[str, float]:
    """Scores of a prediction on fresh rows."""
    found = {"coverage": metrics.coverage(prediction, y), "width": metrics.width(prediction)}
    if hasattr(prediction, "crps"):
        found["crps"] = metrics.crps(prediction, y)
    return {name: float(value) for name, value in found.items()}


def measure(seeds: range, settings: dict[str, Setting], fresh: int) -> list[dict]:
    """A row for each setting and data seed, and for the truth."""
    x, y = (np.asarray(a) for a in data.sinusoid(jax.random.key(2**31), fresh))
    mean, sigma = truth(INSIDE)
    rows = [{"setting": "the truth itself", "seed": "", **scored(Gaussian.from_std(*truth(x)), y)}]
    for name, setting in settings.items():
        for seed in seeds:
            params, train_rows, held_out = train(seed, setting)
            prediction, inside = (predict_ensemble(MODEL, params, points) for points in (x, INSIDE))
            row = {"setting": name, "seed": seed, **scored(prediction, y)}
            row["aleatoric_off"] = float(np.abs(np.asarray(inside.aleatoric) / sigma - 1).mean())
            bias = np.asarray(inside.mean) - mean
            row |= {"largest_bias": float(np.abs(bias).max()), "bias": bias}
            rows.append(row)
            if held_out is not None:
                conformal = JackknifePlus.fit(
                    predict_ensemble(MODEL, params, train_rows[0]), train_rows[1], held_out
                )
                rows.append({"setting": f"{name}, CV+", "seed": seed, **scored(conformal(prediction), y)})
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """Means over seeds, and the range of the coverage."""
    found = []
    for name in dict.fromkeys(row["setting"] for row in rows):
        own = [row for row in rows if row["setting"] == name]
        coverage = np.array([row["coverage"] for row in own])
        line = {
            "setting": name,
            "seeds": len(own),
            "coverage": f"{coverage.mean():.4f}",
            "least": f"{coverage.min():.4f}",
            "most": f"{coverage.max():.4f}",
            "width": f"{np.mean([row['width'] for row in own]):.3f}",
        }
        for key in ("crps", "aleatoric_off", "largest_bias"):
            line[key] = f"{np.mean([row[key] for row in own]):.4f}" if key in own[0] else ""
        line["bias_of_the_mean_of_all_seeds"] = ""
        if "bias" in own[0]:
            together = np.abs(np.mean([row["bias"] for row in own], axis=0))
            at = float(INSIDE[together.argmax(), 0])
            line["bias_of_the_mean_of_all_seeds"] = f"{together.max():.3f} at x = {at:.2f}"
        found.append(line)
    return found


def main(*, quick: bool, out: Path) -> list[dict]:
    """Measure, print, and keep the results unless it was the quick form."""
    if quick:
        rows = summary(measure(range(2), {"2 epochs by 8 held-out folds": Setting(2, 8)}, 200))
    else:
        rows = summary(measure(range(20), SETTINGS, FRESH))
    rows = [row | versions() for row in rows]
    columns = list(rows[0])[: list(rows[0]).index("python")]
    table = Table(*columns, title=f"95% intervals of {MEMBERS} members")
    for row in rows:
        table.add_row(*(str(row[name]) for name in columns))
    Console(width=150).print(table)
    if not quick:
        write(rows, out / "coverage.csv")
    return rows
