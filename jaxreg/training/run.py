"""The training loop: one network's run over blocks of batches, a pure function."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxreg.training.feeds import Batches, Block, PerMember, Table
from jaxreg.training.hooks import Run
from jaxreg.training.trainer import Batch, Trainer, TrainState, take_rows, weight_of, where


class Limits(NamedTuple):
    """Numbers that all members of a run share.

    Attributes:
        stop: the epoch to stop before.
        patience: epochs without a better score after which a run is over.
        first_epoch: is added to the epoch numbers that determine the orders of the rows.
    """

    stop: Array
    patience: Array
    first_epoch: Array


class Report(NamedTuple):
    """What a call reports of its epochs.

    Attributes:
        losses: the training loss of each, and zeros.
        scores: the score of held-out rows after each, and zeros; None without them.
        done: how many epochs have a loss, including one that failed.
        judged: how many have a score.
    """

    losses: Array
    scores: Array | None
    done: Array
    judged: Array


def advance(
    key: Array,
    trainer: Trainer,
    run: Run,
    feed: tuple[Table | Block, PerMember],
    held_out: tuple[Batch | None, Limits],
) -> tuple[Run, Report]:
    """Go through a call's blocks from the run's cursor on, or until the run is over."""
    (blocks, per_member), (validation, limits) = feed, held_out
    first, dtype = run.cursor[0], run.best_nll.dtype
    if validation is not None and per_member.validation_rows is not None:
        validation = take_rows(validation, per_member.validation_rows)

    def one_block(carry: tuple) -> tuple:
        i, run, losses, scores = carry
        epoch, batch = run.cursor
        batches = blocks.batches(key, per_member, limits.first_epoch + epoch)
        state, sums = _step_through(trainer, batches, run.state, run.sums)
        loss = sums[0] / jnp.where(sums[1] > 0, sums[1], 1)
        finite, last = jnp.isfinite(loss) & _all_finite(state.params), jnp.asarray(blocks.ends_epoch)
        run = run._replace(
            state=state,
            cursor=(jnp.where(last, epoch + 1, epoch), jnp.where(last, 0, batch + batches.whole)),
            failed_epoch=jnp.where(finite, run.failed_epoch, epoch),
            active=finite,
            sums=jax.tree.map(lambda total: jnp.where(last, 0, total), sums),
        )
        losses = losses.at[epoch - first].set(loss)
        if validation is not None:
            run, score = jax.lax.cond(
                last,
                lambda run: _judged(trainer, run, epoch, validation, limits.patience),
                lambda run: (run, jnp.zeros((), dtype)),
                run,
            )
            scores = scores.at[epoch - first].set(score)
        return i + 1, run, losses, scores

    def attempt(carry: tuple) -> tuple:
        _, limit, (*_, losses, scores) = carry

        def goes_on(carry: tuple) -> Array:
            return carry[1].active & (carry[0] < limit)

        end = jax.lax.while_loop(goes_on, one_block, (jnp.zeros((), jnp.int32), run, losses, scores))
        failed = end[1].failed_epoch > run.failed_epoch
        return failed, jnp.where(failed, end[0] - 1, limit), end

    # A block that fails can't be undone: the call is run again up to it. That is rare, whereas keeping a copy
    # of the state for each epoch costs 7 % of every run. Series begin at 0, and the host writes NaN for
    # absent epochs, so that jax_debug_nans finds only real faults.
    most = blocks.blocks(first, limits.stop)
    blank = jnp.zeros((blocks.epochs,), dtype)
    start = jnp.zeros((), jnp.int32), run, blank, None if validation is None else blank
    carry = jax.lax.while_loop(lambda carry: carry[0], attempt, (jnp.ones((), bool), most, start))
    _, limit, (_, end, losses, scores) = carry
    failed, (epoch, batch) = limit < most, end.cursor
    end = end._replace(
        cursor=(jnp.where(failed, epoch + 1, epoch), jnp.where(failed, 0, batch)),
        failed_epoch=jnp.where(failed, epoch, end.failed_epoch),
        active=end.active & ~failed,
        sums=jax.tree.map(lambda total: jnp.where(failed, 0, total), end.sums),
    )
    done = end.cursor[0] - first
    return end, Report(losses, scores, done, jnp.where(failed, done - 1, done))


def _step_through(
    trainer: Trainer, batches: Batches, state: TrainState, sums: tuple[Array, Array]
) -> tuple[TrainState, tuple[Array, Array]]:
    """Take a step on each batch, and add to the sums of weighted losses and of weights."""

    def step(batch: Batch, carry: tuple) -> tuple:
        state, (losses, weights) = carry
        state, loss = trainer.step(state, batch)
        weight = weight_of(batch).astype(losses.dtype)
        return state, (losses + weight * loss.astype(losses.dtype), weights + weight)

    def whole(i: int | Array, carry: tuple) -> tuple:
        return step(batches.take(i), carry)

    def last(carry: tuple) -> tuple:
        return step(batches.last(), carry)

    # Only the last batch is padded, because weights that mask rows cost a tenth of a step.
    carry = jax.lax.fori_loop(0, batches.whole, whole, (state, sums))
    if batches.last is None:
        return carry
    return jax.lax.cond(batches.left > 0, last, lambda carry: carry, carry)


def _judged(
    trainer: Trainer, run: Run, epoch: Array, validation: Batch, patience: Array
) -> tuple[Run, Array]:
    """The run at the end of an epoch, after its parameters are scored on held-out rows; and the score."""
    score = trainer.score(run.state.params, validation).astype(run.best_nll.dtype)
    better = run.active & (score < run.best_nll)
    best_epoch = jnp.where(better, epoch, run.best_epoch)
    judged = run._replace(
        best_params=where(better, run.state.params, run.best_params),
        best_nll=jnp.where(better, score, run.best_nll),
        best_epoch=best_epoch,
        active=run.active & (epoch - best_epoch < patience),
    )
    return judged, score


def _all_finite(tree: PyTree) -> Array:
    # In XLA a maximum takes a quarter of the time of isfinite and all; it is NaN if an entry is.
    return jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(tree) if leaf.size]).max() < jnp.inf
