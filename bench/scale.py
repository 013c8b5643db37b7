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

# What the model assumes of larger machines: floating-point operations per second that a step reaches, the
# least time of a step (its kernels' starts), bytes per second over each link, and seconds of a round over it.
OPERATIONS, LEAST_STEP = 2e13, 5e-5
LINK_BYTES, LINK_LATENCY = 2.5e10, 2e-5
ACCELERATORS = (8, 64, 256, 1024)
# Width of two layers, rows of a batch, members.
LARGER = ((128, 256, 1024), (128, 8192, 16), (1024, 65536, 16))


class Effort(NamedTuple):
    """How much to measure."""

    few: int
    many: int
    fits: int
    rounds: int
    epochs: int


FULL, QUICK = Effort(2_000_000, 20_000_000, 524_288, 5, 1), Effort(4096, 8192, 4096, 1, 1)


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
    }
    losses = [way()[1].loss for way in ways.values()]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    times = _interleaved(ways, effort.rounds)
    found = [
        _row("train, the same batches", name, files.rows / np.median(own), "rows/s")
        for name, own in times.items()
    ]
    ratio = np.median(np.array(times["in memory"]) / np.array(times["streamed"]))
    return [*found, _row("train, the same batches", "streamed against in memory", ratio, "times")]


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
        stream = replace(files, buffer=buffer).stream([0], batch_size=BATCH, batches=16)
        numbers = np.concatenate([block.numbers.ravel() for block in stream])
        numbers = numbers[numbers >= 0]
        found.append(
            _row(
                "correlation of a row's place on the disk with the next one's",
                f"buffer of {groups:g} row groups",
                np.corrcoef(numbers[1:], numbers[:-1])[0, 1],
                "",
            )
        )
    return found


def processes(folder: Path, effort: Effort) -> list[dict]:
    """Rows of all members per second against processes, each of which has one core."""
    found, here = [], sorted(os.sched_getaffinity(0))
    for axis in ("members", "rows"):
        own = {}
        for count in (1, 2) if len(here) < 4 else (1, 2, 4):
            with socket.socket() as free:
                free.bind(("localhost", 0))
                port = free.getsockname()[1]
            pinned = [(i, port, effort.epochs, here[i % len(here)]) for i in range(count)]
            started = [child("process", folder, axis, count, *of) for of in pinned]
            parts = [result(one) for one in started]
            own[count] = {name: [part[name] for part in parts] for name in parts[0]}
            rate = min(own[count]["rate"])
            found.append(_row(f"{axis} over processes of one core", f"{count}", rate, "rows of members/s"))
            if count > 1:
                one, question = own[1], f"{axis} over processes of one core: efficiency"
                measured = rate / (count * one["rate"][0])
                if axis == "members":  # each process reads all rows
                    read = one["read_seconds"][0]
                    told = one["seconds"][0] / (one["seconds"][0] + (count - 1) * read)
                else:
                    step = BATCH / one["rate"][0]
                    told = step / (step + count * max(own[count]["sum_seconds"]))
                found.append(_row(question, f"{count}, measured", measured, ""))
                found.append(_row(question, f"{count}, told by the model", told, ""))
    return found


def larger_machines() -> list[dict]:
    """What the model says of many accelerators: members over all of them, then rows over groups.

    A step of a member computes 6 operations for each parameter and row. Over the members axis nothing is
    sent; hosts are assumed to read ahead of their accelerators. Over the rows axis a step adds up the
    gradients of a group, in a ring that sends 2 (R - 1) / R of their bytes over each link, in 2 (R - 1)
    rounds that each wait for the link.
    """
    found = []
    for width, batch, members in LARGER:
        size = FEATURES * width + width * width + 4 * width
        compute = 6 * size * batch / OPERATIONS
        for count in ACCELERATORS:
            rows = max(1, count // members)
            sent = 2 * (rows - 1) / rows * 4 * size
            wait = sent / LINK_BYTES + 2 * (rows - 1) * LINK_LATENCY
            together = max(compute / rows, LEAST_STEP) + wait
            question = f"model: {members:,} members, two layers of {width}, batches of {batch:,}: efficiency"
            what = (
                f"{count:,} accelerators, a batch over {rows}, {sent / 1e6:.3g} MB over a link in each step"
            )
            found.append(_row(question, what, max(compute, LEAST_STEP) / (rows * together), ""))
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
        parts = [lambda: rates(fits, effort), lambda: mixing(fits), larger_machines]
        if not quick:
            whole = [lambda: processes(fits, effort), lambda: memory(folders)]
            parts = [*whole, lambda: prediction_rates(folders[effort.few], effort), *parts]
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
