"""Flax Linen modules that map x to a distribution over y."""

import dataclasses
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Num, PyTree

from jaxreg import settings
from jaxreg.data.border import default_dtype
from jaxreg.distributions.families import FAMILIES
from jaxreg.distributions.gaussian import Gaussian
from jaxreg.distributions.mixture import GaussianMixture

# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), which is how torch.nn.Linear starts its weights.
torch_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

ACTIVATIONS = {name: getattr(nn, name) for name in settings.ACTIVATIONS}
VARIANCE_BIAS = -1.0
SMALLEST_STD = 1e-3
SMALLEST_PRECISION = 1e-6

# A Linen module, or anything with `init(key, x)` and `apply(variables, x)`.
Model = Any

# Fields of a module that say where it stands in another, not what it is.
UNSAVED = ("parent", "name")

# Names that the parameters of the variance have in the models here; a user's own do well to keep to them.
VARIANCE_NAMES = ("log_var_head", "precision_head", "log_var", "weight_head")


def torch_bias_init(fan_in: int) -> Callable[..., Array]:
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)), which is how torch.nn.Linear starts its biases."""
    bound = float(fan_in) ** -0.5

    def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class _Regressor(nn.Module):
    """What the regressors share: their fields, the trunk and the linear layers."""

    hidden: Sequence[int] | int = (128, 128)
    outputs: int | None = None
    activation: Callable[[Array], Array] | str = nn.relu
    embedding: nn.Module | None = None
    kernel_init: Callable[..., Array] = torch_kernel_init
    bias_init: Callable[..., Array] | None = None

    def __post_init__(self) -> None:
        # One spelling of each field, so that models that compute the same are equal and share programs.
        fields = {
            "hidden": _checked_widths(self.hidden),
            "outputs": None if self.outputs is None else _checked_width("outputs", self.outputs),
            "activation": _checked_activation(self.activation),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        super().__post_init__()

    def __reduce__(self) -> tuple:
        # JAX's own activations are functions that can't be pickled; they go by their name.
        kept = [field for field in dataclasses.fields(self) if field.name not in UNSAVED]
        values = {field.name: getattr(self, field.name) for field in kept}
        changed = {
            field.name: values[field.name] for field in kept if values[field.name] is not field.default
        }
        name = next((name for name, known in ACTIVATIONS.items() if known is self.activation), None)
        return partial(type(self), **(changed if name is None else changed | {"activation": name})), ()

    def _linear(
        self, x: Array, features: int, name: str, bias_init: Callable[..., Array] | None = None
    ) -> Array:
        layer = nn.Dense(
            features,
            kernel_init=self.kernel_init,
            bias_init=bias_init or self.bias_init or torch_bias_init(x.shape[-1]),
            param_dtype=x.dtype,
            name=name,
        )
        return layer(x)

    def _trunk(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(default_dtype(x.dtype))
        if self.embedding is not None:
            x = self.embedding(x)
        for i, width in enumerate(self.hidden):
            x = self.activation(self._linear(x, width, f"hidden_{i}"))
        return x

    def _head(self, x: Array, name: str, bias_init: Callable[..., Array] | None = None) -> Array:
        out = self._linear(x, self.outputs or 1, name, bias_init)
        return out[..., 0] if self.outputs is None else out

    def _heads(self, x: Array, name: str, bias_init: Callable[..., Array]) -> Array:
        """A head for each component, which are the leading axis."""
        out = self._linear(x, self.components * (self.outputs or 1), name, bias_init)
        out = jnp.moveaxis(out.reshape(*out.shape[:-1], self.components, -1), -2, 0)
        return out[..., 0] if self.outputs is None else out


class MeanVarRegressor(_Regressor):
    """A network that gives a mean and a variance for each input (heteroscedastic).

    Hidden layers shared by two linear heads; the variance is `softplus(head) + smallest_std^2`, its bias
    starts at -1. Nix & Weigend 1994, "Estimating the mean and variance of the target probability
    distribution".

    Args:
        hidden: widths of the hidden layers; a single number is one layer.
        outputs: None for targets of shape `(n,)`, d for targets of shape `(n, d)`.
        activation: applied after each hidden layer; a function, or a name among `ACTIVATIONS`.
        embedding: a Linen module put before the first layer, `(n, features) -> (n, any)`.
        kernel_init: initialiser of the weights; default that of `torch.nn.Linear`.
        bias_init: initialiser of the biases; None is that of `torch.nn.Linear`.
        detach_variance: the variance head reads the features as constants, so that it has no part in what
            they become; `faithful_nll` wants that.
        smallest_std: a floor under the standard deviation, in units of y.

    Raises:
        ValueError: if a width or `outputs` isn't a positive whole number, or the activation isn't known.

    >>> import jax
    >>> from jaxreg import MeanVarRegressor
    >>> model = MeanVarRegressor(hidden=(32, 32))
    >>> x = jax.numpy.ones((5, 3))
    >>> params = model.init(jax.random.key(0), x)
    >>> mean, log_var = model.apply(params, x)
    >>> mean.shape, log_var.shape
    ((5,), (5,))
    """

    detach_variance: bool = False
    smallest_std: float = SMALLEST_STD

    @nn.compact
    def __call__(self, x: Num[ArrayLike, "... features"]) -> Gaussian:
        """Map features to a Gaussian over y."""
        features = self._trunk(x)
        mean = self._head(features, "mean_head")
        if self.detach_variance:
            features = jax.lax.stop_gradient(features)
        raw = self._head(features, "log_var_head", nn.initializers.constant(VARIANCE_BIAS))
        return Gaussian(mean, jnp.log(nn.softplus(raw) + self.smallest_std**2))


class NaturalRegressor(_Regressor):
    """A network that gives the natural parameters of a Gaussian for each input (heteroscedastic).

    Two linear heads give `mean / var`, and by a softplus the precision `1 / var`. Under `gaussian_nll` their
    gradients are `mean - y` and, by `-precision / 2`, `mean^2 + var - y^2`: the step of the mean isn't
    divided by the variance. Immer et al. 2023, "Effective Bayesian heteroscedastic regression with deep
    neural networks".

    The arguments are those of `MeanOnlyRegressor`. The variance starts as that of `MeanVarRegressor`.

    >>> import jax
    >>> from jaxreg import NaturalRegressor
    >>> model = NaturalRegressor(hidden=(32, 32))
    >>> x = jax.numpy.ones((5, 3))
    >>> mean, log_var = model.apply(model.init(jax.random.key(0), x), x)
    >>> mean.shape, log_var.shape
    ((5,), (5,))
    """

    @nn.compact
    def __call__(self, x: Num[ArrayLike, "... features"]) -> Gaussian:
        """Map features to a Gaussian over y."""
        features = self._trunk(x)
        eta_1 = self._head(features, "mean_head")
        start = np.log(np.expm1(1 / np.log1p(np.exp(VARIANCE_BIAS))))
        raw = self._head(features, "precision_head", nn.initializers.constant(start))
        return Gaussian.from_natural(eta_1, -0.5 * (nn.softplus(raw) + SMALLEST_PRECISION))


class MixtureRegressor(_Regressor):
    """A network that gives a mixture of Gaussians for each input: noise of any shape.

    Three linear heads give each component its mean, its variance by a softplus, and by a softmax over the
    components its weight. Bishop 1994, "Mixture density networks". With several outputs each has a mixture of
    its own.

    Args:
        components: how many.
        smallest_std: a floor under the standard deviation of each component, in units of y: where targets are
            rounded, or many are equal, the density of a component on one value has no bound.
        others: as `MeanOnlyRegressor`.

    Raises:
        ValueError: also if `components` isn't a positive whole number.

    >>> import jax
    >>> from jaxreg import MixtureRegressor
    >>> model = MixtureRegressor(components=3, hidden=(32, 32))
    >>> x = jax.numpy.ones((5, 2))
    >>> dist = model.apply(model.init(jax.random.key(0), x), x)
    >>> dist.means.shape, dist.mean.shape
    ((3, 5), (5,))
    """

    components: int = 4
    smallest_std: float = SMALLEST_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", _checked_width("components", self.components))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Num[ArrayLike, "... features"]) -> GaussianMixture:
        """Map features to a mixture over y, whose components are all one member's."""
        features = self._trunk(x)
        # Apart at the start, so that each learns something else.
        means = self._heads(features, "mean_head", _spread(self.components))
        raw = self._heads(features, "log_var_head", nn.initializers.constant(VARIANCE_BIAS))
        weights = nn.softmax(self._heads(features, "weight_head", nn.initializers.zeros_init()), axis=0)
        log_vars = jnp.log(nn.softplus(raw) + self.smallest_std**2)
        return GaussianMixture(means, log_vars, weights, np.zeros(self.components, np.int32))


