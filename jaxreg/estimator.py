"""A scikit-learn regressor: an ensemble with calibrated error bars, for tables of numbers of any kind."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

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
from jaxreg.calibration.scaling import NoiseScaling
from jaxreg.checks import check_same_shape, check_varies
from jaxreg.columns import Columns, as_table
from jaxreg.data.far import warn_of_far
from jaxreg.data.frames import TableLike, as_floats, check_numbers, column_dtypes, column_names, is_plain
from jaxreg.data.rows import Source, fold_rows, key_words
from jaxreg.data.scaler import Scaler, without_unit
from jaxreg.distributions.transformed import Affine
from jaxreg.metrics.scorers import neg_crps as neg_crps
from jaxreg.metrics.scorers import neg_nll as neg_nll
from jaxreg.model.fitted import Fitted
from jaxreg.networks.prediction import predict_ensemble
from jaxreg.plain import counted
from jaxreg.recipe import (
    PRIOR_ROWS,
    SCALE_OF_FEW,
    TRIAL_ROWS,
    TRIAL_SECONDS,
    TRIAL_SHARE,
    Recipe,
    TimeLimit,
    TrainingData,
    final_scores,
    fit_scalers,
    make_recipe,
    standardised,
    try_scales,
)
from jaxreg.settings import EnsembleSettings, check_settings, documented
from jaxreg.training import TrainState
from jaxreg.training.feeds import size_class
from jaxreg.training.fitting import without_failed
from jaxreg.training.hooks import check_hooks
from jaxreg.training.inputs import HELD_OUT_ROWS, held_out_sample, more_rows

FEWEST_ROWS = 4
FOLD_ROWS = 2

# Of rows in files so many serve to find the frequency scale.
TRIAL_MOST = 2**14


@contextmanager
def _numbers_fit() -> Iterator[None]:
    """Python's whole numbers know no bounds, and scikit-learn lets the error of those too large through."""
    try:
        yield
    except OverflowError as error:
        raise ValueError(f"a value is too large for float64 ({error}): scale it first") from None


