"""Rows in more files than memory holds: their places, their moments, and a shuffled stream of them."""

import hashlib
import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int

from jaxreg import hosts
from jaxreg.checks import check_varies
from jaxreg.columns import Columns
from jaxreg.data.border import default_dtype
from jaxreg.data.far import warn_of_far
from jaxreg.data.rows import Block, row_fractions
from jaxreg.data.scaler import Scaler
from jaxreg.plain import listed, warn
from jaxreg.tables.csv import KEPT
from jaxreg.tables.learn import NUMBER, Moments, learn, packed, unpacked
from jaxreg.tables.prefetch import prefetch
from jaxreg.tables.row_groups import RowGroup, as_floats

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


@dataclass(frozen=True)
class Files:
    """A table in files that is read by row groups: a `data.Source`.

    Attributes:
        features: columns to predict from.
        target: column to predict; None where there is none.
        row_groups: all row groups, in the order of the files' names.
        types: of the columns, features first.
        units: what takes features, a `Scaler` or `Columns`, and the target's scaler; None leaves them as they
            are.
        absent: `(seed, share)` of the rows that are left out, as if they weren't there.
        buffer: rows of a stream's shuffle buffer.
        process: index of this process, and number of processes that read these files; all of them must call
            `scalers` and `take`, and each reads its share.
        own_share: whether `batches` and `stream` give the rows of this process's share alone.
        keep: columns that are copied into predictions as they are.
        text: features that are text in one of the files, and so in all.
        target_ends: smallest and largest target, once `learned`.

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
    units: tuple[Scaler | Columns, Scaler] | None = None
    absent: tuple[tuple[int, ...], float] | None = None
    buffer: int = BUFFER_ROWS
    process: tuple[int, int] = (0, 1)
    own_share: bool = False
    keep: tuple[str, ...] = ()
    text: frozenset[str] = frozenset()
    target_ends: tuple[float, float] | None = None

    @property
    def rows(self) -> int:
        """How many there are in all files."""
        return sum(row_group.rows for row_group in self.row_groups)

    def standardised(self) -> "Files":
        """The same in units of standard deviations from the mean; all files are read once."""
        return replace(self, units=self.scalers())

    def learned(
        self, *, units: tuple[Columns, Scaler] | None = None, **asked: Sequence[str | int]
    ) -> "Files":
        """The same with features as `Columns` take them, and the target in standard deviations from its mean.

        All files are read once. Levels, gaps and the target's moments are those of all rows; the rest is
        learned of a random sample of about 131,072 rows, or of all if there are no more: its quantiles are
        off by 0.0014 in probability (one standard deviation).

        Args:
            units: what was learned of other rows: of these only levels and gaps are added.
            **asked: categories, numbers, drop, as `Columns.fit` has them.

        Raises:
            ValueError: as `Columns.fit` does; names infinite targets, and a target of one value.

        Warns:
            UserWarning: as `Columns.fit` does, and counts rows without a target, which are left out.
        """
        units, ends = learn(self, asked, units)
        return replace(self, units=units, target_ends=ends)

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
            x, y = self.units
            scalers = {"target": y} | ({"features": x} if isinstance(x, Scaler) else {})
            for what, scaler in scalers.items():
                found |= {f"means of {what}": scaler.loc, f"standard deviations of {what}": scaler.scale}
            if not isinstance(x, Scaler):
                found["features' columns"] = np.array(hashlib.sha256(repr(x).encode()).hexdigest())
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
        names, table = self._names, row_group.read(self._names)
        values = np.empty((len(names), len(table)))
        for i, name in enumerate(names):
            values[i] = as_floats(table.column(name))
        width = len(self.features)
        return values[:width].T, values[width] if self.target is not None else np.zeros(len(table))

    def table(self, row_group: RowGroup) -> pl.DataFrame:
        """Features of a row group as they are in the file, and the target as float64, NaN for gaps.

        Raises:
            ValueError: names a row group that can't be read, or has infinite targets.
        """
        arrow = row_group.read(self._names)
        whole = pl.DataFrame(pl.from_arrow(arrow))  # with what a file says of ordered levels
        found = {name: whole.get_column(name) for name in self.features}
        found |= {name: found[name].cast(pl.String) for name in self.text if name in found}
        if self.target is not None:
            found[self.target] = y = as_floats(arrow.column(self.target))
            if count := int(np.isinf(y).sum()):
                raise ValueError(f"infinite values in {row_group} column {self.target!r}: {count:,}")
        return pl.DataFrame(found)

    def sample(self, seed: Sequence[int], most: int) -> pl.DataFrame:
        """The rows of `take` as `table` has them, without those that have no target."""
        share = most / self.rows

        def drawn() -> dict[str, np.ndarray]:
            parts = []
            for row_group in self.own_row_groups():
                table = self.table(row_group).with_columns(pl.Series(NUMBER, row_group.numbers))
                mine = (row_fractions(seed, row_group.numbers) < share) & ~self.is_absent(row_group.numbers)
                known = ~np.isnan(table.get_column(self.target).to_numpy())
                parts.append(table.filter(mine & known))
            return {"rows": packed(pl.concat(parts, how="vertical_relaxed"))}

        parts = [unpacked(part["rows"]) for part in self.of_all_processes(drawn)]
        return pl.concat(parts, how="vertical_relaxed").sort(NUMBER).drop(NUMBER)

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

        Raises:
            ValueError: counts missing and infinite values for each column and file; names a constant target.

        Warns:
            UserWarning: names constant features, which standardise to 0 whatever value they take later, and
                values that lie far outside the rest.
        """

        # Differences from one row are small numbers, whose means and squares lose no digits.
        def of_row_groups() -> dict[str, np.ndarray]:
            x, y = self._read(self.row_groups[0])
            shift = np.nan_to_num(np.append(x[0], y[0]), posinf=0.0, neginf=0.0)
            return {"shift": shift} | self._moments(self.own_row_groups(), shift)

        everywhere = self.of_all_processes(of_row_groups)
        shift = everywhere[0]["shift"]
        # Merged in the order of the row groups, so that the number of processes changes no bit.
        order = np.argsort(np.concatenate([part["firsts"] for part in everywhere]))
        _, *moments, least, most = (
            np.concatenate([part[name] for part in everywhere])[order] for name in MOMENTS
        )
        total, mean, m2 = Moments(*moments).merged()
        sample = np.concatenate([part["sample"] for part in everywhere])
        ends = np.concatenate([least, most])  # of row groups, if the sample lacks them
        looked_at = (np.r_[own, end[~np.isin(end, own)]] for own, end in zip(sample.T, ends.T, strict=True))
        called = [f"column {name!r}" for name in self.features] + [f"the target {self.target!r}"]
        warn_of_far(looked_at, called, rows="values looked at")
        mean, least, most = shift + mean, least.min(axis=0), most.max(axis=0)
        names, constant = self._names, least == most
        check_varies(repr(self.target), float(least[-1]), float(most[-1]), int(total))
        if constant.any():
            flagged = listed([name for name, one in zip(names, constant, strict=True) if one])
            warn(f"constant {flagged}: it tells nothing about the target")
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

    def of_all_processes(self, compute: Callable[[], dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
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

    def own_row_groups(self) -> Sequence[RowGroup]:
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
        row_groups = self.own_row_groups()

        def drawn() -> dict[str, np.ndarray]:
            kept = []
            for numbers, *parts in prefetch(self._values(row_group, dtype) for row_group in row_groups):
                mine = (row_fractions(seed, numbers) < share) & ~self.is_absent(numbers) & (numbers >= 0)
                kept.append(dict(zip("nxy", (part[mine] for part in (numbers, *parts)), strict=True)))
            return {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}

        everywhere = self.of_all_processes(drawn)
        order = np.argsort(np.concatenate([part["n"] for part in everywhere]))
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

    def is_absent(self, numbers: Int[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
        """Which rows are left out, by their numbers."""
        if self.absent is None:
            return np.zeros(numbers.shape, bool)
        seed, share = self.absent
        return row_fractions(seed, numbers) < share

    def _values(self, row_group: RowGroup, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of rows, -1 where the target is missing, and what trains: raw, or in units and a dtype."""
        numbers = row_group.numbers
        if self.units is None:
            return numbers, *self.read(row_group)
        if isinstance(self.units[0], Scaler):
            x, y = self.read(row_group)
            x = self.units[0].transform(x)
        else:
            table = self.table(row_group)
            x, y = self.units[0].inputs(table), table.get_column(self.target).to_numpy()
            numbers = np.where(np.isnan(y), -1, numbers)
        y = np.nan_to_num(self.units[1].transform(y))
        return numbers, x.astype(dtype), y.astype(dtype)

    def _blocks(self, seed: Sequence[int], shape: tuple[int, int, int], dtype: np.dtype) -> Iterator[Block]:
        """Blocks of all rows, of shape `(batches, batch_size)`, padded after the last row."""
        blocks, batches, batch_size = shape
        size, waiting, ready = batch_size * batches, [], 0
        row_groups = self.own_row_groups() if self.own_share else self.row_groups
        mixed = self._mixed(row_groups, np.random.default_rng(seed), dtype)
        for _ in range(blocks):
            while ready < size and (more := next(mixed, None)) is not None:
                waiting.append(more)
                ready += len(more[0])
            numbers, x, y = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
            waiting = [(numbers[size:], x[size:], y[size:])]
            numbers, x, y = numbers[:size], x[:size], y[:size]
            numbers = np.where(self.is_absent(numbers), -1, numbers)
            filled = np.full(size, -1), np.zeros((size, x.shape[1]), x.dtype), np.zeros(size, y.dtype)
            for whole, part in zip(filled, (numbers, x, y), strict=True):
                whole[: len(part)] = part
            ready = max(ready - size, 0)
            yield Block(*(whole.reshape(batches, batch_size, *whole.shape[1:]) for whole in filled))

    def _mixed(
        self, row_groups: Sequence[RowGroup], rng: np.random.Generator, dtype: np.dtype
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Row numbers, features and targets, shuffled through the buffer."""
        buffer = min(self.buffer, sum(row_group.rows for row_group in row_groups))
        step = max(1, buffer // STEPS)
        kept: tuple[np.ndarray, ...] | None = None
        filled = 0
        for i in rng.permutation(len(row_groups)):
            row_group = row_groups[i]
            mix = rng.permutation(row_group.rows)
            new = [part[mix] for part in self._values(row_group, dtype)]
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
