import re
import threading
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxreg import sources

N = 5000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three files of row groups of several sizes; column a is the number of the row."""
    folder, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    table = pa.table(
        {
            "a": np.arange(N, dtype=np.float32),
            "b": 1e9 + rng.normal(size=N),
            "t": rng.integers(0, 2, N).astype(bool),
            "y": rng.integers(-9, 9, N),
        }
    )
    for i, (first, last) in enumerate([(0, 1000), (1000, 1700), (1700, N)]):
        pq.write_table(table.slice(first, last - first), folder / f"{i}.parquet", row_group_size=300)
    return folder


def test_scalers_are_those_of_all_rows(folder):
    files = sources.from_files(str(folder), target="y")
    assert files.rows == N and files.features == ("a", "b", "t")
    whole = pl.read_parquet(folder / "*.parquet").cast(pl.Float64).to_numpy().astype(np.longdouble)
    x, y = files.scalers()
    mean, std = whole.mean(axis=0).astype(float), whole.std(axis=0).astype(float)
    np.testing.assert_allclose(np.r_[x.loc, y.loc], mean, rtol=1e-14)
    np.testing.assert_allclose(np.r_[x.scale, y.scale], std, rtol=1e-11)


@pytest.mark.parametrize(
    "batch_size, batches, buffer", [(64, 5, 700), (1, 1, 100), (999, 2, 10**6), (128, 40, 64)]
)
def test_a_stream_has_every_row_once(folder, batch_size, batches, buffer):
    files = replace(sources.from_files(f"{folder}/*.parquet", target="y"), buffer=buffer)
    given = {"batch_size": batch_size, "batches": batches}
    blocks = list(files.stream([1, 2], **given))
    assert len(blocks) == -(-files.batches(batch_size) // batches)
    assert all(block.x.shape == (batches, batch_size, 3) for block in blocks)
    numbers = np.concatenate([block.numbers.ravel() for block in blocks])
    assert (numbers[N:] == -1).all()
    np.testing.assert_array_equal(np.sort(numbers[:N]), np.arange(N))
    values = np.concatenate([block.x[..., 0].ravel() for block in blocks])
    np.testing.assert_array_equal(values[:N], numbers[:N])
    again = list(files.stream([1, 2], **given))
    for a, b in zip(blocks, again, strict=True):
        for left, right in zip(a, b, strict=True):
            np.testing.assert_array_equal(left, right)
    other = np.concatenate([block.numbers.ravel() for block in files.stream([1, 3], **given)])
    assert (other != numbers).any()


@pytest.mark.parametrize("shares", [2, 3, 4])
def test_shares_of_a_stream_are_parts_of_its_batches(folder, shares):
    files = replace(sources.from_files(str(folder), target="y"), buffer=500).without([3], 200)
    given = {"batch_size": 96, "batches": 4, "shares": shares}
    whole = list(files.stream([5], **given))
    parts = [list(files.stream([5], share=share, **given)) for share in range(shares)]
    for block, *own in zip(whole, *parts, strict=True):
        for joined, *pieces in zip(block, *own, strict=True):
            np.testing.assert_array_equal(joined, np.concatenate(pieces, axis=1))
    numbers = np.concatenate([block.numbers.ravel() for block in whole])
    left_out, x, _ = sources.from_files(str(folder), target="y").take([3], 200)
    assert 150 < len(left_out) < 250
    np.testing.assert_array_equal(x[:, 0], left_out)
    np.testing.assert_array_equal(np.sort(np.r_[numbers[numbers >= 0], left_out]), np.arange(N))
    assert not set(left_out) & set(files.take([4], N)[0])


def test_what_no_shares_can_have(folder):
    files = sources.from_files(str(folder), target="y")
    with pytest.raises(ValueError, match="18 row groups are too few for 20 shares"):
        files.batches(100, 20)
    with pytest.raises(ValueError, match="a batch of 50 rows has no 4 equal parts"):
        next(files.stream([0], batch_size=50, batches=1, shares=4))


def test_neighbours_in_a_stream_know_little_of_each_other(folder):
    """Rows that are sorted on the disk come mixed over the buffer."""
    files = sources.from_files(str(folder), target="y")

    def correlation(buffer):
        found = []
        for seed in range(20):
            blocks = replace(files, buffer=buffer).stream([seed], batch_size=50, batches=1)
            numbers = np.concatenate([block.numbers.ravel() for block in blocks])
            found.append(np.corrcoef(numbers[1:], numbers[:-1])[0, 1])
        return np.mean(found)

    assert correlation(300) > 0.3 > 0.15 > correlation(2500) > correlation(N) - 0.05
    assert abs(correlation(N)) < 0.02


def test_a_thread_works_ahead_and_stops(folder):
    before = threading.active_count()
    stream = sources.from_files(str(folder), target="y").stream([1], batch_size=10, batches=1)
    next(stream)
    stream.close()
    assert threading.active_count() == before

    def fails():
        yield 1
        raise KeyError("lost")

    items = sources.ahead(fails())
    assert next(items) == 1
    with pytest.raises(KeyError, match="lost"):
        next(items)


def write(path, **columns):
    pl.DataFrame(columns).write_parquet(path, row_group_size=2)


WRONG = {
    "nothing": (lambda d: None, "no file matches"),
    "no rows": (lambda d: write(d / "0.parquet", a=[], y=[]), "numbers are needed|has no rows"),
    "no target": (lambda d: write(d / "0.parquet", a=[1.0]), "lacks column 'y'; it has column 'a'"),
    "text": (lambda d: write(d / "0.parquet", a=["x"], y=[1.0]), "column 'a' of .* is .*string"),
    "another type": (
        lambda d: (write(d / "0.parquet", a=[1.0], y=[1.0]), write(d / "1.parquet", a=[1], y=[1.0])),
        "column 'a' is int64 in .*1.parquet and is double in .*0.parquet",
    ),
    "another column": (
        lambda d: (write(d / "0.parquet", a=[1.0], y=[1.0]), write(d / "1.parquet", y=[1.0])),
        "column 'a' is absent in .*1.parquet",
    ),
    "no Parquet": (lambda d: (d / "0.parquet").write_bytes(b"a,y\n1,2\n"), "0.parquet can't be read"),
    "missing": (
        lambda d: (
            write(d / "0.parquet", a=[1.0, 2.0, None], y=[1.0, np.inf, np.nan]),
            write(d / "1.parquet", a=[1.0, np.nan], y=[1.0, 2.0]),
        ),
        "column 'y' of .*0.parquet: 2, column 'a' of .*0.parquet: 1, column 'a' of .*1.parquet: 1",
    ),
    "one value": (
        lambda d: write(d / "0.parquet", a=[1.0, 2.0], y=[3, 3]),
        "'y' has one value, 3, in all 2 rows",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_refused(tmp_path, what):
    make, words = WRONG[what]
    make(tmp_path)
    with pytest.raises(ValueError, match=words):
        sources.from_files(str(tmp_path), target="y").scalers()


def test_a_file_that_was_cut_or_changed_later(folder, tmp_path):
    whole = (folder / "0.parquet").read_bytes()
    (tmp_path / "0.parquet").write_bytes(whole)
    files = sources.from_files(str(tmp_path), target="y")
    (tmp_path / "0.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / '0.parquet'}, row group 0, can't be read")):
        files.scalers()
