"""Standard input as a file."""

import sys
from pathlib import Path

from jaxreg.files import scratch_folder


def as_file(path: Path) -> Path:
    """The same path, or for `-` a file with all that standard input holds.

    Raises:
        ValueError: if there is nothing.
    """
    if str(path) != "-":
        return path
    content = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    if not content:
        raise ValueError("standard input is empty: send a table to it, jaxreg predict MODEL - < rows.csv")
    kind = "parquet" if content.startswith(b"PAR1") else "csv"
    file = scratch_folder() / f"standard-input.{kind}"
    file.write_bytes(content)
    return file


def called(path: Path) -> str:
    """What messages call a path."""
    return "standard input" if str(path) == "-" else str(path)
