"""The scikit-learn regressor: scikit-learn's own checks, and what they don't look at."""

import functools
import pickle

import jax
import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from bench.machine import count_compilations
from jaxreg import GaussianMixture, Hook, metrics, predict_ensemble, recipe, sources
from jaxreg.estimator import DeepEnsembleRegressor, neg_crps, neg_nll
from jaxreg.model import model_file

# Small enough to compile and train in a second.
SMALL = {
    "members": 2,
    "hidden": (8,),
    "frequencies": 2,
    "frequency_scale": 1.0,
    "noise": 1,
    "epochs": 150,
    "batch_size": None,
    "learning_rate": 1e-2,
    "random_state": 0,
}


def rows(n=120, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (n, 2))
    return x, np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] + (0.1 + 0.2 * np.abs(x[:, 1])) * rng.normal(size=n)


@functools.cache
def small(outputs=None):
    x, y = rows()
    return DeepEnsembleRegressor(**SMALL).fit(x, y if outputs is None else np.stack([y, 100 - y], 1))


EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "a row of weight 2 is in one batch and one fold, two "
    "equal rows are in several; at full batch and without folds both are the same, as tested below",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*are too few for.*folds:UserWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([DeepEnsembleRegressor(**SMALL)], expected_failed_checks=lambda _: EXPECTED_FAILURES)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("outputs", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_integer_weights_are_repeated_rows(x64, outputs):
    x, y = rows(40)
    y = y if outputs is None else np.stack([y, -3 * y], 1)
    weight = np.arange(40) % 3
    plain = DeepEnsembleRegressor(**SMALL | {"validation_fraction": 0, "epochs": 30, "weight_decay": 0.0})
    weighted = clone(plain).fit(x, y, sample_weight=weight)
    repeated = clone(plain).fit(np.repeat(x, weight, axis=0), np.repeat(y, weight, axis=0))
    for ours, theirs in zip(
        weighted.predict(x, return_std=True), repeated.predict(x, return_std=True), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert weighted.calibration_ is None


def test_what_is_predicted():
    x, y = rows()
    model = small()
    dist = model.predict_dist(x)
    assert isinstance(dist.dist, GaussianMixture) and dist.dist.means.shape == (2, 120)
    mean, std = model.predict(x, return_std=True)
    np.testing.assert_array_equal(mean, dist.mean)
    np.testing.assert_array_equal(model.predict(x), mean)
    np.testing.assert_array_equal(std, dist.std)
    for ours, theirs in zip(model.predict_interval(x, 0.8), dist.interval(0.8), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    quantiles = model.predict_quantiles(x, [0.1, 0.5, 0.9])
    assert quantiles.shape == (120, 3) and (np.diff(quantiles) > 0).all()
    np.testing.assert_allclose(quantiles[:, ::2].T, dist.interval(0.8), rtol=1e-4, atol=1e-5)
    assert model.predict_quantiles(x, 0.3).shape == (120, 1)
    assert model.score(x, y) > 0.7
    np.testing.assert_allclose(model.score_nll(x, y), metrics.nll(dist, y), rtol=1e-6)
    assert metrics.coverage(dist, y) > 0.85
    raw = predict_ensemble(
        model.fitted_.model, model.members_, model.fitted_.x_scaler.transform(x).astype(np.float32)
    )
    np.testing.assert_allclose(model.calibration_(raw).std * model.fitted_.y_scaler.scale, std, rtol=1e-5)


@pytest.mark.slow
def test_several_targets_of_which_some_are_missing():
    x, y = rows()
    both = small(2)
    mean, std = both.predict(x, return_std=True)
    assert mean.shape == std.shape == (120, 2)
    assert both.predict_quantiles(x, [0.1, 0.9]).shape == (120, 2, 2)
    assert both.calibration_.factor.shape == (2,)
    rng = np.random.default_rng(0)
    y = np.stack([y, 1e4 * y + 1e6], 1)
    masked = np.where(rng.uniform(size=y.shape) < 0.3, np.nan, y)
    with pytest.warns(UserWarning, match="6 of 120 rows have no target: left out"):
        model = clone(both).fit(x, np.ma.masked_invalid(masked))
    assert np.isfinite(model.predict(x)).all()
    assert np.corrcoef(model.predict(x)[:, 1], y[:, 1])[0, 1] > 0.8
    assert model.score_nll(x, np.ma.masked_invalid(masked)) == model.score_nll(x, masked)
    known = np.isfinite(masked)
    expected = np.mean(
        [metrics.nll(model.predict_dist(x[known[:, i]]).output(i), y[known[:, i], i]) for i in range(2)]
    )
    assert abs(model.score_nll(x, masked) - expected) < 0.5
    column = clone(both).fit(x, y[:, :1])
    assert column.predict(x).shape == (120, 1)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_frames(frame):
    x, y = rows()
    named = frame({"a": x[:, 0], "b": x[:, 1]})
    model = DeepEnsembleRegressor(**SMALL).fit(named, (pd.Series if frame is pd.DataFrame else pl.Series)(y))
    np.testing.assert_array_equal(model.feature_names_in_, ["a", "b"])
    assert model.fitted_.feature_names == ("a", "b")
    np.testing.assert_array_equal(model.predict(named), small().predict(x))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(named[["b", "a"]])
    targets = frame({"price": y, "rent": 2 * y})
    assert clone(model).fit(named, targets).fitted_.target_names == ("price", "rent")


@pytest.mark.slow
def test_other_numbers_of_rows_compile_nothing():
    x, y = rows(240)
    model = DeepEnsembleRegressor(members=2, noise=1, hidden=(6,), epochs=4, batch_size=32, random_state=0)

    def fit_all(lengths):
        return sum(count_compilations(lambda n=n: model.fit(x[:n], y[:n])) > 0 for n in lengths)

    # 201 to 223 and 224 to 240 rows are two classes; the noise is scaled, and scales tried out, in each.
    assert fit_all(range(201, 241)) == 2


@pytest.mark.slow
def test_search_compiles_once_for_each_size_of_fold():
    x, y = rows(100)
    ensemble = DeepEnsembleRegressor(**SMALL | {"hidden": (7,), "batch_size": 16})

    def search(**grid):
        folds = KFold(3)  # of 66, 67 and 67 rows
        found = GridSearchCV(ensemble, grid, scoring=neg_crps, cv=folds, refit=False).fit(x, y)
        assert np.isfinite(found.cv_results_["mean_test_score"]).all()

    assert count_compilations(lambda: search(epochs=[3])) > 0
    assert (
        count_compilations(lambda: search(learning_rate=[1e-3, 1e-2], weight_decay=[0.0, 0.2], epochs=[4]))
        == 0
    )
    fitted = clone(ensemble).fit(x[:66], y[:66])
    fitted.predict(x[:40])
    assert count_compilations(lambda: [fitted.predict(x[:n]) for n in (33, 64)]) == 0


def test_pipelines_scorers_pickle_and_joblib():
    x, y = rows()
    shown = {"scoring": neg_nll, "cv": 2}
    scores = cross_val_score(make_pipeline(StandardScaler(), DeepEnsembleRegressor(**SMALL)), x, y, cv=2)
    assert scores.shape == (2,)
    assert (cross_val_score(DeepEnsembleRegressor(**SMALL), x, y, **shown) > -3).all()
    in_logs = TransformedTargetRegressor(DeepEnsembleRegressor(**SMALL), func=np.log, inverse_func=np.exp)
    assert (in_logs.fit(x, np.exp(y)).predict(x) > 0).all()
    again = pickle.loads(pickle.dumps(small()))
    np.testing.assert_array_equal(again.predict(x), small().predict(x))
    with joblib.parallel_backend("threading", n_jobs=2):
        means = joblib.Parallel()(joblib.delayed(small().predict)(part) for part in (x[:64], x[:64]))
    np.testing.assert_array_equal(means[0], means[1])


def test_what_is_fitted_can_be_kept_in_a_file(tmp_path):
    x, y = rows()
    odd = {
        "members": np.int64(2),
        "learning_rate": np.float32(0.01),
        "random_state": np.random.RandomState(3),
    }
    model = DeepEnsembleRegressor(**SMALL | odd).fit(x, y)
    model_file.save(tmp_path / "m", model.fitted_)
    loaded = model_file.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.predict(x).std, model.predict(x, return_std=True)[1])
    assert loaded.settings["random_state"] == "RandomState" and loaded.settings["members"] == 2


def test_constructing_does_nothing_and_settings_are_kept():
    model = DeepEnsembleRegressor(members=0, loss="none")
    assert model.get_params()["loss"] == "none" and clone(model).members == 0
    assert "fitted_" not in vars(model)


def test_the_recipe_is_that_of_the_core():
    model, (x, y) = small(), rows()
    assert model.history_.loss.shape == (2, 150) and model.n_iter_ <= 150
    assert (model.history_.best_epoch >= 0).all()
    again = DeepEnsembleRegressor(**SMALL).fit(x, y)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    other = DeepEnsembleRegressor(**SMALL | {"random_state": 1}).fit(x, y)
    assert not np.array_equal(other.predict(x), model.predict(x))


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_numbers_of_any_size(size, offset):
    x, y = rows()
    model = DeepEnsembleRegressor(**SMALL).fit((x + offset) * size, (y + offset) * size)
    mean, std = model.predict((x + offset) * size, return_std=True)
    expected, spread = small().predict(x, return_std=True)
    np.testing.assert_allclose(mean / size - offset, expected, atol=2e-3)
    np.testing.assert_allclose(std / size, spread, rtol=2e-2)


@pytest.mark.slow
def test_arrays_of_any_kind():
    x = np.random.default_rng(0).integers(0, 5, (60, 3))
    y = x[:, 0] - 2 * x[:, 1]
    model = DeepEnsembleRegressor(**SMALL | {"epochs": 3})
    expected = clone(model).fit(x.astype(float), y.astype(float)).predict(x.astype(float))
    locked = x.astype(np.float32)
    locked.flags.writeable = False
    wide = np.repeat(x, 2, axis=1)
    for other in (
        x.astype(np.float16),
        np.asfortranarray(x),
        wide[:, ::2],
        locked,
        x.tolist(),
        x.astype("i1"),
    ):
        np.testing.assert_array_equal(clone(model).fit(other, y).predict(other), expected)
    switch = x > 2
    assert np.isfinite(clone(model).fit(switch, y > 0).predict(switch)).all()


@pytest.mark.slow
def test_the_scale_of_the_waves():
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (150, 5))
    fast, smooth = np.sin(25 * x[:, 0]), x.sum(axis=1) + rng.normal(size=150)
    model = DeepEnsembleRegressor(**SMALL | {"frequencies": 8, "hidden": (32,), "frequency_scale": "auto"})
    assert (model.set_params(epochs=800).fit(x[:, :1], fast).frequency_scale_ == 1).all()
    scales = [model.fit(x, smooth).frequency_scale_]
    for seed in (1, 2):  # two members of one seed may be misled
        x = np.random.default_rng(seed).uniform(-2, 2, (150, 5))
        noise = np.random.default_rng(seed + 9).normal(size=150)
        scales.append(model.fit(x, x.sum(axis=1) + noise).frequency_scale_)
    assert np.median(scales) < 1
    assert model.set_params(frequency_scale=0.5, epochs=1).fit(x, smooth).frequency_scale_[0] == 0.5


def test_a_feature_of_one_value_has_no_say():
    x, y = rows()
    constant = np.column_stack([x, np.full(120, 7.0)])
    with pytest.warns(UserWarning, match="'2': constant, left out"):
        model = DeepEnsembleRegressor(**SMALL | {"epochs": 3}).fit(constant, y)
    other = constant + [0, 0, 1e9]
    np.testing.assert_array_equal(model.predict(other), model.predict(constant))


def test_few_rows():
    x, y = rows(9)
    with pytest.warns(UserWarning, match="9 rows are too few for 10 folds of at least 2: 4 are used"):
        few = DeepEnsembleRegressor(**SMALL | {"epochs": 2}).fit(x, y)
    assert np.isfinite(few.predict(x)).all()
    with pytest.raises(ValueError, match="minimum of 4 is required"):
        few.fit(x[:3], y[:3])


def test_the_clock_stops_a_run():
    x, y = rows()
    limited = {"epochs": 10**6, "patience": 1.0, "time_limit": 1e-3}
    model = DeepEnsembleRegressor(**SMALL | limited)
    with pytest.warns(
        UserWarning, match=r"time_limit=0.001: training stopped after \d+ of 1,000,000 epochs, \d"
    ):
        model.fit(x, y)
    assert model.n_iter_ < 10**6 and np.isfinite(model.predict(x)).all()
    model.set_params(frequency_scale="auto", epochs=1)
    with pytest.warns(
        UserWarning,
        match="time_limit=0.001 leaves no time to try out scales of the frequencies: 0.25 is taken$",
    ):
        assert (model.fit(x, y).frequency_scale_ == 0.25).all()


def test_hooks_see_the_run():
    class Count(Hook):
        seen = []

        def after_chunk(self, run, history):
            self.seen.append(history.loss.shape)

    x, y = rows()
    DeepEnsembleRegressor(**SMALL | {"epochs": 3}, hooks=[Count()]).fit(x, y)
    assert Count.seen and set(Count.seen) == {(2, 3)}


X, Y = rows(30)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"members": 0}, "members must be at least 1, got 0"),
        ({"members": 2.5}, "members must be a whole number"),
        ({"frequencies": -1}, "frequencies must be at least 0, got -1"),
        ({"loss": "mse"}, "loss must be one of 'beta_nll', 'gaussian_nll', 'crps', got 'mse'"),
        ({"activation": "selu"}, "activation must be one of 'relu'"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"epochs": "many"}, "epochs must be a whole number, got 'many'"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"epochs": True}, "epochs must be a whole number, got True"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be finite and not negative"),
        ({"weight_decay": np.nan}, "weight_decay must be finite and not negative"),
        ({"validation_fraction": 0.6}, "validation_fraction must be from 0 to 0.5, got 0.6"),
        ({"patience": 0}, "patience must be a share"),
        ({"frequency_scale": "high"}, "frequency_scale must be a number not below 0 or 'auto', got 'high'"),
        ({"frequency_scale": -1.0}, "frequency_scale must be a number not below 0"),
        ({"time_limit": 0}, "time_limit must be positive seconds or None, got 0"),
        ({"hidden": (8, 0)}, "hidden must be at least 1, got 0"),
        ({"hidden": [1] * 257}, "hidden may be 256 layers, got 257"),
        ({"hidden": None}, "hidden must be widths of layers, .* got None"),
        ({"hidden": "128"}, "hidden must be widths of layers, .* got '128'"),
        ({"weight_decay": -1}, "weight_decay must be finite and not negative, got -1$"),
        ({"learning_rate": None}, "learning_rate must be a number, .* got None"),
        ({"learning_rate": "1e-3"}, "learning_rate must be a number, .* got '1e-3'"),
        ({"validation_fraction": None}, "validation_fraction must be a number, got None"),
        ({"patience": "0.3"}, "patience must be a number, got '0.3'"),
        ({"epochs": None}, "epochs must be a whole number, got None"),
        ({"hooks": Hook()}, r"hooks must be a list .* pass \[hook\]"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        DeepEnsembleRegressor(**SMALL).set_params(**settings).fit(X, Y)


def test_one_width_is_one_layer():
    model = DeepEnsembleRegressor(**SMALL | {"hidden": 8, "epochs": 1}).fit(X, Y)
    assert model.fitted_.model.hidden == (8,) and model.fitted_.settings["hidden"] == [8]


@pytest.mark.parametrize(
    "x, y, message",
    [
        (X, np.full(30, 3.0), "the target y has one value, 3, in all rows"),
        (X, np.stack([Y, np.zeros(30)], 1), "the target y, column 1, has one value, 0"),
        (X, np.stack([Y, np.full(30, np.nan)], 1), "y, column 1, is missing in all rows"),
        (X, np.full(30, np.nan), "y is missing in all rows"),
        (X, np.where(np.arange(30) < 3, Y, np.nan), "3 rows have a target, 4 are needed"),
        (X, np.zeros((30, 1, 1)), "y must have shape"),
        (np.where(X > 1, np.inf, X), Y, "column '0' holds infinity in 8 rows.*column '1' holds infinity"),
        (X, Y[:-1], "inconsistent numbers of samples"),
        (X[:, 0], Y, "Expected 2D array"),
        (X * 1j, Y, "Complex data not supported"),
        (
            X.astype(str).astype(object) + "?",
            Y,
            "no column tells anything: '0' .a different text in nearly every row.",
        ),
    ],
)
def test_data_that_cannot_be(x, y, message):
    with pytest.raises(ValueError, match=message):
        DeepEnsembleRegressor(**SMALL).fit(x, y)


@pytest.mark.parametrize(
    "X, words",
    [
        ("houses.csv", "a table of rows and columns is needed, got a str of 0 dimensions"),
        ([{"a": 1, "b": "x"}], "got a list of 1 dimension$"),
        (pd.Series([1.0, "x"], ["a", "b"]), "got a Series of 1 dimension$"),
        (pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], columns=["a", "a"]), "column 'a': more than one column has"),
    ],
)
def test_what_is_no_table_is_named(X, words):
    with pytest.raises(ValueError, match=words):
        DeepEnsembleRegressor().fit(X, [1.0, 2.0])


