"""How fast networks train: against what a user would write in PyTorch, and against the machine's limit.

Contenders train the same networks on the same batches; their losses are asserted to agree first. They are
timed in turn, round after round; the results are medians of times and of ratios within a round.
"""

import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import torch_ref.models
import torch_ref.training
from bench import rivals
from bench.machine import GPU, Limit, count_compilations, seconds, versions
from bench.readme import ROOT, write
from jaxreg import MeanVarRegressor, data, fit, fit_ensemble, make_trainer, sgd
from jaxreg.machine import cores
from jaxreg.model import torch_weights

OURS, LIMIT, LIMIT_ONE = "jaxreg", "limit of the machine", "limit of one core"
ROWS = 256
KEY = jax.random.key(1)
SGD = (rivals.LEARNING_RATE, rivals.MOMENTUM, rivals.WEIGHT_DECAY)
STEPS_COMPARED, LARGEST_DIFFERENCE = 50, 1e-4
TORCH_DEVICE = "cuda" if GPU else "cpu"
ALONE = [rivals.Notebook, rivals.Eager, rivals.CompiledStep]
TOGETHER = [rivals.Functional, rivals.CompiledFunctional]


class Contender(NamedTuple):
    """Something to time: `run(n)` does n units of work, each of `work` steps of one member."""

    run: Callable[[int], object]
    work: int


class Effort(NamedTuple):
    """How long to measure."""

    seconds: float
    rounds: int
    backend: str
    quick: bool


FULL, QUICK = Effort(0.7, 5, "inductor", quick=False), Effort(0.01, 2, "eager", quick=True)


class Problem:
    """Networks of one shape with their rows and batches, for us and for the rivals."""

    def __init__(
        self, width: int, batch_size: int, members: int, largest_difference: float = LARGEST_DIFFERENCE
    ):
        self.width, self.batch_size, self.members = width, batch_size, members
        self.largest_difference = largest_difference
        n = max(ROWS, batch_size)
        self.rows = tuple(np.asarray(a) for a in data.sinusoid(jax.random.key(0), n))
        self.steps = math.ceil(n / batch_size)
        self.model = MeanVarRegressor(hidden=(width, width))
        self.trainer = make_trainer(self.model, sgd(*SGD))
        self.keys = jax.random.split(KEY, members)
        self.label = {"hidden": f"{width}-{width}", "batch_size": batch_size, "members": members}

    def fit(self, epochs: int, **settings: object) -> np.ndarray:
        """Train all members as a user does; the last epoch's loss of each."""
        settings |= {"epochs": epochs, "batch_size": self.batch_size}
        if self.members == 1:
            return fit(self.keys[0], self.trainer, self.rows, **settings)[1].loss[-1:]
        return fit_ensemble(KEY, self.trainer, self.rows, members=self.members, **settings)[1].loss[:, -1]

    def ours(self, **settings: object) -> Contender:
        """Whole fits."""
        return Contender(partial(self.fit, **settings), self.steps * self.members)

    def rival(self, kind: type[rivals.Rival], backend: str) -> Contender:
        """A rival whose losses agree with ours, with the number of threads that is fastest for it.

        If it trains members one after another, one of them is timed for all.
        """
        members = self.members if issubclass(kind, rivals.Functional) else 1
        rows = tuple(torch.from_numpy(np.array(a)).to(TORCH_DEVICE) for a in self.rows)
        rival = kind([self._module(key) for key in self.keys[:members]], rows, self.batch_size, backend)
        epochs = max(2, math.ceil(STEPS_COMPARED / self.steps))
        orders = self._orders(epochs)[:, :members]
        rival.run(orders[:-1])
        apart = np.max(np.abs(self.fit(epochs)[:members] - rival.run(orders[-1:])))
        if not apart <= self.largest_difference:
            raise AssertionError(f"{kind.name} isn't the same training: its losses are {apart:.1e} from ours")

        order = torch.from_numpy(np.array(orders[:1], np.int64)).to(TORCH_DEVICE)

        def run(epochs: int, threads: int) -> None:
            torch.set_num_threads(threads)
            rival.run(order.expand(epochs, *order.shape[1:]))

        counts = {1} if GPU else {1, cores()}
        threads = min(counts, key=lambda threads: seconds(lambda: [run(2, threads) for _ in range(3)]))
        return Contender(lambda epochs: run(epochs, threads), self.steps * members)

    def _orders(self, epochs: int) -> np.ndarray:
        """The order of the rows for each epoch and member, `(epochs, members, rows)`."""
        draw = jax.vmap(data.batch_order, (0, None, None))
        return np.stack([np.asarray(draw(self.keys, epoch, len(self.rows[0]))) for epoch in range(epochs)])

    def _module(self, key: jax.Array) -> torch.nn.Module:
        params = jax.device_get(self.trainer.init(key, self.rows[0]).params)
        weights = torch_weights.to_state_dict(self.model, params)
        module = torch_ref.models.MeanVarRegressor(hidden=self.width)
        module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
        return module.to(TORCH_DEVICE)

    def compare(self, question: str, kinds: list[type[rivals.Rival]], effort: Effort) -> list[dict]:
        """Time ourselves, the rivals and the machine's products in turn."""
        torch._dynamo.reset()  # or it gives up on a function that it has compiled for many shapes
        contenders = {OURS: self.ours()} | {kind.name: self.rival(kind, effort.backend) for kind in kinds}
        name = LIMIT_ONE if self.members == 1 and not GPU else LIMIT
        limit = Limit(self.width, min(self.batch_size, len(self.rows[0])), self.members)
        return timed(question, self.label, contenders, effort, {name: limit.microseconds})


