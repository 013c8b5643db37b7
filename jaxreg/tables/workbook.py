"""Excel's workbooks: a sheet as CSV."""

import csv
import datetime
import importlib
import warnings
import zipfile
from pathlib import Path
from typing import Any

from jaxreg.plain import counted, did_you_mean, quoted, warn

MAGIC = b"PK\x03\x04"
# Python's values as CSV files write them.
WORDS = {None: "", True: "true", False: "false"}


def write_sheet(path: Path, copy: Path, sheet: str | None) -> None:
    """Write a workbook's sheet, the first or the one of a name, as CSV.

    Raises:
        ValueError: if it can't be read, or there is no such sheet; names merged cells, and formulas whose
            results the file doesn't hold.
        ModuleNotFoundError: without openpyxl.

    Warns:
        UserWarning: names the sheets that are left out.
    """
    try:
        openpyxl = importlib.import_module("openpyxl")  # for workbooks alone
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{path}: workbooks need openpyxl: pip install 'jaxreg[excel]'") from None
    try:
        with warnings.catch_warnings(action="ignore"):  # of styles and the like, which no value is
            results = openpyxl.load_workbook(path, data_only=True)
            formulas = openpyxl.load_workbook(path) if _has_formulas(path) else results
    except Exception as error:  # openpyxl raises what its parts do
        raise ValueError(f"{path} can't be read as a workbook: {str(error).splitlines()[0]}") from None
    names = [each.title for each in results.worksheets]  # without charts
    if sheet is not None and sheet not in names:
        raise ValueError(f"{path} has no sheet {sheet!r}: it has {quoted(names)}{did_you_mean(sheet, names)}")
    if sheet is None and len(names) > 1:
        warn(f"{path}: the sheet {names[0]!r} is read, not {quoted(names[1:])} (--sheet)")
    values, written = results[sheet or names[0]], formulas[sheet or names[0]]
    faults = []
    if merged := sorted(map(str, values.merged_cells.ranges)):
        faults.append(f"merged cells ({quoted(merged)}), of which only the first has a value: split them")
    empty = [
        cell.coordinate
        for row in written.iter_rows()
        for cell in row
        if cell.data_type == "f" and values[cell.coordinate].value is None
    ]
    formulas_there = sum(cell.data_type == "f" for row in written.iter_rows() for cell in row)
    if empty and len(empty) == formulas_there:
        faults.append(
            f"{counted(len(empty), 'formula')} without a result, the first in {empty[0]}: open and save it "
            "in a spreadsheet program"
        )
    elif empty:
        told = f"{path}: {counted(len(empty), 'formula')} without a result, taken as missing"
        warn(told)
    if faults:
        raise ValueError(f"{path} has {'; and '.join(faults)}")
    rows = list(values.iter_rows(values_only=True))
    timed = [any(_has_time(value) for value in column) for column in zip(*rows, strict=True)]
    with copy.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [_as_text(value, with_time) for value, with_time in zip(row, timed, strict=True)] for row in rows
        )


def _has_time(value: Any) -> bool:
    return isinstance(value, datetime.datetime) and value.time() != datetime.time()


def _has_formulas(path: Path) -> bool:
    """Whether a sheet has any: a workbook is loaded once more to find them."""
    with zipfile.ZipFile(path) as parts:
        return any(b"<f" in parts.read(name) for name in parts.namelist() if "worksheets/" in name)


def _as_text(value: Any, with_time: bool) -> Any:
    if value is None or isinstance(value, bool):
        return WORDS[value]
    if isinstance(value, datetime.datetime) and not with_time:
        value = value.date()
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value
