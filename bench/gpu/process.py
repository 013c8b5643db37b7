"""One process of a measurement of `bench.gpu`: `python -m bench.gpu.process WHAT ARGUMENTS` prints JSON."""

import faulthandler
import json
import math
import re
import sys
import warnings
from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from bench.gpu.common import states_of
from bench.gpu.variants import loop
from bench.machine import seconds
from bench.speed import Contender, Problem, units_for
from jaxreg import DeepEnsembleRegressor

ROUNDS, FEATURES, LIMITED_SECONDS = 5, 8, 90
SMALLEST = {"members": 2, "hidden": (8,), "epochs": 2, "frequency_scale": 0.25, "noise": 1}


def ensemble(sizes: str, target: str) -> dict[str, list[dict]]:
    """Microseconds of a member's step in whole fits, and in one loop around the steps alone."""
    found = []
    for members in map(int, sizes.split(",")):
        problem, epochs = Problem(128, 64, members), 32
        steps = loop(problem, epochs)
        ways = {
            "jaxreg": problem.ours(),
            "one loop": Contender(partial(_repeat, steps), problem.steps * members * epochs),
        }
        for what, (run, work) in ways.items():
            units = units_for(run, float(target))
            times = [seconds(partial(run, units)) / (units * work) * 1e6 for _ in range(ROUNDS)]
            found.append({"members": members, "what": what, "microseconds": times})
    return {"found": found}


def _repeat(function: Callable[[], object], times: int) -> None:
    for _ in range(times):
        function()


def memory(few: str, many: str) -> dict[str, float]:
    """A member's memory in times its parameters; in rising order: a device only tells its peak so far."""
    sizes, peaks = (int(few), int(many)), []
    for members in sizes:
        problem = Problem(128, 64, members)
        problem.fit(1)
        peaks.append((jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))
    params = sum(leaf.size for leaf in jax.tree.leaves(states_of(Problem(128, 64, 1)).params))
    return {"of_a_member": (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]) / (4 * params)}


def limited(members: str) -> dict[str, float]:
    """How many members are trained side by side where memory is limited, its bytes, and the time of a fit."""
    faulthandler.dump_traceback_later(LIMITED_SECONDS, exit=True)  # says where it waits
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        took = seconds(partial(Problem(128, 64, int(members)).fit, 1))
    faulthandler.cancel_dump_traceback_later()
    found = [re.search(r"side_by_side=(\d+)", str(each.message)) for each in told]
    memory = jax.local_devices()[0].memory_stats() or {}
    return {
        "side_by_side": next((int(each[1]) for each in found if each), int(members)),
        "bytes": memory.get("bytes_limit", math.inf),
        "seconds": took,
    }


def estimator(rows: str, predicted: str, smallest: str) -> dict[str, float]:
    """Seconds of a first fit, which compiles, of a second one, and of means and intervals for many rows."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(max(int(rows), int(predicted)), FEATURES))
    y = np.sin(2 * x[:, 0]) + x[:, 1] + (0.1 + 0.1 * np.abs(x[:, 2])) * rng.normal(size=len(x))
    x_train, y_train, x_new = x[: int(rows)], y[: int(rows)], x[: int(predicted)]
    model = DeepEnsembleRegressor(random_state=0, **(SMALLEST if smallest == "True" else {}))
    times = {name: seconds(lambda: model.fit(x_train, y_train)) for name in ("first fit", "second fit")}
    for name, predict in {"means": model.predict, "exact 95 % intervals": model.predict_interval}.items():
        predict(x_new)
        times[f"{name} of {len(x_new):,} rows"] = seconds(lambda predict=predict: predict(x_new))
    return times


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    whats = {"ensemble": ensemble, "estimator": estimator, "limited": limited, "memory": memory}
    told = whats[what](*arguments)
    print(json.dumps(told))
