"""How the estimator's members are trained, and what its "auto" stands for: the choices of its defaults."""

import math
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxreg import metrics
from jaxreg.calibration.scaling import NoiseScaling
from jaxreg.checks import over_outputs
from jaxreg.columns import Columns
from jaxreg.data.rows import Source
from jaxreg.distributions.mixture import GaussianMixture
from jaxreg.networks.embeddings import PeriodicEmbedding
from jaxreg.networks.models import ACTIVATIONS, MeanVarRegressor
from jaxreg.networks.prediction import predict_ensemble
from jaxreg.training import History, Hook, Run, Trainer, TrainState, fit_ensemble, make_trainer
from jaxreg.training.feeds import share_class
from jaxreg.training.fitting import memory_errors
from jaxreg.training.inputs import more_rows
from jaxreg.training.losses import beta_nll, crps_gaussian, gaussian_nll, scaled_nll
from jaxreg.training.optimizers import adamw
from jaxreg.training_data import TrainingData

LOSSES = {"beta_nll": beta_nll(0.5), "gaussian_nll": gaussian_nll, "crps": crps_gaussian}

# What "auto" stands for: about so many steps, in so many epochs at least and at most, of batches that grow
# with the rows; of rows in files other numbers, which are those of 100,000 rows in memory and go on from
# there; and more decay of the parameters where fewer rows hold them.
AUTO_STEPS = 3000
AUTO_EPOCHS = (60, 600)
AUTO_BATCH = (32, 256)
AUTO_BATCHES = 256
STREAM_STEPS = 200_000
STREAM_EPOCHS = (1, 60)
DECAY_ROWS = 1000

# Weight, in rows, of the prior that the networks' noise is right as it is.
PRIOR_ROWS = 125.0

# Scales of the periodic embedding's first frequencies. Small ensembles try them out, on rows that all of
# them hold out and in a share of the epochs. Few rows say too little of them.
SCALES = (1.0, 0.25, 0.0)
SCALE_OF_FEW = 0.25
TRIAL_ROWS = 50
TRIAL_MEMBERS = 3
TRIAL_UNSEEN = 0.3
TRIAL_SHARE = 0.25
# With less time than this, which compiling alone may take, nothing is tried out.
TRIAL_SECONDS = 30

# More frequencies than this, of all features together, cost more than they tell.
MOST_FREQUENCIES = 512


def auto_batch_size(rows: int) -> int:
    """Rows per step: a power of two, more where there are more rows."""
    return int(np.clip(2 ** round(math.log2(rows / AUTO_BATCHES)), *AUTO_BATCH))


