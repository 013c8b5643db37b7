"""What members train on: rows that are checked, padded to size classes, or read as they are needed."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxreg.checks import over_outputs
from jaxreg.data.border import check_data, check_rows, check_trainable, check_weights
from jaxreg.data.frames import TableLike
from jaxreg.data.rows import Source, bootstrap_rows, key_words, row_folds
from jaxreg.plain import check_whole
from jaxreg.training.feeds import Arrays, PerMember, Stream, Table, share_class, size_class
from jaxreg.training.losses import mean_nll, scaled_nll
from jaxreg.training.trainer import Batch, Trainer, TrainState, state_shapes

# Rows of a source that are kept in memory to validate members, over all folds.
HELD_OUT_ROWS = 2**17
# Scores that ignore rows of weight 0, so that held-out rows may be padded too.
WEIGHTED_SCORES = None, mean_nll, scaled_nll


class Asked(NamedTuple):
    """The arguments of `fit_ensemble` that say what members train on."""

    batch_size: int | None
    validation: Batch | None
    first_epoch: int
    rows: TableLike | None = None
    validation_rows: TableLike | None = None
    bootstrap: bool = False
    folds: int | None = None
    weights: TableLike | None = None


class Inputs(NamedTuple):
    """What members train on, checked.

    Attributes:
        per_member: what differs between members.
        feed: the rows.
        validation: rows that are held out.
        example: some features.
        state: shapes and dtypes of a member's first state.
        most: rows of a step.
        settings: numbers that distinguish the run from others, by name.
        arrays: arrays that do, by name.
    """

    per_member: PerMember
    feed: Arrays | Stream
    validation: Batch | None
    example: np.ndarray
    state: TrainState
    most: int
    settings: dict[str, Any]
    arrays: dict[str, ArrayLike]


def from_arrays(key: Array, trainer: Trainer, data: Batch, members: int, asked: Asked) -> Inputs:
    """What members train on, from rows in memory, padded to size classes."""
    batch_size, rows, weights = asked.batch_size, asked.rows, asked.weights
    if asked.folds is not None:
        raise ValueError("folds are for rows that come from a source: pass what data.fold_rows gives as rows")
    data = check_data(data)
    n = len(data[0])
    if asked.bootstrap:
        if rows is not None:
            raise ValueError("bootstrap draws the rows of each member itself: pass either bootstrap or rows")
        rows, _ = bootstrap_rows(key, n, members)
    validation, validation_rows = _checked_validation(data, asked.validation, asked.validation_rows, members)
    rows = None if rows is None else check_rows("rows", rows, members, n)
    weights = None if weights is None else check_weights(weights, members, n)
    _check_each_trainable(data, rows, weights)
    example = data[0][:1]
    state = state_shapes(trainer, key, example)
    dtype = jnp.result_type(*jax.tree.leaves(state.params))
    as_dtype = partial(jax.tree.map, partial(np.asarray, dtype=dtype))
    data, validation, weights, example = as_dtype((data, validation, weights, example))
    arrays = dict(zip(("x", "y", "weight"), data, strict=False))
    arrays |= _named_validation(validation)

    used = n if rows is None else rows.shape[1]
    if rows is not None:
        data = _weighted(data) if (rows < 0).any() else data
        rows = _columns(rows, share_class(used, n), -1)
    weights = None if weights is None else _columns(weights, size_class(n), 0)
    if validation is not None:
        validation, validation_rows = _filled_validation(trainer, validation, validation_rows)
    full = batch_size is None or batch_size >= used
    data = tuple(more_rows(array, size_class(n)) for array in data)
    size = len(data[0]) if rows is None else rows.shape[1]
    exact = used == size and (full or used % batch_size == 0)
    table = Table(data, np.asarray(used, np.int32), None if full else batch_size, exact)
    per_member = PerMember(None, rows, validation_rows, weights)
    return Inputs(
        per_member, Arrays(table), validation, example, state, used if full else batch_size, {}, arrays
    )


def from_source(key: Array, trainer: Trainer, source: Source, members: int, asked: Asked) -> Inputs:
    """What members train on, from rows that are read as they are needed."""
    validation, validation_rows, folds = asked.validation, asked.validation_rows, asked.folds
    for name in ("rows", "weights"):
        if getattr(asked, name) is not None:
            raise ValueError(f"{name} name rows in memory: a source knows bootstrap and folds")
    if folds is not None:
        check_whole("folds", folds, 2)
        if validation is None:
            validation, validation_rows = held_out_sample(key, source, members, folds)
    elif validation is None and validation_rows is not None:
        raise ValueError("validation_rows of a source need validation=(x, y), rows in memory")
    if asked.batch_size is None:
        raise ValueError("rows that are read as they are needed need a batch_size, for example 256")
    feed = Stream(
        key,
        source,
        asked.batch_size,
        first_epoch=asked.first_epoch,
        folds=folds,
        bootstrap=asked.bootstrap,
    )
    first = feed.block(0, 0)
    validation, validation_rows = _checked_validation(
        (first.x[0], first.y[0]), validation, validation_rows, members
    )
    example = first.x[0][:1]
    state = state_shapes(trainer, key, example)
    feed.dtype = dtype = jnp.result_type(*jax.tree.leaves(state.params))
    validation, example = jax.tree.map(partial(np.asarray, dtype=dtype), (validation, example))
    arrays = source.describe() | _named_validation(validation)
    if validation is not None:
        validation, validation_rows = _filled_validation(trainer, validation, validation_rows)
    fold = None if folds is None else np.arange(members, dtype=np.int32) % folds
    per_member = PerMember(None, None, validation_rows, None, fold)
    settings = {"batches_per_epoch": feed.per_epoch, "folds": folds, "bootstrap": asked.bootstrap}
    return Inputs(per_member, feed, validation, example, state, asked.batch_size, settings, arrays)


def _filled_validation(
    trainer: Trainer, validation: Batch, rows: np.ndarray | None
) -> tuple[Batch, np.ndarray | None]:
    """Held-out rows, padded to size classes if the score ignores padding."""
    made_of = getattr(getattr(trainer.init, "func", None), "made_of", [...])
    if made_of[-1] not in WEIGHTED_SCORES:
        absent = rows is not None and (rows < 0).any()
        return _weighted(validation) if absent else validation, rows
    x, y, weight = _weighted(validation)
    n = len(x)
    if rows is not None:
        rows = _columns(rows, share_class(rows.shape[1], n), -1)
    weight = np.concatenate([weight, np.full((size_class(n) - n, *weight.shape[1:]), -1, weight.dtype)])
    return (more_rows(x, size_class(n)), more_rows(y, size_class(n)), weight), rows


def _weighted(data: Batch) -> Batch:
    """The same rows with weights."""
    return data if len(data) == 3 else (*data, np.ones(len(data[0]), data[0].dtype))


def more_rows(array: np.ndarray, size: int) -> np.ndarray:
    """The array padded to `size` rows, which repeat the first."""
    return np.concatenate([array, np.repeat(array[:1], size - len(array), axis=0)])


def _columns(array: np.ndarray, size: int, value: int) -> np.ndarray:
    """The array padded to `size` columns with one value."""
    return np.pad(array, ((0, 0), (0, size - array.shape[1])), constant_values=value)


def held_out_sample(key: Array, source: Source, members: int, folds: int) -> tuple[Batch, np.ndarray]:
    """Some rows of a source, and for each member those in the fold that it holds out.

    Returns:
        `(x, y)` and integers `(members, k)`, -1 for no row, as `fit_ensemble` takes them.

    Raises:
        ValueError: if a fold has no row.
    """
    numbers, x, y = source.take([*key_words(key), members], HELD_OUT_ROWS)
    rows_of_fold = [
        np.flatnonzero(row_folds(key, numbers, folds) == fold) for fold in range(min(members, folds))
    ]
    if not all(map(len, rows_of_fold)):
        raise ValueError(
            f"{len(numbers)} rows are too few for {folds} folds by the hash of their numbers: use fewer "
            "folds, or read the rows into memory"
        )
    listed = np.full((len(rows_of_fold), max(map(len, rows_of_fold))), -1, np.int32)
    for line, rows in zip(listed, rows_of_fold, strict=True):
        line[: len(rows)] = rows
    return (x, y), listed[np.arange(members) % folds]


def _named_validation(validation: Batch | None) -> dict[str, ArrayLike]:
    named = zip(("x", "y", "weight"), validation or (), strict=False)
    return {f"validation {name}": array for name, array in named}


def check_alike(data: Batch, validation: Batch) -> None:
    """Raise unless validation has the columns of the training data."""
    for name, ours, theirs in zip("xy", data, validation, strict=False):
        if ours.shape[1:] != theirs.shape[1:]:
            raise ValueError(
                f"validation: {name} has shape {theirs.shape}, the training data's has {ours.shape}"
            )


def _checked_validation(
    data: Batch, validation: Batch | None, validation_rows: TableLike | None, members: int
) -> tuple[Batch | None, np.ndarray | None]:
    """Held-out rows, and which of them each member is validated on, checked."""
    if validation is not None:
        validation = check_data(validation, "validation")
        check_alike(data, validation)
    if validation_rows is not None:
        validation = data if validation is None else validation
        validation_rows = check_rows("validation_rows", validation_rows, members, len(validation[0]))
    return validation, validation_rows


def _check_each_trainable(data: Batch, rows: np.ndarray | None, weights: np.ndarray | None) -> None:
    """Raise an error that names a member if its rows can't train a variance."""
    if rows is None and weights is None:
        return check_trainable(data)
    x, y, *weight = data
    for i in range(len(weights if rows is None else rows)):
        present = slice(None) if rows is None else rows[i][rows[i] >= 0]
        parts = [a[present] for a in weight]
        if weights is not None:
            member_weights = weights[i][present]
            parts = [part * over_outputs(member_weights, part.shape) for part in parts] or [member_weights]
        try:
            check_trainable((x[present], y[present], *parts))
        except ValueError as error:
            raise ValueError(f"member {i}: {error}") from None
