"""Going on from a model with more rows: columns that grow, rows that stay held out."""

import copy
import functools

import jax
import numpy as np
import polars as pl
import pytest

from jaxreg import Columns, MeanVarRegressor, MixtureRegressor, PeriodicEmbedding, predict_ensemble, recipe
from jaxreg.columns import as_table, carried, fingerprints, of_scaled
from jaxreg.data import HeldOut, Scaler
from jaxreg.estimator import DeepEnsembleRegressor
from jaxreg.going_on import check_goes_on, held_out_before
from jaxreg.model import model_file

SMALL = {
    "members": 3,
    "hidden": (16,),
    "frequencies": 2,
    "frequency_scale": 0.25,
    "noise": 1,
    "epochs": 40,
    "random_state": 0,
}
FIRST, MORE = 120, 60


def table(n, levels="abcd", *, gaps=False, seed=0):
    """A table of all kinds, whose target depends on all of them."""
    rng = np.random.default_rng([seed, n])
    city, size = rng.choice(list(levels), n), rng.normal(size=n)
    day = np.datetime64("2024-01-01") + rng.integers(0, 700, n)
    grade = rng.choice(["low", "mid", "high"], n)
    y = np.sin(2 * size) + 0.2 * np.array([ord(name) - 97 for name in city]) + 0.3 * (grade == "high")
    y = 50 + 10 * (y + 0.1 * rng.normal(size=n))
    size = np.where(gaps & (rng.random(n) < 0.2), np.nan, size)
    frame = pl.DataFrame({"size": size, "city": city, "day": day, "grade": grade}, nan_to_null=True)
    return frame.with_columns(pl.col("grade").cast(pl.Enum(["low", "mid", "high"]))), y


def network(columns, kind=MeanVarRegressor, members=2, hidden=(8,)):
    """Some ensemble that takes these columns."""
    model = kind(hidden=hidden, embedding=columns.embedding(PeriodicEmbedding(2)))
    keys = jax.random.split(jax.random.key(0), members)
    return model, jax.vmap(lambda key: model.init(key, np.zeros((1, columns.width), np.float32)))(keys)


def mean(columns, model, params, rows):
    dist = predict_ensemble(model, params, columns.inputs(rows).astype(np.float32))
    return np.stack([dist.mean, dist.std])


ALPHABET = "abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("kind, hidden", [(MeanVarRegressor, (8,)), (MixtureRegressor, ())])
@pytest.mark.parametrize(
    "before, after, gaps",
    [
        pytest.param("abc", "abcde", False, id="inputs stay inputs"),
        pytest.param("abc", ALPHABET, False, id="inputs become a vector"),
        pytest.param(ALPHABET[:16], ALPHABET, False, id="a vector grows"),
        pytest.param("abc", "abc", True, id="gaps come"),
        pytest.param(ALPHABET[:16], ALPHABET, True, id="both"),
    ],
)
@pytest.mark.filterwarnings("ignore:columns with levels or gaps")
def test_a_network_predicts_what_it_knew_as_before(kind, hidden, before, after, gaps):
    old_rows, _ = table(400, before)
    new_rows, _ = table(600, after, gaps=gaps)
    old = Columns.fit(old_rows)
    new = old.grown(old.counts_of(new_rows))
    assert new != old and {kind.name for kind in new.kinds} == {kind.name for kind in old.kinds}
    assert not list(new.faults())
    model, params = network(old, kind, hidden=hidden)
    grown, model_after = carried(params, old, new), network(new, kind, hidden=hidden)[0]
    expected = jax.tree.map(np.shape, network(new, kind, hidden=hidden)[1])
    assert jax.tree.map(np.shape, grown) == expected
    found = mean(new, model_after, grown, old_rows)
    np.testing.assert_allclose(found, mean(old, model, params, old_rows), rtol=2e-5, atol=2e-5)
    # A level that is new to a learned vector begins as the rare ones were.
    if len(before) > 12:
        np.testing.assert_allclose(
            mean(new, model_after, grown, new_rows.drop_nulls()),
            mean(old, model, params, new_rows.drop_nulls()),
            rtol=2e-5,
            atol=2e-5,
        )


def test_what_grew_is_named():
    old = Columns.fit(table(300, "abc")[0])
    words = r"new: 'size' \(number: .*missing\), 'city' \(category, 5 levels: an input for each\)$"
    with pytest.warns(UserWarning, match=words):
        new = old.grown(old.counts_of(table(300, "abcde", gaps=True)[0]))
    assert new.grown(new.counts_of(table(200, "abc")[0])) == new  # nothing to say


