"""A scikit-learn regressor: an ensemble with calibrated error bars, for tables of numbers of any kind."""

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Real
from typing import Any, no_type_check

import jax
import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import Tags, check_array, check_random_state
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from jaxreg import hosts
from jaxreg.calibration import NoiseScaling
from jaxreg.checks import check_number, check_same_shape, check_varies, check_whole
from jaxreg.data import (
    Scaler,
    TableLike,
    as_floats,
    check_numbers,
    column_dtypes,
    column_names,
    fold_rows,
    key_words,
    warn_of_far,
    without_unit,
)
from jaxreg.embeddings import PeriodicEmbedding
from jaxreg.fitted import Fitted
from jaxreg.gaussian import Affine
from jaxreg.losses import beta_nll, crps_gaussian, gaussian_nll
from jaxreg.metrics import neg_crps as neg_crps
from jaxreg.metrics import neg_nll as neg_nll
from jaxreg.models import ACTIVATIONS, MOST_LAYERS, MeanVarRegressor
from jaxreg.prediction import predict_ensemble
from jaxreg.recipe import (
    DECAY_ROWS,
    MOST_WAVES,
    PRIOR_ROWS,
    SCALE_OF_FEW,
    TRIAL_ROWS,
    TRIAL_SECONDS,
    TRIAL_SHARE,
    Recipe,
    TimeLimit,
    auto_batch_size,
    auto_epochs,
    fit_scalers,
    standardised,
    stream_epochs,
    try_scales,
)
from jaxreg.training import History, Hook, TrainState, check_hooks
from jaxreg.training.fitting import without_failed
from jaxreg.training.inputs import HELD_OUT_ROWS, held_out_sample

FEWEST_ROWS = 4
FOLD_ROWS = 2

# Of rows in files so many serve to find the frequency scale.
TRIAL_MOST = 2**14

LOSSES = {"beta_nll": beta_nll(0.5), "gaussian_nll": gaussian_nll, "crps": crps_gaussian}


# Settings that are whole numbers, the least each may be, and what else it may be.
WHOLE_NUMBERS = (("members", 1), ("frequencies", 0), ("epochs", 1, "auto"), ("batch_size", 1, "auto", None))


@contextmanager
def _numbers_fit() -> Iterator[None]:
    """Python's whole numbers know no bounds, and scikit-learn lets the error of those too large through."""
    try:
        yield
    except OverflowError as error:
        raise ValueError(f"a value is too large for float64 ({error}): scale it first") from None


