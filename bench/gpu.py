"""What a GPU gives: parity, speed, memory, and where the time goes, in one command of some minutes.

Parts come in order of worth, each with a share of the minutes. Every row is written as soon as it is found,
so that a run which is cut keeps what it has; a part that fails says so in a row and the next one begins.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.flatten_util import ravel_pytree

import torch_ref.losses
import torch_ref.training
from bench import rivals
from bench.machine import GPU, multiply_adds, seconds, versions
from bench.readme import ROOT
from bench.speed import (
    KEY,
    OURS,
    QUICK,
    SGD,
    TORCH_DEVICE,
    Contender,
    Effort,
    Problem,
    row,
    timed,
)
from jaxreg import data, fit_ensemble, gaussian_nll
from jaxreg.model import torch_weights
from jaxreg.training.fitting import PRECISIONS

NO_DEVICE = "bench gpu: JAX and PyTorch see no GPU here; --cpu runs every part at its smallest"
FIELDS = (
    *("part", "question", "hidden", "batch_size", "members", "what"),
    *("unit", "median", "least", "most", "rounds", "times_ours"),
)
FULL = Effort(0.2, 5, "inductor", quick=False)
# Losses after 50 steps: products in TF32 round to 11 bits.
TF32_DIFFERENCE = 1e-2
# An unfused step reads and writes parameters, velocities and gradients.
TRIPS = 6
COMMAND_BUFFERS = "--xla_gpu_enable_command_buffer=+WHILE --xla_gpu_graph_min_graph_size=1"
KERNELS_SHOWN = 15
MINUTE = 60


class Part(NamedTuple):
    """A part of the measurement, and its share of the time."""

    name: str
    rows: Callable[[Effort], Iterator[dict]]
    share: float


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Matrix products of float32 as they are, "float32", or rounded as a GPU likes it, "TF32", in both."""
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    with jax.default_matmul_precision("highest" if precision == "float32" else "default"):
        yield


def within(precision: str, contender: Contender) -> Contender:
    """A contender whose matrix products have a precision."""

    def run(n: int) -> None:
        with products(precision):
            contender.run(n)

    return Contender(run, contender.work)


def single(question: str, what: str, value: float, unit: str, label: dict | None = None) -> dict:
    """A row of something that was measured once."""
    return row(question, label or {}, what, np.array([value]), unit)


def parity(effort: Effort) -> Iterator[dict]:
    """The largest differences from PyTorch on the same device."""
    for wide in (True, False):
        with jax.enable_x64(wide), products("float32"):
            dtype = np.float64 if wide else np.float32
            for what, value, bound in differences(dtype, steps=20 if effort.quick else 200):
                if wide and not value <= bound:
                    raise AssertionError(f"{what} in {dtype.__name__} differs by {value:.1e} from PyTorch's")
                yield single("largest difference from PyTorch", what, value, dtype.__name__)


