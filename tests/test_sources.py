import datetime
import decimal
import re
import shutil
import sys
import threading
from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats

from jaxreg import Columns, MeanVarRegressor, fit, fit_ensemble, make_trainer, sgd, sources, tables
from jaxreg.columns import counts
from jaxreg.data.rows import key_words
from jaxreg.files import remove_scratch
from jaxreg.model.checkpoints import Checkpoint
from jaxreg.tables import learn

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


@pytest.mark.parametrize("count", [2, 3, 4, 18])
def test_shares_of_processes_are_all_rows(folder, count):
    files = replace(sources.from_files(str(folder), target="y"), buffer=500).without([3], 200)
    given = {"batch_size": 32, "batches": 4}
    shares = [replace(files, process=(i, count), own_share=True) for i in range(count)]
    assert len({share.batches(32) for share in shares}) == 1
    streams = [list(share.stream([5], **given)) for share in shares]
    assert len({len(stream) for stream in streams}) == 1
    own = [np.concatenate([block.numbers.ravel() for block in stream]) for stream in streams]
    own = [numbers[numbers >= 0] for numbers in own]
    left_out, x, _ = sources.from_files(str(folder), target="y").take([3], 200)
    assert 150 < len(left_out) < 250
    np.testing.assert_array_equal(x[:, 0], left_out)
    np.testing.assert_array_equal(np.sort(np.concatenate([*own, left_out])), np.arange(N))
    assert not set(left_out) & set(files.take([4], N)[0])


@pytest.mark.parametrize("count", [2, 3, 4])
def test_shares_of_sorted_files_span_all_values(folder, count):
    """Column a is sorted; a row group has 300 rows at most."""
    files = sources.from_files(str(folder), target="y")
    for i in range(count):
        share = replace(files, process=(i, count), own_share=True)
        blocks = list(share.stream([5], batch_size=32, batches=4))
        numbers = np.sort(np.concatenate([block.numbers.ravel() for block in blocks]))
        numbers = numbers[numbers >= 0]
        assert abs(len(numbers) - N / count) <= 300
        assert np.diff(np.r_[0, numbers, N]).max() <= count * 300


def test_processes_that_are_more_than_row_groups_read_all(folder):
    files = sources.from_files(str(folder), target="y")
    expected = jax.tree.leaves((files.scalers(), files.take([3], 200)))
    for i in (0, 18, 19):
        own = replace(files, process=(i, 20))
        found = jax.tree.leaves((own.scalers(), own.take([3], 200)))
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
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

    items = sources.prefetch(fails())
    assert next(items) == 1
    with pytest.raises(KeyError, match="lost"):
        next(items)


CSV = {
    "plain": "a,b,y\n{rows}",
    "quotes": 'a,"b",y\r\n"0",1,2\r\n{rows}',
    "a bar, text beside, blank lines, no last newline": "\n\na|t|b|y\n1|x|2|3\n\n{rows}",
}


@pytest.mark.parametrize("what", CSV)
def test_text_is_read_as_a_table_in_memory_is(tmp_path, monkeypatch, what):
    monkeypatch.setattr("jaxreg.tables.csv.BLOCK_BYTES", 1000)
    monkeypatch.setattr("jaxreg.tables.csv.BLOCK_LINES", 40)
    rng = np.random.default_rng(0)
    separator = "|" if "bar" in what else ","
    for i in range(3):
        values = rng.normal(size=(200, 3)) * 10.0 ** rng.integers(-9, 9, size=(200, 3))
        lines = [[f"{v:.17g}" for v in row] for row in values]
        for line in lines if separator == "|" else ():
            line.insert(1, "text, with commas")
        text = CSV[what].format(rows="\n".join(separator.join(line) for line in lines))
        (tmp_path / f"{i}.csv").write_bytes(text.encode())
    files = sources.from_files(tmp_path, target="y", features=["a", "b"])
    assert (
        all(row_group.path.suffix == ".parquet" for row_group in files.row_groups)
        and len(files.row_groups) > 6
    )
    x, y = (np.concatenate(part) for part in zip(*map(files.read, files.row_groups), strict=True))
    whole = pl.concat([tables.columns(tmp_path / f"{i}.csv", ["a", "b", "y"]) for i in range(3)])
    np.testing.assert_array_equal(np.column_stack([x, y]), whole.to_numpy())


