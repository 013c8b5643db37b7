"""Files as one table: which they are, and what their columns are."""

import glob
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxreg.files import scratch_folder
from jaxreg.plain import did_you_mean, listed, warn
from jaxreg.tables.csv import KEPT, TextFound, blocks, decimal_of
from jaxreg.tables.form import AS_FOUND, Form
from jaxreg.tables.lines import READ_SUFFIXES, check_suffix, header, is_packed, suffix_of
from jaxreg.tables.plain import HIVE, by_their_names, plain
from jaxreg.tables.read import index_columns
from jaxreg.tables.row_groups import RowGroup
from jaxreg.tables.stream import BYTES_PER_VALUE, MOST_NAMED, Files

# Rows of each row group that is written.
GROUP_ROWS = 2**17
TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".data")


def find(pattern: str | Path) -> list[Path]:
    """The files that a pattern names, or those in a folder, Parquet before others; sorted.

    A folder without tables is searched for folders `key=value`, whose tables have a column `key`.

    Raises:
        ValueError: if there is none.

    Warns:
        UserWarning: names what is left out of a folder.
    """
    text = str(pattern)
    if Path(text).is_file():
        return [Path(text)]
    if not Path(text).is_dir():
        if paths := sorted(path for path in map(Path, glob.glob(text, recursive=True)) if path.is_file()):
            return paths
        raise ValueError(f"no file matches {text}")
    inside = [path for path in sorted(Path(text).iterdir()) if path.name[0] not in "._"]
    if any(path.is_dir() and HIVE.fullmatch(path.name) for path in inside):
        inside = [path for path in sorted(Path(text).rglob("*")) if path.is_file()]
        inside = [
            path for path in inside if not any(part[0] in "._" for part in path.relative_to(text).parts)
        ]
        if not any(suffix_of(path) == ".parquet" for path in inside):
            raise ValueError(
                f"{text} has folders key=value without Parquet files, the only ones they are read with"
            )
    for suffix in (".parquet", *TEXT_SUFFIXES, ".xlsx"):
        paths = [path for path in inside if path.is_file() and suffix_of(path) == suffix]
        if paths:
            bare = Counter(path.with_suffix("") if is_packed(path) else path for path in paths)
            if twice := [str(path) for path, count in bare.items() if count > 1]:
                raise ValueError(
                    f"{twice[0]} is there packed and unpacked: leave one out, its rows count twice"
                )
            if others := [str(path.relative_to(text)) for path in inside if path not in set(paths)]:
                warn(
                    f"of {text} only the {suffix} files are read; left out: {', '.join(others[:MOST_NAMED])}"
                    + (f" and {len(others) - MOST_NAMED:,} more" if len(others) > MOST_NAMED else "")
                )
            return paths
    raise ValueError(f"no file matches {text}/*{{{','.join(READ_SUFFIXES)}}}")


def size(paths: Sequence[Path]) -> int:
    """About how many bytes the values of files take in memory; no row is read."""
    total = 0
    for path in paths:
        if check_suffix(path) != ".parquet":
            total += path.stat().st_size
            continue
        with _opened(path) as file:
            total += BYTES_PER_VALUE * file.metadata.num_rows * file.metadata.num_columns
    return total


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file, or an error that names it."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} can't be read: {str(error).splitlines()[0]}") from None
    with file:
        yield file


@by_their_names()
def from_files(
    pattern: str | Path | Sequence[Path],
    *,
    target: str | None,
    features: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    keep: Sequence[str] = (),
    any_kind: bool = False,
    scratch: str | Path | None = None,
    form: Form = AS_FOUND,
) -> Files:
    """Files as one table that is read in parts, in place of a table in memory.

    Parquet files are read by row groups; CSV files are rewritten once as Parquet, some lines at a time.

    Args:
        pattern: of paths, `folder/*.parquet`; or a folder, or a file; or a list of paths.
        target: column to predict; None if there is none: only `row_groups` and `read` work then.
        features: columns to predict from; by default all others except the index of a pandas frame.
        drop: columns to leave out.
        keep: columns to copy into predictions, of any type.
        any_kind: whether features may be text, levels and times, and have gaps: `learned`, and with it the
            estimator, takes them. Otherwise they must be numbers.
        scratch: folder for copies of CSV files as Parquet, which take about the same space; by default a
            temporary one that is deleted when the process ends.
        form: how text files are written, where that isn't found.

    Raises:
        ValueError: if no file matches, or files differ in columns or types, by name; if a column is absent or
            isn't numeric, or a file can't be read. Faults that metadata shows are found before a row is read.

    Warns:
        UserWarning: names files and columns that are left out.
    """
    paths = plain(find(pattern) if isinstance(pattern, str | Path) else pattern, form)
    form, suffixes = form.of_values, {check_suffix(path) for path in paths}
    if ".parquet" in suffixes and len(suffixes) > 1:
        raise ValueError(f"{pattern} matches Parquet and other files: name those of one kind")
    if suffixes == {".parquet"}:  # a file without rows may have columns without type
        paths = [path for path in paths if _find_row_groups([path], [path])] or paths
    kind = _parquet_columns if suffixes == {".parquet"} else _text_columns
    columns = {path: kind(path) for path in paths}
    first, schema = paths[0], columns[paths[0]]
    absent = [
        name for name in (*(features or ()), target, *drop, *keep) if name not in schema and name is not None
    ]
    if absent:
        similar = did_you_mean(absent[0], list(schema))
        raise ValueError(f"{first} lacks {listed(absent)}; it has {listed(list(schema))}{similar}")
    if features is None:
        left_out = {target, *drop, *without_index(first, (target, *drop))}
        features = [name for name in schema if name not in left_out]
    if not features:
        raise ValueError(f"no column of {first} is left to predict {target!r} from")
    names = [*features, *([] if target is None else [target])]
    if "" in names:
        raise ValueError(
            f"column {list(schema).index('') + 1} of {first} has no name: leave it out or name it"
        )
    for path, own in columns.items():
        faults = [
            f"column {name!r} is absent in {path} and is {schema[name]} in {first}"
            if name not in own
            else f"column {name!r} of {path} is {own[name]}, "
            + ("numbers, text or times" if any_kind and name != target else "numbers")
            + " are needed: leave it out or encode it"
            for name in (*names, *keep)
            if name not in own
            or not (
                name in keep or _is_number(own[name]) or (any_kind and name != target and _is_kind(own[name]))
            )
        ]
        if faults:
            more = f"; and {len(faults) - MOST_NAMED:,} more" if len(faults) > MOST_NAMED else ""
            raise ValueError("; ".join(faults[:MOST_NAMED]) + more)
    kinds = {name: {own[name] for own in columns.values()} for name in names}
    text = frozenset(name for name, own in kinds.items() if any(map(_is_text, own)))
    stored = paths
    if kind is _text_columns:
        form = form._replace(decimal=form.decimal or decimal_of(paths, form))
        folder = scratch_folder(scratch)
        stored, text = _as_parquet(paths, names, keep, features if any_kind else (), folder=folder, form=form)
    types = tuple("string" if name in text else _type_name(own) for name, own in kinds.items())
    row_groups = _find_row_groups(stored, paths)
    if not row_groups:
        raise ValueError(f"{pattern} has no rows")
    return Files(tuple(features), target, tuple(row_groups), types, keep=tuple(keep), text=text)


