"""What a run is fed: arrays, one epoch a block, or a source, some batches a block."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxreg.checks import over_outputs
from jaxreg.data.rows import Block as SourceBlock
from jaxreg.data.rows import Source, batch_order, key_words, row_folds
from jaxreg.training.hooks import ROUNDING
from jaxreg.training.trainer import Batch, fill_up, take_rows

# Most epochs before control returns to the host; one compiled program serves all shorter chunks.
CHUNK_EPOCHS = 512
CHUNK_SECONDS = 0.25
# Rows of a source that one call of a compiled program takes.
BLOCK_ROWS = 2**16

# Size classes between two powers of two: at most a sixth of the rows is padding.
CLASSES = 5
# Classes of the share of all rows that a member trains on.
SHARES = 20

# Thresholds that turn a uniform 32-bit number into a count of the Poisson distribution of mean 1, and the
# number folded into its key, far from the numbers of epochs.
POISSON_TERMS = [math.exp(-1) / math.factorial(k) for k in range(12)]
POISSON_EDGES = [np.uint32(min(p * 2**32, 2**32 - 1)) for p in np.cumsum(POISSON_TERMS)]
POISSON_TAG = np.uint32(2**32 - 2)


def size_class(n: int) -> int:
    """The number of rows that n rows are padded to, so that one program serves many numbers of rows.

    Powers of two are classes. If random bits depend on how many are drawn, n stays as it is.

    >>> from jaxreg.training.feeds import size_class
    >>> [size_class(n) for n in (1, 201, 224, 240, 256, 257)]
    [1, 223, 256, 256, 256, 295]
    """
    if not jax.config.jax_threefry_partitionable:
        return n
    least = 2 ** max((n - 1).bit_length() - 1, 0)
    return next(size for i in range(CLASSES + 1) if (size := math.ceil(least * 2 ** (i / CLASSES))) >= n)


def share_class(count: int, n: int) -> int:
    """The number of rows that a member's `count` of n rows are padded to, by the class of n.

    It depends on the share `count / n` alone, so it changes only where the class of n does.
    """
    size = size_class(n)
    if size == n and not jax.config.jax_threefry_partitionable:
        return count
    share = max(round(SHARES * count / n), 1)
    return next(own for i in range(3) if (own := math.ceil(size * (share + i) / SHARES)) >= count)


class PerMember(NamedTuple):
    """What differs between members; with a leading axis of members on the host.

    Attributes:
        key: for the order of rows, as 32-bit words.
        rows: numbers of the rows that it trains on, -1 for none.
        validation_rows: those that it is validated on.
        weight: of each row.
        fold: the fold of a source's rows that it holds out.
    """

    key: Array | np.ndarray | None
    rows: Array | np.ndarray | None = None
    validation_rows: Array | np.ndarray | None = None
    weight: Array | np.ndarray | None = None
    fold: Array | np.ndarray | None = None


class Batches(NamedTuple):
    """The batches of a block: `whole` full ones, and one more if rows are left."""

    whole: Array | int
    take: Callable[[int | Array], Batch]
    left: Array | None = None
    last: Callable[[], Batch] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Table:
    """Rows in memory, padded to a size class; a block is an epoch.

    Attributes:
        data: `(x, y)` or `(x, y, weight)`.
        count: rows of an epoch, without padding.
        batch_size: rows of a step; None takes all rows in their own order.
        exact: whether no row is padding and all batches are full; the step is then compiled once, not twice.
    """

    data: Any
    count: Any
    batch_size: int | None = field(metadata={"static": True})
    exact: bool = field(metadata={"static": True})

    epochs = CHUNK_EPOCHS
    ends_epoch = True

    def blocks(self, epoch: Array, stop: Array) -> Array:
        """How many a call goes through."""
        return jnp.minimum(stop - epoch, CHUNK_EPOCHS)

    def batches(self, key: Array, per_member: PerMember, epoch: Array) -> Batches:
        """The batches of an epoch, for a member."""
        data = self.data
        if per_member.weight is not None:
            x, y, *weight = data
            weight = weight[0] if weight else jnp.ones_like(per_member.weight)
            data = x, y, weight * over_outputs(per_member.weight, weight.shape)
        size = len(data[0] if per_member.rows is None else per_member.rows)
        count = size if self.exact else self.count
        if self.batch_size is None:
            batch = data if per_member.rows is None else take_rows(data, per_member.rows)
            if self.exact:
                return Batches(1, lambda _: batch)
            whole, left = count // size, count % size
            return Batches(whole, lambda _: batch, left, lambda: _filled(batch, jnp.arange(size) < left))
        step = self.batch_size
        whole, left = count // step, count % step
        order = batch_order(key, epoch, count, size)
        order = order if per_member.rows is None else per_member.rows[order]

        def take(i: int | Array) -> Batch:
            return take_rows(data, jax.lax.dynamic_slice(order, (i * step,), (step,)))

        if self.exact:
            return Batches(whole, take)

        def last() -> Batch:
            present = jnp.arange(step) < left
            at = whole * step + jnp.where(present, jnp.arange(step), 0)
            return _filled(take_rows(data, order[at]), present)

        return Batches(whole, take, left, last)


def _filled(batch: Batch, present: Array) -> Batch:
    """The batch with its absent rows marked as padding."""
    x, y, *weight = batch
    weight = weight[0] if weight else jnp.ones(len(x), x.dtype)
    return x, y, fill_up(weight, present)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Block:
    """Some batches of a source.

    Attributes:
        x: features, `(batches, size, features)`.
        y: targets, `(batches, size)`.
        fold: the fold of each row, -1 where there is no row.
        numbers: the two halves of the rows' 64-bit numbers; None without a bootstrap.
        count: batches to step on.
        ends_epoch: whether the epoch ends with them.
    """

    x: Any
    y: Any
    fold: Any
    numbers: Any
    count: Any
    ends_epoch: Any

    epochs = 1

    def blocks(self, epoch: Array, stop: Array) -> Array:
        """How many a call goes through."""
        return jnp.ones((), jnp.int32)

    def batches(self, key: Array, per_member: PerMember, epoch: Array) -> Batches:
        """The batches, weighted for a member."""
        kept = (
            self.fold >= 0 if per_member.fold is None else (self.fold >= 0) & (self.fold != per_member.fold)
        )
        weight = kept.astype(self.x.dtype)
        if self.numbers is not None:
            weight = weight * poisson(key, *self.numbers).astype(self.x.dtype)
        return Batches(self.count, lambda i: (self.x[i], self.y[i], weight[i]))


def poisson(key: Array, high: ArrayLike, low: ArrayLike) -> Array:
    """A draw from the Poisson distribution of mean 1 for each row, determined by its number's halves."""
    key = jax.random.fold_in(key, POISSON_TAG)

    def bits(high: Array, low: Array) -> Array:
        return jax.random.bits(jax.random.fold_in(jax.random.fold_in(key, high), low), dtype=jnp.uint32)

    drawn = jax.vmap(bits)(high.ravel(), low.ravel()).reshape(low.shape)
    return sum((drawn > edge).astype(jnp.int32) for edge in POISSON_EDGES)


