"""Options that several commands have, or that stand for settings of the estimator."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from jaxreg.settings import EnsembleSettings, settings_of

# Settings of the estimator that aren't options of `jaxreg fit`, and types that typer reads itself.
NO_OPTIONS = "hidden", "categories", "numbers", "drop", "warm_start", "verbose", "random_state", "hooks"
TYPES = int, float, str, float | None
# How files are written, where a command can't find it: the fields of `tables.Form`.
FORM = {
    "no_header": (
        Annotated[
            bool,
            typer.Option("--no-header", help="The file begins with a row: columns are called 0, 1, 2 ..."),
        ],
        False,
    ),
    "decimal": (
        Annotated[
            Literal[".", ","] | None, typer.Option(help="Decimal mark; found, where values leave no doubt.")
        ],
        None,
    ),
    "na": (
        Annotated[
            list[str] | None,
            typer.Option(help="Text that stands for a missing value; may be given several times."),
        ],
        None,
    ),
    "encoding": (Annotated[str | None, typer.Option(help="Encoding of text, cp1252 for example.")], None),
    "sheet": (Annotated[str | None, typer.Option(help="Sheet of a workbook; by default the first.")], None),
    "unpacked": (
        Annotated[
            float | None,
            typer.Option(
                help="Most MB that a compressed file may have; by default 100, or 50 times its size."
            ),
        ],
        None,
    ),
}


def with_settings(command: Callable) -> Callable:
    """A command whose `settings` become an option for each setting of the estimator.

    Its `context` is Typer's, whose class isn't always the one by which Typer knows what to pass.
    """
    signature = inspect.signature(command)
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(EnsembleSettings, name),
            annotation=Annotated[
                setting.type if setting.type in TYPES else str, typer.Option(help=setting.description)
            ],
        )
        for name, setting in settings_of(EnsembleSettings).items()
        if name not in NO_OPTIONS
    ]
    kept = [parameter for name, parameter in signature.parameters.items() if name != "settings"]
    command.__annotations__ = command.__annotations__ | {"context": typer.Context}
    command.__signature__ = signature.replace(parameters=[*kept, *options])
    return command


def with_form(command: Callable) -> Callable:
    """A command whose `form` becomes an option for each thing that may be said of how files are written."""
    signature = inspect.signature(command)

    @functools.wraps(command)
    def own(**given: Any) -> None:
        asked = {name: given.pop(name) for name in FORM}
        unpacked = asked["unpacked"]
        if unpacked is not None and not 0 < unpacked < math.inf:
            raise ValueError(f"--unpacked must be a positive number of MB, got {unpacked}")
        form = {"named": not asked["no_header"], "gaps": tuple(asked["na"] or ())}
        form |= {name: asked[name] for name in ("decimal", "encoding", "sheet")}
        command(form=form | {"unpacked": unpacked and int(unpacked * 1e6)}, **given)

    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in FORM.items()
    ]
    kept = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in signature.parameters.items()
        if name != "form"
    ]
    own.__signature__ = signature.replace(parameters=[*kept, *options])
    return own


def said_with_start(context: Any, settings: dict[str, Any]) -> list[str]:
    """Settings that a user says of a model to go on from, which has the others already."""

    def is_said(name: str) -> bool:
        return context.get_parameter_source(name).name != "DEFAULT"

    known = "seed", "category", "number", "drop", "test_fraction"
    if said := [f"--{name.replace('_', '-')}" for name in known if is_said(name)]:
        raise ValueError(f"--from goes on with the model's own {' and '.join(said)}: leave that out")
    return [name for name in settings if is_said(name)]


def number(value: Any) -> Any:
    """A number that was given as text, or no number, where a word might have been; or two with a comma."""
    if value == "None":
        return None
    if isinstance(value, str) and value.count(",") == 1:
        return tuple(number(part.strip()) if part.strip() else None for part in value.split(","))
    for kind in (int, float):
        try:
            return kind(value) if isinstance(value, str) else value
        except ValueError:
            continue
    return value
