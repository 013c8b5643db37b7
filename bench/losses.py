"""Every loss on the notebook's data and on real sets: how good its means and its error bars are."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from bench import datasets
from bench.machine import versions
from bench.readme import write
from jaxreg import (
    Affine,
    MeanOnlyRegressor,
    MeanVarRegressor,
    NaturalRegressor,
    Scaler,
    TrainState,
    beta_nll,
    by_head,
    crps_gaussian,
    data,
    faithful_nll,
    fit_ensemble,
    gaussian_nll,
    make_trainer,
    metrics,
    predict_ensemble,
    sgd,
    squared_error,
    start_variance,
    torch_gaussian_nll,
    without_failed,
)

MEMBERS = 5
SGD = {"learning_rate": 5e-3, "momentum": 0.9}
PLAIN = sgd(**SGD, weight_decay=1e-4)
APART = by_head(PLAIN, sgd(**SGD, weight_decay=1e-2))
SCORES = ("rmse", "nll", "crps", "coverage")


class Way(NamedTuple):
    """A model, a loss and an optimizer; if warmed up, the first half of the epochs trains the mean alone."""

    model: nn.Module
    loss: Callable
    optimizer: optax.GradientTransformation = PLAIN
    warm: bool = False


WAYS = {
    "gaussian_nll": Way(MeanVarRegressor(), gaussian_nll),
    "gaussian_nll, mean warmed up": Way(MeanVarRegressor(), gaussian_nll, warm=True),
    "gaussian_nll, warmed up, decay apart": Way(MeanVarRegressor(), gaussian_nll, APART, warm=True),
    "torch_gaussian_nll": Way(MeanVarRegressor(), torch_gaussian_nll),
    "beta_nll(0.5)": Way(MeanVarRegressor(), beta_nll(0.5)),
    "beta_nll(1)": Way(MeanVarRegressor(), beta_nll(1.0)),
    "faithful_nll": Way(MeanVarRegressor(detach_variance=True), faithful_nll),
    "gaussian_nll, natural head": Way(NaturalRegressor(), gaussian_nll),
    "crps_gaussian": Way(MeanVarRegressor(), crps_gaussian),
    "gaussian_nll, one variance": Way(MeanOnlyRegressor(), gaussian_nll),
}


class Effort(NamedTuple):
    """How much to measure."""

    ways: tuple[str, ...]
    splits: int
    epochs: int
    fresh: int  # rows of the notebook's data to score; 0 leaves it out


FULL = Effort(tuple(WAYS), 5, 400, 10_000)
QUICK = Effort(("gaussian_nll, warmed up, decay apart",), 1, 4, 0)


def train(way: Way, rows: tuple[np.ndarray, np.ndarray], seed: int, epochs: int) -> tuple[TrainState, int]:
    """Members that hold out a fifth of the rows each and keep their best epoch on it; how many failed."""
    order = np.random.default_rng(seed).permutation(len(rows[0]))
    folds = [np.sort(order[i::MEMBERS]) for i in range(MEMBERS)]
    size = len(order) // MEMBERS
    held_out = np.stack([fold[:size] for fold in folds])
    settings = {"members": MEMBERS, "batch_size": 64}
    settings["rows"] = np.stack([np.setdiff1d(order, fold) for fold in held_out])
    key, states = jax.random.key(seed), None
    if way.warm:  # its last epoch is kept: the best one by NLL would be that of an untrained variance
        epochs //= 2
        trainer = make_trainer(way.model, way.optimizer, squared_error)
        first, _ = fit_ensemble(key, trainer, rows, epochs=epochs, **settings)
        mean = np.asarray(predict_ensemble(way.model, first.params, rows[0]).mean)
        params = start_variance(way.model, first.params, np.mean((rows[1] - mean) ** 2))
        states = jax.vmap(
            lambda params: TrainState(np.zeros((), np.int32), params, way.optimizer.init(params))
        )(params)
    settings["validation_rows"] = held_out
    trainer = make_trainer(way.model, way.optimizer, way.loss)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # members that fail are counted below
        states, history = fit_ensemble(key, trainer, rows, epochs=epochs, states=states, **settings)
    return without_failed(states, history), int((history.failed_epoch >= 0).sum())


def problems(folders: list[Path], effort: Effort) -> dict[str, list[tuple]]:
    """Train and test rows of each split of each set."""
    found = {}
    if effort.fresh:
        fresh = data.sinusoid(jax.random.key(2**31), effort.fresh)
        found["sinusoid"] = [(data.sinusoid(jax.random.key(i)), fresh) for i in range(effort.splits)]
    for folder in folders:
        for one in datasets.read(folder):
            found[one.name] = [
                ((one.x[train], one.y[train]), (one.x[test], one.y[test]))
                for train, test in one.splits(effort.splits)
            ]
    return {
        name: [tuple(tuple(map(np.asarray, part)) for part in split) for split in splits]
        for name, splits in found.items()
    }


def epochs_of(rows: int, most: int) -> int:
    """Fewer epochs for more rows, so that the number of steps is about the same."""
    return max(min(most, most * 2000 // rows), 2)


def measure(folders: list[Path], effort: Effort) -> list[dict]:
    """A row for each loss and set: means over splits of scores in the target's units."""
    rows = []
    for name, splits in problems(folders, effort).items():
        for way_name in effort.ways:
            way = WAYS[way_name]
            found, failures = {score: [] for score in SCORES}, 0
            for seed, ((x, y), (x_test, y_test)) in enumerate(splits):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # of constant columns
                    scalers = Scaler.fit(x), Scaler.fit(y)
                scaled = tuple(
                    s.transform(a).astype(np.float32) for s, a in zip(scalers, (x, y), strict=True)
                )
                states, failed = train(way, scaled, seed, epochs_of(len(x), effort.epochs))
                failures += failed
                inside = predict_ensemble(
                    way.model, states.params, scalers[0].transform(x_test).astype(np.float32)
                )
                prediction = Affine(inside, scalers[1].loc, scalers[1].scale)
                scores = metrics.evaluate(prediction, y_test)
                for score in SCORES:
                    found[score].append(scores[score])
            row = {"set": name, "loss": way_name, "splits": len(splits), "failed_members": failures}
            for score, values in found.items():
                row[score] = f"{np.mean(values):.4g}"
                row[f"{score}_se"] = f"{np.std(values) / max(len(values) - 1, 1) ** 0.5:.2g}"
            rows.append(row | versions())
    return rows


def main(*, quick: bool, out: Path, folders: list[Path] | None = None) -> list[dict]:
    """Measure, print, and keep the results unless it was the quick form."""
    console = Console(width=110)
    rows = measure(folders or [], QUICK if quick else FULL)
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        table = Table("loss", *SCORES, "failed members", title=f"{name}, {own[0]['splits']} splits")
        for row in own:
            values = (f"{row[score]} ± {row[f'{score}_se']}" for score in SCORES)
            table.add_row(row["loss"], *values, str(row["failed_members"]))
        console.print(table)
    if not quick:
        write(rows, out / "losses.csv")
    return rows
