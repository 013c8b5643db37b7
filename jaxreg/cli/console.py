"""What the command prints, and where: texts as they are, on any console."""

import io
import os
import re
import sys
import unicodedata
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxreg.files import renamed

NUMBER = re.compile(r"(?<!\S)[-+]?\d[\d.,e+-]*%?(?!\S)")


def visible(text: str) -> str:
    r"""The same text with escapes for what a terminal would obey, and for what no encoding has.

    >>> from jaxreg.cli.console import visible
    >>> print(visible("red \x1b[31m, half of a letter \udc80"))
    red \x1b[31m, half of a letter \udc80
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class Plain(Console):
    """Prints texts as they are, in tables too, but for what `visible` escapes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, emoji=False, markup=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Make of a string what is printed, line by line."""
        return super().render_str("\n".join(map(visible, renamed(text).split("\n"))), **settings)


out, err = Plain(), Plain(stderr=True)


def say(text: str) -> None:
    """One line on standard output."""
    out.print(text, soft_wrap=True)


def show(table: Table) -> None:
    """A table on standard output; in a narrow one words are broken, numbers never."""
    for column in table.columns:
        numbers = (number for cell in column.cells for number in NUMBER.findall(str(cell)))
        column.overflow, column.min_width = "fold", max(map(len, numbers), default=0)
    out.print(table, crop=False)


def note(kind: str, message: object, style: str) -> None:
    """One line on standard error."""
    err.print(f"{kind}: {' '.join(str(message).split())}", style=style, soft_wrap=True)


def as_utf8(given: str | list[str] | None) -> str | list[str] | None:
    """Names of columns as files have them, where the locale's encoding lacks their letters."""
    if isinstance(given, list):
        return [as_utf8(name) for name in given]
    if given is None or given.isprintable():
        return given and unicodedata.normalize("NFC", given)  # as the names of files' columns are
    try:
        return os.fsencode(given).decode()
    except UnicodeError:
        return given


def prepare_streams() -> None:
    """Have any text be printed by any console, and nothing of ours go to where a stream was closed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open until the process ends
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
