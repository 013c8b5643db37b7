"""What `fit` calls while it works: the hooks, the run that they are shown, and its report."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxreg.training.trainer import TrainState

# Tolerance in epochs for rounding errors in sums of fractions of an epoch.
ROUNDING = 1e-9


class Run(NamedTuple):
    """The state of a run between chunks of epochs: all that is needed to continue, and its report.

    Attributes:
        state: the last state whose loss and parameters were finite.
        cursor: `(epoch, batch)`, the next to do; the batch is 0 if rows are arrays.
        best_params: parameters of the best epoch so far by validation NLL; None without validation.
        best_nll: its validation NLL; at first the largest number of its dtype.
        best_epoch: its number, counted from 0; -1 at first.
        failed_epoch: the epoch whose loss or parameters weren't finite, -1 if none.
        active: whether the run goes on.
        sums: of weights times losses, and of weights, in the epoch under way.
        losses: the training loss of each epoch, NaN for epochs to come.
        scores: the score of held-out rows after each epoch; None without them.
    """

    state: TrainState
    cursor: tuple[Array, Array]
    best_params: PyTree
    best_nll: Array
    best_epoch: Array
    failed_epoch: Array
    active: Array
    sums: tuple[Array, Array]
    losses: np.ndarray | None = None
    scores: np.ndarray | None = None

    @property
    def final_state(self) -> TrainState:
        """The state that a run returns; with validation it has the parameters of its best epoch."""
        return self.state if self.best_params is None else self.state._replace(params=self.best_params)

    @property
    def history(self) -> "History":
        """The report."""
        return History(self.losses, self.scores, np.asarray(self.best_epoch), np.asarray(self.failed_epoch))

    @property
    def position(self) -> tuple[int, int]:
        """Epoch and batch of the farthest active member; of the farthest of all members if none is active."""
        epoch, batch, active = (np.asarray(part).ravel() for part in (*self.cursor, self.active))
        kept = active if active.any() else np.ones_like(active)
        return max(zip(epoch[kept].tolist(), batch[kept].tolist(), strict=True))


def start_run(state: TrainState, *, validated: bool) -> Run:
    """A run of members that have done nothing yet, from their first states."""
    # The series take the dtype of the parameters, whose dtype is that of x.
    dtype, members = jnp.result_type(*jax.tree.leaves(state.params)), np.shape(state.step)

    def number(value: Any, dtype: Any = np.int32) -> np.ndarray:
        return np.full(members, value, dtype)

    return Run(
        state=state,
        cursor=(number(0), number(0)),
        # A copy, because a run may be overwritten by its next chunk.
        best_params=jax.tree.map(lambda leaf: leaf.copy(), state.params) if validated else None,
        best_nll=number(jnp.finfo(dtype).max, dtype),
        best_epoch=number(-1),
        failed_epoch=number(-1),
        active=np.ones(members, bool),
        sums=(number(0, dtype), number(0, dtype)),
    )


class History(NamedTuple):
    """The report of a run: series of shape `(epochs,)` or `(members, epochs)`, NaN after a stop.

    Attributes:
        loss: mean over rows of the training loss as the batches were stepped on.
        validation_nll: the trainer's score of the validation rows after each epoch, mean `gaussian_nll`
            unless another was asked for; None without them.
        best_epoch: the epoch whose parameters were kept, counted from 0; -1 without validation.
        failed_epoch: the epoch whose loss or parameters stopped being finite, -1 if none.
    """

    loss: Float[np.ndarray, "..."]
    validation_nll: Float[np.ndarray, "..."] | None
    best_epoch: np.ndarray
    failed_epoch: np.ndarray


class Job(NamedTuple):
    """All that determines a run, so that a hook can recognise the same run.

    Attributes:
        settings: numbers that were given, by name.
        arrays: all arrays that were given, by name: the key, data, rows, and the first state.
        program: returns the text of one member's program, from model, loss, optimizer and batches.
    """

    settings: dict[str, Any]
    arrays: dict[str, ArrayLike]
    program: Callable[[], str]


class Hook:
    """What `fit` calls between chunks of epochs; override any method.

    The chunks' lengths follow the clock. The result doesn't depend on them unless a hook without `every`
    stops the run, which then ends up to 512 epochs after the one that the hook waited for. A hook with an
    attribute `every` is called after each multiple of `every` epochs, whatever the clock says; a hook that
    stops a run needs `every = 1`.

    >>> import jax
    >>> from jaxreg import Hook, MeanVarRegressor, data, fit, make_trainer, sgd
    >>> class StopAt(Hook):
    ...     every = 1
    ...
    ...     def after_chunk(self, run, history):
    ...         return history.loss[int(run.cursor[0]) - 1] < 0.9
    ...
    >>> trainer = make_trainer(MeanVarRegressor(hidden=(8,)), sgd(5e-3))
    >>> rows = data.sinusoid(jax.random.key(0))
    >>> state, history = fit(jax.random.key(1), trainer, rows, epochs=100, batch_size=64, hooks=[StopAt()])
    >>> int(state.step) < 400
    True
    """

    every: int | None = None

    def begin(self, job: Job) -> None:
        """Called first of all."""

    def restore(self, run: Run) -> Run:
        """Called once at the start: return the run to begin with, and in it the report of the epochs done."""
        return run

    def after_chunk(self, run: Run, history: History) -> bool | None:
        """Called after each chunk; return True to stop. The history is NaN for epochs to come."""
        return None

    def close(self) -> None:
        """Called once at the end, however the run ended."""

    def for_trial(self) -> "Hook | None":
        """The hook for a short run that prepares this one, such as the estimator's; by default none."""
        return None


def periods(here: float, every: float | int) -> int:
    """How many whole periods of epochs are over."""
    return math.floor(here / every + ROUNDING)


def check_hooks(hooks: Any) -> None:
    """Raise unless hooks are a list of `Hook`s."""
    if hooks is None:
        raise TypeError("hooks must be a list of Hook objects, got None: pass [] for none")
    if isinstance(hooks, Hook) or callable(hooks):
        raise TypeError(
            f"hooks must be a list of Hook objects, got a {type(hooks).__name__} alone: pass [hook]"
        )
    for hook in hooks:
        if not isinstance(hook, Hook):
            raise TypeError(
                f"hooks must be Hook objects, got a {type(hook).__name__}: make a class of jaxreg.Hook with "
                "after_chunk(self, run, history)"
            )
