"""A fitted model in one file: a JSON header and named arrays; no code runs when it is read."""

import json
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from msgspec import Meta, Struct

from jaxreg.calibration.scaling import NoiseScaling, VarianceScaling
from jaxreg.columns import Columns
from jaxreg.columns.kinds import KINDS
from jaxreg.data.scaler import Scaler
from jaxreg.files import check_writable
from jaxreg.model import archive
from jaxreg.model.archive import FORMAT
from jaxreg.model.fitted import Fitted
from jaxreg.networks.embeddings import ColumnEmbedding, PeriodicEmbedding
from jaxreg.networks.models import (
    ACTIVATIONS,
    MeanOnlyRegressor,
    MeanVarRegressor,
    NaturalRegressor,
)
from jaxreg.plain import listed
from jaxreg.settings import MOST_LAYERS

MODELS = {model.__name__: model for model in (MeanVarRegressor, MeanOnlyRegressor, NaturalRegressor)}
CALIBRATIONS = {kind.__name__: kind for kind in (NoiseScaling, VarianceScaling)}

# Settings are for the reader, and what goes through them calls itself once for each list within a list.
DEEPEST_SETTINGS = 16

# Arrays that no model has without a positive number in each place.
POSITIVE = ("x_scaler/scale", "y_scaler/scale", "calibration/factor")

Count = Annotated[int, Meta(ge=1)]


class _Embedding(Struct, forbid_unknown_fields=True):
    """A `PeriodicEmbedding`."""

    frequencies: Count
    scales: tuple[float, float]


class _Model(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A network, without its parameters."""

    kind: str
    hidden: tuple[Count, ...]
    outputs: Count | None
    activation: str
    detach_variance: bool = False
    embedding: _Embedding | None = None


class Header(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a model file says beside its arrays.

    Attributes:
        sha256: digest of the file, with zeros in the place of this.
        format: number of the file's format.
        model: the network.
        feature_names: columns in the order the model takes them.
        target_names: one name per output.
        settings: how it was trained.
        versions: of the libraries that wrote it.
        members: number of networks, None for one alone.
        calibration: what changes their predictions.
        feature_dtypes: types of the features' columns in the training data.
        target_dtypes: types of the targets' columns.
        scores: how well it did, at the end of training.
        columns: what was learned of each column, in place of the features' scaler.
    """

    sha256: str | None = None
    format: int
    model: _Model
    feature_names: tuple[str, ...] | None
    target_names: tuple[str, ...] | None
    settings: dict[str, Any] | None
    versions: dict[str, str]
    members: Count | None = None
    calibration: Literal["NoiseScaling", "VarianceScaling"] | None = None
    feature_dtypes: tuple[str, ...] | None = None
    target_dtypes: tuple[str, ...] | None = None
    scores: dict[str, float | None] | None = None
    columns: tuple[dict[str, Any], ...] | None = None


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
        **{name: getattr(fitted, name) for name in COPIED},
    )
    arrays = flatten_dict({"params": fitted.params["params"]}, sep="/")
    for name in ("x_scaler", "y_scaler") if columns is None else ("y_scaler",):
        scaler = getattr(fitted, name)
        arrays |= {f"{name}/loc": scaler.loc, f"{name}/scale": scaler.scale}
    if fitted.calibration is not None:
        arrays["calibration/factor"] = np.asarray(fitted.calibration.factor, np.float64)
    arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
    _check("the model can't be saved", _faults(fitted.model, header, arrays, columns))
    archive.write(path, "model", json.loads(msgspec.json.encode(header)), arrays)


def load(path: str | Path) -> Fitted:
    """Read a fitted model; its predictions are those of the model that was saved.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated or changed, is something else, is of a newer format, or holds
            what no model has, such as a scale of 0.
    """
    path = Path(path)
    header, arrays = _read(path)
    columns = columns_of(path, header)
    model = _build(path, header, arrays, columns)
    _check(f"{path} is damaged", _faults(model, header, arrays, columns))
    tree = unflatten_dict(arrays, sep="/")
    kind = header.calibration
    return Fitted(
        model=model,
        params={"params": jax.tree.map(jnp.asarray, tree["params"])},
        x_scaler=columns or Scaler(**tree["x_scaler"]),
        y_scaler=Scaler(**tree["y_scaler"]),
        calibration=None if kind is None else CALIBRATIONS[kind](tree["calibration"]["factor"]),
        **{name: getattr(header, name) for name in COPIED},
    )


def read_header(path: str | Path) -> Header:
    """What a model file says of itself; the arrays are checked against its digest.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as `load` does.
    """
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[Header, dict[str, np.ndarray]]:
    """Header and arrays as they were written."""
    found, arrays = archive.read(path, "model")
    try:
        header = msgspec.convert(found, Header)
    except (msgspec.MsgspecError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged, its header can't be understood ({reason})") from None
    _check(f"{path} is damaged", _header_faults(header))
    return header, arrays


def _columns_out(columns: Columns) -> tuple[dict[str, Any], ...]:
    """What a header says of columns."""
    kinds = ({"kind": type(kind).__name__.lower()} | msgspec.to_builtins(kind) for kind in columns.kinds)
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
    _check(f"{path} is damaged", columns.faults())
    return columns


def _describe(model: nn.Module, columns: Columns | None = None) -> _Model:
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
    return _Model(
        kind=kind,
        hidden=tuple(model.hidden),
        outputs=model.outputs,
        activation=activation,
        detach_variance=getattr(model, "detach_variance", False),
        embedding=None if own is None else _Embedding(own.frequencies, own.scales),
    )


def _build(path: Path, header: Header, arrays: dict[str, np.ndarray], columns: Columns | None) -> nn.Module:
    """The model that a file speaks of, whose sizes its arrays can have."""
    own = header.model
    if own.kind not in MODELS or own.activation not in ACTIVATIONS:
        raise ValueError(
            f"{path} asks for a {own.kind} with {own.activation}, which this version of jaxreg doesn't know"
        )
    sizes = [*own.hidden, own.outputs, header.members, own.embedding and own.embedding.frequencies]
    most = sum(array.size for array in arrays.values())
    if max(filter(None, sizes), default=0) > most:
        raise ValueError(f"{path} is damaged: its header asks for more than the {most:,} numbers it holds")
    settings = {"detach_variance": True} if own.detach_variance else {}
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


def _check(what: str, faults: Iterator[str]) -> None:
    """Raise with the first fault, if there is one."""
    for fault in faults:
        raise ValueError(f"{what}: {fault}")


def _header_faults(header: Header) -> Iterator[str]:
    """What in a header is too large to be worked with."""
    if len(header.model.hidden) > MOST_LAYERS:
        yield f"its network has {len(header.model.hidden):,} hidden layers, a file may hold {MOST_LAYERS}"
    if not _shallow(header.settings, DEEPEST_SETTINGS):
        yield f"its settings are nested more than {DEEPEST_SETTINGS} deep"


def _faults(
    model: nn.Module, header: Header, arrays: dict[str, np.ndarray], columns: Columns | None
) -> Iterator[str]:
    """What is impossible; each is found only where the ones before are not."""
    yield from _header_faults(header)
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


def _shallow(value: Any, most: int) -> bool:
    """Whether lists and dictionaries stand within one another at most so many times."""
    if not isinstance(value, dict | list | tuple):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return most > 0 and all(_shallow(each, most - 1) for each in inner)


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
