"""Runs of several processes, on one machine: each is what one process would have done."""

import inspect
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest
from jaxreg.ensemble import held_out_sample

from jaxreg import MeanVarRegressor, fit_ensemble, hosts, make_trainer, sgd, sources
from jaxreg.cli import app
from jaxreg.cli.inputs import check_same_job
from jaxreg.model import model_file
from jaxreg.training import members

KEY = jax.random.key(0)
TRAINER = make_trainer(MeanVarRegressor(hidden=(8,)), sgd(1e-2, 0.9))
MEMBERS = 5


def train(files, mesh=None, **more):
    """More than 200 steps."""
    given = {"epochs": 6, "batch_size": 48, "folds": 3, "patience": 5, "bootstrap": True} | more
    return fit_ensemble(KEY, TRAINER, replace(files, buffer=300), members=MEMBERS, mesh=mesh, **given)


# What each process runs; `test_hosts` is this file.
CODE = """
import sys, os, signal
sys.path.insert(0, "tests")
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
from jaxreg import Hook, hosts, sources
from dataclasses import replace
from pathlib import Path

folder, out, kill = sys.argv[1:4]
count, process, port = map(int, sys.argv[4:])
hosts.start(f"localhost:{port}", count, process, heartbeat=5)
from test_hosts import MEMBERS, train
assert [part["a"].tolist() for part in hosts.gather({"a": np.arange(process)})] == [
    list(range(i)) for i in range(count)
]
hosts.agree({"a": 1})
try:
    hosts.agree({"version": 1, "files": "one" if process < count - 1 else "two"})
except ValueError as error:
    assert str(error) == f"the processes differ in files: one on process 0, two on process {count - 1}"
else:
    raise AssertionError
files = sources.from_files(folder, target="y")
files = replace(files, process=(process, count)).standardised()

class Die(Hook):
    every = 0.5

    def after_chunk(self, run, history):
        if process == count - 1 and int(np.max(run.cursor[0])) >= 2:
            os.kill(os.getpid(), signal.SIGKILL)

if kill:
    try:
        train(files, hosts.make_mesh(MEMBERS), hooks=[Die()], epochs=10**6)
    except Exception as error:
        assert hosts.is_lost(error), error
        print(hosts.lost_message(str(error)), file=sys.stderr)
        hosts.leave(hosts.LOST_CODE)
for name, own_share in (("all", False), ("own", True)):
    states, history = train(replace(files, own_share=own_share), hosts.make_mesh(MEMBERS))
    leaves = {f"state{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(states))}
    arrays = {"loss": history.loss, "nll": history.validation_nll, "best": history.best_epoch}
    np.savez(f"{out}/{name}-{process}.npz", **arrays, **leaves)
print("done")
"""


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def without_stages(err):
    """Errors without the lines that say how far a fit is."""
    return re.sub(r"^\d of \d: .*\n", "", err, flags=re.M)


def launch(count, arguments):
    """Start processes; gives exit code, output and errors of each, and the seconds until the last ended."""
    port, began = free_port(), time.monotonic()
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(arguments(i, port), **given) for i in range(count)]
    ended = [(out, without_stages(err)) for out, err in (one.communicate(timeout=300) for one in started)]
    codes = [process.returncode for process in started]
    return [(code, *texts) for code, texts in zip(codes, ended, strict=True)], time.monotonic() - began


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    for i in range(4):
        x = rng.normal(1e3, 1, size=(410, 2))
        y = np.sin(x[:, 0]) + 0.3 * rng.normal(size=410)
        table = pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": y})
        table.write_parquet(folder / f"{i}.parquet", row_group_size=100)
    return folder


@pytest.fixture
def count(request):
    if request.param > 2 and not request.config.getoption("--many-processes"):
        pytest.skip("--many-processes")
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4], indirect=True)
def test_processes_train_what_one_does(folder, tmp_path, x64, count):
    command = [sys.executable, "-c", CODE, folder, tmp_path, "", count]
    ended, _ = launch(count, lambda i, port: list(map(str, [*command, i, port])))
    assert [code for code, *_ in ended] == [0] * count, ended
    assert all(out.endswith("done\n") for _, out, _ in ended)  # Gloo says where it is connected
    files = sources.from_files(folder, target="y").standardised()
    edges = [i * MEMBERS // count for i in range(count + 1)]
    for name in ("all", "own"):
        # A process's members are those that one process would have trained on that share.
        validation, rows = held_out_sample(KEY, files, MEMBERS, 3)
        held_out = {"validation": validation, "validation_rows": rows}
        shares = [files]
        if name == "own":
            shares = [replace(files, process=(i, count), own_share=True) for i in range(count)]
        alone = [train(share, **held_out) for share in shares]
        for process in range(count):
            with np.load(tmp_path / f"{name}-{process}.npz") as file:
                found = dict(file)
            for i in range(MEMBERS):
                owner = np.searchsorted(edges, i, side="right") - 1 if name == "own" else 0
                states, history = alone[owner]
                assert states.step[i] >= 200 / count
                best = found["nll"][i, found["best"][i]]
                np.testing.assert_allclose(found["loss"][i], history.loss[i], rtol=1e-12)
                np.testing.assert_allclose(found["nll"][i], history.validation_nll[i], rtol=1e-12)
                np.testing.assert_allclose(best, np.nanmin(history.validation_nll[i]), rtol=1e-12)
                for j, leaf in enumerate(jax.tree.leaves(states)):
                    np.testing.assert_allclose(found[f"state{j}"][i], leaf[i], rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4], indirect=True)