def test_levels_that_few_rows_have_are_rare_ones():
    old = Columns.fit(table(300, "abc")[0])
    rows = table(300, "abc")[0].with_columns(city=pl.Series([*"xy", "z", "z", "z"] * 1 + ["a"] * 295))
    with pytest.warns(UserWarning, match="'city'"):
        new = old.grown(old.counts_of(rows))
    city = next(kind for kind in new.kinds if kind.name == "city")
    assert city.levels == next(kind for kind in old.kinds if kind.name == "city").levels and city.rare


@pytest.mark.parametrize("members, folds, n", [(3, 3, 30), (10, 10, 105), (7, 3, 50), (2, 5, 23)])
def test_rows_stay_held_out(members, folds, n):
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 2**63, 4 * n)
    held_out = HeldOut.drawn([5], numbers[:n], members=members, folds=folds)
    rows, left = held_out.rows(numbers[:n])
    assert rows.shape == (members, n - n // folds) and left.shape == (members, n // folds)
    for own, rest in zip(rows, left, strict=True):
        assert sorted({*own, *rest}) == list(range(n))
    if members >= folds:  # the folds of a turn have no row in common
        assert len(np.unique(left[:folds])) == folds * (n // folds)
    order = rng.permutation(4 * n)
    all_rows, all_left = HeldOut.of(held_out._asdict()).rows(numbers[order])
    for i in range(members):
        before, after = set(numbers[:n][left[i]]), set(numbers[order][all_left[i][all_left[i] >= 0]])
        assert before <= after and not after & set(numbers[order][all_rows[i]])
        assert after & set(numbers[:n]) == before
        assert len({*all_rows[i], *all_left[i]} - {-1}) == 4 * n
        assert 0.5 < len(after) * folds / (4 * n) < 2


def test_too_few_rows_to_hold_some_out():
    """All in one member's fold, or none in another's: nobody asks for rows that aren't there."""
    numbers = np.arange(40)
    held_out = HeldOut.drawn([0], numbers, members=4, folds=4)
    settings = {"held_out": held_out._asdict()}
    start = of_60_rows().fitted_._replace(settings=settings)
    assert held_out_before(start, numbers, 2) == held_out
    of_one = numbers[held_out.are_left(numbers)[0]]
    assert held_out_before(start, of_one, 2) is None
    assert held_out_before(start._replace(settings={}), numbers, 2) is None


def test_fingerprints_are_of_values_alone():
    rows, y = table(500, gaps=True)
    found = fingerprints([*as_table(rows), y])
    assert len(np.unique(found)) == 500
    order = np.random.default_rng(1).permutation(500)
    np.testing.assert_array_equal(fingerprints([*as_table(rows[order]), y[order]]), found[order])
    # Of equal rows the first is the first, whatever stands between them.
    twice = fingerprints([*as_table(pl.concat([rows, rows])), np.r_[y, y]])
    np.testing.assert_array_equal(twice[:500], found)
    assert len(np.unique(twice)) == 1000


@pytest.mark.parametrize("unit, offset", [(1e-30, 0.0), (1e6, 1e6), (3.0, -7.0)])
def test_fingerprints_do_not_see_units(unit, offset):
    rows, y = table(500, gaps=True)

    def of(rows, y):
        columns = Columns.fit(rows)
        return of_scaled(columns, as_table(rows), columns.transform(rows), Scaler.fit(y).transform(y))

    other = rows.with_columns(pl.col("size") * unit + offset)
    np.testing.assert_array_equal(of(rows, y), of(other, unit * y + offset))


def test_fingerprints_do_not_see_how_a_table_was_read(tmp_path):
    """One word among numbers, an empty column, dates as text: the other rows are still found."""
    rows, _ = table(200)
    rows = rows.with_columns(empty=pl.lit(None, pl.Float64))
    found = fingerprints(as_table(rows))
    text = rows.with_columns(pl.col("size").cast(pl.String), pl.col("day").cast(pl.String), empty=pl.lit(""))
    text = text.with_columns(size=pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("A1")).otherwise("size"))
    again = fingerprints(as_table(text))
    assert (found == again).sum() == 199 and found[7] != again[7]
    rows.write_csv(tmp_path / "rows.csv")
    np.testing.assert_array_equal(fingerprints(as_table(pl.read_csv(tmp_path / "rows.csv"))), found)


@functools.cache
def _of_60_rows():
    return DeepEnsembleRegressor(**SMALL | {"epochs": 1}).partial_fit(*table(60))


def of_60_rows():
    """An estimator of its own that saw `table(60)`."""
    return copy.deepcopy(_of_60_rows())


def parts_of(frame, y, count):
    return [(frame[own.tolist()], y[own]) for own in np.array_split(np.arange(len(y)), count)]


@functools.cache
def in_two_parts():
    """An estimator that saw two parts, and what its members trained on and held out each time."""
    seen, fit_ensemble = [], recipe.fit_ensemble

    def spied(key, trainer, data, **settings):
        seen.append((data, settings["rows"], settings["validation_rows"], settings["states"]))
        return fit_ensemble(key, trainer, data, **settings)

    recipe.fit_ensemble = spied
    try:
        model = DeepEnsembleRegressor(**SMALL).partial_fit(*table(FIRST, "abc"))
        first = model.fitted_
        with pytest.warns(UserWarning, match="new: 'size' .*, 'city'"):
            model.partial_fit(*table(MORE, "abcdef", gaps=True))
    finally:
        recipe.fit_ensemble = fit_ensemble
    return model, first, seen


def test_a_second_part_goes_on():
    model, first, seen = in_two_parts()
    (before, rows, left, _), (after, all_rows, all_left, states) = seen
    assert len(after[0]) == FIRST + MORE == len(model.rows_.y)
    for i in range(SMALL["members"]):
        assert set(left[i]) == {row for row in all_left[i] if 0 <= row < FIRST}
        assert set(rows[i]) == {row for row in all_rows[i] if row < FIRST}
    # Scales stay, and networks begin as those that there were.
    numbers = first.x_scaler.numbers
    np.testing.assert_array_equal(before[0][:, :numbers], after[0][:FIRST, :numbers])
    np.testing.assert_array_equal(before[1], after[1][:FIRST])
    was, now = (tree["params"]["hidden_0"]["bias"] for tree in (first.params, states.params))
    np.testing.assert_array_equal(was, now)
    assert model.fitted_.y_scaler == first.y_scaler
    assert model.fitted_.settings["rows"] == FIRST + MORE and model.fitted_.settings["began_with"] == FIRST


def test_a_model_that_went_on_is_kept_whole(tmp_path):
    model, _, _ = in_two_parts()
    model.save(tmp_path / "model")
    again = DeepEnsembleRegressor.load(tmp_path / "model")
    rows, y = table(50, "abcdef")
    np.testing.assert_array_equal(again.predict(rows), model.predict(rows))
    with pytest.warns(UserWarning, match="the 180 rows that the model was trained on weren't kept"):
        again.set_params(epochs=2).partial_fit(rows, y)
    assert again.fitted_.settings["rows"] == 50


@pytest.mark.filterwarnings("ignore:columns with levels or gaps")
@pytest.mark.slow
def test_twice_the_rows_begin_anew():
    parts = [table(n, "abcdef", seed=n) for n in (100, 60, 50)]
    model = DeepEnsembleRegressor(**SMALL | {"epochs": 3})
    began = [model.partial_fit(*part).fitted_.settings["began_with"] for part in parts]
    assert began == [100, 100, 210]
    whole = DeepEnsembleRegressor(**SMALL | {"epochs": 3}).fit(
        pl.concat([x for x, _ in parts]), np.concatenate([y for _, y in parts])
    )
    np.testing.assert_array_equal(model.predict(parts[0][0]), whole.predict(parts[0][0]))


@pytest.mark.longest
@pytest.mark.filterwarnings("ignore:columns with levels or gaps")
def test_ten_parts_are_as_good_as_all():
    x, y = table(600, "abcdef", gaps=True)
    unseen, truth = table(2000, "abcdef", gaps=True, seed=1)
    settings = {"members": 2, "hidden": (32, 32), "noise": 1, "frequency_scale": 0.25, "random_state": 0}
    settings |= {"epochs": 60}
    model = DeepEnsembleRegressor(**settings)
    for part in parts_of(x, y, 10):
        model.partial_fit(*part)
    whole = DeepEnsembleRegressor(**settings).fit(x, y)
    scores = [each.predict_dist(unseen).crps(truth).mean() for each in (model, whole)]
    assert scores[0] < 1.05 * scores[1], scores


def test_warm_start_goes_on_with_the_rows_it_is_given():
    x, y = table(150)
    model = DeepEnsembleRegressor(**SMALL, warm_start=True).fit(x, y)
    first = model.history_
    order = np.random.default_rng(0).permutation(150)
    model.fit(x[order.tolist()], y[order])  # any order, and the same rows stay held out
    assert (model.history_.loss[:, 0] < first.loss[:, 0] - 0.5).all()
    assert len(model.rows_.y) == 150
    assert model.fitted_.settings["held_out"] is not None
    cold = DeepEnsembleRegressor(**SMALL).fit(x, y)
    np.testing.assert_array_equal(cold.history_.loss, first.loss)
    assert cold.rows_ is None
    np.testing.assert_array_equal(cold.fit(x, y).history_.loss, first.loss)


def test_what_does_not_belong_to_the_model_is_named():
    (x, y), model = table(60), of_60_rows()
    kept, rows = model.fitted_, model.rows_
    with pytest.raises(ValueError, match="unseen at fit time:\n- town\n.*now missing:\n- city"):
        model.partial_fit(x.rename({"city": "town"}), y)
    with pytest.raises(ValueError, match=r"y has shape \(60, 2\), the model has one target, y of"):
        model.partial_fit(x, np.stack([y, y], 1))
    with pytest.raises(ValueError, match="column 'day': times in some rows, something else in others"):
        model.partial_fit(x.with_columns(day=pl.lit("soon")), y)
    settings = {"hidden": (8, 8), "members": 5}
    model.set_params(**settings)
    words = r"members is 5, the model has 3; hidden is \(8, 8\), the model has \(16,\): leave that"
    with pytest.raises(ValueError, match=words):
        model.partial_fit(x, y)
    assert model.fitted_ is kept and model.rows_ is rows
    with pytest.raises(ValueError, match="warm_start must be True or False, got 'yes'"):
        model.set_params(warm_start="yes").fit(x, y)
    numbers = DeepEnsembleRegressor(**SMALL | {"epochs": 1}).partial_fit(np.eye(60)[:, :3], y)
    with pytest.raises(ValueError, match="X has 2 features, but DeepEnsembleRegressor is expecting 3"):
        numbers.partial_fit(np.eye(60)[:, :2], y)


def test_few_rows_may_come():
    (x, y), model = table(60), of_60_rows()
    model.partial_fit(x[:1], y[:1])
    assert model.rows_.table.height == 61
    weighted = model.partial_fit(x[:2], y[:2], sample_weight=[1.0, 0.5])
    np.testing.assert_array_equal(weighted.rows_.weight, [*np.ones(62), 0.5])


@pytest.mark.slow
def test_the_rows_of_others_are_none_of_those_held_out():
    x, y = table(80)
    model = DeepEnsembleRegressor(**SMALL | {"epochs": 1}).fit(x, y)
    model.fitted_ = model.fitted_._replace(settings=model.fitted_.settings | {"held_out": None})
    with (
        pytest.warns(UserWarning, match="weren't kept"),
        pytest.warns(UserWarning, match="members hold out other rows than they did"),
    ):
        model.partial_fit(x, y)


def test_a_file_keeps_what_is_held_out(tmp_path):
    x, y = table(80)
    model = DeepEnsembleRegressor(**SMALL | {"epochs": 1}).fit(x, y)
    model.save(tmp_path / "model")
    kept = HeldOut.of(model_file.load(tmp_path / "model").settings["held_out"])
    assert kept._asdict() == model.fitted_.settings["held_out"]
    scaled = model.columns_.transform(x), model.fitted_.y_scaler.transform(y)
    _, left = kept.rows(of_scaled(model.columns_, as_table(x), *scaled))
    assert left.shape == (3, 8) and left.min() >= 0


def test_what_was_learned_stays_where_training_fails(monkeypatch):
    (x, y), model = table(60), of_60_rows()
    before = dict(vars(model))
    monkeypatch.setattr(recipe, "fit_ensemble", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="'city'"):
        model.partial_fit(*table(59, "abcdef", seed=1))
    assert vars(model) == before
    monkeypatch.undo()
    with pytest.raises(ValueError, match="targets of up to .*e.* are too far from those of the model"):
        model.partial_fit(x[:9], y[:9] * 1e40)
    assert vars(model) == before


def test_the_callers_arrays_may_change():
    x, y = table(60)
    weight, kept = np.ones(60), y.copy()
    model = DeepEnsembleRegressor(**SMALL | {"epochs": 1}).partial_fit(x, y, sample_weight=weight)
    y[:], weight[:] = 0, 0
    np.testing.assert_array_equal(model.rows_.y, kept)
    np.testing.assert_array_equal(model.rows_.weight, np.ones(60))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"validation_fraction": 0.5}, "validation_fraction is 0.5, the model has 0.1"),
        ({"categories": ["size"]}, r"categories is \['size'\], the model has \(\)"),
        ({"drop": ["zz"]}, r"drop is \['zz'\], the model has \(\)"),
    ],
)
def test_settings_that_a_model_keeps(change, words):
    (x, y), model = table(60), of_60_rows().set_params(**change)
    with pytest.raises(ValueError, match=words):
        model.partial_fit(x, y)


