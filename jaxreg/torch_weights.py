"""PyTorch's weights as Flax params and back, on NumPy arrays; torch isn't imported."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import PyTree

from jaxreg.models import MeanOnlyRegressor, MeanVarRegressor

Regressor = MeanVarRegressor | MeanOnlyRegressor


def _layers(model: Regressor) -> Iterator[tuple[str, str]]:
    """Pairs of a Flax layer and the torch module it is: each activation takes a number in a Sequential."""
    if not isinstance(model, Regressor):
        raise ValueError(
            f"weights can be converted for MeanVarRegressor and MeanOnlyRegressor, got {type(model).__name__}"
        )
    if model.embedding is not None:
        raise ValueError(
            "a model with an embedding has no counterpart in the PyTorch notebook: convert without it"
        )
    trunk = "shared" if isinstance(model, MeanVarRegressor) else "net"
    for i in range(len(model.hidden)):
        yield f"hidden_{i}", f"{trunk}.{2 * i}"
    if isinstance(model, MeanVarRegressor):
        yield from (("mean_head", "mu_head"), ("log_var_head", "logvar_head"))
    else:
        yield "mean_head", f"{trunk}.{2 * len(model.hidden)}"


def _widths(model: Regressor) -> dict[str, int]:
    """Rows of each torch weight, as far as the model alone tells them."""
    heads = dict.fromkeys(("mean_head", "log_var_head"), model.outputs or 1)
    return {f"hidden_{i}": width for i, width in enumerate(model.hidden)} | heads


def from_state_dict(model: Regressor, state_dict: Mapping[str, object]) -> PyTree:
    """Convert the notebook's `state_dict` to the params of a model.

    Args:
        model: the model the weights are for; its `hidden` and `outputs` have to fit.
        state_dict: names to arrays or tensors; nothing else of PyTorch is needed.

    Returns:
        Params for `model.apply`, in the dtype of the given weights.

    Raises:
        ValueError: names each key that is missing or too many, and any weight of another shape.

    >>> import jax
    >>> from jaxreg import MeanVarRegressor, torch_weights
    >>> model = MeanVarRegressor(hidden=(4,))
    >>> params = model.init(jax.random.key(0), jax.numpy.ones((1, 2)))
    >>> state_dict = torch_weights.to_state_dict(model, params)
    >>> sorted(state_dict)[:2], state_dict["shared.0.weight"].shape
    (['logvar_head.bias', 'logvar_head.weight'], (4, 2))
    >>> restored = torch_weights.from_state_dict(model, state_dict)
    >>> bool((restored["params"]["hidden_0"]["kernel"] == params["params"]["hidden_0"]["kernel"]).all())
    True
    """
    layers = dict(_layers(model))
    expected = {f"{name}.{part}" for name in layers.values() for part in ("weight", "bias")}
    if isinstance(model, MeanOnlyRegressor):
        expected.add("log_var")
    missing, unknown = sorted(expected - set(state_dict)), sorted(set(state_dict) - expected)
    if missing or unknown:
        raise ValueError(
            f"the state_dict doesn't fit {type(model).__name__}(hidden={model.hidden}): "
            f"missing {missing or 'nothing'}, unknown {unknown or 'nothing'}"
        )
    arrays = {name: _array(value) for name, value in state_dict.items()}
    widths, params, fan_in = _widths(model), {}, None
    for layer, name in layers.items():
        weight, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
        if fan_in is None:  # the number of features is the one size that the model leaves open
            fan_in = weight.shape[-1] if weight.ndim == 2 else 1
        _check_shape(f"{name}.weight", weight, (widths[layer], fan_in))
        _check_shape(f"{name}.bias", bias, (widths[layer],))
        params[layer] = {"kernel": weight.T.copy(), "bias": bias.copy()}
        fan_in = widths[layer] if layer.startswith("hidden") else fan_in
    if isinstance(model, MeanOnlyRegressor):
        _check_shape("log_var", arrays["log_var"], () if model.outputs is None else (model.outputs,))
        params["log_var"] = arrays["log_var"].copy()
    return {"params": params}


def to_state_dict(model: Regressor, params: PyTree) -> dict[str, np.ndarray]:
    """Convert params to NumPy arrays under the notebook's `state_dict` names.

    `module.load_state_dict({k: torch.from_numpy(v) for k, v in state_dict.items()})` loads them.

    Raises:
        ValueError: if params lack a layer of the model.
    """
    inner = params["params"] if "params" in params else params
    layers = dict(_layers(model))
    missing = sorted(set(layers) - set(inner))
    if missing:
        raise ValueError(f"params lack {missing}, they have {sorted(inner)}: are they another model's?")
    state_dict = {}
    for layer, name in layers.items():
        # Writable copies: torch.from_numpy warns of an array that can't be written to.
        state_dict[f"{name}.weight"] = np.array(inner[layer]["kernel"]).T.copy()
        state_dict[f"{name}.bias"] = np.array(inner[layer]["bias"])
    if isinstance(model, MeanOnlyRegressor):
        state_dict["log_var"] = np.array(inner["log_var"])
    return state_dict


def _array(value: object) -> np.ndarray:
    """A tensor, wherever it is and whether or not it needs a gradient, or anything NumPy takes."""
    for move in ("detach", "cpu"):
        value = getattr(value, move, lambda value=value: value)()
    return np.asarray(value)


def _check_shape(name: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise ValueError(f"{name} has shape {array.shape}, the model needs {expected}")