@pytest.mark.parametrize(
    "last, words",
    [
        ("x,2", "column 'a' of .*csv holds text such as 'x' in line 502"),
        ("1,2,3", "has more values in line 502 than the 2 names"),
        ('1,"2', "csv has a quote out of place in the row that begins in line 502"),
        (",2", "missing or infinite values in .*/0.csv, rows [0-9]+ to 501, column 'a': 1"),
        ("\0,2", "line 502 has a zero byte"),
    ],
)
def test_faults_late_in_a_text_are_named(tmp_path, monkeypatch, last, words):
    monkeypatch.setattr("jaxreg.tables.csv.BLOCK_BYTES", 1000)
    (tmp_path / "0.csv").write_text("a,y\n" + "1,2\n" * 500 + last + "\n")
    with pytest.raises(ValueError, match=words):
        files = sources.from_files(f"{tmp_path}/*.csv", target="y")
        [files.read(row_group) for row_group in files.row_groups]


@pytest.mark.parametrize("members", [1, 3])
def test_files_are_trained_on_as_their_rows_are(folder, x64, members):
    """The last batch, rows left out, and units, too."""
    files = sources.from_files(folder, target="y").standardised().without([7], 300)
    trainer, key = make_trainer(MeanVarRegressor(hidden=(4,)), sgd(5e-3)), jax.random.key(3)
    states, history = fit_ensemble(key, trainer, files, members=members, epochs=2, batch_size=64)
    raw = pl.read_parquet(folder / "*.parquet").cast(pl.Float64).to_numpy()
    for i, own in enumerate(jax.random.split(key, members)):
        state = trainer.init(own, raw[:1, :3])
        for epoch in range(2):
            seen = []
            for block in files.stream([*key_words(key), epoch], batch_size=64, batches=10):
                for numbers in block.numbers:
                    if (numbers < 0).all():
                        continue
                    x = files.units[0].transform(raw[numbers, :3])
                    y = files.units[1].transform(raw[numbers, 3])
                    state, loss = trainer.step(state, (x, y, (numbers >= 0).astype(float)))
                    seen.append((float(loss), (numbers >= 0).sum()))
            losses, weights = zip(*seen, strict=True)
            mean = np.average(losses, weights=weights)
            np.testing.assert_allclose(history.loss[i, epoch], mean, rtol=1e-12)
        for a, b in zip(jax.tree.leaves(states.params), jax.tree.leaves(state.params), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-12, atol=1e-12)


def test_a_row_that_goes_bad_later_ends_the_run_and_the_checkpoint_stays(folder, tmp_path):
    (tmp_path / "kept").mkdir()
    for path in folder.glob("*.parquet"):
        shutil.copy(path, tmp_path)
    with pytest.warns(UserWarning, match="left out: kept"):
        files = replace(sources.from_files(tmp_path, target="y").standardised(), buffer=100)
    last = pl.read_parquet(tmp_path / "2.parquet")
    bad = last.with_columns(b=pl.when(pl.int_range(pl.len()) < len(last) - 1).then("b"))
    pq.write_table(bad.to_arrow(), tmp_path / "2.parquet", row_group_size=300)
    trainer = make_trainer(MeanVarRegressor(hidden=(4,)), sgd(5e-3))
    given = {"epochs": 2, "batch_size": 10, "hooks": [Checkpoint(tmp_path / "kept", every=0.001)]}
    with pytest.raises(ValueError, match=r"2.parquet, row group 10, column 'b': 1; drop these rows"):
        fit(jax.random.key(0), trainer, files, **given)
    assert (tmp_path / "kept").exists()


def write(path, **columns):
    pq.write_table(pl.DataFrame(columns).to_arrow(), path, row_group_size=2)


