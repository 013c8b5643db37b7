"""Coverage where it matters: group by group, and in the slab of features where it is worst."""

import math
import re
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxreg.checks import check_probability
from jaxreg.data.frames import TableLike, as_array
from jaxreg.distributions.base import Prediction
from jaxreg.metrics.checked import check_prediction
from jaxreg.plain import check_whole, counted

FIFTHS = 5
# Rows of one half, below which a slab says nothing.
FEWEST_OF_A_SLAB = 5
# What rows can be grouped by without labels.
OF_PREDICTION = "std", "mean"
# Halvings of the interval that the worst coverage is looked for in, and directions that are tried at once.
HALVINGS, AT_ONCE = 30, 64
NUMBER = re.compile(r"(?:(?<![\w-])-)?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


class GroupCoverage(NamedTuple):
    """How many values lie inside, below and above their interval, for each group of rows.

    Attributes:
        names: of the groups.
        rows: in each, or their weight, `(groups,)`.
        coverage: share inside, `(groups,)`.
        below: share below.
        above: share above.
        width: mean width of the intervals, in units of y.
        level: of the intervals.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    coverage: np.ndarray
    below: np.ndarray
    above: np.ndarray
    width: np.ndarray
    level: float


def coverage_by(
    prediction: Prediction,
    y: TableLike,
    groups: TableLike | str = "std",
    level: float = 0.95,
    *,
    sample_weight: TableLike | None = None,
) -> GroupCoverage:
    """Coverage of the central interval for each group of rows.

    Args:
        prediction: over `(n,)`; of several outputs take `prediction.output(i)` one by one.
        y: observed values, `(n,)`.
        groups: a label of each row, `(n,)`; or "std" or "mean", for fifths of the predicted std or mean.
        level: of the interval.
        sample_weight: weight of each row.

    Raises:
        ValueError: as `check_prediction`; for several outputs, labels of another number of rows, or a level
            outside (0, 1).

    >>> import jax.numpy as jnp
    >>> from jaxreg import Gaussian, metrics
    >>> prediction = Gaussian(jnp.zeros(4), jnp.zeros(4))
    >>> found = metrics.coverage_by(prediction, [0.0, 3.0, 1.0, 0.0], ["old", "old", "new", "new"])
    >>> print(found.names, found.coverage)
    ('new', 'old') [1.  0.5]
    """
    check_probability("level", level)
    y, weight = check_prediction(prediction, y, sample_weight)
    check_one_output(prediction)
    names, of_row = group_rows(prediction, groups)
    lower, upper = (np.asarray(end, np.float64) for end in prediction.interval(level))
    weight = np.ones(len(y)) if weight is None else weight
    rows = np.bincount(of_row, weight, len(names))

    def share(values: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # a group whose rows weigh nothing
            return np.bincount(of_row, weight * values, len(names)) / rows

    below, above = share(y < lower), share(y > upper)
    return GroupCoverage(names, rows, 1 - below - above, below, above, share(upper - lower), float(level))


def check_one_output(prediction: Prediction) -> None:
    """Raise for several outputs."""
    if np.ndim(prediction.mean) != 1:
        raise ValueError(
            f"rows are grouped for one output at a time, the prediction is over {np.shape(prediction.mean)}: "
            "take prediction.output(i)"
        )


def group_rows(prediction: Prediction, groups: TableLike | str) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of groups, and which of them each row is in."""
    n = len(np.asarray(prediction.mean))
    if isinstance(groups, str):
        if groups not in OF_PREDICTION:
            raise ValueError(f"groups are labels of rows, 'std' or 'mean', got {groups!r}")
        values = np.asarray(getattr(prediction, groups), np.float64)
        return fifths_of(values, edges_of(values), groups)
    labels = np.array([named(label) for label in as_array(groups).tolist()])
    if labels.shape != (n,):
        raise ValueError(
            f"groups have shape {labels.shape}, expected a label for each of {counted(n, 'row')}"
        )
    names, of_row = np.unique(labels, return_inverse=True)
    order = np.array(sorted(range(len(names)), key=lambda i: _place(names[i])), int)
    return tuple(names[order].tolist()), np.argsort(order)[of_row]


def _place(name: str) -> tuple[list[float], str]:
    """What names are sorted by: the numbers in them, 9 before 10, and then as text."""
    return [float(number.replace(",", "")) for number in NUMBER.findall(name)] or [math.inf], name


def named(label: Any) -> str:
    """A label as text; gaps are one group."""
    if label is None or type(label).__name__ in ("NAType", "NaTType"):
        return "missing"
    is_number = isinstance(label, float)
    if is_number and not label == label:
        return "missing"
    return str(int(label)) if is_number and label.is_integer() else str(label)


def edges_of(values: np.ndarray) -> np.ndarray:
    """What parts values into fifths; fewer where values are tied."""
    edges = np.quantile(values, np.arange(1, FIFTHS) / FIFTHS, method="inverted_cdf")
    return np.unique(edges[edges < values.max()])


def fifths_of(values: np.ndarray, edges: np.ndarray, what: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the parts between edges, and which of them each value is in."""
    ends = [f"{float(f'{edge:.4g}'):,g}" for edge in edges]
    if not ends:
        return (f"any {what}",), np.zeros(len(values), int)
    between = [f"{low} to {high}" for low, high in zip(ends[:-1], ends[1:], strict=True)]
    names = [f"at most {ends[0]}", *between, f"above {ends[-1]}"]
    return tuple(f"{what} {name}" for name in names), np.searchsorted(edges, values)


class Slab(NamedTuple):
    """Rows between two parallel planes in the space of features.

    Attributes:
        coverage: share of its rows inside their interval.
        rows: how many it holds.
        direction: across it, of length 1, `(features,)`, in units of the features' standard deviations.
        ends: where it begins and ends along that direction.
    """

    coverage: float
    rows: int
    direction: Float[np.ndarray, " features"]
    ends: tuple[float, float]


def worst_slab(
    prediction: Prediction,
    y: TableLike,
    x: TableLike,
    level: float = 0.95,
    *,
    share: float = 0.1,
    directions: int = 1000,
    seed: int = 0,
) -> Slab:
    """The slab of features with the worst coverage, which holds at least a share of the rows.

    It is found among random directions on one half of the rows and scored on the other, so that its coverage
    is no artefact of the search. Cauchois, Gupta & Duchi 2021, "Knowing what you know: valid and validated
    confidence sets in multiclass and multilabel prediction".

    Args:
        prediction: over `(n,)`.
        y: observed values, `(n,)`.
        x: features as numbers, `(n, features)`, without gaps.
        level: of the interval.
        share: of the rows that a slab holds at least.
        directions: how many are tried.
        seed: of the directions, and of the halves.

    Raises:
        ValueError: as `coverage_by`; for features that aren't finite numbers, or too few rows.

    >>> import jax.numpy as jnp, numpy as np
    >>> from jaxreg import Gaussian, metrics
    >>> x = np.linspace(-1, 1, 400)[:, None]
    >>> y = np.where(x[:, 0] > 0.5, 9.0, 0.0)  # a quarter of the rows is missed
    >>> slab = metrics.worst_slab(Gaussian(jnp.zeros(400), jnp.zeros(400)), y, x, share=0.2)
    >>> print(slab.coverage)
    0.0
    """
    check_probability("level", level)
    check_probability("share", share)
    check_whole("directions", directions, 1)
    y, _ = check_prediction(prediction, y)
    check_one_output(prediction)
    try:
        x = np.asarray(x, np.float64)
    except (ValueError, TypeError):
        raise ValueError(
            "x holds what is no number: give features as numbers, model.columns_.transform(x)"
        ) from None
    if x.ndim != 2 or len(x) != len(y):
        raise ValueError(f"x has shape {x.shape}, expected ({len(y)}, features)")
    if not np.isfinite(x).all():
        raise ValueError("x has missing or infinite values: give features as finite numbers")
    fewest = int(np.ceil(share * (len(y) // 2)))
    if fewest < FEWEST_OF_A_SLAB:
        raise ValueError(f"{counted(len(y), 'row')} are too few for slabs of a share of {share}")
    lower, upper = (np.asarray(end, np.float64) for end in prediction.interval(level))
    inside = ((y >= lower) & (y <= upper)).astype(float)
    scale = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1)
    rng = np.random.default_rng(seed)
    search, judge = np.array_split(rng.permutation(len(y)), 2)
    ways = rng.normal(size=(directions, x.shape[1]))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    best = (np.inf, 0, (0.0, 0.0))
    for first in range(0, directions, AT_ONCE):
        along = x[search] @ ways[first : first + AT_ONCE].T
        order = np.argsort(along, axis=0)
        means, begins, ends = _lowest_means(inside[search][order], fewest)
        i = int(means.argmin())
        if means[i] < best[0]:
            own = along[order[:, i], i]
            best = float(means[i]), first + i, (float(own[begins[i]]), float(own[ends[i] - 1]))
    _, way, (low, high) = best
    along = x[judge] @ ways[way]
    within = (along >= low) & (along <= high)
    if not within.any():
        raise ValueError(
            f"{counted(len(y), 'row')} are too few: the slab found on one half holds none of the other"
        )
    return Slab(float(inside[judge][within].mean()), int(within.sum()), ways[way], (low, high))


def _lowest_means(values: np.ndarray, fewest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each column the lowest mean of at least so many neighbours, and where they begin and end.

    A mean of at most t exists where the sum of `values - t` over some neighbours is at most 0.
    """
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    places, columns = np.arange(len(sums))[:, None], np.arange(values.shape[1])
    low, high = np.zeros(values.shape[1]), values.mean(axis=0)

    def least(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        excess = sums - t * places
        highest = np.maximum.accumulate(excess, axis=0)
        gaps = excess[fewest:] - highest[:-fewest]
        end = gaps.argmin(axis=0)
        return gaps[end, columns], end + fewest

    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        found = least(middle)[0] <= 0
        low, high = np.where(found, low, middle), np.where(found, middle, high)
    _, end = least(high)
    excess = sums - high * places
    begin = np.array([excess[: last - fewest + 1, i].argmax() for i, last in enumerate(end)])
    return (sums[end, columns] - sums[begin, columns]) / (end - begin), begin, end