class FamilyRegressor(_Regressor):
    """A network that gives a distribution of some family for each input: a linear head for each field.

    Args:
        family: name of a family among `distributions.FAMILIES`: StudentT, Laplace, LogNormal, or one of your
            own, after `distributions.register_family`.
        others: as `MeanOnlyRegressor`.

    Raises:
        ValueError: also for a family that isn't registered.

    >>> import jax
    >>> from jaxreg import FamilyRegressor
    >>> model = FamilyRegressor(family="StudentT", hidden=(32, 32))
    >>> x = jax.numpy.ones((5, 3))
    >>> model.apply(model.init(jax.random.key(0), x), x).log_df.shape
    (5,)
    """

    family: str = "StudentT"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(
                f"no family is registered as {self.family!r}, there are {', '.join(FAMILIES)}; "
                "jaxreg.distributions.register_family adds one"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Num[ArrayLike, "... features"]) -> Any:
        """Map features to a distribution of the family over y."""
        features, family = self._trunk(x), FAMILIES[self.family]
        return family.from_raw(*(self._head(features, f"{field}_head") for field in family._fields))


def _spread(components: int) -> Callable[..., Array]:
    """Initialiser of biases that puts the means of components at 0, 0.5, -0.5, 1, -1 and so on."""
    places = np.arange(components)
    at = (places + 1) // 2 * np.where(places % 2, 0.5, -0.5)

    def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        return jnp.repeat(jnp.asarray(at, dtype), shape[0] // components)

    return init


def with_components(model: MixtureRegressor, params: PyTree, components: int) -> tuple[nn.Module, PyTree]:
    """A model of the first components alone, and its parameters; of one component a `MeanVarRegressor`.

    Exact where the others weigh nothing. Parameters may have leading axes, of members for example.
    """
    shared = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in (*UNSAVED, "components")
    }
    kind = MeanVarRegressor if components == 1 else partial(MixtureRegressor, components=components)
    width, own = components * (model.outputs or 1), dict(params["params"])
    for name in ("mean_head", "log_var_head", "weight_head"):
        own[name] = jax.tree.map(lambda leaf: leaf[..., :width], own[name])
    if components == 1:
        del own["weight_head"]
    return kind(**shared), params | {"params": own}


