"""CSV files, whole or some rows at a time (polars); errors name the line, row or column."""

import csv
import io
import itertools
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import polars as pl

from jaxreg.columns.values import GAPS
from jaxreg.files import renamed
from jaxreg.machine import memory
from jaxreg.plain import counted, quoted, warn
from jaxreg.tables.form import AS_FOUND, Form
from jaxreg.tables.lines import (
    BLOCK_BYTES,
    BYTE_ORDER_MARK,
    check_suffix,
    check_text,
    checked_rows,
    csv_rows,
    first_line,
    header,
    line_of_row,
    more_values,
    separators_alone,
    shown,
    warn_of_skipped,
    without_blank_lines,
)
from jaxreg.tables.notation import Notation, notations, plainly, several_signs

# pandas' name for an index column that it has read from a CSV file, once or repeatedly.
INDEX_NAME = re.compile(r"Unnamed: 0(\.\d+)*")

# Prefix of the names of columns that are kept as text: a private-use character of Unicode.
KEPT = "\ue000"

BYTES_PER_VALUE = 8
MOST_NAMED = 20

BLOCK_LINES = 2**17
# How many of its first lines say how a file writes numbers.
INSPECTED_LINES = 2**14


def read_csv(path: Path, text: Collection[str], form: Form = AS_FOUND) -> pl.DataFrame:
    """A CSV file as a table; each column's type is inferred from all of its values."""
    check_memory(path, path.stat().st_size)
    content = path.read_bytes()
    check_text(path, content)
    content = content.removeprefix(BYTE_ORDER_MARK)
    separator, names = first_line(path, content)
    gaps = [*GAPS, *form.gaps]
    # Python parses quotes and lone carriage returns; polars would accept malformed ones.
    if b'"' in content or re.search(rb"\r(?!\n)", content):
        content = _rewritten(path, content, separator, names)
    else:
        warn_of_skipped(path, separators_alone(content, separator))
    labels = [name or f"\0{i}" for i, name in enumerate(names, 1)]
    content = without_blank_lines(content, separator)
    try:
        table = _parse(content, separator, labels, text, gaps)
        numbers = {name: kind for name, kind in table.schema.items() if name not in text}
        if form.decimal == "," or pl.String in numbers.values():
            written = written_as(path, list(numbers), form)
            if any(numbers[name] != pl.String for name in written):
                table = _parse(content, separator, labels, [*text, *written], gaps)
            table = table.with_columns(plainly(table[name], own) for name, own in written.items())
        if text:  # as they are written, words for gaps too
            kept = _parse(content, separator, labels, labels, [""])
            table = table.with_columns(kept.get_column(name) for name in labels if name in text)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        fault = more_values(path, separator, len(names)) or f"can't be read: {str(error).splitlines()[0]}"
        raise ValueError(f"{path} {fault}") from None
    # Spreadsheets end lines with separators: columns without name and values.
    empty = [name for name in table.columns if name[:1] == "\0" and table[name].null_count() == len(table)]
    table = table.drop(empty)
    nameless = [name for name in table.columns if name[:1] == "\0"]
    if len(nameless) > 1:
        numbers = " and ".join(name[1:] for name in nameless[:2])
        raise ValueError(f"the columns {numbers} of {path} have no names: name them")
    return table.rename({name: "" for name in nameless})


class TextFound(ValueError):
    """Columns hold text where numbers are needed.

    Attributes:
        names: of the columns.
    """

    def __init__(self, faults: Sequence[str], names: Sequence[str]):
        super().__init__(_all_of(faults))
        self.names = tuple(names)


def written_as(path: Path, names: Sequence[str], form: Form = AS_FOUND) -> dict[str, Notation]:
    """How columns of a CSV file write numbers where not as Python does, by its first rows."""
    first = next(_texts(path, form), None)
    return {} if first is None else _written_in(path, *first, names, form)


def decimal_of(paths: Sequence[Path], form: Form = AS_FOUND) -> str | None:
    """The decimal mark that the first text file with rows says it has; None where it says nothing."""
    for path in paths:
        if check_suffix(path) == ".parquet":
            return None
        names, first = list(filter(None, header(path))), next(_texts(path, form), None)
        if first is not None:
            with warnings.catch_warnings(action="ignore"):  # said when the file is read
                found = _written_in(path, *first, names, form).values()
            marks = [each.decimal for each in found if not each.doubtful]
            return max(sorted(set(marks)), key=marks.count) if marks else None
    return None


