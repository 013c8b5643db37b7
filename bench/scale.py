"""Rows that memory doesn't hold, and many processes: memory, rates, and what more machines would give."""

import json
import os
import socket
import subprocess
import sys
import tempfile
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
from bench.readme import write
from bench.scale_process import BATCH, FEATURES, KEY_SEED, MEMBERS, PREDICTING, TRAINER
from jaxreg import data, fit_ensemble, sources

FILE_ROWS, GROUPS = 1_000_000, 8
# Adding up gradients between processes takes so long that fewer rows show it.
SPLIT_ROWS, PROCESS_ROUNDS = 131_072, 3

# What the model assumes of larger machines: floating-point operations per second that a step reaches, the
# least time of a step (its kernels' starts), bytes per second over each link, and seconds of a round over it.
OPERATIONS, LEAST_STEP = 2e13, 5e-5
LINK_BYTES, LINK_LATENCY = 2.5e10, 2e-5
ACCELERATORS = (8, 64, 256, 1024)
MODEL, ASSUMED = "model:", "assumed by the model"
# Width of two layers, rows of a batch, members.
LARGER = ((128, 256, 1024), (128, 8192, 16), (1024, 65536, 16))


class Effort(NamedTuple):
    """How much to measure."""

    few: int
    many: int
    fits: int
    rounds: int


FULL, QUICK = Effort(2_000_000, 20_000_000, 524_288, 5), Effort(4096, 8192, 4096, 1)


