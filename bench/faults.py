"""Faults of a user's machine, caused on purpose: what is lost, and what the user is told."""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import polars as pl
from jaxtyping import PyTree
from rich.console import Console
from rich.table import Table
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from bench import hostile, victims
from bench.machine import versions
from bench.readme import ROOT, write
from bench.victims import REFUSED, call, fitted, is_one_of, same, start
from jaxreg import DeepEnsembleRegressor, MeanVarRegressor, data, fit, make_trainer, sgd
from jaxreg.model import export, model_file

MEMORY_ALLOWED, SECONDS_ALLOWED = 200e6, 2.0
PATIENCE = 60.0
FIT = ("--target", "price", "--members", 2, "--frequencies", 0, "--noise", 1, "--epochs", 30)
LONG_FIT = (
    "--target",
    "price",
    "--members",
    2,
    "--noise",
    1,
    "--frequency-scale",
    1,
    "--epochs",
    2000,
    "--checkpoint-every",
    1,
)


class Effort(NamedTuple):
    """How often each fault strikes."""

    runs: int
    kills: int
    saves: int
    signals: int
    places: int
    stride: int
    races: int


FULL = Effort(runs=50, kills=5, saves=200, signals=10, places=99, stride=1000, races=20)
QUICK = Effort(runs=1, kills=1, saves=3, signals=1, places=1, stride=50_000, races=1)


class Outcome(NamedTuple):
    """A row of the result: how often a fault struck, and the times when the promise didn't hold."""

    fault: str
    times: int
    promise: str
    failures: list[str]


def killed_runs(folder: Path, effort: Effort) -> list[Outcome]:
    """SIGKILL at random moments of a run with checkpoints, which is then resumed."""
    rng, whole = np.random.default_rng(0), folder / "whole.npz"
    began = time.monotonic()
    start(victims.train, folder / "whole", whole).join()
    length = time.monotonic() - began
    kills, failures = 0, []
    for i in range(effort.runs):
        kept, out, wanted = folder / f"run{i}", folder / f"run{i}.npz", rng.integers(1, effort.kills + 1)
        while wanted:
            process = start(victims.train, kept, out)
            process.join(rng.uniform(0.2, length))
            process.kill()
            process.join()
            if out.exists():  # it ended before it was killed
                out.unlink()
                shutil.rmtree(kept)
            else:
                kills, wanted = kills + 1, wanted - 1
        start(victims.train, kept, out).join()
        if not (out.exists() and same(out, whole)):
            failures.append(f"run {i}")
        shutil.rmtree(kept, ignore_errors=True)
    promise = f"resumed until done, after {kills} kills in all: equal to the uninterrupted run, bit for bit"
    return [Outcome("SIGKILL during a run with checkpoints", effort.runs, promise, failures)]


def signals(folder: Path, effort: Effort) -> list[Outcome]:
    """Ctrl-C and SIGTERM during `jaxreg fit`."""
    rng, rows, failures = np.random.default_rng(0), make_table(folder / "rows.csv", 400), []
    for i in range(effort.signals):
        number, code = [(signal.SIGTERM, 143), (signal.SIGINT, 130)][i % 2]
        kept, out = folder / f"kept{i}", folder / f"m{i}"
        asked = ("fit", rows, *LONG_FIT, "--checkpoint", kept, "--out", out)
        process = popen(*asked)
        wait_for(lambda kept=kept: any(kept.glob("epoch_*.jaxreg")), process)
        time.sleep(rng.uniform(0, 1))
        process.send_signal(number)
        _, errors = process.communicate()
        steps = list(kept.glob("epoch_*.jaxreg"))
        if process.returncode != code or "--resume" not in errors or not steps or out.exists():
            failures.append(f"{number.name}: code {process.returncode}: {errors[-300:]}")
    promise = "ends at the next chunk with exit code 130 or 143, keeps the run, says how to resume"
    return [Outcome("Ctrl-C or SIGTERM during jaxreg fit", effort.signals, promise, failures)]


def killed_saves(folder: Path, effort: Effort) -> list[Outcome]:
    """SIGKILL while a model is saved over another."""
    rng, path, ready, failures = np.random.default_rng(0), folder / "m", folder / "ready", []
    model_file.save(path, fitted(0))
    for i in range(effort.saves):
        ready.unlink(missing_ok=True)
        process = start(victims.save_repeatedly, path, ready, (0, 1), 10**9)
        wait_for(ready.exists, process)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        try:
            failures += [] if is_one_of(path, (0, 1)) else [f"kill {i}: another model"]
        except ValueError as error:
            failures.append(f"kill {i}: {error}")
    promise = "the old file or the new one, whole"
    return [Outcome("SIGKILL during a save over a model", effort.saves, promise, failures)]


