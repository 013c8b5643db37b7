"""What a model file says beside its arrays."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from jaxreg.model import archive
from jaxreg.settings import MOST_LAYERS

# Settings are for the reader, and what goes through them calls itself once for each list within a list.
DEEPEST_SETTINGS = 16

Count = Annotated[int, Meta(ge=1)]


class EmbeddingHeader(Struct, forbid_unknown_fields=True):
    """A `PeriodicEmbedding`."""

    frequencies: Count
    scales: tuple[float, float]


class ModelHeader(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A network, without its parameters."""

    kind: str
    hidden: tuple[Count, ...]
    outputs: Count | None
    activation: str
    detach_variance: bool = False
    components: Count = 1
    family: str | None = None
    smallest_std: Annotated[float, Meta(gt=0)] | None = None
    embedding: EmbeddingHeader | None = None


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
        bounds: of the target, None where there is none.
    """

    sha256: str | None = None
    format: int
    model: ModelHeader
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
    bounds: tuple[float | None, float | None] | None = None


def read_header(path: str | Path) -> Header:
    """What a model file says of itself; the arrays are checked against its digest.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as `load` does.
    """
    return read_all(Path(path))[0]


def read_all(path: Path) -> tuple[Header, dict[str, np.ndarray]]:
    """Header and arrays as they were written."""
    found, arrays = archive.read(path, "model")
    try:
        header = msgspec.convert(found, Header)
    except (msgspec.MsgspecError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged, its header can't be understood ({reason})") from None
    check(f"{path} is damaged", header_faults(header))
    return header, arrays


def check(what: str, faults: Iterator[str]) -> None:
    """Raise with the first fault, if there is one."""
    for fault in faults:
        raise ValueError(f"{what}: {fault}")


def header_faults(header: Header) -> Iterator[str]:
    """What in a header is too large to be worked with."""
    if len(header.model.hidden) > MOST_LAYERS:
        yield f"its network has {len(header.model.hidden):,} hidden layers, a file may hold {MOST_LAYERS}"
    lower, upper = header.bounds or (None, None)
    if lower is not None and upper is not None and not lower < upper:
        yield f"its bounds are {lower:g} and {upper:g}"
    if not _shallow(header.settings, DEEPEST_SETTINGS):
        yield f"its settings are nested more than {DEEPEST_SETTINGS} deep"


def _shallow(value: Any, most: int) -> bool:
    """Whether lists and dictionaries stand within one another at most so many times."""
    if not isinstance(value, dict | list | tuple):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return most > 0 and all(_shallow(each, most - 1) for each in inner)
