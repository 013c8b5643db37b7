"""Standard input, pipes, and files without names of columns as files with them."""

import io
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

from jaxreg.cli.console import CALLED
from jaxreg.files import scratch_folder
from jaxreg.tables import check_suffix, with_names


def as_file(path: Path) -> Path:
    """The same path; for `-`, or a pipe as a shell makes of `<(...)`, a temporary file with what it holds.

    Raises:
        ValueError: if there is nothing.
    """
    if str(path) == "-":
        is_open = sys.stdin is not None and not sys.stdin.isatty()
        return _copied(sys.stdin.buffer if is_open else io.BytesIO(), called(path))
    if not path.is_fifo():
        return path
    with path.open("rb") as stream:
        return _copied(stream, called(path))


def with_line_of_names(paths: list[Path]) -> Path:
    """Copies of CSV files whose columns have no names, with names 0, 1, 2 ...: one file, or a folder.

    Raises:
        ValueError: for a Parquet file, which has names.
    """
    folder = scratch_folder()
    for i, path in enumerate(paths):
        if check_suffix(path) == ".parquet":
            raise ValueError(f"--no-header is for text files, and {path} has names of columns: leave it out")
        copy = folder / f"{i:06d}{path.suffix.lower()}"
        with_names(path, copy)
        CALLED[str(copy)] = f"{CALLED.get(str(path), str(path))} (below a line of names)"
    return copy if len(paths) == 1 else folder


def called(path: Path) -> str:
    """What messages call a path."""
    return "standard input" if str(path) == "-" else str(path)


def _copied(stream: BinaryIO, name: str) -> Path:
    start = stream.read(4)
    if not start:
        raise ValueError(f"{name} is empty: send a table to it, jaxreg predict MODEL - < rows.csv")
    file = scratch_folder() / f"rows.{'parquet' if start == b'PAR1' else 'csv'}"
    CALLED[str(file)] = name
    with file.open("wb") as copy:
        copy.write(start)
        shutil.copyfileobj(stream, copy)
    return file
