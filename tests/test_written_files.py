"""Files as spreadsheets, databases, R, pandas and Spark write them: the right rows, or what to type."""

import bz2
import gzip
import io
import tempfile
import unicodedata
import warnings
from datetime import datetime
from pathlib import Path

import openpyxl
import polars as pl
import pyarrow as pa
import pytest

from jaxreg import tables
from jaxreg.tables import Form

TWO = {"x": [1.5, 2.5], "y": [10.0, 20.0]}


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(content)
    return sink.getvalue().to_pybytes()


def parquet(columns):
    """The bytes of a Parquet file."""
    content = io.BytesIO()
    pl.DataFrame(columns).write_parquet(content)
    return content.getvalue()


def book(*sheets, **more):
    """A workbook's bytes; `more` sets cells of the first sheet, or merges them."""
    made = openpyxl.Workbook()
    made.remove(made.active)
    for name, rows in sheets:
        sheet = made.create_sheet(name)
        for row in rows:
            sheet.append(row)
    for cell, value in more.items():
        if cell == "merge":
            made.worksheets[0].merge_cells(value)
        else:
            made.worksheets[0][cell] = value
    with tempfile.NamedTemporaryFile(suffix=".xlsx") as file:
        made.save(file.name)
        return Path(file.name).read_bytes()