def races(folder: Path, effort: Effort) -> list[Outcome]:
    """Two processes that write to one path, and two runs in one folder."""
    saved, trained, whole = [], [], folder / "whole.npz"
    start(victims.train, folder / "whole", whole).join()
    for i in range(effort.races):
        path = folder / f"m{i}"
        both = [start(victims.save_repeatedly, path, folder / f"ready{k}", (k,), 30) for k in (0, 1)]
        for process in both:
            process.join()
        if any(process.exitcode for process in both) or not is_one_of(path, (0, 1)):
            saved.append(f"pair {i}")
        outs = [folder / f"{i}{name}.npz" for name in "ab"]
        both = [start(victims.train, folder / f"run{i}", out) for out in outs]
        for process in both:
            process.join()
        done = [out.exists() and same(out, whole) for out in outs]
        fine = [own or process.exitcode == REFUSED for own, process in zip(done, both, strict=True)]
        if not (any(done) and all(fine)):
            trained.append(f"pair {i}: {[process.exitcode for process in both]}")
    promise = "one is as if it were alone, the other is refused or goes on from its end"
    return [
        Outcome("two processes save to one path", effort.races, "one of the two models, whole", saved),
        Outcome("two runs keep checkpoints in one folder", effort.races, promise, trained),
    ]


def full_disks(folder: Path, effort: Effort) -> list[Outcome]:
    """A disk that fills up under a model, a checkpoint, or predictions."""
    rows, few, model = (
        make_table(folder / "rows.csv", 20_000),
        make_table(folder / "few.csv", 100),
        folder / "m",
    )
    model_file.save(model, fitted(0, 8))
    cases = {
        "a model": lambda disk: ("fit", few, *FIT, "--out", disk / "m"),
        "predictions": lambda disk: ("predict", model, rows, "--out", disk / "m.csv"),
        "an export": lambda disk: ("export", model, "--out", disk / "m"),
        "a checkpoint": lambda disk: (
            "fit", few, *FIT, "--out", folder / "new", "--checkpoint", disk / "kept", "--checkpoint-every", 1
        ),
    }  # fmt: skip
    found = []
    for what, arguments in list(cases.items())[-effort.places :]:
        with small_disk(folder / what, "256k") as disk:
            if disk is None:
                continue
            for name in ("m", "m.csv"):
                shutil.copy(model, disk / name)
            fill(disk, but=8192)
            before = digests(disk)
            code, errors = command(*arguments(disk))
            after = {path: digest for path, digest in digests(disk).items() if "/kept/" not in path}
            partial = [path for path in disk.rglob("*") if "tmp" in path.name or "part" in path.name]
            fine = told(code, errors, 1, disk, "No space left") and after == before and not partial
            promise = "one clear line, exit code 1, what was there before intact, nothing left behind"
            failures = [] if fine else [f"{code} {errors.strip()[-300:]} {partial}"]
            found.append(Outcome(f"the disk is full under {what}", 1, promise, failures))
    return found


def unusable_paths(folder: Path, effort: Effort) -> list[Outcome]:
    """Results that can't be written are refused before any work."""
    rows, model, new = make_table(folder / "rows.csv", 100), folder / "m.model", folder / "new"
    model_file.save(model, fitted(0, 8))
    (folder / "folder.csv").mkdir()
    failures = []
    with small_disk(folder / "fixed", "64k", options=",ro") as fixed:
        places = [*([fixed / "m.csv"] if fixed else []), folder / "folder.csv", folder / "none" / "m.csv"]
        commands = [
            arguments
            for place in places
            for arguments in (
                ("fit", rows, *FIT, "--out", place),
                ("predict", model, rows, "--out", place),
                ("export", model, "--out", place),
                ("fit", rows, *FIT, "--out", new, "--checkpoint", place),
            )
            if not (place.is_dir() and "--checkpoint" in arguments)  # where checkpoints go
        ][: effort.places]
        for arguments in commands:
            code, errors = command(*arguments)
            place = arguments[-1]
            named = place if place.is_dir() else place.parent
            if not told(code, errors, 2, named) or new.exists():
                failures.append(f"{arguments[0]} {place}: {code} {errors.strip()[-200:]}")
    fault = "a folder that is missing or read-only, a folder in place of a file"
    return [Outcome(fault, len(commands), "one clear line and exit code 2, before training", failures)]


