"""A fitted model in one file: a JSON header and named arrays; no code runs when it is read."""

import json
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxreg.calibration.scaling import NoiseScaling, VarianceScaling
from jaxreg.columns import Columns
from jaxreg.columns.kinds import KINDS
from jaxreg.data.scaler import Scaler
from jaxreg.distributions.families import FAMILIES
from jaxreg.files import check_writable
from jaxreg.model import archive
from jaxreg.model.archive import FORMAT
from jaxreg.model.fitted import Fitted
from jaxreg.model.header import EmbeddingHeader, Header, ModelHeader, check, header_faults, read_all
from jaxreg.model.header import read_header as read_header
from jaxreg.networks.embeddings import ColumnEmbedding, PeriodicEmbedding
from jaxreg.networks.models import (
    ACTIVATIONS,
    SMALLEST_STD,
    FamilyRegressor,
    MeanOnlyRegressor,
    MeanVarRegressor,
    MixtureRegressor,
    NaturalRegressor,
)
from jaxreg.plain import listed

MODELS = {
    model.__name__: model
    for model in (MeanVarRegressor, MeanOnlyRegressor, NaturalRegressor, MixtureRegressor, FamilyRegressor)
}
# Fields that some models have beside those that all have.
OWN_FIELDS = "detach_variance", "components", "smallest_std", "family"
CALIBRATIONS = {kind.__name__: kind for kind in (NoiseScaling, VarianceScaling)}

# Arrays that no model has without a positive number in each place.
POSITIVE = ("x_scaler/scale", "y_scaler/scale", "calibration/factor")

# What header and `Fitted` both have.
COPIED = ("feature_names", "target_names", "settings", "members", "feature_dtypes", "target_dtypes", "scores")


def save(path: str | Path, fitted: Fitted) -> None:
    """Write a fitted model; the path holds the old file or the whole new one, never a part.

    Raises:
        ValueError: if the path can't be written to, the model is of a kind that a file can't describe, or
            `load` would refuse the file.
        OSError: if the disk is full, for example.
    """
    if hasattr(fitted, "fitted_"):
        raise TypeError(f"a file holds a Fitted, got a {type(fitted).__name__}: pass its fitted_")
    path = Path(path)
    check_writable(path)
    columns = fitted.x_scaler if isinstance(fitted.x_scaler, Columns) else None
    header = Header(
        format=FORMAT,
        model=_describe(fitted.model, columns),
        columns=None if columns is None else _columns_out(columns),
        versions={name: version(name) for name in ("jaxreg", "jax", "flax")},
        calibration=None if fitted.calibration is None else type(fitted.calibration).__name__,
        bounds=None if fitted.bounds is None else tuple(x if np.isfinite(x) else None for x in fitted.bounds),
        **{name: getattr(fitted, name) for name in COPIED},
    )
    arrays = flatten_dict({"params": fitted.params["params"]}, sep="/")
    for name in ("x_scaler", "y_scaler") if columns is None else ("y_scaler",):
        scaler = getattr(fitted, name)
        arrays |= {f"{name}/loc": scaler.loc, f"{name}/scale": scaler.scale}
    if fitted.calibration is not None:
        arrays["calibration/factor"] = np.asarray(fitted.calibration.factor, np.float64)
    arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
    check("the model can't be saved", _faults(fitted.model, header, arrays, columns))
    archive.write(path, "model", json.loads(msgspec.json.encode(header)), arrays)


def load(path: str | Path) -> Fitted:
    """Read a fitted model; its predictions are those of the model that was saved.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated or changed, is something else, is of a newer format, or holds
            what no model has, such as a scale of 0.
    """
    path = Path(path)
    header, arrays = read_all(path)
    columns = columns_of(path, header)
    model = _build(path, header, arrays, columns)
    check(f"{path} is damaged", _faults(model, header, arrays, columns))
    tree = unflatten_dict(arrays, sep="/")
    kind = header.calibration
    return Fitted(
        model=model,
        params={"params": jax.tree.map(jnp.asarray, tree["params"])},
        x_scaler=columns or Scaler(**tree["x_scaler"]),
        y_scaler=Scaler(**tree["y_scaler"]),
        calibration=None if kind is None else CALIBRATIONS[kind](tree["calibration"]["factor"]),
        bounds=None if header.bounds is None else _with_infinities(*header.bounds),
        **{name: getattr(header, name) for name in COPIED},
    )


def _with_infinities(lower: float | None, upper: float | None) -> tuple[float, float]:
    """Bounds as numbers, none as an infinite one."""
    return -np.inf if lower is None else lower, np.inf if upper is None else upper


def _columns_out(columns: Columns) -> tuple[dict[str, Any], ...]:
    """What a header says of columns."""
    kinds = (
        {"kind": type(kind).__name__.lower(), "name": kind.name, "told": kind.told()}
        | msgspec.to_builtins(kind)
        for kind in columns.kinds
    )
    return tuple(kind | ({} if columns.named else {"named": False}) for kind in kinds)