def timed(
    question: str,
    label: dict,
    contenders: dict[str, Contender],
    effort: Effort,
    limits: dict[str, Callable[[], float]] | None = None,
) -> list[dict]:
    """A row for each contender and limit: microseconds of a member's step, and how many times ours."""
    units = {name: units_for(contender.run, effort.seconds) for name, contender in contenders.items()}
    times = {name: [] for name in [*contenders, *(limits or {})]}
    for _ in range(effort.rounds):
        for name, (run, work) in contenders.items():
            n = units[name]
            times[name].append(seconds(partial(run, n)) / (n * work) * 1e6)
        for name, measure in (limits or {}).items():
            times[name].append(measure())
    ours = np.array(next(iter(times.values())))
    return [
        row(question, label, name, np.array(values), "us", np.array(values) / ours)
        for name, values in times.items()
    ]


def units_for(run: Callable[[int], object], target: float) -> int:
    """How many units of work take about the target time."""
    run(1)
    units, took = 1, 0.0
    while took < target / 4:
        units *= 4
        took = seconds(partial(run, units))
    return max(1, round(units * target / took))


def row(
    question: str, label: dict, what: str, values: np.ndarray, unit: str, ratios: np.ndarray | None = None
) -> dict:
    """A row of results: the median and the range of what was measured, and the median ratio to ours."""
    figures = {"median": np.median(values), "least": np.min(values), "most": np.max(values)}
    figures = {key: f"{value:.4g}" for key, value in figures.items()} | {"rounds": len(values)}
    ratio = "" if ratios is None else f"{np.median(ratios):.3g}"
    return {"question": question, **label, "what": what, "unit": unit, **figures, "times_ours": ratio}


def one_network(effort: Effort) -> list[dict]:
    """Whole fits of one network."""
    kinds = ALONE[::2] if effort.quick else ALONE
    return Problem(128, 64, 1).compare("one network, whole fit", kinds, effort)


def ensembles(effort: Effort) -> list[dict]:
    """Whole fits of ensembles."""
    sizes = [2] if effort.quick else [16, 64, 256]
    kinds = TOGETHER[1:] if effort.quick else [rivals.Notebook, *TOGETHER]
    long = effort._replace(seconds=3 * effort.seconds)
    return [r for m in sizes for r in Problem(128, 64, m).compare("ensemble, whole fit", kinds, long)]


def other_shapes(effort: Effort) -> list[dict]:
    """Smaller and wider networks, smaller and larger batches."""
    rows = []
    sizes = [(1, [rivals.Eager, rivals.CompiledStep]), (16, TOGETHER)]
    for width in [32, 128, 512]:
        for batch_size in [16, 64, 512]:
            if (width, batch_size) != (128, 64):
                for members, kinds in sizes:
                    problem = Problem(width, batch_size, members)
                    rows += problem.compare("other shapes, whole fit", kinds, effort)
    return rows