class MeanOnlyRegressor(_Regressor):
    """A network that gives a mean, and one learned log variance per output (homoscedastic).

    The arguments are those of `MeanVarRegressor`. The log variance starts at 0.

    >>> import jax
    >>> from jaxreg import MeanOnlyRegressor
    >>> model = MeanOnlyRegressor(hidden=(32, 32), outputs=2)
    >>> x = jax.numpy.ones((5, 3))
    >>> mean, log_var = model.apply(model.init(jax.random.key(0), x), x)
    >>> log_var.shape
    (5, 2)
    """

    @nn.compact
    def __call__(self, x: Num[ArrayLike, "... features"]) -> Gaussian:
        """Map features to a Gaussian over y."""
        mean = self._head(self._trunk(x), "mean_head")
        shape = () if self.outputs is None else (self.outputs,)
        log_var = self.param("log_var", nn.initializers.zeros_init(), shape, mean.dtype)
        return Gaussian(mean, jnp.broadcast_to(log_var, mean.shape))


def _checked_widths(hidden: Any) -> tuple[int, ...]:
    several = isinstance(hidden, Iterable) and not isinstance(hidden, str)
    return tuple(_checked_width("hidden", width) for width in (hidden if several else [hidden]))


def _checked_width(name: str, width: Any) -> int:
    try:
        whole = 0 if isinstance(width, bool) else operator.index(width)
    except TypeError:
        whole = 0
    if whole < 1:
        raise ValueError(f"{name} takes positive whole numbers, got {width!r}")
    return whole


