"""How text files part their rows and values: lines, separators, names, quotes."""

import contextlib
import csv
import io
import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxreg.files import renamed
from jaxreg.plain import counted, warn

SUFFIXES = (".csv", ".tsv", ".txt", ".data", ".parquet")
READ_SUFFIXES = (*SUFFIXES, ".xlsx")
PACKED_SUFFIXES = (".gz", ".zst", ".bz2")
SEPARATORS = ",;\t|"
# How other files begin, and what to do with such a file.
OTHER_FILES = {
    b"\xfd7zXZ": "is compressed (xz): decompress it first",
    b"PK\x03\x04": "is a zip archive: unpack it, or give a workbook the suffix .xlsx",
    b"\xd0\xcf\x11\xe0": "is an old workbook: save it as .xlsx or .csv",
    b"PAR1": "is a Parquet file: give it the suffix .parquet",
}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MOST_COLUMNS = 100_000
LONGEST_SHOWN = 40
# How much of a CSV file is read at once if it needn't be read whole.
BLOCK_BYTES = 2**25


def header(path: Path) -> list[str]:
    """The names of the columns of a CSV file; only its beginning is read.

    Raises:
        ValueError: if it isn't text, doesn't begin with names, or has two columns of one name.
    """
    with path.open("rb") as file:
        start = file.read(BLOCK_BYTES)
    # Without the last line, which may be cut, even within a character.
    start = start[: start.rfind(b"\n") + 1] or start
    check_text(path, start)
    return first_line(path, start.removeprefix(BYTE_ORDER_MARK))[1]


def line_of_row(path: Path, separator: str, row: int) -> int:
    """The line of a row, counted from 0 after the names."""
    with path.open(encoding="utf-8-sig", newline=None) as file:
        reader = csv.reader(file, delimiter=separator)
        next(itertools.islice(filter(is_written, reader), row + 1, None))
        return reader.line_num


def checked_rows(path: Path, reader: "csv._reader", width: int) -> Iterator[list[str]]:
    """The rows that aren't blank, or an error that names a line."""
    line, skipped = 0, 0
    try:
        for row in reader:
            if len(row) > width:
                raise ValueError(f"{path} {_too_many(reader.line_num, width)}")
            if is_written(row):
                yield row
            else:
                skipped += len(row) > 1
            line = reader.line_num
        warn_of_skipped(path, skipped)
    except csv.Error as error:
        where = f"the row that begins in line {line + 1}"
        if "field larger" in str(error):
            raise ValueError(
                f"{path} has a value of more than {csv.field_size_limit():,} characters in {where}: shorten "
                "it, or close the quote that it begins with"
            ) from None
        raise ValueError(
            f"{path} has a quote out of place in {where} ({error}): a quote within a value is written twice, "
            "and the value in quotes"
        ) from None


def check_text(path: Path, content: bytes, line: int | None = None) -> None:
    """Raise unless a file is UTF-8 text; `line` is the number of the first line of a part of it."""
    if line is None:
        for start, what in OTHER_FILES.items():
            if content.startswith(start):
                raise ValueError(f"{path} {what}")
    try:
        content.isascii() or content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} isn't UTF-8 text: line {_line(content, error.start) + (line or 1) - 1} has the byte "
            f"0x{content[error.start]:02x}: say how it's encoded, --encoding cp1252 for example, which "
            f"makes {content[error.start : error.start + 1].decode('cp1252', 'replace')!r} of it"
        ) from None
    if b"\0" in content:
        at = _line(content, content.index(0)) + (line or 1) - 1
        raise ValueError(f"{path} isn't text: line {at} has a zero byte")
    if line is None and not content.removeprefix(BYTE_ORDER_MARK).strip():
        raise ValueError(f"{path} is empty: a first line with column names and rows are needed")


def first_line(path: Path, content: bytes) -> tuple[str, list[str]]:
    """The separator and the names of the columns of a CSV file."""
    separator, names = likely_separator(path, content)
    names = [unicodedata.normalize("NFC", name) for name in names]
    if len(names) > 1 and all(map(is_number, names)) and not _is_numbered(names):
        raise ValueError(
            f"{path} seems to have no line of names, its first has numbers alone: say --no-header, which "
            "calls columns 0, 1, 2 ... (or rename them, if these are names)"
        )
    repeated = next((name for name, count in Counter(names).items() if name and count > 1), None)
    if repeated is not None:
        raise ValueError(f"{path} has more than one column named {repeated!r}: rename or remove one")
    return separator, names


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    with contextlib.suppress(ValueError):
        return math.isfinite(float(text))
    return False


