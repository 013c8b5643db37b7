"""A scikit-learn regressor: an ensemble with calibrated error bars, for tables of any kind."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
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
from jaxreg.columns import as_table
from jaxreg.data.frames import (
    TableLike,
    as_array,
    as_floats,
    check_numbers,
    column_dtypes,
    column_names,
)
from jaxreg.data.rows import Source
from jaxreg.data.scaler import Scaler, without_unit
from jaxreg.distributions.clipped import Clipped
from jaxreg.distributions.transformed import Affine
from jaxreg.metrics.scorers import neg_crps as neg_crps
from jaxreg.metrics.scorers import neg_nll as neg_nll
from jaxreg.model import model_file
from jaxreg.model.fitted import Fitted
from jaxreg.networks.models import MixtureRegressor, with_components
from jaxreg.networks.prediction import predict_ensemble
from jaxreg.plain import counted
from jaxreg.progress import shown
from jaxreg.recipe import (
    PRIOR_ROWS,
    Choice,
    Recipe,
    TimeLimit,
    choose,
    final_scores,
    make_recipe,
)
from jaxreg.settings import EnsembleSettings, check_settings, documented
from jaxreg.training import TrainState
from jaxreg.training.feeds import size_class
from jaxreg.training.fitting import without_failed
from jaxreg.training.hooks import check_hooks
from jaxreg.training.inputs import more_rows
from jaxreg.training_data import FEWEST_ROWS, OF_COLUMNS, TrainingData, of_files, of_table

# Settings that a file says nothing of, or not always.
UNTOLD = "hooks", "verbose", *OF_COLUMNS


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
        columns_: the `Columns`, how each is taken, which `print(model.columns_)` shows; None of files that
            were standardised before.
        frequency_scale_: of each member, `(members,)`.
        components_: of the mixture that each member predicts, `(members,)`.
        bounds_: of the target, in its units; None for none.
        fitted_: the `Fitted` that predicts.
        n_iter_: epochs that the longest member trained for.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    >>> import jax
    >>> from jaxreg import DeepEnsembleRegressor, data
    >>> x, y = data.sinusoid(jax.random.key(0))
    >>> small = {"members": 3, "hidden": (32,), "frequency_scale": 0.25, "noise": 1, "random_state": 0}
    >>> model = DeepEnsembleRegressor(**small).fit(x, y)
    >>> mean, std = model.predict(x, return_std=True)
    >>> lower, upper = model.predict_interval(x, level=0.9)
    >>> model.predict_quantiles(x, [0.1, 0.5, 0.9]).shape
    (256, 3)
    """

    def fit(self, X: TableLike | Source, y: TableLike | None = None, sample_weight: TableLike | None = None):
        """Train the ensemble.

        Rows in files, which may be more than memory holds, are read twice, for `Files.learned` and for a
        sample of at most about 131,072 rows that members are validated on, of which 16,384 serve to find the
        frequency scale; then once in each epoch. In a run of many processes (`hosts.start`) members are
        distributed over them, and every process gets the same estimator.

        Args:
            X: features, `(n, features)`: arrays, or pandas or polars frames, of numbers, text, categories,
                times, and gaps; `Columns` says how they are taken. Or rows in files, features and
                target, from `tables.from_files(..., any_kind=True)`; with its `own_share` members of each
                process learn from that process's share of the files alone.
            y: targets, `(n,)` or `(n, d)`; of several targets, single ones may be missing (NaN or
                masked), and rows without any are left out. None for rows in files.
            sample_weight: of each row, `(n,)`, not negative; a row of no weight is left out.

        Returns:
            The estimator.

        Raises:
            ValueError: for unusable data or settings, by name; among them fewer than 4 rows, and a target
                of one value, which has no variance to learn.

        Warns:
            UserWarning: where there are too few rows for the folds; there are then fewer folds. Names
                columns taken otherwise than they may seem, and counts rows without a target.
            RuntimeWarning: names members whose loss stopped being finite; they are left out.
        """
        check_settings(self)
        check_hooks(self.hooks)
        limit, hooks = TimeLimit(self.time_limit), [*self.hooks, *([shown()] if self.verbose else ())]
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        key = jax.random.key(seed)
        if isinstance(X, Source):
            training_data = self._from_source(key, X, y, sample_weight)
        else:
            training_data = self._from_table(key, X, y, sample_weight)
        recipe = make_recipe(self, training_data)
        choices = choose(key, self, training_data, hooks)
        if training_data.mesh is not None:  # processors of different kinds might choose otherwise
            chosen = hosts.gather({"choices": np.array(choices)})[0]["choices"]
            choices = [Choice(float(scale), int(components)) for scale, components in chosen]
        self.frequency_scale_, self.components_ = map(np.array, zip(*choices, strict=True))
        states, self.history_ = recipe.fit(key, training_data, choices, [*hooks, *limit.hooks])
        limit.warn_if_stopped(self.history_)
        if isinstance(recipe.model, MixtureRegressor):
            model, params = with_components(recipe.model, states.params, int(self.components_.max()))
            recipe, states = recipe._replace(model=model), states._replace(params=params)
        return self._keep(states, recipe, training_data, int(seed))

    def fit_files(self, files: Source, own_files: bool = False):
        """The same as `fit(files)`; in a run of many processes `own_files` sets the files' `own_share`."""
        many = own_files and jax.process_count() > 1
        return self.fit(replace(files, own_share=True) if many else files)

    def _from_table(
        self, key: jax.Array, X: TableLike, y: TableLike | None, sample_weight: TableLike | None
    ) -> TrainingData:
        """What members learn from, of a table in memory."""
        names, types = (column_names(X), _target_names(y)), (column_dtypes(X), column_dtypes(y))
        rows = self._check_rows(X, y, sample_weight)
        training_data = of_table(key, self, rows, names=names, types=types)
        self.columns_ = training_data.scalers[0]
        return training_data

    def _from_source(self, key: jax.Array, files: Any, y: Any, sample_weight: Any) -> TrainingData:
        """What members learn from, of rows that are read as they are needed."""
        if y is not None or sample_weight is not None:
            raise ValueError("rows in files have their target with them, and no weights: pass them alone")
        training_data = of_files(key, self, files)
        taken = training_data.scalers[0]
        self.columns_ = None if isinstance(taken, Scaler) else taken
        self.feature_names_in_ = np.array(files.features, object)
        self.n_features_in_ = len(files.features)
        return training_data

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
        asked = self._described()
        self.bounds_ = training_data.bounds
        settings = asked | {
            "hidden": list(recipe.model.hidden),
            "rows": training_data.rows,
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "seed": seed,
            "frequency_scale": _one_or_all(self.frequency_scale_),
            "noise": _one_or_all(self.components_),
            "bounds": None
            if self.bounds_ is None
            else [end if np.isfinite(end) else None for end in self.bounds_],
            "trained_epochs": self.n_iter_,
            "automatic": [name for name, value in asked.items() if value == "auto"],
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
            bounds=training_data.bounds,
        )
        return self

    def save(self, path: str | Path) -> None:
        """Write all that predictions need to a model file, whole or not at all; see `model_file.save`.

        Raises:
            ValueError: if the path can't be written to.
            OSError: if the disk is full, for example.
        """
        check_is_fitted(self)
        model_file.save(path, self.fitted_)

    @classmethod
    def load(cls, path: str | Path) -> "DeepEnsembleRegressor":
        """Read what `save` or `jaxreg fit` wrote, as an estimator that predicts the same.

        What a file doesn't hold is None: `history_`; and its settings are without hooks.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: as `model_file.load` does, and if the file isn't of an ensemble of this kind.
        """
        fitted = model_file.load(path)
        settings, names = fitted.settings or {}, [field.name for field in fields(EnsembleSettings)]
        known = {name: settings[name] for name in names if name in settings}
        if fitted.members is None or not {"members", "rows", "seed"} <= set(settings):
            raise ValueError(f"{path} holds no {cls.__name__}: model_file.load reads it")
        for name, value in known.items():
            known[name] = tuple(value) if isinstance(value, list) else value
        known |= dict.fromkeys(settings.get("automatic", ()), "auto")
        seed = settings["seed"]
        model = cls(
            **known
            | {"random_state": seed if type(known.get("random_state")) is str else known.get("random_state")}
        )
        check_settings(model)
        columns = None if isinstance(fitted.x_scaler, Scaler) else fitted.x_scaler
        model.fitted_, model.members_, model.columns_ = fitted, fitted.params, columns
        model.calibration_, model.history_ = fitted.calibration, None
        model.frequency_scale_, model.components_ = (
            np.broadcast_to(settings.get(name, default), settings["members"])
            for name, default in (("frequency_scale", np.nan), ("noise", 1))
        )
        model.n_iter_, model.bounds_ = settings.get("trained_epochs"), fitted.bounds
        model.n_features_in_ = len(fitted.x_scaler.loc if columns is None else columns.kinds)
        names = (
            fitted.feature_names
            if columns is None or not columns.named
            else [kind.name for kind in columns.kinds]
        )
        if names is not None:
            model.feature_names_in_ = np.array(names, object)
        return model

    def predict(self, X: TableLike, return_std: bool = False) -> Any:
        """Predict the mean of each row, `(n,)` or `(n, d)`; with `return_std`, `(mean, std)`."""
        dist = self.predict_dist(X)
        return (dist.mean, dist.std) if return_std else dist.mean

    @_numbers_fit()
    def predict_dist(self, X: TableLike) -> Affine | Clipped:
        """Predict each row's distribution: a `GaussianMixture` in the target's units, within its bounds."""
        check_is_fitted(self)
        return self.fitted_.predict(self._seen(X, reset=False))

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

    def _seen(self, X: TableLike, *, reset: bool) -> TableLike:
        """Features that scikit-learn has seen: numbers as float64, else as they are."""
        X = _unmasked(X)
        if not _is_array_of_numbers(X):
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X
        least = FEWEST_ROWS if reset else 1
        # What isn't finite is named by column where it can't be taken.
        settings = {"dtype": np.float64, "ensure_all_finite": False, "ensure_min_samples": least}
        return validate_data(self, X, reset=reset, **settings)

    @_numbers_fit()
    def _check_rows(
        self, X: TableLike, y: TableLike, sample_weight: TableLike | None
    ) -> tuple[pl.DataFrame, np.ndarray, np.ndarray | None]:
        """Features as a table, targets and weights as float64; weights are 0 where a target is missing."""
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y is None."
            )
        table, y = as_table(self._seen(X, reset=True)), _unmasked(y)
        check_numbers(y, "y", gaps=True)
        y = y if column_names(y) is None else as_floats(y)
        y = check_array(
            y,
            ensure_2d=False,
            allow_nd=True,
            dtype=np.float64,
            ensure_all_finite="allow-nan",
            input_name="y",
        )
        if y.ndim not in (1, 2):
            raise ValueError(f"y must have shape (rows,) or (rows, outputs), got {y.shape}")
        check_consistent_length(table, y)
        kept, weight = np.ones(len(y), bool), None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, y, dtype=np.float64, ensure_non_negative=True)
            kept = weight > 0
            _check_enough(kept, "a positive sample_weight")
            weight = without_unit(np.where(kept, weight, 0.0))
        if (missing := np.isnan(y)).any():
            _check_known(~missing)
            known = ~missing.reshape(len(y), -1).all(axis=1)
            if y.ndim == 2:
                weight = ~missing * (1.0 if weight is None else weight[:, None])
            kept &= known
            _check_enough(kept, "a target")
            if not known.all():
                count = int((~known).sum())
                warnings.warn(f"{count:,} of {len(y):,} rows have no target: left out", stacklevel=5)
        _check_enough(kept, "all that is needed")
        table, y, weight = table.filter(kept), y[kept], None if weight is None else weight[kept]
        for i, column in enumerate(y.reshape(len(y), -1).T):
            which = "y" if y.ndim == 1 else f"y, column {i},"
            check_varies(which, float(np.nanmin(column)), float(np.nanmax(column)))
        return table, y, weight

    def _described(self) -> dict:
        """The settings as a model file can hold them."""
        settings = {name: value for name, value in self.get_params().items() if name not in UNTOLD}
        for name, value in settings.items():
            settings[name] = value.item() if isinstance(value, np.generic) else value
        for name in OF_COLUMNS:
            given = getattr(self, name)
            names = [given] if isinstance(given, str) else [str(each) for each in given]
            settings |= {name: names} if names else {}
        if not isinstance(settings["random_state"], int | None):
            settings["random_state"] = type(self.random_state).__name__
        return settings

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.input_tags.allow_nan = tags.input_tags.categorical = tags.input_tags.string = True
        return tags