WRONG = {
    "nothing": (lambda d: None, "no file matches"),
    "no rows": (lambda d: write(d / "0.parquet", a=[], y=[]), "numbers are needed|has no rows"),
    "no target": (lambda d: write(d / "0.parquet", a=[1.0]), "lacks column 'y'; it has column 'a'"),
    "text": (lambda d: write(d / "0.parquet", a=["x"], y=[1.0]), "column 'a' of .* is .*string"),
    "another type": (
        lambda d: (write(d / "0.parquet", a=[1.0], y=[1.0]), write(d / "1.parquet", a=["1"], y=["1"])),
        "column 'a' of .*1.parquet is .*string, numbers are needed.*; column 'y' of .*1.parquet is .*string",
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


def test_missing_flags_are_counted(tmp_path):
    pq.write_table(
        pa.table({"t": [True, None, False], "a": [1, None, 2**60 + 1], "y": [1.0, 2.0, 4.0]}),
        tmp_path / "t.parquet",
    )
    with pytest.raises(ValueError, match=r"'t' of .*t.parquet: 1, column 'a' of .*: 1;"):
        sources.from_files(tmp_path, target="y").scalers()


@pytest.mark.parametrize("unit", [1e-180, 1e180])
def test_values_whose_squares_float64_does_not_know(tmp_path, unit):
    table = pa.table({"a": np.arange(9) * unit, "b": np.arange(9.0), "y": np.arange(9.0)})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="the squares of column 'a' are too small or too large for float64"):
        sources.from_files(tmp_path, target="y").scalers()


def test_text_that_was_rewritten_goes_with_the_process(tmp_path):
    (tmp_path / "t.csv").write_text("a,y\n1,2\n3,4\n")
    (tmp_path / "scratch").mkdir()
    assert sources.from_files(tmp_path / "t.csv", target="y", scratch=tmp_path / "scratch").rows == 2
    assert len(list((tmp_path / "scratch").glob("*/*.parquet"))) == 1
    remove_scratch()
    assert not list((tmp_path / "scratch").iterdir())


def test_tables_of_other_kinds_in_a_folder_are_named(tmp_path):
    for name in ("a.csv", "B.CSV", "c.tsv"):
        (tmp_path / name).write_text("a,y\n1,2\n3,4\n" if name != "c.tsv" else "a\ty\n1\t2\n")
    with pytest.warns(UserWarning, match="only the .csv files are read; left out: c.tsv"):
        assert [path.name for path in sources.find(tmp_path)] == ["B.CSV", "a.csv"]
    write(tmp_path / "d.PARQUET", a=[1.0], y=[2.0])
    with pytest.warns(UserWarning, match="only the .parquet files are read; left out: B.CSV, a.csv, c.tsv"):
        assert [path.name for path in sources.find(tmp_path)] == ["d.PARQUET"]
    with pytest.raises(ValueError, match="no file matches"):
        sources.find(tmp_path / "none*")


def test_parts_may_differ_in_their_kind_of_number(tmp_path):
    decimals = [decimal.Decimal("0.5"), decimal.Decimal("1.5")]
    write(tmp_path / "0.parquet", a=[1, 2], t=[True, False], y=[1.0, 2.0])
    write(tmp_path / "1.parquet", a=[0.5, 2.5], t=[1, 0], y=decimals)
    write(
        tmp_path / "2.parquet",
        a=pl.Series([], dtype=pl.Int64),
        t=pl.Series([], dtype=pl.Int64),
        y=decimals[:0],
    )
    files = sources.from_files(tmp_path, target="y")
    x, y = (np.concatenate(part) for part in zip(*map(files.read, files.row_groups), strict=True))
    np.testing.assert_array_equal(x, [[1, 1], [2, 0], [0.5, 1], [2.5, 0]])
    np.testing.assert_array_equal(y, [1, 2, 0.5, 1.5])
    assert files.types == ("float64", "int64", "decimal")


def test_the_index_of_a_frame_is_left_out(tmp_path):
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 4.0]}).iloc[[2, 0, 1]]
    frame.to_parquet(tmp_path / "0.parquet")
    with pytest.warns(
        UserWarning, match="column '__index_level_0__' of .* is the index of a data frame: left out"
    ):
        assert sources.from_files(tmp_path, target="y").features == ("a",)
    asked = sources.from_files(tmp_path, target="y", features=["__index_level_0__"])
    assert asked.features == ("__index_level_0__",)