def differences(dtype: type, steps: int) -> Iterator[tuple[str, float, float]]:
    """What is compared, by how much it differs, and by how much it may in float64."""
    rng = np.random.default_rng(0)
    mean, log_var = rng.normal(size=20_000), rng.uniform(-30, 30, 20_000)
    y = mean + rng.normal(size=20_000) * np.exp(0.5 * log_var)
    given = [a.astype(dtype) for a in (y, mean, log_var)]
    tensors = [torch.tensor(a, device=TORCH_DEVICE) for a in given]
    for tensor in tensors[1:]:
        tensor.requires_grad_()
    theirs = torch_ref.losses.gaussian_nll(*tensors)
    theirs.sum().backward()
    yield "gaussian_nll", _apart(jax.jit(gaussian_nll)(*given), theirs), 1e-12
    gradients = jax.grad(lambda *a: gaussian_nll(*a).sum(), (1, 2))(*given)
    for name, gradient, tensor in zip(("mean", "log_var"), gradients, tensors[1:], strict=True):
        yield f"gaussian_nll, gradient by {name}", _apart(gradient, tensor.grad), 1e-12

    problem = Problem(128, 64, 1)
    x, y = (a.astype(dtype) for a in problem.rows)
    module = problem._module(problem.keys[0]).to(getattr(torch, dtype.__name__))
    optimizer = torch_ref.training.sgd(module, *SGD)
    state = problem.trainer.init(problem.keys[0], x)
    params = torch_weights.from_state_dict(problem.model, module.state_dict())
    state = state._replace(params=jax.tree.map(lambda a: jnp.asarray(a, dtype), params))
    order = np.concatenate([rng.permutation(len(x)) for _ in range(steps // problem.steps + 1)])
    losses = []
    for i in range(steps):
        rows = order[64 * i : 64 * (i + 1)]
        batch = [torch.tensor(a[rows], device=TORCH_DEVICE) for a in (x, y)]
        ours, theirs = (
            problem.trainer.step(state, (x[rows], y[rows])),
            torch_ref.training.step(module, optimizer, *batch),
        )
        state = ours[0]
        losses.append(abs(float(ours[1]) - theirs.item()))
        if i + 1 in (10, steps):
            weights = torch_weights.to_state_dict(problem.model, jax.device_get(state.params))
            own = module.state_dict()
            apart = max(_apart(value, own[name]) for name, value in weights.items())
            yield f"parameters after {i + 1} steps", apart, 1e-9
    yield f"loss, any of {steps} steps", max(losses), 1e-9


def _apart(ours: Any, theirs: torch.Tensor) -> float:
    """The largest difference, beside the size of the number or 1, whichever is larger."""
    ours, theirs = np.asarray(ours, np.float64), theirs.detach().cpu().numpy().astype(np.float64)
    return float(np.max(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1)))


def notebook(effort: Effort) -> Iterator[dict]:
    """Whole fits of the notebook's one network."""
    kinds = [rivals.Eager, *_compiled(effort)]
    if not effort.quick:
        kinds = [rivals.Notebook, rivals.CompiledStep, *kinds]
    with products("float32"):  # one network's products take next to no time on a GPU
        torch._dynamo.reset()
        problem = Problem(128, 64, 1)
        contenders = {OURS: problem.ours()} | {
            kind.name: problem.rival(kind, effort.backend) for kind in kinds
        }
        yield from timed("one network, whole fit", problem.label, contenders, effort)


def _compiled(effort: Effort) -> list[type[rivals.Rival]]:
    return [rivals.CudaGraphs, rivals.EpochGraph] if GPU else [rivals.CompiledFunctional]


def ensembles(effort: Effort) -> Iterator[dict]:
    """Compilation, memory, and time per member and step beside PyTorch and the limits, by members."""
    sizes = [2] if effort.quick else [1, 16, 64, 256, 1024, 4096]
    problems = {members: Problem(128, 64, members, TF32_DIFFERENCE) for members in sizes}
    params = sum(leaf.size for leaf in jax.tree.leaves(_states(Problem(128, 64, 1)).params))
    for members, problem in problems.items():  # in rising order: the device only tells its peak so far
        first, then = (seconds(partial(problem.fit, 1)) for _ in range(2))
        yield single("ensemble, to compile", OURS, first - then, "s", problem.label)
        memory = jax.local_devices()[0].memory_stats() or {}
        if peak := memory.get("peak_bytes_in_use"):
            used = peak / (4 * params * members)
            yield single("ensemble, peak memory", OURS, used, "times its parameters", problem.label)
    rates = {}
    for name, rate, unit in ceilings(effort):
        rates[name] = rate
        yield single("limits of the machine", name, rate, unit)
    for members in [m for m in (1024, 64, 1, 4096, 256, 16) if m in sizes] or sizes:
        problem = problems[members]
        torch._dynamo.reset()
        contenders = {OURS: within("TF32", problem.ours())}
        if members in (64, 1024):
            contenders[f"{OURS}, products in float32"] = problem.ours(precision="float32")
        with products("TF32"):
            for kind in _compiled(effort):
                contenders[kind.name] = within("TF32", problem.rival(kind, effort.backend))
        found = timed("ensemble, whole fit", problem.label, contenders, effort)
        yield from found
        ours = float(found[0]["median"])
        limits = {
            "limit: memory traffic of a step": 4 * TRIPS * params / rates["copy"] * 1e-3,
            "limit: products in TF32": 2 * multiply_adds(128, 64) / rates["products, TF32"] * 1e-6,
            "limit: products in float32": 2 * multiply_adds(128, 64) / rates["products, float32"] * 1e-6,
        }
        for name, value in limits.items():
            values = np.array([value])
            yield row("ensemble, whole fit", problem.label, name, values, "us", values / ours)
    few = {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.02"}
    told = process("limited", sizes[-1], **few)
    what = f"members side by side in {told['bytes'] / 1e9:.3g} GB, made up"
    yield single("ensemble, peak memory", what, told["side_by_side"], "members", problems[sizes[-1]].label)


def ceilings(effort: Effort) -> Iterator[tuple[str, float, str]]:
    """What the device reaches: bytes read and written by a copy, and products, one large or many small."""
    size = 2**16 if effort.quick else 2**29
    numbers = torch.ones(2, size, device=TORCH_DEVICE)
    yield "copy", 8 * size / _best(lambda: numbers[0].copy_(numbers[1])) * 1e-9, "GB/s"
    width, many = (256, 4) if effort.quick else (8192, 1024)
    large = torch.randn(width, width, device=TORCH_DEVICE)
    rows = torch.randn(many, 64, 128, device=TORCH_DEVICE)
    weights = torch.randn(many, 128, 128, device=TORCH_DEVICE)
    for precision in ("TF32", "float32"):
        with products(precision):
            one = 2 * width**3 / _best(lambda: large @ large) * 1e-12
            batch = 2 * many * 64 * 128**2 / _best(lambda: rows @ weights) * 1e-12
        yield f"products, {precision}", max(one, batch), "TFLOP/s"
        yield f"products of a step, {precision}", batch, "TFLOP/s"


def _best(function: Callable[[], object]) -> float:
    """The median time of a call, of many calls in a row."""

    def several() -> None:
        for _ in range(10):
            function()
        if GPU:
            torch.cuda.synchronize()

    several()
    return float(np.median([seconds(several) for _ in range(5)])) / 10


def _states(problem: Problem) -> Any:
    return jax.jit(jax.vmap(problem.trainer.init, (0, None)))(problem.keys, problem.rows[0])


def variants(effort: Effort) -> Iterator[dict]:
    """Other ways to run the same steps of an ensemble."""
    members, epochs = (2, 2) if effort.quick else (1024, 32)
    problem = Problem(128, 64, members, TF32_DIFFERENCE)
    ways = {"one loop, unrolled 1 time": loop(problem, epochs)}
    for unroll in (4,) if effort.quick else (4, 16):
        ways[f"one loop, unrolled {unroll} times"] = loop(problem, epochs, unroll=unroll)
    ways["one loop, a vector for each member"] = loop(problem, epochs, flat=True)
    with products("TF32"):
        losses = {name: way() for name, way in ways.items()}
    for name, loss in losses.items():
        apart = np.max(np.abs(loss - next(iter(losses.values()))))
        if not apart <= TF32_DIFFERENCE:
            raise AssertionError(f"{name} isn't the same training: its losses are {apart:.1e} apart")
    contenders = {OURS: problem.ours()}
    for name, way in ways.items():
        contenders[name] = Contender(
            lambda n, way=way: [way() for _ in range(n)], epochs * problem.steps * members
        )
    for side_by_side in (1,) if effort.quick else (128, 256, 512):
        contenders[f"{side_by_side} side by side"] = problem.ours(side_by_side=side_by_side)
    contenders = {name: within("TF32", contender) for name, contender in contenders.items()}
    for precision in ("float32", "bfloat16"):
        contenders[f"{OURS}, products in {precision}"] = problem.ours(precision=precision)
    yield from timed("variants, TF32 where not said", problem.label, contenders, effort)
    sizes = "2" if effort.quick else "1,128,256,1024"
    for flags in ("", COMMAND_BUFFERS):
        for each in process("ensemble", sizes, effort.seconds, XLA_FLAGS=flags)["found"]:
            question = f"variants, {'command buffers around loops' if flags else 'XLA as it is'}"
            label = problem.label | {"members": each["members"]}
            yield row(question, label, each["what"], np.array(each["microseconds"]), "us")


def precisions(effort: Effort) -> Iterator[dict]:
    """What the rounding of products costs members: NLL of rows that none has seen, less that in float32."""
    members, epochs = (2, 2) if effort.quick else (64, 300)
    problem = Problem(128, 64, members)
    x, y = data.sinusoid(jax.random.key(1), 4096)

    @jax.jit
    def nll(params: Any) -> jax.Array:
        means, log_vars = jax.vmap(problem.model.apply, (0, None))(params, x)
        return gaussian_nll(jnp.broadcast_to(y, means.shape), means, log_vars).mean(1)

    found = {}
    for precision in PRECISIONS:
        settings = {"members": members, "epochs": epochs, "batch_size": problem.batch_size}
        states = fit_ensemble(KEY, problem.trainer, problem.rows, precision=precision, **settings)[0]
        with products("float32"):
            found[precision] = np.asarray(nll(states.params))
    question = "a member's NLL of new rows, by precision of products"
    yield row(question, problem.label, "float32", found["float32"], "nats")
    for precision in list(PRECISIONS)[1:]:
        yield row(
            question,
            problem.label,
            f"{precision}, less float32",
            found[precision] - found["float32"],
            "nats",
        )


def loop(problem: Problem, epochs: int, *, unroll: int = 1, flat: bool = False) -> Callable[[], np.ndarray]:
    """All members' steps as one `lax.scan`; each member's losses in the first steps.

    With `flat`, a member's parameters are one vector, and so are its velocities.
    """
    trainer, (x, y), size = problem.trainer, problem.rows, problem.batch_size
    x, y = jnp.asarray(x), jnp.asarray(y)
    states = _states(problem)
    draw_order = jax.vmap(data.batch_order, (0, None, None))
    orders = jax.jit(lambda: jnp.stack([draw_order(problem.keys, e, len(x)) for e in range(epochs)], 1))()
    rows = orders.reshape(problem.members, epochs * problem.steps, size).swapaxes(0, 1)
    one, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], states.params))
    if flat:
        params = jax.vmap(lambda tree: ravel_pytree(tree)[0])(states.params)
        states = params, jnp.zeros_like(params)
    rate, momentum, decay = SGD

    def step(state: Any, own: jax.Array) -> tuple[Any, jax.Array]:
        if not flat:
            return trainer.step(state, (x[own], y[own]))

        def loss(vector: jax.Array) -> jax.Array:
            return gaussian_nll(y[own], *problem.model.apply(unravel(vector), x[own])).mean()

        vector, velocity = state
        value, gradient = jax.value_and_grad(loss)(vector)
        velocity = momentum * velocity + gradient + decay * vector
        return (vector - rate * velocity, velocity), value

    @jax.jit
    def run(states: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
        return jax.lax.scan(jax.vmap(step), states, rows, unroll=unroll)

    def call() -> np.ndarray:
        return np.asarray(run(states, rows)[1])[:3]

    return call


def estimators(effort: Effort) -> Iterator[dict]:
    """The estimator's default fit, and prediction with exact intervals, beside the machine's CPU."""
    predicted = 200 if effort.quick else 1_000_000
    for rows in (60,) if effort.quick else (3_000, 50_000):
        places = {"CPU": "cpu"} if not GPU else {"GPU": "", "CPU": "cpu"}
        for place, platform in places.items():
            told = process("estimator", rows, predicted, effort.quick, JAX_PLATFORMS=platform)
            for what, took in told.items():
                yield single(f"the estimator's defaults, {rows:,} rows", f"{what}, {place}", took, "s")


def process(what: str, *arguments: object, **environment: str) -> dict:
    """What another process measures (see bench.gpu_process); environment variables that are "" stay unset."""
    variables = {name: value for name, value in environment.items() if value}
    command = [sys.executable, "-m", "bench.gpu_process", what, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | variables, timeout=5 * MINUTE
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} ended with {done.returncode}: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def streaming(effort: Effort) -> Iterator[dict]:
    """Rows per second of an epoch on files, and of reading them alone."""
    if missing := [name for name in ("polars", "pyarrow") if find_spec(name) is None]:
        yield single("training on files", f"left out: needs {' and '.join(missing)}", np.nan, "")
        return
    from bench import scale, scale_process
    from jaxreg import sources

    rows = 8192 if effort.quick else 20_000_000
    with tempfile.TemporaryDirectory() as made:
        files = sources.from_files(scale.make(Path(made) / "files", rows), target="y").standardised()
        size, key = scale_process.BATCH, jax.random.key(scale_process.KEY_SEED)

        def read() -> None:
            for _ in files.stream([*data.key_words(key), 0], batch_size=size, batches=64):
                pass

        def train(members: int) -> None:
            fit_ensemble(key, scale_process.TRAINER, files, members=members, epochs=1, batch_size=size)

        question = f"{rows:,} rows of files, an epoch"
        yield single(question, "reading alone", rows / seconds(read), "rows/s")
        for members in (1,) if effort.quick else (16, 256):
            rate = rows / seconds(partial(train, members))
            yield single(question, f"reading and training {members} members", rate, "rows/s")


def profile(effort: Effort) -> Iterator[dict]:
    """Kernels of a step of an ensemble, and how much of its time they take."""
    members, epochs = (2, 4) if effort.quick else (1024, 16)
    problem = Problem(128, 64, members)
    for _ in range(2):
        problem.fit(epochs)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            problem.fit(epochs)
        (path,) = Path(folder).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
        prefix, line = ("/device:GPU", "Stream") if GPU else ("/host:CPU", "tf_XLA")
        events = [
            (event.name, event.duration_ns)
            for plane in planes
            if plane.name.startswith(prefix)
            for each in plane.lines
            if each.name.startswith(line)
            for event in each.events
            if event.duration_ns
        ]
    steps = epochs * problem.steps
    question, times = "a step of an ensemble, kernel by kernel", {}
    for name, took in events:
        times.setdefault(name, []).append(took)
    yield single(question, "kernels", len(events) / steps, "a step", problem.label)
    total = sum(took for _, took in events)
    yield single(question, "all kernels", total / steps * 1e-3, "us a step", problem.label)
    for name, own in sorted(times.items(), key=lambda item: -sum(item[1]))[:KERNELS_SHOWN]:
        what = f"{name}, {len(own) / steps:.2g} a step"
        yield single(question, what, sum(own) / steps * 1e-3, "us a step", problem.label)


PARTS = [
    Part("1", parity, 0.07),
    Part("2", notebook, 0.12),
    Part("3", ensembles, 0.33),
    Part("4", variants, 0.15),
    Part("4", precisions, 0.05),
    Part("5", estimators, 0.15),
    Part("6", streaming, 0.08),
    Part("7", profile, 0.05),
]


class Results:
    """Rows as they are found, in a file beside those of the parts that aren't measured now."""

    def __init__(self, path: Path | None, parts: Sequence[str]):
        self.rows: list[dict] = []
        self._began, self._extra = time.perf_counter(), versions()
        others = []
        if path is not None and path.exists():
            with path.open(newline="") as file:
                others = [row for row in csv.DictReader(file) if row["part"] not in parts]
        self._file = open(path or os.devnull, "w", newline="", buffering=1)
        self._writer = csv.DictWriter(self._file, [*FIELDS, *self._extra], restval="")
        self._writer.writeheader()
        self._writer.writerows(others)

    def add(self, part: str, found: dict) -> None:
        """Write a row and print it."""
        self.rows.append(dict.fromkeys(FIELDS, "") | {"part": part} | found | self._extra)
        self._writer.writerow(self.rows[-1])
        words = (
            found.get(name, "") for name in ("question", "members", "what", "median", "unit", "times_ours")
        )
        print(f"{self.seconds():5.0f} s ", *words, sep="  ", flush=True)

    def seconds(self) -> float:
        """How long it took so far."""
        return time.perf_counter() - self._began


def main(
    *, quick: bool, out: Path, minutes: float = 8, cpu: bool = False, parts: Sequence[str] = ()
) -> list[dict]:
    """Go through the parts, all or some; keep the rows unless it was the quick form or one without a GPU."""
    if not GPU and not cpu:
        print(NO_DEVICE, file=sys.stderr)
        sys.exit(2)
    asked = [part for part in PARTS if not parts or part.name in parts]
    effort = QUICK if quick or cpu else FULL
    results = Results(None if effort.quick else out / "gpu.csv", [part.name for part in asked])
    whole, deadline = sum(part.share for part in asked), 0.0
    for part in asked:
        deadline += part.share / whole * minutes * MINUTE
        about = part.rows.__name__
        if results.seconds() > deadline:
            results.add(part.name, single(about, "left out: no time", np.nan, ""))
            continue
        try:
            for found in part.rows(effort):
                results.add(part.name, found)
                if results.seconds() > deadline:
                    results.add(part.name, single(about, "cut: no time", np.nan, ""))
                    break
        except Exception as error:  # the other parts are worth having
            traceback.print_exc()
            results.add(part.name, single(about, f"failed: {error!r}"[:200], np.nan, ""))
    return results.rows