def _one_or_all(values: np.ndarray) -> Any:
    """The number that all members have, or a list of theirs."""
    return values[0].item() if (values == values[0]).all() else values.tolist()


def _check_known(known: np.ndarray) -> None:
    """Raise, and name the target, if one is missing in all rows."""
    empty = np.flatnonzero(~known.any(axis=0))
    if empty.size:
        which = "y" if known.ndim == 1 else f"y, column {empty[0]},"
        raise ValueError(f"{which} is missing in all rows: leave it out")


def _check_enough(kept: np.ndarray, what: str) -> None:
    """Raise if too few rows have what is needed."""
    if (count := int(kept.sum())) < FEWEST_ROWS:
        few = counted(count, "row")
        why = f"{few} have {what}, {FEWEST_ROWS} are needed"
        raise ValueError(f"{few} are too few, {FEWEST_ROWS} are needed" if kept.all() else why)


def _is_array_of_numbers(values: Any) -> bool:
    """Whether scikit-learn is to check it: an array, sparse ones among them, or nested lists of numbers."""
    if column_names(values) is not None:
        return False
    dtype = values.dtype if hasattr(values, "dtype") else as_array(values).dtype
    return np.dtype(dtype).kind in "biufc"


def _unmasked(values: Any) -> Any:
    """Masked values as missing ones."""
    return values.astype(np.float64).filled(np.nan) if isinstance(values, np.ma.MaskedArray) else values


def _target_names(y: TableLike) -> tuple[str, ...] | None:
    names = column_names(y)
    if names is not None:
        return tuple(names)
    name = getattr(y, "name", None)
    return None if name is None else (str(name),)