PLAIN = "x,y\n1.5,10\n2.5,20\n"
ROWS = [["x", "y"], [1.5, 10], [2.5, 20]]
# Name, content, what the user says, the rows, and what a warning says; None where nothing is said.
READ = [
    ("plain.csv", PLAIN, {}, TWO, None),
    (
        "excel-germany.csv",
        "\ufeffsep=;\r\nx;y\r\n1,5;1.010,00\r\n2,5;20,00\r\n",
        {},
        {"x": [1.5, 2.5], "y": [1010.0, 20.0]},
        "decimal commas: 'x'; decimal commas and points between thousands: 'y'",
    ),
    (
        "excel-germany-thousands.csv",
        "x;y\n1,5;1.010\n2,5;2.020\n",
        {},
        {"x": [1.5, 2.5], "y": [1010.0, 2020.0]},
        "decimal commas: 'x'; decimal commas and points between thousands: 'y'",
    ),
    (
        "excel-usa.csv",
        'x,y\n1.5,"$1,010.00"\n2.5,$20.00\n',
        {},
        {"x": [1.5, 2.5], "y": [1010.0, 20.0]},
        "commas between thousands and currency signs: 'y'",
    ),
    (
        "excel-france.csv",
        "x;y\n1,5;1\u202f010,00 €\n2,5;20,00 €\n",
        {},
        {"x": [1.5, 2.5], "y": [1010.0, 20.0]},
        "decimal commas and spaces between thousands and currency signs: 'y'",
    ),
    (
        "excel-sweden.csv",
        "x;y\n1,5;1\u00a0010\n2,5;20\n",
        {},
        {"x": [1.5, 2.5], "y": [1010.0, 20.0]},
        "spaces between thousands",
    ),
    (
        "excel-switzerland.csv",
        "x;y\n1.5;1'010.00\n2.5;20.00\n",
        {},
        {"x": [1.5, 2.5], "y": [1010.0, 20.0]},
        "apostrophes between thousands: 'y'",
    ),
    ("percent.csv", "x,y\n1.5 %,10\n2.5 %,20\n", {}, TWO, "percent signs: 'x'"),
    (
        "accountants.csv",
        "x,y\n(1.5),10\n2.5,20\n",
        {},
        {"x": [-1.5, 2.5], "y": [10.0, 20.0]},
        "minus signs written otherwise: 'x'",
    ),
    ("sap.csv", "x;y\n1,5-;10,0\n2,5;20,0\n", {}, {"x": [-1.5, 2.5], "y": [10.0, 20.0]}, "decimal commas"),
    (
        "doubtful.csv",
        'x,y\n"1,500",10\n"2,500",20\n',
        {},
        {"x": [1500.0, 2500.0], "y": [10.0, 20.0]},
        "which may be decimal commas: 'x' (--decimal . or , says otherwise)",
    ),
    ("no-doubt.csv", 'x,y\n"1,500",10\n"2,500",20\n', {"decimal": ","}, TWO, "decimal commas: 'x'"),
    (
        "others-say.csv",
        "x;y\n1,500;10,0\n2,500;20,5\n",
        {},
        {"x": [1.5, 2.5], "y": [10.0, 20.5]},
        "decimal commas: 'x', 'y'",
    ),
    ("excel-unicode.txt", "x\ty\r\n1.5\t10\r\n2.5\t20\r\n".encode("utf-16"), {}, TWO, None),
    (
        "windows.csv",
        "x,straße\n1.5,köln\n2.5,bonn\n".encode("cp1252"),
        {"encoding": "cp1252"},
        {"x": [1.5, 2.5], "straße": ["köln", "bonn"]},
        None,
    ),
    ("packed.csv.gz", gzip.compress(PLAIN.encode()), {}, TWO, None),
    ("packed.csv.zst", zstd(PLAIN.encode()), {}, TWO, None),
    ("packed.CSV.BZ2", bz2.compress(PLAIN.encode()), {}, TWO, None),
    ("packed-without-saying.csv", gzip.compress(PLAIN.encode()), {}, TWO, None),
    (
        "instrument.csv",
        "# by sensor 7\n# in metres\n\nx,y\n1.5,10\n2.5,20\n",
        {},
        TWO,
        "2 lines before the names skipped",
    ),
    ("numpy.txt", "# x y\n1.5e+00 1.0e+01\n2.5e+00 2.0e+01\n", {}, TWO, "values are parted by spaces"),
    ("numpy.csv", "# x,y\n1.5e+00,1.0e+01\n2.5e+00,2.0e+01\n", {}, TWO, None),
    ("uci.data", "x   y\n1.5  10\n2.5\t20\n", {}, TWO, "values are parted by spaces"),
    ("r-table.txt", '"x" "y"\n"1" 1.5 10\n"2" 2.5 20\n', {}, {"": [1.0, 2.0], **TWO}, "parted by spaces"),
    ("r.csv", '"","x","y"\n"1",1.5,10\n"2",2.5,20\n', {}, {"": [1.0, 2.0], **TWO}, None),
    ("r2.csv", '"";"x";"y"\n"1";1,5;10\n"2";2,5;20\n', {}, {"": [1.0, 2.0], **TWO}, "decimal commas: 'x'"),
    ("pandas.csv", ",x,y\n0,1.5,10\n1,2.5,20\n", {}, {"": [0.0, 1.0], **TWO}, None),
    ("pandas-germany.csv", "x;y\n1,5;10,0\n2,5;20,0\n", {}, TWO, "decimal commas"),
    (
        "sheet-of-blanks.csv",
        "x,y,,\n1.5,10,,\n,,,\n2.5,20,,\n,,,\n",
        {},
        TWO,
        "2 lines of separators alone skipped",
    ),
    (
        "places.csv",
        'place,x\n"52,13",3.301\n"51,12",3.299\n',
        {},
        {"place": [52.13, 51.12], "x": [3.301, 3.299]},
        "decimal commas: 'place'",
    ),
    (
        "few-thousands.csv",
        "x;y\n" + "1;0,5\n" * 300 + "1.299;5,0\n",
        {},
        {"x": [1.0] * 300 + [1299.0], "y": [0.5] * 300 + [5.0]},
        "decimal commas and points between thousands: 'x'; decimal commas: 'y'",
    ),
    (
        "codes.csv",
        'ip,account,grade,day\n192.168.100.200,12.345.678,1-,"01,02"\n192.168.100.201,12.345.679,2-,"03,04"\n',
        {},
        {
            "ip": ["192.168.100.200", "192.168.100.201"],
            "account": ["12.345.678", "12.345.679"],
            "grade": ["1-", "2-"],
            "day": ["01,02", "03,04"],
        },
        None,
    ),
    ("strand.csv", "x,y\n+,1\n-,2\n.,3\n", {}, {"x": ["+", "-", "."], "y": [1.0, 2.0, 3.0]}, None),
    ("hash.csv", "#x,kind\nA,B\nC,D\n", {}, {"#x": ["A", "C"], "kind": ["B", "D"]}, None),
    (
        "names-with-commas.csv",
        "Preis, EUR;y\n15;3,5\n16;4,5\n",
        {},
        {"Preis, EUR": [15.0, 16.0], "y": [3.5, 4.5]},
        "decimal commas: 'y'",
    ),
    (
        "no-names-germany.csv",
        "1,5;10\n2,5;20\n",
        {"named": False},
        {"0": [1.5, 2.5], "1": [10.0, 20.0]},
        "'0'",
    ),
    ("excel-packed.csv.gz", gzip.compress(PLAIN.encode("utf-16")), {}, TWO, None),
    (
        "midnight.xlsx",
        book(("a", [["x", "y"], [datetime(2024, 1, 1), 1], [datetime(2024, 1, 1, 6), 2]])),
        {},
        {"x": ["2024-01-01T00:00:00", "2024-01-01T06:00:00"], "y": [1.0, 2.0]},
        None,
    ),
    ("no-names.csv", "1.5,10\n2.5,20\n", {"named": False}, {"0": [1.5, 2.5], "1": [10.0, 20.0]}, None),
    (
        "faults.csv",
        "x,y\n#N/A,10\n#DIV/0!,20\n1.5,30\n",
        {},
        {"x": [None, None, 1.5], "y": [10.0, 20.0, 30.0]},
        None,
    ),
    ("dashes.csv", "x,y\n-,10\n--,20\n1.5,30\n", {}, {"x": [None, None, 1.5], "y": [10.0, 20.0, 30.0]}, None),
    ("mysql.tsv", "x\ty\n\\N\t10\n1.5\t20\n", {}, {"x": [None, 1.5], "y": [10.0, 20.0]}, None),
    ("sas.csv", "x,y\n.,10\n1.5,20\n", {}, {"x": [None, 1.5], "y": [10.0, 20.0]}, None),
    (
        "own-gaps.csv",
        "x,y\n-999,10\nno idea,20\n1.5,30\n",
        {"gaps": ("-999", "no idea")},
        {"x": [None, None, 1.5], "y": [10.0, 20.0, 30.0]},
        None,
    ),
    ("postgres.csv", 'x,y\n"1.5","10"\n"2.5","20"\n', {}, TWO, None),
    ("bars.txt", "x|y\n1.5|10\n2.5|20\n", {}, TWO, None),
    ("old-mac.csv", "x,y\r1.5,10\r2.5,20\r", {}, TWO, None),
    (
        "macos.csv",
        unicodedata.normalize("NFD", "prix_é,y\n1.5,10\n2.5,20\n"),
        {},
        {"prix_é": [1.5, 2.5], "y": [10.0, 20.0]},
        None,
    ),
    (
        "macos.parquet",
        parquet({unicodedata.normalize("NFD", "prix_é"): [1.5, 2.5], "y": [10.0, 20.0]}),
        {},
        {"prix_é": [1.5, 2.5], "y": [10.0, 20.0]},
        None,
    ),
    ("words.csv", "x,y\nja,10\nnein,20\n", {}, {"x": ["ja", "nein"], "y": [10.0, 20.0]}, None),
    ("book.xlsx", book(("a", ROWS)), {}, TWO, None),
    (
        "books.xlsx",
        book(("a", ROWS), ("b", [["u"], [1]])),
        {},
        TWO,
        "the sheet 'a' is read, not 'b' (--sheet)",
    ),
    (
        "units.csv",
        "x,y\nm,EUR\n1.5,10\n2.5,20\n",
        {},
        {"x": ["m", "1.5", "2.5"], "y": ["EUR", "10", "20"]},
        "may have a second line of names or units ('m', 'EUR'), taken as a row: delete it",
    ),
    ("second.xlsx", book(("a", [["u"], [1]]), ("b", ROWS)), {"sheet": "b"}, TWO, None),
]
REFUSED = [
    (
        "no-names.csv",
        "1.5,10\n2.5,20\n",
        {},
        "seems to have no line of names, its first has numbers alone: say --no-header",
    ),
    (
        "windows.csv",
        "x,y\nköln,1\n".encode("cp1252"),
        {},
        "--encoding cp1252 for example, which makes 'ö' of it",
    ),
    (
        "windows.csv",
        "x,y\nköln,1\n".encode("cp1252"),
        {"encoding": "klingon"},
        "there is no encoding 'klingon'",
    ),
    ("utf.csv", "x,y\nköln,1\n".encode("cp1252"), {"encoding": "utf-8"}, "isn't utf-8 text"),
    ("cut.csv.gz", gzip.compress(PLAIN.encode())[:-9], {}, "can't be unpacked (Truncated compressed stream)"),
    ("bomb.csv.gz", gzip.compress(b"x,y\n" + b"0" * 2 * 10**8, 1), {}, "unpacks to more than 100 MB, "),
    ("small.csv.gz", gzip.compress(PLAIN.encode()), {"unpacked": 5}, "--unpacked MB allows more"),
    ("packed.zip", b"PK\x03\x04", {}, "tables are .csv, .tsv (tab-separated) or .parquet, .xlsx, or text"),
    ("packed.csv", b"PK\x03\x04", {}, "is a zip archive: unpack it"),
    (
        "short.txt",
        "a b y\n" + "1 2 3\n" * 30 + "31 93\n",
        {},
        "has 2 values in line 32, parted by spaces, and 3",
    ),
    ("empty.csv.gz", gzip.compress(b""), {}, "is empty: a first line"),
    ("rot13.csv", PLAIN, {"encoding": "rot13"}, "there is no encoding 'rot13'"),
    ("utf16.csv", PLAIN, {"encoding": "utf-16"}, "isn't utf-16 text"),
    ("plain.csv", PLAIN, {"sheet": "a"}, "--sheet is for workbooks"),
    ("broken.xlsx", b"PK\x03\x04", {}, "can't be read as a workbook"),
    ("book.xlsx", book(("a", ROWS)), {"sheet": "A"}, "has no sheet 'A': it has 'a'; did you mean 'a'?"),
    (
        "merged.xlsx",
        book(("a", [["x", None], ["u", "v"], [1, 2]]), merge="A1:B1"),
        {},
        "merged cells ('A1:B1')",
    ),
    ("formulas.xlsx", book(("a", ROWS), B2="=1+1"), {}, "1 formula without a result, the first in B2"),
]


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read_whole(path, form):
    table = tables.read(path, form=form)
    return tables.typed(table, table.columns, path) if "" not in table.columns else table


