"""What distributions share: what each answers, and how methods are compiled, checked and take levels."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import (
    TYPE_CHECKING,
    Any,
    NamedTuple,
    Protocol,
    Self,
    TypeVar,
    dataclass_transform,
    runtime_checkable,
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxreg.checks import check_probability

# Arrays of any library, nested lists, and series.
Values = Any
# What a prediction holds and gives: JAX's arrays, or NumPy's.
Floats = Float[Array | np.ndarray, "..."]
Method = TypeVar("Method", bound=Callable)
Levels = ArrayLike | Sequence[ArrayLike]

LOG_2PI = float(np.log(2 * np.pi))
INV_SQRT_PI = float(1 / np.sqrt(np.pi))
SQRT_HALF = float(np.sqrt(0.5))
INV_SQRT_2PI = float(1 / np.sqrt(2 * np.pi))

if TYPE_CHECKING:

    @dataclass_transform(frozen_default=True)
    class Record(tuple[Any, ...]):
        """A NamedTuple, an index of which type checkers would take for that of a field."""

        def __new__(cls, *fields: Any, **named: Any) -> Self: ...  # noqa: D102 - for type checkers
        def _replace(self, **fields: Any) -> Self: ...

else:
    Record = NamedTuple


@runtime_checkable
class Prediction(Protocol):
    """What every prediction answers, over `(n,)` or `(n, d)`; conformal intervals answer no more.

    `isinstance` looks for the methods alone, so that it computes nothing.
    """

    if TYPE_CHECKING:

        @property
        def mean(self) -> Floats:
            """In units of y."""

        @property
        def std(self) -> Floats:
            """Standard deviation, in units of y; `std**2 = aleatoric**2 + epistemic**2`."""

        @property
        def aleatoric(self) -> Floats:
            """Standard deviation of the noise."""

        @property
        def epistemic(self) -> Floats:
            """Standard deviation of the members' means."""

    def interval(self, level: Levels = 0.95) -> tuple[Floats, Floats]:
        """Interval `(lo, hi)` that holds a share `level`, of shape `level.shape + mean.shape`."""

    def quantile(self, q: Levels) -> Floats:
        """Value below which a share q of the probability lies; shape `q.shape + mean.shape`."""

    def output(self, i: int) -> "Prediction":
        """The prediction of one of several outputs, over `(n,)`."""

    def __getitem__(self, rows: Any) -> "Prediction":
        """The prediction of some rows, by a number, a slice, or a list of numbers or booleans."""


@runtime_checkable
class Distribution(Prediction, Protocol):
    """A prediction with a density and a cdf: a Gaussian, a GaussianMixture, an Affine or Recalibrated one.

    The first three also have `crps(y)`, `log_cdf(y)`, `sample(key, shape)` and `moment_matched()`, exact as
    all here. What a model may return is also a NamedTuple of arrays, whose `row_axis` says on which axis they
    have rows: the first array has the whole shape, and one without that axis is the same for all rows.

    >>> import jax.numpy as jnp
    >>> from jaxreg import Distribution, Gaussian
    >>> isinstance(Gaussian(jnp.zeros(3), jnp.zeros(3)), Distribution)
    True
    """

    def log_prob(self, y: Values) -> Floats:
        """Log density at y, elementwise, in nats."""

    def cdf(self, y: Values) -> Floats:
        """Probability of a value at most y, elementwise."""

    def pit(self, y: Values) -> Floats:
        """Probability integral transform: the cdf at y, uniform if the prediction is right."""

    def output(self, i: int) -> "Distribution":
        """The distribution of one of several outputs, over `(n,)`."""

    def __getitem__(self, rows: Any) -> "Distribution":
        """The distribution of some rows."""


def select_rows(values: Array | np.ndarray, rows: Any, axis: int = 0) -> Array | np.ndarray | np.generic:
    """Rows of an array, which are on an axis, as `Prediction` takes them.

    Raises:
        IndexError: for a row that isn't there, of which JAX would take the nearest one, or for anything else.
    """
    if np.ndim(values) <= axis:
        raise IndexError("a prediction over () has no rows")
    if not isinstance(rows, slice | jax.core.Tracer):
        rows_there = np.arange(values.shape[axis])
        selected = None if isinstance(rows, tuple) else rows_there[rows]
        if selected is None or selected.ndim > 1:
            raise IndexError(
                "rows are selected by a number, a slice, or a list of numbers or booleans, got "
                f"{rows!r}; output(i) selects an output"
            )
        rows = selected
    found = values[(slice(None),) * axis + (rows,)]
    return np.asarray(found) if isinstance(values, np.ndarray) else found


def shape_of(dist: Any) -> tuple[Any, ...]:
    """What a distribution is over, `(n,)` or `(n, d)`: the shape of its first array from the rows on."""
    return np.shape(jax.tree.leaves(dist)[0])[dist.row_axis :]


def map_rows(function: Callable, *dists: Any) -> Any:
    """Distributions of one kind, with a function `(*arrays, axis)` applied to the arrays that have rows."""
    axis = dists[0].row_axis

    def mapped(first: Any, *others: Any) -> Any:
        return function(first, *others, axis) if np.ndim(first) > axis else first

    return jax.tree.map(mapped, *dists)


def of_rank(values: ArrayLike, like: ArrayLike) -> ArrayLike:
    """Values, whose axes are the last ones, with as many axes as others have."""
    return values.reshape((1,) * (np.ndim(like) - values.ndim) + values.shape)


