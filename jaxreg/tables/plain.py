"""Files as programs write them, as plain ones: UTF-8 text that begins with names, or Parquet.

What isn't plain is copied once, into a folder that is gone when the process ends. Lines that are skipped are
blank in the copy, so that messages name the lines of the file.
"""

import codecs
import contextlib
import csv
import io
import itertools
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from jaxreg.files import CALLED, renamed, scratch_folder
from jaxreg.plain import counted, warn
from jaxreg.tables.form import AS_FOUND, Form
from jaxreg.tables.lines import check_suffix, is_number, likely_separator
from jaxreg.tables.workbook import MAGIC, write_sheet

CHUNK = 2**20
# How files that Arrow unpacks begin.
PACKINGS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
# What a compressed file may unpack to unless the user says more: so many times its size, or so many bytes.
TIMES_UNPACKED, BYTES_UNPACKED = 50, 10**8
UTF_16 = "utf-16"
# In which spaces may part values.
SPACED_SUFFIXES = (".txt", ".data")
# What programs write to say what parts values.
SEPARATOR_LINE = re.compile(rb"sep=.", re.IGNORECASE)
HIVE = re.compile(r"([^=/]+)=(.*)")
PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")
HIVE_GAP = "__HIVE_DEFAULT_PARTITION__"
LOOKED_AT = 20


def plain(paths: Sequence[Path], form: Form = AS_FOUND) -> list[Path]:
    """Files as plain ones: themselves, or copies, which errors call by their names.

    Raises:
        ValueError: names a file that can't be unpacked or decoded, holds more than it may, or has no such
            sheet; and Parquet files where columns are said to have no names.

    Warns:
        UserWarning: says what was skipped, and that spaces part values.
    """
    found: list[Path] = []
    folder: list[Path] = []

    def copy_of(path: Path, suffix: str) -> Path:
        folder.extend([] if folder else [scratch_folder()])
        copy = folder[0] / f"{len(found):06d}{suffix}"
        above = "" if form.named else " (below a line of names)"
        CALLED[str(copy)] = CALLED.get(str(path), str(path)) + above
        return copy

    parted = {path: _partitions(path) for path in paths if path.suffix.lower() == ".parquet"}
    if len({frozenset(keys) for keys in parted.values()}) > 1:
        odd, *_ = sorted(parted, key=lambda path: len(parted[path]))
        raise ValueError(f"{odd} lies in other folders than the rest, whose names are columns: leave it out")
    keys = {key: [own[key] for own in parted.values()] for key in next(iter(parted.values()), {})}
    if keys:
        warn(f"columns from the names of folders: {', '.join(map(repr, keys))}")
    numbers = {key for key, values in keys.items() if all(map(_is_plain_number, values))}
    for path in paths:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
        suffix = check_suffix(path, packed=True)
        if form.sheet is not None and suffix != ".xlsx":
            raise ValueError(f"--sheet is for workbooks, and {path} is none: leave it out")
        if start == b"PAR1" and suffix == ".parquet":
            if not form.named:
                raise ValueError(
                    f"--no-header is for text files, and {path} has names of columns: leave it out"
                )
            if form.encoding is not None or form.unpacked is not None:
                raise ValueError(
                    f"--encoding and --unpacked are for text, and {path} is none: leave them out"
                )
            constants = {key: _constant(own, key in numbers) for key, own in parted[path].items()}
            is_plain = not constants and _names_are_composed(path)
            found.append(path if is_plain else _with_partitions(path, copy_of(path, suffix), constants))
        elif start == MAGIC and suffix == ".xlsx":
            sheet = scratch_folder() / "sheet.csv"
            CALLED[str(sheet)] = CALLED.get(str(path), str(path))
            write_sheet(path, sheet, form.sheet)
            found.append(_plain_text(sheet, form._replace(encoding=None), copy_of))
        else:
            found.append(_plain_text(path, form, copy_of))
    return found


@contextmanager
def by_their_names() -> Iterator[None]:
    """Errors name the files that copies were made of."""
    try:
        yield
    except ValueError as error:
        if (text := renamed(str(error))) == str(error):
            raise
        raise ValueError(text) from None


