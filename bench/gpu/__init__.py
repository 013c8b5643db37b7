"""What a GPU gives: parity, speed, memory, and where the time goes, in one command of some minutes.

Parts come in order of worth, each with a share of the minutes. Every row is written as soon as it is found,
so that a run which is cut keeps what it has; a part that fails says so in a row and the next one begins.
"""

import csv
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.gpu.common import MINUTE, single
from bench.gpu.ensembles import ensembles, memory, notebook
from bench.gpu.fused import fused
from bench.gpu.parity import parity
from bench.gpu.profile import profile
from bench.gpu.users import estimators, streaming
from bench.gpu.variants import precisions, variants
from bench.machine import GPU, versions
from bench.readme import write
from bench.speed import QUICK, Effort, draw

NO_DEVICE = "bench gpu: JAX and PyTorch see no GPU here; --cpu runs every part at its smallest"
FIELDS = (
    *("part", "question", "hidden", "batch_size", "members", "what"),
    *("unit", "median", "least", "most", "rounds", "times_ours"),
)
FULL = Effort(0.2, 5, "inductor", quick=False)


class Part(NamedTuple):
    """A part of the measurement, and its share of the time."""

    name: str
    rows: Callable[[Effort], Iterator[dict]]
    share: float


PARTS = [
    Part("1", parity, 0.07),
    Part("2", notebook, 0.12),
    Part("3", ensembles, 0.33),
    Part("4", variants, 0.15),
    Part("5", estimators, 0.15),
    Part("6", streaming, 0.08),
    Part("7", profile, 0.05),
    Part("8", fused, 0.1),
    Part("9", precisions, 0.05),
    Part("10", memory, 0.03),
]


class Results:
    """Rows as they are found, in a file that is written anew with each.

    Where only some parts are measured, the file keeps what it has of others, and what isn't measured again.
    """

    def __init__(self, path: Path | None, parts: Sequence[str]):
        self.rows: list[dict] = []
        self._path, self._kept = path, {}
        self._began, self._extra = time.perf_counter(), versions()
        if parts and path is not None and path.exists():
            with path.open(newline="") as file:
                old = [
                    row for row in csv.DictReader(file) if row["median"] != "nan" or row["part"] not in parts
                ]
            self._kept = {self._key(row): row for row in old}

    @staticmethod
    def _key(row: dict) -> tuple:
        return tuple(str(row[name]) for name in ("part", "question", "members", "what", "unit"))

    def add(self, part: str, found: dict) -> None:
        """Write a row and print it."""
        whole = dict.fromkeys(FIELDS, "") | {"part": part} | found | self._extra
        self.rows.append(whole)
        self._kept[self._key(whole)] = whole
        if self._path is not None:
            write(list(self._kept.values()), self._path)
        words = (whole[name] for name in ("question", "members", "what", "median", "unit", "times_ours"))
        print(f"{self.seconds():5.0f} s ", *words, sep="  ", flush=True)

    def seconds(self) -> float:
        """How long it took so far."""
        return time.perf_counter() - self._began


def main(
    *, quick: bool, out: Path, minutes: float = 8, cpu: bool = False, parts: Sequence[str] = ()
) -> list[dict]:
    """Go through all parts, or some in the order given; keep the rows where a GPU is measured in full."""
    if not GPU and not cpu:
        print(NO_DEVICE, file=sys.stderr)
        sys.exit(2)
    asked = [part for name in parts for part in PARTS if part.name == name] or PARTS
    effort = QUICK if quick or cpu else FULL
    results = Results(None if effort.quick else out / "gpu.csv", parts)
    whole, deadline = sum(part.share for part in asked), 0.0
    for part in asked:
        deadline += part.share / whole * minutes * MINUTE
        about = part.rows.__name__
        if results.seconds() > deadline:
            results.add(part.name, single(about, "left out: no time", np.nan, ""))
            continue
        try:
            for found in part.rows(effort):
                results.add(part.name, found)
                if results.seconds() > deadline:
                    results.add(part.name, single(about, "cut: no time", np.nan, ""))
                    break
        except Exception as error:  # the other parts are worth having
            traceback.print_exc()
            results.add(part.name, single(about, f"failed: {error!r}"[:200], np.nan, ""))
    if not effort.quick:
        with (out / "gpu.csv").open(newline="") as file:
            draw(list(csv.DictReader(file)), out / "gpu.png")
    return results.rows
