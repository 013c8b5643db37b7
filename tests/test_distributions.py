"""What holds for every prediction: protocol, rows, repr, and that it is a NamedTuple all the same."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg import Affine, Distribution, Gaussian, GaussianMixture, Prediction, isotonic, metrics
from jaxreg.calibration import ConformalQuantiles, JackknifePlus, SplitConformal

N = 40
LEVELS = np.array([0.2, 0.7])


def gaussian(shape, xp=jnp):
    rng = np.random.default_rng(0)
    return Gaussian(*(xp.asarray(a, np.float32) for a in rng.normal(size=(2, *shape))))


def mixture(shape, xp=jnp):
    rng = np.random.default_rng(1)
    means, log_vars = (xp.asarray(a, np.float32) for a in rng.normal(size=(2, 3, *shape)))
    return GaussianMixture(means, log_vars, xp.asarray([1.0, 2.0, 0.5]))


def affine(shape):
    units = np.arange(1.0, 1 + len(shape[1:] and range(shape[1]))) if shape[1:] else 2.0
    return Affine(mixture(shape), 10 * np.asarray(units), np.asarray(units))


def targets(dist):
    return np.random.default_rng(2).normal(size=np.shape(dist.mean)) * 2 + np.asarray(dist.mean)


def jackknife(shape):
    dist = mixture(shape)
    held_out = np.arange(3)[:, None] == np.arange(len(dist.mean)) % 3
    return JackknifePlus.fit(dist, targets(dist), held_out)(dist)


DENSITIES = {
    "Gaussian": gaussian,
    "Gaussian of NumPy": lambda shape: gaussian(shape, np),
    "GaussianMixture": mixture,
    "GaussianMixture of NumPy": lambda shape: mixture(shape, np),
    "Affine": affine,
    "Affine of a Gaussian": lambda shape: Affine(gaussian(shape), 1.0, 3.0),
    "Recalibrated": lambda shape: isotonic.fit(affine(shape), targets(affine(shape)))(affine(shape)),
}
CONFORMAL = {
    "split": lambda shape: SplitConformal.fit(affine(shape), targets(affine(shape)))(affine(shape)),
    "quantiles": lambda shape: ConformalQuantiles.fit(affine(shape), targets(affine(shape)))(affine(shape)),
    "jackknife+": jackknife,
}
ALL = DENSITIES | CONFORMAL
SHAPES = [(N,), (N, 2)]
MASK = np.arange(N) % 3 == 1
ROWS = {
    "number": 5,
    "last": -1,
    "slice": slice(3),
    "steps": slice(None, None, -7),
    "none": slice(0),
    "mask": MASK,
    "JAX mask": jnp.asarray(MASK),
    "list": [7, 1, 1],
    "NumPy number": np.int64(3),
}


LONG = (
    "Gaussian",
    "Gaussian of NumPy",
    "GaussianMixture",
    "GaussianMixture of NumPy",
    "Affine",
    "Recalibrated",
)


@pytest.mark.parametrize(
    "shape", [SHAPES[0], *(pytest.param(s, marks=pytest.mark.slow) for s in SHAPES[1:])], ids=str
)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in ALL],
)
def test_what_is_asked_of_rows_is_the_rows_of_what_is_asked(name, shape):
    dist = ALL[name](shape)
    y, whole = targets(dist), {}
    for method in ("log_prob", "cdf", "pit", "crps", "log_cdf") if name in DENSITIES else ():
        if hasattr(dist, method):
            whole[method] = np.asarray(getattr(dist, method)(y))
    for kind, rows in ROWS.items():
        some, at = dist[rows], np.asarray(rows) if isinstance(rows, jax.Array) else rows
        assert type(some) is type(dist)
        for part in ("mean", "std", "aleatoric", "epistemic"):
            expected = np.asarray(getattr(dist, part))[at]
            assert getattr(some, part).shape == expected.shape, (kind, part)
            np.testing.assert_allclose(getattr(some, part), expected, rtol=1e-5, atol=1e-6)
        for method, values in whole.items():
            np.testing.assert_allclose(getattr(some, method)(y[at]), values[at], rtol=1e-4, atol=1e-5)
        if not np.size(some.mean):
            continue
        for of_some, of_all in [
            (some.quantile(LEVELS), dist.quantile(LEVELS)),
            *zip(some.interval(LEVELS), dist.interval(LEVELS), strict=True),
        ]:
            of_all = np.moveaxis(np.asarray(of_all), 0, 1)[at]  # rows first
            of_some = (
                of_some if np.ndim(rows) == 0 and not isinstance(rows, slice) else np.swapaxes(of_some, 0, 1)
            )
            np.testing.assert_allclose(of_some, of_all, rtol=1e-4, atol=1e-5)
        if len(shape) == 2 and np.ndim(some.mean) == 2:
            np.testing.assert_allclose(some.output(1).mean, dist.output(1)[rows].mean, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_the_protocols(name):
    dist = ALL[name]((N,))
    assert isinstance(dist, Prediction) and isinstance(dist, Distribution) == (name in DENSITIES)
    assert not isinstance((dist.mean, dist.std), Prediction)
    scores = metrics.evaluate(dist, targets(dist), level=0.9)
    assert {"rmse", "coverage", "sharpness"} <= {*scores}
    assert ("nll" in scores) == (name in DENSITIES) and ("crps" in scores) == hasattr(dist, "crps")


@pytest.mark.parametrize("name", DENSITIES)
def test_isinstance_computes_nothing(name, monkeypatch):
    dist = DENSITIES[name]((N,))
    for kind in (Gaussian, GaussianMixture, Affine):
        monkeypatch.setattr(kind, "std", property(lambda self: pytest.fail("computed")))
    assert isinstance(dist, Distribution)


@pytest.mark.parametrize("name", ALL)
def test_a_row_that_is_not_there(name):
    dist = ALL[name]((N, 2))
    for rows in (N, -N - 1, [0, N], MASK[1:]):
        with pytest.raises(IndexError, match="out of bounds|boolean"):
            dist[rows]
    for rows in ((slice(None), 0), (0,), None, True, np.zeros((2, 2), int), np.ones((N, 2), bool)):
        with pytest.raises(IndexError, match="rows are selected by|too many indices"):
            dist[rows]
    with pytest.raises(IndexError, match=r"over \(\) has no rows"):
        dist.output(0)[3][0]


@pytest.mark.parametrize("name", ALL)
def test_a_prediction_is_a_named_tuple_still(name):
    dist = ALL[name]((N,))
    fields = tuple(dist)
    assert len(fields) == len(dist._fields) and all(
        getattr(dist, field) is value for field, value in zip(dist._fields, fields, strict=True)
    )
    first, *rest = dist
    for same in (
        type(dist)(*dist),
        type(dist)(first, *rest),
        dist._replace(**{dist._fields[0]: first}),
        jax.tree.map(lambda leaf: leaf, dist),
        pickle.loads(pickle.dumps(dist)),
        copy.deepcopy(dist),
    ):
        assert type(same) is type(dist)
        np.testing.assert_array_equal(same.mean, dist.mean)


@pytest.mark.parametrize("name", ["Gaussian", "GaussianMixture"])
def test_rows_under_transforms(name):
    dist, y = DENSITIES[name]((N,)), jnp.ones(N)
    expected = np.asarray(dist.cdf(y))
    np.testing.assert_allclose(jax.jit(lambda d: d[3:9].cdf(y[3:9]))(dist), expected[3:9], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda d, i: d[i].cdf(y[i]))(dist, 4), expected[4], rtol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(lambda i: dist[i].cdf(y[i]))(jnp.arange(N)), expected, rtol=1e-5, atol=1e-7
    )
    slope = jax.grad(lambda d: d[MASK].log_prob(y[MASK]).sum())(dist)
    assert type(slope) is type(dist)
    assert (np.any(np.atleast_2d(np.asarray(tuple(slope)[0])), axis=0) == MASK).all()


@pytest.mark.parametrize("shape", [*SHAPES, (0,)], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_a_repr_is_one_line(name, shape):
    if 0 in shape and name not in ("Gaussian", "GaussianMixture", "Affine"):
        return
    dist = ALL[name](shape)
    text = repr(dist)
    assert "\n" not in text and len(text) < 180 and str(shape)[1:-1].rstrip(",") in text
    assert text.startswith(type(dist).__name__ + "(")


def test_what_a_repr_says():
    dist = Gaussian(jnp.array([-1.0, 3.0]), jnp.log(jnp.array([0.25, 4.0])))
    assert repr(dist) == "Gaussian(mean (2,) -1 to 3, std (2,) 0.5 to 2)"
    assert repr(dist[1]) == "Gaussian(mean 3, std 2)"
    assert repr(Affine(dist, 1.7e9, np.ones(1))) == (
        "Affine(Gaussian(mean (2,) -1 to 3, std (2,) 0.5 to 2), loc 1.7e+09, scale (1,) 1)"
    )
    conformal = SplitConformal.fit(dist, [0.0, 1.0])(dist[1])
    assert repr(conformal) == "Conformal(Gaussian(mean 3, std 2), SplitConformal)"


def test_a_repr_of_what_has_no_numbers_to_show():
    texts = []

    def traced(dist):
        texts.append(repr(dist))
        return dist.std

    jax.jit(jax.vmap(traced))(Gaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3))))
    jax.jit(lambda dist: texts.append(repr(Affine(dist, 0.0, 1.0))))(mixture((3,)))
    assert texts == [
        "Gaussian(mean (3,), std (3,))",
        "Affine(GaussianMixture(means (3, 3), stds (3, 3)), loc 0, scale 1)",
    ]
    lost = gaussian((3,))
    lost.mean.delete()
    huge, unknown = Gaussian(np.array([np.nan]), np.array([1e9])), Gaussian(None, "of a kind")
    assert repr(lost).startswith("Gaussian(mean (3,), std (3,) ")
    assert (repr(huge), repr(unknown)) == (
        "Gaussian(mean (1,) nan, std (1,) inf)",
        "Gaussian(mean nan, std ?)",
    )
    assert repr(jax.tree.map(np.shape, lost)).startswith("Gaussian(mean ")
