"""Rows in more files than memory holds: where they are, what they are like, and a shuffled stream of them."""

import glob
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from jaxreg.data import Scaler, listed

T = TypeVar("T")

# Rows that are mixed with each other: the stream's order is as good as random over so many of them.
BUFFER_ROWS = 2**18
AHEAD = 2
MOST_NAMED = 5


class Piece(NamedTuple):
    """A row group of a file: what is read at once.

    Attributes:
        path: the file.
        group: which of its row groups.
        rows: how many rows it has.
        first: the number of its first row among those of all files.
    """

    path: Path
    group: int
    rows: int
    first: int


class Block(NamedTuple):
    """Several batches of a stream.

    Attributes:
        numbers: of the rows among those of all files, `(batches, batch_size)`; -1 where there is no row.
        x: features, `(batches, batch_size, features)`.
        y: targets, `(batches, batch_size)`.
    """

    numbers: Int[np.ndarray, "batches size"]
    x: Float[np.ndarray, "batches size features"]
    y: Float[np.ndarray, "batches size"]


@dataclass(frozen=True)
class Files:
    """A table in Parquet files, read by row groups.

    Attributes:
        features: columns to predict from.
        target: column to predict.
        pieces: all row groups, in the order of the files' names.
    """

    features: tuple[str, ...]
    target: str
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        """How many there are in all files."""
        return sum(piece.rows for piece in self.pieces)

    def read(self, piece: Piece) -> tuple[Float[np.ndarray, "rows features"], Float[np.ndarray, " rows"]]:
        """Features and targets of a row group as they are in the file, in float64.

        Raises:
            ValueError: names file, row group and column, for missing or infinite values or a damaged file.
        """
        names = [*self.features, self.target]
        try:
            with pq.ParquetFile(piece.path, memory_map=False) as file:
                table = file.read_row_group(piece.group, columns=names)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{piece.path}, row group {piece.group}, can't be read: {reason}") from None
        values = np.empty((len(names), len(table)))
        for i, name in enumerate(names):
            values[i] = table.column(name).to_numpy()
        return values[:-1].T, values[-1]

    def scalers(self) -> tuple[Scaler, Scaler]:
        """Means and standard deviations of features and target, from one pass over all files in float64.

        Moments of row groups are merged as they come (Chan, Golub and LeVeque 1983, "Algorithms for computing
        the sample variance"), which loses no digits however many there are.

        Raises:
            ValueError: counts missing and infinite values for each column and file; names a target of one
                value.
        """
        names = [*self.features, self.target]
        faults: dict[tuple[str, Path], int] = {}
        shift: np.ndarray | None = None
        total, mean, m2 = 0, np.zeros(len(names)), np.zeros(len(names))
        least, most = np.full(len(names), np.inf), np.full(len(names), -np.inf)
        for piece, (x, y) in zip(self.pieces, ahead(map(self.read, self.pieces)), strict=True):
            values = np.concatenate([x.T, y[None]])
            # Differences from some row are small numbers, whose means and squares lose nothing.
            shift = np.nan_to_num(values[:, 0], posinf=0.0, neginf=0.0) if shift is None else shift
            values = values - shift[:, None]
            wrong = (~np.isfinite(values)).sum(axis=1)
            for i in np.flatnonzero(wrong):
                at = names[i], piece.path
                faults[at] = faults.get(at, 0) + int(wrong[i])
            if wrong.any():
                continue
            least, most = np.minimum(least, values.min(axis=1)), np.maximum(most, values.max(axis=1))
            own, count = values.mean(axis=1), values.shape[1]
            apart, total = own - mean, total + count
            mean = mean + apart * (count / total)
            m2 = (
                m2 + ((values - own[:, None]) ** 2).sum(axis=1) + apart**2 * (count * (total - count) / total)
            )
        if faults:
            shown = [
                f"column {name!r} of {path}: {n:,}" for (name, path), n in [*faults.items()][:MOST_NAMED]
            ]
            shown += [f"{len(faults) - MOST_NAMED:,} more"] if len(faults) > MOST_NAMED else []
            raise ValueError(
                f"missing or infinite values, {', '.join(shown)}; drop these rows or fill them in"
            )
        if least[-1] == most[-1]:
            value = shift[-1] + least[-1]
            raise ValueError(f"the target {self.target!r} has one value, {value:g}, in all {total:,} rows")
        mean, scale = shift + mean, np.where(least == most, 1.0, np.sqrt(m2 / total))
        return Scaler(mean[:-1], scale[:-1]), Scaler(mean[-1], scale[-1])

    def stream(
        self, seed: Sequence[int], *, batch_size: int, batches: int, buffer: int = BUFFER_ROWS
    ) -> Iterator[Block]:
        """All rows once, shuffled, in blocks of several batches; the same for the same seed.

        Row groups come in a random order, and a buffer of rows is mixed as they do: each new row takes the
        place of a random one, which goes out.

        Args:
            seed: whole numbers, for example a key's and the epoch.
            batch_size: rows of a batch.
            batches: batches of a block; the last block may have fewer.
            buffer: rows that are mixed with each other.
        """
        rng = np.random.default_rng(seed)
        order = [self.pieces[i] for i in rng.permutation(len(self.pieces))]
        size = batch_size * batches
        waiting: list[tuple[np.ndarray, ...]] = []
        ready = 0
        for out in self._mixed(order, rng, buffer):
            waiting.append(out)
            ready += len(out[0])
            if ready >= size:
                whole = [np.concatenate(parts) for parts in zip(*waiting, strict=True)]
                for start in range(0, ready - size + 1, size):
                    yield _block([part[start : start + size] for part in whole], batch_size)
                ready %= size
                waiting = [tuple(part[len(part) - ready :] for part in whole)]
        if ready:
            yield _block([np.concatenate(parts) for parts in zip(*waiting, strict=True)], batch_size)

    def _mixed(
        self, order: list[Piece], rng: np.random.Generator, buffer: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Row numbers, features and targets, shuffled through a buffer."""
        kept: list[np.ndarray] | None = None
        for piece, (x, y) in zip(order, ahead(map(self.read, order)), strict=True):
            new = [np.arange(piece.first, piece.first + piece.rows), x, y]
            mix = rng.permutation(piece.rows)
            new = [part[mix] for part in new]
            if kept is None or len(kept[0]) < buffer:
                room = buffer if kept is None else buffer - len(kept[0])
                first = [part[:room] for part in new]
                kept = (
                    first
                    if kept is None
                    else [np.concatenate(pair) for pair in zip(kept, first, strict=True)]
                )
                new = [part[room:] for part in new]
            for start in range(0, len(new[0]), buffer):
                coming = [part[start : start + buffer] for part in new]
                at = rng.choice(buffer, len(coming[0]), replace=False)
                yield tuple(part[at] for part in kept)
                for part, fresh in zip(kept, coming, strict=True):
                    part[at] = fresh
        if kept is not None:
            mix = rng.permutation(len(kept[0]))
            yield tuple(part[mix] for part in kept)


def _block(parts: list[np.ndarray], batch_size: int) -> Block:
    """Batches of rows; the last one is filled up with rows that have no number."""
    missing = -len(parts[0]) % batch_size
    numbers, x, y = (np.concatenate([part, np.repeat(part[:1], missing, axis=0)]) for part in parts)
    numbers[len(numbers) - missing :] = -1
    shape = len(numbers) // batch_size, batch_size
    return Block(numbers.reshape(shape), x.reshape(*shape, -1), y.reshape(shape))


def ahead(items: Iterator[T], depth: int = AHEAD) -> Iterator[T]:
    """The same items, of which a thread makes so many before they are asked for."""
    made: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: tuple[bool, object]) -> None:
        while not stopped.is_set():
            try:
                return made.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((True, item))
                if stopped.is_set():
                    return
            put((False, None))
        except BaseException as error:  # raised again where the items are used
            put((False, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            more, item = made.get()
            if not more:
                if item is not None:
                    raise item
                return
            yield item
    finally:
        stopped.set()
        thread.join()


def from_files(pattern: str, *, target: str, features: Sequence[str] | None = None) -> Files:
    """Parquet files as one table, read by row groups.

    Args:
        pattern: of paths, `folder/*.parquet`; or a folder.
        target: column to predict.
        features: columns to predict from; by default all others, which must be numeric.

    Raises:
        ValueError: if no file matches, or files differ in columns or types, by name; if a column is absent or
            isn't numeric, or a file can't be read.
    """
    where = f"{pattern}/*.parquet" if Path(pattern).is_dir() else pattern
    paths = sorted(Path(path) for path in glob.glob(where, recursive=True))
    if not paths:
        raise ValueError(f"no file matches {where}")
    pieces, schema, first = [], None, 0
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                metadata, own = file.metadata, file.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} can't be read: {str(error).splitlines()[0]}") from None
        own = {field.name: field.type for field in own}
        if schema is None:
            schema = own
            names = [name for name in own if name != target] if features is None else list(features)
            names.append(target)
            absent = [name for name in names if name not in own]
            if absent:
                raise ValueError(f"{path} lacks {listed(absent)}; it has {listed(list(own))}")
        for name in names:
            if own.get(name) != schema[name]:
                found = f"is {own[name]}" if name in own else "is absent"
                raise ValueError(f"column {name!r} {found} in {path} and is {schema[name]} in {paths[0]}")
            if not _is_number(own[name]):
                raise ValueError(f"column {name!r} of {path} is {own[name]}, numbers are needed")
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if rows:
                pieces.append(Piece(path, group, rows, first))
            first += rows
    if not pieces:
        raise ValueError(f"{where} has no rows")
    return Files(tuple(names[:-1]), target, tuple(pieces))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