def _plain_text(path: Path, form: Form, copy_of: Callable[[Path, str], Path]) -> Path:
    """A text file, or a copy of it that is plain."""
    with path.open("rb") as file:
        magic = file.read(4)
    packing = next((own for mark, own in PACKINGS.items() if magic.startswith(mark)), None)
    encoding = form.encoding
    if encoding is None:
        with _chunks(path, packing, None, form.unpacked) as chunks:
            mark = next(chunks, b"")[:2]
        encoding = UTF_16 if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else None
    suffix = check_suffix(path, packed=True)
    with _chunks(path, packing, encoding, form.unpacked) as chunks:
        start = next(chunks, b"").removeprefix(codecs.BOM_UTF8)
        head = _head(start, spaces=suffix in SPACED_SUFFIXES)
        copied = packing or encoding or head.text != start or head.columns or not form.named
        if packing and not start.strip():
            raise ValueError(f"{path} is empty: a first line with column names and rows are needed")
        if not (copied and start.strip()):
            return path
        copy = copy_of(path, suffix if suffix in (".csv", ".tsv") and not head.columns else ".txt")
        chunks = itertools.chain([head.text], chunks)
        if head.columns:
            chunks = _by_tabs(chunks, head.columns, path)
        with copy.open("wb") as out:
            if not form.named:
                first = next(chunks)
                separator, values = likely_separator(copy, first)
                out.write(separator.join(map(str, range(len(values)))).encode() + b"\n" + first)
            out.writelines(chunks)
    told = [f"{counted(head.skipped, 'line')} before the names skipped"] if head.skipped else []
    told += ["values are parted by spaces"] if head.columns else []
    if told:
        warn(f"{CALLED.get(str(path), path)}: {', '.join(told)}")
    return copy


@contextmanager
def _chunks(
    path: Path, packing: str | None, encoding: str | None, most: int | None
) -> Iterator[Iterator[bytes]]:
    """A file's text in UTF-8, some bytes at a time."""
    most = most or max(BYTES_UNPACKED, TIMES_UNPACKED * path.stat().st_size)

    def read(file: Any) -> Iterator[bytes]:
        total = 0
        while chunk := file.read(CHUNK):
            total += len(chunk)
            if packing and total > most:
                raise ValueError(
                    f"{path} unpacks to more than {most / 1e6:,.0f} MB, "
                    f"{most / path.stat().st_size:,.0f} times its size: --unpacked MB allows more"
                )
            yield chunk

    try:
        if encoding is not None and not codecs.lookup(encoding)._is_text_encoding:
            raise LookupError
        with path.open("rb") as file:
            stream = pa.CompressedInputStream(pa.PythonFile(file), packing) if packing else file
            chunks = read(stream)
            yield (
                chunks
                if encoding is None
                else codecs.iterencode(codecs.iterdecode(chunks, encoding), "utf-8")
            )
    except LookupError:
        raise ValueError(
            f"{path}: there is no encoding {encoding!r}; cp1252 is Windows' and utf-16 Excel's"
        ) from None
    except UnicodeError as error:
        why = getattr(error, "reason", error)
        raise ValueError(f"{path} isn't {encoding} text ({why}): give another --encoding") from None
    except OSError as error:
        if not packing or error.errno:
            raise
        raise ValueError(f"{path} can't be unpacked ({error}): it is cut short or damaged") from None


class _Head(NamedTuple):
    """How a text file begins.

    Attributes:
        text: its beginning, where lines before the names are blank.
        skipped: how many they are.
        columns: how many values each row has that spaces part; 0 where something else does.
    """

    text: bytes
    skipped: int
    columns: int


def _head(start: bytes, *, spaces: bool) -> _Head:
    lines, comments = start.splitlines(keepends=True), []
    for i, line in enumerate(lines):
        bare = line.strip()
        if bare and not bare.startswith(b"#") and not (not comments and SEPARATOR_LINE.fullmatch(bare)):
            break
        comments += [i] if bare else []
    if comments and lines[comments[-1]].startswith(b"#"):
        last = lines[comments[-1]]
        names = last.removeprefix(b"# ")  # as NumPy writes them
        row = _values(b"".join(lines[comments[-1] + 1 :]))
        alone = last[1:2].strip() != b"" and len(_parted(last)) > 1  # a name that begins with #
        if len(_values(names)) == len(row) > 1 and (alone or any(map(is_number, row))):
            lines[comments.pop()] = names
    for i in comments:
        lines[i] = b"\n"
    return _Head(b"".join(lines), len(comments), _parted_by_spaces(lines) if spaces else 0)