def damaged_files(folder: Path, effort: Effort) -> list[Outcome]:
    """A byte changed, or the rest cut off, at regular places of a file."""
    model_file.save(folder / "model", fitted(0))
    export.save(folder / "export", fitted(0))
    found = []
    for kind in victims.READERS:
        n, failures = answer(1, victims.read_damaged, folder / kind, kind, effort.stride)
        fault = f"a byte changed, or the end cut off: {kind}"
        found.append(Outcome(fault, n, "one clear error or the same predictions", failures))
    return found


def damaged_checkpoints(folder: Path, effort: Effort) -> list[Outcome]:
    """The same for the last checkpoint."""
    kept, whole = folder / "kept", folder / "whole.npz"
    start(victims.train, kept, whole).join()
    last = Path(f"epoch_{victims.EPOCHS}.jaxreg")
    times, failures = answer(1, victims.resume_damaged, kept, last, effort.stride, whole)
    promise = "goes on from it or from the one before; the same result, bit for bit"
    return [Outcome("a byte changed, or the end cut off: checkpoint", times, promise, failures)]


def hostile_files(folder: Path, effort: Effort) -> list[Outcome]:
    """Malicious model files."""
    files, failures = hostile.files(folder), []
    for what, content in files.items():
        (folder / "hostile").write_bytes(content)
        said, memory, seconds = answer(0, victims.read_hostile, folder / "hostile")
        if said != "refused" or memory > MEMORY_ALLOWED or seconds > SECONDS_ALLOWED:
            failures.append(f"{what}: {said[:200]}, {memory / 1e6:.0f} MB, {seconds:.1f} s")
    promise = "one clear error, in less than 200 MB and 2 s"
    return [Outcome("a model file that means harm", len(files), promise, failures)]


def numbers(folder: Path, effort: Effort) -> list[Outcome]:
    """Steps that are too long, targets that are too large, infinite rows, more memory than there is."""
    promise = "an error or a warning that names it; finite parameters"
    cases = {
        "a learning rate of 1,000": (too_fast, promise),
        "targets of 1e30": (too_large, f"the core: {promise}; the estimator: scaled, right predictions"),
        "an infinite row that a transformer let through": (infinite_row, promise),
        "more memory than there is": (too_much, "an error that says the bytes and how to ask for fewer"),
    }
    found = []
    for what, (case, promise) in cases.items():
        wrong = case()
        found.append(Outcome(what, 1, promise, [] if wrong is None else [wrong]))
    return found


