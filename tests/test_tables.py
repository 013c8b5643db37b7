"""CSV and Parquet files as people have them, and as nobody should."""

import gzip
import io
import resource
import zipfile

import numpy as np
import pandas as pd
import polars as pl
import pytest

from jaxreg import data, tables

A, B = [1.0, 3.0], [2.5, 4.0]


def read(path, *names):
    table = tables.read(path)
    return tables.numeric(table, names or table.columns, path)


def excel():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return file.getvalue()


RIGHT = {
    "plain": b"a,b\n1,2.5\n3,4\n",
    "no line end": b"a,b\n1,2.5\n3,4",
    "Windows": b"a,b\r\n1,2.5\r\n3,4\r\n",
    "old Macintosh": b"a,b\r1,2.5\r3,4\r",
    "byte order mark": b"\xef\xbb\xbfa,b\n1,2.5\n3,4\n",
    "semicolons": b"a;b\n1;2.5\n3;4\n",
    "tabs": b"a\tb\n1\t2.5\n3\t4\n",
    "bars": b"a|b\n1|2.5\n3|4\n",
    "quotes": b'"a","b"\n"1","2.5"\n"3","4"\n',
    "blank lines": b"\n\na,b\n\n1,2.5\n\n  \n\n3,4\n\n\n",
    "blank lines, Windows": b"a,b\r\n\r\n1,2.5\r\n\r\n3,4\r\n\r\n",
    "blanks around values": b"a,b\n 1, 2.5\n 3 ,4 \n",
    "plus signs and exponents": b"a,b\n+1,25e-1\n3,+.4E1\n",
    "comments in a column nobody needs": b'a,b,note\n1,2.5,"so, so\n\nand ""so"""\n3,4,\n',
    "a name with the separator": b'"a,x",b\n1,2.5\n3,4\n',
    "an inch in a name and in a value": b'a,b,size in "\n1,2.5,6"\n3,4,"7"""\n',
    "mixed line ends": b"a,b\r1,2.5\r3,4\n\n",
    "separators at the ends": b"a,b,,\n1,2.5,,\n3,4,,\n",
    "a column of 45 digits beside": b"a,b,n\n1,2.5," + b"9" * 45 + b"\n3,4,1\n",
    "a comma in a name among semicolons": b'a;b;"Preis, EUR"\n1;2.5;x\n3;4;y\n',
    "blank lines first": b"  \n  \na,b\n1,2.5\n3,4\n",
    "true and false": b"t,b\ntrue,2.5\nfalse,4\n",
}


@pytest.mark.parametrize("what", RIGHT)
def test_what_is_read(tmp_path, what):
    (tmp_path / "t.csv").write_bytes(RIGHT[what])
    columns = tables.read(tmp_path / "t.csv").columns
    table = read(tmp_path / "t.csv", *columns[:2])
    assert table[columns[0]].to_list() == ([True, False] if columns[0] == "t" else A)
    assert table["b"].to_list() == B


def test_what_is_read_is_what_pandas_reads(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(100, 3)) * 10.0 ** rng.integers(-300, 300, (100, 3)))
    frame.columns = ["a b", "ü", '"c"']
    frame.insert(0, "n", rng.integers(-(2**63), 2**63, 100))
    for separator in (",", ";", "\t"):
        frame.to_csv(tmp_path / "t.csv", index=False, sep=separator)
        table = read(tmp_path / "t.csv")
        assert table.columns == list(frame.columns)
        np.testing.assert_array_equal(table.to_numpy(), frame.to_numpy(float))


