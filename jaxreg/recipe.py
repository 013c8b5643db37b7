"""How the estimator's members are trained, and what its "auto" stands for: the choices of its defaults."""

import math
import operator
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.calibration.scaling import NoiseScaling
from jaxreg.checks import over_outputs
from jaxreg.columns import Columns, carried
from jaxreg.data.rows import Source
from jaxreg.model.fitted import Fitted
from jaxreg.networks.embeddings import PeriodicEmbedding
from jaxreg.networks.models import ACTIVATIONS, SMALLEST_STD, MeanVarRegressor, MixtureRegressor
from jaxreg.networks.prediction import predict_ensemble
from jaxreg.plain import warn
from jaxreg.training import History, Hook, Run, Trainer, TrainState, fit_ensemble, make_trainer
from jaxreg.training.feeds import share_class
from jaxreg.training.fitting import memory_errors
from jaxreg.training.inputs import more_rows
from jaxreg.training.losses import beta_nll, crps_gaussian, scaled_nll
from jaxreg.training.optimizers import adamw
from jaxreg.training_data import TrainingData

LOSSES = {"beta_nll": beta_nll(0.5), "gaussian_nll": None, "crps": crps_gaussian}

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

# Where training goes on from a model: a share of the learning rate that a new one has.
GOING_ON_RATE = 0.3

# Weight, in rows, of the prior that the networks' noise is right as it is.
PRIOR_ROWS = 125.0

# Scales of the periodic embedding's first frequencies, and components of the noise. Small ensembles try them
# out, on rows that all of them hold out and in a share of the epochs. Few rows say too little of them.
SCALES = (1.0, 0.25, 0.0)
SCALE_OF_FEW = 0.25
COMPONENTS = (1, 4)
COMPONENTS_OF_FEW = 1
# Nats, of all unseen rows together, that more components have to gain: few rows say little of a shape.
PRIOR_OF_FEW = 5.0
TRIAL_ROWS = 50
TRIAL_MEMBERS = 3
TRIAL_UNSEEN = 0.3
TRIAL_SHARE = 0.25
# With less time than this, which compiling alone may take, nothing is tried out.
TRIAL_SECONDS = 30

# Logits of components that are there for the shape of the program alone: they weigh exactly nothing.
ABSENT = -1e9

# The standard deviation of what rounding to whole numbers does, and the largest floor that follows from it.
ROUNDING_STD = 12**-0.5
LARGEST_FLOOR = 0.125

# So that nothing is divided by 0.
TINY = np.finfo(np.float64).tiny

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
            warn(
                f"time_limit={self.seconds:g}: training stopped after {done:,} of "
                f"{history.loss.shape[-1]:,} epochs, {time.monotonic() - self.began:.0f} s after it "
                "began, and the best of these epochs are kept; compiling and an epoch under way aren't "
                "cut short"
            )


class Choice(NamedTuple):
    """What a member takes of what is tried: the scale of the frequencies, and components of the noise."""

    scale: float
    components: int


