"""Checks, warnings and words of messages that need no library: whole numbers, names, counts."""

import operator
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

# The largest whole number that runs count with.
MOST = 2**31 - 1

# What stands between a line of a user's and a warning: the package, and what wraps its functions.
OURS = {"jaxreg", "contextlib", "beartype", "jaxtyping"}


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise unless a number is whole and not too small."""
    try:
        whole = operator.index(None if isinstance(value, bool) else value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if whole < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if whole > MOST:
        raise ValueError(f"{name} must be at most {MOST:,}, got {value:,}")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's that led here, so that each such line is warned of once."""
    frame, level = sys._getframe(1), 2
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Column names for a message.

    >>> from jaxreg.plain import listed
    >>> listed(["a", "b", "c"], most=2)
    "columns 'a', 'b' and 1 more"
    """
    return ("columns " if len(names) > 1 else "column ") + quoted(names, most)


def quoted(names: Sequence[str], most: int = 20) -> str:
    """Names for a message.

    >>> from jaxreg.plain import quoted
    >>> quoted(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """The end of a message on a column that isn't there: one with almost its name, if there is any.

    >>> from jaxreg.plain import did_you_mean
    >>> did_you_mean("Price", ["area", "price"])
    "; did you mean 'price'?"
    >>> did_you_mean("city", ["area", "price"])
    ''
    """
    folded = {each.casefold(): each for each in names}
    close = get_close_matches(name.casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""


def counted(count: int, what: str) -> str:
    """A number of things, the word for them in the singular or the plural.

    >>> from jaxreg.plain import counted
    >>> counted(1, "column"), counted(2000, "column")
    ('1 column', '2,000 columns')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"