WRONG = {
    "nothing": (b"", "is empty"),
    "blank": (b"\n \n\n", "is empty"),
    "only names": (b"a,b\n", "no rows: only the columns 'a', 'b'"),
    "more values": (b"a,b\n1,2\n\n1,2,3\n", "more values in line 4 than the 2 names"),
    "a separator too many": (b"a;b\n1;2;\n3;4;\n", "more values in line 2 than the 2 names"),
    "a value too many": (b"a;b;c\n1;2;3;4\n", "more values in line 2 than the 3 names"),
    "names again": (b"a,b\n1,2\na,b\n3,4\n", "column 'a' of .* such as 'a' in line 3"),
    "an inch in quotes": (b'a,t,b\n1,"5" disk",2\n3,"6" disk",4\n', "out of place .* begins in line 2"),
    "a quote that opens": (b'a,t\n1,"x\ny"\n3,"z,4\n', "out of place in the row that begins in line 4"),
    "fewer values": (b"a,b\n1\n2\n", "column 'b' of .* holds no values"),
    "two names alike": (b"a,b,a\n1,2,3\n", "more than one column named 'a'"),
    "two names absent": (b"a,,\n1,2,3\n", "columns 2 and 3 of .* have no names"),
    "one name absent": (b"a,\n1,2\n", "column 2 of .* has no name"),
    "text": (b"a,b\n1,2\n\n3,x\n", "column 'b' of .* holds text such as 'x' in line 4, numbers"),
    "text among numbers": (b"a,b\n1,2\nn.d.,3\n2,3\n", "column 'a' of .* 'n.d.' in line 3"),
    "dates": (b"a,b\n1,2024-01-01\n2,2024-01-02\n", "column 'b' of .* '2024-01-01' in line 2"),
    "a long text": (b"a,b\n1," + b"x" * 10**5 + b"\n", "column 'b' of .* such as 'x{39}[.]{3} in line 2"),
    "Latin-1": ("a,b\n1,2\n3,é\n".encode("latin-1"), "isn't UTF-8 text: line 3 has the byte 0xe9"),
    "a zero byte": (b"a,b\n1,2\n3,\x004\n", "isn't text: line 3 has a zero byte"),
    "zero bytes": (bytes(1000), "isn't text: line 1 has a zero byte"),
    "a novel": (b'a,t\n1,2\n3,"' + b"x" * 131_073 + b'"\n', "more than 131,072 characters in .* line 3"),
    "an open quote in the names": (b'a,"b\n' + b"1,2\n" * 40_000, "a quote in it isn't closed"),
    "an open quote": (b'a,b\n1,2\n"3,4\n5,6\n', "out of place in the row that begins in line 3"),
    "a quote within": (b'a,b\n1"x,2\n3,4\n', "column 'a' of .* text such as '1\"x' in line 2"),
    "Excel": (excel(), "a zip archive: unpack it, or give a workbook the suffix .xlsx"),
    "Parquet": (b"PAR1....PAR1", "is a Parquet file: give it the suffix .parquet"),
    "too many columns": (b"a," * 100_001 + b"\n", "has 100,002 columns"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_refused(tmp_path, what):
    content, words = WRONG[what]
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read(tmp_path / "t.csv")
    assert str(tmp_path / "t.csv") in str(caught.value) and len(str(caught.value)) < 500


def test_ten_thousand_columns(tmp_path):
    wide = np.arange(30_000.0).reshape(3, 10_000)
    np.savetxt(tmp_path / "t.csv", wide, delimiter=",", header=",".join(map(str, range(10_000))), comments="")
    np.testing.assert_array_equal(read(tmp_path / "t.csv").to_numpy(), wide)
    with pytest.raises(ValueError, match="no column 'y': it has columns '0', .* and 9,980 more"):
        tables.columns(tmp_path / "t.csv", ["y"])


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    block, packed = bytes(2**20), io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(block)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("t.csv", "t.parquet"):
        (tmp_path / name).write_bytes(packed.getvalue())
        with pytest.raises(ValueError, match="unpacks to more than 100 MB|can't be read"):
            tables.read(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_parquet(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    kinds = {"a": pl.Int128, "b": pl.Decimal(20, 3), "c": pl.Boolean, "d": pl.UInt8, "e": pl.Float32}
    frame = pl.DataFrame({name: [1, 0, 1] for name in kinds}).cast(kinds)
    frame.write_parquet(path)
    np.testing.assert_array_equal(data.check_features(read(path)), np.repeat([[1], [0], [1]], 5, axis=1))
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"{path} can't be read"):
            tables.read(path)
    pl.DataFrame({"a": ["x", None], "b": [[1], [2]]}).write_parquet(path)
    with pytest.raises(ValueError, match="column 'a' of .* text such as 'x' in row 1"):
        read(path, "a")
    with pytest.raises(ValueError, match="column 'b' of .* holds List"):
        read(path, "b")
    monkeypatch.setattr("jaxreg.machine.os.sysconf", {"SC_PHYS_PAGES": 1, "SC_PAGE_SIZE": 16}.get)
    with pytest.raises(ValueError, match="more than the machine's memory"):
        tables.read(path)