def without_index(path: Path, asked: Sequence[str | None] = ()) -> list[str]:
    """The columns of a file that are a data frame's index and weren't asked for; a warning names them."""
    found = [name for name in index_columns(path) if name not in asked]
    if found:
        warn(f"{listed(found)} of {path} is the index of a data frame: left out (rename it to keep it)")
    return found


def names_of(path: Path) -> list[str]:
    """The names of a file's columns; only its beginning is read."""
    kind = _parquet_columns if check_suffix(path) == ".parquet" else _text_columns
    return list(kind(path))


def _type_name(kinds: set[pa.DataType]) -> str:
    """The common type of one column in several files."""
    if not all(map(_is_number, kinds)):
        return str(next(iter(kinds)))
    known = [np.dtype(kind.to_pandas_dtype()) for kind in kinds if not pa.types.is_decimal(kind)]
    return np.result_type(*known).name if len(known) == len(kinds) else "decimal"


def _parquet_columns(path: Path) -> dict[str, pa.DataType]:
    with _opened(path) as file:
        schema = file.schema_arrow
    if twice := [name for name, n in Counter(schema.names).items() if n > 1]:
        raise ValueError(f"{path} has several columns called {listed(twice)}: rename them")
    return {field.name: field.type for field in schema}


def _text_columns(path: Path) -> dict[str, pa.DataType]:
    return dict.fromkeys(header(path), pa.float64())


def _find_row_groups(paths: Sequence[Path], files: Sequence[Path]) -> list[RowGroup]:
    """The row groups of Parquet files, which may be copies of others."""
    row_groups, first = [], 0
    for path, own in zip(paths, files, strict=True):
        with _opened(path) as file:
            metadata = file.metadata
        within = 0
        for group in range(metadata.num_row_groups):
            if rows := metadata.row_group(group).num_rows:
                row_groups.append(RowGroup(path, group, rows, first + within, own, within))
            within += rows
        first += within
    return row_groups


def _as_parquet(
    paths: Sequence[Path],
    names: Sequence[str],
    keep: Sequence[str],
    any_kind: Sequence[str],
    *,
    folder: Path,
    form: Form,
) -> tuple[list[Path], frozenset[str]]:
    """Text files rewritten as Parquet, and which of their columns are text, where they may be."""
    text: frozenset[str] = frozenset()
    while True:
        try:
            return _rewritten(paths, names, keep, text, folder=folder, form=form), text
        except TextFound as found:  # mostly in the first rows: it is begun anew
            if not set(found.names) <= set(any_kind):
                raise
            text |= set(found.names)


def _rewritten(
    paths: Sequence[Path],
    names: Sequence[str],
    keep: Sequence[str],
    text: Collection[str],
    *,
    folder: Path,
    form: Form,
) -> list[Path]:
    """Text files rewritten as Parquet; each row group is what was read at once."""
    fields = [(name, pa.string() if name in text else pa.float64()) for name in names]
    schema, written = pa.schema([*fields, *((KEPT + name, pa.string()) for name in keep)]), []
    for i, path in enumerate(paths):
        written.append(Path(folder) / f"{i:06d}-{path.stem}.parquet")
        try:
            with pq.ParquetWriter(written[-1], schema, compression="zstd") as writer:
                for block in blocks(path, names, keep, text, form=form):
                    writer.write_table(block.to_arrow().cast(schema), row_group_size=GROUP_ROWS)
        except OSError as error:
            raise OSError(
                f"{path} can't be rewritten as Parquet in {folder}: {error.strerror or error}"
            ) from None
    return written


def _is_number(kind: pa.DataType) -> bool:
    kinds = pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal
    return any(is_one(kind) for is_one in kinds)


def _is_text(kind: pa.DataType) -> bool:
    kinds = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view
    return any(is_one(kind) for is_one in kinds)


def _is_kind(kind: pa.DataType) -> bool:
    """Whether `Columns` can take it."""
    kinds = pa.types.is_temporal, pa.types.is_null, _is_text
    is_levels = pa.types.is_dictionary(kind) and _is_text(kind.value_type)
    return is_levels or any(is_one(kind) for is_one in kinds)