def make(folder: Path, rows: int) -> Path:
    """Parquet files of float32 rows whose noise varies, in the order of their first feature."""
    folder.mkdir()
    for i, first in enumerate(range(0, rows, FILE_ROWS)):
        n, rng = min(FILE_ROWS, rows - first), np.random.default_rng(i)
        x = rng.normal(size=(n, FEATURES)).astype(np.float32)
        x[:, 0] = np.linspace(6 * first / rows - 3, 6 * (first + n) / rows - 3, n)
        y = np.sin(2 * x[:, 0]) + x[:, 1] + (0.1 + 0.1 * np.abs(x[:, 2])) * rng.normal(size=n)
        columns = {f"x{j}": x[:, j] for j in range(FEATURES)} | {"y": y.astype(np.float32)}
        pq.write_table(pa.table(columns), folder / f"{i:03d}.parquet", row_group_size=n // GROUPS)
    return folder


def child(*arguments: object) -> subprocess.Popen:
    """A process of a measurement."""
    command = [sys.executable, "-m", "bench.scale_process", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen) -> dict:
    """What it printed, or an error."""
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
    files = sources.from_files(folder, target="y").standardised()
    numbers, x, y = files.take([0], 2 * files.rows)
    given = {"members": MEMBERS, "epochs": 1, "batch_size": BATCH}
    stream = files.stream([*data.key_words(key), 0], batch_size=BATCH, batches=files.batches(BATCH))
    order = next(stream).numbers.ravel()
    rows = np.empty((MEMBERS, files.rows), np.int32)
    # In memory each member has an order of its own: its rows are listed so that it comes to the same batches.
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
    rows = sources.from_files(folder, target="y").rows
    found = [
        _row("predict, the whole command", name, rows / np.median(own), "rows/s")
        for name, own in zip(("streamed", "in memory"), times.values(), strict=True)
    ]
    ratio = np.median(np.array(times["whole"]) / np.array(times["stream"]))
    return [*found, _row("predict, the whole command", "streamed against in memory", ratio, "times")]


def mixing(folder: Path) -> list[dict]:
    """Correlation of neighbours in the stream of rows that are sorted on the disk, by size of the buffer."""
    files, found = sources.from_files(folder, target="y"), []
    for groups in (0.5, 1, 2, 4, 8):
        buffer = int(groups * files.pieces[0].rows)
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


def processes(folders: dict[str, Path]) -> list[dict]:
    """Rows of all members per second against processes, each on a core of its own, and what a model tells."""
    found, here = [], sorted(os.sched_getaffinity(0))
    for axis, folder in folders.items():
        for count in (2,) if len(here) < 4 else (2, 4):
            rounds = []
            for _ in range(PROCESS_ROUNDS):
                one = _run_together(folder, axis, 1, here)
                unrelated = [_start(folder, axis, 1, 0, core) for core in here[:count]]
                slower = min(result(run)["rate"] for run in unrelated) / one["rate"]
                many = _run_together(folder, axis, count, here)
                if axis == "members":  # each process reads all rows
                    told = one["seconds"] / (one["seconds"] + (count - 1) * one["read_seconds"])
                else:
                    step = BATCH / one["rate"]
                    told = step / (step + count * many["sum_seconds"])
                efficiency = many["rate"] / (count * one["rate"])
                rounds.append((one["rate"], many["rate"], slower, efficiency, slower * told))
            names = [
                ("1", "rows of members/s"),
                (f"{count}", "rows of members/s"),
                (f"{count} unrelated runs at once: rate of each against one alone", ""),
                (f"{count}: efficiency, measured", ""),
                (f"{count}: efficiency, told by the model", ""),
            ]
            for (name, unit), value in zip(names, np.median(rounds, axis=0), strict=True):
                found.append(_row(f"{axis} over processes of one core", name, value, unit))
    return found


def _run_together(folder: Path, axis: str, count: int, cores: list[int]) -> dict:
    """A run of so many processes, as the slowest saw it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = [_start(folder, axis, count, i, cores[i], port) for i in range(count)]
    return min(map(result, started), key=lambda part: part["rate"])


def _start(folder: Path, axis: str, count: int, number: int, core: int, port: int = 0) -> subprocess.Popen:
    return child("process", folder, axis, count, number, port, core)


def larger_machines() -> list[dict]:
    """What the model says of many accelerators: members over all of them, then rows over groups.

    A step of a member computes 6 operations for each parameter and row. Over the members axis nothing is
    sent; hosts are assumed to read ahead of their accelerators. Over the rows axis a step adds up the
    gradients of a group of R, each link carrying 2 (R - 1) / R of their bytes in 2 log2 R rounds that wait
    for it (Sanders, Speck and Träff 2009, "Two-tree algorithms for full bandwidth broadcast, reduction and
    scan").
    """
    found = [
        _row(ASSUMED, "operations of a step", OPERATIONS, "/s"),
        _row(ASSUMED, "the shortest step", LEAST_STEP, "s"),
        _row(ASSUMED, "a link", LINK_BYTES, "bytes/s"),
        _row(ASSUMED, "a round over a link", LINK_LATENCY, "s"),
    ]
    for width, batch, members in LARGER:
        size = FEATURES * width + width * width + 4 * width
        compute = 6 * size * batch / OPERATIONS
        name = f"{members:,} members, two layers of {width:,}, batches of {batch:,}"
        for count in ACCELERATORS:
            rows = max(1, count // members)
            sent = 2 * (rows - 1) / rows * 4 * size
            wait = sent / LINK_BYTES + 2 * np.log2(rows) * LINK_LATENCY
            efficiency = max(compute, LEAST_STEP) / (rows * (max(compute / rows, LEAST_STEP) + wait))
            of = f"{count:,} accelerators"
            found.append(_row(f"{MODEL} {name}: efficiency", of, efficiency, ""))
            found.append(_row(f"{MODEL} {name}: accelerators to a batch", of, rows, ""))
            found.append(_row(f"{MODEL} {name}: sent over a link in a step", of, sent / 1e6, "MB"))
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
        parts = [lambda: rates(fits, effort), lambda: mixing(fits)]
        if not quick:
            split = {"members": fits, "rows": make(Path(made) / "split", SPLIT_ROWS)}
            whole = [lambda: memory(folders), lambda: prediction_rates(folders[effort.few], effort)]
            parts = [*whole, *parts, lambda: processes(split)]
        parts.append(larger_machines)
        rows = []
        for part in parts:
            rows += [row | versions() for row in part()]
            table = Table("question", "what", "value", "unit")
            for row in rows:
                table.add_row(row["question"], row["what"], row["value"], row["unit"])
            console.print(table)
    if not quick:
        write(rows, out / "scale.csv")
    return rows
