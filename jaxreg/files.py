"""Files that hold the old content or the whole new one, never a part."""

import atexit
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRATCH: set[Path] = set()
# What messages call files: names of copies' originals, by the copies' paths.
CALLED: dict[str, str] = {}


def renamed(text: str) -> str:
    """The same text with the names of `CALLED` in place of copies' paths."""
    for path, name in reversed(CALLED.items()):  # copies of copies first
        text = text.replace(path, name)
    return text


def check_writable(path: Path) -> None:
    """Raise unless a file can be made at a path; nothing is left behind.

    Raises:
        ValueError: if the path is a folder or a device, or its folder is missing or can't be written to.
    """
    path = _behind_links(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a device or a pipe, which would be replaced: give the name of a file")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} doesn't exist: make it first")
    try:
        _temporary(path).unlink()
    except OSError as error:
        what = path if error.errno == errno.ENAMETOOLONG else f"the folder {path.parent}"
        raise ValueError(f"{what} can't be written to: {error.strerror}") from None


def check_folder(path: Path) -> None:
    """Make a folder, if it isn't there, or raise unless files can be made in it.

    Raises:
        ValueError: if the path is a file, its parent is missing, or nothing can be written.
    """
    path = Path(path)
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise ValueError(f"the folder {path} can't be made: {error.strerror}") from None
    check_writable(path / "any")


def scratch_folder(within: str | Path | None = None) -> Path:
    """A new folder that is gone with its files when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="jaxreg-", dir=within))
    SCRATCH.add(folder)
    return folder


@atexit.register
def remove_scratch() -> None:
    """Delete the folders that `scratch_folder` made; for a process that ends by `os._exit`."""
    while SCRATCH:
        shutil.rmtree(SCRATCH.pop(), ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; flush it to disk and rename it when the block ends well.

    Of a symbolic link the file behind it is replaced.

    Raises:
        OSError: with the name of the path, for any within the block, a full disk for example.
    """
    path = _behind_links(path)
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.chmod(path.stat().st_mode if path.exists() else 0o666 & ~_umask())
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise OSError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: re.Pattern[str]) -> None:
    """Delete what killed processes left of files of such a name, as `replacing` calls them until it ends."""
    for path in folder.glob(".*.*.part"):
        if name.fullmatch(path.name[1:].rsplit(".", 2)[0]):
            path.unlink(missing_ok=True)


def _behind_links(path: str | Path) -> Path:
    """The file that a path or a symbolic link stands for, under the path itself if it is no link."""
    path = Path(path)
    if not path.is_symlink():
        return path
    found = Path(os.path.realpath(path))
    if found.is_symlink():
        raise ValueError(f"{path} is a symbolic link that leads nowhere: give another name")
    return found


def _temporary(path: Path) -> Path:
    """An empty file beside a path."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    return Path(name)


def _flush_folder(path: Path) -> None:
    """Have the disk keep the names in a folder; only POSIX can."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