def columns_of(path: Path, header: Header) -> Columns | None:
    """The columns that a header speaks of."""
    if header.columns is None:
        return None
    try:
        kinds = tuple(msgspec.convert(given, KINDS[given["kind"]]) for given in header.columns)
    except (KeyError, TypeError, msgspec.MsgspecError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged, its columns can't be understood ({reason})") from None
    columns = Columns(kinds, all(given.get("named", True) for given in header.columns))
    check(f"{path} is damaged", columns.faults())
    return columns


def _describe(model: nn.Module, columns: Columns | None = None) -> ModelHeader:
    """What a file says of a model; what its columns say already isn't said again."""
    kind = type(model).__name__
    activation = next(
        (name for name, f in ACTIVATIONS.items() if f is getattr(model, "activation", None)), None
    )
    own, known = getattr(model, "embedding", None), MODELS.get(kind) is type(model) and activation is not None
    if columns is not None:
        known &= type(own) is ColumnEmbedding and own == columns.embedding(own.embedding)
        own = getattr(own, "embedding", None)
    if not known or not (own is None or type(own) is PeriodicEmbedding):
        raise ValueError(
            f"a model file can hold a {' or '.join(MODELS)} with a PeriodicEmbedding or none, or the "
            f"embedding of its Columns, whose "
            f"activation is one of {', '.join(ACTIVATIONS)}; got {model}"
        )
    return ModelHeader(
        kind=kind,
        hidden=tuple(model.hidden),
        outputs=model.outputs,
        activation=activation,
        **{
            name: getattr(model, name)
            for name in OWN_FIELDS
            if getattr(model, name, SMALLEST_STD) != SMALLEST_STD
        },
        embedding=None if own is None else EmbeddingHeader(own.frequencies, own.scales),
    )


def _build(path: Path, header: Header, arrays: dict[str, np.ndarray], columns: Columns | None) -> nn.Module:
    """The model that a file speaks of, whose sizes its arrays can have."""
    own = header.model
    if own.kind not in MODELS or own.activation not in ACTIVATIONS:
        raise ValueError(
            f"{path} asks for a {own.kind} with {own.activation}, which this version of jaxreg doesn't know"
        )
    if own.family is not None and own.family not in FAMILIES:
        raise ValueError(
            f"{path} holds a network of the family {own.family!r}, which isn't registered: call "
            "jaxreg.distributions.register_family with it first"
        )
    sizes = [
        *own.hidden,
        own.outputs,
        own.components,
        header.members,
        own.embedding and own.embedding.frequencies,
    ]
    most = sum(array.size for array in arrays.values())
    if max(filter(None, sizes), default=0) > most:
        raise ValueError(f"{path} is damaged: its header asks for more than the {most:,} numbers it holds")
    settings = {name: getattr(own, name) for name in OWN_FIELDS if hasattr(MODELS[own.kind], name)}
    settings = {name: value for name, value in settings.items() if value is not None}
    try:
        if own.embedding is not None:
            settings["embedding"] = PeriodicEmbedding(own.embedding.frequencies, own.embedding.scales)
        if columns is not None:
            settings["embedding"] = columns.embedding(settings.get("embedding"))
        return MODELS[own.kind](
            hidden=own.hidden, outputs=own.outputs, activation=ACTIVATIONS[own.activation], **settings
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _faults(
    model: nn.Module, header: Header, arrays: dict[str, np.ndarray], columns: Columns | None
) -> Iterator[str]:
    """What is impossible; each is found only where the ones before are not."""
    yield from header_faults(header)
    if misfits := _misfits(model, header, arrays, columns):
        yield f"the arrays {', '.join(sorted(misfits))} don't fit its {type(model).__name__}"
    features = len(arrays["x_scaler/loc"] if columns is None else columns.names)
    for kind, count in (("feature", features), ("target", model.outputs or 1)):
        for name in (f"{kind}_names", f"{kind}_dtypes"):
            columns = getattr(header, name)
            if columns is not None and len(columns) != count:
                yield f"its {name} are {len(columns):,} and its {kind}s {count:,}"
        names = getattr(header, f"{kind}_names") or ()
        if repeated := [name for name, times in Counter(names).items() if times > 1]:
            yield f"its {kind}_names repeat {listed(repeated)}"
    for name, array in arrays.items():
        # A scale of infinity marks a feature that was constant.
        if np.isnan(array).any() or (np.isinf(array).any() and name != "x_scaler/scale"):
            yield f"{name} has numbers that are NaN or infinite"
        if name in POSITIVE and not np.all(array > 0):
            yield f"{name} has numbers that aren't positive"


def _misfits(
    model: nn.Module, header: Header, arrays: dict[str, np.ndarray], columns: Columns | None
) -> set[str]:
    """Names of the arrays that are missing, too many, or of a shape or type that the model hasn't."""
    shapes = {name: array.shape for name, array in arrays.items()}
    features, expected = (columns.width,) if columns else shapes.get("x_scaler/loc", ()), {}
    if len(features) != 1 or features == (0,):
        return {"x_scaler/loc"} | ({"x_scaler/scale"} - set(shapes))
    inputs = jax.ShapeDtypeStruct((1, *features), np.float32)
    outputs = () if model.outputs is None else (model.outputs,)
    if columns is None:
        expected = {"x_scaler/loc": features, "x_scaler/scale": features}
    expected |= {"y_scaler/loc": outputs, "y_scaler/scale": outputs}
    if header.calibration:
        factor = shapes.get("calibration/factor", ())
        expected["calibration/factor"] = factor if factor == () else outputs
    axis = () if header.members is None else (header.members,)
    params = {"params": jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]}
    expected |= {name: (*axis, *leaf.shape) for name, leaf in flatten_dict(params, sep="/").items()}
    wrong = {name for name in set(expected) | set(shapes) if expected.get(name) != shapes.get(name)}
    return wrong | {name for name, array in arrays.items() if array.dtype not in (np.float32, np.float64)}
