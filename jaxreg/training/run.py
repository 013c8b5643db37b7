"""The training loop: one network's run over blocks of batches, a pure function."""

from functools import partial
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
    *,
    axis: str | None = None,
) -> tuple[Run, Report]:
    """Go through a call's blocks from the run's cursor on, or until the run is over.

    `axis` names the members side by side. They go on until the last is over, each keeping what it has from
    its own end on: a loop with an end for each member would copy every state before every block.
    """
    (blocks, per_member), (validation, limits) = feed, held_out
    first, dtype = run.cursor[0], run.best_nll.dtype
    if validation is not None and per_member.validation_rows is not None:
        validation = take_rows(validation, per_member.validation_rows)

    def any_member(condition: Array) -> Array:
        return condition if axis is None else jax.lax.psum(condition.astype(jnp.int32), axis) > 0

    def one_block(limit: Array, carry: tuple) -> tuple:
        done, run, losses, scores = carry
        epoch, batch = run.cursor
        goes_on = True if axis is None else run.active & (done < limit)
        batches = blocks.batches(key, per_member, limits.first_epoch + epoch)
        state, sums = _step_through(trainer, batches, run.state, run.sums, goes_on)
        loss = sums[0] / jnp.where(sums[1] > 0, sums[1], 1)
        finite, last = jnp.isfinite(loss), jnp.asarray(blocks.ends_epoch)
        now = run._replace(
            state=state,
            cursor=(jnp.where(last, epoch + 1, epoch), jnp.where(last, 0, batch + batches.whole)),
            failed_epoch=jnp.where(finite, run.failed_epoch, epoch),
            active=finite & goes_on,
            sums=jax.tree.map(lambda total: jnp.where(last, 0, total), sums),
        )
        now_losses, now_scores = losses.at[epoch - first].set(loss), scores
        if validation is not None:
            now, score = jax.lax.cond(
                last,
                lambda run: _judged(trainer, run, epoch, validation, limits.patience),
                lambda run: (run, jnp.zeros((), dtype)),
                now,
            )
            now_scores = scores.at[epoch - first].set(score)
        # The largest parts are those of a member's own end already.
        large = {"state": None, "best_params": None}
        small = done + 1, now._replace(**large), now_losses, now_scores
        before = done, run._replace(**large), losses, scores
        done, small, losses, scores = where(goes_on, small, before)
        return done, small._replace(state=now.state, best_params=now.best_params), losses, scores

    def attempt(carry: tuple) -> tuple:
        _, limit, (*_, losses, scores) = carry

        def goes_on(carry: tuple) -> Array:
            return any_member(carry[1].active & (carry[0] < limit))

        begin = jnp.zeros((), jnp.int32), run, losses, scores
        end = jax.lax.while_loop(goes_on, partial(one_block, limit), begin)
        # Parameters that aren't finite stay so, which is therefore asked only once.
        broken = (end[1].failed_epoch > run.failed_epoch) | ~_all_finite(end[1].state.params)
        failed = broken & (end[0] > 0)
        return failed, jnp.where(failed, end[0] - 1, limit), end

    # A block that fails can't be undone: the call is run again up to it. That is rare, whereas keeping a copy
    # of the state for each epoch costs 7 % of every run. Series begin at 0, and the host writes NaN for
    # absent epochs, so that jax_debug_nans finds only real faults.
    most = blocks.blocks(first, limits.stop)
    blank = jnp.zeros((blocks.epochs,), dtype)
    start = jnp.zeros((), jnp.int32), run, blank, None if validation is None else blank
    carry = jax.lax.while_loop(lambda carry: any_member(carry[0]), attempt, (jnp.ones((), bool), most, start))
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
    trainer: Trainer,
    batches: Batches,
    state: TrainState,
    sums: tuple[Array, Array],
    goes_on: Array | bool,
) -> tuple[TrainState, tuple[Array, Array]]:
    """Take a step on each batch, and add to the sums of weighted losses and of weights.

    A member that doesn't go on keeps its state.
    """

    def step(batch: Batch, carry: tuple) -> tuple:
        old, (losses, weights) = carry
        state, loss = trainer.step(old, batch)
        state = where(goes_on, state, old)
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
