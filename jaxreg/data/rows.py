"""Rows by their numbers: orders, folds, draws, and rows that are read when they are needed."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, UInt64

from jaxreg.checks import as_key


def batch_order(
    key: Array | int, epoch: int | Int[Array, ""], n: int | Int[Array, ""], size: int | None = None
) -> Int[Array, " n"]:
    """The order in which an epoch visits the rows: a permutation of n, drawn from `fold_in(key, epoch)`.

    It depends on the key and the epoch alone, so a run may be cut and resumed anywhere, and another
    library can be handed the same batches.

    Args:
        key: a JAX random key.
        epoch: its number.
        n: number of rows; it may be traced where `size` is given.
        size: length of what is returned, n by default: after the first n, numbers that mean nothing.

    >>> import jax
    >>> from jaxreg import data
    >>> sorted(data.batch_order(jax.random.key(0), epoch=3, n=4).tolist())
    [0, 1, 2, 3]
    """
    return _batch_order(as_key(key), epoch, n, n if size is None else size)


@partial(jax.jit, static_argnums=3)
def _batch_order(key: Array, epoch: int | Array, n: int | Array, size: int) -> Array:
    # Random high bits and a position in the low bits make one word to sort, which XLA does 4 to 8 times
    # faster on a CPU than the pairs of jax.random.permutation. Rounds are repeated, as it does too, until
    # the random bits are three times those of a position, and ties (kept in order) hardly occur. Positions
    # from n on have all bits set, and come last.
    key = jax.random.fold_in(key, epoch)
    positions, n = jnp.arange(size, dtype=jnp.uint32), jnp.asarray(n, jnp.uint32)
    bits = jnp.maximum(32 - jax.lax.clz(n - 1), 1)
    low = (jnp.uint32(1) << bits) - 1
    present = positions < n

    def shuffle(round_: int | Array, order: Array) -> Array:
        round_key = jnp.where(round_ == 0, key, jax.random.fold_in(key, round_))
        drawn = jax.random.bits(round_key, (size,), jnp.uint32)
        words = jnp.where(present, (drawn & ~low) | positions, np.uint32(2**32 - 1))
        shuffled = jnp.where(present, jax.lax.sort(words, is_stable=False) & low, positions)
        return order[shuffled]

    rounds = (3 * bits + 31 - bits) // (32 - bits)
    return jax.lax.fori_loop(jnp.uint32(0), rounds, shuffle, positions).astype(jnp.int32)


def bootstrap_rows(key: Array | int, n: int, members: int) -> tuple[Int[np.ndarray, "members n"], np.ndarray]:
    """Rows drawn with replacement for each member of an ensemble, and those that it was not given.

    Breiman 1996, "Bagging predictors". Member i's rows depend on `jax.random.split(key, members)[i]` alone.

    Args:
        key: a JAX random key; that of `fit_ensemble` may serve.
        n: number of rows to draw from, and to draw.
        members: number of members.

    Returns:
        `(rows, left_out)`, integers `(members, n)` and `(members, most)`; -1 fills up the shorter lists.

    >>> import jax
    >>> from jaxreg import data
    >>> rows, left_out = data.bootstrap_rows(jax.random.key(0), n=6, members=2)
    >>> [sorted({*drawn.tolist(), *rest.tolist()} - {-1}) for drawn, rest in zip(rows, left_out)]
    [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    """
    rows = np.asarray(_draw_rows(jax.random.split(as_key(key), members), n))
    absent = [np.setdiff1d(np.arange(n, dtype=np.int32), drawn) for drawn in rows]
    left_out = np.full((members, max(map(len, absent))), -1, np.int32)
    for line, rest in zip(left_out, absent, strict=True):
        line[: len(rest)] = rest
    return rows, left_out


@partial(jax.jit, static_argnums=1)
def _draw_rows(keys: Array, n: int) -> Array:
    # Far from the numbers of epochs, which draw the order of the rows from the same key.
    keys = jax.vmap(lambda key: jax.random.fold_in(key, np.uint32(2**32 - 1)))(keys)
    return jax.vmap(lambda key: jax.random.randint(key, (n,), 0, n, jnp.int32))(keys)


class Block(NamedTuple):
    """Several batches of a source.

    Attributes:
        numbers: of the rows among all those of the source, `(batches, batch_size)`; -1 where there is no row.
        x: features, `(batches, batch_size, features)`; of finite values also where there is no row.
        y: targets, `(batches, batch_size)`.
    """

    numbers: Int[np.ndarray, "batches size"]
    x: Float[np.ndarray, "batches size features"]
    y: Float[np.ndarray, "batches size"]


@runtime_checkable
class Source(Protocol):
    """Rows that are read when they are needed: what `fit` and `fit_ensemble` take in place of arrays.

    `tables.from_files` makes one of Parquet files. Any object with these methods serves.
    """

    def batches(self, batch_size: int) -> int:
        """Batches of an epoch."""
        ...

    def stream(self, seed: Sequence[int], *, batch_size: int, batches: int) -> Iterator[Block]:
        """The rows of an epoch in blocks of so many batches, the last one filled up; the same for a seed."""
        ...

    def take(self, seed: Sequence[int], most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """At most about so many rows, drawn at random: `(numbers, x, y)`, in the order of their numbers."""
        ...

    def describe(self) -> dict[str, np.ndarray]:
        """Small arrays by which to tell that these are the same rows."""
        ...


def row_fractions(seed: Sequence[int], numbers: Integer[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """A random number in [0, 1) for each number of a row, from the seed and that number alone.

    Args:
        seed: whole numbers.
        numbers: of rows, of any shape.

    >>> import numpy as np
    >>> from jaxreg.data import row_fractions
    >>> fractions = row_fractions([0], np.arange(10_000))
    >>> bool(abs(fractions.mean() - 0.5) < 0.01), bool(row_fractions([0], np.array(7)) == fractions[7])
    (True, True)
    """
    start, step = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    z = start + np.ravel(numbers).astype(np.uint64) * (step | np.uint64(1))  # arrays wrap around in silence
    return ((mixed(z) >> np.uint64(11)) * 2.0**-53).reshape(np.shape(numbers))


def mixed(z: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """Words of which each bit depends on all bits of the given ones, no two on the same.

    Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def row_folds(key: Array, numbers: Int[np.ndarray, "..."], folds: int) -> Int[np.ndarray, "..."]:
    """The fold of each row of a source, from a key and the row's number alone.

    >>> import jax, numpy as np
    >>> from jaxreg.data import row_folds
    >>> sorted(set(row_folds(jax.random.key(0), np.arange(100), 3).tolist()))
    [0, 1, 2]
    """
    return (row_fractions(key_words(key), numbers) * folds).astype(np.int32)


def key_words(key: Array) -> list[int]:
    """The words of a JAX random key, as a seed for NumPy."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(key) if typed else key).ravel().tolist()
