"""Rows that members hold out, and go on holding out when they see other rows with them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int, Integer

from jaxreg.checks import as_key
from jaxreg.data.rows import key_words, row_fractions


class HeldOut(NamedTuple):
    """Which rows each member of an ensemble holds out, by numbers that the rows have in any table.

    Numbers become random fractions by a seed, others in each turn, and there are more turns where there are
    more members than folds; a member holds out the rows whose fractions lie between two bounds.

    Args:
        seed: whole numbers.
        turns: by which turn's fractions each member goes, `(members,)`.
        lower: the smallest fraction that each member holds out.
        upper: the smallest one above that it doesn't.

    >>> import numpy as np
    >>> from jaxreg.data import HeldOut
    >>> numbers = np.arange(6)
    >>> held_out = HeldOut.drawn([0], numbers, members=3, folds=3)
    >>> sorted(held_out.rows(numbers)[1].ravel().tolist())
    [0, 1, 2, 3, 4, 5]
    >>> more = np.arange(90)  # each member still holds out what it did
    >>> all(set(a) <= set(b) for a, b in zip(held_out.rows(numbers)[1], held_out.rows(more)[1]))
    True
    """

    seed: Sequence[int]
    turns: Sequence[int]
    lower: Sequence[float]
    upper: Sequence[float]

    @classmethod
    def drawn(
        cls,
        seed: Sequence[int],
        numbers: Integer[np.ndarray, " rows"],
        *,
        members: int,
        folds: int,
        size: int | None = None,
    ) -> "HeldOut":
        """Folds of equal size, which cover all rows but at most `folds - 1` of them.

        Members beyond the number of folds hold out folds of another shuffling. Member i's rows do not depend
        on how many members there are.

        Args:
            seed: whole numbers.
            numbers: one for each row, no two of them the same.
            members: how many there are.
            folds: number of parts.
            size: rows of a fold; by default all rows' share.
        """
        size = len(numbers) // folds if size is None else size
        turns, places = np.divmod(np.arange(members), folds)
        ends = []
        for turn in range(turns[-1] + 1):
            bounds = np.r_[np.sort(row_fractions([*seed, turn], numbers)), 1.0][::size]
            bounds[0] = 0.0
            ends += [(bounds[i], bounds[i + 1]) for i in places[turns == turn]]
        lower, upper = np.transpose(ends).tolist()
        return cls(list(seed), turns.tolist(), lower, upper)

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "HeldOut":
        """What `_asdict` gave, and a file kept."""
        return cls(**kept)

    def are_left(self, numbers: Integer[np.ndarray, " rows"]) -> Bool[np.ndarray, "members rows"]:
        """Whether each member holds out each row of a table."""
        fractions = {turn: row_fractions([*self.seed, turn], numbers) for turn in set(self.turns)}
        members = zip(self.turns, self.lower, self.upper, strict=True)
        left = [(lower <= fractions[turn]) & (fractions[turn] < upper) for turn, lower, upper in members]
        return np.stack(left)

    def rows(
        self, numbers: Integer[np.ndarray, " rows"]
    ) -> tuple[Int[np.ndarray, "members kept"], Int[np.ndarray, "members left"]]:
        """The rows of a table that each member trains on, of which there are some, and those it holds out.

        Members that train on fewer rows than others are given some of theirs twice; -1 fills up the shorter
        lists of what is held out.
        """
        left = self.are_left(numbers)
        most, most_left = int((~left).sum(axis=1).max()), int(left.sum(axis=1).max())
        kept = np.empty((len(left), most), np.int32)
        held_out = np.full((len(left), most_left), -1, np.int32)
        rng = np.random.default_rng([*self.seed, len(numbers)])
        for i, own in enumerate(left):
            rows = np.flatnonzero(~own)
            kept[i] = np.sort(np.r_[rows, rng.choice(rows, most - len(rows))])
            held_out[i, : own.sum()] = np.flatnonzero(own)
        return kept, held_out

    def of_members(self, members: Integer[np.ndarray, " kept"]) -> "HeldOut":
        """Those of some members alone."""
        parts = ([part[i] for i in members] for part in self[1:])
        return HeldOut(self.seed, *parts)


def fold_rows(
    key: Array | int, n: int, members: int, folds: int
) -> tuple[Int[np.ndarray, "members kept"], Int[np.ndarray, "members left"]]:
    """Rows for each member of an ensemble that leave one of several folds out, and that fold.

    The folds are of equal size and cover all rows but at most `folds - 1` of them, which every member is
    given. Members beyond the number of folds leave out folds of another shuffling. Member i's rows do not
    depend on how many members there are.

    Args:
        key: a JAX random key; that of `fit_ensemble` may serve.
        n: number of rows.
        members: number of members.
        folds: number of parts, from 2 to n.

    Returns:
        `(rows, held_out)`, sorted integers `(members, n - n // folds)` and `(members, n // folds)`.

    Raises:
        ValueError: for fewer than 2 folds, or more than rows.

    >>> import jax
    >>> from jaxreg import data
    >>> rows, held_out = data.fold_rows(jax.random.key(0), n=6, members=3, folds=3)
    >>> sorted(held_out.ravel().tolist())
    [0, 1, 2, 3, 4, 5]
    """
    if not 2 <= folds <= n:
        raise ValueError(f"folds must be from 2 to the {n} rows, got {folds}")
    numbers = np.arange(n)
    return HeldOut.drawn(key_words(as_key(key)), numbers, members=members, folds=folds).rows(numbers)