def test_sparse_matrices_are_refused():
    with pytest.raises(TypeError, match="Sparse data was passed"):
        DeepEnsembleRegressor(**SMALL).fit(scipy.sparse.csr_array(X), Y)


@pytest.mark.parametrize(
    "weight, message",
    [
        (np.zeros(30), "positive sample_weight|zero"),
        (-np.ones(30), "Negative values"),
        (np.ones(29), "sample_weight"),
        (np.r_[np.ones(3), np.zeros(27)], "3 rows have a positive sample_weight, 4 are needed"),
    ],
)
def test_weights_that_cannot_be(weight, message):
    with pytest.raises(ValueError, match=message):
        DeepEnsembleRegressor(**SMALL).fit(X, Y, sample_weight=weight)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """6,000 rows with noise that grows, in files that are sorted by a feature."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    x = np.sort(rng.uniform(-2, 2, 6000))
    other = rng.normal(5e6, 1e3, 6000)
    y = 1e4 * (np.sin(2 * x) + (0.1 + 0.2 * np.abs(x)) * rng.normal(size=6000))
    table = pl.DataFrame({"x": x, "other": other, "y": y})
    for i in range(3):
        table[2000 * i : 2000 * (i + 1)].write_parquet(folder / f"{i}.parquet", row_group_size=500)
    return sources.from_files(folder, target="y"), table


@pytest.mark.slow
def test_files_train_an_ensemble_as_good_as_their_rows_do(files):
    files, table = files
    settings = {
        "members": 3,
        "hidden": (32,),
        "epochs": 25,
        "random_state": 0,
        "frequency_scale": 0.25,
        "noise": 1,
    }
    settings["batch_size"] = 128
    numbers, _, y_test = files.take([1], 1000)
    x_test = table[numbers, :2]
    streamed = DeepEnsembleRegressor(**settings).fit_files(files.without([1], 1000))
    rest = np.setdiff1d(np.arange(6000), numbers)
    whole = DeepEnsembleRegressor(**settings).fit(table[rest, :2], table[rest, 2])
    nlls = [np.mean(metrics.nll(model.predict_dist(x_test), y_test)) for model in (streamed, whole)]
    # The noise's own entropy is what the best of all would score.
    best = np.mean(np.log(1e4 * (0.1 + 0.2 * np.abs(x_test["x"].to_numpy())))) + 0.5 * np.log(
        2 * np.pi * np.e
    )
    assert nlls[0] < nlls[1] + 0.02 and nlls[0] < best + 0.06
    lower, upper = streamed.predict_interval(x_test, 0.9)
    assert 0.87 < np.mean((lower < y_test) & (y_test < upper)) < 0.93
    fitted = streamed.fitted_
    assert fitted.feature_names == ("x", "other") and fitted.target_names == ("y",)
    assert fitted.settings["rows"] == 6000 and fitted.feature_dtypes == ("float64", "float64")
    assert fitted.predict(table[:5]).mean.shape == (5,)
    few = DeepEnsembleRegressor(**settings | {"epochs": 2})
    once, again = (few.fit_files(files.without([1], 1000)).members_ for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, again, once)


def test_files_with_no_row_held_out(files):
    model = DeepEnsembleRegressor(
        members=2, noise=1, hidden=(8,), epochs=2, validation_fraction=0, random_state=0
    )
    model.fit_files(files[0])
    assert model.calibration_ is None and model.history_.validation_nll is None and model.n_iter_ == 2
    with pytest.raises(ValueError, match="rows in files need a batch_size"):
        DeepEnsembleRegressor(batch_size=None).fit_files(files[0])


def test_fit_takes_files_too(files, as_source):
    settings = {
        "members": 2,
        "hidden": (8,),
        "epochs": 1,
        "random_state": 0,
        "frequency_scale": 0.25,
        "noise": 1,
    }
    one, other = DeepEnsembleRegressor(**settings), DeepEnsembleRegressor(**settings)
    for a, b in zip(
        *(jax.tree.leaves(m.members_) for m in (one.fit(files[0]), other.fit_files(files[0]))), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="rows in files have their target with them, and no weights"):
        one.fit(files[0], np.zeros(6000))
    with pytest.raises(ValueError, match="a Rows doesn't say what its columns are: use tables.from_files"):
        one.fit(as_source(np.zeros((9, 1)), np.zeros(9)))


def test_all_settings_that_no_fit_can_have_are_named_at_once():
    words = "members must be at least 1, got 0; loss must be one of .*; patience must be a share .* got 2"
    with pytest.raises(ValueError, match=words):
        DeepEnsembleRegressor(members=0, loss="mse", patience=2).fit(*rows(9))


def test_row_groups_that_are_too_few_for_files_of_their_own(files, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 13)
    model = DeepEnsembleRegressor(members=13, epochs=1)
    words = "12 row groups are too few for 13 processes with files of their own: .* leave own_files out"
    with pytest.raises(ValueError, match=words):
        model.fit_files(files[0], own_files=True)


@pytest.mark.parametrize("steps, epochs", [(20, 60), (391, 60), (3907, 51), (78125, 3), (10**6, 1)])
def test_epochs_of_rows_in_files(steps, epochs):
    assert recipe.stream_epochs(steps) == epochs


AROUND = {
    "a pipeline": lambda model: make_pipeline(StandardScaler(), model),
    "a search": lambda model: GridSearchCV(model, {"epochs": [3]}, scoring=neg_nll, cv=2),
    "a search over a pipeline": lambda model: GridSearchCV(
        make_pipeline(StandardScaler(), "passthrough", model),
        {"deepensembleregressor__epochs": [3]},
        scoring=metrics.neg_crps,
        cv=2,
    ),
    "a straight map": lambda model: TransformedTargetRegressor(model, transformer=StandardScaler()),
}


@pytest.mark.parametrize("what", AROUND)
@pytest.mark.parametrize("scorer", [neg_nll, pytest.param(neg_crps, marks=pytest.mark.slow)])
def test_scorers_see_through_what_is_around_the_estimator(what, scorer):
    """The estimator alone standardises as all of these do, so its score is theirs."""
    x, y = rows()
    model = DeepEnsembleRegressor(**SMALL | {"epochs": 3})
    around = AROUND[what](model).fit(x, y)
    np.testing.assert_allclose(scorer(around, x, y), scorer(clone(model).fit(x, y), x, y), rtol=2e-3)
    assert np.isfinite(cross_val_score(AROUND[what](model), x, y, scoring=scorer, cv=2)).all()


@pytest.mark.slow
def test_the_density_of_a_target_in_logs_is_that_of_the_target():
    x, y = rows()
    model = TransformedTargetRegressor(small(), func=np.log, inverse_func=np.exp).fit(x, np.exp(y))
    mixture = model.regressor_.predict_dist(x)
    expected = np.mean(np.asarray(mixture.log_prob(y)) - y)  # d log(t) / dt at t = exp(y)
    np.testing.assert_allclose(neg_nll(model, x, np.exp(y)), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="CRPS of a TransformedTargetRegressor is known where .* straight"):
        neg_crps(model, x, np.exp(y))
    falling = TransformedTargetRegressor(small(), func=lambda y: -3 * y, inverse_func=lambda y: -y / 3)
    mixture = falling.fit(x, y).regressor_.predict_dist(x)
    expected = np.mean(np.asarray(mixture.log_prob(-3 * y))) + np.log(3)
    np.testing.assert_allclose(neg_nll(falling, x, y), expected, rtol=1e-6)
    np.testing.assert_allclose(neg_crps(falling, x, y), -np.mean(mixture.crps(-3 * y)) / 3, rtol=1e-6)
    counts = np.floor(np.exp(2 * y))
    model = TransformedTargetRegressor(small(), func=np.log1p, inverse_func=np.expm1).fit(x, counts)
    assert counts.min() == 0 and np.isfinite(neg_nll(model, x, counts))
    logs = TransformedTargetRegressor(small(), func=np.log, inverse_func=np.exp).fit(x, np.exp(y))
    with pytest.raises(
        ValueError, match="map of the target of a TransformedTargetRegressor isn't finite.* at 0"
    ):
        neg_nll(logs, x, counts)
    weight = (counts > 0).astype(float)
    np.testing.assert_allclose(
        neg_nll(logs, x, counts, weight), neg_nll(logs, x[counts > 0], counts[counts > 0]), rtol=1e-6
    )
    square = TransformedTargetRegressor(small(), func=np.square, inverse_func=np.sqrt, check_inverse=False)
    with pytest.raises(
        ValueError, match="the map of the target of a TransformedTargetRegressor isn't monotone"
    ):
        neg_nll(square.fit(x, y), x, y)
    with pytest.raises(ValueError, match="a LinearRegression has no predictive distribution"):
        neg_nll(LinearRegression().fit(x, y), x, y)


@pytest.mark.parametrize("dtype", ["float64", "Float64", "double[pyarrow]"])
def test_targets_with_gaps_are_scored_where_they_are_known(dtype):
    x, y = rows()
    model, both = small(2), np.stack([y, 100 - y], 1)
    both[::3, 0] = np.nan
    frame = pd.DataFrame(both, columns=["a", "b"]).convert_dtypes(convert_floating=False)
    frame = frame.astype(dtype)
    fitted = clone(model).fit(x, frame)
    np.testing.assert_array_equal(fitted.predict(x), clone(model).fit(x, both).predict(x))
    known = np.isfinite(both[:, 0])
    expected = np.mean(
        [r2_score(both[known, 0], fitted.predict(x)[known, 0]), r2_score(both[:, 1], fitted.predict(x)[:, 1])]
    )
    np.testing.assert_allclose(fitted.score(x, frame), expected, rtol=1e-12)
    np.testing.assert_allclose(fitted.score_nll(x, frame), fitted.score_nll(x, both), rtol=1e-12)
    both[1, 1] = np.inf
    for score in (fitted.score, fitted.score_nll):
        with pytest.raises(ValueError, match="y contains infinity or a value too large .* in column 1"):
            score(x, both)
        with pytest.raises(ValueError, match=r"y contains NaN \(1 of 120 rows\)"):
            score(x, pd.Series(np.r_[np.nan, y[1:]]))


def test_targets_that_do_not_fit_are_not_scored():
    x, y = rows()
    both = np.stack([y, 100 - y], 1)
    for model, targets, words in [
        (small(2), both.T, r"y \(2, 120\), mean \(120, 2\)"),
        (small(2), both.ravel(), r"y \(240,\), mean \(120, 2\)"),
        (small(), both, r"y \(120, 2\), mean \(120,\)"),
        (small(), y[:5], r"y \(5,\), mean \(120,\)"),
        (small(2), both * [1, np.nan], "y, column 1, is missing in all rows"),
    ]:
        with pytest.raises(ValueError, match=words):
            model.score(x, targets)
    for weight, words in ((np.ones(5), "sample_weight"), (-np.ones(120), "Negative values")):
        with pytest.raises(ValueError, match=words):
            small().score(x, y, weight)


def test_what_lies_far_outside_is_warned_of():
    x, y = rows()
    y[7] = 1e6
    with pytest.warns(UserWarning, match="^the target holds 1e.06 in 1 of 120 rows"):
        DeepEnsembleRegressor(**SMALL | {"epochs": 1}).fit(x, y)
    with pytest.warns(UserWarning, match="^the target 'price' holds 1e"):
        DeepEnsembleRegressor(**SMALL | {"epochs": 1}).fit(x, pd.Series(y, name="price"))


@pytest.mark.parametrize("unit", [1e-300, 1e-38, 1e200])
def test_sample_weights_have_no_unit(unit):
    x, y = rows()
    weight = np.random.default_rng(0).uniform(0.5, 2, 120)
    one, other = (
        DeepEnsembleRegressor(**SMALL | {"epochs": 3}).fit(x, y, sample_weight=weight * by)
        for by in (1, unit)
    )
    np.testing.assert_allclose(one.predict(x), other.predict(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one.calibration_.factor, other.calibration_.factor, rtol=1e-4)


def test_tables_of_any_kind():
    x, y = rows(60)
    days = pd.date_range("2020", periods=60).to_series(index=range(60))
    frame = pd.DataFrame(
        {"a": x[:, 0], "sold": days.where(days > days[3]), "city": ["Rome", "Oslo", None] * 20, "one": 1}
    )
    with pytest.warns(UserWarning, match="otherwise than they may seem: 'one': constant, left out"):
        model = DeepEnsembleRegressor(**SMALL).fit(frame, y)
    kinds = [type(kind).__name__ for kind in model.columns_.kinds]
    assert kinds == ["Number", "Time", "Category", "Nothing"]
    assert model.n_features_in_ == 4 and model.fitted_.feature_names == ("a", "sold", "city")
    assert model.fitted_.feature_dtypes == tuple(map(str, frame.dtypes[:3]))
    assert model.fitted_.model.embedding.numbers == 2
    mean = model.predict(frame)
    np.testing.assert_array_equal(model.predict(frame[::-1]), mean[::-1])
    np.testing.assert_array_equal(model.fitted_.predict(frame[[*frame.columns[::-1]]]).mean, mean)
    with pytest.warns(UserWarning, match="'city' .1 row."):
        assert np.isfinite(model.predict(frame[:1].assign(city="Bonn"))).all()
    # Rows of no weight teach nothing, a level of theirs neither.
    odd = pd.concat([frame, frame[:5].assign(city="Bonn", a=1e9)])
    weight = np.repeat([1.0, 0.0], [60, 5])
    with pytest.warns(UserWarning, match="constant, left out"):
        weighted = DeepEnsembleRegressor(**SMALL).fit(odd, np.r_[y, y[:5]], weight)
    assert weighted.columns_ == model.columns_
    np.testing.assert_allclose(weighted.predict(frame), mean, rtol=1e-5)


@pytest.mark.parametrize("kind", [np.array, np.ma.masked_invalid, pd.DataFrame])
def test_gaps_are_columns_of_their_own(kind):
    x, y = rows(60)
    x[::7, 0] = np.nan
    model = DeepEnsembleRegressor(**SMALL).fit(kind(x), y)
    assert [column.gaps > 0 for column in model.columns_.kinds] == [True, False]
    assert np.isfinite(model.predict(kind(x))).all()
    with pytest.raises(ValueError, match="3 features"):
        model.predict(np.ones((2, 3)))


def of_any_kind(n=80):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "a": rng.normal(size=n),
            "city": pd.Categorical(rng.choice(["Rome", "Oslo"], n)),
            "town": rng.choice(["x", "y", None], n),
            "sold": pd.date_range("2020", periods=n),
        }
    )
    return frame, frame["a"] + 3.0 * (frame["city"] == "Rome") + 0.1 * rng.normal(size=n)


@pytest.mark.slow
def test_scikit_learns_tools_take_frames_of_any_kind():
    frame, y = of_any_kind()
    model = DeepEnsembleRegressor(**SMALL | {"epochs": 60, "learning_rate": 2e-2})
    scaled = ColumnTransformer([("n", StandardScaler(), ["a"])], remainder="passthrough")
    kinds = ["Number", "Category", "Category", "Time"]
    for output in ("pandas", "default"):
        pipeline = make_pipeline(scaled.set_output(transform=output), model).fit(frame, y)
        assert [type(kind).__name__ for kind in pipeline[-1].columns_.kinds] == kinds
        assert pipeline.score(frame, y) > 0.8
    found = pipeline[:-1].set_output(transform="pandas").fit_transform(frame)
    assert list(found.columns) == ["n__a", "remainder__city", "remainder__town", "remainder__sold"]
    model.fit(frame, y)
    importance = permutation_importance(model, frame, y, n_repeats=2, random_state=0).importances_mean
    assert (
        np.argsort(importance)[::-1][:2].tolist() == [1, 0] and importance[1] > 5 * abs(importance[2:]).max()
    )
    effect = partial_dependence(model, frame, ["city"], categorical_features=["city"], kind="average")
    assert effect["grid_values"][0].tolist() == ["Oslo", "Rome"] and 2 < np.diff(effect["average"][0])[0] < 4
    search = GridSearchCV(model, {"categories": [(), ("town",)], "drop": [("sold",)]}, cv=2).fit(frame, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("kind", [np.ma.masked_invalid, pl.Series])
def test_rows_without_a_target_are_left_out(kind):
    x, y = rows(60)
    model = DeepEnsembleRegressor(**SMALL | {"epochs": 3})
    expected = model.fit(x[5:], y[5:]).predict(x)
    with pytest.warns(UserWarning, match="5 of 60 rows have no target: left out"):
        model.fit(x, kind(np.where(np.arange(60) < 5, np.nan, y)))
    np.testing.assert_array_equal(model.predict(x), expected)


def test_the_user_says_what_columns_are():
    x, y = rows(60)
    frame = pd.DataFrame({"zip": np.arange(60) % 3, "a": x[:, 0], "id": range(60)})
    model = DeepEnsembleRegressor(**SMALL | {"epochs": 3}, categories=["zip"], drop=["id"]).fit(frame, y)
    assert [type(kind).__name__ for kind in model.columns_.kinds] == ["Category", "Number", "Nothing"]
    assert model.fitted_.feature_names == ("zip", "a")
    same = clone(model).set_params(categories=[0], drop=[2]).fit(frame.to_numpy(), y)
    np.testing.assert_array_equal(same.predict(frame.to_numpy()), model.predict(frame))
    with pytest.raises(ValueError, match="no column 'zap'.*'zip'.*; column 'a' is asked to be two things"):
        clone(model).set_params(categories=["zap", "a"], drop=["a"]).fit(frame, y)
    with pytest.raises(ValueError, match="categories must be a list of columns' names.*got 3; drop must"):
        clone(model).set_params(categories=3, drop=None).fit(frame, y)


@pytest.mark.parametrize("named", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_an_estimator_is_kept_in_a_file(tmp_path, named):
    x, y = rows(60)
    frame = pd.DataFrame({"a": x[:, 0], "city": ["Rome", "Oslo", "Bonn"] * 20})
    table = frame if named else frame.to_numpy()
    model = DeepEnsembleRegressor(
        members=2, noise=1, hidden=(8,), epochs=3, random_state=0, categories="city"
    )
    model.set_params(categories=["city" if named else 1]).fit(table, y)
    model.save(tmp_path / "m")
    again = DeepEnsembleRegressor.load(tmp_path / "m")
    np.testing.assert_array_equal(again.predict(table), model.predict(table))
    expected = model.get_params() | {"categories": ("city" if named else "1",)}
    assert again.get_params() == expected and again.columns_ == model.columns_
    assert again.n_features_in_ == 2 and hasattr(again, "feature_names_in_") == named
    assert again.n_iter_ == model.n_iter_ and again.history_ is None
    assert again.calibration_.factor == model.calibration_.factor
    refit = clone(again).fit(table, y)
    np.testing.assert_array_equal(refit.predict(table), model.predict(table))
    with pytest.raises(ValueError, match="feature names|2 features"):
        again.predict(pd.DataFrame(x, columns=["a", "b"]) if named else np.ones((2, 3)))


def test_files_of_other_models_are_no_estimators(tmp_path):
    model_file.save(tmp_path / "m", small().fitted_._replace(settings=None))
    with pytest.raises(ValueError, match="m holds no DeepEnsembleRegressor: model_file.load"):
        DeepEnsembleRegressor.load(tmp_path / "m")
    with pytest.raises(NotFittedError):
        DeepEnsembleRegressor().save(tmp_path / "n")
    assert not (tmp_path / "n").exists()


def test_progress_is_shown_where_it_is_asked_for(capsys):
    x, y = rows(60)
    DeepEnsembleRegressor(**SMALL | {"epochs": 3, "verbose": 1}).fit(x, y)
    assert "training: at most 3 epochs" in capsys.readouterr().err
    DeepEnsembleRegressor(**SMALL | {"epochs": 3}).fit(x, y)
    assert capsys.readouterr().err == ""


def test_dates_are_no_numbers():
    x, y = rows(30)
    with pytest.raises(ValueError, match="y contains dates"):
        DeepEnsembleRegressor(**SMALL).fit(x, pd.date_range("2020", periods=30))
    with pytest.warns(UserWarning, match=r"taken as missing.*'0' \(1 row\), '1' \(1 row\)"):
        assert np.isfinite(small().predict(np.array([["2020", "2021"]], "M8[D]"))).all()
