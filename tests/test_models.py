import copy
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxreg import (
    FamilyRegressor,
    Gaussian,
    GaussianMixture,
    MeanOnlyRegressor,
    MeanVarRegressor,
    MixtureRegressor,
    NaturalRegressor,
    StudentT,
    make_trainer,
    predict,
    sgd,
)
from jaxreg.model import torch_weights
from jaxreg.networks import models
from jaxreg.networks.prediction import PREDICTION_BLOCK, _apply

MODELS = {
    m.__name__: m
    for m in (MeanVarRegressor, MeanOnlyRegressor, NaturalRegressor, MixtureRegressor, FamilyRegressor)
}
RETURNED = {"MixtureRegressor": GaussianMixture, "FamilyRegressor": StudentT}
KEY = jax.random.key(0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("outputs,shape", [(None, (5,)), (1, (5, 1)), (3, (5, 3))])
@pytest.mark.parametrize("hidden", [(), (4,), (128, 128)])
def test_shapes(name, outputs, shape, hidden):
    model = MODELS[name](hidden=hidden, outputs=outputs)
    x = jnp.ones((5, 2))
    out = model.apply(model.init(KEY, x), x)
    assert type(out) is RETURNED.get(name, Gaussian) and out.mean.shape == out.std.shape == shape
    assert all(np.shape(part)[out.row_axis :] == shape for part in tuple(out) if np.ndim(part) > out.row_axis)


def test_starting_values():
    x = jnp.ones((1, 2))
    params = MeanVarRegressor(outputs=2).init(KEY, x)["params"]
    np.testing.assert_array_equal(params["log_var_head"]["bias"], [-1, -1])
    assert params["hidden_1"]["kernel"].shape == (128, 128)
    assert MeanOnlyRegressor().init(KEY, x)["params"]["log_var"] == 0
    assert MeanOnlyRegressor(outputs=2).init(KEY, x)["params"]["log_var"].shape == (2,)


def test_activation_initialisers_and_embedding_can_be_given():
    model = MeanVarRegressor(
        hidden=(4,),
        activation=nn.silu,
        embedding=nn.Dense(6),
        kernel_init=nn.initializers.ones,
        bias_init=nn.initializers.constant(2.0),
    )
    x = jnp.ones((3, 2))
    params = model.init(KEY, x)["params"]
    assert params["hidden_0"]["kernel"].shape == (6, 4)
    assert (params["hidden_0"]["kernel"] == 1).all() and (params["mean_head"]["bias"] == 2).all()
    assert (params["log_var_head"]["bias"] == -1).all()
    assert hash(model) == hash(model.clone())


@pytest.mark.parametrize("kind", MODELS.values())
def test_other_spellings_of_one_model(kind):
    model = kind(hidden=(128,), outputs=2, activation=nn.gelu)
    for other in (
        kind(hidden=128, outputs=2, activation="gelu"),
        kind(hidden=[128], outputs=2, activation="gelu"),
    ):
        assert other == model and hash(other) == hash(model) and repr(other) == repr(model)
        assert pickle.loads(pickle.dumps(other)) == copy.deepcopy(other) == other.clone() == model
        assert make_trainer(other, sgd(0.1)).step is make_trainer(model, sgd(0.1)).step
    assert kind(hidden=()).hidden == () and kind(activation="relu") == kind()
    assert models._checked_widths(np.array([3, 4])) == (3, 4)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"hidden": 0}, "hidden takes positive whole numbers, got 0"),
        ({"hidden": (8, -1)}, "hidden .* got -1"),
        ({"outputs": 0}, "outputs .* got 0"),
        ({"activation": "swish"}, "activation must be a function or one of relu, silu, .* got 'swish'"),
    ],
)
@pytest.mark.parametrize("kind", MODELS.values())
def test_fields_that_no_model_has(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


@pytest.mark.parametrize("hidden", ["64", None, True, 8.0, (8, 4.0), ("8",), [[8], 4]])
def test_what_is_no_width(hidden):  # asked of the check itself: the tests' type hook would be first
    with pytest.raises(ValueError, match="hidden takes positive whole numbers, got"):
        models._checked_widths(hidden)
    with pytest.raises(ValueError, match="activation must be a function or one of relu"):
        models._checked_activation(None)


@pytest.mark.parametrize(
    "rows", [1, 2, 3, 100, PREDICTION_BLOCK, PREDICTION_BLOCK + 1, 3 * PREDICTION_BLOCK - 5]
)
def test_predict_serves_any_number_of_rows(rows):
    model = MeanVarRegressor(hidden=(8,), outputs=2)
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    params = model.init(KEY, x[:1])
    dist = predict(model, params, x)
    expected = model.apply(params, x)
    assert dist.mean.shape == (rows, 2)
    np.testing.assert_allclose(dist.mean, expected.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dist.log_var, expected.log_var, rtol=1e-4, atol=1e-5)


def test_a_handful_of_programs_predicts_any_number_of_rows():
    model = MeanVarRegressor(hidden=(7,))
    params = model.init(KEY, np.ones((1, 2)))
    before = _apply._cache_size()
    for rows in range(1, 600, 7):
        predict(model, params, np.ones((rows, 2)))
    assert _apply._cache_size() - before <= 11


@pytest.mark.parametrize("x", [np.ones(3), np.ones((0, 2)), [[np.nan, 1.0]], [["a", "b"]]])
def test_predict_refuses_unusable_rows(x):
    model = MeanVarRegressor(hidden=(8,))
    with pytest.raises(ValueError, match="x"):
        predict(model, model.init(KEY, np.ones((1, 2))), x)


@pytest.mark.parametrize("name", ["MeanVarRegressor", "MeanOnlyRegressor"])
@pytest.mark.parametrize("outputs", [None, 2])
def test_torch_weights_there_and_back(name, outputs):
    model = MODELS[name](hidden=(4, 6, 5), outputs=outputs)
    params = model.init(KEY, jnp.ones((1, 3)))
    restored = torch_weights.from_state_dict(model, torch_weights.to_state_dict(model, params))
    assert jax.tree.structure(restored) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, restored, params)