def auto_epochs(steps: int) -> int:
    """Epochs of so many steps that make about as many whatever the number of rows, within bounds."""
    return int(np.clip(AUTO_STEPS // steps, *AUTO_EPOCHS))


def stream_epochs(steps: int) -> int:
    """The same for rows in files."""
    return int(np.clip(round(STREAM_STEPS / steps), *STREAM_EPOCHS))


def steps_per_epoch(rows: int, batch_size: int | None) -> int:
    """Batches of an epoch, the last and smaller one among them."""
    return 1 if batch_size is None else math.ceil(rows / batch_size)


class TimeLimit(Hook):
    """Stops a run so many seconds from now on, None for never.

    Attributes:
        hooks: itself, or nothing where there is no limit.
        stopped: whether it stopped a run.
    """

    def __init__(self, seconds: float | int | None):
        self.seconds, self.began, self.stopped = seconds, time.monotonic(), False
        self.hooks = [] if seconds is None else [self]

    def after_chunk(self, run: Run, history: History) -> bool:
        """Whether the time is over."""
        self.stopped = time.monotonic() >= self.began + self.seconds
        return self.stopped

    def warn_if_stopped(self, history: History) -> None:
        """Say what was kept if the time was over before the epochs were."""
        done = int(np.isfinite(history.loss).sum(axis=-1).max())
        if self.stopped and done < history.loss.shape[-1]:
            warnings.warn(
                f"time_limit={self.seconds:g}: training stopped after {done:,} of "
                f"{history.loss.shape[-1]:,} epochs, {time.monotonic() - self.began:.0f} s after it "
                "began, and the best of these epochs are kept; compiling and an epoch under way aren't "
                "cut short",
                stacklevel=3,
            )


class Recipe(NamedTuple):
    """How members are trained.

    Attributes:
        model: the network.
        trainer: its steps.
        batch_size: rows per step, None for all.
        epochs: most passes over the rows.
        patience: epochs without a better score after which a member stops.
    """

    model: MeanVarRegressor
    trainer: Trainer
    batch_size: int | None
    epochs: int
    patience: int

    def fit(
        self,
        key: jax.Array,
        training_data: TrainingData,
        scales: np.ndarray,
        hooks: Sequence[Hook],
    ) -> tuple[TrainState, History]:
        """Train a member for each scale of the frequencies."""
        # One after another, so that one program serves any number of them.
        keys, example = jax.random.split(key, len(scales)), training_data.sample[0][:1]
        with memory_errors("smaller layers or fewer members need less"):
            states = [_begin(self.trainer, *one, example) for one in zip(keys, scales, strict=True)]
            states = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.block_until_ready(states))
        return fit_ensemble(
            key,
            self.trainer,
            training_data.data,
            members=len(scales),
            epochs=self.epochs,
            batch_size=self.batch_size,
            patience=self.patience if training_data.held_out else None,
            states=states,
            hooks=hooks,
            mesh=training_data.mesh,
            **training_data.held_out,
        )


def make_recipe(settings: Any, training_data: TrainingData, share: float = 1.0) -> Recipe:
    """How an estimator of some settings trains its members, for a share of the epochs."""
    x, y, *_ = training_data.sample
    columns = training_data.scalers[0] if isinstance(training_data.scalers[0], Columns) else None
    numbers = x.shape[1] if columns is None else columns.numbers
    frequencies = min(settings.frequencies, max(MOST_FREQUENCIES // max(numbers, 1), 1))
    embedding = PeriodicEmbedding(frequencies) if frequencies else None
    model = MeanVarRegressor(
        hidden=settings.hidden,
        outputs=None if y.ndim == 1 else y.shape[1],
        activation=ACTIVATIONS[settings.activation],
        embedding=embedding if columns is None else columns.embedding(embedding),
    )
    data, used, batch_size, epochs = (
        training_data.data,
        training_data.used,
        settings.batch_size,
        settings.epochs,
    )
    streamed = isinstance(data, Source)
    batch_size = auto_batch_size(used) if batch_size == "auto" else batch_size
    steps = data.batches(batch_size) if streamed else steps_per_epoch(used, batch_size)
    if epochs == "auto":
        epochs = stream_epochs(steps) if streamed else auto_epochs(steps)
    epochs = math.ceil(share * epochs)
    decay = settings.weight_decay * math.sqrt(DECAY_ROWS / training_data.rows)
    optimizer = adamw(settings.learning_rate, decay, steps=epochs * steps)
    trainer = make_trainer(model, optimizer, LOSSES[settings.loss], scaled_nll)
    return Recipe(model, trainer, batch_size, epochs, max(math.ceil(settings.patience * epochs), 1))


@jax.jit
def _begin(trainer: Trainer, key: jax.Array, scale: jax.Array, x: jax.Array) -> TrainState:
    """A member's first state, its frequencies scaled."""
    state = trainer.init(key, x)

    def scaled(path: tuple, leaf: jax.Array) -> jax.Array:
        return leaf * scale if path[-1].key == "frequency" else leaf

    return state._replace(params=jax.tree.map_with_path(scaled, state.params))


def try_scales(key: jax.Array, settings: Any, training_data: TrainingData, hooks: Sequence[Hook]) -> float:
    """The scale of the frequencies whose small ensemble predicts rows best that none of its members saw.

    The score is the ensemble's: high frequencies let members err each in another way, which the mean of the
    members gains from and no member does.
    """
    recipe, data = make_recipe(settings, training_data, TRIAL_SHARE), training_data.data
    n, size = training_data.rows, training_data.rows - training_data.used
    folds = max(int(TRIAL_UNSEEN * n / size), 1)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    unseen, seen = np.split(rng.permutation(n).astype(np.int32), [folds * size])
    # Those that are missing in number are repeats; the epoch is chosen on a part of the unseen rows.
    more = rng.choice(seen, (TRIAL_MEMBERS, training_data.used - len(seen)))
    rows = np.concatenate([np.tile(seen, (TRIAL_MEMBERS, 1)), more], axis=1)
    held_out = unseen.reshape(folds, size)[np.arange(TRIAL_MEMBERS) % folds]
    rows, held_out = (np.tile(part, (len(SCALES), 1)) for part in (rows, held_out))
    training_data = training_data._replace(held_out={"rows": rows, "validation_rows": held_out})
    states, history = recipe.fit(key, training_data, np.repeat(SCALES, TRIAL_MEMBERS), hooks)
    # Filled up with rows of no weight, as in training: a new number of rows needs no program of its own.
    filled = more_rows(unseen, share_class(len(unseen), n))
    y, *weight = (a[filled] for a in data[1:])
    present = (np.arange(len(filled)) < len(unseen)).reshape(-1, *(1,) * (y.ndim - 1))
    weight = present * np.broadcast_to(over_outputs(weight[0], y.shape) if weight else 1.0, y.shape)
    together = predict_ensemble(recipe.model, states.params, data[0][filled])
    scores = []
    for i in range(len(SCALES)):
        of_scale = slice(i * TRIAL_MEMBERS, (i + 1) * TRIAL_MEMBERS)
        parts = (np.asarray(part)[of_scale] for part in (together.means, together.log_vars))
        mixture = GaussianMixture(*parts)
        scaled = NoiseScaling.fit(mixture, y, sample_weight=weight)(mixture)
        scores.append(np.mean(metrics.nll(scaled, y, sample_weight=weight)))
    failed = (history.failed_epoch >= 0).reshape(len(SCALES), -1).any(axis=1)
    return SCALES[int(np.nanargmin(np.where(failed, np.inf, scores)))]


def final_scores(history: History) -> dict[str, float]:
    """Means over members, in the standardised target's units: of the last epoch, and of those kept."""
    kept = np.flatnonzero(history.failed_epoch < 0)
    last = np.isfinite(history.loss[kept]).sum(axis=1) - 1
    scores = {"training_loss": float(np.mean(history.loss[kept, last]))}
    if history.validation_nll is not None:
        held_out = history.validation_nll[kept, history.best_epoch[kept]]
        scores["held_out_nll_of_members"] = float(np.mean(held_out))
    return scores