def single_step(effort: Effort) -> list[dict]:
    """A step called from Python, as in a loop of the user's own."""
    problem = Problem(128, 64, 1)
    batch = tuple(a[:64] for a in problem.rows)
    state = problem.trainer.init(KEY, problem.rows[0])
    module = problem._module(KEY)
    optimizer = torch_ref.training.sgd(module, *SGD)
    torch_batch = [torch.from_numpy(np.array(a)).to(TORCH_DEVICE) for a in batch]
    batch = tuple(jax.device_put(a) for a in batch)
    first = problem.trainer.step(state, batch)[1]
    apart = abs(float(first) - float(torch_ref.training.step(module, optimizer, *torch_batch)))
    if not apart <= LARGEST_DIFFERENCE:
        raise AssertionError(f"a step's loss differs by {apart:.1e} from PyTorch's")

    def ours(steps: int) -> None:
        now = state
        for _ in range(steps):
            now, loss = problem.trainer.step(now, batch)
        loss.block_until_ready()

    def theirs(steps: int) -> None:
        for _ in range(steps):
            loss = torch_ref.training.step(module, optimizer, *torch_batch)
        loss.item()

    torch.set_num_threads(1)
    contenders = {"jaxreg step": Contender(ours, 1), "PyTorch eager step": Contender(theirs, 1)}
    return timed("a single step called from Python", problem.label, contenders, effort)


def growth(effort: Effort) -> list[dict]:
    """Time per member and step, and memory, as ensembles grow."""
    sizes = [2, 4] if effort.quick else [16, 32, 64, 128, 256, 512]
    problems = {f"{members} members": Problem(128, 64, members) for members in sizes}
    contenders = {name: problem.ours() for name, problem in problems.items()}
    label = {"hidden": "128-128", "batch_size": 64, "members": ""}
    slow = effort._replace(seconds=effort.seconds * 4, rounds=1 if effort.quick else 3)
    rows = timed("growth, time per member and step", label, contenders, slow)
    few, many = 64, 1024  # fewer differ by less than a process's own memory varies
    for what, settings in list(MEMORY.items())[-1 if effort.quick else 0 :]:
        peaks = [[peak_memory(members, settings) for members in (few, many)] for _ in range(slow.rounds)]
        slopes = np.diff(peaks, axis=1)[:, 0] / (many - few) / bytes_of_params()
        label["members"] = f"{few} to {many}"
        rows.append(row("growth, peak memory", label, what, slopes, "times its parameters"))
    return rows


