"""Parameters of a network whose columns grew."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, PyTree

from jaxreg.columns.columns import Columns

# What stands before the first layer, and the layer itself; without one, all heads take the inputs.
BEFORE, FIRST = "embedding", "hidden_0"


def carried(params: PyTree, old: Columns, new: Columns) -> PyTree:
    """The parameters of an ensemble of regressors for the columns that `Columns.grown` gave.

    Rows of levels and gaps that were known are predicted as before. A new level begins as what it was taken
    for: that of a learned vector as the vector of the rare levels, that of an input as no level at all.

    Args:
        params: with a leading axis of members, of a network behind `Columns.embedding`.
        old: the columns that they belong to.
        new: the columns that grew.
    """
    own = dict(params["params"])
    first = [FIRST] if FIRST in own else [name for name in own if name != BEFORE]
    members, rows, _ = np.shape(own[first[0]]["kernel"])
    dtype, at = own[first[0]]["kernel"].dtype, _rows(old, new, rows)
    for name in first:
        kernel = np.where((at >= 0)[:, None], np.asarray(own[name]["kernel"])[:, at], 0)
        own[name] = {**own[name], "kernel": kernel.astype(dtype)}
    before = own.get(BEFORE, {})
    inner = {name: part for name, part in before.items() if not name.startswith("levels_")}
    found = _tables(before, old, new, members)
    tables = {f"levels_{i}": table.astype(dtype) for i, table in enumerate(found)}
    if inner or tables:
        own[BEFORE] = inner | tables
    return {"params": own}


def _rows(old: Columns, new: Columns, count: int) -> np.ndarray:
    """The row of an old kernel of so many rows for each row of the new one, -1 for none."""
    told = [
        (kind.name, what)
        for part in ("flags", "vector")
        for kind in old.taken
        for what in _inputs(kind, part)
    ]
    numbers = count - len(told)
    place = {what: numbers + i for i, what in enumerate(told)}
    flags_of = {kind.name: kind.flags for kind in old.taken}
    found = list(range(numbers))
    for part in ("flags", "vector"):
        for kind in new.taken:
            for what in _inputs(kind, part):
                # Inputs that became a vector are its coordinates, in their order.
                was = (
                    flags_of[kind.name][what]
                    if part == "vector" and what < len(flags_of[kind.name])
                    else what
                )
                found.append(place.get((kind.name, was), -1))
    return np.array(found)


def _inputs(kind: Any, part: str) -> tuple:
    """What the first layer is given of a column: names of flags, or numbers of a vector's coordinates."""
    if part == "flags":
        return kind.flags
    return () if kind.vector is None else tuple(range(kind.vector[1]))


def _tables(
    before: dict, old: Columns, new: Columns, members: int
) -> Iterator[Float[np.ndarray, "members levels size"]]:
    """The learned vectors of each column that has them."""
    tables = iter([np.asarray(before[f"levels_{i}"]) for i in range(len(old.vectors))])
    for was, now in zip(old.taken, new.taken, strict=True):
        table = None if was.vector is None else next(tables)
        if now.vector is None:
            continue
        was, now = (getattr(kind, "category", kind) for kind in (was, now))
        rare = len(was.levels)
        places = dict(zip(was.levels, range(rare), strict=True))
        codes = np.array([*(places.get(level, rare) for level in now.levels), rare, rare + 1], float)
        if table is None:  # a level's inputs become its vector
            flags = was.encoded(codes).flags
            table = np.zeros((members, len(codes), now.size), np.float32)
            table[..., : flags.shape[1]] = flags
            yield table
        else:
            yield table[:, codes.astype(int)]
