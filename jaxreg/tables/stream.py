"""Rows in more files than memory holds: their places, their moments, and a shuffled stream of them."""

import heapq
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int

from jaxreg import hosts
from jaxreg.checks import check_varies
from jaxreg.data.border import default_dtype
from jaxreg.data.far import warn_of_far
from jaxreg.data.rows import Block, row_fractions
from jaxreg.data.scaler import Scaler
from jaxreg.plain import counted, listed
from jaxreg.tables.csv import KEPT
from jaxreg.tables.prefetch import prefetch

# Rows of the shuffle buffer: the stream's order is as good as random over this many rows.
BUFFER_ROWS = 2**18

# Steps in which a whole buffer of new rows replaces old ones. In one step a row group as large as the buffer
# would replace all others, and rows of different row groups would never be mixed.
STEPS = 8
BYTES_PER_VALUE = 8
MOMENTS = "firsts", "counts", "means", "squares", "least", "most"
MOST_NAMED = 5

# Rows that are searched for values far outside the rest: in all, and at least in each row group.
LOOKED_AT, LEAST_LOOKED_AT = 4096, 64


class RowGroup(NamedTuple):
    """A row group of a file: what is read at once.

    Attributes:
        path: the file.
        group: which of its row groups.
        rows: how many rows it has.
        first: the number of its first row among those of all files.
        file: the user's file, of which `path` may be a copy as Parquet.
        within: the number of its first row in that file.
    """

    path: Path
    group: int
    rows: int
    first: int
    file: Path
    within: int

    def __str__(self) -> str:
        if self.path == self.file:
            return f"{self.file}, row group {self.group},"
        return f"{self.file}, rows {self.within + 1:,} to {self.within + self.rows:,},"


