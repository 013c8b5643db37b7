"""What each ingredient of the estimator's defaults is worth: each taken out in turn, on the same splits."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table

from bench import datasets, uci
from bench.datasets import Dataset
from bench.machine import versions
from bench.readme import write
from jaxreg import DeepEnsembleRegressor, estimator, mean_nll, recipe
from jaxreg.calibration.scaling import VarianceScaling

SCORES = ("rmse", "nll", "crps", "coverage")


class Variant(NamedTuple):
    """The defaults with one ingredient replaced."""

    settings: dict
    constants: dict = {}
    after: Callable[[DeepEnsembleRegressor], None] = lambda model: None


def uncalibrated(model: DeepEnsembleRegressor) -> None:
    """Leave the noise as it was trained."""
    model.fitted_ = model.fitted_._replace(calibration=None)


def stretched(model: DeepEnsembleRegressor) -> None:
    """Scale the whole mixture by the factor that was found for its noise."""
    factor = VarianceScaling(model.calibration_.factor)
    model.fitted_ = model.fitted_._replace(calibration=factor)


VARIANTS = {
    "the defaults": Variant({}),
    "one member": Variant({"members": 1}),
    "ReLU in place of SiLU": Variant({"activation": "relu"}),
    "no periodic embedding": Variant({"frequencies": 0}),
    "frequency scale fixed at 1": Variant({"frequency_scale": 1.0}),
    "gaussian_nll in place of beta_nll": Variant({"loss": "gaussian_nll"}),
    "crps in place of beta_nll": Variant({"loss": "crps"}),
    "epoch kept by the NLL as it is": Variant({}, {(recipe, "scaled_nll"): mean_nll}),
    "noise not scaled": Variant({}, after=uncalibrated),
    "disagreement scaled too": Variant({}, after=stretched),
    "no prior on the scale": Variant({}, {(estimator, "PRIOR_ROWS"): 0.0}),
    "all rows trained on, to the last epoch": Variant({"validation_fraction": 0}),
    "folds of a fifth": Variant({"validation_fraction": 0.2}),
    "no weight decay": Variant({"weight_decay": 0.0}),
    "batches of 128": Variant({"batch_size": 128}),
}


class Effort(NamedTuple):
    """How much to measure."""

    variants: tuple[str, ...]
    splits: int
    settings: dict


FULL = Effort(tuple(VARIANTS), 5, {})
QUICK = Effort(("the defaults", "epoch kept by the NLL as it is", "noise not scaled"), 1, uci.QUICK.settings)


def measure(dataset: Dataset, effort: Effort) -> list[dict]:
    """A row for each variant: means over splits of scores in the target's units."""
    rows = []
    for name in effort.variants:
        variant = VARIANTS[name]
        found: dict[str, list[float]] = {score: [] for score in (*SCORES, "seconds")}
        for i, split in enumerate(uci.splits(dataset, effort.splits)):
            with ExitStack() as stack:
                for (module, constant), value in variant.constants.items():
                    stack.enter_context(patch.object(module, constant, value))
                model, seconds = uci.fit_ours(split, i, effort.settings | variant.settings)
            variant.after(model)
            scores = split.scores(model.predict_dist(split.x_test)) | {"seconds": seconds}
            for score, values in found.items():
                values.append(scores[score])
        row = {"set": dataset.name, "variant": name, "splits": len(found["nll"])}
        for score in SCORES:
            row[score] = f"{np.mean(found[score]):.4g}"
            row[f"{score}_se"] = f"{np.std(found[score]) / max(len(found[score]) - 1, 1) ** 0.5:.2g}"
        rows.append(row | {"seconds": f"{np.median(found['seconds']):.3g}"} | versions())
    return rows


def main(*, quick: bool, out: Path, folders: list[Path] | None = None) -> list[dict]:
    """Measure, print, and keep the results unless it was the quick form."""
    console, effort = Console(width=120), QUICK if quick else FULL
    rows = []
    for one in (one for folder in folders or [] for one in datasets.read(folder)):
        own = measure(one, effort)
        table = Table("variant", *SCORES, "seconds", title=f"{one.name}, {own[0]['splits']} splits")
        for row in own:
            scores = (f"{row[score]} ± {row[f'{score}_se']}" for score in SCORES)
            table.add_row(row["variant"], *scores, row["seconds"])
        console.print(table)
        rows += own
    if not quick and rows:
        write(rows, out / "ablation.csv")
    return rows
