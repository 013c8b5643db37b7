"""Real data from the reader's folders, in the format that the uncertainty literature shares."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """A table of numbers and how often it is split.

    Attributes:
        name: of its folder or file.
        x: features, `(n, features)`.
        y: target, `(n,)`.
        n_splits: how many splits the literature reports.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    n_splits: int

    def splits(self, most: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Train and test rows, 90 % and 10 %, of the standard protocol (Hernández-Lobato & Adams 2015)."""
        rng, n = np.random.RandomState(1), len(self.x)
        for _ in range(min(self.n_splits, most or self.n_splits)):
            order = rng.choice(n, n, replace=False)
            yield order[: round(0.9 * n)], order[round(0.9 * n) :]


def read(folder: Path) -> list[Dataset]:
    """All sets of a folder.

    A set is a folder with `data.txt` (numbers, separated by blanks), `index_features.txt`, `index_target.txt`
    and `n_splits.txt`; or a file `NAME.txt` with a line of names, then numbers, the target last.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if (path / "data.txt").is_file():
            table, features, target, splits = (
                np.loadtxt(path / f"{name}.txt", ndmin=dims)
                for name, dims in (("data", 2), ("index_features", 1), ("index_target", 1), ("n_splits", 1))
            )
            x, y = table[:, features.astype(int)], table[:, int(target[0])]
            found.append(Dataset(path.name, x, y, int(splits[0])))
        elif path.suffix == ".txt":
            table = np.loadtxt(path, skiprows=1, ndmin=2)
            found.append(Dataset(path.stem, table[:, :-1], table[:, -1], 20))
    if not found:
        raise ValueError(f"{folder} holds no data sets: folders with data.txt, or .txt files, are needed")
    return found
