"""Tables with text, dates and gaps, read by a description; `bench/tables.py` says how to write it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold, TimeSeriesSplit

from bench.prepared import days

DESCRIPTION = "tables.json"
FOLDS = 5
ROWS = 3000  # at most, drawn at random
FEWEST = 20
KEYS = ("file", "target", "leave_out", "header", "gaps", "time_order", "folds")


class Table(NamedTuple):
    """Rows of a table with a known target, and how they are split.

    Attributes:
        name: as described.
        x: features as they were read, text and gaps among them.
        y: targets, a column each.
        protocol: which rows were drawn and how they are split, in words; two measurements with the same
            words have the same rows.
        folds: training and test rows of each fold.
    """

    name: str
    x: pd.DataFrame
    y: pd.DataFrame
    protocol: str
    folds: list[tuple[np.ndarray, np.ndarray]]


def read(paths: Sequence[Path]) -> list[Table]:
    """All tables that some folders or description files name.

    Raises:
        ValueError: if a description or a table can't be used; the message names all that is wrong.
    """
    found: list[Table] = []
    wrong: list[str] = []
    for path in paths:
        path = path / DESCRIPTION if path.is_dir() else path
        for name, entry in _entries(path, wrong).items():
            own: list[str] = []
            if any(table.name == name for table in found):
                own.append("is described twice")
            else:
                table = _table(name, entry, path.parent, own)
                found += [] if table is None else [table]
            wrong += [f"{path}: {name}: {problem}" for problem in own]
    if wrong:
        raise ValueError("\n".join(wrong))
    return found


def described(paths: Sequence[Path]) -> list[tuple[str, Path, dict[str, Any]]]:
    """Name, file and description of each table, which isn't read."""
    wrong: list[str] = []
    found = []
    for path in paths:
        path = path / DESCRIPTION if path.is_dir() else path
        entries = _entries(path, wrong).items()
        found += [(name, path.parent / entry["file"], entry) for name, entry in entries]
    if wrong:
        raise ValueError("\n".join(wrong))
    return found


def _entries(path: Path, wrong: list[str]) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        wrong.append(f"{path}: can't be read ({error.strerror}); it has to say which tables there are")
    except ValueError as error:
        wrong.append(f"{path}: isn't JSON: {error}")
    else:
        if isinstance(entries, dict) and entries:
            return entries
        wrong.append(f"{path}: an object with an entry for each table is needed")
    return {}


def _table(name: str, entry: Any, folder: Path, wrong: list[str]) -> Table | None:
    if not isinstance(entry, dict) or "file" not in entry or not names(entry.get("target")):
        wrong.append('"file" and "target" are needed')
        return None
    if unknown := [key for key in entry if key not in KEYS]:
        wrong.append(f"unknown {', '.join(map(repr, unknown))}; there are {', '.join(KEYS)}")
    path = folder / entry["file"]
    try:
        frame = _frame(path, entry)
    except Exception as error:  # the readers of pandas raise many kinds
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error
        wrong.append(f"{path}: {reason}")
        return None
    targets, left_out = names(entry["target"]), names(entry.get("leave_out", []))
    order, folds = entry.get("time_order", False), entry.get("folds")
    special = names([key for key in (order, folds) if key is not None and not isinstance(key, bool)])
    if missing := [column for column in targets + left_out + special if column not in frame.columns]:
        wrong.append(f"no column {', '.join(map(repr, missing))}; there are {', '.join(frame.columns)}")
        return None
    known = _known(frame, targets, wrong)
    if not (features := [c for c in frame.columns if c not in {*targets, *left_out, *names(folds)}]):
        wrong.append("no column is left to predict from")
    if known.sum() < FEWEST:
        wrong.append(f"{known.sum()} rows with a known target; {FEWEST} are needed")
    if wrong:
        return None
    rows = frame[known]
    drawn = rows.sample(min(len(rows), ROWS), random_state=0)
    words, pairs = _split(drawn, order, folds)
    return Table(
        name,
        drawn[features].reset_index(drop=True),
        drawn[targets].astype(np.float64).reset_index(drop=True),
        f"{len(drawn)} of {len(rows)} rows, {len(features)} features, {words}",
        pairs,
    )


def _frame(path: Path, entry: dict) -> pd.DataFrame:
    gaps = entry.get("gaps", [])
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path).reset_index(drop=True)
        frame = frame.replace(dict.fromkeys(gaps, np.nan)) if gaps else frame
    else:
        header = "infer" if entry.get("header", True) else None
        frame = pd.read_csv(path, header=header, na_values=gaps, low_memory=False, skipinitialspace=True)
    return frame.set_axis([str(column) for column in frame.columns], axis=1)


def names(value: Any) -> list[str]:
    """One name or several, as a description has them, as a list."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [str(name) for name in values]


def _known(frame: pd.DataFrame, targets: list[str], wrong: list[str]) -> np.ndarray:
    known = frame[targets].notna().all(axis=1).to_numpy()
    for column in targets:
        values = pd.to_numeric(frame[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        if (bad := known & ~np.isfinite(values)).any():
            example = frame[column].to_numpy()[bad][0]
            wrong.append(f"target {column!r} isn't a finite number in {bad.sum()} rows, such as {example!r}")
    return known


def _split(
    drawn: pd.DataFrame, order: bool | str, folds: str | None
) -> tuple[str, list[tuple[np.ndarray, np.ndarray]]]:
    """The folds in words, and their rows. In time order the last rows are the first fold's test rows."""
    if folds is not None:
        labels = drawn[str(folds)].to_numpy()
        kept = pd.unique(drawn[str(folds)].dropna().sort_values())
        return f"folds of column {folds}", [
            (np.flatnonzero(labels != k), np.flatnonzero(labels == k)) for k in kept
        ]
    if order is not False:
        if order is True:
            times = drawn.index.to_numpy()
        else:
            column = drawn[str(order)]
            times = column if pd.api.types.is_numeric_dtype(column) else days(column)
        ranked = np.argsort(np.asarray(times, np.float64), kind="stable")
        pairs = list(TimeSeriesSplit(FOLDS).split(ranked))[::-1]
        return f"TimeSeriesSplit({FOLDS}), latest first", [(ranked[a], ranked[b]) for a, b in pairs]
    split = KFold(FOLDS, shuffle=True, random_state=42)
    return f"KFold({FOLDS}, shuffle=True, random_state=42)", list(split.split(drawn))
