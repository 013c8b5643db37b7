"""A folder of numbered checkpoints."""

import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from jaxreg.files import remove_leftovers
from jaxreg.model import archive

SUFFIX = ".jaxreg"


class Store:
    """Keeps the last few of a run's checkpoints, each a file such as `epoch_12.jaxreg`.

    What a killed process left of a file half written is deleted at the start; so one process has a store for
    itself.
    """

    def __init__(self, folder: Path, prefix: str, keep: int):
        self.folder, self.prefix, self.keep = folder, prefix, keep
        self._name = re.compile(rf"{prefix}_(0|[1-9][0-9]*){re.escape(SUFFIX)}")
        remove_leftovers(folder, self._name)

    def path(self, step: int) -> Path:
        """The file of a checkpoint."""
        return self.folder / f"{self.prefix}_{step}{SUFFIX}"

    def steps(self) -> list[int]:
        """The numbers of the checkpoints, in order."""
        names = (self._name.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def save(self, step: int, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Write a checkpoint, whole or not at all, then delete all but the last few."""
        archive.write(self.path(step), "checkpoint", header, arrays)
        for old in self.steps()[: -self.keep]:
            self.path(old).unlink()

    def load(self, step: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """A checkpoint's header and arrays, as `archive.read` reads them."""
        return archive.read(self.path(step), "checkpoint")

    def put_aside(self, step: int) -> None:
        """Give a damaged checkpoint another name; it isn't deleted, since the reason may lie elsewhere."""
        path = self.path(step)
        names = (path.with_name(f"{path.name}.damaged{f'_{i}' if i > 1 else ''}") for i in count(1))
        path.rename(next(name for name in names if not name.exists()))
