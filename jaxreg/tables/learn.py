"""What is learned of rows in files in one pass: how columns are taken, and the target's scale."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from jaxreg.checks import check_varies
from jaxreg.columns import Columns, Counts, as_table, count, picked
from jaxreg.data.far import warn_of_far
from jaxreg.data.rows import row_fractions
from jaxreg.data.scaler import Scaler
from jaxreg.plain import warn
from jaxreg.tables.prefetch import prefetch

# Rows of the sample of which quantiles are learned, and what tells it from other samples.
SAMPLE_ROWS, SAMPLE_TAG = 2**17, 2
# Columns of a sample that hold the rows' numbers and targets: private-use characters of Unicode.
NUMBER, TARGET = "\ue001", "\ue002"


class Moments(NamedTuple):
    """Of some values: how many, their mean, and the sum of squares around it."""

    count: Float[np.ndarray, "..."]
    mean: Float[np.ndarray, "..."]
    squares: Float[np.ndarray, "..."]

    def merged(self) -> "Moments":
        """Those of all parts along the first axis, in their order.

        Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance": no digits are lost
        however many parts there are.
        """
        total, mean, squares = 0.0, np.zeros_like(self.mean[0]), np.zeros_like(self.mean[0])
        with np.errstate(over="ignore", invalid="ignore"):  # overflows are named by the caller
            for number, own, square in zip(*self, strict=True):
                if number:
                    apart, total = own - mean, total + number
                    mean = mean + apart * (number / total)
                    squares = squares + square + apart**2 * (number * (total - number) / total)
        return Moments(total, mean, squares)


def learn(
    files: Any, asked: dict[str, Sequence[str | int]], known: tuple[Columns, Scaler] | None = None
) -> tuple[tuple[Columns, Scaler], tuple[float, float]]:
    """`Files.learned`, which says what it does."""
    names, given = list(files.features), asked.get("categories", ())
    levels = {given} if isinstance(given, str) else set(map(str, given))
    levels |= set() if known is None else set(known[0].with_levels)
    share, row_groups = SAMPLE_ROWS / files.rows, files.own_row_groups()

    def seen() -> dict[str, np.ndarray]:
        counts, sample, targets = [], [], []
        for row_group, table in zip(row_groups, prefetch(map(files.table, row_groups)), strict=True):
            y = table.get_column(files.target).to_numpy()
            try:
                rows = as_table(picked(table, names))
            except ValueError as error:
                raise ValueError(f"{row_group} {error}") from None
            numbers = row_group.numbers
            present = ~np.isnan(y) & ~files.is_absent(numbers)
            chosen = present & (row_fractions([SAMPLE_TAG], numbers) < share)
            of_row = pl.Series(NUMBER, numbers[chosen]), pl.Series(TARGET, y[chosen])
            sample.append(rows.filter(chosen).with_columns(*of_row))
            rows, missing, y = rows.filter(present), int(np.isnan(y).sum()), y[present]
            own = [count(rows.get_column(name).alias(""), name in levels) for name in names]
            counts = [a + b for a, b in zip(counts, own, strict=True)] if counts else own
            mean, ends = (y.mean(), (y.min(), y.max())) if len(y) else (0.0, (np.inf, -np.inf))
            targets.append((row_group.first, len(y), mean, ((y - mean) ** 2).sum(), *ends, missing))
        levels_of = [
            own.levels.with_columns(column=pl.lit(i))
            for i, own in enumerate(counts)
            if own.levels is not None
        ]
        none = pl.DataFrame(schema={"level": pl.String, "count": pl.Int64, "column": pl.Int32})
        return {
            "counts": np.array([(own.rows, own.missing, own.forgotten) for own in counts]),
            "levels": packed(pl.concat([none, *levels_of], how="vertical_relaxed")),
            "sample": packed(pl.concat(sample, how="vertical_relaxed")),
            "targets": np.array(targets),
        }

    everywhere = files.of_all_processes(seen)
    counts: list[Counts] = []
    for part in everywhere:
        found = unpacked(part["levels"])
        parted = {i: own.drop("column") for (i,), own in found.partition_by("column", as_dict=True).items()}
        own = [
            Counts(int(rows), int(missing), parted.get(i), bool(forgotten))
            for i, (rows, missing, forgotten) in enumerate(part["counts"])
        ]
        counts = [a + b for a, b in zip(counts, own, strict=True)] if counts else own
    sample = pl.concat([unpacked(part["sample"]) for part in everywhere], how="vertical_relaxed")
    targets = np.concatenate([part["targets"] for part in everywhere])
    targets = targets[np.argsort(targets[:, 0])]
    if missing := int(targets[:, 6].sum()):
        warn(f"{missing:,} of {files.rows:,} rows have no {files.target!r}: left out")
    total, mean, squares = Moments(*targets[:, 1:4].T).merged()
    if total:
        check_varies(repr(files.target), targets[:, 4].min(), targets[:, 5].max(), int(total))
    scaler = Scaler(np.asarray(mean), np.sqrt(squares / max(total, 1)))
    if not (total and 0 < scaler.scale < np.inf):
        raise ValueError(f"{files.target!r} has no values, or squares too small or large: use another unit")
    sample, ends = sample.sort(NUMBER), targets[:, 4:6].ravel()
    looked_at = np.r_[sample.get_column(TARGET).to_numpy(), ends[np.isfinite(ends)]]
    warn_of_far([looked_at], [f"the target {files.target!r}"], rows="values looked at")
    by_name = dict(zip(names, counts, strict=True))
    if known is not None:
        return (known[0].grown(by_name), known[1]), (float(ends.min()), float(ends.max()))
    columns = Columns.of_sample(sample.drop(NUMBER, TARGET), by_name, **asked)
    return (columns, scaler), (float(ends.min()), float(ends.max()))


def packed(table: pl.DataFrame) -> np.ndarray:
    """A table as bytes, which processes send each other."""
    return np.frombuffer(table.write_ipc(None).getvalue(), np.uint8)


def unpacked(content: np.ndarray) -> pl.DataFrame:
    """The table again."""
    return pl.read_ipc(np.asarray(content).tobytes())