MEMORY = {
    "plain": "",
    "validation": "validation=rows",
    "hooks": "hooks=[Hook()]",
    "both": "validation=rows, hooks=[Hook()]",
}
MEMORY_CODE = """
import gc, re, sys
import jax, numpy as np
from jaxreg import Hook, MeanVarRegressor, data, fit_ensemble, make_trainer, sgd
rows = tuple(np.asarray(a) for a in data.sinusoid(jax.random.key(0)))
trainer = make_trainer(MeanVarRegressor(), sgd(5e-3, 0.9, 1e-4))
for repeat in range(2):
    open("/proc/self/clear_refs", "w").write("5")  # starts the peak anew: the second fit compiles nothing
    states, history = fit_ensemble(
        jax.random.key(1), trainer, rows, members=int(sys.argv[1]), epochs=6, batch_size=64, {settings}
    )
    del states
    gc.collect()
    jax.numpy.zeros(1).block_until_ready()  # JAX lets go of buffers of NumPy's at its next operation
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def peak_memory(members: int, settings: str) -> int:
    """Peak bytes of a process that trains so many members; on Linux."""
    command = [sys.executable, "-c", MEMORY_CODE.replace("{settings}", settings), str(members)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout) * 1024


def bytes_of_params() -> int:
    """Size of the parameters of one member in float32."""
    state = Problem(128, 64, 1).trainer.init(KEY, np.zeros((1, 1), np.float32))
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))


def sweep(effort: Effort) -> list[dict]:
    """64 settings of the optimizer against a loop of single fits, compiled before."""
    problem = Problem(128, 64, 4 if effort.quick else 64)
    rng = np.random.default_rng(0)

    def draw() -> dict[str, np.ndarray]:
        rates, decays = 10 ** rng.uniform([[-4], [-6]], [[-2], [-3]], (2, problem.members))
        return {
            "learning_rate": rates,
            "momentum": rng.uniform(0, 0.9, problem.members),
            "weight_decay": decays,
        }

    def together(epochs: int) -> None:
        fit_ensemble(
            KEY,
            problem.trainer,
            problem.rows,
            members=problem.members,
            numbers=draw(),
            epochs=epochs,
            batch_size=64,
        )

    def loop(epochs: int) -> None:
        for key, *setting in zip(problem.keys, *draw().values(), strict=True):
            fit(key, make_trainer(problem.model, sgd(*setting)), problem.rows, epochs=epochs, batch_size=64)

    question = "hyperparameter sweep"
    compiled = [count_compilations(lambda: together(3)) for _ in range(2)]
    work = problem.steps * problem.members
    long = effort._replace(seconds=effort.seconds * 4)
    contenders = {OURS: Contender(together, work), "loop of compiled single fits": Contender(loop, work)}
    rows = timed(question, problem.label, contenders, long)
    for what, number in zip(("the first sweep", "a second, of other numbers"), compiled, strict=True):
        rows.append(row(question, problem.label, what, np.array([number]), "programs compiled"))
    return rows


QUESTIONS = [one_network, ensembles, single_step, growth, sweep, other_shapes]


def show(rows: list[dict], console: Console) -> None:
    """One table for each question."""
    for question in dict.fromkeys(r["question"] for r in rows):
        names = "network", "batch", "members", "what", "median", "least", "most", "", "times ours"
        table = Table(*names, title=question)
        own = [r for r in rows if r["question"] == question]
        if own[0]["times_ours"]:
            table.caption = f"times ours: median of the ratios within a round; rounds: {own[0]['rounds']}"
        for r in own:
            keys = (
                "hidden",
                "batch_size",
                "members",
                "what",
                "median",
                "least",
                "most",
                "unit",
                "times_ours",
            )
            table.add_row(*(str(r[key]) for key in keys))
        console.print(table)


def draw(rows: list[dict], path: Path) -> Axes:
    """Time per member and step against the number of members, a line for each contender."""
    kept = [r for r in rows if r["question"] in ("one network, whole fit", "ensemble, whole fit")]
    fig = Figure(figsize=(9, 4.5), layout="constrained")
    ax = fig.subplots()
    styles, limits = {OURS: ("C0", "o-", 2.5)}, cycle(["x:", "+:", "1:"])
    marks = cycle(["s--", "D--", "v--", "^-.", "P-.", "*-."])
    for i, name in enumerate(dict.fromkeys(r["what"] for r in kept)):
        points = sorted((int(r["members"]), float(r["median"])) for r in kept if r["what"] == name)
        limit = ("0.3", next(limits), 1.5) if name.startswith("limit") else None
        color, style, width = styles.get(name) or limit or (f"C{i}", next(marks), 1.3)
        ax.plot(*zip(*points, strict=True), style, color=color, label=name, linewidth=width)
    ax.set(xscale="log", yscale="log", xlabel="members", ylabel="time per member and step (µs)")
    members = sorted({int(r["members"]) for r in kept})
    ax.set_xticks(members, [str(number) for number in members])
    low, high = ax.get_ylim()
    times = [digit * 10.0**power for power in range(-2, 5) for digit in (1, 2, 5)]
    times = [time for time in times if low <= time <= high]
    ax.set_yticks(times, [f"{time:g}" for time in times])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    ax.set_title(f"Network 128-128, batches of 64; {kept[0]['device']}", fontsize=10)
    fig.legend(loc="outside right upper", fontsize=8)
    fig.savefig(path, dpi=150)
    return ax


def main(*, quick: bool, out: Path) -> list[dict]:
    """Measure, print, and keep the results unless it was the quick form."""
    console, effort = Console(width=110), QUICK if quick else FULL
    rows = []
    for question in QUESTIONS[:-1] if quick else QUESTIONS:  # other shapes ask nothing new
        found = [r | versions() for r in question(effort)]
        show(found, console)
        rows += found
    if not quick:
        write(rows, out / "speed-cpu.csv")
        draw(rows, out / "speed-cpu.png")
    return rows