def _is_numbered(names: Sequence[str]) -> bool:
    """Whether names are whole numbers one after another, as of years, or columns without names."""
    first = names[0].strip()
    return first.isdecimal() and [name.strip() for name in names] == [
        str(int(first) + i) for i in range(len(names))
    ]


def likely_separator(path: Path, content: bytes) -> tuple[str, list[str]]:
    """What parts the values of a CSV file, and those of its first line."""
    first = {each: _first_rows(content, each) for each in _separators(path)}

    def likely(separator: str) -> tuple[bool, bool, bool, int]:
        names, values = first[separator]
        whole = not any('"' in name for name in names)
        parts = len(names) > 1 and len(values) in (0, len(names))
        # Commas stand in numbers and names too, the others hardly ever.
        return whole, parts, parts and separator != ",", len(names)

    separator = max(first, key=likely)  # the first of equally likely ones
    names, _ = first[separator]
    if not names:
        raise ValueError(f"{path} begins with no line of column names, or a quote in it isn't closed")
    if len(names) > MOST_COLUMNS:
        raise ValueError(f"{path} has {len(names):,} columns, at most {MOST_COLUMNS:,} can be read")
    return separator, names


def _separators(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else SEPARATORS


def _first_rows(content: bytes, separator: str) -> tuple[list[str], list[str]]:
    """The first two rows, empty where there are none."""
    found = []
    with contextlib.suppress(csv.Error):
        found += itertools.islice(filter(is_written, csv_rows(content, separator)), 2)
    names, values, *_ = [*found, [], []]
    return names, values


def csv_rows(content: bytes, separator: str, *, strict: bool = False) -> "csv._reader":
    """The rows of a CSV file, slowly; blank lines are empty ones."""
    text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline=None)
    return csv.reader(text, delimiter=separator, strict=strict)


def is_written(row: list[str]) -> bool:
    """Whether a row is more than a blank line, or separators alone."""
    return "".join(row).strip() != ""


def more_values(path: Path, separator: str, width: int) -> str | None:
    """The fault of a file in which a line has more values than there are names."""
    with path.open(encoding="utf-8-sig", newline=None) as file, contextlib.suppress(csv.Error, StopIteration):
        reader = csv.reader(file, delimiter=separator)
        return _too_many(next(reader.line_num for row in reader if len(row) > width), width)
    return None


def _too_many(line: int, width: int) -> str:
    return f"has more values in line {line} than the {counted(width, 'name')} of its first line"


def separators_alone(content: bytes, separator: str) -> int:
    """How many lines hold separators and nothing else."""
    part = re.escape(separator).encode()
    return len(re.findall(rb"\n[ %s]*%s[ %s]*\r?(?=\n|\Z)" % (part, part, part), content))


def warn_of_skipped(path: Path, lines: int) -> None:
    """Say how many lines of separators alone were skipped: predictions have no rows for them."""
    if lines:
        told = f"{renamed(str(path))}: {counted(lines, 'line')} of separators alone skipped"
        warn(told)


def without_blank_lines(content: bytes, separator: str) -> bytes:
    """The same without lines that hold nothing, or separators alone."""
    blank = rb"\n[ %s]*\r?(?=\n|\Z)" % re.escape(separator).encode()
    return re.sub(blank, b"", content.lstrip(b" \r\n"))


def _line(content: bytes, offset: int) -> int:
    return content.count(b"\n", 0, offset) + 1


def check_suffix(path: Path, *, packed: bool = False) -> str:
    """The lower-case suffix of a table's file, or an error that lists the known ones.

    Of one that may be `packed`, and then a workbook too, it is the suffix without that of the compression.
    """
    suffix = suffix_of(path) if packed else path.suffix.lower()
    if suffix not in (READ_SUFFIXES if packed else SUFFIXES):
        more = ", .xlsx, or text that is compressed (.csv.gz, .csv.zst)" if packed else ""
        raise ValueError(
            f"{path}: tables are .csv, .tsv (tab-separated) or .parquet{more}, not {suffix or 'nameless'!r}"
        )
    return suffix


def suffix_of(path: Path) -> str:
    """The lower-case suffix of a file, without that of its compression."""
    name = Path(path.name.lower())
    return (name.with_suffix("") if is_packed(name) else name).suffix


def is_packed(path: Path) -> bool:
    """Whether a file's name says that it is compressed."""
    return path.suffix.lower() in PACKED_SUFFIXES


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
