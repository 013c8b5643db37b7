"""A fitted model as one compiled function for every platform (`jax.export`), which needs no jaxreg to run."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jaxtyping import Array, Float

from jaxreg.data.scaler import Scaler
from jaxreg.distributions.gaussian import Gaussian
from jaxreg.distributions.mixture import GaussianMixture
from jaxreg.files import check_writable, replacing
from jaxreg.model.fitted import FARTHEST, Fitted

FIRST_LINE = b"jaxreg export 1"
PLATFORMS = ("cpu", "cuda", "tpu")

Function = Callable[[Array, Array], tuple[Array, Array, Array, Array]]


def save(path: str | Path, fitted: Fitted) -> None:
    """Write a fitted model as a function `(x, level) -> (mean, std, lower, upper)`; whole or not at all.

    The function takes any number of rows and runs on a CPU, CUDA or a TPU. All is float64 and in the user's
    units: x `(n, features)`, level a number between 0 and 1, and results `(n,)` or `(n, d)`. Inside, the
    networks compute in the dtype of their parameters, as `Fitted.predict` does. Columns stand in the order
    of the training data; nobody checks their names. A row with a missing or infinite value is NaN throughout.

    The file is a line that says what it is, a line with the SHA-256 of the rest, and what `jax.export` wrote.
    JAX reads that for six months at least; what lasts is the model file.

    Raises:
        ValueError: if the path can't be written to, or the model takes columns that aren't numbers alone.
    """
    path = Path(path)
    check_writable(path)
    if not isinstance(fitted.x_scaler, Scaler):
        raise ValueError("an export takes numbers alone, and this model learned columns: use the model file")
    with jax.enable_x64(True):
        rows = *jax_export.symbolic_shape("n"), np.shape(fitted.x_scaler.loc)[0]
        shapes = (jax.ShapeDtypeStruct(shape, np.float64) for shape in (rows, ()))
        exported = jax_export.export(jax.jit(_function(fitted)), platforms=PLATFORMS)(*shapes)
    content = bytes(exported.serialize())
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
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no export {path}")
    first, _, rest = path.read_bytes().partition(b"\n")
    digest, _, content = rest.partition(b"\n")
    if first != FIRST_LINE:
        raise ValueError(f"{path} is no export of this version of jaxreg")
    if hashlib.sha256(content).hexdigest().encode() != digest:  # damaged bytes may crash whoever reads them
        raise ValueError(f"{path} is damaged: its content isn't what was written (SHA-256)")
    return jax_export.deserialize(bytearray(content)).call


def _function(fitted: Fitted) -> Function:
    """`Fitted.predict` and the interval, as one traceable function."""

    def function(x: Float[Array, "n features"], level: Float[Array, ""]) -> tuple[Array, Array, Array, Array]:
        loc, scale = (np.asarray(a, np.float64)[None] for a in fitted.x_scaler)
        scaled = jnp.clip((x - loc) / scale, -FARTHEST, FARTHEST)
        scaled = scaled.astype(jax.tree.leaves(fitted.params)[0].dtype)
        if fitted.members is None:
            dist = Gaussian(*fitted.model.apply(fitted.params, scaled))
        else:
            dist = GaussianMixture(
                *jax.lax.map(lambda own: tuple(fitted.model.apply(own, scaled)), fitted.params)
            )
        dist = dist if fitted.calibration is None else fitted.calibration(dist)
        lower, upper = dist.interval(level.astype(scaled.dtype))
        loc, scale = (jnp.asarray(a, jnp.float64) for a in fitted.y_scaler)
        loc, scale = (jnp.broadcast_to(a, dist.mean.shape) for a in (loc, scale))
        found = loc + scale * dist.mean, scale * dist.std, loc + scale * lower, loc + scale * upper
        known = jnp.isfinite(x).all(axis=1).reshape(-1, *(1,) * (loc.ndim - 1))
        return tuple(jnp.where(known, values, jnp.nan) for values in found)

    return function
