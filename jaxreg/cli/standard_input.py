"""Standard input and pipes as files."""

import io
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

from jaxreg.files import CALLED, scratch_folder

# By how such files begin.
SUFFIXES = {b"PAR1": "parquet", b"PK\x03\x04": "xlsx"}


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


def called(path: Path) -> str:
    """What messages call a path."""
    return "standard input" if str(path) == "-" else str(path)


def _copied(stream: BinaryIO, name: str) -> Path:
    start = stream.read(4)
    if not start:
        raise ValueError(f"{name} is empty: send a table to it, jaxreg predict MODEL - < rows.csv")
    file = scratch_folder() / f"rows.{SUFFIXES.get(start, 'csv')}"
    CALLED[str(file)] = name
    with file.open("wb") as copy:
        copy.write(start)
        shutil.copyfileobj(stream, copy)
    return file
