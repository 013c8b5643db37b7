"""Coverage by groups of rows and in slabs of features, and conformal intervals for each group."""

import jax
import numpy as np
import pandas as pd
import pytest
from mapie.regression import SplitConformalRegressor
from scipy.stats import betabinom
from sklearn.base import BaseEstimator, RegressorMixin

from jaxreg import Gaussian, metrics
from jaxreg.calibration import MondrianConformal, SplitConformal
from jaxreg.metrics.groups import _lowest_means


@pytest.fixture(autouse=True)
def wide(x64):
    pass


class Known(RegressorMixin, BaseEstimator):
    """Predicts its feature."""

    def fit(self, x, y):
        self.fitted_ = True
        return self

    def predict(self, x):
        return x[:, 0]


def rows(n, seed=0):
    """A prediction whose std is half of what it should be in one of three towns."""
    rng = np.random.default_rng(seed)
    mean, std, town = rng.normal(size=n), rng.uniform(0.5, 2, n), rng.choice(["Bonn", "Oslo", "Rome"], n)
    y = mean + np.where(town == "Rome", 2, 1) * std * rng.normal(size=n)
    return Gaussian(mean, 2 * np.log(std)), y, town


def test_coverage_of_each_group_is_that_of_its_rows():
    prediction, y, town = rows(300)
    weight = np.random.default_rng(1).uniform(size=300)
    for sample_weight in (None, weight):
        found = metrics.coverage_by(prediction, y, town, 0.8, sample_weight=sample_weight)
        assert found.names == ("Bonn", "Oslo", "Rome")
        for i, name in enumerate(found.names):
            own = town == name
            alone = prediction[own], y[own]
            given = {"sample_weight": None if sample_weight is None else weight[own]}
            below, above = metrics.outside(*alone, 0.8, **given)
            expected = metrics.coverage(*alone, 0.8, **given), below, above
            np.testing.assert_allclose([part[i] for part in found[2:5]], expected, rtol=1e-12)
            np.testing.assert_allclose(found.width[i], metrics.width(alone[0], 0.8, **given), rtol=1e-12)
    assert metrics.evaluate(prediction, y, groups=town)["groups"].names == found.names


def test_fifths_hold_a_fifth_each():
    prediction, y, _ = rows(1000)
    for what in ("std", "mean"):
        found = metrics.coverage_by(prediction, y, what)
        np.testing.assert_array_equal(found.rows, 200)
        values = np.asarray(getattr(prediction, what))
        edge = np.sort(values)[199]
        assert found.names[0] == f"{what} at most {edge:.4g}"
        own = values <= edge
        np.testing.assert_allclose(found.coverage[0], metrics.coverage(prediction[own], y[own]), rtol=1e-12)
    tied = Gaussian(np.zeros(50), np.repeat([0.0, 1.0], 25))
    np.testing.assert_array_equal(metrics.coverage_by(tied, np.zeros(50)).rows, 25)
    same = Gaussian(np.zeros(50), np.zeros(50))
    assert metrics.coverage_by(same, np.zeros(50)).names == ("any std",)


@pytest.mark.parametrize("gap", [None, np.nan])
def test_gaps_are_a_group(gap):
    prediction = Gaussian(np.zeros(3), np.zeros(3))
    found = metrics.coverage_by(prediction, np.zeros(3), np.array([1, gap, 1], object))
    assert found.names == ("1", "missing") and found.rows.tolist() == [2, 1]


def test_mondrian_intervals_are_those_of_split_conformal_in_each_group():
    (held_out, y, town), (new, _, others) = rows(600), rows(200, seed=1)
    found = MondrianConformal.fit(held_out, y, town)(new, others)
    for name in np.unique(town):
        own, theirs = town == name, others == name
        expected = SplitConformal.fit(held_out[own], y[own])(new[theirs])
        for level in (0.5, 0.9):
            for ours, end in zip(found[theirs].interval(level), expected.interval(level), strict=True):
                np.testing.assert_allclose(ours, end, rtol=1e-12)
            whole = np.stack(found.interval(level))[:, theirs]
            np.testing.assert_array_equal(whole, np.stack(found[theirs].interval(level)))
    assert found[3].interval(0.9)[0].shape == ()
    assert found.quantile([0.1, 0.5]).shape == (2, 200)


def test_mondrian_intervals_against_mapie():
    (held_out, y, town), (new, _, others) = rows(600), rows(200, seed=1)
    held_out, new = (each._replace(log_var=np.zeros(len(each.mean))) for each in (held_out, new))
    lower, upper = MondrianConformal.fit(held_out, y, town)(new, others).interval(0.9)
    for name in np.unique(town):
        own, theirs = town == name, others == name
        mapie = SplitConformalRegressor(Known().fit(None, None), confidence_level=0.9)
        mapie.conformalize(np.asarray(held_out.mean)[own, None], y[own])
        _, expected = mapie.predict_interval(np.asarray(new.mean)[theirs, None])
        ours = np.stack([lower[theirs], upper[theirs]], axis=1)
        np.testing.assert_allclose(ours, expected[:, :, 0], rtol=1e-10)


