"""How text writes numbers: decimal marks, separators of thousands, currency and percent signs."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from jaxreg.columns.values import (
    FIRST_VALUES,
    GAPS_AMONG_NUMBERS,
    NEARLY_ALL,
    without_gaps,
    without_number_gaps,
)

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
        sign: currency or percent sign that the values have; "-" for minus signs behind, or brackets.
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
        codes = text.head(FIRST_VALUES).str.contains(r"^\s*[-+]?0\d").any()
        if self.marks == (",", "") and not codes and not text.str.contains(".", literal=True).any():
            # Most columns hold nothing but digits and commas, and take a third of the time.
            quick = text.str.strip_chars().str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)
            if quick.null_count() == text.null_count() and quick.is_finite().all():
                return quick
        separated, mark = SEPARATED_BY.get(self.thousands), re.escape(self.decimal)
        # No zeros in front, which codes and dates have.
        whole = rf"(?:[1-9]\d{{0,2}}(?:{separated}\d{{3}})+|0|[1-9]\d*)" if separated else r"(?:0|[1-9]\d*)"
        number = rf"(?:{whole}(?:{mark}\d*)?|{mark}\d+)(?:[eE][-+]?\d+)?"
        before, after = rf"\(?\s*[-+\x{{2212}}]?\s*(?:{SIGNS})?\s*", rf"\s*(?:{SIGNS})?\s*"
        pattern = rf"^{before}(?:[-+\x{{2212}}]\s*)?{number}(?:{after}\)?|{MINUS}{after})$"
        bare = without_number_gaps(text)
        digits = bare.str.replace_all(rf"{SIGNS}|\s|{separated or ' '}", "")
        digits = digits.str.replace_all(MINUS, "-").str.replace(r"^\((.*)\)$", "-$1")
        digits = digits.str.replace(r"^(.*\d)-$", "-$1").str.replace(mark, ".").str.replace(r"^\+", "")
        return digits.set(~bare.str.contains(pattern), None).cast(pl.Float64, strict=False)

    @property
    def marks(self) -> tuple[str, str]:
        """What stands in its numbers."""
        return self.decimal, self.thousands

    def told(self) -> str:
        """In words."""
        parts = ["decimal commas"] if self.decimal == "," else []
        parts += [f"{WORDS[self.thousands]} between thousands"] if self.thousands else []
        what = {"%": "percent signs", "-": "minus signs written otherwise"}
        parts += [what.get(self.sign, "currency signs")] if self.sign else []
        other = "." if self.decimal == "," else ","
        return " and ".join(parts) + (f", which may be decimal {WORDS[other]}" if self.doubtful else "")


def notations(table: pl.DataFrame, names: Sequence[str], decimal: str | None = None) -> dict[str, Notation]:
    """How columns of text write numbers, where they don't as Python does.

    A column whose decimal mark is doubtful is taken as most of the others of the file are, or as `decimal`
    says; and its commas as standing between thousands where nothing says more.
    """
    found = {name: _possible(table.get_column(name)) for name in names}
    sure = [own[0].decimal for name, own in found.items() if own and _says(table.get_column(name), own)]
    if decimal is None and sure.count(",") != sure.count("."):
        decimal = max(",.", key=sure.count)
    taken = {}
    for name, own in found.items():
        fitting = [each for each in own if each.decimal == decimal] or own
        plain = Notation() in own
        if len({each.decimal for each in own}) > 1 and decimal is None:
            fitting = [Notation()] if plain else [e._replace(doubtful=True) for e in own if e.thousands]
        if fitting and not (fitting[0] == Notation() and _is_plain(table.get_column(name))):
            taken[name] = fitting[0]
    return taken


def _says(column: pl.Series, possible: Sequence[Notation]) -> bool:
    """Whether a column says what its file's decimal mark is."""
    return len({each.decimal for each in possible}) == 1 and column.alias("").str.contains("[.,]").any()


def _is_plain(column: pl.Series) -> bool:
    """Whether Python reads a column's numbers as they are, and its gaps are empty."""
    bare = without_gaps(column.alias(""))
    numbers = bare.cast(pl.Float64, strict=False).count()
    return numbers >= Notation().read(bare).count() and not bare.is_in(GAPS_AMONG_NUMBERS).any()


def _possible(column: pl.Series) -> list[Notation]:
    """The notations in which nearly all of a column's text is numbers, those that read most values first.

    Of those that read the same, one. Codes aren't numbers: all in brackets or with a minus behind, or all of
    the same two or more groups of digits, such as 12.345.678.
    """
    known = without_number_gaps(column.alias("")).drop_nulls()
    first = known.head(FIRST_VALUES)
    found: list[tuple[int, Notation]] = []
    readings: list[pl.Series] = []
    if not len(first) or known.str.contains(rf"^\(.*\)$|{MINUS}$").all():
        return []
    for marks in MARKS:
        if Notation(*marks).read(first).count() < NEARLY_ALL * len(first):
            continue
        numbers = Notation(*marks).read(known)
        count = numbers.count()
        if count < NEARLY_ALL * len(known) or any(numbers.equals(other) for other in readings):
            continue
        readings.append(numbers)
        written = known.filter(numbers.is_not_null())
        if marks[1]:
            groups = written.str.count_matches(rf"{SEPARATED_BY[marks[1]]}\d{{3}}")
            if (
                groups.min() == groups.max() > 1
                and not written.str.contains(re.escape(marks[0]) + r"\d").any()
            ):
                continue
        signs = written.str.extract(rf"({SIGNS})").fill_null("").unique().to_list()
        percent = "%" in signs and len(signs) > 1  # shares among them may be written without
        if (
            len([sign for sign in signs if sign]) < 2 and not percent
        ):  # sums in several currencies are no numbers
            otherwise = "-" if written.str.contains(rf"^\(.*\)$|\d{MINUS}$").any() else ""
            found.append((count, Notation(*marks, max(signs) or otherwise)))
    return [each for _, each in sorted(found, key=lambda pair: -pair[0])]


def several_signs(column: pl.Series) -> list[str]:
    """Currency signs of a column whose text is sums in several of them; the rarest is the last.

    >>> import polars as pl
    >>> from jaxreg.tables.notation import several_signs
    >>> several_signs(pl.Series(["1,50 €", "2,25 €", "2 $"]))
    ['€', '$']
    """
    known = without_number_gaps(column.alias("")).drop_nulls()
    if not any(Notation(*marks).read(known).count() == len(known) for marks in MARKS):
        return []
    counts = Counter(known.str.extract(rf"({SIGNS})").drop_nulls().to_list())
    return [sign for sign, _ in counts.most_common()] if len(counts) > 1 else []


def plainly(column: pl.Series, notation: Notation) -> pl.Series:
    """A column with its numbers as such, or, where other text stands among them, as Python writes them."""
    numbers = notation.read(column.alias(""))
    if numbers.null_count() == column.null_count():
        return numbers.alias(column.name)
    bare = without_number_gaps(column.alias(""))
    unread = bare.filter(numbers.is_null()).drop_nulls()
    for each in (Notation(notation.decimal, thousands) for thousands in SEPARATED_BY):
        if len(unread) and each.read(unread).null_count() == 0:  # thousands that the first rows lack
            return numbers.fill_null(each.read(bare)).alias(column.name)
    if not len(unread):
        return numbers.alias(column.name)
    return numbers.cast(pl.String).zip_with(numbers.is_not_null(), bare).alias(column.name)
