"""PyTorch's weights as Flax params and back, on NumPy arrays; torch isn't imported."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from jaxtyping import PyTree

from jaxreg.networks.models import MeanOnlyRegressor, MeanVarRegressor

Regressor = MeanVarRegressor | MeanOnlyRegressor

# What DataParallel and torch.compile put before each name.
PREFIXES = ("module.", "_orig_mod.")


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


def from_state_dict(
    model: Regressor,
    state_dict: Mapping[str, object],
    rename: Mapping[str, str] | Callable[[str], str] | None = None,
) -> PyTree:
    """Convert the notebook's `state_dict`, or another module's of its layers, to the params of a model.

    Prefixes `module.` and `_orig_mod.`, which DataParallel and `torch.compile` put before all names, are
    taken off first. `to_state_dict` shows the notebook's names.

    Args:
        model: the model the weights are for; its `hidden` and `outputs` have to fit.
        state_dict: names to arrays or tensors; nothing else of PyTorch is needed.
        rename: your name to the notebook's, as a mapping or a function, where they differ. A mapping may hold
            layers, `{"fc1": "shared.0"}`, or single weights, `{"sigma": "log_var"}`; other names are kept.

    Returns:
        Params for `model.apply`, in the dtype of the given weights; bfloat16, which NumPy lacks, as float32.

    Raises:
        ValueError: names each key that is missing, too many or given twice, and any weight of another shape.

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
    given = _given_names(state_dict, rename)
    missing, unknown = sorted(expected - set(given)), sorted(given[name] for name in set(given) - expected)
    if missing or unknown:
        raise ValueError(
            f"the state_dict doesn't fit {type(model).__name__}(hidden={model.hidden}): missing "
            f"{missing or 'nothing'}, unknown {unknown or 'nothing'}; where names alone differ, pass "
            "rename={'your name': 'name here'}"
        )
    arrays = {name: _array(state_dict[own]) for name, own in given.items()}
    widths, params, fan_in = _widths(model), {}, None
    for layer, name in layers.items():
        weight, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
        if fan_in is None:  # the number of features is the one size that the model leaves open
            fan_in = weight.shape[-1] if weight.ndim == 2 else 1
        _check_shape(given[f"{name}.weight"], weight, (widths[layer], fan_in))
        _check_shape(given[f"{name}.bias"], bias, (widths[layer],))
        params[layer] = {"kernel": weight.T.copy(), "bias": bias.copy()}
        fan_in = widths[layer] if layer.startswith("hidden") else fan_in
    if isinstance(model, MeanOnlyRegressor):
        _check_shape(given["log_var"], arrays["log_var"], () if model.outputs is None else (model.outputs,))
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


def _given_names(
    state_dict: Mapping[str, object], rename: Mapping[str, str] | Callable[[str], str] | None
) -> dict[str, str]:
    """The notebook's names, each with the one that it was given by."""
    prefix = ""
    while found := [p for p in PREFIXES if state_dict and all(n.startswith(prefix + p) for n in state_dict)]:
        prefix += found[0]
    given: dict[str, str] = {}
    for own in state_dict:
        name = _renamed(own.removeprefix(prefix), rename)
        if name in given:
            raise ValueError(f"{given[name]} and {own} both stand for {name}: name each by itself in rename")
        given[name] = own
    return given


def _renamed(name: str, rename: Mapping[str, str] | Callable[[str], str] | None) -> str:
    if callable(rename):
        return rename(name)
    layer, _, part = name.rpartition(".")
    rename = rename or {}
    return rename.get(name) or (f"{rename[layer]}.{part}" if layer in rename else name)


def _array(value: object) -> np.ndarray:
    """A tensor, wherever it is and whether or not it needs a gradient, or anything NumPy takes."""
    for move in ("detach", "cpu"):
        value = getattr(value, move, lambda value=value: value)()
    try:
        return np.asarray(value)
    except TypeError:  # a type that NumPy lacks
        return np.asarray(value.float())


def _check_shape(name: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise ValueError(f"{name} has shape {array.shape}, the model needs {expected}")
