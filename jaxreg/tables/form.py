"""What a user says of how files are written."""

from typing import NamedTuple


class Form(NamedTuple):
    """How files are written, where that can't be found, or is found otherwise.

    Attributes:
        decimal: the decimal mark, "." or ","; None to find it.
        gaps: texts that stand for a missing value, beside `columns.values.GAPS`.
        encoding: of text, as Python names it; None for UTF-8, or what a byte order mark says.
        named: whether text files begin with a line of names; else columns are called 0, 1, 2 ...
        sheet: of a workbook; None for the first.
        unpacked: most bytes that a compressed file may unpack to; None for 50 times its size, or 100 MB.
    """

    decimal: str | None = None
    gaps: tuple[str, ...] = ()
    encoding: str | None = None
    named: bool = True
    sheet: str | None = None
    unpacked: int | None = None

    @property
    def of_values(self) -> "Form":
        """What is said of values, for files that are plain already."""
        return Form(self.decimal, self.gaps)


AS_FOUND = Form()
