"""Tables in files, CSV and Parquet (polars); errors name the line, row or column."""

import contextlib
import csv
import io
import itertools
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import polars as pl

from jaxreg.machine import memory
from jaxreg.plain import counted

# pandas' name for an index column that it has read from a CSV file, once or repeatedly.
INDEX_NAME = re.compile(r"Unnamed: 0(\.\d+)*")

# Prefix of the names of columns that are kept as text: a private-use character of Unicode.
KEPT = "\ue000"
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
SEPARATORS = ",;\t|"

# How other files begin, and what to do with such a file.
OTHER_FILES = {
    b"\x1f\x8b": "is compressed (gzip): decompress it first",
    b"\x28\xb5\x2f\xfd": "is compressed (Zstandard): decompress it first",
    b"BZh": "is compressed (bzip2): decompress it first",
    b"\xfd7zXZ": "is compressed (xz): decompress it first",
    b"PK\x03\x04": "is a zip archive or an Excel workbook: save it as CSV",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook: save it as CSV",
    b"PAR1": "is a Parquet file: give it the suffix .parquet",
}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MOST_COLUMNS = 100_000
BYTES_PER_VALUE = 8
LONGEST_SHOWN = 40
MOST_NAMED = 20

# How much of a CSV file is read at once if it needn't be read whole.
BLOCK_BYTES = 2**25
BLOCK_LINES = 2**17


def read_csv(path: Path, text: Collection[str]) -> pl.DataFrame:
    """A CSV file as a table; each column's type is inferred from all of its values."""
    check_memory(path, path.stat().st_size)
    content = path.read_bytes()
    _check_text(path, content)
    content = content.removeprefix(BYTE_ORDER_MARK)
    separator, names = first_line(path, content)
    # Python parses quotes and lone carriage returns; polars would accept malformed ones.
    if b'"' in content or re.search(rb"\r(?!\n)", content):
        content = _rewritten(path, content, separator, names)
    labels = [name or f"\0{i}" for i, name in enumerate(names, 1)]
    content = _without_blank_lines(content)
    try:
        table = _parse(content, separator, labels, text)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        fault = _more_values(path, separator, len(names)) or f"can't be read: {str(error).splitlines()[0]}"
        raise ValueError(f"{path} {fault}") from None
    # Spreadsheets end lines with separators: columns without name and values.
    empty = [name for name in table.columns if name[:1] == "\0" and table[name].null_count() == len(table)]
    table = table.drop(empty)
    nameless = [name for name in table.columns if name[:1] == "\0"]
    if len(nameless) > 1:
        numbers = " and ".join(name[1:] for name in nameless[:2])
        raise ValueError(f"the columns {numbers} of {path} have no names: name them")
    return table.rename({name: "" for name in nameless})


def header(path: Path) -> list[str]:
    """The names of the columns of a CSV file; only its beginning is read.

    Raises:
        ValueError: if it isn't text, doesn't begin with names, or has two columns of one name.
    """
    with path.open("rb") as file:
        start = file.read(BLOCK_BYTES)
    # Without the last line, which may be cut, even within a character.
    start = start[: start.rfind(b"\n") + 1] or start
    _check_text(path, start)
    return first_line(path, start.removeprefix(BYTE_ORDER_MARK))[1]


class TextFound(ValueError):
    """Columns hold text where numbers are needed.

    Attributes:
        names: of the columns.
    """

    def __init__(self, faults: Sequence[str], names: Sequence[str]):
        super().__init__(_all_of(faults))
        self.names = tuple(names)


def blocks(
    path: Path, names: Sequence[str], kept: Sequence[str] = (), text: Collection[str] = ()
) -> Iterator[pl.DataFrame]:
    """Some columns of a CSV file of any size, some rows at a time, as float64; missing values are null.

    Those in `text` come as they are written, and those in `kept` too, their names prefixed with `KEPT`.

    Raises:
        ValueError: names the line that has too many values or a quote out of place, or the line and column of
            a value that isn't a number.
    """
    labels = [name or f"{KEPT}{i}" for i, name in enumerate(header(path))]
    with path.open("rb") as file:
        separator, _ = first_line(path, file.read(BLOCK_BYTES).removeprefix(BYTE_ORDER_MARK))
    # Python parses quotes, slowly.
    parts = _split_by_row if _holds_quotes(path) else _split_by_bytes
    settings = {"separator": separator, "has_header": False, "null_values": MISSING}
    settings |= {"schema": dict.fromkeys(labels, pl.String)}
    settings |= {"quote_char": '"' if parts is _split_by_row else None}
    line, rows = 1, 0
    for part, lines in parts(path, separator, labels):
        _check_text(path, part, line)
        try:
            found = pl.read_csv(part, **settings) if part.strip() else pl.DataFrame(schema=settings["schema"])
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            fault = (
                _more_values(path, separator, len(labels)) or f"can't be read: {str(error).splitlines()[0]}"
            )
            raise ValueError(f"{path} {fault}") from None
        texts = [found[name].alias(KEPT + name) for name in kept]
        numbers = [name for name in names if name not in text]
        floats = {one.name: one for one in _floats(path, found, numbers, separator, rows)}
        yield pl.DataFrame([*(floats.get(name, found.get_column(name)) for name in names), *texts])
        line, rows = line + lines, rows + len(found)