class DeepEnsembleRegressor(RegressorMixin, BaseEstimator):
    """An ensemble of mean-variance networks that needs no settings, with scikit-learn's interface.

    Each member holds another part of the rows out, trains by AdamW on the rest, and keeps the parameters of
    the epoch that predicts its held-out rows best. What they predict is the mixture of their Gaussians, whose
    noise is scaled by how well held-out rows were predicted. Features and target are standardised inside, and
    every feature is given to the networks as waves of several lengths too: of which lengths, small ensembles
    that are trained before the large one find out. Lakshminarayanan et al. 2017,
    "Simple and scalable predictive uncertainty estimation using deep ensembles"; Gorishniy et al. 2022, "On
    embeddings for numerical features in tabular deep learning"; Seitzer et al. 2022, "On the pitfalls of
    heteroscedastic uncertainty estimation with probabilistic neural networks".

    Args:
        members: number of networks.
        hidden: widths of the hidden layers; 128 is one layer of 128.
        activation: after each hidden layer: relu, silu, gelu, elu, softplus, tanh or sigmoid.
        frequencies: waves of each feature, fewer where there are more than 32 features; 0 for none.
        frequency_scale: multiplies the frequencies that training starts from: 1 for targets that change fast
            with a feature, 0 for smooth ones; "auto" tries 1, 0.25 and 0.
        loss: what is trained on: beta_nll, gaussian_nll or crps.
        epochs: most passes over the rows; "auto" is about 3,000 steps, from 60 to 600 epochs, and for rows
            that stay in files 200,000 steps, from 1 to 60 epochs.
        batch_size: rows per step; "auto" is 32, and more from 16,384 rows on; None takes all rows,
            unless they stay in files.
        learning_rate: of AdamW's first step; it falls to 0 along half a cosine.
        weight_decay: of AdamW at 1,000 rows; it goes with 1 / sqrt(rows).
        validation_fraction: share of the rows that each member holds out; 0 holds none out, trains for all
            epochs, and scales no noise.
        patience: share of the epochs without a better score of the held-out rows after which a member stops.
        time_limit: seconds after which training stops, and the best epochs until then are kept, which a
            warning says; None for no limit. Compiling and an epoch under way aren't cut short; with less than
            30 s no scale of the frequencies is tried out.
        random_state: seed of the weights, the folds and the order of rows: None, an integer or a RandomState.
        hooks: called while the members train, as those of `fit`.

    Attributes:
        members_: parameters of the members that were kept, with a leading axis of members.
        history_: the `History` of all members.
        calibration_: the `NoiseScaling`; None without held-out rows.
        frequency_scale_: the one that was used.
        fitted_: the `Fitted` that predicts, and that `model_file.save` writes.
        n_iter_: epochs that the longest member trained for.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    >>> import jax
    >>> from jaxreg import data
    >>> from jaxreg.estimator import DeepEnsembleRegressor
    >>> x, y = data.sinusoid(jax.random.key(0))
    >>> model = DeepEnsembleRegressor(members=3, hidden=(32,), frequency_scale=0.25, random_state=0).fit(x, y)
    >>> mean, std = model.predict(x, return_std=True)
    >>> lower, upper = model.predict_interval(x, level=0.9)
    >>> model.predict_quantiles(x, [0.1, 0.5, 0.9]).shape
    (256, 3)
    """

    @no_type_check  # fit looks at the settings, as everywhere in scikit-learn
    def __init__(
        self,
        *,
        members: int = 10,
        hidden: Sequence[int] = (128, 128),
        activation: str = "silu",
        frequencies: int = 16,
        frequency_scale: float | str = "auto",
        loss: str = "beta_nll",
        epochs: int | str = "auto",
        batch_size: int | str | None = "auto",
        learning_rate: float = 3e-3,
        weight_decay: float = 0.1,
        validation_fraction: float = 0.1,
        patience: float = 0.3,
        time_limit: float | None = None,
        random_state: Any = None,
        hooks: Sequence[Hook] = (),
    ):
        self.members = members
        self.hidden = hidden
        self.activation = activation
        self.frequencies = frequencies
        self.frequency_scale = frequency_scale
        self.loss = loss
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.time_limit = time_limit
        self.random_state = random_state
        self.hooks = hooks

    def fit(self, X: TableLike, y: TableLike, sample_weight: TableLike | None = None):
        """Train the ensemble.

        Args:
            X: features, `(n, features)`: arrays, or pandas or polars frames.
            y: targets, `(n,)` or `(n, d)`; of several targets, single ones may be missing (NaN or
                masked).
            sample_weight: of each row, `(n,)`, not negative; a row of no weight is left out.

        Returns:
            The estimator.

        Raises:
            ValueError: for unusable data or settings, by name; among them fewer than 4 rows, and a target
                of one value, which has no variance to learn.

        Warns:
            UserWarning: where there are too few rows for the folds; there are then fewer folds.
            RuntimeWarning: names members whose loss stopped being finite; they are left out.
        """
        self._check_settings()
        clock = _Clock(self.time_limit)
        target_names, dtypes = _target_names(y), (column_dtypes(X), column_dtypes(y))
        x, y, weight = self._check_rows(X, y, sample_weight)
        self._warn_of_far(x, y, target_names)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        key = jax.random.key(seed)
        rows, held_out = self._fold(key, len(x))
        scalers = fit_scalers(x, y, weight)
        data = standardised(scalers, x, y, weight)
        recipe = self._recipe(data, len(x), len(x) if rows is None else rows.shape[1])
        self.frequency_scale_ = self._choose_scale(key, recipe, data, rows)
        scales = np.full(self.members, self.frequency_scale_)
        hooks = [*self.hooks, *clock.hooks]
        states, self.history_ = recipe.fit_rows(key, data, rows, held_out, scales, recipe.epochs, hooks)
        clock.warn_if_stopped(self.history_)
        names = getattr(self, "feature_names_in_", None)
        names = None if names is None else tuple(map(str, names))
        return self._keep(
            states, recipe, data[:2], held_out, weight, scalers, len(x), seed, names, target_names, *dtypes
        )

    def fit_files(self, files: Any, own_files: bool = False):
        """Train the ensemble on rows in files, which may be more than memory holds.

        All files are read twice, for means and variances and for a sample of at most about 131,072 rows that
        members are validated on, of which 16,384 serve to find the frequency scale; then once in each epoch.
        "auto" stands for about 200,000 steps, from 1 to 60 epochs.

        Args:
            files: from `sources.from_files`.
            own_files: of a run over many processes (`hosts.start`), over which members are dealt, whether the
                members of each learn from that process's share of the files alone, and it reads no other.

        Returns:
            The estimator, on every process the same.

        Raises:
            ValueError: for unusable data or settings, by name.

        Warns:
            UserWarning: names constant features.
            RuntimeWarning: names members whose loss stopped being finite; they are left out.
        """
        self._check_settings()
        clock = _Clock(self.time_limit)
        if files.rows < FEWEST_ROWS:
            raise ValueError(f"the files have {files.rows} rows, {FEWEST_ROWS} are needed")
        if self.batch_size is None:
            raise ValueError("rows in files need a batch_size: a number or 'auto'")
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        key = jax.random.key(seed)
        self.feature_names_in_ = np.array(files.features, object)
        self.n_features_in_ = len(files.features)
        processes = jax.process_count()
        if processes > 1:
            files = replace(files, process=(jax.process_index(), processes), own_share=own_files)
        if own_files and len(files.pieces) < processes:
            raise ValueError(
                f"{len(files.pieces)} row groups are too few for {processes} processes with files of their "
                "own: write smaller row groups, use fewer processes, or leave own_files out, so that each "
                "reads all"
            )
        files = files if files.units else files.standardised()
        folds = self._folds(min(files.rows, HELD_OUT_ROWS))
        if folds is None:
            held_out = {}
            few = tuple(part[0] for part in next(files.stream([seed], batch_size=1, batches=1))[1:])
        else:
            validation, own = held_out_sample(key, files, self.members, folds)
            held_out = {"folds": folds, "validation": validation, "validation_rows": own}
            some = np.random.default_rng(key_words(key)).permutation(len(validation[0]))[:TRIAL_MOST]
            few = tuple(part[some] for part in validation)

        seen = files.rows // processes if own_files else files.rows
        recipe = self._recipe(few, seen, seen)
        mesh = None
        if processes > 1:
            mesh = hosts.make_mesh(self.members)
        steps = files.batches(recipe.batch_size)
        if self.epochs == "auto":
            recipe = recipe._replace(epochs=stream_epochs(steps))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* too few for .* folds")
            rows, _ = self._fold(key, len(few[0]))
        trial = self._recipe(few, len(few[0]), len(few[0]) if rows is None else rows.shape[1])
        scale = self._choose_scale(key, trial, few, rows)
        # Processors of different kinds might choose otherwise.
        self.frequency_scale_ = float(hosts.gather({"scale": np.array(scale)})[0]["scale"])
        scales, hooks = np.full(self.members, self.frequency_scale_), [*self.hooks, *clock.hooks]
        states, self.history_ = recipe.fit(
            key, files, few[0][:1], scales, recipe.epochs, steps, hooks, mesh, **held_out
        )
        clock.warn_if_stopped(self.history_)
        return self._keep(
            states, recipe, held_out.get("validation"), held_out.get("validation_rows"), None, files.units,
            files.rows, seed, files.features, (files.target,), files.types[:-1], files.types[-1:],
        )  # fmt: skip

    def _keep(
        self,
        states: TrainState,
        recipe: Recipe,
        data: tuple[np.ndarray, ...] | None,
        held_out: np.ndarray | None,
        weight: np.ndarray | None,
        scalers: tuple[Scaler, Scaler],
        rows: int,
        seed: int,
        *columns: tuple[str, ...] | None,
    ):
        """Scale the noise by the rows of `data` that members held out, -1 for none, and keep the model."""
        kept = self.history_.failed_epoch < 0
        self.members_ = without_failed(states, self.history_).params
        self.n_iter_ = int(np.isfinite(self.history_.loss).sum(axis=-1).max())
        self.calibration_ = None
        if held_out is not None:
            x, y = data
            unseen = np.zeros((self.members, len(x) + 1), bool)
            np.put_along_axis(unseen, held_out, True, axis=1)  # no row, -1, is one more than there are
            seen = predict_ensemble(recipe.model, self.members_, x)
            self.calibration_ = NoiseScaling.fit_held_out(
                seen, y, unseen[kept, :-1], sample_weight=weight, prior_rows=PRIOR_ROWS
            )
        trained = {
            "rows": rows,
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "seed": int(seed),
        }
        trained |= {"frequency_scale": self.frequency_scale_, "trained_epochs": self.n_iter_}
        feature_names, target_names, *dtypes = columns
        self.fitted_ = Fitted(
            recipe.model,
            self.members_,
            *scalers,
            feature_names,
            target_names,
            self._described() | trained,
            int(kept.sum()),
            self.calibration_,
            *dtypes,
            _final_scores(self.history_),
        )
        return self

    def predict(self, X: TableLike, return_std: bool = False) -> Any:
        """Predict the mean of each row, `(n,)` or `(n, d)`; with `return_std`, `(mean, std)`."""
        dist = self.predict_dist(X)
        return (dist.mean, dist.std) if return_std else dist.mean

    @_numbers_fit()
    def predict_dist(self, X: TableLike) -> Affine:
        """Predict each row's distribution, a `GaussianMixture` in the target's units."""
        check_is_fitted(self)
        X = _unmasked(X)
        check_numbers(X, "X")
        return self.fitted_.predict(validate_data(self, X, reset=False, dtype=np.float64))

    def predict_interval(self, X: TableLike, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Predict the central interval of each row, `(lower, upper)`."""
        return self.predict_dist(X).interval(level)

    def predict_quantiles(self, X: TableLike, q: TableLike) -> Float[np.ndarray, "n ..."]:
        """Predict quantiles of each row, `(n, len(q))` or `(n, d, len(q))`."""
        return np.moveaxis(np.asarray(self.predict_dist(X).quantile(np.atleast_1d(q))), 0, -1)

    def score(self, X: TableLike, y: TableLike, sample_weight: TableLike | None = None) -> float:
        """R squared of the mean: of several targets the mean of theirs, each over the rows that have it."""
        mean, y = self.predict(X), _unmasked(y)
        check_numbers(y, "y", gaps=np.asarray(y).ndim == 2)
        y = as_floats(y)
        check_same_shape(y=y, mean=mean)
        weight = _check_sample_weight(sample_weight, mean, dtype=np.float64, ensure_non_negative=True)
        known = ~np.isnan(y).reshape(len(y), -1)
        _check_known(known)
        columns = zip(known.T, y.reshape(known.shape).T, mean.reshape(known.shape).T, strict=True)
        return float(np.mean([r2_score(a[own], b[own], sample_weight=weight[own]) for own, a, b in columns]))

    def score_nll(self, X: TableLike, y: TableLike, sample_weight: TableLike | None = None) -> float:
        """Mean negative log-likelihood in nats, lower is better; it depends on the target's unit."""
        return -neg_nll(self, X, y, sample_weight)

    @property
    def _widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers; a single number is one layer."""
        if isinstance(self.hidden, str) or self.hidden is None:
            raise ValueError(f"hidden must be widths of layers, for example (128, 128), got {self.hidden!r}")
        return (self.hidden,) if np.ndim(self.hidden) == 0 else tuple(self.hidden)

    def _check_settings(self) -> None:
        """Raise for settings that no fit can have."""
        for name, table in (("loss", LOSSES), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in table:
                listed = ", ".join(map(repr, table))
                raise ValueError(f"{name} must be one of {listed}, got {getattr(self, name)!r}")
        for name, least, *words in WHOLE_NUMBERS:
            if getattr(self, name) not in words:
                check_whole(name, getattr(self, name), least)
        if len(self._widths) > MOST_LAYERS:
            raise ValueError(f"hidden may be {MOST_LAYERS} layers, got {len(self._widths):,}")
        for width in self._widths:
            check_whole("hidden", width, 1)
        check_number("learning_rate", self.learning_rate)
        check_number("weight_decay", self.weight_decay)
        for name in ("validation_fraction", "patience", "time_limit"):
            value = getattr(self, name)
            if not isinstance(value, Real) and not (name == "time_limit" and value is None):
                raise ValueError(f"{name} must be a number, got {value!r}")
        check_hooks(self.hooks)
        scale = self.frequency_scale
        if scale != "auto" and not (isinstance(scale, Real) and 0 <= scale < math.inf):
            raise ValueError(f"frequency_scale must be a number not below 0 or 'auto', got {scale!r}")
        if not 0 <= self.validation_fraction <= 0.5:
            raise ValueError(f"validation_fraction must be from 0 to 0.5, got {self.validation_fraction!r}")
        if not 0 < self.patience <= 1:
            raise ValueError(
                f"patience must be a share of the epochs, above 0 up to 1, got {self.patience!r}"
            )
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time_limit must be positive seconds or None, got {self.time_limit!r}")

    @_numbers_fit()
    def _check_rows(
        self, X: TableLike, y: TableLike, sample_weight: TableLike | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Features, targets and weights as float64; weights are 0 where a target is missing."""
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y is None."
            )
        X, y = _unmasked(X), _unmasked(y)
        several = np.asarray(y).ndim == 2
        check_numbers(X, "X")
        check_numbers(y, "y", gaps=several)
        x = validate_data(self, X, dtype=np.float64, ensure_min_samples=FEWEST_ROWS)
        y = y if column_names(y) is None else as_floats(y)
        y = check_array(
            y,
            ensure_2d=False,
            allow_nd=True,
            dtype=np.float64,
            ensure_all_finite="allow-nan" if several else True,
            input_name="y",
        )
        if y.ndim not in (1, 2):
            raise ValueError(f"y must have shape (rows,) or (rows, outputs), got {y.shape}")
        check_consistent_length(x, y)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
            x, y, weight = x[weight > 0], y[weight > 0], weight[weight > 0]
            if len(x) < FEWEST_ROWS:
                raise ValueError(f"{len(x)} rows have a positive sample_weight, {FEWEST_ROWS} are needed")
            weight = without_unit(weight)
        if np.isnan(y).any():
            known = np.isfinite(y)
            weight = known * (1.0 if weight is None else weight[:, None])
            some = known.any(axis=1)
            x, y, weight = x[some], y[some], weight[some]
            _check_known(known)
            if len(x) < FEWEST_ROWS:
                raise ValueError(f"{len(x)} rows have a target, {FEWEST_ROWS} are needed")
        for i, column in enumerate(y.reshape(len(y), -1).T):
            which = "y" if y.ndim == 1 else f"y, column {i},"
            check_varies(which, float(np.nanmin(column)), float(np.nanmax(column)))
        return x, y, weight

    def _warn_of_far(self, x: np.ndarray, y: np.ndarray, target_names: tuple[str, ...] | None) -> None:
        """Warn of features and targets far outside the rest."""
        names = [*getattr(self, "feature_names_in_", range(x.shape[1]))]
        targets = [f"the target {name!r}" for name in target_names or ()]
        if target_names is None:
            targets = ["the target"] if y.ndim == 1 else [f"target {i}" for i in range(y.shape[1])]
        called = [f"column {name!r}" for name in names] + targets
        warn_of_far([*x.T, *y.reshape(len(y), -1).T], called, stacklevel=3)

    def _fold(self, key: jax.Array, n: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The rows that each member trains on, and those that it holds out."""
        folds = self._folds(n)
        return (None, None) if folds is None else fold_rows(key, n, int(self.members), folds)

    def _folds(self, n: int) -> int | None:
        """In how many folds rows are parted, None for none."""
        if self.validation_fraction == 0:
            return None
        folds = round(min(1 / self.validation_fraction, 1e9))
        most = n // FOLD_ROWS
        if most < folds:
            warnings.warn(
                f"{n} rows are too few for {folds} folds of at least {FOLD_ROWS}: {most} are used",
                stacklevel=4,
            )
            folds = most
        return folds

    def _recipe(self, data: tuple[np.ndarray, ...], rows: int, used: int) -> Recipe:
        """How members are trained on rows such as `data`, of which each is given `used`."""
        x, y, *_ = data
        frequencies = min(self.frequencies, max(MOST_WAVES // x.shape[1], 1))
        model = MeanVarRegressor(
            hidden=self._widths,
            outputs=None if y.ndim == 1 else y.shape[1],
            activation=ACTIVATIONS[self.activation],
            embedding=PeriodicEmbedding(frequencies) if frequencies else None,
        )
        batch_size = auto_batch_size(used) if self.batch_size == "auto" else self.batch_size
        epochs = auto_epochs(used, batch_size) if self.epochs == "auto" else self.epochs
        decay = self.weight_decay * math.sqrt(DECAY_ROWS / rows)
        loss = LOSSES[self.loss]
        return Recipe(model, loss, self.learning_rate, decay, batch_size, epochs, self.patience)

    def _choose_scale(
        self,
        key: jax.Array,
        recipe: Recipe,
        data: tuple[np.ndarray, ...],
        rows: np.ndarray | None,
    ) -> float:
        """The scale of the frequencies that is asked for, or that small ensembles find."""
        if self.frequency_scale != "auto":
            return float(self.frequency_scale)
        if recipe.model.embedding is None or rows is None or len(data[0]) < TRIAL_ROWS:
            return SCALE_OF_FEW
        if self.time_limit is not None and self.time_limit < TRIAL_SECONDS:
            warnings.warn(
                f"time_limit={self.time_limit:g} leaves no time to try out scales of the frequencies: "
                f"{SCALE_OF_FEW} is taken",
                stacklevel=3,
            )
            return SCALE_OF_FEW
        limit = math.inf if self.time_limit is None else TRIAL_SHARE * self.time_limit
        key = jax.random.fold_in(key, int(self.members))
        hooks = [hook.for_trial() for hook in self.hooks]
        hooks = [TimeLimit(time.monotonic() + limit), *(hook for hook in hooks if hook is not None)]
        return try_scales(key, recipe, data, rows.shape[1], hooks)

    def _described(self) -> dict:
        """The settings as a model file can hold them."""
        settings = {name: value for name, value in self.get_params().items() if name != "hooks"}
        settings["hidden"] = list(map(int, self._widths))
        for name, value in settings.items():
            settings[name] = value.item() if isinstance(value, np.generic) else value
        if not isinstance(settings["random_state"], int | None):
            settings["random_state"] = type(self.random_state).__name__
        return settings

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _check_known(known: np.ndarray) -> None:
    """Raise, and name the target, if one of several is missing in all rows."""
    empty = np.flatnonzero(~known.any(axis=0))
    if empty.size:
        raise ValueError(f"y, column {empty[0]}, is missing in all rows: leave it out")


class _Clock:
    """A time limit, None for none, from now on."""

    def __init__(self, seconds: float | None):
        self.seconds, self.began = seconds, time.monotonic()
        self.hooks = [] if seconds is None else [TimeLimit(self.began + seconds)]

    def warn_if_stopped(self, history: History) -> None:
        """Say what was kept where the time was over before the epochs were."""
        if any(hook.stopped for hook in self.hooks):
            done = int(np.isfinite(history.loss).sum(axis=-1).max())
            if done < history.loss.shape[-1]:
                warnings.warn(
                    f"time_limit={self.seconds:g}: training stopped after {done:,} of "
                    f"{history.loss.shape[-1]:,} epochs, {time.monotonic() - self.began:.0f} s after it "
                    "began, and the best of these epochs are kept; compiling and an epoch under way aren't "
                    "cut short",
                    stacklevel=3,
                )


def _final_scores(history: History) -> dict[str, float]:
    """Means over members, in the standardised target's units: of the last epoch, and of those kept."""
    kept = np.flatnonzero(history.failed_epoch < 0)
    last = np.isfinite(history.loss[kept]).sum(axis=1) - 1
    scores = {"training_loss": float(np.mean(history.loss[kept, last]))}
    if history.validation_nll is not None:
        held_out = history.validation_nll[kept, history.best_epoch[kept]]
        scores["held_out_nll_of_members"] = float(np.mean(held_out))
    return scores


def _unmasked(values: Any) -> Any:
    """Masked values as missing ones."""
    return values.astype(np.float64).filled(np.nan) if isinstance(values, np.ma.MaskedArray) else values


def _target_names(y: TableLike) -> tuple[str, ...] | None:
    names = column_names(y)
    if names is not None:
        return tuple(names)
    name = getattr(y, "name", None)
    return None if name is None else (str(name),)
