"""A scikit-learn regressor: an ensemble with calibrated error bars, for tables of any kind."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import _check_sample_weight, _num_samples, check_is_fitted

from jaxreg import hosts
from jaxreg.calibration.scaling import NoiseScaling
from jaxreg.checks import check_same_shape
from jaxreg.data.frames import TableLike, as_floats, check_numbers
from jaxreg.data.rows import Source
from jaxreg.data.scaler import Scaler
from jaxreg.distributions.clipped import Clipped
from jaxreg.distributions.transformed import Affine
from jaxreg.going_on import OF_COLUMNS, check_goes_on, check_targets, settings_of_model
from jaxreg.metrics.scorers import neg_crps as neg_crps
from jaxreg.metrics.scorers import neg_nll as neg_nll
from jaxreg.model import model_file
from jaxreg.model.fitted import Fitted
from jaxreg.networks.models import MixtureRegressor, with_components
from jaxreg.networks.prediction import predict_ensemble
from jaxreg.plain import warn
from jaxreg.progress import shown
from jaxreg.recipe import (
    PRIOR_ROWS,
    Choice,
    Recipe,
    TimeLimit,
    choices_of,
    choose,
    final_scores,
    make_recipe,
)
from jaxreg.settings import EnsembleSettings, check_settings, documented
from jaxreg.table_rows import TableRows, check_known, numbers_fit, seen, unmasked
from jaxreg.training import TrainState
from jaxreg.training.feeds import size_class
from jaxreg.training.fitting import without_failed
from jaxreg.training.hooks import check_hooks
from jaxreg.training.inputs import more_rows
from jaxreg.training_data import FEWEST_ROWS, TrainingData, of_files, of_table

# Settings that a file says nothing of, or not always.
UNTOLD = "hooks", "verbose", "warm_start", *OF_COLUMNS
# Networks begin anew once there are so many times the rows that they began with.
ANEW = 2


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
        frequency_scale_: of each member that was kept, `(members,)`.
        components_: of the mixture that each of them predicts, `(members,)`.
        rows_: what `partial_fit`, or `fit` with warm_start, learned from; None else, and of a file.
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
        start = self.fitted_ if self.warm_start and hasattr(self, "fitted_") else None
        if start is not None and not isinstance(X, Source) and _num_samples(X) < start.settings["rows"]:
            warn(
                f"there are fewer rows than the {start.settings['rows']:,} that the model was trained on: it "
                "forgets some of what it learned of rows that aren't among them"
            )
        return self._trained((X, y, sample_weight), start, keep=bool(self.warm_start))

    def partial_fit(
        self, X: TableLike | Source, y: TableLike | None = None, sample_weight: TableLike | None = None
    ):
        """Go on from what was learned, with more rows; the first call is `fit`.

        Networks that see new rows alone forget the old ones, so the estimator keeps the rows that it is
        given in `rows_` and trains on all of them, at 0.3 times the learning rate. Columns grow by levels and
        gaps that are new, their scales stay, and each member holds out the rows that it did. Networks that
        began with few rows stay behind: once there are twice as many, all begins anew. `random_state` is that
        of the first fit.

        Args:
            X: features, as `fit` takes them, of the same columns; few rows will do.
            y: their targets.
            sample_weight: their weights.

        Raises:
            ValueError: as `fit` does, and names other columns than those of the first rows.

        Warns:
            UserWarning: as `fit` does, and names the columns that grew. Where the rows before weren't kept,
                as of a plain `fit` or of a file: it goes on with the new rows alone.

        >>> import numpy as np
        >>> from jaxreg import DeepEnsembleRegressor
        >>> x = np.linspace(-1, 1, 200)[:, None]
        >>> settings = {"members": 2, "hidden": (16,), "epochs": 20, "frequency_scale": 0, "noise": 1}
        >>> model = DeepEnsembleRegressor(**settings, random_state=0)
        >>> for part in (slice(0, None, 2), slice(1, None, 2)):
        ...     model = model.partial_fit(x[part], x[part, 0] ** 2)
        >>> len(model.rows_.y)
        200
        """
        start, rows = getattr(self, "fitted_", None), getattr(self, "rows_", None)
        if start is not None and rows is None:
            warn(
                f"the {start.settings['rows']:,} rows that the model was trained on weren't kept: it goes on "
                "with the new ones alone, and forgets some of what it learned"
            )
        return self._trained((X, y, sample_weight), start, before=rows, keep=True)

    def fit_files(self, files: Source, own_files: bool = False):
        """The same as `fit(files)`; in a run of many processes `own_files` sets the files' `own_share`."""
        many = own_files and jax.process_count() > 1
        return self.fit(replace(files, own_share=True) if many else files)

    @contextmanager
    def _kept_if_it_fails(self) -> Iterator[None]:
        """What was learned stays where training fails, or is interrupted."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    def _trained(
        self,
        given: tuple[TableLike | Source, TableLike | None, TableLike | None],
        start: Fitted | None,
        *,
        before: TableRows | None = None,
        keep: bool,
    ):
        """Train on features, targets and weights, after rows that were given before, and keep the rows."""
        check_settings(self)
        check_hooks(self.hooks)
        if start is not None:
            check_goes_on(self, start)
        with self._kept_if_it_fails():
            limit, hooks = TimeLimit(self.time_limit), [*self.hooks, *([shown()] if self.verbose else ())]
            if start is None:
                seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            else:
                seed = start.settings["seed"]
            key, rows = jax.random.key(seed), None
            if isinstance(given[0], Source):
                if before is not None:
                    raise ValueError(
                        "rows in files can't follow rows of a table, which partial_fit keeps: fit with "
                        "warm_start=True goes on with the files alone"
                    )
                training_data = self._from_source(key, *given, start)
            else:
                training_data, rows = self._from_table(key, given, start, before)
            recipe = make_recipe(self, training_data)
            choices = choose(key, self, training_data, hooks)
            if training_data.mesh is not None:  # processors of different kinds might choose otherwise
                chosen = hosts.gather({"choices": np.array(choices)})[0]["choices"]
                choices = [Choice(float(scale), int(components)) for scale, components in chosen]
            states, self.history_ = recipe.fit(key, training_data, choices, [*hooks, *limit.hooks])
            limit.warn_if_stopped(self.history_)
            kept = np.flatnonzero(self.history_.failed_epoch < 0)
            self.frequency_scale_, self.components_ = np.transpose([choices[i] for i in kept])
            self.components_ = self.components_.astype(int)
            if isinstance(recipe.model, MixtureRegressor):
                model, params = with_components(recipe.model, states.params, int(self.components_.max()))
                recipe, states = recipe._replace(model=model), states._replace(params=params)
            self.rows_ = rows if keep else None
            return self._keep(states, recipe, training_data, seed)

    def _from_table(
        self, key: jax.Array, given: tuple[Any, Any, Any], start: Fitted | None, before: TableRows | None
    ) -> tuple[TrainingData, TableRows]:
        """What members learn from, of a table in memory, and all rows of it so far."""
        rows = TableRows.checked(self, given, reset=start is None, least=FEWEST_ROWS if before is None else 1)
        if start is not None:
            check_targets(start, rows.y.shape, rows.names[1])
        if before is not None:
            rows = before.joined(rows)
            # Of a model that went on without its rows nobody has all, to begin anew.
            began_with = start.settings.get("began_with") if start is not None else None
            if began_with is not None and len(rows.y) >= ANEW * began_with:
                start = None
        training_data = of_table(key, self, rows.known(), names=rows.names, types=rows.types, start=start)
        self.columns_ = training_data.scalers[0]
        return training_data._replace(all_seen=start is None or before is not None), rows

    def _from_source(
        self, key: jax.Array, files: Any, y: Any, sample_weight: Any, start: Fitted | None
    ) -> TrainingData:
        """What members learn from, of rows that are read as they are needed."""
        if y is not None or sample_weight is not None:
            raise ValueError("rows in files have their target with them, and no weights: pass them alone")
        training_data = of_files(key, self, files, start)
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
            unseen = np.zeros((len(kept), size + 1), bool)
            # No row, -1, is one more than there are.
            np.put_along_axis(unseen, training_data.held_out["validation_rows"], True, axis=1)
            seen = predict_ensemble(recipe.model, self.members_, x)
            self.calibration_ = NoiseScaling.fit_held_out(
                seen, y, unseen[kept, :-1], sample_weight=weight, prior_rows=PRIOR_ROWS
            )
        asked, start = self._described(), training_data.start
        began_with = training_data.rows if start is None else start.settings.get("began_with")
        self.bounds_ = training_data.bounds
        settings = asked | {
            "hidden": list(recipe.model.hidden),
            "rows": training_data.rows,
            "began_with": began_with if training_data.all_seen else None,
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "seed": seed,
            "frequency_scale": _one_or_all(self.frequency_scale_),
            "noise": _one_or_all(self.components_),
            "bounds": None
            if self.bounds_ is None
            else [end if np.isfinite(end) else None for end in self.bounds_],
            "trained_epochs": self.n_iter_,
            "held_out": None
            if training_data.folds is None
            else training_data.folds.of_members(np.flatnonzero(kept))._asdict(),
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
        known, settings = settings_of_model(fitted), fitted.settings or {}
        if fitted.members is None or not {"members", "rows", "seed"} <= set(settings):
            raise ValueError(f"{path} holds no {cls.__name__}: model_file.load reads it")
        if type(known.get("random_state")) is str:
            known["random_state"] = settings["seed"]
        model = cls(**known)
        check_settings(model)
        columns = None if isinstance(fitted.x_scaler, Scaler) else fitted.x_scaler
        model.fitted_, model.members_, model.columns_ = fitted, fitted.params, columns
        model.calibration_, model.history_ = fitted.calibration, None
        model.frequency_scale_, model.components_ = map(np.array, zip(*choices_of(fitted), strict=True))
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

    @numbers_fit()
    def predict_dist(self, X: TableLike) -> Affine | Clipped:
        """Predict each row's distribution: a `GaussianMixture` in the target's units, within its bounds."""
        check_is_fitted(self)
        return self.fitted_.predict(seen(self, X, reset=False))

    def predict_interval(self, X: TableLike, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Predict the central interval of each row, `(lower, upper)`."""
        return self.predict_dist(X).interval(level)

    def predict_quantiles(self, X: TableLike, q: TableLike) -> Float[np.ndarray, "n ..."]:
        """Predict quantiles of each row, `(n, len(q))` or `(n, d, len(q))`."""
        return np.moveaxis(np.asarray(self.predict_dist(X).quantile(np.atleast_1d(q))), 0, -1)

    def score(self, X: TableLike, y: TableLike, sample_weight: TableLike | None = None) -> float:
        """R squared of the mean: of several targets the mean of theirs, each over the rows that have it."""
        mean, y = self.predict(X), unmasked(y)
        check_numbers(y, "y", gaps=np.asarray(y).ndim == 2)
        y = as_floats(y)
        check_same_shape(y=y, mean=mean)
        weight = _check_sample_weight(sample_weight, mean, dtype=np.float64, ensure_non_negative=True)
        known = ~np.isnan(y).reshape(len(y), -1)
        check_known(known)
        columns = zip(known.T, y.reshape(known.shape).T, mean.reshape(known.shape).T, strict=True)
        return float(np.mean([r2_score(a[own], b[own], sample_weight=weight[own]) for own, a, b in columns]))

    def score_nll(self, X: TableLike, y: TableLike, sample_weight: TableLike | None = None) -> float:
        """Mean negative log-likelihood in nats, lower is better; it depends on the target's unit."""
        return -neg_nll(self, X, y, sample_weight)

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
