"""The estimator on real tables with text, dates and gaps, beside what a user would pick instead.

`--data` is a folder with `tables.json`, or such a file by any name. It describes each table; paths are
relative to it:

    {
      "houses": {"file": "houses.csv", "target": "price", "leave_out": ["id"], "gaps": ["?"]},
      "shells": {"file": "shells.csv", "header": false, "target": 8},
      "soils": {"file": "soils.parquet", "target": ["Cd", "Co", "Cu"], "folds": "block"},
      "rides": {"file": "rides.csv", "target": "count", "leave_out": ["day"], "time_order": "day"}
    }

- `file`: CSV, or Parquet by its ending.
- `target`: a column, or a list of several. A column without a header is named by its number; the first is 0.
- `leave_out`: columns that a prediction can't use: an id, or what is only known with the target.
- `header`: false where the first line holds values.
- `gaps`: values that stand for a gap, beside empty cells, NA and the like.
- `time_order`: true where rows stand in time order, or a column to order them by. Each fold then predicts
  rows that are later than all it's trained on; the first fold predicts the last rows.
- `folds`: a column with each row's fold, which isn't a feature.

Rows are those with a known target, at most 3,000 drawn at random. Unless a table says otherwise, folds are
those of `KFold(5, shuffle=True, random_state=42)`. `--folds 2` measures the first two of them. jaxreg
predicts several targets together, the others one by one; seconds are those of all targets.

What `tables.csv` has for the same method, version and rows isn't measured again, so that a run that was cut
goes on where it was; `--again` measures all anew. jaxreg's version has a digest of its source.
"""

import csv
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table as Grid

from bench import table_methods
from bench.machine import versions
from bench.readme import write
from bench.table_files import FOLDS, Table, read
from bench.table_methods import Fold, Method
from bench.table_scores import SCORES, SECONDS, by_table, scores, summary

KEY = ("table", "target", "method", "fold")
FIELDS = (*KEY, "method_version", "protocol", "training_rows", "test_rows", *SCORES, *SECONDS)


class Results:
    """Rows as they are found, in a file that is written anew after each fold.

    A new row replaces that of the same table, target, method and fold.
    """

    def __init__(self, path: Path | None, again: bool = False):
        self._path, self._rows, self._extra = path, {}, versions()
        if path is not None and path.exists():
            with path.open(newline="") as file:
                self._rows = {self._key(row): row for row in csv.DictReader(file)}
        self._measured = set() if again else {self._asked(row) for row in self._rows.values()}

    @property
    def rows(self) -> list[dict]:
        """All rows, those of the file too."""
        return list(self._rows.values())

    @staticmethod
    def _key(row: dict) -> tuple[str, ...]:
        return tuple(row[name] for name in KEY)

    @staticmethod
    def _asked(row: dict) -> tuple[str, ...]:
        return tuple(row[name] for name in ("table", "method", "fold", "method_version", "protocol"))

    def has(self, row: dict) -> bool:
        """Whether a table's fold was measured by this version of a method, on these rows."""
        return self._asked(row) in self._measured

    def add(self, rows: Sequence[dict]) -> None:
        """Keep a fold's rows, one for each target."""
        for row in rows:
            whole = dict.fromkeys(FIELDS, "") | row | self._extra
            self._rows[self._key(whole)] = whole
            self._measured.add(self._asked(whole))
        if self._path is not None:
            columns = dict.fromkeys(name for row in self._rows.values() for name in row)
            part = self._path.with_suffix(".part")
            write([dict.fromkeys(columns, "") | row for row in self._rows.values()], part)
            os.replace(part, self._path)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of constant columns, far rows and crossing quantiles."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.INFO)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def measure(table: Table, number: int, method: Method, asked: dict) -> list[dict]:
    """A row for each target of one fold."""
    train, test = table.folds[number]
    y = table.y.to_numpy()
    fold = Fold(table.x.iloc[train], y[train], table.x.iloc[test], number)
    with _quiet():
        prediction, seconds = method.run(fold)
        density = None if prediction.log_density is None else prediction.log_density(y[test])
    if not np.isfinite(prediction.mean).all():
        raise ValueError("predicted means that aren't finite")
    rows = []
    for i, target in enumerate(table.y):
        found = scores(
            y[test, i],
            prediction.mean[:, i],
            prediction.quantiles[:, :, i],
            None if density is None else density[:, i],
        )
        cells = {name: "" if np.isnan(value) else f"{value:.6g}" for name, value in found.items()}
        cells |= {name: f"{value:.3g}" for name, value in seconds.items()}
        counts = {"training_rows": str(len(train)), "test_rows": str(len(test))}
        rows.append(asked | {"target": target} | counts | cells)
    return rows


