"""Other ways to run the same steps of an ensemble on a GPU."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bench.gpu.common import TF32_DIFFERENCE, process, products, states_of, within
from bench.speed import KEY, OURS, SGD, Contender, Effort, Problem, row, timed
from jaxreg import data, fit_ensemble, gaussian_nll
from jaxreg.training.fitting import PRECISIONS

COMMAND_BUFFERS = "--xla_gpu_enable_command_buffer=+WHILE --xla_gpu_graph_min_graph_size=1"


def variants(effort: Effort) -> Iterator[dict]:
    """Other ways to run the same steps of an ensemble."""
    members, epochs = (2, 2) if effort.quick else (1024, 32)
    problem = Problem(128, 64, members, TF32_DIFFERENCE)
    ways = {"one loop, unrolled 1 time": loop(problem, epochs)}
    for unroll in () if effort.quick else (4, 16):
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
    for side_by_side in (1,) if effort.quick else (128, 256):
        contenders[f"{side_by_side} side by side"] = problem.ours(side_by_side=side_by_side)
    contenders = {name: within("TF32", contender) for name, contender in contenders.items()}
    for precision in ("float32",) if effort.quick else ("float32", "bfloat16"):
        contenders[f"{OURS}, products in {precision}"] = problem.ours(precision=precision)
    yield from timed("variants, TF32 where not said", problem.label, contenders, effort)
    sizes = "2" if effort.quick else "1,128,1024"
    for flags in ("",) if effort.quick else ("", COMMAND_BUFFERS):
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
    states = states_of(problem)
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
