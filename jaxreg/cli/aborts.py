"""For the command alone: one line of ours where JAX's C++ ends a process that lost another one."""

import ctypes
import os
import signal
import sys
import tempfile
from typing import Any

from jaxreg.files import remove_scratch
from jaxreg.hosts import LOST_CODE, lost_message


class _Native:
    """Where the C++ libraries write from `take_over` on."""

    log: Any = None
    err: int = 2
    handler: Any = None  # kept, because C has but its address
    beginning: str | None = None


def take_over(beginning: str | None) -> None:
    """Keep what C++ writes to itself, and in place of its abort say one line.

    JAX ends a process that misses another by `abort`, with a stack of its own. Python's handlers of signals
    would have to wait for the main thread, which may be waiting for the lost process in a collective.

    Args:
        beginning: what to say of a process that can't join the others; None once it has.
    """
    _Native.beginning = beginning
    if _Native.log is not None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    _Native.log = tempfile.TemporaryFile()  # noqa: SIM115 - open until the process ends
    for name, number in (("stdout", 1), ("stderr", 2)):
        kept = os.dup(number)
        given = getattr(sys, name)
        stream = os.fdopen(kept, "w", buffering=1, encoding=given.encoding, errors=given.errors)
        setattr(sys, name, stream)
        os.dup2(_Native.log.fileno(), number)
        _Native.err = kept
    _Native.handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_aborted)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(_Native.handler, ctypes.c_void_p))


def written() -> str:
    """What C++ has written since."""
    if _Native.log is None:
        return ""
    _Native.log.seek(0)
    return _Native.log.read().decode(errors="replace")


def _aborted(_: int) -> None:
    message = _Native.beginning or lost_message(written())
    os.write(_Native.err, f"error: {message}\n".encode())
    remove_scratch()
    os._exit(2 if _Native.beginning else LOST_CODE)
