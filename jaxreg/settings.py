"""Settings described once: what is checked, what the command offers, what the documentation says."""

import math
import textwrap
from collections.abc import Callable, Collection
from numbers import Real
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from jaxreg.checks import check_whole

WIDTH = 100

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

    >>> from jaxreg.estimator import DeepEnsembleRegressor
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
        kind.__doc__ = kind.__doc__.replace(
            "{settings}", textwrap.indent("\n".join(wrapped), " " * 8).lstrip()
        )
    # Types would make of its signature a page of help, and its values are checked by `check_settings`.
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
        if value not in others:
            check_whole(name, value, least)

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
        if not isinstance(value, Real):
            raise ValueError(f"{name} must be a number, got {value!r}")
        if not least <= value <= most or (above and value == least):
            raise ValueError(f"{name} must be {words}, got {value!r}")

    return check


def finite_or(word: str) -> Check:
    """A check for a finite number that isn't negative, or a word."""

    def check(name: str, value: Any) -> None:
        if value != word and not (isinstance(value, Real) and 0 <= value < math.inf):
            raise ValueError(f"{name} must be a number not below 0 or {word!r}, got {value!r}")

    return check


def widths(most: int) -> Check:
    """A check for the widths of so many hidden layers at most, or of one."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, str) or value is None:
            raise ValueError(f"{name} must be widths of layers, for example (128, 128), got {value!r}")
        layers = list(value) if hasattr(value, "__iter__") else [value]
        if len(layers) > most:
            raise ValueError(f"{name} may be {most} layers, got {len(layers):,}")
        for width in layers:
            check_whole(name, width, 1)

    return check
