"""What training that goes on from a model takes from it: its network, and the rows that were held out."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from jaxreg.data.held_out import HeldOut
from jaxreg.data.scaler import Scaler
from jaxreg.model.fitted import Fitted
from jaxreg.plain import listed, warn
from jaxreg.settings import EnsembleSettings

# Settings that a model has from the beginning; and those that say what columns are, which it may not name.
KEPT = "members", "hidden", "activation", "frequencies", "frequency_scale", "noise", "validation_fraction"
OF_COLUMNS = "categories", "numbers", "drop"


def settings_of_model(fitted: Fitted) -> dict[str, Any]:
    """The estimator's settings, as far as a model has them."""
    settings, names = fitted.settings or {}, [field.name for field in fields(EnsembleSettings)]
    known = {name: settings[name] for name in names if name in settings}
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    return known | dict.fromkeys(settings.get("automatic", ()), "auto")


def check_goes_on(settings: EnsembleSettings, start: Fitted) -> None:
    """Raise unless training of these settings can go on from a model.

    Raises:
        ValueError: names the settings that its networks don't have.
    """
    if isinstance(start.x_scaler, Scaler):
        raise ValueError("the model was trained on files standardised before: it can't go on")
    known = dict.fromkeys(OF_COLUMNS, ()) | settings_of_model(start)
    faults = [
        f"{name} is {asked!r}, the model has {known[name]!r}"
        for name in (*KEPT, *OF_COLUMNS)
        if name in known and _comparable(asked := getattr(settings, name)) != _comparable(known[name])
    ]
    if faults:
        raise ValueError(f"{'; '.join(faults)}: leave that as it is to go on, or train a new model")


def check_targets(start: Fitted, shape: tuple[int, ...], names: Sequence[str] | None) -> None:
    """Raise unless targets are those of a model."""
    there, given = start.model.outputs, shape[1] if len(shape) == 2 else None
    if there != given:
        what = ("one target, y of shape (n,)", f"{there} targets, y of shape (n, {there})")
        raise ValueError(f"y has shape {shape}, the model has {what[there is not None]}")
    if None not in (names, start.target_names) and tuple(names) != tuple(start.target_names):
        raise ValueError(
            f"y has {listed(names)}, the model's targets are {listed(start.target_names)}: give them so"
        )


def bounds_with(
    start: Fitted, found: tuple[float, float] | None, asked: object
) -> tuple[float, float] | None:
    """The bounds of a model that goes on, where they are "auto": those of its rows and of the new ones.

    Warns:
        UserWarning: where they are others than they were.
    """
    if asked != "auto":
        return found
    both = None if None in (found, start.bounds) else (0.0, max(found[1], start.bounds[1]))
    if both != start.bounds:
        warn(f"the target's bounds were {start.bounds} and are {both} now")
    return both


def check_all_members(settings: EnsembleSettings, start: Fitted) -> None:
    """Raise where members are missing whose rows in files nobody could tell."""
    if start.members < settings.members:
        raise ValueError(
            f"{settings.members - start.members} of the model's {settings.members} members failed: others "
            "would hold out other rows of the files than they did; train a new model"
        )


def held_out_before(start: Fitted, numbers: np.ndarray, least: int) -> HeldOut | None:
    """What a model's members hold out of rows of some numbers.

    None where the model doesn't say, or some member would hold none out or train on fewer rows than `least`.
    """
    if (kept := (start.settings or {}).get("held_out")) is None:
        return None
    known = HeldOut.of(kept)
    left = known.are_left(numbers)
    enough = left.any(axis=1) & ((~left).sum(axis=1) >= least)
    return known if enough.all() else None


def _comparable(value: Any) -> Any:
    """A setting as it compares with a file's, which has columns by name: 0.0 and "0" are 0."""
    several = hasattr(value, "__iter__") and not isinstance(value, str)
    return tuple(str(own).removesuffix(".0") for own in (value if several else (value,)))