@pytest.mark.parametrize("by_std", [False, True])
def test_each_group_is_covered_as_promised(by_std):
    sets, n, new, level = 2000, 60, 10, 0.8
    inside, of_group = np.zeros(5), np.zeros(5)
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(5), n // 5)
    std = 1.0 + group  # the groups are the fifths of the predicted std
    labels = None if by_std else group
    now = np.repeat(np.arange(5), new // 5)
    held_out, prediction = (Gaussian(np.zeros(len(a)), 2 * np.log(1.0 + a)) for a in (group, now))
    for _ in range(sets):
        y = std * (1 + group) * rng.normal(size=n)
        lower, upper = MondrianConformal.fit(held_out, y, labels)(
            prediction, None if by_std else now
        ).interval(level)
        fresh = (1.0 + now) ** 2 * rng.normal(size=new)
        inside += np.bincount(now, (fresh >= lower) & (fresh <= upper))
        of_group += np.bincount(now)
    # Of two new values of each set the number inside is beta-binomial.
    k = n // 5
    rank = int(np.ceil(level * (k + 1)))
    expected = betabinom(2, rank, k + 1 - rank)
    off = (inside / sets - expected.mean()) / (expected.std() / np.sqrt(sets))
    assert np.abs(off).max() < 4, off
    assert level <= expected.mean() / 2 <= level + 1 / (k + 1)


def test_the_worst_slab_is_found():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3))
    missed = x[:, 0] + x[:, 1] > 1.5  # a seventh of the rows
    y = np.where(missed, 9.0, rng.normal(size=4000))
    prediction = Gaussian(np.zeros(4000), np.zeros(4000))
    slab = metrics.worst_slab(prediction, y, x * [1, 100, 1], 0.9, share=0.1)
    assert slab.coverage < 0.35 and abs(slab.direction[:2]).min() > 0.4 and abs(slab.direction[2]) < 0.4
    assert 0.05 < slab.rows / 2000 < 0.3
    right = metrics.worst_slab(prediction, rng.normal(size=4000), x, 0.9)
    assert 0.8 < right.coverage < 0.97  # scored on other rows than it was found on


def test_the_lowest_mean_of_neighbours_is_that_of_all_tried_one_by_one():
    values = (np.random.default_rng(0).uniform(size=(40, 30)) < 0.7).astype(float)
    for fewest in (1, 5, 17, 40):
        means, begins, ends = _lowest_means(values, fewest)
        for column, mean, begin, end in zip(values.T, means, begins, ends, strict=True):
            every = [column[i:j].mean() for i in range(40) for j in range(i + fewest, 41)]
            np.testing.assert_allclose(mean, min(every), atol=1e-6)
            np.testing.assert_allclose(column[begin:end].mean(), mean, atol=1e-12)


TWO = Gaussian(np.zeros((30, 2)), np.zeros((30, 2)))
ONE = Gaussian(np.zeros(30), np.zeros(30))
Y = np.zeros(30)
WRONG = {
    "several outputs": (
        lambda: metrics.coverage_by(TWO, np.zeros((30, 2))),
        r"over \(30, 2\): take prediction.out",
    ),
    "few labels": (lambda: metrics.coverage_by(ONE, Y, ["a"]), "a label for each of 30 rows"),
    "a word": (lambda: metrics.coverage_by(ONE, Y, "town"), "'std' or 'mean', got 'town'"),
    "a level": (lambda: metrics.coverage_by(ONE, Y, "std", 1.5), "level must lie"),
    "another group": (
        lambda: MondrianConformal.fit(ONE, Y, ["a", "b"] * 15)(ONE, ["a", "c"] * 15),
        r"no held-out row had the group 'c': MondrianConformal\('a', 'b'\)",
    ),
    "few rows of a group": (
        lambda: MondrianConformal.fit(ONE, Y, ["a"] * 29 + ["b"])(ONE, ["a", "b"] * 15).interval(0.9),
        "the group 'b': an interval of level 0.9 needs at least 9 held-out rows, there are 1",
    ),
    "no labels": (lambda: MondrianConformal.fit(ONE, Y, ["a"] * 30)(ONE), "fitted with a label of each row"),
    "labels": (lambda: MondrianConformal.fit(ONE, Y)(ONE, ["a"] * 30), "fitted by the predicted std"),
    "other features": (lambda: metrics.worst_slab(ONE, Y, np.zeros((9, 2))), r"expected \(30, features\)"),
    "gaps": (lambda: metrics.worst_slab(ONE, Y, np.full((30, 1), np.nan)), "finite numbers"),
    "text": (lambda: metrics.worst_slab(ONE, Y, [["a"]] * 30), "x holds what is no number"),
    "a word for labels": (lambda: MondrianConformal.fit(ONE, Y, "std"), "leave them out for fifths"),
    "few rows": (lambda: metrics.worst_slab(ONE[:4], Y[:4], Y[:4, None]), "4 rows are too few"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_refused(what):
    call, words = WRONG[what]
    with pytest.raises(ValueError, match=words):
        call()


def test_a_group_that_weighs_nothing_has_no_coverage():
    found = metrics.coverage_by(ONE, Y, ["a", "b"] * 15, sample_weight=[1.0, 0.0] * 15)
    assert found.coverage[0] == 1 and np.isnan(found.coverage[1])
    assert not isinstance(found.rows, jax.Array)


def test_groups_stand_in_the_order_of_their_numbers():
    labels = ["2024-01-28", "2024-01-03", "2024-02-01"] * 10
    assert metrics.coverage_by(ONE, Y, labels).names == ("2024-01-03", "2024-01-28", "2024-02-01")
    assert metrics.coverage_by(ONE, Y, ["10", "9", "-3"] * 10).names == ("-3", "9", "10")
    assert metrics.coverage_by(ONE, Y, pd.Series(["a", pd.NA] * 15, dtype="string")).names == ("a", "missing")
    assert metrics.coverage_by(ONE, Y, [1.0, 2.0] * 15).names == ("1", "2")