def _floats(
    path: Path, table: pl.DataFrame, names: Sequence[str], separator: str, rows: int
) -> list[pl.Series]:
    """Columns of text as numbers, or an error that names those that aren't; `rows` rows come before these."""
    columns, faults, odd_names = [], [], []
    for name in names:
        numbers, texts = as_numbers(table[name]), table[name].alias("")
        columns.append(numbers)
        if numbers.null_count() > texts.null_count():
            odd = numbers.alias("").is_null() & texts.is_not_null() & (texts.str.strip_chars() != "")
            if odd.any():
                at = odd.arg_max()
                where = f" in line {_line_of_row(path, separator, rows + at)}"
                faults.append(_text_fault(name, path, texts[at], where))
                odd_names.append(name)
    if faults:
        raise TextFound(faults, odd_names)
    return columns


def as_numbers(column: pl.Series) -> pl.Series:
    """Text as float64: numbers, and true and false in any case as 1 and 0; null for other text."""
    bare = column.alias("").str.strip_chars()  # without its name, which polars may take for a pattern
    numbers = bare.cast(pl.Float64, strict=False)
    if numbers.null_count() == column.null_count():
        return numbers.alias(column.name)
    words = bare.str.to_lowercase()
    is_word = numbers.is_null() & words.is_in(["true", "false"])
    if is_word.any():
        numbers = numbers.zip_with(~is_word.fill_null(False), (words == "true").cast(pl.Float64))
    return numbers.alias(column.name)


def _text_fault(name: str, path: Path, value: object, where: str) -> str:
    return (
        f"column {name!r} of {path} holds text such as {shown(value)}{where}, numbers such as 1234.5 are "
        f"needed: leave it out, or encode it first"
    )


def raise_faults(faults: Sequence[str]) -> None:
    """Raise one error for all faults of columns."""
    if faults:
        raise ValueError(_all_of(faults))


def _all_of(faults: Sequence[str]) -> str:
    more = f"; and {len(faults) - MOST_NAMED:,} more columns" if len(faults) > MOST_NAMED else ""
    return "; ".join(faults[:MOST_NAMED]) + more


def _line_of_row(path: Path, separator: str, row: int) -> int:
    """The line of a row, counted from 0 after the names."""
    with path.open(encoding="utf-8-sig", newline=None) as file:
        reader = csv.reader(file, delimiter=separator)
        next(itertools.islice(filter(is_written, reader), row + 1, None))
        return reader.line_num


def _holds_quotes(path: Path) -> bool:
    with path.open("rb") as file:
        while part := file.read(BLOCK_BYTES):
            if b'"' in part or re.search(rb"\r(?!\n|\Z)", part):
                return True
    return False


def _split_by_bytes(path: Path, separator: str, names: list[str]) -> Iterator[tuple[bytes, int]]:
    """The lines after the first, some at a time, and how many they are."""
    with path.open("rb") as file:
        rest, first = file.read(len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK), True
        while part := file.read(BLOCK_BYTES):
            end = (rest + part).rfind(b"\n") + 1
            whole, rest = (rest + part)[:end], (rest + part)[end:]
            if first and whole:
                whole, first = b"\n" + whole.lstrip(b" \r\n").partition(b"\n")[2], False
            yield _without_blank_lines(whole), whole.count(b"\n")
        yield _without_blank_lines(rest), 1


def _split_by_row(path: Path, separator: str, names: list[str]) -> Iterator[tuple[bytes, int]]:
    """The same as parsed by Python, with quotes only where they are needed."""
    with path.open(encoding="utf-8-sig", newline=None) as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        rows = _checked_rows(path, reader, len(names))
        next(rows)
        before = reader.line_num
        while some := list(itertools.islice(rows, BLOCK_LINES)):
            text = io.StringIO()
            csv.writer(text, delimiter=separator, lineterminator="\n").writerows(some)
            yield text.getvalue().encode(), reader.line_num - before
            before = reader.line_num


def _checked_rows(path: Path, reader: "csv._reader", width: int) -> Iterator[list[str]]:
    """The rows that aren't blank, or an error that names a line."""
    line = 0
    try:
        for row in reader:
            if len(row) > width:
                raise ValueError(f"{path} {_too_many(reader.line_num, width)}")
            if is_written(row):
                yield row
            line = reader.line_num
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