def _values(text: bytes) -> list[str]:
    """The values of a text's first line, which spaces part where nothing else does."""
    values = _parted(text)
    return values if len(values) > 1 else " ".join(values).split()


def _parted(text: bytes) -> list[str]:
    """The same, where spaces part nothing."""
    with contextlib.suppress(ValueError):  # which is raised with the file's name later
        return likely_separator(Path(), text)[1]
    return []


def _parted_by_spaces(lines: Sequence[bytes]) -> int:
    """How many values each of some lines has, if spaces part them and nothing else does."""
    some = itertools.islice((line for line in lines[:-1] or lines if line.strip()), LOOKED_AT)
    written = [line.decode("utf-8", "replace") for line in some]
    if len(written) < 2 or len(_parted("".join(written).encode())) != 1:
        return 0
    first, *others = (len(row) for row in _by_spaces(written))
    numbers = all(any(map(is_number, row)) for row in _by_spaces(written[1:]))
    by_r = others[0] == first + 1 and all(line.startswith('"') for line in written)  # which names rows
    same = len(set(others)) == 1 and (others[0] == first or by_r)
    return others[0] if same and numbers and first > 1 else 0


def _by_spaces(lines: Iterable[str]) -> Iterator[list[str]]:
    return csv.reader((" ".join(line.split()) for line in lines), delimiter=" ")


def _by_tabs(chunks: Iterable[bytes], columns: int, path: Path) -> Iterator[bytes]:
    """Lines whose values spaces part, parted by tabs; the names are filled up in front."""
    is_first = True
    for line, row in enumerate(_by_spaces(_lines(chunks)), 1):
        if row and is_first:
            row, is_first = [""] * (columns - len(row)) + row, False
        if row and len(row) != columns:
            raise ValueError(
                f"{path} has {counted(len(row), 'value')} in line {line}, parted by spaces, and {columns} "
                "before: write NA where one is missing, or quote what has spaces"
            )
        text = io.StringIO()
        csv.writer(text, delimiter="\t", lineterminator="\n").writerow(row)
        yield text.getvalue().encode("utf-8", "surrogateescape")


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode("utf-8", "surrogateescape") for line in whole)
    if rest:
        yield rest.decode("utf-8", "surrogateescape")


def _partitions(path: Path) -> dict[str, str]:
    """What the folders right above a file say of its rows: `year=2024/month=1/a.parquet`."""
    found = {}
    for folder in path.absolute().parents:
        named = HIVE.fullmatch(folder.name)
        if named is None:
            break
        found = {named[1]: named[2]} | found
    return found


def _with_partitions(path: Path, copy: Path, constants: dict[str, pa.Scalar]) -> Path:
    """A copy of a Parquet file that has what its folders say as columns, and names as options have them."""
    with pq.ParquetFile(path) as file:
        fields = [own.with_name(unicodedata.normalize("NFC", own.name)) for own in file.schema_arrow]
        own = pa.schema(fields, file.schema_arrow.metadata)
        constants = {key: value for key, value in constants.items() if key not in own.names}
        for key, value in constants.items():
            own = own.append(pa.field(key, value.type))
        with pq.ParquetWriter(copy, own, compression="zstd") as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                table = table.rename_columns([field.name for field in fields])
                for key, value in constants.items():
                    table = table.append_column(key, pa.repeat(value, len(table)))
                writer.write_table(table.cast(own))
    return copy


def _names_are_composed(path: Path) -> bool:
    """Whether a Parquet file's names are of the options' form (NFC); also of one that is damaged."""
    with contextlib.suppress(pa.ArrowException, OSError):
        return all(unicodedata.is_normalized("NFC", name) for name in pq.read_schema(path).names)
    return True


def _constant(text: str, number: bool) -> pa.Scalar:
    value = None if text == HIVE_GAP else urllib.parse.unquote(text)
    return pa.scalar(value and float(value), pa.float64()) if number else pa.scalar(value, pa.string())


def _is_plain_number(text: str) -> bool:
    """Whether a folder's value is a number, and no code such as 01067."""
    return text == HIVE_GAP or PLAIN_NUMBER.fullmatch(text) is not None
