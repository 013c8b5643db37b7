"""A fitted model as an ONNX graph, which runs without JAX and without this library."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax import export as jax_export
from jax.scipy.special import ndtr
from jaxtyping import Array
from onnx import helper
from scipy.special import ndtri

from jaxreg.columns.categories import Category, Ordered
from jaxreg.columns.values import GAPS
from jaxreg.data.scaler import Scaler
from jaxreg.distributions.families import mixture_of
from jaxreg.distributions.mixture import GaussianMixture
from jaxreg.files import check_writable, replacing
from jaxreg.model.export import calibrated, described_inputs, scaled_inputs, with_units
from jaxreg.model.fitted import Fitted
from jaxreg.model.onnx_graph import IR_VERSION, ML_OPSET, OPSET, ROW_COUNT, ROWS, Graph, as_type, traced, used
from jaxreg.plain import listed

LEVELS = 0.025, 0.05, 0.25, 0.5, 0.75, 0.95, 0.975
# Levels beyond these lie in tails that 32 bits don't resolve.
LEAST, MOST = 1e-3, 1 - 1e-3
# Each step halves the interval that holds a quantile.
STEPS = 40
OUTPUTS = "mean", "std", "quantiles", "means", "stds", "weights"


def save(path: str | Path, fitted: Fitted, levels: Sequence[float] = LEVELS) -> None:
    """Write a fitted model as an ONNX file; whole or not at all.

    Its inputs are the columns, each `(rows,)` under its name: numbers as float64, NaN for a gap; text of
    categories as strings without blanks at their ends, which a graph can't take away, and "", NA or another
    of `columns.values.GAPS` for a gap; times as days since 1970-01-01, UTC, NaN for a gap. A model that was
    fitted to scaled arrays has one input, "x", `(rows, features)`. Its outputs are float64 in the target's
    units: "mean" and "std", `(rows,)` or `(rows, d)`; "quantiles" with a leading axis of levels; and the
    mixture's "means", "stds" and "weights" with a leading axis of components, as they are without bounds.
    The metadata say what the inputs are, the target's names, and the levels.

    Args:
        path: of the file.
        fitted: whose networks predict Gaussians or mixtures of them.
        levels: of the quantiles, from 0.001 to 0.999.

    Raises:
        ValueError: if the path can't be written to, the networks predict something else, a level lies
            outside, or a column is called as an output.
    """
    path, levels = Path(path), tuple(map(float, levels))
    check_writable(path)
    if not levels or not all(LEAST <= level <= MOST for level in levels):
        raise ValueError(f"levels must be numbers from {LEAST} to {MOST}, got {levels}")
    graph, by_column = Graph(), not isinstance(fitted.x_scaler, Scaler)
    names = fitted.x_scaler.names if by_column else ()
    if taken := [name for name in names if name in OUTPUTS]:
        raise ValueError(f"{listed(taken)}: an output of the graph has that name, rename the column")
    with jax.enable_x64(True):
        (rows,) = jax_export.symbolic_shape(ROWS)
        width = len(described_inputs(fitted))
        shapes = [(rows,)] * width if by_column else [(rows, width)]
        structs = [jax.ShapeDtypeStruct(shape, np.float64) for shape in shapes]
        jaxpr, constants = traced(partial(_predicted, fitted, levels), structs)
        inputs, names = _inputs(graph, fitted, by_column)
        found = graph.traced(jaxpr, constants, names)
    outputs = []
    for name, value, atom in zip(OUTPUTS, found, jaxpr.outvars, strict=True):
        own = value if isinstance(value, str) else graph.constant(value)
        graph.nodes.append(helper.make_node("Identity", [own], [name]))
        shape = [size if isinstance(size, int) else ROWS for size in atom.aval.shape]
        outputs.append(helper.make_tensor_value_info(name, as_type(np.float64), shape))
    described = helper.make_graph(
        used(graph.nodes, OUTPUTS), "jaxreg", inputs, outputs, initializer=graph.initializers
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(described, opset_imports=opsets, ir_version=IR_VERSION, producer_name="jaxreg")
    about = {"inputs": described_inputs(fitted), "targets": fitted.target_names, "levels": levels}
    helper.set_model_props(model, {name: json.dumps(value) for name, value in about.items()})
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def _inputs(graph: Graph, fitted: Fitted, by_column: bool) -> tuple[list[Any], list[str]]:
    """The inputs of a graph, and the names of what the traced function takes in their place."""
    if not by_column:
        width = len(described_inputs(fitted))
        _count_rows(graph, "x")
        return [helper.make_tensor_value_info("x", as_type(np.float64), [ROWS, width])], ["x"]
    inputs, names = [], []
    for kind in fitted.x_scaler.taken:
        levels = {Category: "levels", Ordered: "order"}.get(type(kind))
        inputs.append(
            helper.make_tensor_value_info(kind.name, as_type(str if levels else np.float64), [ROWS])
        )
        if not names:
            _count_rows(graph, kind.name)
        name = kind.name
        if levels:
            known = getattr(kind, levels)
            gaps = [text for text in GAPS if text not in known]
            name = graph.node(
                "LabelEncoder",
                name,
                domain="ai.onnx.ml",
                keys_strings=[*known, *gaps],
                values_floats=[*map(float, range(len(known))), *[len(known) + 1.0] * len(gaps)],
                default_float=float(len(known)),
            )
            name = graph.cast(name, np.float64)
        names.append(name)
    return inputs, names


def _count_rows(graph: Graph, name: str) -> None:
    """The number of rows of an input as a value of its own."""
    shape = graph.node("Shape", name)
    first = graph.node("Slice", shape, *(np.array([i]) for i in (0, 1)))
    graph.nodes.append(helper.make_node("Identity", [first], [ROW_COUNT]))


def _predicted(fitted: Fitted, levels: Sequence[float], *columns: Array) -> tuple[Array, ...]:
    """What the graph gives, as one traceable function of the columns' codes, or of the scaled arrays'."""
    x = columns[0] if isinstance(fitted.x_scaler, Scaler) else jnp.stack(columns, axis=1)
    scaled, known = scaled_inputs(fitted, x)
    members = fitted.params
    if fitted.members is None:
        members = jax.tree.map(lambda leaf: leaf[None], members)
    dist = mixture_of(jax.vmap(lambda own: fitted.model.apply(own, scaled))(members))
    if not isinstance(dist, GaussianMixture):
        kind = type(dist).__name__
        raise ValueError(f"networks that predict a {kind} can't be written as ONNX: leave --onnx out")
    dist = calibrated(fitted, dist)
    means, stds = dist.means, jnp.exp(0.5 * dist.log_vars)
    weights = jnp.ones(means.shape[0]) / means.shape[0] if dist.weights is None else dist.weights
    weights = weights.reshape(*weights.shape, *(1,) * (means.ndim - weights.ndim)).astype(means.dtype)
    weights = jnp.broadcast_to(weights / weights.sum(axis=0, keepdims=True), means.shape)
    quantiles = _quantiles(means, stds, weights, np.array(levels, means.dtype))
    found = with_units(fitted, dist, [*quantiles], known)
    loc, scale = (np.broadcast_to(np.asarray(part, float), means.shape[2:]) for part in fitted.y_scaler)
    loc, scale = loc[None, None], scale[None, None]
    weights = weights.astype(jnp.float64)
    weights = weights / weights.sum(axis=0, keepdims=True)  # to 1 in 64 bits, for targets far from 0
    of_components = loc + scale * means, scale * stds, weights
    return found[0], found[1], jnp.stack(found[2:]), *of_components


def _quantiles(means: Array, stds: Array, weights: Array, levels: np.ndarray) -> Array:
    """Quantiles of a mixture by bisection between the least and the greatest of its components'."""
    axes = (1,) * means.ndim
    ends = means[None] + stds[None] * ndtri(levels.astype(float)).astype(levels.dtype).reshape(-1, *axes)
    low, high = ends.min(axis=1), ends.max(axis=1)
    level = levels.reshape(-1, *axes[1:])
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        below = (weights[None] * ndtr((middle[:, None] - means[None]) / stds[None])).sum(axis=1) < level
        low, high = jnp.where(below, middle, low), jnp.where(below, high, middle)
    return 0.5 * (low + high)
