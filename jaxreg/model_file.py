"""A fitted model in one file: a JSON header and named arrays (safetensors); no code runs when it is read."""

import json
from importlib.metadata import version
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxreg.calibration import NoiseScaling, VarianceScaling
from jaxreg.data import Scaler
from jaxreg.embeddings import PeriodicEmbedding
from jaxreg.files import check_writable, replacing
from jaxreg.fitted import Fitted
from jaxreg.models import ACTIVATIONS, MeanOnlyRegressor, MeanVarRegressor, NaturalRegressor

# 2: ensembles, calibrations and embeddings; a file that needs none of them is still read as 1 was.
FORMAT = 2
MODELS = {model.__name__: model for model in (MeanVarRegressor, MeanOnlyRegressor, NaturalRegressor)}
CALIBRATIONS = {kind.__name__: kind for kind in (NoiseScaling, VarianceScaling)}


def save(path: str | Path, fitted: Fitted) -> None:
    """Write a fitted model; the path holds the old file or the whole new one, never a part.

    Raises:
        ValueError: if the path can't be written to, or the model is of a kind that a file can't describe.
    """
    path = Path(path)
    check_writable(path)
    header = {
        "format": FORMAT,
        "model": _describe(fitted.model),
        "feature_names": fitted.feature_names,
        "target_names": fitted.target_names,
        "settings": fitted.settings,
        "members": fitted.members,
        "calibration": None if fitted.calibration is None else type(fitted.calibration).__name__,
        "versions": {name: version(name) for name in ("jaxreg", "jax", "flax")},
    }
    arrays = flatten_dict({"params": fitted.params["params"]}, sep="/")
    for name in ("x_scaler", "y_scaler"):
        scaler = getattr(fitted, name)
        arrays |= {f"{name}/loc": scaler.loc, f"{name}/scale": scaler.scale}
    if fitted.calibration is not None:
        arrays["calibration/factor"] = np.asarray(fitted.calibration.factor, np.float64)
    arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
    with replacing(path) as temporary:
        save_file(arrays, temporary, metadata={"jaxreg": json.dumps(header)})


def load(path: str | Path) -> Fitted:
    """Read a fitted model; its predictions are those of the model that was saved.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, is something else, or is of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no model file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if "jaxreg" not in metadata:
                raise ValueError(f"{path} holds arrays but no jaxreg model: give a file written by jaxreg")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or isn't a jaxreg model file ({error})") from None
    try:
        header = json.loads(metadata["jaxreg"])
        if header["format"] > FORMAT:
            raise ValueError(
                f"{path} has format {header['format']}, this version of jaxreg reads up to {FORMAT}: "
                f"upgrade jaxreg (the file was written by {header['versions']['jaxreg']})"
            )
        return _fitted(path, header, unflatten_dict(arrays, sep="/"))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged, its header can't be understood ({found})") from None


def _fitted(path: Path, header: dict, tree: dict) -> Fitted:
    """The model that a header and the arrays make."""
    model, members = _build(header["model"]), header.get("members")
    _check_params(path, model, members, tree)
    kind = header.get("calibration")
    calibration = None if kind is None else CALIBRATIONS[kind](tree["calibration"]["factor"])
    return Fitted(
        model,
        {"params": jax.tree.map(jnp.asarray, tree["params"])},
        Scaler(**tree["x_scaler"]),
        Scaler(**tree["y_scaler"]),
        *(
            None if header[name] is None else tuple(header[name])
            for name in ("feature_names", "target_names")
        ),
        header["settings"],
        members,
        calibration,
    )


def _describe(model: nn.Module) -> dict:
    """What a file says of a model."""
    kind = type(model).__name__
    activation = next(
        (name for name, f in ACTIVATIONS.items() if f is getattr(model, "activation", None)), None
    )
    known = MODELS.get(kind) is type(model) and activation is not None
    if not known or not (model.embedding is None or type(model.embedding) is PeriodicEmbedding):
        raise ValueError(
            f"a model file can hold a {' or '.join(MODELS)} with a PeriodicEmbedding or none, whose "
            f"activation is one of {', '.join(ACTIVATIONS)}; got {model}"
        )
    described = {
        "kind": kind,
        "hidden": list(model.hidden),
        "outputs": model.outputs,
        "activation": activation,
    }
    if getattr(model, "detach_variance", False):
        described["detach_variance"] = True
    if model.embedding is not None:
        described["embedding"] = {
            "frequencies": model.embedding.frequencies,
            "scales": list(model.embedding.scales),
        }
    return described


def _build(described: dict) -> nn.Module:
    """The model that a file speaks of."""
    settings = dict(described)
    kind, activation = settings.pop("kind"), settings.pop("activation")
    if kind not in MODELS or activation not in ACTIVATIONS:
        raise ValueError(f"the model file asks for {kind} with {activation}, which this version doesn't know")
    settings["hidden"] = tuple(settings["hidden"])
    if "embedding" in settings:
        own = settings["embedding"]
        settings["embedding"] = PeriodicEmbedding(own["frequencies"], tuple(own["scales"]))
    return MODELS[kind](activation=ACTIVATIONS[activation], **settings)


def _check_params(path: Path, model: nn.Module, members: int | None, tree: dict) -> None:
    """Raise unless the arrays are those of the model."""
    missing = {"params", "x_scaler", "y_scaler"} - set(tree)
    if missing:
        raise ValueError(f"{path} lacks the arrays of {', '.join(sorted(missing))}: it is damaged")
    features = jax.ShapeDtypeStruct((1, len(tree["x_scaler"]["loc"])), np.float32)
    expected = flatten_dict(jax.eval_shape(model.init, jax.random.key(0), features)["params"], sep="/")
    found = flatten_dict(tree["params"], sep="/")
    axis = () if members is None else (members,)
    wrong = [
        name for name in expected if name not in found or found[name].shape != (*axis, *expected[name].shape)
    ]
    if wrong or set(found) != set(expected):
        names = sorted(set(wrong) | (set(found) ^ set(expected)))
        raise ValueError(
            f"{path} is damaged: the arrays {', '.join(names)} don't fit its {type(model).__name__}"
        )