@pytest.mark.slow
def test_targets_keep_their_order():
    x, y = table(60)
    model = DeepEnsembleRegressor(**SMALL | {"epochs": 1})
    targets = pl.DataFrame({"a": y, "b": -y})
    model.partial_fit(x, targets).partial_fit(x[:5], targets[:5])
    with pytest.raises(ValueError, match="y has columns 'b', 'a', the model's targets are columns"):
        model.partial_fit(x, targets[["b", "a"]])


@pytest.mark.filterwarnings("ignore:columns taken otherwise")
def test_columns_that_told_nothing_once_are_named():
    x, y = table(60)
    x = x.with_columns(same=pl.lit(1.0))
    model = DeepEnsembleRegressor(**SMALL | {"epochs": 1}).partial_fit(x, y)
    with pytest.warns(UserWarning, match=r"left out still, as of the first rows: 'same' \(constant\); a new"):
        model.partial_fit(x[:20].with_columns(same=pl.int_range(20).cast(pl.Float64)), y[:20])


@pytest.mark.slow
def test_names_that_come_or_go_are_named():
    x, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60.0)
    model = DeepEnsembleRegressor(**SMALL | {"epochs": 1}).partial_fit(x, y)
    with (
        pytest.raises(ValueError, match="the rows have columns 'a', 'b', those before had columns"),
        pytest.warns(UserWarning, match="has feature names, but"),
    ):
        model.partial_fit(pl.DataFrame(x, ["a", "b"]), y)