def read_streamed(path, form):
    names = tables.names_of(tables.plain([path], form)[0])
    features = [name for name in names if name]
    files = tables.from_files(path, target=None, features=features, any_kind=True, form=form)
    return pl.concat([files.table(group) for group in files.row_groups])


@pytest.mark.parametrize("reading", [read_whole, read_streamed])
@pytest.mark.parametrize(
    ("name", "content", "said", "rows", "told"), READ, ids=[f"{case[0]}-{i}" for i, case in enumerate(READ)]
)
def test_files_as_programs_write_them(tmp_path, reading, name, content, said, rows, told):
    path = written(tmp_path, name, content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = reading(path, Form(**said))
    if reading is read_streamed:
        rows = {name: values for name, values in rows.items() if name}
    numbers = {own: kind for own, kind in found.schema.items() if kind.is_numeric()}
    assert found.cast(dict.fromkeys(numbers, pl.Float64)).to_dict(as_series=False) == rows
    texts = {str(each.message) for each in caught}
    assert all("/jaxreg-" not in text for text in texts)
    assert any(told in text for text in texts) if told else not texts, texts


@pytest.mark.parametrize("reading", [read_whole, read_streamed])
@pytest.mark.parametrize(
    ("name", "content", "said", "words"), REFUSED, ids=[case[3][:30] for case in REFUSED]
)
def test_files_that_are_refused(tmp_path, reading, name, content, said, words):
    path = written(tmp_path, name, content)
    with pytest.raises(ValueError) as caught, warnings.catch_warnings(action="ignore"):
        reading(path, Form(**said))
    assert words in str(caught.value) and str(path) in str(caught.value), caught.value


def test_parquet_takes_no_form_of_text(tmp_path):
    tables.write(pl.DataFrame(TWO), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="--encoding and --unpacked are for text, and .*a.parquet is none"):
        tables.read(tmp_path / "a.parquet", form=Form(encoding="cp1252"))


def test_folders_of_spark(tmp_path):
    for year in (2023, 2024):
        for town in ("Aachen", "K%C3%B6ln"):
            folder = tmp_path / f"year={year}" / f"town={town}"
            folder.mkdir(parents=True)
            table = pl.DataFrame({"x": [1.5, 2.5], "y": [10, 20]})
            tables.write(table, folder / "part-0.parquet")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "notes.csv").write_text("a\n1\n")
    (tmp_path / "_delta_log").mkdir()
    tables.write(pl.DataFrame({"other": [1]}), tmp_path / "_delta_log" / "1.parquet")
    with (
        pytest.warns(UserWarning, match="only the .parquet files are read; left out: notes.csv"),
        pytest.warns(UserWarning, match="columns from the names of folders: 'year', 'town'"),
    ):
        files = tables.from_files(tmp_path, target="y", any_kind=True)
    assert files.features == ("x", "year", "town") and files.rows == 8
    rows = pl.concat([files.table(group) for group in files.row_groups])
    assert rows["year"].unique(maintain_order=True).to_list() == [2023, 2024]
    assert rows["town"].unique(maintain_order=True).to_list() == ["Aachen", "Köln"]


