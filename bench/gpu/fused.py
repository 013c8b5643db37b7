"""Steps of an ensemble in one kernel, whose weights stay on the chip, beside XLA's steps."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from bench.gpu import kernels
from bench.gpu.common import products, single, within
from bench.gpu.kernels import LEAVES
from bench.speed import OURS, ROWS, Contender, Effort, Problem, timed
from jaxreg import data

QUESTION = "a step in one kernel for all steps, beside XLA's"
BATCH = 64


class Steps:
    """An ensemble at its start, and the batches of its steps."""

    def __init__(self, members: int, steps: int):
        self.members, self.epochs = members, -(-steps * BATCH // ROWS)
        self.problem = Problem(128, BATCH, members)
        self.trainer, self.keys, self.rows = self.problem.trainer, self.problem.keys, self.problem.rows
        self.state = jax.vmap(lambda key: self.trainer.init(key, self.rows[0]))(self.keys)
        self.leaves = leaves_of(self.state.params) + leaves_of(self.state.opt_state.velocity)
        self.x, self.y = (a[:, :steps] for a in self.batches())

    def batches(self) -> tuple[Array, Array]:
        """The batches that `fit_ensemble` would draw, `(members, steps, rows)`."""
        return draw_batches(self.keys, *self.rows, self.epochs)

    def xla(self) -> tuple[list[Array], Array]:
        """The library's step under vmap, in a loop."""
        state, losses = xla_steps(self.trainer, self.state, self.x, self.y)
        return leaves_of(state.params) + leaves_of(state.opt_state.velocity), losses


@partial(jax.jit, static_argnums=3)
def draw_batches(keys: Array, x: Array, y: Array, epochs: int) -> tuple[Array, Array]:
    """Each member's batches in its own order, epoch after epoch."""
    draw = jax.vmap(jax.vmap(data.batch_order, (None, 0, None)), (0, None, None))
    order = draw(keys, jnp.arange(epochs), ROWS).reshape(len(keys), -1, BATCH)
    return jnp.asarray(x)[order, 0], jnp.asarray(y)[order]


@partial(jax.jit, static_argnums=0)
def xla_steps(trainer: object, state: PyTree, x: Array, y: Array) -> tuple[PyTree, Array]:
    """The library's steps on given batches."""

    def step(state: PyTree, batch: tuple[Array, Array]) -> tuple[PyTree, Array]:
        x, y = batch
        return jax.vmap(trainer.step)(state, (x[:, :, None], y))

    batches = jnp.swapaxes(x, 0, 1), jnp.swapaxes(y, 0, 1)
    state, losses = jax.lax.scan(step, state, batches)
    return state, losses.T


def leaves_of(params: PyTree) -> list[Array]:
    """Kernels and biases, without axes of length 1 where there are others."""
    found = [params["params"][layer][part] for layer, part in LEAVES]
    return [a.reshape(len(a), *([n for n in a.shape[1:] if n > 1] or [1])) for a in found]


def fused(effort: Effort) -> Iterator[dict]:
    """Compare each kernel's losses with those of the library's steps in float32, then time all of them."""
    members, steps = (2, 3) if effort.quick else (1024, 40)
    problem = Steps(members, steps)
    label = {"hidden": "128-128", "batch_size": BATCH, "members": members}
    ways = {"XLA's loop, TF32": problem.xla} | {
        name: partial(run, problem.leaves, problem.x, problem.y) for name, run in kernels.by_name().items()
    }
    ready = {}
    with products("float32"):
        right = np.asarray(problem.xla()[1])
    for name, way in ways.items():
        try:
            with products("TF32"):
                losses = np.asarray(jax.block_until_ready(way())[1])
        except Exception as error:  # the other kernels are worth having
            yield single(QUESTION, f"{name} failed: {error!r}"[:200], np.nan, "", label)
            continue
        what = f"{name}: largest difference of a loss from float32, {steps} steps"
        apart = float(np.max(np.abs(losses - right)) / np.max(np.abs(right)))
        yield single(QUESTION, what, apart, "of the largest loss", label)
        ready[name] = way
    ready["XLA's loop, float32"], ready["drawing the batches"] = problem.xla, problem.batches
    contenders = {OURS: within("TF32", problem.problem.ours())}
    for name, way in ready.items():
        contender = Contender(partial(_waited, way), members * steps)
        contenders[name] = within("float32" if "float32" in name else "TF32", contender)
    yield from timed(QUESTION, label, contenders, effort)


def _waited(action: Callable[[], object], times: int) -> None:
    for _ in range(times):
        jax.block_until_ready(action())