@pytest.mark.slow
def test_bounds_are_those_of_all_rows():
    x, y = table(60)
    model = DeepEnsembleRegressor(**SMALL | {"epochs": 1, "bounds": "auto"}, warm_start=True)
    assert model.fit(x, y - 50).bounds_ is None
    model.fit(x, np.abs(y))  # positive ones after negative ones
    assert model.bounds_ is None
    positive = DeepEnsembleRegressor(**SMALL | {"epochs": 1, "bounds": "auto"}, warm_start=True).fit(
        x, np.abs(y)
    )
    assert positive.bounds_ == (0, np.inf)
    with pytest.warns(UserWarning, match=r"bounds were \(0.0, inf\) and are None now"):
        positive.fit(x, y - 50)


@pytest.mark.filterwarnings("ignore:.*weren't kept", "ignore:there are fewer rows")
@pytest.mark.slow
def test_a_model_without_its_rows_never_begins_anew(tmp_path):
    x, y = table(60)
    model = DeepEnsembleRegressor(**SMALL | {"epochs": 1}).fit(x, y)
    model.save(tmp_path / "m")
    again = DeepEnsembleRegressor.load(tmp_path / "m").partial_fit(*table(60)).partial_fit(*table(60, seed=2))
    assert again.fitted_.settings["began_with"] is None
    again.fitted_.settings.pop("began_with")  # as of an older version
    again.partial_fit(x[:5], y[:5])
    warm = model.set_params(warm_start=True)
    with pytest.warns(UserWarning, match="fewer rows than the 60 that the model was trained on"):
        warm.fit(x[:40], y[:40])


@pytest.mark.parametrize(
    "asked, there",
    [
        ({"categories": [1]}, {"categories": ["1"]}),
        ({"drop": "city"}, {"drop": ["city"]}),
        ({"hidden": 16, "frequency_scale": np.float32(0.25)}, {}),
        ({"noise": 4}, {"noise": None}),  # a file of an older version doesn't have it
    ],
)
def test_settings_are_compared_as_a_file_has_them(asked, there):
    model = of_60_rows()
    settings = {name: value for name, value in (model.fitted_.settings | there).items() if value is not None}
    check_goes_on(model.set_params(**asked), model.fitted_._replace(settings=settings))