def run(
    tables: Sequence[Table],
    methods: Sequence[Method],
    folds: int,
    results: Results,
    console: Console,
) -> None:
    """Measure what isn't there; all methods fit one fold before the next."""
    for table in tables:
        for number in range(min(folds, len(table.folds))):
            for method in methods:
                asked = {
                    "table": table.name,
                    "method": method.name,
                    "fold": str(number),
                    "method_version": method.version,
                    "protocol": table.protocol,
                }
                if results.has(asked):
                    continue
                said = f"{table.name}, fold {number}, {method.name}:"
                try:
                    rows = measure(table, number, method, asked)
                except Exception as error:  # a method that fails on one table is measured on the others
                    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                    console.print(f"{said} failed, {reason}", style="yellow", markup=False)
                    continue
                results.add(rows)
                crps = ", ".join(row["crps"] or "none" for row in rows)
                console.print(f"{said} CRPS {crps}; fit {rows[0]['fit_wall']} s", style="dim", markup=False)


def show(rows: Sequence[dict], order: Sequence[str], console: Console) -> None:
    """The methods over all tables, and the CRPS on each."""
    shown = {"all tables": summary(rows, order), "CRPS, means over folds": by_table(rows, order)}
    for title, lines in shown.items():
        grid = Grid(*lines[0], title=title)
        for line in lines:
            grid.add_row(*line.values())
        console.print(grid)


def made_up(folder: Path) -> None:
    """Two small tables: one with text, dates and gaps, one with two targets."""
    rng = np.random.default_rng(0)
    n = 150
    kind, age = rng.choice(["flat", "house", "barn"], n), rng.uniform(0, 80, n)
    sold = pd.to_datetime("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), unit="D")
    price = 200 + 80 * (kind == "house") - age + 0.1 * (sold - sold.min()).days + rng.normal(0, 10, n)
    houses = pd.DataFrame({"id": range(n), "kind": kind, "age": age, "sold": sold.strftime("%m/%d/%Y")})
    houses.loc[rng.choice(n, 20), "age"] = np.nan
    houses.loc[rng.choice(n, 20), "kind"] = None
    houses.assign(price=price).to_csv(folder / "houses.csv", index=False)
    x = rng.normal(size=(n, 2))
    soils = np.c_[x, x.sum(axis=1) + rng.normal(size=n), x[:, 0] - rng.normal(size=n)]
    pd.DataFrame(soils).to_csv(folder / "soils.csv", index=False, header=False)
    (folder / "tables.json").write_text(
        '{"houses": {"file": "houses.csv", "target": "price", "leave_out": ["id"]},'
        ' "soils": {"file": "soils.csv", "target": [2, 3], "header": false}}'
    )


def _chosen(methods: Sequence[Method], names: Sequence[str], console: Console) -> list[Method]:
    """Those that were asked for and are there; a line says what is missing."""
    if unknown := [name for name in names if name not in [method.name for method in methods]]:
        known = "; ".join(method.name for method in methods)
        _stop(f"no method {'; '.join(unknown)}; there are {known}")
    chosen = [method for method in methods if not names or method.name in names]
    for method in chosen:
        if method.missing:
            console.print(f"{method.name}: skipped, {method.missing}", style="yellow", markup=False)
    return [method for method in chosen if not method.missing]


def _stop(reason: object) -> NoReturn:
    print(f"bench tables: {reason}", file=sys.stderr)
    sys.exit(2)


def main(
    *,
    quick: bool,
    out: Path,
    folders: Sequence[Path] | None = None,
    folds: int = FOLDS,
    again: bool = False,
    names: Sequence[str] = (),
    python: Path = table_methods.RIVALS_PYTHON,
) -> list[dict]:
    """Measure, print, and keep the results unless it was the quick form, which makes up its tables."""
    console, effort = Console(width=220), table_methods.QUICK if quick else table_methods.FULL
    results = Results(None if quick else out / "tables.csv", again)
    kept = len(results.rows)
    with tempfile.TemporaryDirectory() as folder:
        if quick:
            made_up(Path(folder))
        try:
            tables = read([Path(folder)] if quick else folders or [])
        except ValueError as error:
            _stop(error)
    with table_methods.methods(effort, python) as methods:
        order = [method.name for method in methods]
        run(tables, _chosen(methods, names, console), 1 if quick else folds, results, console)
    if kept:
        console.print(
            f"{out / 'tables.csv'} had {kept} rows, which are among these; --again measures them anew"
        )
    if results.rows:
        show(results.rows, order, console)
    return results.rows
