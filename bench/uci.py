"""The estimator with its defaults on real tables, by the literature's protocol, and what a user would pick.

Hernández-Lobato & Adams 2015, "Probabilistic backpropagation for scalable learning of Bayesian neural
networks": 90 % of the rows to train, 20 splits, features and target standardised by the training rows.
"""

import csv
import json
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from bench import datasets
from bench.datasets import Dataset
from bench.machine import versions
from bench.readme import write
from jaxreg import Affine, DeepEnsembleRegressor, Gaussian, Scaler, metrics

HERE = Path(__file__).parent
RIVALS_PYTHON = HERE / ".rivals" / "bin" / "python"
OURS = "jaxreg"
SCORES = ("rmse", "nll", "crps", "coverage", "width", "seconds")


class Effort(NamedTuple):
    """How much to measure."""

    splits: int | None
    settings: dict


FULL = Effort(None, {})
QUICK = Effort(2, {"members": 2, "hidden": (8,), "epochs": 3, "frequency_scale": 1.0, "noise": 1})


class Split(NamedTuple):
    """One split of a set, standardised by its training rows."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    scale: Scaler

    def scores(self, prediction: Affine) -> dict[str, float]:
        """Scores of the test rows in the target's units, of a prediction in standardised ones."""
        in_units = Affine(prediction.dist, *(self._out(prediction.loc), prediction.scale * self.scale.scale))
        lower, upper = in_units.interval(0.95)
        return {
            "rmse": float(metrics.rmse(in_units, self.y_test)),
            "nll": float(metrics.nll(in_units, self.y_test)),
            "crps": float(metrics.crps(in_units, self.y_test)),
            "coverage": float(metrics.coverage(in_units, self.y_test)),
            "width": float(np.mean(upper - lower)),
        }

    def _out(self, values: np.ndarray) -> np.ndarray:
        return self.scale.loc + self.scale.scale * values


def splits(dataset: Dataset, most: int | None) -> Iterator[Split]:
    """The splits of the protocol."""
    for train, test in dataset.splits(most):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of constant columns
            x, y = Scaler.fit(dataset.x[train]), Scaler.fit(dataset.y[train])
        rows = x.transform(dataset.x[train]), y.transform(dataset.y[train]), x.transform(dataset.x[test])
        yield Split(*rows, dataset.y[test], y)


