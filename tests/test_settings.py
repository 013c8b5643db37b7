"""Settings that are described once."""

import math
from dataclasses import dataclass
from typing import Annotated

import pytest

from jaxreg import recipe
from jaxreg.estimator import DeepEnsembleRegressor
from jaxreg.networks import models
from jaxreg.settings import (
    ACTIVATIONS,
    LOSSES,
    anything,
    check_settings,
    documented,
    finite_or,
    not_negative,
    number,
    one_of,
    settings_of,
    whole,
    widths,
)


@documented
@dataclass(kw_only=True)
class Oven:
    """Bakes.

    Args:
        {settings}

    Returns:
        Bread.
    """

    loaves: Annotated[int, whole(1, "all"), "how many."] = 1
    heat: Annotated[float, number(0, 300, "from 0 to 300"), "in degrees, " + "very " * 30 + "hot."] = 220.0


def test_a_docstring_lists_what_fields_say():
    first, *rest = Oven.__doc__.splitlines()
    assert first == "Bakes." and rest[2] == "    loaves: how many."
    assert rest[3].startswith("    heat: in degrees") and rest[4].startswith("        very")
    assert rest[-2:] == ["Returns:", "    Bread."]
    described = settings_of(DeepEnsembleRegressor)
    assert set(described) == set(DeepEnsembleRegressor().get_params())
    assert all(f"\n    {name}: " in DeepEnsembleRegressor.__doc__ for name in described)


def test_names_are_those_of_what_they_stand_for():
    assert (*models.ACTIVATIONS,) == ACTIVATIONS and (*recipe.LOSSES,) == LOSSES


def test_all_faults_are_named_at_once():
    check_settings(Oven(loaves="all", heat=0))
    words = (
        "^loaves must be at least 1, got 0; 'all' may stand here too; heat must be from 0 to 300, got 301$"
    )
    with pytest.raises(ValueError, match=words):
        check_settings(Oven(loaves=0, heat=301))


@pytest.mark.parametrize(
    "check, right, wrong",
    [
        (whole(1, "auto", None), [1, 7, "auto", None], [0, 1.5, "many", True]),
        (one_of(["a", "b"]), ["a"], ["c", None]),
        (number(0, 1, "a share", above=True), [1, 0.5], [0, 1.1, math.nan, "0.5", None, True]),
        (number(0, math.inf, "seconds", none=True), [None, 0, 9.5], [-1, "1"]),
        (finite_or("auto"), ["auto", 0, 2.5], ["high", -1, math.inf, True]),
        (widths, [8, (8,), [8, 16]], [[8] * 257, "8", None, (0,), 1.5, True]),
        (not_negative, [0, 1e-3], [-1, math.nan, math.inf, "1", None, True]),
        (anything, [None, "x"], []),
    ],
)
def test_checks(check, right, wrong):
    for value in right:
        check("it", value)
    for value in wrong:
        with pytest.raises(ValueError, match="^it m"):
            check("it", value)