def test_torch_weights_that_do_not_fit_are_named():
    model = MeanVarRegressor(hidden=(4, 4))
    state_dict = torch_weights.to_state_dict(model, model.init(KEY, jnp.ones((1, 3))))
    short = {k: v for k, v in state_dict.items() if k != "mu_head.bias"}
    with pytest.raises(ValueError, match=r"missing \['mu_head.bias'\], unknown \['log_var'\]"):
        torch_weights.from_state_dict(model, short | {"log_var": np.zeros(())})
    with pytest.raises(ValueError, match=r"shared.2.weight has shape \(4, 4\), the model needs \(5, 4\)"):
        torch_weights.from_state_dict(MeanVarRegressor(hidden=(4, 5)), state_dict)
    with pytest.raises(ValueError, match="mu_head.weight has shape"):
        torch_weights.from_state_dict(MeanVarRegressor(hidden=(4, 4), outputs=2), state_dict)
    with pytest.raises(ValueError, match="embedding"):
        torch_weights.from_state_dict(MeanVarRegressor(embedding=nn.Dense(2)), state_dict)
    with pytest.raises(ValueError, match="params lack"):
        torch_weights.to_state_dict(MeanVarRegressor(hidden=(4, 4, 4)), model.init(KEY, jnp.ones((1, 3))))


class Net(torch.nn.Module):
    """A user's own module, with other names."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(3, 4), torch.nn.Linear(4, 5)
        self.mu, self.sigma = torch.nn.Linear(5, 1), torch.nn.Linear(5, 1)

    def forward(self, x):
        h = torch.relu(self.fc2(torch.relu(self.fc1(x))))
        return self.mu(h)[:, 0], self.sigma(h)[:, 0]


LAYERS = {"fc1": "shared.0", "fc2": "shared.2", "mu": "mu_head", "sigma": "logvar_head"}
WEIGHTS = {
    f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in LAYERS.items() for part in ("weight", "bias")
}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
@pytest.mark.parametrize("rename", [LAYERS, WEIGHTS, WEIGHTS.get])
def test_weights_of_a_module_with_other_names(prefix, rename):
    net, model = Net(), MeanVarRegressor(hidden=(4, 5))
    state_dict = {prefix + name: value for name, value in net.state_dict().items()}
    params = torch_weights.from_state_dict(model, state_dict, rename)
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    mean, raw = (part.detach().numpy() for part in net(torch.from_numpy(x)))
    dist = model.apply(params, x)
    np.testing.assert_allclose(dist.mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dist.std**2, np.log1p(np.exp(raw)) + 1e-6, rtol=1e-5)


def test_weights_in_bfloat16():
    model = MeanVarRegressor(hidden=(4, 5))
    state_dict = Net().to(torch.bfloat16).state_dict()
    params = torch_weights.from_state_dict(model, state_dict, LAYERS)["params"]
    expected = state_dict["fc2.weight"].float().numpy().T
    assert params["hidden_1"]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(params["hidden_1"]["kernel"], expected)


def test_errors_name_weights_as_they_were_given():
    model = MeanVarRegressor(hidden=(4, 5))
    state_dict = {f"module.{name}": value for name, value in Net().state_dict().items()}
    with pytest.raises(
        ValueError, match=r"missing \['mu_head.bias', .*unknown \['module.mu.bias', .*rename="
    ):
        torch_weights.from_state_dict(model, state_dict, LAYERS | {"mu": "mean"})
    with pytest.raises(
        ValueError, match="module.mu.weight and module.sigma.weight both stand for mu_head.weight"
    ):
        torch_weights.from_state_dict(model, state_dict, LAYERS | {"sigma": "mu_head"})
    with pytest.raises(ValueError, match=r"module.fc2.weight has shape \(5, 4\), the model needs \(6, 4\)"):
        torch_weights.from_state_dict(MeanVarRegressor(hidden=(4, 6)), state_dict, LAYERS)