def _checked_activation(activation: Any) -> Callable[[Array], Array]:
    if isinstance(activation, str) and activation in ACTIVATIONS:
        return ACTIVATIONS[activation]
    if not callable(activation):
        raise ValueError(
            f"activation must be a function or one of {', '.join(ACTIVATIONS)}, got {activation!r}"
        )
    return activation


def head_labels(params: PyTree) -> PyTree:
    """Label each parameter "variance" where it belongs to the variance alone, and "mean" elsewhere.

    Optax's `partition` takes it for its labels: see `by_head`.
    """

    def label(path: tuple, _: Array) -> str:
        names = {getattr(part, "key", None) for part in path}
        return "variance" if names & set(VARIANCE_NAMES) else "mean"

    return jax.tree.map_with_path(label, params)


def start_variance(model: nn.Module, params: PyTree, variance: ArrayLike) -> PyTree:
    """Parameters whose variance starts at given numbers: the bias of its head says so.

    The second half of a warm-up: after a run of the mean alone under `squared_error`, the variance starts
    at that run's mean squared error. Sluijterman et al. 2024, "Optimal training of mean variance estimation
    neural networks".

    Args:
        model: a `MeanVarRegressor` or `MeanOnlyRegressor`.
        params: its parameters; they aren't changed.
        variance: positive, a number, or one for each output `(d,)`, in the units of training. A
            `MeanVarRegressor` takes what is below twice the square of its `smallest_std` for that.

    Raises:
        ValueError: for another model, or if a variance isn't positive and finite, or of another shape.

    >>> import jax
    >>> from jaxreg import MeanOnlyRegressor, start_variance
    >>> model = MeanOnlyRegressor(hidden=(4,))
    >>> params = start_variance(model, model.init(jax.random.key(0), jax.numpy.ones((1, 1))), 0.25)
    >>> print(jax.numpy.exp(params["params"]["log_var"]))
    0.25
    """
    shape = () if getattr(model, "outputs", None) is None else (model.outputs,)
    if np.shape(variance) not in ((), shape):
        raise ValueError(f"variance has shape {np.shape(variance)}, expected () or {shape}")
    if not isinstance(variance, jax.core.Tracer):
        if not (np.asarray(variance) > 0).all() or not np.isfinite(variance).all():
            raise ValueError(f"variance must be positive and finite, got {variance}")
    variance = jnp.asarray(variance)
    own = dict(params["params"])
    if isinstance(model, MeanVarRegressor):
        head = own["log_var_head"]
        smallest = model.smallest_std**2
        above = jnp.maximum(variance - smallest, smallest)
        # The inverse of log(1 + exp(b)), in a form that keeps its digits for large variances.
        bias = jnp.broadcast_to(above + jnp.log(-jnp.expm1(-above)), head["bias"].shape)
        own["log_var_head"] = head | {"bias": bias.astype(head["bias"].dtype)}
    elif isinstance(model, MeanOnlyRegressor):
        old = own["log_var"]
        own["log_var"] = jnp.broadcast_to(jnp.log(variance), old.shape).astype(old.dtype)
    else:
        raise ValueError(f"a {type(model).__name__} has no bias that sets its variance alone")
    return params | {"params": own}