class Recipe(NamedTuple):
    """How members are trained.

    Attributes:
        model: the network.
        trainer: its steps.
        batch_size: rows per step, None for all.
        epochs: most passes over the rows.
        patience: epochs without a better score after which a member stops.
    """

    model: MeanVarRegressor | MixtureRegressor
    trainer: Trainer
    batch_size: int | None
    epochs: int
    patience: int

    def fit(
        self,
        key: jax.Array,
        training_data: TrainingData,
        choices: Sequence[Choice],
        hooks: Sequence[Hook],
    ) -> tuple[TrainState, History]:
        """Train a member for each choice, from the parameters of a model where training goes on from one."""
        # One after another, so that one program serves any number of them.
        keys, example = jax.random.split(key, len(choices)), training_data.sample[0][:1]
        most = getattr(self.model, "components", 1)
        with memory_errors("smaller layers or fewer members need less"):
            states = [
                _begin(self.trainer, own, example, choice, most=most)
                for own, choice in zip(keys, choices, strict=True)
            ]
            states = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.block_until_ready(states))
            if (start := training_data.start) is not None:
                params = carried(start.params, start.x_scaler, training_data.scalers[0])
                states = states._replace(params=params)
        return fit_ensemble(
            key,
            self.trainer,
            training_data.data,
            members=len(choices),
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
    start, (x, y, *weight) = training_data.start, training_data.sample
    columns = training_data.scalers[0] if isinstance(training_data.scalers[0], Columns) else None
    numbers = x.shape[1] if columns is None else columns.numbers
    frequencies = min(settings.frequencies, max(MOST_FREQUENCIES // max(numbers, 1), 1))
    embedding = PeriodicEmbedding(frequencies) if frequencies else None
    components = max(candidates(settings)[1])
    kind = MeanVarRegressor if components == 1 else partial(MixtureRegressor, components=components)
    if start is None:
        model = kind(
            hidden=settings.hidden,
            outputs=None if y.ndim == 1 else y.shape[1],
            activation=ACTIVATIONS[settings.activation],
            embedding=embedding if columns is None else columns.embedding(embedding),
            smallest_std=smallest_std(y, *weight),
        )
    else:
        model = start.model.clone(embedding=columns.embedding(start.model.embedding.embedding))
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
    rate = settings.learning_rate * (1 if start is None else GOING_ON_RATE)
    optimizer = adamw(rate, decay, steps=epochs * steps)
    trainer = make_trainer(model, optimizer, LOSSES[settings.loss], scaled_nll)
    return Recipe(model, trainer, batch_size, epochs, max(math.ceil(settings.patience * epochs), 1))


def candidates(settings: Any) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Scales of the frequencies and numbers of components that settings leave open."""
    scales = SCALES if settings.frequency_scale == "auto" else (float(settings.frequency_scale),)
    if not settings.frequencies:
        scales = scales[:1]
    return scales, COMPONENTS if settings.noise == "auto" else (int(settings.noise),)


def choose(key: jax.Array, settings: Any, training_data: TrainingData, hooks: Sequence[Hook]) -> list[Choice]:
    """For each member what is asked for of the frequencies' scale and the noise, or small ensembles find."""
    if (start := training_data.start) is not None:
        return choices_of(start)
    scales, components = candidates(settings)
    few = Choice(
        SCALE_OF_FEW if len(scales) > 1 else scales[0],
        COMPONENTS_OF_FEW if len(components) > 1 else components[0],
    )
    open_to_trial = len(scales) * len(components) > 1 and training_data.held_out
    if not open_to_trial or len(training_data.sample[0]) < TRIAL_ROWS:
        return [few] * settings.members
    if settings.time_limit is not None and settings.time_limit < TRIAL_SECONDS:
        left = {"scales of the frequencies": (scales, few.scale), "noise": (components, few.components)}
        told = [f"{name}: {taken:g} is taken" for name, (tried, taken) in left.items() if len(tried) > 1]
        warn(f"time_limit={settings.time_limit:g} leaves no time to try out {' and '.join(told)}")
        return [few] * settings.members
    limit = TimeLimit(None if settings.time_limit is None else TRIAL_SHARE * settings.time_limit)
    key = jax.random.fold_in(key, int(settings.members))
    hooks = [hook.for_trial() for hook in hooks]
    hooks = [*limit.hooks, *(hook for hook in hooks if hook is not None)]
    return try_choices(key, settings, training_data.trial, hooks)


def choices_of(start: Fitted) -> list[Choice]:
    """What the members of a model took; 1 where it doesn't say."""
    known, members = start.settings or {}, start.members
    scales, components = (
        np.broadcast_to(known.get(name, default), members)
        for name, default in (("frequency_scale", 1.0), ("noise", 1))
    )
    return [Choice(float(scale), int(own)) for scale, own in zip(scales, components, strict=True)]


def smallest_std(y: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The floor under a component's standard deviation, in units of a standardised target.

    What rounding alone does: a component on one of few values would buy density without bound. A power of
    two, so that fits to similar targets share a program.
    """
    floors = []
    present = np.ones(y.shape, bool) if weight is None else over_outputs(weight, y.shape) > 0
    present = np.broadcast_to(present, y.shape).reshape(len(y), -1).T
    for column, known in zip(y.reshape(len(y), -1).T, present, strict=True):
        values, place = np.unique(column[known], return_inverse=True)
        if len(values) < 2 or 2 * len(values) > known.sum():  # few ties: they aren't rounded
            return SMALLEST_STD
        gaps = np.concatenate([[np.inf], np.diff(values), [np.inf]])
        nearest = np.minimum(gaps[:-1], gaps[1:])[place]
        floors.append(ROUNDING_STD * float(np.median(nearest)))
    floor = min(*floors, LARGEST_FLOOR)
    return SMALLEST_STD if floor < 2 * SMALLEST_STD else 2.0 ** math.floor(math.log2(floor))


@partial(jax.jit, static_argnames="most")
def _begin(trainer: Trainer, key: jax.Array, x: jax.Array, choice: Choice, *, most: int) -> TrainState:
    """A member's first state: its frequencies scaled, and without the components that it lacks of most."""
    state = trainer.init(key, x)

    def chosen(path: tuple, leaf: jax.Array) -> jax.Array:
        names = [part.key for part in path]
        if names[-1] == "frequency":
            return leaf * choice.scale
        if names[-2:] == ["weight_head", "bias"]:
            component = np.arange(len(leaf)) // (len(leaf) // most)
            return jnp.where(component < choice.components, leaf, ABSENT)
        return leaf

    return state._replace(params=jax.tree.map_with_path(chosen, state.params))


def try_choices(
    key: jax.Array, settings: Any, training_data: TrainingData, hooks: Sequence[Hook]
) -> list[Choice]:
    """The choices whose small ensembles predict rows best that none of their members saw.

    Scales are tried with the most components, and fewer components with the scale that few rows get. Each
    member weighs those rows in another way (Rubin 1981, "The Bayesian bootstrap"), so that members differ in
    what the rows leave open and agree in what they are sure of.
    """
    scales, components = candidates(settings)
    most, middle = max(components), SCALE_OF_FEW if SCALE_OF_FEW in scales else scales[0]
    with_most = [Choice(scale, most) for scale in scales]
    of_middle = [Choice(middle, each) for each in components]
    choices = list(dict.fromkeys([*with_most, *of_middle]))
    scores = _scores_of(key, choices, settings, training_data, hooks)
    least = PRIOR_OF_FEW / (TRIAL_UNSEEN * training_data.rows)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    taken = []
    for weight in rng.exponential(size=(settings.members, len(scores[0].crps))):
        found = {choice: score.mean(weight) for choice, score in zip(choices, scores, strict=True)}
        scale, _ = min(with_most, key=found.__getitem__)
        _, own = min(of_middle, key=lambda choice: found[choice] + least * (choice.components > 1))
        taken.append(Choice(scale, own))
    return taken


class TrialScore(NamedTuple):
    """How well a small ensemble predicts unseen rows: NLL, CRPS and weights, `(n,)` or `(n, d)`.

    Attributes:
        nll: in nats; None where the CRPS alone counts.
        crps: in units of the standardised target.
        weight: of each value.
    """

    nll: np.ndarray | None
    crps: np.ndarray
    weight: np.ndarray

    def mean(self, weight: np.ndarray) -> float:
        """The score of rows of some weights, lower is better: the mean NLL and the logarithm of the CRPS.

        Both are in nats: the first sees the shape of the noise, the second isn't swayed by a few rows.
        """
        weight = over_outputs(weight, self.crps.shape) * self.weight
        share = weight / np.maximum(weight.sum(axis=0), TINY)  # an output may be known in none of the rows
        nll = 0.0 if self.nll is None else np.sum(share * self.nll, axis=0)
        return float(np.mean(np.log(np.maximum(np.sum(share * self.crps, axis=0), TINY)) + nll))


def _scores_of(
    key: jax.Array,
    choices: Sequence[Choice],
    settings: Any,
    training_data: TrainingData,
    hooks: Sequence[Hook],
) -> list[TrialScore]:
    """How well small ensembles of some choices predict rows that none of their members saw.

    The score is the ensemble's: high frequencies let members err each in another way, which the mean of the
    members gains from and no member does. Of rounded targets it is the CRPS alone.
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
    rows, held_out = (np.tile(part, (len(choices), 1)) for part in (rows, held_out))
    training_data = training_data._replace(held_out={"rows": rows, "validation_rows": held_out})
    of_members = [choice for choice in choices for _ in range(TRIAL_MEMBERS)]
    states, history = recipe.fit(key, training_data, of_members, hooks)
    # Filled up with rows of no weight, as in training: a new number of rows needs no program of its own.
    filled = more_rows(unseen, share_class(len(unseen), n))
    y, *weight = (a[filled] for a in data[1:])
    present = (np.arange(len(filled)) < len(unseen)).reshape(-1, *(1,) * (y.ndim - 1))
    weight = present * np.broadcast_to(over_outputs(weight[0], y.shape) if weight else 1.0, y.shape)
    scores, n = [], len(unseen)
    weight = np.asarray(weight, np.float64)
    for i in range(len(choices)):
        of_choice = slice(i * TRIAL_MEMBERS, (i + 1) * TRIAL_MEMBERS)
        if (history.failed_epoch[of_choice] >= 0).any():
            scores.append(TrialScore(None, np.full(weight[:n].shape, np.inf), weight[:n]))
            continue
        params = jax.tree.map(operator.itemgetter(of_choice), states.params)
        mixture = jax.tree.map(np.asarray, predict_ensemble(recipe.model, params, data[0][filled]))
        scaled = NoiseScaling.fit(mixture, y, sample_weight=weight)(mixture)
        # Where targets are rounded, spikes on single values would buy any density.
        rounded = recipe.model.smallest_std > SMALLEST_STD
        nll = None if rounded else -np.asarray(scaled.log_prob(y), np.float64)[:n]
        scores.append(TrialScore(nll, np.asarray(scaled.crps(y), np.float64)[:n], weight[:n]))
    return scores


def final_scores(history: History) -> dict[str, float]:
    """Means over members, in the standardised target's units: of the last epoch, and of those kept."""
    kept = np.flatnonzero(history.failed_epoch < 0)
    last = np.isfinite(history.loss[kept]).sum(axis=1) - 1
    scores = {"training_loss": float(np.mean(history.loss[kept, last]))}
    if history.validation_nll is not None:
        held_out = history.validation_nll[kept, history.best_epoch[kept]]
        scores["held_out_nll_of_members"] = float(np.mean(held_out))
    return scores
