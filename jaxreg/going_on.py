"""What training that goes on from a model takes from it: its network, and the rows that were held out."""

from dataclasses import fields
from typing import Any

import numpy as np

from jaxreg.data.held_out import HeldOut
from jaxreg.data.scaler import Scaler
from jaxreg.model.fitted import Fitted
from jaxreg.settings import EnsembleSettings

# Settings that networks have from the beginning.
OF_NETWORK = "members", "hidden", "activation", "frequencies", "frequency_scale", "noise"


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
    known, faults = settings_of_model(start), []
    for name in OF_NETWORK:
        asked, there = getattr(settings, name), known.get(name)
        if _comparable(asked) != _comparable(there):
            faults.append(f"{name} is {asked!r}, the model has {there!r}")
    if faults:
        raise ValueError(f"{'; '.join(faults)}: leave that as it is to go on, or train a new model")


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
    rows, left = known.rows(numbers)
    return known if left.size and (left[:, 0] >= 0).all() and rows.shape[1] >= least else None


def _comparable(value: Any) -> Any:
    """A setting as it compares with a file's."""
    if isinstance(value, str) or value is None:
        return value
    return tuple(map(float, value)) if hasattr(value, "__iter__") else (float(value),)
