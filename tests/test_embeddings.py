import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreg import MeanVarRegressor, PeriodicEmbedding
from jaxreg.networks.embeddings import sin_cos

TURNS = np.concatenate([np.random.default_rng(0).uniform(-30, 30, 10_000), np.arange(-20, 21) / 4])


@pytest.mark.parametrize(("wide", "tolerance"), [(False, 1e-6), (True, 1e-14)])
def test_sine_and_cosine_of_turns(wide, tolerance):
    with jax.enable_x64(wide):
        turns = jnp.asarray(TURNS)
        angle = 2 * np.pi * (np.asarray(turns, np.float64) % 1)
        for found, expected in zip(sin_cos(turns), (np.sin(angle), np.cos(angle)), strict=True):
            assert found.dtype == turns.dtype
            np.testing.assert_allclose(found, expected, atol=tolerance)


def test_derivatives_of_every_order(x64):
    turns = jnp.asarray(TURNS[:50])

    def first(u):
        return sin_cos(u)[0]

    second = jax.vmap(jax.grad(jax.grad(first)))(turns)
    np.testing.assert_allclose(second, -((2 * np.pi) ** 2) * np.sin(2 * np.pi * turns), atol=1e-10)
    np.testing.assert_allclose(jax.jacfwd(first)(turns[0]), 2 * np.pi * np.cos(2 * np.pi * turns[0]))


def test_an_embedding_holds_the_features_and_their_waves():
    x = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)
    embedding = PeriodicEmbedding(frequencies=4, scales=(0.1, 10.0))
    params = embedding.init(jax.random.key(0), x)
    frequency = np.asarray(params["params"]["frequency"])
    angle = 2 * np.pi * x[:, :, None].astype(float) * frequency
    embedded = [part.reshape(7, 12) for part in (np.sin(angle), np.cos(angle))]
    np.testing.assert_allclose(embedding.apply(params, x), np.concatenate([x, *embedded], 1), atol=1e-5)


def test_frequencies_start_at_several_scales():
    many = PeriodicEmbedding(frequencies=3, scales=(0.1, 10.0))
    params = many.init(jax.random.key(0), jnp.ones((1, 20_000)))
    np.testing.assert_allclose(params["params"]["frequency"].std(axis=0), [0.1, 1, 10], rtol=0.02)


@pytest.mark.slow
def test_a_row_alone_is_embedded_as_among_others():
    model = MeanVarRegressor(hidden=(8,), embedding=PeriodicEmbedding(4))
    x = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    params = model.init(jax.random.key(0), x)
    np.testing.assert_allclose(model.apply(params, x[2]).mean, model.apply(params, x).mean[2], rtol=1e-5)


@pytest.mark.parametrize(
    "scales", [(0.0, 1.0), (-1.0, 1.0), (np.nan, 1.0), (1.0, np.inf), (2.0, 1.0), (1.0,)]
)
def test_scales_that_no_frequencies_have(scales):
    with pytest.raises(
        ValueError, match="scales must be two positive, finite numbers, the smaller one first"
    ):
        PeriodicEmbedding(scales=scales)
    assert PeriodicEmbedding(scales=[1.0, 1.0]) == PeriodicEmbedding(scales=(1.0, 1.0))