def test_the_others_end_when_one_is_killed(folder, tmp_path, count):
    command = [sys.executable, "-c", CODE, folder, tmp_path, "kill", count]
    ended, seconds = launch(count, lambda i, port: list(map(str, [*command, i, port])))
    assert seconds < 60
    assert ended.pop()[0] == -signal.SIGKILL
    for code, out, err in ended:  # by an error of a collective, or by JAX's own abort
        assert code in (hosts.LOST_CODE, -signal.SIGABRT) and "done" not in out
        assert hosts.LOST.search(err) or "was lost, so this one" in err, err


def command(folder, out, *more, epochs=40):
    given = [
        "--epochs",
        epochs,
        "--members",
        4,
        "--frequencies",
        2,
        "--batch-size",
        48,
        "--noise",
        "1",
        "--frequency-scale",
        1,
    ]
    start = [sys.executable, "-m", "jaxreg", "fit", folder, "--target", "y", "--out", out, "--no-cache"]
    return [str(part) for part in (*start, *given, *more)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [4], indirect=True)
@pytest.mark.parametrize("own_files, victim, epochs", [(False, 2, 40), (True, 0, 40)])
def test_a_killed_run_goes_on_bit_for_bit(folder, tmp_path, count, own_files, victim, epochs):
    def arguments(out, *more):
        def of(i, port):
            own = "--coordinator", f"localhost:{port}", "--processes", count, "--process", i
            share = ["--own-files"] if own_files else []
            return command(folder, tmp_path / out, *own, *share, *more, epochs=epochs)

        return of

    kept = "--checkpoint", tmp_path / "kept", "--checkpoint-every", 0.5
    given, port = arguments("model", *kept), free_port()
    started = [subprocess.Popen(given(i, port), stderr=subprocess.PIPE, text=True) for i in range(count)]
    while len(list(tmp_path.glob("kept/process_*/batch_*"))) < 2 * count:
        time.sleep(0.1)
        assert started[victim].poll() is None
    started[victim].kill()
    began = time.monotonic()
    errors = [without_stages(process.communicate(timeout=60)[1]) for process in started]
    assert time.monotonic() - began < 60 and not (tmp_path / "model").exists()
    codes = [process.returncode for process in started]
    assert codes.pop(victim) == -signal.SIGKILL and codes == [hosts.LOST_CODE] * (count - 1)
    del errors[victim]
    assert all(error.count("\n") == 1 and "start all again with --resume" in error for error in errors)
    for out, more in (("model", (*kept, "--resume")), ("whole", ())):
        ended, _ = launch(count, arguments(out, *more))
        assert [code for code, *_ in ended] == [0] * count, ended
        assert "the model is in" in ended[0][1] and all(out == "" for _, out, _ in ended[1:])
    assert (tmp_path / "model").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.slow
def test_a_file_of_one_row_group_is_read_by_all_processes(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")  # two programs differ by rounding
    one = tmp_path / "one.parquet"
    pl.read_parquet(folder).write_parquet(one)
    assert len(sources.from_files(one, target="y").row_groups) == 1

    def arguments(i, port):
        own = "--coordinator", f"localhost:{port}", "--processes", 2, "--process", i
        return command(one, tmp_path / "two", *own, epochs=5)

    ended, _ = launch(2, arguments)
    assert [code for code, *_ in ended] == [0, 0], ended
    ended = subprocess.run(
        command(one, tmp_path / "alone", "--read", "stream", epochs=5), capture_output=True
    )
    assert ended.returncode == 0, ended
    two, alone = (model_file.load(tmp_path / name) for name in ("two", "alone"))
    assert two.settings == alone.settings
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12),
        two.params,
        alone.params,
    )
    # Found by a search, which ends at a tolerance of its own.
    np.testing.assert_allclose(two.calibration.factor, alone.calibration.factor, rtol=1e-6)


@pytest.mark.slow
def test_processes_that_see_other_files_say_so(folder, tmp_path):
    (tmp_path / "other").mkdir()
    for path in sorted(folder.iterdir())[:3]:
        os.link(path, tmp_path / "other" / path.name)

    def arguments(i, port):
        own = "--coordinator", f"localhost:{port}", "--processes", 2, "--process", i
        return command([folder, tmp_path / "other"][i], tmp_path / "model", *own)

    ended, seconds = launch(2, arguments)
    said = "error: the processes differ in the number of files: 4 on process 0, 3 on process 1\n"
    assert ended == [(2, "", said)] * 2 and seconds < 60
    assert not (tmp_path / "model").exists()


