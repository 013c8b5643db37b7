"""Many processes as one run, on JAX's own distributed runtime: how they start, agree, and end."""

import contextlib
import io
import ipaddress
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxreg.files import remove_scratch
from jaxreg.training.members import AXIS, wait_for_all

# Seconds until a process that can't begin says so, and until one that was lost is missed.
START_SECONDS = 40
HEARTBEAT_SECONDS = 15
LOST_CODE = 4

# Characters of a setting that processes differ in.
MOST_SHOWN = 200

# What JAX and its collectives say where another process is gone.
LOST = re.compile(
    r"gloo [\w-]+ failed|nccl|heartbeat|coordination.*unavailable|socket closed|by peer|devices failed", re.I
)
TAKEN = re.compile(r"(\d+) unexpectedly tried to connect with a different incarnation")
SILENT = re.compile(r"stopped sending heartbeats\):\s+([\d, ]+)")


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout: int = START_SECONDS,
    heartbeat: int = HEARTBEAT_SECONDS,
) -> None:
    """Join the processes of a run; before anything is computed. Without arguments JAX finds the cluster.

    A process that is lost later ends all others within about `heartbeat` seconds: JAX aborts them, or raises
    an error that `is_lost` knows. A process that meets an error should end by `leave`, because Python's own
    end waits for the others.

    Args:
        coordinator: `host:port` of process 0, which listens at this address alone if the host is `localhost`
            or an IP address, and else at all of its addresses; `JAX_COORDINATOR_BIND_ADDRESS` changes that.
        processes: how many there are.
        process: which one this is, from 0.
        timeout: seconds to wait for all to come.
        heartbeat: seconds without a sign of life after which a process is taken for lost.

    Raises:
        ValueError: if there is no cluster to be found, or the others don't come in time.
    """
    options = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if any(value is not None for value in options.values()):
        missing = [name for name, value in options.items() if value is None]
        if missing:
            raise ValueError(f"{' and '.join(missing)} must be given too, or none of the three")
        if not re.fullmatch(r"\S+:\d+", coordinator):
            raise ValueError(f"--coordinator must be HOST:PORT, got {coordinator!r}")
        if not 0 <= process < processes:
            raise ValueError(f"--process must be from 0 to {processes - 1}, got {process}")
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            coordinator_bind_address=_own_address(coordinator),
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=heartbeat,
        )
    except (RuntimeError, ValueError) as error:
        if re.search("(should|must) be defined", str(error)):
            raise ValueError(
                "no cluster was found (SLURM, MPI, Kubernetes): name it with --coordinator HOST:PORT "
                "--processes N --process I"
            ) from None
        if "must be called before" in str(error):
            raise ValueError("hosts.start has to come before anything is computed with JAX") from None
        words = cannot_begin(coordinator, processes, timeout)
        raise ValueError(f"{words} ({' '.join(str(error).split())[:200]})") from None


def cannot_begin(coordinator: str | None, processes: int | None, timeout: int) -> str:
    """What to tell a user of a process that can't join the others."""
    where = f" at {coordinator}" if coordinator else ""
    many = "all processes" if processes is None else f"all {processes} processes"
    return (
        f"the run can't begin: the coordinator{where} isn't there, or not {many} came within {timeout} s, "
        "each with a number of its own and the same --processes"
    )


def _own_address(coordinator: str | None) -> str | None:
    """Where process 0 listens; None leaves it to JAX."""
    if coordinator is None or "JAX_COORDINATOR_BIND_ADDRESS" in os.environ:
        return None
    host = coordinator.rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        return coordinator if host == "localhost" or ipaddress.ip_address(host) else None
    return None


def lost_message(error: object) -> str:
    """What to tell a user of a process whose run has lost another one, by JAX's error or its text."""
    text = str(error)
    if taken := TAKEN.search(text):
        return (
            f"another process came as process {taken[1]}, or that one was started again, which ends the run: "
            "start all again with --resume, each with a number of its own"
        )
    if not LOST.search(text):
        fatal = re.search(r"^F\d{4}.*", text, re.M)
        return f"JAX ended this process: {fatal[0][:400] if fatal else text[-400:]}"
    silent = SILENT.search(text)
    who = f"process {silent[1].strip()}" if silent else "another process, or the connection to it,"
    return f"{who} was lost, so this one ends too: start all again with --resume"


def started() -> bool:
    """Whether this process has joined others."""
    return jax.distributed.is_initialized()


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    return started() and bool(LOST.search(str(error)))


def leave(code: int) -> None:
    """End this process at once; the others, who would wait for it at their end, find it lost."""
    with contextlib.suppress(OSError):  # of a reader that has enough
        sys.stdout.flush()
        sys.stderr.flush()
    remove_scratch()
    os._exit(code)


def make_mesh(members: int) -> Mesh:
    """All devices of all processes, with the axis `members`, over which an ensemble is distributed.

    Args:
        members: networks to train.

    Raises:
        ValueError: if there are more processes than members.
    """
    count = jax.process_count()
    if count > members:
        raise ValueError(f"{count} processes are more than {members} members can use: use fewer")
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (AXIS,))


def gather(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The arrays of every process, in the order of the processes; bit for bit, and of any shapes.

    >>> import numpy as np
    >>> from jaxreg import hosts
    >>> hosts.gather({"a": np.arange(2)})
    [{'a': array([0, 1])}]
    """
    if jax.process_count() == 1:
        return [dict(arrays)]
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    packed = np.frombuffer(stream.getvalue(), np.uint8)
    wait_for_all()
    sizes = multihost_utils.process_allgather(np.int32(len(packed))).ravel()
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(packed)] = packed
    found = []
    for size, line in zip(sizes, multihost_utils.process_allgather(padded), strict=True):
        with np.load(io.BytesIO(line[:size].tobytes()), allow_pickle=False) as content:
            found.append(dict(content))
    return found


def agree(given: Mapping[str, Any]) -> None:
    """Raise, on every process, unless all were given the same.

    Raises:
        ValueError: names what differs and the first process that differs from process 0.
    """
    ours = {name: np.array(str(value)) for name, value in given.items()}
    first, *others = gather(ours)
    for i, theirs in enumerate(others, 1):
        for name in {**first, **theirs}:
            values = [str(each[name]) if name in each else "nothing" for each in (first, theirs)]
            if values[0] != values[1]:
                # Long lists are shown where they begin to differ.
                same = len(os.path.commonprefix(values))
                start = max(0, same - 50) if max(map(len, values)) > MOST_SHOWN else 0
                mine, other = (("... " if start else "") + value[start:][:MOST_SHOWN] for value in values)
                raise ValueError(
                    f"the processes differ in {name}: {mine} on process 0, {other} on process {i}"
                )


@contextlib.contextmanager
def checked_by_all() -> Iterator[None]:
    """Raise, on every process, the first error that any of them has within the block."""
    try:
        yield
    except (ValueError, OSError) as error:
        if jax.process_count() > 1:
            all_or_none(error)
        raise
    if jax.process_count() > 1:
        all_or_none(None)


def all_or_none(error: Exception | None) -> None:
    """Raise, on every process, the first error that any of them has."""
    for i, found in enumerate(gather({"error": np.array("" if error is None else str(error))})):
        if text := str(found["error"]):
            raise ValueError(f"process {i}: {text}" if jax.process_count() > 1 else text) from error