def test_all_that_is_wrong_with_a_column_is_counted(tmp_path):
    path = written(tmp_path, "a.csv", "x,y\n1,2\n2,low\n3,4\n4,high\n5,high\n6,7\n" + "7,8\n" * 3)
    words = "column 'y' of .*a.csv holds text such as 'low' in line 3 and 2 more rows"
    with pytest.raises(ValueError, match=words):
        tables.numeric(tables.read(path), ["y"], path)
    with pytest.raises(ValueError, match=words):
        tables.from_files(path, target="y", any_kind=True)


def test_a_file_that_is_there_twice(tmp_path):
    written(tmp_path, "a.csv", PLAIN)
    written(tmp_path, "a.csv.gz", gzip.compress(PLAIN.encode()))
    with pytest.raises(ValueError, match="a.csv is there packed and unpacked"):
        tables.find(tmp_path)


def test_files_that_write_numbers_each_in_its_way(tmp_path):
    for name, text in (
        ("a", "x;y\n1.299,99;2\n2,5;3\n"),
        ("b", "x;y\n1.500;2\n2.500;3\n"),
        ("c", "x;y\n$5;2,5\n"),
    ):
        written(tmp_path, f"{name}.csv", text)
    with pytest.warns(UserWarning, match="decimal commas"):
        files = tables.from_files(tmp_path, target="y", any_kind=True)
    found = pl.concat([files.table(group) for group in files.row_groups])
    assert found["x"].to_list() == [1299.99, 2.5, 1500, 2500, 5] and found["y"].to_list() == [2, 3, 2, 3, 2.5]


def test_sums_in_several_currencies_are_no_numbers(tmp_path):
    path = written(tmp_path, "sums.csv", "x;y\n1;1.250,50 €\n2;12,00 $\n3;7,25 €\n")
    words = r"'y' of .* holds sums in several currencies \(€ and \$\), such as '12,00 \$' in line 3: "
    with pytest.raises(ValueError, match=words):
        tables.numeric(tables.read(path), ["y"], path)
    with pytest.raises(ValueError, match=words), warnings.catch_warnings(action="ignore"):
        files = tables.from_files(path, target="y")
        [files.read(group) for group in files.row_groups]