class Rivals:
    """The process that fits the rivals, and their names; none if their environment is missing."""

    def __init__(self, process: subprocess.Popen | None, folder: Path):
        self.process, self.rows = process, folder / "rows.npz"
        self.names = [] if process is None else json.loads(process.stdout.readline())

    def fit(self, name: str, split: Split) -> tuple[Affine, float]:
        """What a rival predicts, in standardised units, and the seconds of its fit."""
        np.savez(self.rows, x=split.x, y=split.y, x_test=split.x_test)
        self.process.stdin.write(f"{name}\t{self.rows}\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(f"{name}: {answer['error']}")
        found = np.load(self.rows)
        return Affine(Gaussian.from_std(found["mean"], found["std"]), 0.0, 1.0), answer["seconds"]


@contextmanager
def rivals(python: Path) -> Iterator[Rivals]:
    """Start the rivals, if their environment is there."""
    with tempfile.TemporaryDirectory() as folder:
        if not python.exists():
            yield Rivals(None, Path(folder))
            return
        command = [str(python), str(HERE / "uci_rivals.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as process:
            yield Rivals(process, Path(folder))
            process.stdin.close()


def fit_ours(split: Split, seed: int, settings: dict) -> tuple[DeepEnsembleRegressor, float]:
    """The estimator, and the seconds of its fit."""
    model = DeepEnsembleRegressor(random_state=seed, **settings)
    began = time.perf_counter()
    model.fit(split.x, split.y)
    return model, time.perf_counter() - began


def measure(dataset: Dataset, effort: Effort, rival: Rivals, console: Console) -> list[dict]:
    """A row for each split and method; all methods fit one split before the next."""
    rows = []
    first = None
    for i, split in enumerate(splits(dataset, effort.splits)):
        if first is None:  # the fit that compiles
            _, first = fit_ours(split, i, effort.settings)
        model, seconds = fit_ours(split, i, effort.settings)
        own = {"set": dataset.name, "split": i, "first_seconds": ""}
        found = split.scores(model.predict_dist(split.x_test))
        rows.append({**own, "method": OURS, **found, "seconds": seconds, "first_seconds": first})
        for name in rival.names:
            try:
                prediction, seconds = rival.fit(name, split)
            except RuntimeError as error:
                console.print(f"{dataset.name}, split {i}: {error}", style="yellow")
                continue
            rows.append({**own, "method": name, **split.scores(prediction), "seconds": seconds})
        console.print(f"{dataset.name}, split {i + 1}", style="dim")
    return rows


def summary(rows: Sequence[dict]) -> list[dict]:
    """A row for each set and method: means and standard errors over splits, ranks, and splits won."""
    out = []
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        methods = list(dict.fromkeys(row["method"] for row in own))
        by_split = {(row["method"], row["split"]): row for row in own}
        numbers = sorted({row["split"] for row in own})
        complete = [i for i in numbers if all((method, i) in by_split for method in methods)]
        for method in methods:
            mine = [row for row in own if row["method"] == method]
            line: dict[str, Any] = {"set": name, "method": method, "splits": len(mine)}
            for score in SCORES:
                values = [row[score] for row in mine]
                if score == "seconds":
                    line[score] = f"{np.median(values):.3g}"
                    continue
                line[score] = f"{np.mean(values):.4g}"
                line[f"{score}_se"] = f"{np.std(values) / max(len(values) - 1, 1) ** 0.5:.2g}"
            line["first_seconds"] = f"{mine[0]['first_seconds']:.3g}" if method == OURS else ""
            for score in ("nll", "crps"):
                ranks = [
                    rankdata([by_split[m, i][score] for m in methods])[methods.index(method)]
                    for i in complete
                ]
                line[f"{score}_rank"] = f"{np.mean(ranks):.2f}" if ranks else ""
                wins = sum(by_split[OURS, i][score] < by_split[method, i][score] for i in complete)
                line[f"{score}_won_by_jaxreg"] = "" if method == OURS else f"{wins} of {len(complete)}"
            out.append(line)
    return out


def published(folder: Path, names: Sequence[str]) -> list[dict]:
    """Figures of the literature from a folder's `published.csv`, for some sets."""
    path = folder / "published.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] in names]
    return [
        {"set": row["dataset"], "method": f"{row['method']} ({row['source']})", "splits": "published"}
        | {score: row[score] for score in ("rmse", "nll", "crps")}
        for row in rows
    ]


def show(rows: Sequence[dict], console: Console) -> None:
    """A table for each set."""
    for name in dict.fromkeys(row["set"] for row in rows):
        table = Table("method", *SCORES, "rank by NLL", title=name)
        for row in rows:
            if row["set"] == name:
                cells = [
                    f"{row[score]} ± {row[f'{score}_se']}" if row.get(f"{score}_se") else row.get(score, "")
                    for score in SCORES
                ]
                table.add_row(row["method"], *cells, row.get("nll_rank", ""))
        console.print(table)


def main(
    *, quick: bool, out: Path, folders: list[Path] | None = None, python: Path = RIVALS_PYTHON
) -> list[dict]:
    """Measure, print, and keep the results unless it was the quick form."""
    console, effort = Console(width=150), QUICK if quick else FULL
    found: list[dict] = []
    with rivals(python) as rival:
        if not rival.names:
            console.print(f"no rivals: there is no {python}; {HERE / 'rivals.txt'} says how to make it")
        for folder in folders or []:
            sets = datasets.read(folder)
            rows = [row for one in sets for row in measure(one, effort, rival, console)]
            found += summary(rows) + published(folder, [one.name for one in sets])
    columns = dict.fromkeys(name for row in found for name in row)
    found = [dict.fromkeys(columns, "") | row | versions() for row in found]
    show(found, console)
    if not quick and found:
        write(found, out / "uci.csv")
    return found
