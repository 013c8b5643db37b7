"""Compiled programs kept on disk, so that the next process needn't compile them."""

import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import jax

from jaxreg.plain import warn

# JAX looks at every program in the folder whenever it writes one: 0.1 s for so many.
MOST_BYTES = 10**8
OTHERS_MAY_WRITE = 0o022
# JAX leaves out what compiles within a second, as most of our programs do.
KEEP_ALL = {"jax_persistent_cache_min_compile_time_secs": 0, "jax_persistent_cache_min_entry_size_bytes": -1}


def use_cache() -> Path | None:
    """Keep compiled programs in the user's cache folder; call it before anything is computed.

    The folder is `jaxreg/programs` within `$XDG_CACHE_HOME` or `~/.cache` on Linux, `~/Library/Caches` on
    macOS and `%LOCALAPPDATA%` on Windows. It holds at most 100 MB; programs that were not used for longest go
    first. A folder that is set already, by `JAX_COMPILATION_CACHE_DIR` for example, is used in its place,
    however large it grows.

    Returns:
        The folder in use, or None where it can't be written to or others may write to it.

    Raises:
        ModuleNotFoundError: if filelock isn't installed.

    Warns:
        UserWarning: if others may write to the folder, because programs in it are run.

    >>> import jaxreg
    >>> folder = jaxreg.use_cache()  # doctest: +SKIP
    """
    folder = jax.config.jax_compilation_cache_dir or _own_folder()
    if folder is None:
        return None
    for name, value in KEEP_ALL.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    return Path(folder)


def _own_folder() -> str | None:
    """The folder in the user's cache, of which JAX is told; None where it can't be used."""
    if find_spec("filelock") is None:
        raise ModuleNotFoundError("use_cache needs filelock: pip install filelock")
    try:
        folder = _user_folder() / "jaxreg" / "programs"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return None
        if _is_open_to_others(folder):
            warn(f"compiled programs aren't kept, because others may write to {folder} or own it: delete it")
            return None
        _remove_changed(folder)
    except (OSError, RuntimeError):  # no home, or none that can be written to
        return None
    # What JAX can't read or write all the same is compiled again.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    return str(folder)


def _user_folder() -> Path:
    """Where programs of the user keep what they can make again."""
    name, default = {
        "win32": ("LOCALAPPDATA", "AppData/Local"),
        "darwin": (None, "Library/Caches"),
    }.get(sys.platform, ("XDG_CACHE_HOME", ".cache"))
    folder = Path(os.environ.get(name, "")) if name else Path()
    return folder if folder.is_absolute() else Path.home() / default


def _is_open_to_others(folder: Path) -> bool:
    if os.name != "posix":
        return False
    found = folder.stat()
    return found.st_uid != os.getuid() or bool(found.st_mode & OTHERS_MAY_WRITE)


def _remove_changed(folder: Path) -> None:
    """Delete programs that were changed since JAX wrote them, or whose writing was cut off.

    JAX would neither read nor replace them. It notes the time in a second file whenever it has written or
    read a program, and stops writing where one of these is missing.
    """
    for program in folder.glob("*-cache"):
        used = program.with_name(program.name.removesuffix("-cache") + "-atime")
        if not used.exists() or used.stat().st_mtime_ns < program.stat().st_mtime_ns:
            program.unlink(missing_ok=True)