def too_fast() -> str | None:
    """A network that diverges warns; an estimator whose members all diverge raises an error."""
    rows = data.sinusoid(jax.random.key(0))
    trainer = make_trainer(victims.MODEL, sgd(1e3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state, _ = fit(jax.random.key(1), trainer, rows, epochs=20, batch_size=64)
    said = [str(each.message) for each in caught]
    if not (finite(state.params) and any("lower learning rate" in each for each in said)):
        return f"one network: {said}"
    try:
        x, y = map(np.asarray, rows)
        DeepEnsembleRegressor(learning_rate=1e3, epochs=20, members=2).fit(x, y)
    except FloatingPointError as error:
        return None if "member 0" in str(error) and "epoch" in str(error) else str(error)
    return "the estimator said nothing"


def too_large() -> str | None:
    """`fit` warns and stays finite; the estimator scales, and predicts in the target's units."""
    x, y = map(np.asarray, data.sinusoid(jax.random.key(0)))
    large = x, y * np.float32(1e30)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state, _ = fit(jax.random.key(1), victims.TRAINER, large, epochs=20, batch_size=64)
    said = [str(each.message) for each in caught]
    if not (finite(state.params) and any("standardised" in each for each in said)):
        return f"one network: {said}"
    model = DeepEnsembleRegressor(epochs=20, members=2, random_state=0)
    predicted, right = (model.fit(x, y.astype(float) * size).predict(x) / size for size in (1e30, 1.0))
    return None if np.allclose(predicted, right, rtol=1e-3, atol=1e-3) else "other predictions"


def infinite_row() -> str | None:
    """The estimator refuses the row."""
    x, y = (np.asarray(each, float) for each in data.sinusoid(jax.random.key(0)))
    let_through = FunctionTransformer(lambda x: np.where(x > x.max() - 1e-9, np.inf, x))
    try:
        make_pipeline(let_through, DeepEnsembleRegressor(members=2)).fit(x, y)
    except ValueError as error:
        return None if "infinity" in str(error) else str(error)
    return "nothing was said"


def too_much() -> str | None:
    """The error says how many bytes were asked for, and what to do."""
    large = make_trainer(MeanVarRegressor(hidden=(2_000_000, 2_000_000)), sgd(1e-3))
    try:
        fit(jax.random.key(1), large, data.sinusoid(jax.random.key(0), 16), epochs=1)
    except MemoryError as error:
        return None if "bytes" in str(error) and "fewer" in str(error) else str(error)
    return "nothing was said"


def finite(tree: PyTree) -> bool:
    """Whether all numbers are finite."""
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def answer(counted: int, function: Callable, *arguments: object) -> tuple:
    """What a function returns in a child; after a crash, one failure, or a success of hostile content."""
    found = call(function, *arguments)
    if isinstance(found, tuple):
        return found
    return (counted, [str(found)]) if counted else (str(found), np.inf, np.inf)


def wait_for(condition: Callable[[], bool], process: object) -> None:
    """Wait until a condition holds, or a process has ended or taken too long."""
    ended = process.poll if isinstance(process, subprocess.Popen) else lambda: process.exitcode
    latest = time.monotonic() + PATIENCE
    while not condition() and ended() is None and time.monotonic() < latest:
        time.sleep(0.002)


@contextlib.contextmanager
def small_disk(folder: Path, size: str, *, options: str = "") -> Iterator[Path | None]:
    """A small file system, or None if only root may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, *, but: int) -> None:
    """Fill a disk except for so many bytes."""
    (disk / "other").write_bytes(bytes(shutil.disk_usage(disk).free - but))


def popen(*arguments: object) -> subprocess.Popen:
    """The `jaxreg` command in a process of its own."""
    run = [sys.executable, "-m", "jaxreg", *map(str, arguments)]
    kept = os.environ | {"JAXREG_NO_CACHE": "1"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(run, **pipes, env=kept, cwd=ROOT)


def command(*arguments: object) -> tuple[int, str]:
    """The exit code and standard error of the `jaxreg` command."""
    process = popen(*arguments)
    _, errors = process.communicate()
    return process.returncode, errors


def told(code: int, errors: str, expected: int, *words: object) -> bool:
    """Whether a command ended with one line that names what was wrong."""
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    named = len(lines) == 1 and all(str(word) in lines[0] for word in words)
    return code == expected and named and "Traceback" not in errors


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def make_table(path: Path, n: int) -> Path:
    """A file of rows to train on."""
    rng = np.random.default_rng(0)
    area, rooms = rng.uniform(20, 200, n), rng.integers(1, 6, n)
    rows = {"area": area, "rooms": rooms, "price": 1e6 + 2e3 * area + 1e4 * rng.normal(size=n)}
    pl.DataFrame(rows).write_csv(path)
    return path


QUESTIONS = [
    killed_runs,
    signals,
    killed_saves,
    races,
    full_disks,
    unusable_paths,
    damaged_files,
    damaged_checkpoints,
    hostile_files,
    numbers,
]


def main(*, quick: bool, out: Path) -> list[dict]:
    """Let every fault strike, print, and keep the results unless it was the quick form."""
    console, outcomes = Console(width=140), []
    for question in QUESTIONS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = question(Path(folder), QUICK if quick else FULL)
        console.print(f"{question.__name__}: {time.monotonic() - began:.0f} s", style="dim")
        for failure in (failure for one in found for failure in one.failures[:5]):
            console.print(failure, style="red", markup=False)
        outcomes += found
    table, rows = Table("fault", "times", "held", "what was promised"), []
    for one in outcomes:
        held = one.times - len(one.failures)
        table.add_row(one.fault, str(one.times), str(held), one.promise)
        row = {"fault": one.fault, "times": one.times, "held": held, "promise": one.promise}
        rows.append(row | {"failures": "; ".join(one.failures[:5])} | versions())
    console.print(table)
    if not quick:
        write(rows, out / "faults.csv")
    return rows