@pytest.mark.longest
def test_a_number_that_is_taken_ends_the_run(folder, tmp_path):
    def start(i):
        own = "--coordinator", f"127.0.0.1:{port}", "--processes", 2, "--process", i, "--wait", 10
        given = command(folder, tmp_path / "m", *own, "--checkpoint", tmp_path / "kept", epochs=10**6)
        return subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    port = free_port()
    started = [start(i) for i in range(2)]
    while len(list(tmp_path.glob("kept/process_*/*_*"))) < 2:
        time.sleep(0.1)
        assert all(process.poll() is None for process in started), started[0].communicate()
    if os.path.exists("/proc/net/tcp"):
        text = "".join(Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6"))
        lines = [line.split() for line in text.splitlines()]
        where = [line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{port:04X}")]
        loopback = socket.htonl(0x7F000001)
        assert len(where) == 1 and where[0].endswith(f"{loopback:08X}:{port:04X}"), where
    started.append(start(1))
    errors = [without_stages(process.communicate(timeout=60)[1]) for process in started]
    assert [process.returncode for process in started] == [hosts.LOST_CODE, hosts.LOST_CODE, 2]
    words = "error: another process came as process 1, or that one was started again, which ends the run: "
    assert errors[:2] == [f"{words}start all again with --resume, each with a number of its own\n"] * 2
    assert "the run can't begin" in errors[2] and errors[2].count("\n") == 1


@pytest.mark.parametrize(
    "coordinator, expected",
    [
        (None, None), ("127.0.0.1:80", "127.0.0.1:80"), ("localhost:80", "localhost:80"), ("node7:80", None),
        ("[::1]:80", "[::1]:80"), ("10.0.0.7:80", "10.0.0.7:80"), ("localhost.evil:80", None),
    ],
)  # fmt: skip
def test_where_process_0_listens(monkeypatch, coordinator, expected):
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    assert hosts._own_address(coordinator) == expected
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "[::]:80")
    assert hosts._own_address(coordinator) is None


def test_lists_are_shown_where_they_differ(monkeypatch):
    ours, theirs = np.array(str(list(range(500)))), np.array(str([*range(499), -1]))
    monkeypatch.setattr(hosts, "gather", lambda own: [own, {"names": theirs}])
    with pytest.raises(ValueError, match=r"497, 498, 499\] on process 0, .* 498, -1\] on process 1"):
        hosts.agree({"names": ours})


def test_processes_of_other_versions_say_so(folder, monkeypatch):
    other = {"the version of optax": np.array("0.0.1")}
    monkeypatch.setattr(hosts, "gather", lambda own: [own, own | other])
    with pytest.raises(ValueError, match=r"the version of optax: \d\S+ on process 0, 0.0.1 on process 1$"):
        check_same_job(sources.from_files(folder, target="y"), {"seed": 0})


@pytest.mark.slow
def test_a_coordinator_that_is_not_there():
    given = "fit", "rows", "--target", "y", "--out", "m", "--wait", "3", "--processes", "2", "--process", "1"
    given += "--coordinator", f"localhost:{free_port()}"
    command = [sys.executable, "-m", "jaxreg", *given]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and ended.stdout == ""
    assert (
        "coordinator at localhost:" in ended.stderr and "not all 2 processes came within 3 s" in ended.stderr
    )
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "given, words",
    [
        ({"coordinator": "a:1"}, "--processes and --process must be given too"),
        ({"coordinator": "a", "processes": 2, "process": 0}, "--coordinator must be HOST:PORT, got 'a'"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "--process must be from 0 to 1, got 2"),
    ],
)
def test_how_no_run_starts(given, words):
    with pytest.raises(ValueError, match=words):
        hosts.start(**given)


def test_the_command_waits_as_long_as_the_library():
    assert app.START_SECONDS == hosts.START_SECONDS


def test_a_run_that_starts_too_late():
    code = "import jax; from jaxreg import hosts; jax.devices(); hosts.start('localhost:1', 1, 0)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ValueError: hosts.start has to come before anything is computed" in ended.stderr


def test_more_processes_than_members(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(ValueError, match="4 processes are more than 3 members can use: use fewer"):
        hosts.make_mesh(3)


class Device:
    platform = "gpu"

    def __init__(self, process):
        self.process_index = process


@pytest.mark.parametrize(
    "owners, axes, words",
    [
        ([0, 1, 2], ("members",), "2 members are too few for the 3 processes"),
        ([1, 2], ("members",), "mesh has no device of this process, 0"),
        ([0, 1], ("model",), r"one axis, 'members', it has \('model',\)$"),
        ([[0, 1]], ("members", "rows"), "batches aren't split over devices any more: .*--own-files"),
    ],
)
def test_meshes_that_cannot_be(owners, axes, words):
    class Fake:
        axis_names, devices = axes, np.vectorize(Device, otypes=[object])(owners)

    with pytest.raises(ValueError, match=words):
        inspect.unwrap(members.find_place)(Fake(), 2)
