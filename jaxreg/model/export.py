"""A fitted model as one compiled function for every platform (`jax.export`), which needs no jaxreg to run."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jaxtyping import Array, Float

from jaxreg.columns.categories import Category, Ordered
from jaxreg.columns.times import Time
from jaxreg.data.scaler import Scaler
from jaxreg.distributions.clipped import clipped_moments
from jaxreg.distributions.families import as_distribution, mixture_of
from jaxreg.files import check_writable, replacing
from jaxreg.model.fitted import FARTHEST, Fitted

FIRST_LINE = b"jaxreg export 2"
PLATFORMS = ("cpu", "cuda", "tpu")

Function = Callable[[Array, Array], tuple[Array, Array, Array, Array]]


def save(path: str | Path, fitted: Fitted) -> None:
    """Write a fitted model as a function `(x, level) -> (mean, std, lower, upper)`; whole or not at all.

    The function takes any number of rows and runs on a CPU, CUDA or a TPU. All is float64 and in the user's
    units: x `(n, features)`, level a number between 0 and 1, and results `(n,)` or `(n, d)`. Inside, the
    networks compute in the dtype of their parameters, as `Fitted.predict` does. Columns stand in the order of
    the file's header; nobody checks their names. A row with an infinite value is NaN throughout, and so is
    one with a missing value, unless the model has `Columns`.

    The file is a line that says what it is, a line with the SHA-256 of the rest, a line of JSON, and what
    `jax.export` wrote, which JAX reads for six months at least; what lasts is the model file. The JSON lists
    the columns of x under "inputs", each with its name if it had one, and what its numbers are: of one with
    "levels" the level's place in that list, and after the last one for other levels, and one more for a gap;
    of one with "order" likewise; of one with "time" days since 1970-01-01, UTC; of all others a number, NaN
    for a gap.

    Raises:
        ValueError: if the path can't be written to.
    """
    path = Path(path)
    check_writable(path)
    header = {"inputs": described_inputs(fitted), "targets": fitted.target_names}
    with jax.enable_x64(True):
        rows = *jax_export.symbolic_shape("n"), len(header["inputs"])
        shapes = (jax.ShapeDtypeStruct(shape, np.float64) for shape in (rows, ()))
        exported = jax_export.export(jax.jit(_function(fitted)), platforms=PLATFORMS)(*shapes)
    content = json.dumps(header).encode() + b"\n" + bytes(exported.serialize())
    digest = hashlib.sha256(content).hexdigest().encode()
    with replacing(path) as temporary:
        temporary.write_bytes(b"\n".join([FIRST_LINE, digest, content]))


def load(path: str | Path) -> Function:
    """Read what `save` wrote; the function has to be called where JAX has float64.

    `with jax.enable_x64(True): mean, std, lower, upper = load(path)(x, 0.95)`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is something else, or isn't what was written.
    """
    return jax_export.deserialize(bytearray(_read(Path(path))[1])).call


def read_header(path: str | Path) -> dict[str, Any]:
    """What an export says of its columns, under "inputs", and its "targets"; raises as `load` does."""
    return json.loads(_read(Path(path))[0])


def _read(path: Path) -> tuple[bytes, bytes]:
    """The header and the function."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no export {path}")
    first, _, rest = path.read_bytes().partition(b"\n")
    digest, _, content = rest.partition(b"\n")
    if first != FIRST_LINE:
        raise ValueError(f"{path} is no export of this version of jaxreg")
    if hashlib.sha256(content).hexdigest().encode() != digest:  # damaged bytes may crash whoever reads them
        raise ValueError(f"{path} is damaged: its content isn't what was written (SHA-256)")
    header, _, function = content.partition(b"\n")
    return header, function


def described_inputs(fitted: Fitted) -> list[dict[str, Any]]:
    """What the function's columns are."""
    if isinstance(fitted.x_scaler, Scaler):
        names = fitted.feature_names
        return [{}] * len(fitted.x_scaler.loc) if names is None else [{"name": name} for name in names]
    described = {
        Category: lambda kind: {"levels": kind.levels},
        Ordered: lambda kind: {"order": kind.order},
        Time: lambda kind: {"time": kind.time_format},
    }
    kinds, named = fitted.x_scaler.taken, fitted.x_scaler.named
    return [
        ({"name": kind.name} if named else {}) | described.get(type(kind), lambda _: {})(kind)
        for kind in kinds
    ]


def _function(fitted: Fitted) -> Function:
    """`Fitted.predict` and the interval, as one traceable function."""

    def function(x: Float[Array, "n features"], level: Float[Array, ""]) -> tuple[Array, Array, Array, Array]:
        scaled, known = scaled_inputs(fitted, x)
        if fitted.members is None:
            dist = as_distribution(fitted.model.apply(fitted.params, scaled))
        else:
            dist = mixture_of(jax.lax.map(lambda own: fitted.model.apply(own, scaled), fitted.params))
        dist = calibrated(fitted, dist)
        return with_units(fitted, dist, dist.interval(level.astype(scaled.dtype)), known)

    return function


def scaled_inputs(fitted: Fitted, x: Float[Array, "n features"]) -> tuple[Array, Array]:
    """What the networks take of the columns' numbers, and whether each of these can be taken."""
    if isinstance(fitted.x_scaler, Scaler):
        loc, scale = (np.asarray(a, np.float64)[None] for a in fitted.x_scaler)
        scaled, known = jnp.clip((x - loc) / scale, -FARTHEST, FARTHEST), jnp.isfinite(x)
    else:
        scaled, known = fitted.x_scaler.encoded([*x.T], jnp), ~jnp.isinf(x)
    return scaled.astype(jax.tree.leaves(fitted.params)[0].dtype), known


def calibrated(fitted: Fitted, dist: Any) -> Any:
    """A distribution with its calibration."""
    return dist if fitted.calibration is None else fitted.calibration(dist)


def with_units(fitted: Fitted, dist: Any, quantiles: Sequence[Array], known: Array) -> tuple[Array, ...]:
    """Mean, std and some quantiles in the target's units and bounds; NaN where inputs can't be taken."""
    loc, scale = (jnp.asarray(a, jnp.float64) for a in fitted.y_scaler)
    moments, bounds = dist, (-jnp.inf, jnp.inf)
    if fitted.bounds is not None:
        bounds = fitted.bounds
        moments = clipped_moments(dist, *((bound - loc) / scale for bound in bounds))
    loc, scale = (jnp.broadcast_to(a, dist.mean.shape) for a in (loc, scale))
    mean, *quantiles = (jnp.clip(loc + scale * part, *bounds) for part in (moments.mean, *quantiles))
    found = mean, scale * moments.std, *quantiles
    known = known.all(axis=1).reshape(-1, *(1,) * (loc.ndim - 1))
    return tuple(jnp.where(known, values, jnp.nan) for values in found)