@pytest.mark.parametrize("value, share", [(1e12, 0), (-9999.0, 0.05)])
def test_what_lies_far_outside_is_warned_of_in_files_too(tmp_path, value, share):
    rng = np.random.default_rng(0)
    columns = {"a": rng.normal(size=4000), "b": np.exp(rng.normal(size=4000)), "y": rng.normal(size=4000)}
    odd = rng.uniform(size=4000) < share
    odd[1234] = True
    columns["b"][odd] = value
    for i in range(2):
        part = {name: own[2000 * i : 2000 * (i + 1)] for name, own in columns.items()}
        pq.write_table(pa.table(part), tmp_path / f"{i}.parquet", row_group_size=300)
    files = sources.from_files(tmp_path, target="y")
    with pytest.warns(
        UserWarning, match=rf"^column 'b' holds {re.escape(f'{value:g}')} in \d+ of .* looked at"
    ):
        files.scalers()


def kinds_of_columns(n=400):
    """A column of each kind, with gaps, and a target with gaps."""
    rng = np.random.default_rng(0)

    def some(values, share=0.9):
        return [value if rng.uniform() < share else None for value in values]

    day = datetime.datetime(2021, 3, 4, 5)
    return pl.DataFrame(
        {
            "number": some(np.exp(3 * rng.normal(size=n)).tolist()),
            "whole": rng.integers(0, 9, n),
            "truth": rng.uniform(size=n) < 0.3,
            "city": some(rng.choice(["Rome", "Oslo", 'Bonn, "old"', "Ulm"], n, p=[0.5, 0.3, 0.19, 0.01])),
            "street": [f"street {k}" for k in rng.integers(0, 40, n)],
            "code": [f"{k}" if rng.uniform() < 0.98 else "?" for k in rng.integers(0, 99, n)],
            "sold": some([day + datetime.timedelta(hours=float(h)) for h in rng.uniform(0, 9e3, n).round()]),
            "same": ["x"] * n,
            "name": [f"name {i}" for i in range(n)],
            "late": [None] * (n - 100) + ["a", "b"] * 50,
            "mixed": ["1"] * (n - 50) + ["a"] * 50,
            "y": some(rng.normal(size=n).tolist(), 0.95),
        },
        strict=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet", "levels"])
@pytest.mark.filterwarnings("default:columns|.*have no 'y'")
def test_columns_are_learned_of_files_as_of_a_table(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(sys.modules["jaxreg.tables.find"], "GROUP_ROWS", 64)
    table = kinds_of_columns()
    if kind == "levels":
        order = pl.Enum(["Ulm", "Rome", "Oslo", 'Bonn, "old"'])
        table = table.with_columns(pl.col("city").cast(order), pl.col("street").cast(pl.Categorical))
    for i, part in enumerate((table[:150], table[150:151], table[151:])):
        suffix = "csv" if kind == "csv" else "parquet"
        given = {} if kind == "csv" else {"row_group_size": 64}
        getattr(part, f"write_{suffix}")(tmp_path / f"{i}.{suffix}", **given)
    asked = {"categories": ["whole"], "drop": ["mixed"]}
    with pytest.warns(UserWarning, match="of 400 rows have no 'y': left out"):
        files = sources.from_files(tmp_path, target="y", any_kind=True).learned(**asked)
    whole = [tables.typed(tables.read(path), table.columns, path) for path in sorted(tmp_path.iterdir())]
    known = tables.joined(whole).filter(pl.col("y").is_not_null())
    expected = Columns.fit(known.drop("y"), **asked)
    assert files.units[0] == expected
    np.testing.assert_allclose(files.units[1].loc, known["y"].mean(), atol=1e-15)
    np.testing.assert_allclose(files.units[1].scale, known["y"].std(ddof=0), rtol=1e-13)
    blocks = list(replace(files, buffer=100).stream([1], batch_size=32, batches=3))
    numbers = np.concatenate([block.numbers.ravel() for block in blocks])
    present = numbers >= 0
    assert sorted(numbers[present]) == np.flatnonzero(table["y"].is_not_null()).tolist()
    x = np.concatenate([block.x.reshape(-1, expected.width) for block in blocks])[present]
    rows = table[numbers[present]]
    np.testing.assert_allclose(
        x, expected.inputs(tables.joined(whole)[numbers[present]].drop("y")), rtol=1e-6, atol=1e-6
    )
    y = np.concatenate([block.y.ravel() for block in blocks])[present]
    np.testing.assert_allclose(y, files.units[1].transform(rows["y"].to_numpy()), rtol=1e-6, atol=1e-6)
    raw = sources.from_files(tmp_path, target="y", any_kind=True).sample([5], 100)
    numbers, x, _ = files.take([5], 100)
    np.testing.assert_allclose(x, expected.inputs(raw), rtol=1e-6, atol=1e-6)
    assert 50 < len(raw) < 150 and raw.columns == table.columns


@pytest.mark.filterwarnings("default:columns|.*more than 50 levels")
def test_what_is_learned_of_a_sample_and_of_counts(tmp_path, monkeypatch):
    """Levels, gaps and moments are those of all rows, quantiles those of a sample."""
    rng = np.random.default_rng(0)
    levels = np.minimum(rng.geometric(0.04, 20_000), 400)
    table = pl.DataFrame(
        {"a": rng.normal(size=20_000), "c": [f"c{k}" for k in levels], "y": rng.normal(size=20_000)}
    )
    table = table.with_columns(a=pl.when(pl.int_range(20_000) > 1).then("a"))  # two gaps
    table.write_parquet(tmp_path / "0.parquet", row_group_size=3000)
    monkeypatch.setattr(learn, "SAMPLE_ROWS", 2000)
    files = sources.from_files(tmp_path, target="y", any_kind=True)
    found, whole = files.learned().units[0].kinds, Columns.fit(table.drop("y")).kinds
    assert found[1] == whole[1] and found[0].gaps == whole[0].gaps == 1e-4
    below = scipy.stats.norm.cdf([found[0].center, found[0].center + found[0].scale])
    assert np.abs(below - scipy.stats.norm.cdf([0, 1])).max() < 5 * 0.5 / 2000**0.5
    monkeypatch.setattr(counts, "MOST_LEVELS", 50)
    with pytest.warns(UserWarning, match="'c': more than 50 levels, of which the rarest are taken as one"):
        bounded = files.learned().units[0].kinds[1]
    assert bounded.rare and set(bounded.levels) < set(whole[1].levels) and len(bounded.levels) <= 50
    assert bounded.levels[:20] == whole[1].levels[:20]


def test_files_of_any_kind_that_cannot_be(tmp_path):
    table = kinds_of_columns().with_columns(y=pl.lit(1.0))
    table.write_csv(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="column 'city' of .*text such as 'Rome'.*; column 'street'"):
        sources.from_files(tmp_path / "a.csv", target="y")
    with pytest.raises(ValueError, match="'y' has one value, 1, in all 400 rows"):
        sources.from_files(tmp_path / "a.csv", target="y", any_kind=True).learned()
    with pytest.raises(ValueError, match="column 'city' of .*text such as"):
        sources.from_files(tmp_path / "a.csv", target="city", any_kind=True)
    lists = pl.DataFrame({"a": [[1.0]] * 9, "b": [b"x"] * 9, "y": np.arange(9.0)})
    lists.write_parquet(tmp_path / "b.parquet")
    with pytest.raises(
        ValueError, match="'a' .* is .*list.*, numbers, text or times are needed.*; column 'b'"
    ):
        sources.from_files(tmp_path / "b.parquet", target="y", any_kind=True)
    far = pl.DataFrame({"a": [1.0, np.inf, 2.0], "y": [1.0, 2.0, 3.0]})
    far.write_parquet(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="c.parquet, row group 0, column 'a' holds infinity in 1 row"):
        sources.from_files(tmp_path / "c.parquet", target="y", any_kind=True).learned()
    far.rename({"a": "y", "y": "a"}).write_parquet(tmp_path / "d.parquet")
    with pytest.raises(ValueError, match="infinite values in .*d.parquet, row group 0, column 'y': 1"):
        sources.from_files(tmp_path / "d.parquet", target="y", any_kind=True).learned()
