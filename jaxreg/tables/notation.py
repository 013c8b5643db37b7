"""How text writes numbers: decimal marks, separators of thousands, currency and percent signs."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl

from jaxreg.columns.values import FIRST_VALUES, NEARLY_ALL, without_gaps

# Decimal marks and separators of thousands, the likelier first.
MARKS = (".", ""), (",", ""), (".", ","), (",", "."), (".", " "), (",", " "), (".", "'"), (",", "'")
WORDS = {".": "points", ",": "commas", " ": "spaces", "'": "apostrophes"}
# What stands for a separator of thousands in a regular expression.
SEPARATED_BY = {",": ",", ".": r"\.", " ": r"[ \x{a0}\x{202f}\x{2009}]", "'": r"['\x{2019}]"}
SIGNS = r"\p{Sc}|%|EUR|USD|GBP|CHF|JPY|CNY|INR|zł|Kč|kr"
MINUS = r"[-\x{2212}]"


class Notation(NamedTuple):
    """How a column writes its numbers.

    Attributes:
        decimal: "." or ",".
        thousands: what stands between groups of three digits; "" for nothing.
        sign: currency or percent sign that the values have; "" for none.
        doubtful: whether the other decimal mark would do as well.

    >>> import polars as pl
    >>> from jaxreg.tables.notation import Notation
    >>> Notation(",", ".").read(pl.Series(["1.299,99", "-7", "(12,5)", "none"])).to_list()
    [1299.99, -7.0, -12.5, None]
    """

    decimal: str = "."
    thousands: str = ""
    sign: str = ""
    doubtful: bool = False

    def read(self, text: pl.Series) -> pl.Series:
        """The numbers that text writes, float64; null where it writes none."""
        if self.thousands == "" and self.decimal == "," and not text.str.contains(".", literal=True).any():
            # Most columns hold nothing but digits and commas, and take a third of the time.
            quick = text.str.strip_chars().str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)
            if quick.null_count() == text.null_count() and quick.is_finite().all():
                return quick
        separated, mark = SEPARATED_BY.get(self.thousands), re.escape(self.decimal)
        whole = rf"(?:[1-9]\d{{0,2}}(?:{separated}\d{{3}})+|\d+)" if separated else r"\d+"
        number = rf"(?:{whole}(?:{mark}\d*)?|{mark}\d+)(?:[eE][-+]?\d+)?"
        before, after = rf"\(?\s*[-+\x{{2212}}]?\s*(?:{SIGNS})?\s*", rf"\s*(?:{SIGNS})?\s*"
        pattern = rf"^{before}(?:[-+\x{{2212}}]\s*)?{number}(?:{after}\)?|{MINUS}{after})$"
        bare = without_gaps(text)
        digits = bare.str.replace_all(rf"{SIGNS}|\s|{separated or ' '}", "")
        digits = digits.str.replace_all(MINUS, "-").str.replace(r"^\((.*)\)$", "-$1")
        digits = digits.str.replace(r"^(.*\d)-$", "-$1").str.replace(mark, ".").str.replace(r"^\+", "")
        return digits.set(~bare.str.contains(pattern), None).cast(pl.Float64, strict=False)

    def told(self) -> str:
        """In words."""
        parts = ["decimal commas"] if self.decimal == "," else []
        parts += [f"{WORDS[self.thousands]} between thousands"] if self.thousands else []
        parts += [f"{'percent' if self.sign == '%' else 'currency'} signs"] if self.sign else []
        other = "." if self.decimal == "," else ","
        parts = parts or ["minus signs written otherwise"]
        return " and ".join(parts) + (f", which may be decimal {WORDS[other]}" if self.doubtful else "")


def notations(table: pl.DataFrame, names: Sequence[str], decimal: str | None = None) -> dict[str, Notation]:
    """How columns of text write numbers, where they don't as Python does.

    A column whose decimal mark is doubtful is taken as the others of the file are, or as `decimal` says; and
    its commas as standing between thousands where nothing says more.
    """
    found = {name: list(_possible(table.get_column(name))) for name in names}
    sure = {own[0].decimal for name, own in found.items() if own and _says(table.get_column(name), own)}
    decimal = decimal or next((mark for mark in (",", ".") if mark in sure), None)
    taken = {}
    for name, own in found.items():
        fitting = [each for each in own if each.decimal == decimal] or own
        if len({each.decimal for each in own}) > 1 and decimal is None and own[0] != Notation():
            fitting = [each._replace(doubtful=True) for each in own if each.thousands]
        if fitting and not (fitting[0] == Notation() and _is_plain(table.get_column(name))):
            taken[name] = fitting[0]
    return taken


def _says(column: pl.Series, possible: Sequence[Notation]) -> bool:
    """Whether a column says what its file's decimal mark is."""
    return len({each.decimal for each in possible}) == 1 and column.alias("").str.contains("[.,]").any()


def _is_plain(column: pl.Series) -> bool:
    """Whether Python reads a column's numbers as they are."""
    bare = without_gaps(column.alias(""))
    return bare.cast(pl.Float64, strict=False).count() >= Notation().read(bare).count()


def _possible(column: pl.Series) -> Iterator[Notation]:
    """The notations in which nearly all of a column's text is numbers; those that read the same as one."""
    known = without_gaps(column.alias("")).drop_nulls()
    first = known.head(FIRST_VALUES)
    readings: list[pl.Series] = []
    for marks in MARKS:
        if not len(first) or Notation(*marks).read(first).count() < NEARLY_ALL * len(first):
            continue
        numbers = Notation(*marks).read(known)
        if numbers.count() < NEARLY_ALL * len(known) or any(numbers.equals(other) for other in readings):
            continue
        readings.append(numbers)
        signs = (
            known.filter(numbers.is_not_null()).str.extract(rf"({SIGNS})").fill_null("").unique().to_list()
        )
        signs = [sign for sign in signs if sign] or [""]
        if len(signs) == 1:  # sums in several currencies are no numbers
            yield Notation(*marks, signs[0])


def plainly(column: pl.Series, notation: Notation) -> pl.Series:
    """A column with its numbers as such, or, where other text stands among them, as Python writes them."""
    numbers, bare = notation.read(column.alias("")), without_gaps(column.alias(""))
    if numbers.null_count() == bare.null_count():
        return numbers.alias(column.name)
    return numbers.cast(pl.String).zip_with(numbers.is_not_null(), bare).alias(column.name)