def one_line(dist: Any) -> str:
    """A repr: `Gaussian(mean (3,) -1 to 3, std (3,) 0.5 to 2)`."""
    means, log_vars, *_ = tuple(dist)
    name, s = type(dist).__name__, dist._fields[0][4:]
    return f"{name}(mean{s} {brief(means)}, std{s} {brief(log_vars, lambda log_var: np.exp(0.5 * log_var))})"


def brief(values: Any, of: Callable = np.asarray) -> str:
    """The shape of an array and what its values span; of one that is traced or can't be read the shape."""
    shape = str(getattr(values, "shape", ())).replace("()", "")
    try:
        with np.errstate(all="ignore"):
            numbers = of(np.asarray(values, np.float64))
        ends = dict.fromkeys(f"{end:.3g}" for end in (numbers.min(), numbers.max()))
    except Exception:  # a repr never raises
        ends = ["" if shape else "?"]
    return f"{shape} {' to '.join(ends)}".strip()


def as_shape(shape: tuple[int, ...] | int) -> tuple[int, ...]:
    """A shape of draws, of which a number is one axis; or an error that names what is none."""
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    for size in sizes:
        if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 0:
            raise ValueError(f"shape must be whole numbers of draws, got {shape!r}")
    return sizes


def result_dtype(*arrays: ArrayLike) -> np.dtype:
    """What arrays are computed in together: whole numbers as floats."""
    return jnp.result_type(*arrays, 0.0)


def as_floating(*arrays: ArrayLike) -> tuple[Array, ...]:
    """Arrays in the dtype that they are computed in together."""
    return tuple(jnp.asarray(array, result_dtype(*arrays)) for array in arrays)


def compiled_method(function: Method) -> Method:
    """Compile a method that takes values of y: arrays of any library, nested lists, or traced arrays."""
    compiled = jax.jit(function)

    @wraps(function)
    def method(self: Any, y: Any) -> Array:
        return compiled(with_checked_weights(self), y if isinstance(y, jax.Array) else np.asarray(y))

    return method


if TYPE_CHECKING:
    compiled_property = property
else:

    def compiled_property(function: Callable) -> property:
        """Compile a property."""
        compiled = jax.jit(function)
        return property(wraps(function)(lambda self: compiled(with_checked_weights(self))))


def with_checked_weights(dist: Any) -> Any:
    """The same distribution, or an error if its weights can't be shares, or its members be members."""
    if getattr(dist, "weights", None) is not None:
        check_shares(dist.weights)
    if getattr(dist, "members", None) is not None:
        check_members(dist.members, len(dist.means))
    return dist


def check_shares(weights: ArrayLike) -> None:
    """Raise unless weights of components can be shares; traced values pass unchecked."""
    if isinstance(weights, jax.core.Tracer):
        return
    weights = np.asarray(weights)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any(axis=0).all()):
        raise ValueError(f"weights must be finite, not negative and not all 0, got {brief(weights)}")


def check_members(members: ArrayLike, components: int) -> None:
    """Raise unless each of some components has the number of its member; traced values pass unchecked."""
    if isinstance(members, jax.core.Tracer):
        return
    numbers = np.asarray(members)
    whole = numbers.dtype.kind in "iu" and numbers.shape == (components,)
    if not whole or numbers.min(initial=0) < 0 or numbers.max(initial=0) >= components:
        raise ValueError(
            f"members must be a whole number from 0 to {components - 1} for each of {components} components, "
            f"got {members}"
        )


def tails(q: ArrayLike | Sequence[ArrayLike], like: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """Quantile levels as the probability of the smaller tail, and whether that is the upper one.

    Numbers are split before they are rounded to the dtype of a prediction: float32 has no 1 - 1e-9.
    """
    check_probability("q", q)
    xp, q = (jnp, q) if isinstance(q, jax.core.Tracer) else (np, np.asarray(q, np.float64))
    tail = xp.where(q > 0.5, 1 - q, q)
    _check_tail("q", tail, like)
    return tail, q > 0.5


def both_tails(level: ArrayLike | Sequence[ArrayLike], like: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """The tails outside central intervals, the lower one first."""
    check_probability("level", level)
    xp, level = (jnp, level) if isinstance(level, jax.core.Tracer) else (np, np.asarray(level, np.float64))
    tail = (1 - level) / 2
    _check_tail("level", tail, like)
    return xp.stack([tail, tail]), np.stack([np.zeros(tail.shape, bool), np.ones(tail.shape, bool)])


def _check_tail(name: str, tail: ArrayLike, like: ArrayLike) -> None:
    """Raise if a tail is so small that the prediction's dtype takes it for 0."""
    dtype = jnp.result_type(like, 0.0)
    if not isinstance(tail, jax.core.Tracer) and (tail < jnp.finfo(dtype).tiny).any():
        raise ValueError(f"{name} leaves a tail of {np.min(tail):g}, which {dtype} takes for 0")


def pair(ends: Array) -> tuple[Array, Array]:
    """Both ends of an interval, which are stacked."""
    lower, upper = ends
    return lower, upper


def fill_rows(values: ArrayLike, axis: int = 0, fewest: int = 1, most: int | None = None) -> np.ndarray:
    """Rows filled up with repeats of the last one to a power of two, within bounds; no rows stay none."""
    values = np.asarray(values)
    n = values.shape[axis]
    size = max(1 << (n - 1).bit_length(), fewest) if n else 0
    missing = (size if most is None else min(size, most)) - n
    if not missing:
        return values
    return np.concatenate([values, np.repeat(np.take(values, [-1], axis), missing, axis)], axis)
