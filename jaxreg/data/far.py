"""Values far outside the rest of their column: codes for missing values, and mistakes."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from jaxreg.data.frames import MOST_FAULTS
from jaxreg.plain import warn

# What lies far outside: at most this share of a column, behind a gap so many times as wide as the range of
# all the rest. Draws of t(3) and of log-normals with sigma 1.5, whose tails are heavy, have no such gaps.
FAR_SHARE = 0.1
FAR_GAP = 30
FAR_ROWS = 10

# Numbers of nines from here on are codes also where they stand once.
LARGE_CODE = 999


def far_outside(values: Float[np.ndarray, " n"]) -> list[tuple[float, int]]:
    """Values that lie so far outside a column that they must be codes or mistakes, and how often each stands.

    At either end the widest gap is looked for, of which a tenth of the rows at most lie outside; it counts if
    it is 30 times as wide as the range of the rest without a tenth at the other end. So does that of a value
    that is repeated, in up to half of the rows. Of a number of nines, as codes for missing values are, a gap
    as wide as the middle nine tenths is enough, or none if it is negative and nothing else is.

    >>> import numpy as np
    >>> from jaxreg.data import far_outside
    >>> far_outside(np.r_[np.arange(30.0), -9999.0, -9999.0])
    [(-9999.0, 2)]
    """
    found: list[tuple[float, int]] = []
    rest = np.sort(values[np.isfinite(values)])
    most = int(FAR_SHARE * len(rest))
    while len(rest) >= FAR_ROWS and most > 0:
        (upper, high), (lower, low) = _end_gap(rest, most), _end_gap(-rest[::-1], most)
        if max(upper, lower) < FAR_GAP:
            break
        far = rest[len(rest) - high :] if upper >= lower else rest[:low]
        rest = rest[: len(rest) - high] if upper >= lower else rest[low:]
        most -= len(far)
        found += zip(*(part.tolist() for part in np.unique(far, return_counts=True)), strict=True)
    while len(rest) >= FAR_ROWS and (codes := [end for end in rest[[0, -1]] if _is_code(float(end), rest)]):
        found.append((float(codes[0]), int((rest == codes[0]).sum())))
        rest = rest[rest != codes[0]]
    return found


def _end_gap(ordered: np.ndarray, most: int) -> tuple[float, int]:
    """The widest gap among the last values, by the range below it from a tenth on, and how many lie above."""
    above = np.arange(1, most + 1)
    below = ordered[len(ordered) - above - 1]
    with np.errstate(over="ignore", invalid="ignore"):
        gap, reach = ordered[len(ordered) - above] - below, below - ordered[most]
        reach = np.where(reach > 0, reach, below - ordered[0])  # where most are one value
        ratio = np.where(reach > 0, gap / np.where(reach > 0, reach, 1), 0)
    at = int(np.argmax(ratio))
    return float(ratio[at]), int(above[at])


def _is_code(end: float, ordered: np.ndarray) -> bool:
    """Whether the first or last of some values is one that is repeated far outside the others."""
    others = ordered[ordered != end]
    count, nines = len(ordered) - len(others), set(f"{abs(end):.0f}") == {"9"} and end % 1 == 0
    if not 1 <= count <= len(ordered) / 2:
        return False
    low, high = np.quantile(others, [0.05, 0.95])
    with np.errstate(over="ignore"):
        gap, spread = np.abs(others - end).min(), high - low
    if nines and abs(end) >= LARGE_CODE:
        return bool(gap > spread) or (end < 0 <= others[0] and count > 1)
    return count > 1 and bool(gap > spread * (1 if nines and abs(end) > 9 else FAR_GAP) > 0)


def warn_of_far(
    columns: Iterable[Float[np.ndarray, " n"]],
    called: Sequence[str],
    *,
    rows: str = "rows",
) -> None:
    """Warn of columns with values far outside the rest, which spoil how the column is standardised.

    Args:
        columns: values of each.
        called: what the warning calls each.
        rows: what it calls the rows.
    """
    shown = [
        f"{name} holds {value:g} in {count:,} of {len(column):,} {rows}"
        for name, column in zip(called, columns, strict=True)
        for value, count in far_outside(column)
    ]
    if shown:
        more = f" and {len(shown) - MOST_FAULTS:,} more" if len(shown) > MOST_FAULTS else ""
        warn(
            f"{', '.join(shown[:MOST_FAULTS])}{more}, far outside the rest: if these are codes for missing "
            "values, or mistakes, drop or replace them, because they spoil the scale of the column"
        )
