"""A JAX function as an ONNX graph, primitive by primitive, for any number of rows."""

import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from onnx import TensorProto, helper, numpy_helper

OPSET, ML_OPSET, IR_VERSION = 18, 3, 9

# What is one node of the same inputs; of `None` the name is that of the primitive.
SAME = {
    "abs": "Abs", "add": "Add", "and": "And", "ceil": "Ceil", "copy": "Identity", "div": "Div",
    "eq": "Equal", "erf": "Erf", "exp": "Exp", "floor": "Floor", "ge": "GreaterOrEqual", "gt": "Greater",
    "le": "LessOrEqual", "log": "Log", "logistic": "Sigmoid", "lt": "Less", "max": "Max", "min": "Min",
    "mul": "Mul", "neg": "Neg", "not": "Not", "or": "Or", "pow": "Pow", "sign": "Sign", "sin": "Sin",
    "sqrt": "Sqrt", "stop_gradient": "Identity", "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip
# Functions within functions, whose own primitives are written in their place.
INNER = "jaxpr", "call_jaxpr", "fun_jaxpr"
REDUCED = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
# Of these the runtime knows 32 bits alone.
SINGLE = "Erf"
ROWS = "rows"
# What names within the graph begin with, which a column's name hardly does.
OWN = "jaxreg::"
ROW_COUNT = f"{OWN}rows"


class Graph:
    """Nodes and constants that a traced function becomes.

    Attributes:
        nodes: in the order of their computation.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[tuple, str] = {}
        self.initializers: list[Any] = []
        self.count = 0

    def node(self, kind: str, *inputs: Any, domain: str = "", **attributes: Any) -> str:
        """The name of what a node gives; inputs are names, or arrays, which become constants."""
        self.count += 1
        name = f"{OWN}v{self.count}"
        names = [own if isinstance(own, str) else self.constant(own) for own in inputs]
        self.nodes.append(helper.make_node(kind, names, [name], domain=domain, **attributes))
        return name

    def constant(self, value: Any) -> str:
        """The name of a constant, which is kept once."""
        value = np.asarray(value)
        key = value.dtype.str, value.shape, value.tobytes()
        if key not in self.constants:
            self.constants[key] = name = f"{OWN}c{len(self.constants)}"
            self.initializers.append(numpy_helper.from_array(value, name))
        return self.constants[key]

    def shape(self, shape: Sequence[Any]) -> Any:
        """A shape as a tensor; of a dimension that is no number the number of rows."""
        if all(isinstance(size, int) for size in shape):
            return np.array(shape, np.int64)
        if any(str(size) != ROWS for size in shape if not isinstance(size, int)):
            raise NotImplementedError(f"a shape of {shape}")
        sizes = [np.array([size]) if isinstance(size, int) else ROW_COUNT for size in shape]
        return self.node("Concat", *sizes, axis=0)

    def traced(self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """What a jaxpr gives of some inputs, each an array or the name of a value."""
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, map(np.asarray, constants), strict=True))
        known |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Any:
            return np.asarray(atom.val, atom.aval.dtype) if isinstance(atom, core.Literal) else known[atom]

        for equation in jaxpr.eqns:
            given = [read(atom) for atom in equation.invars]
            known |= dict(zip(equation.outvars, self.equation(equation, given), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, given: list[Any]) -> list[Any]:
        """What one primitive gives."""
        name, settings = equation.primitive.name, equation.params
        for inner in (settings[key] for key in INNER if key in settings):
            constants = getattr(inner, "consts", ())
            return self.traced(getattr(inner, "jaxpr", inner), constants, given)
        shapes = [atom.aval.shape for atom in equation.outvars]
        whole = all(isinstance(size, int) for shape in shapes for size in shape)
        if whole and not any(isinstance(value, str) for value in given):
            found = equation.primitive.bind(*given, **settings)
            return [
                np.asarray(value) for value in (found if equation.primitive.multiple_results else [found])
            ]
        if name in SAME:
            if SAME[name] in SINGLE and equation.invars[0].aval.dtype != np.float32:
                single = self.node(SAME[name], self.cast(given[0], np.float32))
                return [self.cast(single, equation.invars[0].aval.dtype)]
            return [self.node(SAME[name], *given)]
        write = getattr(self, f"write_{name}", None)
        if write is None:
            raise NotImplementedError(f"ONNX has no {name!r} of JAX here")
        found = write(equation, *given)
        return found if isinstance(found, list) else [found]

    def cast(self, value: Any, dtype: Any) -> str:
        """The same of another type."""
        return self.node("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def in_double(self, kind: Callable[[str], str], value: Any, dtype: Any) -> str:
        """What keeps its digits in 64 bits alone."""
        return self.cast(kind(self.cast(value, np.float64)), dtype)

    def write_log1p(self, equation: Any, x: Any) -> str:
        """Log in 64 bits."""

        def log1p(value: str) -> str:
            return self.node("Log", self.node("Add", value, np.array(1.0)))

        return self.in_double(log1p, x, equation.invars[0].aval.dtype)

    def write_expm1(self, equation: Any, x: Any) -> str:
        """Exp in 64 bits."""

        def expm1(value: str) -> str:
            return self.node("Sub", self.node("Exp", value), np.array(1.0))

        return self.in_double(expm1, x, equation.invars[0].aval.dtype)

    def write_erfc(self, equation: Any, x: Any) -> str:
        """1 less Erf."""
        one = np.ones((), np.float32)
        found = self.node("Sub", one, self.node("Erf", self.cast(x, np.float32)))
        return self.cast(found, equation.invars[0].aval.dtype)

    def write_cos(self, equation: Any, x: Any) -> str:
        """A sine: of 64 bits older runtimes know no Cos."""
        return self.node("Sin", self.node("Add", x, np.asarray(np.pi / 2, equation.invars[0].aval.dtype)))

    def write_ne(self, equation: Any, a: Any, b: Any) -> str:
        """Not Equal, which NaN is."""
        return self.node("Not", self.node("Equal", a, b))

    def write_rem(self, equation: Any, a: Any, b: Any) -> str:
        """The remainder with the sign of the dividend."""
        return self.node("Mod", a, b, fmod=1)

    def write_square(self, equation: Any, x: Any) -> str:
        """A product."""
        return self.node("Mul", x, x)

    def write_integer_pow(self, equation: Any, x: Any) -> str:
        """A power."""
        return self.node("Pow", x, np.asarray(equation.params["y"], equation.invars[0].aval.dtype))

    def write_rsqrt(self, equation: Any, x: Any) -> str:
        """Two nodes."""
        return self.node("Reciprocal", self.node("Sqrt", x))

    def write_round(self, equation: Any, x: Any) -> str:
        """To even, or away from 0."""
        if "EVEN" not in str(equation.params["rounding_method"]):
            half = self.node("Floor", self.node("Add", self.node("Abs", x), _like(equation, 0.5)))
            return self.node("Mul", self.node("Sign", x), half)
        return self.node("Round", x)

    def write_is_finite(self, equation: Any, x: Any) -> str:
        """Neither infinite nor NaN."""
        odd = self.node("Or", self.node("IsInf", x), self.node("IsNaN", x))
        return self.node("Not", odd)

    def write_clamp(self, equation: Any, low: Any, x: Any, high: Any) -> str:
        """The least of the greatest."""
        return self.node("Min", self.node("Max", x, low), high)

    def write_select_n(self, equation: Any, which: Any, *cases: Any) -> str:
        """One of two."""
        if len(cases) != 2:
            raise NotImplementedError(f"a choice among {len(cases)}")
        which = which if equation.invars[0].aval.dtype == bool else self.cast(which, bool)
        return self.node("Where", which, cases[1], cases[0])

    def write_convert_element_type(self, equation: Any, x: Any) -> str:
        """Another type."""
        return self.cast(x, equation.params["new_dtype"])

    def write_broadcast_in_dim(self, equation: Any, x: Any, *sizes: Any) -> str:
        """New dimensions, and sizes."""
        shape, places = equation.outvars[0].aval.shape, equation.params["broadcast_dimensions"]
        absent = [i for i in range(len(shape)) if i not in places]
        if absent and len(absent) < len(shape):
            x = self.node("Unsqueeze", x, np.array(absent, np.int64))
        return self.node("Expand", x, self.shape(shape))

    def write_reshape(self, equation: Any, x: Any, *sizes: Any) -> str:
        """At most one dimension may be of rows."""
        shape = equation.outvars[0].aval.shape
        if sum(not isinstance(size, int) for size in shape) > 1:
            raise NotImplementedError(f"a shape of {shape}")
        return self.node("Reshape", x, np.array([size if isinstance(size, int) else -1 for size in shape]))

    def write_squeeze(self, equation: Any, x: Any) -> str:
        """Fewer dimensions."""
        return self.node("Squeeze", x, np.array(equation.params["dimensions"], np.int64))

    def write_transpose(self, equation: Any, x: Any) -> str:
        """Dimensions in another order."""
        return self.node("Transpose", x, perm=list(equation.params["permutation"]))

    def write_concatenate(self, equation: Any, *parts: Any) -> str:
        """Parts along a dimension."""
        return self.node("Concat", *parts, axis=equation.params["dimension"])

    def write_stack(self, equation: Any, *parts: Any) -> str:
        """Parts along a new dimension."""
        axis = equation.params["axis"]
        return self.node(
            "Concat", *(self.node("Unsqueeze", own, np.array([axis])) for own in parts), axis=axis
        )

    def write_unstack(self, equation: Any, x: Any) -> list[str]:
        """Each part along a dimension, without that."""
        axis = equation.params["axis"]
        return [self.node("Gather", x, np.array(i), axis=axis) for i in range(len(equation.outvars))]

    def write_slice(self, equation: Any, x: Any) -> str:
        """Rows are taken to their end."""
        axes = range(len(equation.invars[0].aval.shape))
        start, end = equation.params["start_indices"], equation.params["limit_indices"]
        steps = equation.params["strides"] or [1] * len(axes)
        # A dimension of rows is taken to its end.
        stops = [size if isinstance(size, int) else np.iinfo(np.int64).max for size in end]
        return self.node("Slice", x, *(np.array(part, np.int64) for part in (start, stops, axes, steps)))

    def _reduced(self, equation: Any, x: Any) -> str:
        axes = np.array(equation.params["axes"], np.int64)
        return self.node(REDUCED[equation.primitive.name], x, axes, keepdims=0)

    write_reduce_sum = write_reduce_max = write_reduce_min = _reduced

    def _reduced_flags(self, equation: Any, x: Any) -> str:
        kind = "ReduceMin" if equation.primitive.name == "reduce_and" else "ReduceMax"
        axes = np.array(equation.params["axes"], np.int64)
        return self.cast(self.node(kind, self.cast(x, np.int32), axes, keepdims=0), bool)

    write_reduce_and = write_reduce_or = _reduced_flags

    def write_dot_general(self, equation: Any, a: Any, b: Any) -> str:
        """A sum over products, by letters."""
        (of_a, of_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
        letters = iter(string.ascii_lowercase)
        of_shapes = [atom.aval.shape for atom in equation.invars]
        named_a = [next(letters) for _ in of_shapes[0]]
        pairs = dict(zip((*of_b, *batch_b), (*of_a, *batch_a), strict=True))
        named_b = [named_a[pairs[i]] if i in pairs else next(letters) for i in range(len(of_shapes[1]))]
        rest = [named_a[i] for i in batch_a]
        rest += [own for i, own in enumerate(named_a) if i not in (*of_a, *batch_a)]
        rest += [own for i, own in enumerate(named_b) if i not in (*of_b, *batch_b)]
        return self.node("Einsum", a, b, equation=f"{''.join(named_a)},{''.join(named_b)}->{''.join(rest)}")

    def write_gather(self, equation: Any, table: Any, at: Any) -> str:
        """Rows of a table by their numbers."""
        numbers, operand = equation.params["dimension_numbers"], equation.invars[0].aval
        axes, sizes = numbers.start_index_map, equation.params["slice_sizes"]
        rest = [size for i, size in enumerate(operand.shape) if i not in axes]
        if len(axes) != 1 or rest != [size for i, size in enumerate(sizes) if i not in axes]:
            raise NotImplementedError(f"a choice of {numbers}")
        axis = int(axes[0])
        if equation.invars[1].aval.shape == (1,):  # a slice, as it is written of any number of rows
            end = self.node("Add", self.cast(at, np.int64), np.array([sizes[axis]]))
            part = self.node("Slice", table, self.cast(at, np.int64), end, np.array([axis]))
            return self.node("Squeeze", part, np.array([axis])) if numbers.collapsed_slice_dims else part
        last = operand.shape[axis] - 1
        at = self.node("Squeeze", self.cast(at, np.int64), np.array([-1]))
        at = self.node("Min", self.node("Max", at, np.array(0)), np.array(last))
        found = self.node("Gather", table, at, axis=axis)
        # ONNX puts what was chosen in the place of the axis, JAX where the offsets aren't.
        count = len(equation.invars[1].aval.shape) - 1
        chosen = list(range(axis, axis + count))
        kept = [i for i in range(len(rest) + count) if i not in chosen]
        order = [kept.pop(0) if i in numbers.offset_dims else chosen.pop(0) for i in range(len(rest) + count)]
        return found if order == sorted(order) else self.node("Transpose", found, perm=order)


def _like(equation: Any, value: float) -> np.ndarray:
    return np.asarray(value, equation.invars[0].aval.dtype)


def as_type(dtype: Any) -> int:
    """ONNX's number of a type; of text that of strings."""
    return TensorProto.STRING if dtype is str else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def used(nodes: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """The nodes that some values need."""
    needed, kept = set(names), []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    return kept[::-1]


def traced(function: Callable, shapes: Sequence[jax.ShapeDtypeStruct]) -> tuple[Any, Sequence[Any]]:
    """The jaxpr of a function of some shapes, and its constants."""
    found = jax.make_jaxpr(function)(*shapes)
    return found.jaxpr, found.consts
