"""The estimator's settings, described once: what is checked, what the command offers, what is documented."""

import inspect
import math
import textwrap
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from jaxreg.plain import check_whole

WIDTH = 100

# Each layer takes its time to trace and compile: 256 take seconds, and some thousand would take minutes.
MOST_LAYERS = 256
ACTIVATIONS = "relu", "silu", "gelu", "elu", "softplus", "tanh", "sigmoid"
LOSSES = "beta_nll", "gaussian_nll", "crps"

Check = Callable[[str, Any], None]


class Setting(NamedTuple):
    """A field of a class that is annotated `Annotated[type, check, description]`.

    Attributes:
        type: of its values.
        check: `(name, value)`, raises for a value that no fit can have.
        description: what it means.
    """

    type: Any
    check: Check
    description: str


def settings_of(kind: type) -> dict[str, Setting]:
    """The settings of a class, by name.

    >>> from jaxreg import DeepEnsembleRegressor
    >>> from jaxreg.settings import settings_of
    >>> settings_of(DeepEnsembleRegressor)["members"].description
    'number of networks.'
    """
    hints = get_type_hints(kind, include_extras=True)
    return {name: Setting(*get_args(hint)) for name, hint in hints.items() if get_origin(hint) is Annotated}


def documented(kind: type) -> type:
    """A dataclass whose docstring lists its settings where it says `{settings}`; a decorator."""
    if kind.__doc__:  # none under python -OO
        texts = (f"{name}: {setting.description}" for name, setting in settings_of(kind).items())
        wrapped = (textwrap.fill(text, WIDTH, subsequent_indent=" " * 4) for text in texts)
        listed = textwrap.indent("\n".join(wrapped), " " * 4).lstrip()
        # Without its margin, which newer versions of Python take away by themselves.
        kind.__doc__ = inspect.cleandoc(kind.__doc__).replace("{settings}", listed)
    kind.__init__.__qualname__ = f"{kind.__name__}.__init__"  # which errors name
    return kind


def with_short_signature(kind: type) -> type:
    """A dataclass whose types, which would fill a page, aren't shown as those of its arguments."""
    kind.__init__.__annotations__ = {}
    return kind


def check_settings(settings: Any) -> None:
    """Raise for all values that no fit can have, in one message."""
    faults = []
    for name, setting in settings_of(type(settings)).items():
        try:
            setting.check(name, getattr(settings, name))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("; ".join(faults))


def anything(name: str, value: Any) -> None:
    """A check that all values pass, for what others check."""


def whole(least: int, *others: str | None) -> Check:
    """A check for whole numbers from the least on, or one of the other values."""

    def check(name: str, value: Any) -> None:
        if value in others:
            return
        try:
            check_whole(name, value, least)
        except ValueError as error:
            also = f"; {' and '.join(map(repr, others))} may stand here too" if others else ""
            raise ValueError(f"{error}{also}") from None

    return check


def one_of(names: Collection[str]) -> Check:
    """A check for one of some names."""

    def check(name: str, value: Any) -> None:
        if value not in names:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, names))}, got {value!r}")

    return check


def number(
    least: float | int, most: float | int, words: str, *, above: bool = False, none: bool = False
) -> Check:
    """A check for numbers from `least` to `most`, or with `above` for those above it; `words` say so."""

    def check(name: str, value: Any) -> None:
        if value is None and none:
            return
        if not _is_number(value):
            raise ValueError(f"{name} must be a number, got {value!r}")
        if not least <= value <= most or (above and value == least):
            raise ValueError(f"{name} must be {words}, got {value!r}")

    return check


def true_or_false(name: str, value: Any) -> None:
    """A check for True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def finite_or(word: str) -> Check:
    """A check for a finite number that isn't negative, or a word."""

    def check(name: str, value: Any) -> None:
        if value != word and not (_is_number(value) and 0 <= value < math.inf):
            raise ValueError(f"{name} must be a number not below 0 or {word!r}, got {value!r}")

    return check


def not_negative(name: str, value: Any) -> None:
    """A check for a finite number that isn't negative."""
    if not _is_number(value):
        raise ValueError(f"{name} must be a number, finite and not negative, got {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def widths(name: str, value: Any) -> None:
    """A check for the widths of hidden layers, or of one."""
    if isinstance(value, str) or value is None:
        raise ValueError(f"{name} must be widths of layers, for example (128, 128), got {value!r}")
    layers = list(value) if hasattr(value, "__iter__") else [value]
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"{name} may be {MOST_LAYERS} layers, got {len(layers):,}")
    for width in layers:
        check_whole(name, width, 1)