def _written_in(
    path: Path, found: pl.DataFrame, separator: str, names: Sequence[str], form: Form
) -> dict[str, Notation]:
    """The same of some rows.

    Numbers that Python could read are asked too only where others of the file have decimal commas, and
    commas don't part its values.
    """
    first = found.head(INSPECTED_LINES)
    odd = [name for name in names if as_numbers(first[name]).null_count() > first[name].null_count()]
    units = [name for name in odd if len(first) > 2 and as_numbers(first[name][1:]).null_count() == 0]
    if len(units) > 1:
        shown_units = ", ".join(shown(first[name][0]) for name in units[:MOST_NAMED])
        called = renamed(str(path))
        warn(f"{called} may have a second line of names or units ({shown_units}), taken as a row: delete it")
    written = notations(first, odd, form.decimal)
    by_commas = separator == "," and found.width > 1
    if not by_commas and "," in (form.decimal, *(each.decimal for each in written.values())):
        written = notations(first, names, form.decimal)
    if written:
        named: dict[str, list[str]] = {}
        for name, notation in written.items():
            if notation == Notation():  # but for gaps
                continue
            named.setdefault(notation.told(), []).append(name)
        told = "; ".join(f"{words}: {quoted(own)}" for words, own in named.items())
        both = any(each.doubtful or each.decimal == "," and each.thousands for each in written.values())
        choice = " (--decimal . or , says otherwise)" if both else ""
        if named:
            warn(f"how columns write numbers: {told}{choice}")
    return written


def blocks(
    path: Path,
    names: Sequence[str],
    kept: Sequence[str] = (),
    text: Collection[str] = (),
    *,
    form: Form = AS_FOUND,
) -> Iterator[pl.DataFrame]:
    """Some columns of a CSV file of any size, some rows at a time, as float64; missing values are null.

    Those in `text` come as they are written, and those in `kept` too, their names prefixed with `KEPT`.

    Raises:
        ValueError: names the line that has too many values or a quote out of place, or the line and column of
            a value that isn't a number.
    """
    rows, written = 0, None
    for found, separator in _texts(path, form, kept):
        if written is None:
            written = _written_in(path, found, separator, names, form)
        own = {name: found.get_column(name) for name in names}
        own |= {name: plainly(own[name], each) for name, each in written.items()}
        numbers = [column for name, column in own.items() if name not in text]
        own |= {one.name: one for one in _floats(path, numbers, separator, rows)}
        yield pl.DataFrame([*own.values(), *(found.get_column(KEPT + name) for name in kept)])
        rows += len(found)


def _texts(path: Path, form: Form, kept: Sequence[str] = ()) -> Iterator[tuple[pl.DataFrame, str]]:
    """Some rows of a CSV file at a time as text, gaps null but where columns are kept, and the separator."""
    labels = [name or f"\0{i}" for i, name in enumerate(header(path), 1)]
    with path.open("rb") as file:
        separator, _ = first_line(path, file.read(BLOCK_BYTES).removeprefix(BYTE_ORDER_MARK))
    # Python parses quotes, slowly.
    parts = _split_by_row if _holds_quotes(path) else _split_by_bytes
    settings = {"separator": separator, "has_header": False, "schema": dict.fromkeys(labels, pl.String)}
    settings |= {"quote_char": '"' if parts is _split_by_row else None}
    line = 1
    for part, lines in parts(path, separator, labels):
        check_text(path, part, line)
        try:
            found = whole = pl.DataFrame(schema=settings["schema"])
            if part.strip():
                if len(labels) > 1:  # polars takes rows that lack values after one that has them all
                    part = separator.encode() * (len(labels) - 1) + b"\n" + part
                found = pl.read_csv(part, **settings, null_values=[*GAPS, *form.gaps])
                whole = pl.read_csv(part, **settings) if kept else found
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            fault = (
                more_values(path, separator, len(labels)) or f"can't be read: {str(error).splitlines()[0]}"
            )
            raise ValueError(f"{path} {fault}") from None
        if len(labels) > 1 and part.strip():
            found, whole = found[1:], whole[1:]
        yield found.with_columns(whole.get_column(name).alias(KEPT + name) for name in kept), separator
        line += lines


def _floats(path: Path, texts: Sequence[pl.Series], separator: str, rows: int) -> list[pl.Series]:
    """Columns of text as numbers, or an error that names those that aren't; `rows` rows come before these."""
    columns, faults, odd_names = [], [], []

    def where(at: int) -> str:
        return f" in line {line_of_row(path, separator, rows + at)}"

    for column in texts:
        if column.dtype == pl.Float64:
            columns.append(column)
            continue
        numbers, texts, name = as_numbers(column), column.alias(""), column.name
        columns.append(numbers)
        if numbers.null_count() > texts.null_count():
            odd = numbers.alias("").is_null() & texts.is_not_null() & (texts.str.strip_chars() != "")
            if odd.any():
                called = f"column {name!r} of {path}"
                faults.append(text_fault(called, texts, odd, where, "leave it out, or "))
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


