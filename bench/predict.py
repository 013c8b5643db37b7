"""Intervals of an ensemble's mixture: ours against root finding row by row, and against random draws."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from bench.machine import seconds, versions
from bench.readme import write
from jaxreg import GaussianMixture

LEVEL = 0.95
DRAWS = 1000
LIMIT = "limit: the cdf and density at both ends, once"

# Distances of members' means, in their standard deviations.
CASES = {"members agree": 0.3, "members disagree": 3.0, "members far apart": 100.0}


class Effort(NamedTuple):
    """How much to measure."""

    rows: int
    members: int
    rounds: int


FULL, QUICK = Effort(100_000, 16, 5), Effort(300, 16, 1)


def ensemble(effort: Effort, apart: float, dtype: type) -> GaussianMixture:
    """Made-up predictions of rows whose mean and noise vary."""
    rng = np.random.default_rng(0)
    center, log_var = rng.normal(size=(2, effort.rows))
    log_var = log_var + 0.2 * rng.normal(size=(effort.members, effort.rows))
    means = center + apart * np.exp(0.5 * log_var) * rng.normal(size=log_var.shape)
    return GaussianMixture(*(jnp.asarray(a.astype(dtype)) for a in (means, log_var)))


def members_of(dist: GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations as float64, `(members, rows)`."""
    means, log_vars = (np.asarray(a, np.float64) for a in (dist.means, dist.log_vars))
    return means, np.exp(0.5 * log_vars)


def row_by_row(dist: GaussianMixture) -> np.ndarray:
    """Both ends by SciPy's `brentq`, row by row, bracketed by the members' quantiles."""
    tail = (1 - LEVEL) / 2
    means, stds = (np.ascontiguousarray(a.T) for a in members_of(dist))
    ends = np.empty((2, len(means)))
    for i, (mean, std) in enumerate(zip(means, stds, strict=True)):
        for end, sign in enumerate((1, -1)):
            own = sign * mean + std * ndtri(tail)
            ends[end, i] = sign * brentq(_off, own.min(), own.max(), (sign * mean, std, tail))
    return ends


def _off(x: float, means: np.ndarray, stds: np.ndarray, tail: float) -> float:
    return ndtr((x - means) / stds).mean() - tail


def by_draws(dist: GaussianMixture) -> np.ndarray:
    """Both ends as quantiles of 1,000 draws a row, in NumPy."""
    rng = np.random.default_rng(1)
    means, stds = members_of(dist)
    ends = []
    for block in np.array_split(np.arange(means.shape[1]), max(means.shape[1] // 2000, 1)):
        member = rng.integers(len(means), size=(DRAWS, len(block)))
        drawn = means[member, block] + stds[member, block] * rng.standard_normal(member.shape)
        ends.append(np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0))
    return np.concatenate(ends, axis=1)


def moment_matched(dist: GaussianMixture) -> np.ndarray:
    """Both ends of the Gaussian of the same mean and variance, as many libraries report them."""
    return np.stack(dist.moment_matched().interval(LEVEL))


def exact(dist: GaussianMixture) -> np.ndarray:
    """The mixture's own interval."""
    return np.stack(jax.block_until_ready(dist.interval(LEVEL)))


@jax.jit
def once(dist: GaussianMixture, ends: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The least work of any root finder: the mixture's cdf and density at two points a row."""
    stds = jnp.exp(0.5 * dist.log_vars)

    def add(sums: tuple, member: tuple) -> tuple[tuple, None]:
        mean, std = member
        z = (ends - mean[None]) / std[None]
        return (sums[0] + jax.lax.erfc(-(0.5**0.5) * z), sums[1] + jnp.exp(-0.5 * z * z) / std[None]), None

    return jax.lax.scan(add, (jnp.zeros_like(ends),) * 2, (dist.means, stds))[0]


def compare(case: str, effort: Effort) -> list[dict]:
    """A row for each way, in turn; errors are in standard deviations of the mixture."""
    with jax.enable_x64(True):
        wide = ensemble(effort, CASES[case], np.float64)
        std = np.asarray(wide.std)
    narrow = ensemble(effort, CASES[case], np.float32)
    ends = jnp.asarray(exact(narrow))

    def in_float64() -> np.ndarray:
        with jax.enable_x64(True):
            return exact(wide)

    ways: dict[str, Callable[[], object]] = {
        "jaxreg": lambda: exact(narrow),
        "jaxreg, float64": in_float64,
        "SciPy brentq, row by row": lambda: row_by_row(wide),
        "1,000 draws a row, NumPy": lambda: by_draws(wide),
        "Gaussian of the same moments": lambda: moment_matched(narrow),
        LIMIT: lambda: jax.block_until_ready(once(narrow, ends)),
    }
    found = {name: way() for name, way in ways.items() if name != LIMIT}
    reference = found["SciPy brentq, row by row"]
    errors = {name: (np.abs(ends - reference) / std).max() for name, ends in found.items()}
    if not errors["jaxreg, float64"] < 1e-9:
        raise AssertionError(f"{case}: intervals are off by {errors['jaxreg, float64']:.1e} stds")
    once(narrow, ends)
    times = {name: [] for name in ways}
    for _ in range(effort.rounds):
        for name, way in ways.items():
            times[name].append(seconds(way))
    ours = float(np.median(times["jaxreg"]))
    return [
        {
            "case": case,
            "rows": effort.rows,
            "members": effort.members,
            "what": name,
            "median_ms": f"{1e3 * np.median(own):.4g}",
            "least_ms": f"{1e3 * min(own):.4g}",
            "most_ms": f"{1e3 * max(own):.4g}",
            "times_ours": f"{np.median(own) / ours:.3g}",
            "largest_error_in_stds": f"{errors[name]:.1e}" if errors.get(name) else "",
        }
        for name, own in times.items()
    ]


def main(*, quick: bool, out: Path) -> list[dict]:
    """Measure, print, and keep the results unless it was the quick form."""
    console, rows, effort = Console(width=120), [], QUICK if quick else FULL
    for case in CASES:
        found = [r | versions() for r in compare(case, effort)]
        size = f"{found[0]['rows']:,} rows, {found[0]['members']} members"
        columns = ("what", "median_ms", "least_ms", "most_ms", "times_ours", "largest_error_in_stds")
        table = Table(*columns, title=f"{100 * LEVEL:g}% intervals, {case}: {size}")
        table.caption = f"times_ours: ratio of the medians; rounds: {effort.rounds}"
        for r in found:
            table.add_row(*(r[name] for name in columns))
        console.print(table)
        rows += found
    if not quick:
        write(rows, out / f"predict-{jax.default_backend()}.csv")
    return rows
