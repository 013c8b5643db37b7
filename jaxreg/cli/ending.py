"""How the command ends: in order, or with one line that says why. Nothing heavy is loaded for it."""

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from jaxreg.cli.console import err, note, out, prepare_streams
from jaxreg.files import renamed


def run(command: Callable[[], Any]) -> None:
    """Run the command; bad input ends with one line and exit code 2."""
    prepare_streams()
    out.quiet = False
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with warnings.catch_warnings():
            said = set()  # a table that is read twice is warned of once

            def warn(message: Warning | str, *_: Any) -> None:
                if str(message) not in said:
                    said.add(str(message))
                    note("warning", message, "yellow")

            warnings.showwarning = warn
            _until_written(command)
    except BrokenPipeError:  # whoever reads has enough
        leave(1)
    except SystemExit as ended:
        if ended.code:
            leave(ended.code)
        raise
    except Exception as error:
        _explain(error)
    except BaseException:
        _raise_alone()
    finally:
        signal.signal(signal.SIGTERM, before)


def _explain(error: Exception) -> NoReturn:
    """Say what was wrong, where that is the user's or the machine's, and end."""
    jax, hosts = sys.modules.get("jax"), sys.modules.get("jaxreg.hosts")
    if hosts is not None and hosts.is_lost(error):
        aborts = sys.modules.get("jaxreg.cli.aborts")
        report(hosts.lost_message(f"{error}{aborts.written() if aborts else ''}"), hosts.LOST_CODE)
    if jax is not None and isinstance(error, jax.errors.JaxRuntimeError):
        _raise_alone()
    if hasattr(error, "format_message"):  # of Typer's, for options
        report(error.format_message(), 2)
    if isinstance(error, ValueError | OSError | MemoryError | FloatingPointError):
        code = 2 if isinstance(error, ValueError | FileNotFoundError) else 1
        report(error, code)
    if isinstance(error, ModuleNotFoundError) and "pip install" in str(error):
        report(error, 2)
    if jax is not None and (fault := _platform_fault(jax)) is not None:
        report(fault, 2)
    _raise_alone()


def report(error: Exception | str, code: int) -> NoReturn:
    """One line for an error, as JSON where that was asked for; then the end."""
    if wants_json():
        text = renamed(" ".join(str(error).split()))
        err.file.write(json.dumps({"error": text, "exit_code": code}) + "\n")
    else:
        note("error", error, "red")
    leave(code)


def wants_json() -> bool:
    """Whether results and errors are printed as JSON."""
    return "--json" in sys.argv[1:]


def _until_written(command: Callable[[], Any]) -> None:
    """Run the command until all it printed is written."""
    try:
        command()
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            # Python would try it again at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


def _platform_fault(jax: Any) -> str | None:
    """What keeps JAX from running on what JAX_PLATFORMS names, if anything does."""
    try:
        jax.devices()
    except Exception as error:
        asked = jax.config.jax_platforms
        return f"JAX can't run on JAX_PLATFORMS={asked}: unset it, or install jax for it ({error!r:.300})"
    return None


def _raise_alone() -> NoReturn:
    """Raise what is being handled; where others would wait for this process, print it and end."""
    hosts = sys.modules.get("jaxreg.hosts")
    if hosts is not None and hosts.started():
        traceback.print_exc()
        hosts.leave(1)
    raise


def leave(code: int | str | None) -> NoReturn:
    """End the process; where others wait for it at their ends, at once."""
    hosts = sys.modules.get("jaxreg.hosts")
    if hosts is not None and hosts.started():
        hosts.leave(code)
    sys.exit(code)