def text_fault(
    called: str, texts: pl.Series, odd: pl.Series, where: Callable[[int], str], remedy: str = ""
) -> str:
    """What is wrong with a column of text that should hold numbers.

    Args:
        called: what the message calls the column.
        texts: it.
        odd: which values are no numbers.
        where: says where a row is.
        remedy: what else may be done, with ", or " behind.
    """
    if signs := several_signs(texts):
        at = texts.alias("").str.contains(signs[-1], literal=True).arg_max()
        what = f"sums in several currencies ({' and '.join(signs)}), such as {shown(texts[at])}{where(at)}"
        return f"{called} holds {what}: {remedy}convert them to one"
    at, more = odd.arg_max(), int(odd.sum()) - 1
    others = f" and {counted(more, 'more row')}" if more else ""
    return (
        f"{called} holds text such as {shown(texts[at])}{where(at)}{others}, numbers such as 1234.5 are "
        f"needed: {remedy}encode it first"
    )


def raise_faults(faults: Sequence[str]) -> None:
    """Raise one error for all faults of columns."""
    if faults:
        raise ValueError(_all_of(faults))


def _all_of(faults: Sequence[str]) -> str:
    more = f"; and {len(faults) - MOST_NAMED:,} more columns" if len(faults) > MOST_NAMED else ""
    return "; ".join(faults[:MOST_NAMED]) + more


def _holds_quotes(path: Path) -> bool:
    with path.open("rb") as file:
        while part := file.read(BLOCK_BYTES):
            if b'"' in part or re.search(rb"\r(?!\n|\Z)", part):
                return True
    return False


def _split_by_bytes(path: Path, separator: str, names: list[str]) -> Iterator[tuple[bytes, int]]:
    """The lines after the first, some at a time, and how many they are."""
    with path.open("rb") as file:
        rest, first, skipped = file.read(len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK), True, 0
        while part := file.read(BLOCK_BYTES):
            end = (rest + part).rfind(b"\n") + 1
            whole, rest = (rest + part)[:end], (rest + part)[end:]
            if first and whole:
                whole, first = b"\n" + whole.lstrip(b" \r\n").partition(b"\n")[2], False
            skipped += separators_alone(b"\n" + whole.removesuffix(b"\n"), separator)
            yield without_blank_lines(whole, separator), whole.count(b"\n")
        warn_of_skipped(path, skipped + separators_alone(b"\n" + rest, separator))
        yield without_blank_lines(rest, separator), 1


def _split_by_row(path: Path, separator: str, names: list[str]) -> Iterator[tuple[bytes, int]]:
    """The same as parsed by Python, with quotes only where they are needed."""
    with path.open(encoding="utf-8-sig", newline=None) as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        rows = checked_rows(path, reader, len(names))
        next(rows)
        before = reader.line_num
        while some := list(itertools.islice(rows, BLOCK_LINES)):
            text = io.StringIO()
            csv.writer(text, delimiter=separator, lineterminator="\n").writerows(some)
            yield text.getvalue().encode(), reader.line_num - before
            before = reader.line_num


def _parse(
    content: bytes, separator: str, names: list[str], text: Collection[str], gaps: Sequence[str]
) -> pl.DataFrame:
    """A table with types, or of text if a number fits no type of polars."""
    settings = {"separator": separator, "new_columns": names, "null_values": list(gaps)}
    if wanted := [name for name in names if name in set(text)]:
        settings["schema_overrides"] = dict.fromkeys(wanted, pl.String)
    try:
        return pl.read_csv(content, **settings, infer_schema_length=None)
    except pl.exceptions.ComputeError:
        return pl.read_csv(content, **settings, infer_schema=False)


def _rewritten(path: Path, content: bytes, separator: str, names: list[str]) -> bytes:
    """The same rows as parsed by Python, with quotes only where they are needed.

    Raises:
        ValueError: names the line where a quote is out of place, or that has too many values.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerows(checked_rows(path, csv_rows(content, separator, strict=True), len(names)))
    return text.getvalue().encode()


def check_memory(path: Path, size: int) -> None:
    """Raise if a table is larger than the machine's memory."""
    if size > memory():
        raise ValueError(f"{path} holds {size / 1e9:,.0f} GB, more than the machine's memory: use fewer rows")
