"""Rows that memory doesn't hold, and many processes: memory, rates, and the price of `own_share`."""

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from bench.machine import seconds, versions
from bench.readme import ROOT, write
from bench.scale_process import BATCH, FEATURES, KEY_SEED, MEMBERS, MODEL, PREDICTING, TRAINER
from jaxreg import adamw, data, fit_ensemble, make_trainer, metrics, predict_ensemble, tables
from jaxreg.machine import cores

FILE_ROWS, GROUPS, SORTED_GROUPS = 1_000_000, 8, 64
PROCESS_ROUNDS = 5
# Numbers of processes for which the model predicts an efficiency.
MODEL_COUNTS = 2, 4, 16
# Processes whose members learn from their own share, and rows that nobody learns from.
SHARES, TEST_ROWS, RATE = (2, 4), 32_768, 3e-3


class Effort(NamedTuple):
    """How much to measure."""

    few: int
    many: int
    fits: int
    rounds: int
    epochs: int


FULL, QUICK = Effort(2_000_000, 20_000_000, 524_288, 5, 12), Effort(4096, 8192, 4096, 1, 1)


def make(folder: Path, rows: int, groups: int = GROUPS, *, in_order: bool = True) -> Path:
    """Parquet files of float32 rows whose noise varies, sorted by their first feature or unsorted."""
    folder.mkdir()

    def write_one(i: int) -> None:
        first = i * FILE_ROWS
        n, rng = min(FILE_ROWS, rows - first), np.random.default_rng(i)
        x = rng.normal(size=(n, FEATURES)).astype(np.float32)
        ends = (6 * first / rows - 3, 6 * (first + n) / rows - 3) if in_order else (-3, 3)
        x[:, 0] = np.linspace(*ends, n) if in_order else rng.uniform(*ends, n)
        y = np.sin(2 * x[:, 0]) + x[:, 1] + (0.1 + 0.1 * np.abs(x[:, 2])) * rng.normal(size=n)
        columns = {f"x{j}": x[:, j] for j in range(FEATURES)} | {"y": y.astype(np.float32)}
        pq.write_table(pa.table(columns), folder / f"{i:03d}.parquet", row_group_size=n // groups)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(write_one, range(math.ceil(rows / FILE_ROWS))))
    return folder


def child(*arguments: object) -> subprocess.Popen:
    """Start a process of a measurement."""
    command = [sys.executable, "-m", "bench.scale_process", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def result(process: subprocess.Popen) -> dict:
    """What a process printed, or an error."""
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with {process.returncode}")
    return json.loads(out.splitlines()[-1])


def memory(folders: dict[int, Path]) -> list[dict]:
    """Peak memory of an epoch and of predictions, for two numbers of rows."""
    found = []
    for what in ("train", "predict"):
        for rows, folder in folders.items():
            own = result(child(what, folder, *(["stream"] if what == "predict" else [])))
            if own["rows"] != rows:
                raise AssertionError(f"{what}: {own['rows']} rows of {rows}")
            members = MEMBERS if what == "train" else PREDICTING
            name = f"{what}, streamed, {members} members: peak memory"
            found.append(_row(name, f"{rows:,} rows", own["peak_mb"], "MB"))
            found.append(
                _row(
                    f"{what}, streamed, {members} members", f"{rows:,} rows", rows / own["seconds"], "rows/s"
                )
            )
    return found


def rates(folder: Path, effort: Effort) -> list[dict]:
    """Rows per second of the same batches from files and from memory, in turn."""
    key = jax.random.key(KEY_SEED)
    files = tables.from_files(folder, target="y").standardised()
    numbers, x, y = files.take([0], 2 * files.rows)
    given = {"members": MEMBERS, "epochs": 1, "batch_size": BATCH}
    stream = files.stream([*data.key_words(key), 0], batch_size=BATCH, batches=files.batches(BATCH))
    order = next(stream).numbers.ravel()
    rows = np.empty((MEMBERS, files.rows), np.int32)
    # In memory each member has its own order: its rows are listed so that it gets the same batches.
    for line, own in zip(rows, jax.random.split(key, MEMBERS), strict=True):
        line[np.asarray(data.batch_order(own, 0, files.rows))] = order
    ways = {
        "streamed": lambda: fit_ensemble(key, TRAINER, files, **given),
        "in memory": lambda: fit_ensemble(key, TRAINER, (x, y), rows=rows, **given),
        "in memory, members with orders of their own": lambda: fit_ensemble(key, TRAINER, (x, y), **given),
    }
    losses = [way()[1].loss for way in ways.values()]
    np.testing.assert_allclose(*losses[:2], rtol=1e-3)
    times = _interleaved(ways, effort.rounds)
    question, streamed = "train on rows that fit, the same batches", np.array(times["streamed"])
    return [
        *(_row(question, name, files.rows / np.median(own), "rows/s") for name, own in times.items()),
        *(
            _row(question, f"streamed against {name}", np.median(np.array(own) / streamed), "times")
            for name, own in times.items()
            if name != "streamed"
        ),
    ]


def prediction_rates(folder: Path, effort: Effort) -> list[dict]:
    """Rows per second of whole processes that predict from files, and from one table in memory, in turn."""
    times: dict[str, list[float]] = {"stream": [], "whole": []}
    for _ in range(effort.rounds):
        for read, own in times.items():
            own.append(result(child("predict", folder, read))["seconds"])
    rows = tables.from_files(folder, target="y").rows
    found = [
        _row("predict, the whole command", name, rows / np.median(own), "rows/s")
        for name, own in zip(("streamed", "in memory"), times.values(), strict=True)
    ]
    ratio = np.median(np.array(times["whole"]) / np.array(times["stream"]))
    return [*found, _row("predict, the whole command", "streamed against in memory", ratio, "times")]


def mixing(folder: Path) -> list[dict]:
    """Correlation of neighbours in the stream of sorted files, by size of the shuffle buffer."""
    files, found = tables.from_files(folder, target="y"), []
    for groups in (0.5, 1, 2, 4, 8):
        buffer = int(groups * files.row_groups[0].rows)
        stream = replace(files, buffer=buffer).stream([0], batch_size=BATCH, batches=files.batches(BATCH))
        numbers = np.concatenate([block.numbers.ravel() for block in stream])
        numbers = numbers[numbers >= 0]
        found.append(
            _row(
                "correlation of a row's place on the disk with the next one's, of 8 row groups",
                f"buffer of {groups:g}",
                np.corrcoef(numbers[1:], numbers[:-1])[0, 1],
                "",
            )
        )
    return found


def processes(folder: Path) -> list[dict]:
    """Rows per second, over all members, of processes on a core each that read all files or their share.

    The model: N processes divide the training of one process, and each reads all of its rows, so the
    efficiency is `seconds / (seconds + (N - 1) read_seconds)` of the figures of one process.
    """
    cores, times = sorted(os.sched_getaffinity(0)), {}
    question = "members over processes of one core each"
    for _ in range(PROCESS_ROUNDS):
        one = _run_together(folder, "all", cores[:1])
        figures = {"1": (one["rate"], "rows of members/s")}
        for count in (2, 4):
            if count > len(cores):
                continue
            unrelated = [_start(folder, "all", 1, 0, core) for core in cores[:count]]
            slower = min(result(run)["rate"] for run in unrelated) / one["rate"]
            figures[f"{count} unrelated runs at once: rate of each against one alone"] = slower, ""
            for share in ("all", "own"):
                many, name = _run_together(folder, share, cores[:count]), f"{count}, {share} files"
                figures[name] = many["rate"], "rows of members/s"
                figures[f"{name}: efficiency"] = many["rate"] / (count * one["rate"]), ""
                epoch = many["seconds"] / one["seconds"]
                figures[f"{name}: an epoch against that of one process"] = epoch, "times"
        for count in MODEL_COUNTS:
            predicted = one["seconds"] / (one["seconds"] + (count - 1) * one["read_seconds"])
            figures[f"{count}: efficiency predicted by the model"] = predicted, ""
        for name, (value, unit) in figures.items():
            times.setdefault((name, unit), []).append(value)
    return [_row(question, name, np.median(values), unit) for (name, unit), values in times.items()]


def _run_together(folder: Path, share: str, cores: list[int]) -> dict:
    """Run a process on each core; the figures are those of the slowest."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = [_start(folder, share, len(cores), i, core, port) for i, core in enumerate(cores)]
    return max(map(result, started), key=lambda part: part["seconds"])


def _start(folder: Path, share: str, count: int, number: int, core: int, port: int = 0) -> subprocess.Popen:
    return child("process", folder, share, count, number, port, core)


def own_files(folders: dict[str, Path], effort: Effort) -> list[dict]:
    """NLL of rows that no member trained on, if members see all files and if each sees a share."""
    found, key = [], jax.random.key(KEY_SEED)
    for order, folder in folders.items():
        files = tables.from_files(folder, target="y").standardised()
        held_out = [0], min(TEST_ROWS, files.rows // 8)
        _, x, y = files.take(*held_out)
        files = files.without(*held_out)
        question = f"NLL of held-out rows, members over processes, {order}"

        def nll(count: int, epochs: int, files: tables.Files = files, x=x, y=y) -> float:
            params = []
            for i, own in enumerate(jax.random.split(key, count)):
                share = replace(files, process=(i, count), own_share=True)
                given = {"members": MEMBERS // count, "epochs": epochs, "batch_size": BATCH}
                trainer = make_trainer(MODEL, adamw(RATE, steps=epochs * share.batches(BATCH)))
                params.append(fit_ensemble(own, trainer, share, **given)[0].params)
            params = jax.tree.map(lambda *leaves: np.concatenate(leaves), *params)
            return float(np.mean(metrics.nll(predict_ensemble(MODEL, params, x), y)))

        found.append(_row(question, "all files", nll(1, effort.epochs), "nats"))
        for count in SHARES:
            found.append(_row(question, f"a share of {count}", nll(count, effort.epochs), "nats"))
            longer = nll(count, count * effort.epochs)
            found.append(_row(question, f"a share of {count}, as many steps", longer, "nats"))
    return found


def _interleaved(ways: dict, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(way))
    return times


def _row(question: str, what: str, value: float, unit: str) -> dict:
    return {"question": question, "what": what, "value": f"{value:.4g}", "unit": unit}


def main(*, quick: bool, out: Path) -> list[dict]:
    """Measure, print, and keep the results unless it was the quick form."""
    effort, console = QUICK if quick else FULL, Console(width=140)
    with tempfile.TemporaryDirectory() as made:
        folders = {rows: make(Path(made) / f"{rows}", rows) for rows in (effort.few, effort.many)}
        fits = make(Path(made) / "fits", effort.fits)
        orders = {
            "rows in random order": make(Path(made) / "mixed", effort.fits, in_order=False),
            "rows in order of a feature": make(Path(made) / "sorted", effort.fits, SORTED_GROUPS),
        }
        parts = [lambda: rates(fits, effort), lambda: mixing(fits), lambda: own_files(orders, effort)]
        if not quick:
            whole = [lambda: memory(folders), lambda: prediction_rates(folders[effort.few], effort)]
            parts = [*whole, *parts, lambda: processes(fits)]
        rows, caption = [], f"ratios: medians of the ratios within a round; rounds: {effort.rounds}"
        for part in parts:
            rows += [row | versions() for row in part()]
            table = Table("question", "what", "value", "unit", caption=caption)
            for row in rows:
                table.add_row(row["question"], row["what"], row["value"], row["unit"])
            console.print(table)
    if not quick:
        write(rows, out / "scale.csv")
    return rows
