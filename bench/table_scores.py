"""Scores of predicted quantiles, means and densities, and what they say about methods over many tables."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

GRID = np.arange(1, 100) / 100
LEVELS = np.sort(np.r_[GRID, 0.025, 0.975])  # a prediction's quantiles
_ON_GRID = np.isin(LEVELS, GRID)
SCORES = (
    *("crps", "rmse", "nll", "interval_score90", "cover50", "cover90", "cover95", "below90", "above90"),
)
SECONDS = ("fit_cpu", "fit_wall", "predict_cpu", "predict_wall")


def pinball(y: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Pinball loss of quantiles `(levels, n)` of y (Koenker & Bassett 1978, "Regression quantiles")."""
    over = y - quantiles
    return np.maximum(levels[:, None] * over, (levels[:, None] - 1) * over)


def at(quantiles: np.ndarray, level: float) -> np.ndarray:
    """The quantile of one of LEVELS."""
    return quantiles[int(np.argmin(np.abs(LEVELS - level)))]


def scores(
    y: np.ndarray, mean: np.ndarray, quantiles: np.ndarray, log_density: np.ndarray | None
) -> dict[str, float]:
    """Scores of one target: the lower the better but for shares, in units of y but for NLL (nats) and shares.

    The CRPS is twice the mean pinball loss of the levels 0.01 to 0.99. The interval score is that of
    Gneiting & Raftery 2007, "Strictly proper scoring rules, prediction, and estimation": the width of the
    90 % interval, and 2 / 0.1 times how far y lies outside.

    Args:
        y: targets, `(n,)`.
        mean: predicted means, `(n,)`.
        quantiles: at LEVELS, `(levels, n)`; NaN where a method doesn't give a level.
        log_density: at y, `(n,)`, of a method that has it.
    """
    lower, upper = at(quantiles, 0.05), at(quantiles, 0.95)
    outside = np.maximum(lower - y, 0) + np.maximum(y - upper, 0)
    found = {
        "crps": 2 * np.mean(pinball(y, quantiles[_ON_GRID], GRID)),
        "rmse": np.sqrt(np.mean((y - mean) ** 2)),
        "nll": np.nan if log_density is None else -np.mean(log_density),
        "interval_score90": np.mean(upper - lower + 2 / 0.1 * outside),
        "below90": _share(y < lower, lower),
        "above90": _share(y > upper, upper),
    }
    for percent in (50, 90, 95):
        tail = (1 - percent / 100) / 2
        low, high = at(quantiles, tail), at(quantiles, 1 - tail)
        found[f"cover{percent}"] = _share((low <= y) & (y <= high), high - low)
    return {name: float(found[name]) for name in SCORES}


def _share(hits: np.ndarray, bound: np.ndarray) -> float:
    """The share of hits, or NaN where a bound isn't known."""
    return np.nan if np.isnan(bound).any() else float(np.mean(hits))


def interpolated(levels: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Quantiles at LEVELS from those `(levels, n)` at other levels: sorted, linear between, flat beyond."""
    ordered = np.sort(quantiles, axis=0)
    return np.stack([np.interp(LEVELS, levels, column) for column in ordered.T], axis=1)


Units = dict[tuple[str, str], dict[str, dict[str, dict]]]


def _units(rows: Sequence[dict]) -> Units:
    """Rows by table and target, then method, then fold."""
    found: Units = {}
    for row in rows:
        methods = found.setdefault((row["table"], row["target"]), {})
        methods.setdefault(row["method"], {})[row["fold"]] = row
    return found


def mean_over(folds: dict[str, dict], score: str, shared: set[str] | None = None) -> float:
    """Mean of a score over a method's folds, or over some of them; NaN if one doesn't have it."""
    kept = [row[score] for fold, row in folds.items() if shared is None or fold in shared]
    return float(np.mean([float(value) for value in kept])) if kept and all(kept) else np.nan


def _geometric(units: Units, first: str, method: str, score: str) -> tuple[float, int, int]:
    """Geometric mean over targets of a score's ratio to the first method's, how many, how many below 1."""
    ratios = []
    for methods in units.values():
        if first in methods and method in methods:
            shared = set(methods[first]) & set(methods[method])
            mine, its = (mean_over(methods[name], score, shared) for name in (method, first))
            if its > 0 and mine > 0:
                ratios.append(mine / its)
    value = float(np.exp(np.mean(np.log(ratios)))) if ratios else np.nan
    return value, len(ratios), int(np.sum(np.array(ratios) < 1))


def _ranks(units: Units, methods: Sequence[str]) -> np.ndarray:
    """Ranks by CRPS, `(targets, methods)`, of the targets that all methods were measured on."""
    found = []
    for own in units.values():
        if set(methods) <= set(own):
            shared = set.intersection(*(set(own[name]) for name in methods))
            values = [mean_over(own[name], "crps", shared) for name in methods]
            if np.isfinite(values).all():
                found.append(rankdata(values))
    return np.array(found).reshape(-1, len(methods))


def summary(rows: Sequence[dict], order: Sequence[str] = ()) -> list[dict]:
    """A row for each method: its scores beside the first method's, its rank, coverage and time.

    Args:
        rows: results, a row for each table, target, method and fold; an empty cell is a score that the method
            doesn't have.
        order: of the methods; others follow as they come. Ratios are to the first.
    """
    units, there = _units(rows), list(dict.fromkeys(row["method"] for row in rows))
    names = [name for name in order if name in there] + [name for name in there if name not in order]
    scored = [name for name in names if any(row["crps"] for row in rows if row["method"] == name)]
    ranks, out = _ranks(units, scored), []
    for name in names:
        own = [folds[name] for folds in units.values() if name in folds]
        crps, shared, better = _geometric(units, names[0], name, "crps")
        ranked = len(ranks) > 0 and name in scored
        place = ranks[:, scored.index(name)] if ranked else np.array([])
        line = {
            "method": name,
            "targets": str(len(own)),
            "crps_ratio": f"{crps:.3f}" if shared else "",
            "better": f"{better} of {shared}" if shared and name != names[0] else "",
            "interval_ratio": _or_empty(_geometric(units, names[0], name, "interval_score90")[0], ".3f"),
            "rank": f"{place.mean():.2f}" if ranked else "",
            "best": f"{np.sum(place == 1)} of {len(place)}" if ranked else "",
        }
        for share in ("cover50", "cover90", "cover95", "below90", "above90"):
            values = np.array([mean_over(folds, share) for folds in own])
            line[share] = (
                f"{100 * values[np.isfinite(values)].mean():.1f}" if np.isfinite(values).any() else ""
            )
        for time in SECONDS:
            line[time] = f"{np.median([float(row[time]) for folds in own for row in folds.values()]):.3g}"
        out.append(line)
    return out


def by_table(rows: Sequence[dict], order: Sequence[str] = ()) -> list[dict]:
    """A row for each table and target: the CRPS of each method that has it, a mean over its folds."""
    units = _units(rows)
    names = [line["method"] for line in summary(rows, order) if line["crps_ratio"]]
    out = []
    for (table, target), methods in units.items():
        found = {name: mean_over(methods[name], "crps") for name in names if name in methods}
        line = {"table": table, "target": target}
        line["folds"] = str(max(len(folds) for folds in methods.values()))
        out.append(line | {name: _short(found.get(name, np.nan)) for name in names})
    return out


def _or_empty(value: float, form: str) -> str:
    return f"{value:{form}}" if np.isfinite(value) else ""


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else _or_empty(value, ".4g")