@documented
class DeepEnsembleRegressor(RegressorMixin, EnsembleSettings, BaseEstimator):
    """An ensemble of mean-variance networks that needs no settings, with scikit-learn's interface.

    Each member holds another part of the rows out, trains by AdamW on the rest, and keeps the parameters of
    the epoch that predicts its held-out rows best. What they predict is the mixture of their Gaussians, whose
    noise is scaled by how well held-out rows were predicted. Features and target are standardised inside.
    Each feature also goes through a periodic embedding, whose frequency scale is found by small ensembles
    that are trained before the large one. Lakshminarayanan et al. 2017,
    "Simple and scalable predictive uncertainty estimation using deep ensembles"; Gorishniy et al. 2022, "On
    embeddings for numerical features in tabular deep learning"; Seitzer et al. 2022, "On the pitfalls of
    heteroscedastic uncertainty estimation with probabilistic neural networks".

    Args:
        {settings}

    Attributes:
        members_: parameters of the members that were kept, with a leading axis of members.
        history_: the `History` of all members.
        calibration_: the `NoiseScaling`; None without held-out rows.
        columns_: how the features' columns are taken, where they aren't all numbers without gaps, else None;
            `print(model.columns_)` shows them.
        frequency_scale_: the one that was used.
        fitted_: the `Fitted` that predicts, and that `model_file.save` writes.
        n_iter_: epochs that the longest member trained for.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    >>> import jax
    >>> from jaxreg import DeepEnsembleRegressor, data
    >>> x, y = data.sinusoid(jax.random.key(0))
    >>> model = DeepEnsembleRegressor(members=3, hidden=(32,), frequency_scale=0.25, random_state=0).fit(x, y)
    >>> mean, std = model.predict(x, return_std=True)
    >>> lower, upper = model.predict_interval(x, level=0.9)
    >>> model.predict_quantiles(x, [0.1, 0.5, 0.9]).shape
    (256, 3)
    """

    def fit(self, X: TableLike | Source, y: TableLike | None = None, sample_weight: TableLike | None = None):
        """Train the ensemble.

        Rows in files, which may be more than memory holds, are read twice, for means and variances and for a
        sample of at most about 131,072 rows that members are validated on, of which 16,384 serve to find the
        frequency scale; then once in each epoch. In a run of many processes (`hosts.start`) members are
        distributed over them, and every process gets the same estimator.

        Args:
            X: features, `(n, features)`: arrays, or pandas or polars frames, of numbers, text, categories,
                times, and gaps; `Columns` says how they are taken. Or rows in files, features and
                target, from `tables.from_files`; with its `own_share` members of each process learn from
                that process's share of the files alone.
            y: targets, `(n,)` or `(n, d)`; of several targets, single ones may be missing (NaN or
                masked). None for rows in files.
            sample_weight: of each row, `(n,)`, not negative; a row of no weight is left out.

        Returns:
            The estimator.

        Raises:
            ValueError: for unusable data or settings, by name; among them fewer than 4 rows, and a target
                of one value, which has no variance to learn.

        Warns:
            UserWarning: where there are too few rows for the folds; there are then fewer folds. Names
                constant features of files, and columns taken otherwise than they may seem.
            RuntimeWarning: names members whose loss stopped being finite; they are left out.
        """
        check_settings(self)
        check_hooks(self.hooks)
        self.columns_ = None
        limit = TimeLimit(self.time_limit)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        key = jax.random.key(seed)
        if isinstance(X, Source):
            training_data = self._from_source(key, X, y, sample_weight)
        else:
            training_data = self._from_table(key, X, y, sample_weight)
        recipe = make_recipe(self, training_data)
        scale = self._choose_scale(key, training_data)
        if training_data.mesh is not None:  # processors of different kinds might choose otherwise
            scale = float(hosts.gather({"scale": np.array(scale)})[0]["scale"])
        self.frequency_scale_, scales = scale, np.full(self.members, scale)
        states, self.history_ = recipe.fit(key, training_data, scales, [*self.hooks, *limit.hooks])
        limit.warn_if_stopped(self.history_)
        return self._keep(states, recipe, training_data, int(seed))

    def fit_files(self, files: Source, own_files: bool = False):
        """The same as `fit(files)`; in a run of many processes `own_files` sets the files' `own_share`."""
        many = own_files and jax.process_count() > 1
        return self.fit(replace(files, own_share=True) if many else files)

    def _from_table(
        self, key: jax.Array, X: TableLike, y: TableLike | None, sample_weight: TableLike | None
    ) -> TrainingData:
        """What members learn from, of a table in memory."""
        target_names, dtypes = _target_names(y), (column_dtypes(X), column_dtypes(y))
        x, y, weight = self._check_rows(X, y, sample_weight)
        self._warn_of_far(x, y, target_names)
        names = getattr(self, "feature_names_in_", None)
        names = None if names is None else tuple(map(str, names))
        scalers, folds, held_out = fit_scalers(x, y, weight), self._folds(len(x)), {}
        if self.columns_ is not None:  # has scaled them already
            scalers = Scaler(np.zeros(x.shape[1]), np.ones(x.shape[1])), scalers[1]
        data, used = standardised(scalers, x, y, weight), len(x)
        if folds is not None:
            rows, held_out_rows = fold_rows(key, len(x), int(self.members), folds)
            held_out, used = {"rows": rows, "validation_rows": held_out_rows}, rows.shape[1]
        columns = names, target_names, *dtypes
        if self.columns_ is not None:
            scalers = self.columns_, scalers[1]
            types = dict(zip([kind.name for kind in self.columns_.kinds], dtypes[0], strict=True))
            columns = self.columns_.names, target_names, tuple(map(types.get, self.columns_.names)), dtypes[1]
        return TrainingData(data, data, len(x), used, used, held_out, scalers, columns)

    def _from_source(self, key: jax.Array, files: Any, y: Any, sample_weight: Any) -> TrainingData:
        """What members learn from, of rows that are read as they are needed."""
        if y is not None or sample_weight is not None:
            raise ValueError("rows in files have their target with them, and no weights: pass them alone")
        if not hasattr(files, "standardised"):
            raise ValueError(
                f"a {type(files).__name__} doesn't say what its columns are: use tables.from_files, or "
                "fit_ensemble, which takes any source"
            )
        if files.rows < FEWEST_ROWS:
            raise ValueError(f"the files have {counted(files.rows, 'row')}, {FEWEST_ROWS} are needed")
        if self.batch_size is None:
            raise ValueError("rows in files need a batch_size: a number or 'auto'")
        processes, mesh = jax.process_count(), None
        by_share = processes > 1 and files.own_share
        if by_share and len(files.row_groups) < processes:
            raise ValueError(
                f"{len(files.row_groups)} row groups are too few for {processes} processes with files of "
                "their own: write smaller row groups, use fewer processes, or leave own_files out, so that "
                "each reads all"
            )
        if processes > 1:
            files = replace(files, process=(jax.process_index(), processes))
            mesh = hosts.make_mesh(self.members)
        self.feature_names_in_ = np.array(files.features, object)
        self.n_features_in_ = len(files.features)
        files = files if files.units else files.standardised()
        folds, held_out = self._folds(min(files.rows, HELD_OUT_ROWS)), {}
        if folds is None:
            block = next(files.stream(key_words(key), batch_size=1, batches=1))
            sample = block.x[0], block.y[0]
            sample_used = 1
        else:
            validation, own_rows = held_out_sample(key, files, self.members, folds)
            held_out = {"folds": folds, "validation": validation, "validation_rows": own_rows}
            some = np.random.default_rng(key_words(key)).permutation(len(validation[0]))[:TRIAL_MOST]
            sample = tuple(part[some] for part in validation)
            sample_used = len(some) - len(some) // max(min(folds, len(some) // FOLD_ROWS), 1)
        columns = files.features, (files.target,), files.types[:-1], files.types[-1:]
        used = files.rows // processes if by_share else files.rows
        return TrainingData(
            files, sample, files.rows, used, sample_used, held_out, files.units, columns, mesh
        )

    def _keep(self, states: TrainState, recipe: Recipe, training_data: TrainingData, seed: int):
        """Scale the noise by the rows that members held out, and keep the model."""
        kept = self.history_.failed_epoch < 0
        self.members_ = without_failed(states, self.history_).params
        self.n_iter_ = int(np.isfinite(self.history_.loss).sum(axis=-1).max())
        self.calibration_ = None
        if training_data.held_out:
            x, y, *weight = training_data.held_out.get("validation", training_data.data)
            n, size = len(x), size_class(len(x))
            x, y, weight = (more_rows(part, size) for part in (x, y, weight[0] if weight else np.ones(n)))
            unseen = np.zeros((self.members, size + 1), bool)
            # No row, -1, is one more than there are.
            np.put_along_axis(unseen, training_data.held_out["validation_rows"], True, axis=1)
            seen = predict_ensemble(recipe.model, self.members_, x)
            self.calibration_ = NoiseScaling.fit_held_out(
                seen, y, unseen[kept, :-1], sample_weight=weight, prior_rows=PRIOR_ROWS
            )
        settings = self._described() | {
            "hidden": list(recipe.model.hidden),
            "rows": training_data.rows,
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "seed": seed,
            "frequency_scale": self.frequency_scale_,
            "trained_epochs": self.n_iter_,
        }
        feature_names, target_names, feature_dtypes, target_dtypes = training_data.columns
        self.fitted_ = Fitted(
            recipe.model,
            self.members_,
            *training_data.scalers,
            feature_names,
            target_names,
            settings,
            members=int(kept.sum()),
            calibration=self.calibration_,
            feature_dtypes=feature_dtypes,
            target_dtypes=target_dtypes,
            scores=final_scores(self.history_),
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
        if self.columns_ is not None:
            validate_data(self, X, reset=False, skip_check_array=True)
            return self.fitted_.predict(X)
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
        table = None if is_plain(X) else as_table(X)
        check_numbers(y, "y", gaps=several)
        if table is None:
            x = validate_data(self, X, dtype=np.float64, ensure_min_samples=FEWEST_ROWS)
        else:
            validate_data(self, X, skip_check_array=True)
            x = np.arange(table.height, dtype=float)[:, None]  # the rows' numbers
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
        if len(x) < FEWEST_ROWS:
            raise ValueError(f"{counted(len(x), 'row')} are too few, {FEWEST_ROWS} are needed")
        if table is not None:
            rows = table[x[:, 0].astype(int)]
            self.columns_ = Columns.fit(rows)._replace(named=column_names(X) is not None)
            x = self.columns_.transform(rows)
        for i, column in enumerate(y.reshape(len(y), -1).T):
            which = "y" if y.ndim == 1 else f"y, column {i},"
            check_varies(which, float(np.nanmin(column)), float(np.nanmax(column)))
        return x, y, weight

    def _warn_of_far(self, x: np.ndarray, y: np.ndarray, target_names: tuple[str, ...] | None) -> None:
        """Warn of features and targets far outside the rest."""
        if self.columns_ is not None:  # which draw such values in
            x = x[:, :0]
        names = [*getattr(self, "feature_names_in_", range(x.shape[1]))][: x.shape[1]]
        targets = [f"the target {name!r}" for name in target_names or ()]
        if target_names is None:
            targets = ["the target"] if y.ndim == 1 else [f"target {i}" for i in range(y.shape[1])]
        called = [f"column {name!r}" for name in names] + targets
        warn_of_far([*x.T, *y.reshape(len(y), -1).T], called, stacklevel=4)

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

    def _choose_scale(self, key: jax.Array, training_data: TrainingData) -> float:
        """The scale of the frequencies that is asked for, or that small ensembles find."""
        if self.frequency_scale != "auto":
            return float(self.frequency_scale)
        if not (self.frequencies and training_data.held_out) or len(training_data.sample[0]) < TRIAL_ROWS:
            return SCALE_OF_FEW
        if self.time_limit is not None and self.time_limit < TRIAL_SECONDS:
            warnings.warn(
                f"time_limit={self.time_limit:g} leaves no time to try out scales of the frequencies: "
                f"{SCALE_OF_FEW} is taken",
                stacklevel=3,
            )
            return SCALE_OF_FEW
        limit = TimeLimit(None if self.time_limit is None else TRIAL_SHARE * self.time_limit)
        key = jax.random.fold_in(key, int(self.members))
        hooks = [hook.for_trial() for hook in self.hooks]
        hooks = [*limit.hooks, *(hook for hook in hooks if hook is not None)]
        return try_scales(key, self, training_data.trial, hooks)

    def _described(self) -> dict:
        """The settings as a model file can hold them."""
        settings = {name: value for name, value in self.get_params().items() if name != "hooks"}
        for name, value in settings.items():
            settings[name] = value.item() if isinstance(value, np.generic) else value
        if not isinstance(settings["random_state"], int | None):
            settings["random_state"] = type(self.random_state).__name__
        return settings

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.input_tags.allow_nan = tags.input_tags.categorical = tags.input_tags.string = True
        return tags


def _check_known(known: np.ndarray) -> None:
    """Raise, and name the target, if one of several is missing in all rows."""
    empty = np.flatnonzero(~known.any(axis=0))
    if empty.size:
        raise ValueError(f"y, column {empty[0]}, is missing in all rows: leave it out")


def _unmasked(values: Any) -> Any:
    """Masked values as missing ones."""
    return values.astype(np.float64).filled(np.nan) if isinstance(values, np.ma.MaskedArray) else values


def _target_names(y: TableLike) -> tuple[str, ...] | None:
    names = column_names(y)
    if names is not None:
        return tuple(names)
    name = getattr(y, "name", None)
    return None if name is None else (str(name),)