@dataclass(frozen=True)
class Files:
    """A table in files that is read by row groups: a `data.Source`.

    Attributes:
        features: columns to predict from.
        target: column to predict; None where there is none.
        row_groups: all row groups, in the order of the files' names.
        types: of the columns, features first.
        units: scalers of features and target; None leaves them as they are.
        absent: `(seed, share)` of the rows that are left out, as if they weren't there.
        buffer: rows of a stream's shuffle buffer.
        process: index of this process, and number of processes that read these files; all of them must call
            `scalers` and `take`, and each reads its share.
        own_share: whether `batches` and `stream` give the rows of this process's share alone.
        keep: columns that are copied into predictions as they are.

    >>> import tempfile, numpy as np, polars as pl
    >>> from jaxreg import tables
    >>> folder = tempfile.mkdtemp()
    >>> pl.DataFrame({"a": np.arange(100.0), "y": np.arange(100.0)}).write_parquet(f"{folder}/0.parquet")
    >>> files = tables.from_files(folder, target="y").standardised()
    >>> block = next(files.stream([0], batch_size=20, batches=5))
    >>> block.x.shape, np.unique(block.numbers).size
    ((5, 20, 1), 100)
    """

    features: tuple[str, ...]
    target: str | None
    row_groups: tuple[RowGroup, ...]
    types: tuple[str, ...]
    units: tuple[Scaler, Scaler] | None = None
    absent: tuple[tuple[int, ...], float] | None = None
    buffer: int = BUFFER_ROWS
    process: tuple[int, int] = (0, 1)
    own_share: bool = False
    keep: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many there are in all files."""
        return sum(row_group.rows for row_group in self.row_groups)

    def standardised(self) -> "Files":
        """The same in units of standard deviations from the mean; all files are read once."""
        return replace(self, units=self.scalers())

    def without(self, seed: Sequence[int], most: int) -> "Files":
        """The same without the rows that `take` returns for the same arguments."""
        return replace(self, absent=(tuple(seed), min(1.0, most / self.rows)))

    def describe(self) -> dict[str, np.ndarray]:
        """Small arrays that identify these rows."""
        rows = [
            (row_group.path.name, str(row_group.group), str(row_group.rows)) for row_group in self.row_groups
        ]
        columns, more = np.array(self._names), f"{self.absent} {self.buffer} {self.own_share}"
        found = {"files": np.array(rows), "columns": columns, "rows left out": np.array(more)}
        if self.units is not None:
            found |= {
                f"{part} of {what}": np.asarray(value)
                for what, scaler in zip(("features", "target"), self.units, strict=True)
                for part, value in zip(("means", "standard deviations"), scaler, strict=True)
            }
        return found

    def read(
        self, row_group: RowGroup
    ) -> tuple[Float[np.ndarray, "rows features"], Float[np.ndarray, " rows"]]:
        """Features and targets of a row group as they are in the file, in float64.

        Raises:
            ValueError: names file, row group and column of missing or infinite values, and a row group that
                can't be read.
        """
        x, y = self._read(row_group)
        # The sum is finite if all values are, and takes half the time.
        if not np.isfinite(x.sum() + y.sum()):
            values = [*x.T, y][: len(self._names)]
            wrong = {
                name: int((~np.isfinite(own)).sum()) for name, own in zip(self._names, values, strict=True)
            }
            if shown := [f"column {name!r}: {n:,}" for name, n in wrong.items() if n]:
                raise ValueError(
                    f"missing or infinite values in {row_group} {', '.join(shown[:MOST_NAMED])}; drop these "
                    "rows or fill them in"
                )
        return x, y

    @property
    def _names(self) -> list[str]:
        return [*self.features, *([] if self.target is None else [self.target])]

    def _read(self, row_group: RowGroup) -> tuple[np.ndarray, np.ndarray]:
        names = self._names
        try:
            with pq.ParquetFile(row_group.path, memory_map=False) as file:
                table = file.read_row_group(row_group.group, columns=names)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{row_group} can't be read: {reason}") from None
        if len(table) != row_group.rows:
            had = counted(row_group.rows, "row")
            raise ValueError(f"{row_group.file} was changed: row group {row_group.group} had {had}")
        values = np.empty((len(names), len(table)))
        for i, name in enumerate(names):
            # Nulls of any type become NaN; whole numbers beyond 2**53 are rounded, as NumPy does it.
            values[i] = table.column(name).cast(pa.float64(), safe=False).to_numpy()
        width = len(self.features)
        return values[:width].T, values[width] if self.target is not None else np.zeros(len(table))

    def kept(self, row_group: RowGroup) -> pl.DataFrame:
        """The columns of a row group that are copied into predictions."""
        stored = self.keep if row_group.path == row_group.file else tuple(KEPT + name for name in self.keep)
        with pq.ParquetFile(row_group.path, memory_map=False) as file:
            table = file.read_row_group(row_group.group, columns=list(stored))
        return pl.DataFrame(
            {name: pl.from_arrow(table.column(own)) for name, own in zip(self.keep, stored, strict=True)}
        )

    def scalers(self) -> tuple[Scaler, Scaler]:
        """Means and standard deviations of features and target, from one pass over all files in float64.

        Moments of row groups are merged as they come (Chan, Golub and LeVeque 1983, "Algorithms for computing
        the sample variance"), which loses no digits however many there are.

        Raises:
            ValueError: counts missing and infinite values for each column and file; names a constant target.

        Warns:
            UserWarning: names constant features, which standardise to 0 whatever value they take later, and
                values that lie far outside the rest.
        """

        # Differences from one row are small numbers, whose means and squares lose no digits.
        def moments() -> dict[str, np.ndarray]:
            x, y = self._read(self.row_groups[0])
            shift = np.nan_to_num(np.append(x[0], y[0]), posinf=0.0, neginf=0.0)
            return {"shift": shift} | self._moments(self._own_row_groups(), shift)

        everywhere = self._of_all(moments)
        shift = everywhere[0]["shift"]
        # Merged in the order of the row groups, so that the number of processes changes no bit.
        order = np.argsort(np.concatenate([part["firsts"] for part in everywhere]))
        _, counts, means, squares, least, most = (
            np.concatenate([part[name] for part in everywhere])[order] for name in MOMENTS
        )
        total, mean, m2 = 0.0, np.zeros_like(shift), np.zeros_like(shift)
        with np.errstate(over="ignore", invalid="ignore"):  # overflows are named below
            for count, own, square in zip(counts, means, squares, strict=True):
                apart, total = own - mean, total + count
                mean = mean + apart * (count / total)
                m2 = m2 + square + apart**2 * (count * (total - count) / total)
        sample = np.concatenate([part["sample"] for part in everywhere])
        ends = np.concatenate([least, most])  # of row groups, if the sample lacks them
        looked_at = (np.r_[own, end[~np.isin(end, own)]] for own, end in zip(sample.T, ends.T, strict=True))
        called = [f"column {name!r}" for name in self.features] + [f"the target {self.target!r}"]
        warn_of_far(looked_at, called, rows="values looked at", stacklevel=3)
        mean, least, most = shift + mean, least.min(axis=0), most.max(axis=0)
        names, constant = self._names, least == most
        check_varies(repr(self.target), float(least[-1]), float(most[-1]), int(total))
        if constant.any():
            flagged = listed([name for name, one in zip(names, constant, strict=True) if one])
            warnings.warn(f"constant {flagged}: it tells nothing about the target", stacklevel=3)
        spread = np.sqrt(m2 / total)
        if (beyond := ~constant & ~((spread > 0) & np.isfinite(spread))).any():
            flagged = listed([name for name, one in zip(names, beyond, strict=True) if one])
            raise ValueError(
                f"the squares of {flagged} are too small or too large for float64: use another unit for it"
            )
        scale = np.where(constant, np.inf, spread)
        return Scaler(mean[:-1], scale[:-1]), Scaler(mean[-1], scale[-1])

    def _moments(self, row_groups: Sequence[RowGroup], shift: np.ndarray) -> dict[str, np.ndarray]:
        """Moments of each row group, its means relative to `shift`, and some of its rows."""
        names, some = self._names, max(LEAST_LOOKED_AT, LOOKED_AT // len(self.row_groups))
        faults: dict[tuple[str, Path], int] = {}
        found, sample = [], []
        for row_group, (x, y) in zip(row_groups, prefetch(map(self._read, row_groups)), strict=True):
            values = np.concatenate([x.T, y[None]])
            chosen = np.random.default_rng(row_group.first).choice(
                row_group.rows, min(some, row_group.rows), replace=False
            )
            sample.append(values.T[chosen])
            least, most = values.min(axis=1), values.max(axis=1)
            values -= shift[:, None]
            with np.errstate(over="ignore", invalid="ignore"):  # what isn't finite is counted below
                row_group_mean = values.mean(axis=1)
                squares = ((values - row_group_mean[:, None]) ** 2).sum(axis=1)
            found.append((row_group.first, float(values.shape[1]), row_group_mean, squares, least, most))
            if not np.isfinite(squares.sum()):
                for i, n in enumerate((~np.isfinite(values)).sum(axis=1)):
                    if n:
                        at = names[i], row_group.file
                        faults[at] = faults.get(at, 0) + int(n)
        if faults:
            shown = [
                f"column {name!r} of {path}: {n:,}" for (name, path), n in [*faults.items()][:MOST_NAMED]
            ]
            shown += [f"{len(faults) - MOST_NAMED:,} more"] if len(faults) > MOST_NAMED else []
            raise ValueError(
                f"missing or infinite values, {', '.join(shown)}; drop these rows or fill them in"
            )
        moments = dict(zip(MOMENTS, map(np.array, zip(*found, strict=True)), strict=True))
        return moments | {"sample": np.concatenate(sample)}

    def _of_all(self, compute: Callable[[], dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """What each process that reads these files computes; if one fails, all raise the first error."""
        if self._shares == 1:
            return [compute()]
        computed, error = {}, None
        try:
            computed = compute()
        except (ValueError, OSError) as caught:
            error = caught
        hosts.all_or_none(error)
        return hosts.gather(computed)

    @property
    def _shares(self) -> int:
        """Number of shares of the row groups; 1 if there are fewer row groups than processes."""
        return self.process[1] if self.process[1] <= len(self.row_groups) else 1

    def _own_row_groups(self) -> Sequence[RowGroup]:
        """The row groups of this process's share."""
        return self._shards()[self.process[0] % self._shares]

    def batches(self, batch_size: int) -> int:
        """Batches of an epoch; those of the largest share if processes learn from their own shares."""
        shares = self._shards() if self.own_share else [self.row_groups]
        return max(math.ceil(sum(row_group.rows for row_group in share) / batch_size) for share in shares)

    def stream(self, seed: Sequence[int], *, batch_size: int, batches: int) -> Iterator[Block]:
        """All rows once, shuffled, in blocks of several batches; the same for the same seed.

        Row groups come in random order and pass through a shuffle buffer: each new row replaces a random row,
        which is yielded. A thread prefetches blocks.

        Args:
            seed: whole numbers, for example a key's and the epoch.
            batch_size: rows of a batch.
            batches: batches of a block; the last block is padded with rows of number -1.
        """
        shape = math.ceil(self.batches(batch_size) / batches), batches, batch_size
        # Chosen here, because jax.enable_x64 doesn't reach the prefetching thread.
        return prefetch(self._blocks([*seed, 0], shape, default_dtype(np.dtype(np.float64))))

    def take(self, seed: Sequence[int], most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """About `most` rows, drawn at random: `(numbers, x, y)`, in the order of their numbers."""
        share, dtype = most / self.rows, default_dtype(np.dtype(np.float64))
        row_groups = self._own_row_groups()

        def drawn() -> dict[str, np.ndarray]:
            kept = []
            for row_group, (x, y) in zip(row_groups, prefetch(map(self.read, row_groups)), strict=True):
                numbers = np.arange(row_group.first, row_group.first + row_group.rows)
                mine = (row_fractions(seed, numbers) < share) & ~self._is_absent(numbers)
                x, y = self._in_units(x[mine], y[mine], dtype)
                kept.append({"numbers": numbers[mine], "x": x, "y": y})
            return {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}

        everywhere = self._of_all(drawn)
        order = np.argsort(np.concatenate([part["numbers"] for part in everywhere]))
        return tuple(np.concatenate([part[name] for part in everywhere])[order] for name in everywhere[0])

    def _shards(self) -> list[Sequence[RowGroup]]:
        """Row groups in shares of about equally many rows, neighbours in different shares.

        Files are often sorted: a share of neighbours would hold only one part of a feature's range.
        """
        shares: list[list[RowGroup]] = [[] for _ in range(self._shares)]
        smallest = [(0, i) for i in range(len(shares))]  # a heap of rows and shares
        for row_group in self.row_groups:
            rows, i = smallest[0]
            shares[i].append(row_group)
            heapq.heapreplace(smallest, (rows + row_group.rows, i))
        return shares

    def _is_absent(self, numbers: Int[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
        if self.absent is None:
            return np.zeros(numbers.shape, bool)
        seed, share = self.absent
        return row_fractions(seed, numbers) < share

    def _in_units(self, x: np.ndarray, y: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Rows as they are, or standardised and in a dtype."""
        if self.units is None:
            return x, y
        scaled = (scaler.transform(values) for scaler, values in zip(self.units, (x, y), strict=True))
        return tuple(values.astype(dtype) for values in scaled)

    def _blocks(self, seed: Sequence[int], shape: tuple[int, int, int], dtype: np.dtype) -> Iterator[Block]:
        """Blocks of all rows, of shape `(batches, batch_size)`, padded after the last row."""
        blocks, batches, batch_size = shape
        size, waiting, ready = batch_size * batches, [], 0
        row_groups = self._own_row_groups() if self.own_share else self.row_groups
        mixed = self._mixed(row_groups, np.random.default_rng(seed))
        for _ in range(blocks):
            while ready < size and (more := next(mixed, None)) is not None:
                waiting.append(more)
                ready += len(more[0])
            numbers, x, y = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
            waiting = [(numbers[size:], x[size:], y[size:])]
            numbers, (x, y) = numbers[:size], self._in_units(x[:size], y[:size], dtype)
            numbers = np.where(self._is_absent(numbers), -1, numbers)
            filled = np.full(size, -1), np.zeros((size, x.shape[1]), x.dtype), np.zeros(size, y.dtype)
            for whole, part in zip(filled, (numbers, x, y), strict=True):
                whole[: len(part)] = part
            ready = max(ready - size, 0)
            yield Block(*(whole.reshape(batches, batch_size, *whole.shape[1:]) for whole in filled))

    def _mixed(
        self, row_groups: Sequence[RowGroup], rng: np.random.Generator
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Row numbers, features and targets, shuffled through the buffer."""
        buffer = min(self.buffer, sum(row_group.rows for row_group in row_groups))
        step = max(1, buffer // STEPS)
        kept: tuple[np.ndarray, ...] | None = None
        filled = 0
        for i in rng.permutation(len(row_groups)):
            row_group = row_groups[i]
            mix = rng.permutation(row_group.rows)
            x, y = self.read(row_group)
            new = [part[mix] for part in (np.arange(row_group.first, row_group.first + row_group.rows), x, y)]
            if kept is None:
                kept = tuple(np.empty((buffer, *part.shape[1:]), part.dtype) for part in new)
            room = min(buffer - filled, row_group.rows)
            for part, fresh in zip(kept, new, strict=True):
                part[filled : filled + room] = fresh[:room]
            filled += room
            for start in range(room, row_group.rows, step):
                coming = [part[start : start + step] for part in new]
                at = rng.choice(buffer, len(coming[0]), replace=False)
                yield tuple(part[at] for part in kept)
                for part, fresh in zip(kept, coming, strict=True):
                    part[at] = fresh
        mix = rng.permutation(buffer)
        yield tuple(part[mix] for part in kept)