class Arrays:
    """Feeds a run with rows in memory, chunk after chunk.

    Attributes:
        per_epoch: blocks of an epoch.
    """

    per_epoch = 1

    def __init__(self, table: Table):
        self.first = table

    def put(self, sharding: NamedSharding | None) -> "Arrays":
        """Move the rows to the devices of a sharding."""
        self.first = jax.device_put(self.first, sharding)
        return self

    def parts(self, epoch: int, batch: int, stop: float | int) -> Iterator[Table]:
        """What the calls of a chunk are fed."""
        yield self.first

    def close(self) -> None:
        """Nothing is open."""


class Stream:
    """Feeds a run with the blocks of a source, epoch after epoch, from any batch on.

    Args:
        key: of the run; with the number of the epoch it determines the order of the rows.
        source: where the rows are.
        batch_size: rows per step.
        first_epoch: is added to the number of the epoch.
        folds: number of folds of the rows; each member leaves one out.
        bootstrap: whether each member weights the rows by its own draws.

    Attributes:
        per_epoch: batches of an epoch.
        dtype: of features and targets; the source's until it is set.
    """

    def __init__(
        self,
        key: Array,
        source: Source,
        batch_size: int,
        *,
        first_epoch: int = 0,
        folds: int | None = None,
        bootstrap: bool = False,
    ):
        self._key, self._source, self._batch_size = key, source, batch_size
        self._first_epoch, self._folds, self._bootstrap = first_epoch, folds, bootstrap
        self.per_epoch = source.batches(batch_size)
        self.length = min(self.per_epoch, max(1, BLOCK_ROWS // batch_size))
        self._blocks: Iterator[SourceBlock] = iter(())
        self._sharding: NamedSharding | None = None
        self._at = self._next = (-1, 0)
        self.dtype = self.block(0, 0).x.dtype

    def put(self, sharding: NamedSharding | None) -> "Stream":
        """Blocks are moved to the devices of a sharding, one by one."""
        self._sharding = sharding
        return self

    @property
    def first(self) -> Block:
        """The first block."""
        return self._taken(self.block(0, 0), 0, False)

    def block(self, epoch: int, batch: int) -> SourceBlock:
        """The source's block that begins with a batch."""
        place = epoch, batch
        if place != self._at:
            if place != self._next:
                self.close()
                seed = [*key_words(self._key), self._first_epoch + epoch]
                self._blocks = self._source.stream(seed, batch_size=self._batch_size, batches=self.length)
                for _ in range(batch // self.length):
                    next(self._blocks)
            self._block, self._at = next(self._blocks), place
            self._next = epoch, batch + self.length
        return self._block

    def parts(self, epoch: int, batch: int, stop: float | int) -> Iterator[Block]:
        """Block after block, until time is up or an epoch is done; a `stop` of 0 ends the epoch at once."""
        began = time.perf_counter()
        while True:
            count = min(self.length, self.per_epoch - batch)
            last = batch + count == self.per_epoch
            if stop == 0:
                count, last = 0, True
            yield self._taken(self.block(epoch, batch), count, last)
            batch += count
            due = epoch + batch / self.per_epoch >= stop - ROUNDING
            if last or due or time.perf_counter() - began > CHUNK_SECONDS:
                return

    def close(self) -> None:
        """Stop the prefetching thread."""
        if hasattr(self._blocks, "close"):
            self._blocks.close()

    def _taken(self, block: SourceBlock, count: int, last: bool) -> Block:
        fold = 0 if self._folds is None else row_folds(self._key, block.numbers, self._folds)
        fold = np.where(block.numbers >= 0, fold, -1).astype(np.int32)
        wide, numbers = block.numbers.astype(np.uint64), None
        if self._bootstrap:  # JAX has no 64-bit integers by default
            numbers = (wide >> np.uint64(32)).astype(np.uint32), wide.astype(np.uint32)
        x, y = (part.astype(self.dtype, copy=False) for part in (block.x, block.y))
        block = Block(x, y, fold, numbers, np.asarray(count, np.int32), np.asarray(last))
        return jax.device_put(block, self._sharding)