def two_bounds(name: str, value: Any) -> None:
    """A check for two bounds, of which either may be None, or None, or "auto"."""
    if value is None or value == "auto":
        return
    whole = isinstance(value, tuple | list) and len(value) == 2
    if not whole or not all(end is None or (_is_number(end) and math.isfinite(end)) for end in value):
        raise ValueError(
            f"{name} must be None, 'auto' or two numbers, either of which may be None, got {value!r}"
        )
    lower, upper = value
    if lower is not None and upper is not None and not lower < upper:
        raise ValueError(f"{name} must have the lower one first, got {value!r}")


def columns(name: str, value: Any) -> None:
    """A check for a list of columns, by name or number, or one name."""
    if value is None or not hasattr(value, "__iter__"):
        raise ValueError(f"{name} must be a list of columns' names, for example ['city'], got {value!r}")


@with_short_signature
@dataclass(kw_only=True, repr=False, eq=False)
class EnsembleSettings:
    """What a user may choose of an ensemble, and what it is where nothing is chosen."""

    members: Annotated[int, whole(1), "number of networks."] = 10
    hidden: Annotated[
        Sequence[int] | int, widths, "widths of the hidden layers; 128 is one layer of 128."
    ] = (128, 128)
    activation: Annotated[str, one_of(ACTIVATIONS), f"after each hidden layer: {', '.join(ACTIVATIONS)}."] = (
        "silu"
    )
    frequencies: Annotated[
        int,
        whole(0),
        "frequencies of each feature's periodic embedding, fewer beyond 32 features; 0 for none.",
    ] = 16
    frequency_scale: Annotated[
        float | str,
        finite_or("auto"),
        "multiplies the frequencies that training starts from: 1 for targets that change fast with a "
        'feature, 0 for smooth ones; "auto" tries 1, 0.25 and 0.',
    ] = "auto"
    noise: Annotated[
        int | str,
        whole(1, "auto"),
        "components of the mixture of Gaussians that each network predicts: 1 for Gaussian noise, more where "
        'it is skewed, heavy-tailed or has several humps; "auto" tries 1 and 4.',
    ] = "auto"
    loss: Annotated[str, one_of(LOSSES), f"what is trained on: {', '.join(LOSSES)}."] = "beta_nll"
    bounds: Annotated[
        Sequence[float | int | None] | str | None,
        two_bounds,
        "of the target, which no interval, quantile or mean leaves: (0, None) for at least 0, on the command "
        'line "0,"; "auto" is (0, 1) or (0, None) where all training targets lie there; None for none.',
    ] = None
    epochs: Annotated[
        int | str,
        whole(1, "auto"),
        'most passes over the rows; "auto" is about 3,000 steps, from 60 to 600 epochs, and for rows '
        "that stay in files 200,000 steps, from 1 to 60 epochs.",
    ] = "auto"
    batch_size: Annotated[
        int | str | None,
        whole(1, "auto", None),
        'rows per step; "auto" is 32, and more from 16,384 rows on; None takes all (not of rows in files).',
    ] = "auto"
    learning_rate: Annotated[
        float, not_negative, "of AdamW's first step; it falls to 0 along half a cosine."
    ] = 3e-3
    weight_decay: Annotated[
        float, not_negative, "AdamW's for 1,000 rows; it is multiplied by sqrt(1000 / rows)."
    ] = 0.1
    validation_fraction: Annotated[
        float,
        number(0, 0.5, "from 0 to 0.5"),
        "share of the rows that each member holds out; 0 holds none out, trains for all epochs, and scales "
        "no noise.",
    ] = 0.1
    patience: Annotated[
        float,
        number(0, 1, "a share of the epochs, above 0 up to 1", above=True),
        "share of the epochs without a better score of the held-out rows after which a member stops.",
    ] = 0.3
    time_limit: Annotated[
        float | None,
        number(0, math.inf, "positive seconds or None", above=True, none=True),
        "seconds after which training stops, and the best epochs until then are kept, which a warning says; "
        "None for no limit. Compiling and an epoch under way aren't cut short; with less than 30 s no scale "
        "of the frequencies is tried out.",
    ] = None
    categories: Annotated[
        Sequence[str | int],
        columns,
        "columns to take as categories, numbers among them; by name, or by number.",
    ] = ()
    numbers: Annotated[
        Sequence[str | int], columns, "columns to take as numbers; text among them that is none is a gap."
    ] = ()
    drop: Annotated[Sequence[str | int], columns, "columns to leave out."] = ()
    warm_start: Annotated[
        bool,
        true_or_false,
        "whether `fit` goes on from the networks that are there, whose columns and scales stay.",
    ] = False
    verbose: Annotated[int, whole(0), "1 shows how far the training is: a bar on a terminal, else lines."] = 0
    random_state: Annotated[
        Any, anything, "seed of weights, folds and the order of rows: None, an integer or a RandomState."
    ] = None
    hooks: Annotated[
        Sequence[Any],
        anything,
        "called while the members train, as those of `fit`.",
    ] = ()