def _parse(content: bytes, separator: str, names: list[str], text: Collection[str]) -> pl.DataFrame:
    """A table with types, or of text if a number fits no type of polars."""
    settings = {"separator": separator, "new_columns": names, "null_values": MISSING}
    if wanted := [name for name in names if name in set(text)]:
        settings["schema_overrides"] = dict.fromkeys(wanted, pl.String)
    try:
        return pl.read_csv(content, **settings, infer_schema_length=None)
    except pl.exceptions.ComputeError:
        return pl.read_csv(content, **settings, infer_schema=False)


def _check_text(path: Path, content: bytes, line: int | None = None) -> None:
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
            f"0x{content[error.start]:02x}: save it as UTF-8"
        ) from None
    if b"\0" in content:
        at = _line(content, content.index(0)) + (line or 1) - 1
        raise ValueError(f"{path} isn't text: line {at} has a zero byte")
    if line is None and not content.removeprefix(BYTE_ORDER_MARK).strip():
        raise ValueError(f"{path} is empty: a first line with column names and rows are needed")


def first_line(path: Path, content: bytes) -> tuple[str, list[str]]:
    """The separator and the names of the columns of a CSV file."""
    separator, names = likely_separator(path, content)
    repeated = next((name for name, count in Counter(names).items() if name and count > 1), None)
    if repeated is not None:
        raise ValueError(f"{path} has more than one column named {repeated!r}: rename or remove one")
    return separator, names


def likely_separator(path: Path, content: bytes) -> tuple[str, list[str]]:
    """What parts the values of a CSV file, and those of its first line."""
    first = {each: _first_rows(content, each) for each in _separators(path)}

    def likely(separator: str) -> tuple[bool, bool, int]:
        names, values = first[separator]
        whole = not any('"' in name for name in names)
        return whole, len(names) > 1 and len(values) in (0, len(names)), len(names)

    separator = max(first, key=likely)  # the first of equally likely ones
    names, _ = first[separator]
    if not names:
        raise ValueError(f"{path} begins with no line of column names, or a quote in it isn't closed")
    if len(names) > MOST_COLUMNS:
        raise ValueError(f"{path} has {len(names):,} columns, at most {MOST_COLUMNS:,} can be read")
    return separator, names


def with_names(path: Path, copy: Path) -> None:
    """Copy a CSV file that begins with a row of values, with its columns named 0, 1, 2 ... above."""
    with path.open("rb") as file, copy.open("wb") as named:
        start = file.read(BLOCK_BYTES)
        _check_text(path, start[: start.rfind(b"\n") + 1] or start)
        start = start.removeprefix(BYTE_ORDER_MARK)
        separator, values = likely_separator(path, start)
        named.write(separator.join(map(str, range(len(values)))).encode() + b"\n" + start)
        shutil.copyfileobj(file, named)


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
    """Whether a row is more than a blank line."""
    return len(row) > 1 or "".join(row).strip() != ""


def _rewritten(path: Path, content: bytes, separator: str, names: list[str]) -> bytes:
    """The same rows as parsed by Python, with quotes only where they are needed.

    Raises:
        ValueError: names the line where a quote is out of place, or that has too many values.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerows(_checked_rows(path, csv_rows(content, separator, strict=True), len(names)))
    return text.getvalue().encode()


def _more_values(path: Path, separator: str, width: int) -> str | None:
    """The fault of a file in which a line has more values than there are names."""
    with path.open(encoding="utf-8-sig", newline=None) as file, contextlib.suppress(csv.Error, StopIteration):
        reader = csv.reader(file, delimiter=separator)
        return _too_many(next(reader.line_num for row in reader if len(row) > width), width)
    return None


def _too_many(line: int, width: int) -> str:
    return f"has more values in line {line} than the {counted(width, 'name')} of its first line"


def _without_blank_lines(content: bytes) -> bytes:
    return re.sub(rb"\n *\r?(?=\n|\Z)", b"", content.lstrip(b" \r\n"))


def _line(content: bytes, offset: int) -> int:
    return content.count(b"\n", 0, offset) + 1


def check_suffix(path: Path) -> str:
    """The lower-case suffix of a table's file, or an error that lists the known ones."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: tables are .csv, .tsv (tab-separated) or .parquet, not {suffix or 'nameless'!r}"
        )
    return suffix


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def check_memory(path: Path, size: int) -> None:
    """Raise if a table is larger than the machine's memory."""
    if size > memory():
        raise ValueError(f"{path} holds {size / 1e9:,.0f} GB, more than the machine's memory: use fewer rows")
