import csv
import json

import numpy as np
import pandas as pd
import properscoring
import pytest
from scipy.stats import norm
from sklearn.metrics import mean_pinball_loss
from sklearn.model_selection import KFold

from bench import prepared, readme, table_files, table_methods, tables
from bench.table_methods import Method, Prediction
from bench.table_scores import LEVELS, SECONDS, by_table, interpolated, scores, summary


@pytest.fixture
def described(tmp_path):
    """A function that writes a table and its description, and reads them."""
    frame = pd.DataFrame({"id": range(40), "x": np.arange(40.0), "y": np.arange(40.0) ** 2})

    def read(frame=frame, **entry):
        frame.to_csv(tmp_path / "table.csv", index=False)
        entry = {"table": {"file": "table.csv", "target": "y"} | entry}
        (tmp_path / "tables.json").write_text(json.dumps(entry))
        return table_files.read([tmp_path])[0]

    read.frame = frame
    return read


def test_rows_and_folds_are_those_of_the_protocol(described):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=3200), "y": rng.normal(size=3200)})
    frame.loc[:99, "y"] = np.nan
    table = described(frame)
    drawn = frame.dropna(subset="y").sample(3000, random_state=0)
    np.testing.assert_allclose(table.x["x"], drawn["x"])
    np.testing.assert_allclose(table.y["y"], drawn["y"])
    split = KFold(5, shuffle=True, random_state=42).split(drawn)
    for own, expected in zip(table.folds, split, strict=True):
        np.testing.assert_array_equal(own[1], expected[1])
    assert "3000 of 3100 rows, 1 features" in table.protocol


def test_a_table_without_a_header_or_in_parquet_and_a_file_by_another_name(tmp_path):
    values = pd.DataFrame({"0": ["?", "1"] * 15, "1": ["a", "b"] * 15, "2": np.arange(30.0)})
    values.to_csv(tmp_path / "bare.csv", header=False, index=False)
    values.to_parquet(tmp_path / "whole.parquet")
    bare = {"file": "bare.csv", "header": False, "target": 2, "leave_out": [1], "gaps": ["?"]}
    whole = {"file": str(tmp_path / "whole.parquet"), "target": ["2"], "gaps": ["?"]}
    (tmp_path / "mine.json").write_text(json.dumps({"bare": bare, "whole": whole}))
    first, second = table_files.read([tmp_path / "mine.json"])
    assert list(first.x) == ["0"] and first.x["0"].dtype == np.float64
    assert first.x["0"].isna().sum() == 15 and list(first.y) == ["2"]
    assert list(second.x) == ["0", "1"] and second.x["0"].isna().sum() == 15


@pytest.mark.parametrize("order", [True, "day", "id"])
def test_folds_in_time_order_predict_what_is_later(described, order):
    days = pd.date_range("2020-01-30", periods=40).strftime("%d.%m.%Y").to_series().str.replace(".", "/")
    frame = described.frame.assign(day=pd.to_datetime(days.to_numpy(), dayfirst=True).strftime("%m/%d/%Y"))
    table = described(frame, time_order=order)
    last = len(frame)
    for train, test in table.folds:
        test, train = (table.x["id"].to_numpy()[rows] for rows in (test, train))
        assert train.max() < test.min() and test.max() == last - 1
        last = test.min()
    assert len(table.folds) == 5


def test_folds_of_a_column(described):
    table = described(described.frame.assign(block=np.arange(40) % 3), folds="block")
    assert "block" not in table.x and len(table.folds) == 3
    for k, (train, test) in enumerate(table.folds):
        assert set(table.x["id"].to_numpy()[test] % 3) == {k} and len(train) + len(test) == 40


def test_all_that_is_wrong_with_descriptions_is_said_at_once(tmp_path, capsys):
    frame = pd.DataFrame({"x": range(30), "y": ["1", "many"] * 15, "few": [1.0] * 9 + [None] * 21})
    frame.to_csv(tmp_path / "t.csv", index=False)
    entries = {
        "lost": {"file": "lost.csv", "target": "y"},
        "columns": {"file": "t.csv", "target": "z", "leave_out": ["a", "x"], "time_order": "day"},
        "text": {"file": "t.csv", "target": "y", "heder": False},
        "few": {"file": "t.csv", "target": "few", "leave_out": ["x", "y"]},
        "none": {"file": "t.csv"},
        "empty": {"file": "t.csv", "target": []},
    }
    (tmp_path / "tables.json").write_text(json.dumps(entries))
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    paths = [tmp_path, tmp_path / "bad.json", tmp_path / "list.json", tmp_path / "none.json"]
    with pytest.raises(SystemExit) as ended:
        tables.main(quick=False, out=tmp_path, folders=paths)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and not (tmp_path / "tables.csv").exists()
    for part in (
        "lost.csv: there is no such file",
        "columns: no column 'z', 'a', 'day'; there are x, y, few",
        "text: unknown 'heder'; there are file, target,",
        "text: target 'y' isn't a finite number in 15 rows, such as 'many'",
        "few: no column is left to predict from",
        "few: 9 rows with a known target; 20 are needed",
        'none: "file" and "target" are needed',
        'empty: "file" and "target" are needed',
        "bad.json: isn't JSON",
        "list.json: an object with an entry for each table is needed",
        "none.json: can't be read (No such file or directory)",
    ):
        assert part in said
    (tmp_path / "tables.json").write_text(json.dumps({"t": {"file": "t.csv", "target": "x"}}))
    with pytest.raises(ValueError, match="t: is described twice"):
        table_files.read([tmp_path, tmp_path])


def test_columns_are_prepared_by_their_training_rows():
    day = pd.date_range("2020-01-01", periods=60)
    train = pd.DataFrame(
        {
            "number": [np.nan, *range(59)],
            "whole": range(60),
            "yes": [True, False] * 30,
            "stamp": day,
            "text": [None, *day.strftime("%m/%d/%Y")[1:]],
            "kind": ["a", "b"] * 28 + ["c", "d", None, None],
            "empty": [np.nan] * 60,
        }
    )
    columns = prepared.Columns.fit(train)
    assert columns.numbers == ["number", "whole", "yes", "empty"] and columns.dates == ["stamp", "text"]
    assert columns.categories == ["kind"]
    test = train.iloc[:2].assign(kind=["a", "never seen"], whole=[np.nan, 1.0])
    found = columns.one_hot(test)
    # number, whole, yes, stamp, text; gaps of number, empty and text; a, b, and whatever is rare
    expected = [
        [29, 29.5, 1, 18262, 18292, 1, 1, 1, 1, 0, 0],
        [0, 1, 0, 18263, 18263, 0, 1, 0, 0, 0, 1],
    ]
    np.testing.assert_allclose(found, expected)
    codes = columns.codes(train, test.assign(kind=["b", None]), most=2)
    np.testing.assert_array_equal(codes[:, -1], [1, np.nan])
    assert np.isnan(codes[0, 0]) and prepared.Columns.fit(train[["whole"]]).one_hot(test).shape == (2, 1)


def test_a_scarce_date_or_text_that_is_none_stays_a_category():
    few = pd.DataFrame({"few": ["1/1/2020", "1/2/2020"] * 40, "no": [f"house {i}" for i in range(80)]})
    assert prepared.Columns.fit(few).categories == ["few", "no"]


def test_scores_are_those_of_others():
    rng = np.random.default_rng(0)
    y, mean, std = rng.normal(size=500), rng.normal(size=500), rng.uniform(0.5, 2, size=500)
    quantiles = norm.ppf(LEVELS[:, None], mean, std)
    found = scores(y, mean, quantiles, norm.logpdf(y, mean, std))
    losses = [mean_pinball_loss(y, norm.ppf(k / 100, mean, std), alpha=k / 100) for k in range(1, 100)]
    np.testing.assert_allclose(found["crps"], 2 * np.mean(losses), rtol=1e-12)
    exact = properscoring.crps_gaussian(y, mean, std).mean()
    np.testing.assert_allclose(found["crps"], exact, rtol=0.01)  # 99 levels are nearly all
    np.testing.assert_allclose(found["rmse"], np.sqrt(((y - mean) ** 2).mean()))
    np.testing.assert_allclose(found["nll"], -norm(mean, std).logpdf(y).mean())
    tails = [mean_pinball_loss(y, norm.ppf(level, mean, std), alpha=level) for level in (0.05, 0.95)]
    np.testing.assert_allclose(found["interval_score90"], sum(tails) / 0.05)  # Bracher et al. 2021
    z = (y - mean) / std
    for percent in (50, 90, 95):
        np.testing.assert_allclose(
            found[f"cover{percent}"], np.mean(np.abs(z) <= norm.ppf(0.5 + percent / 200))
        )
    np.testing.assert_allclose(
        [found["below90"], found["above90"]], [np.mean(z < -1.6448536), np.mean(z > 1.6448536)]
    )


def test_scores_of_levels_that_a_method_does_not_give_are_left_out():
    quantiles = np.full((len(LEVELS), 3), np.nan)
    quantiles[np.isin(LEVELS, 0.05)], quantiles[np.isin(LEVELS, 0.95)] = -1, 1
    found = scores(np.array([0.0, 0.0, 2.0]), np.zeros(3), quantiles, None)
    assert found["cover90"] == pytest.approx(2 / 3) and found["above90"] == pytest.approx(1 / 3)
    assert found["interval_score90"] == pytest.approx(2 + 20 / 3)
    assert np.isnan([found[name] for name in ("crps", "nll", "cover50", "cover95")]).all()


def test_quantiles_are_sorted_and_linear_between_levels():
    found = interpolated(np.array([0.25, 0.5, 0.75]), np.array([[2.0], [1.0], [3.0]]))[:, 0]
    for level, expected in ((0.01, 1), (0.25, 1), (0.35, 1.4), (0.5, 2), (0.6, 2.4), (0.99, 3)):
        np.testing.assert_allclose(found[np.isclose(LEVELS, level)], expected)


def result(table, method, fold, crps, **more):
    cells = {name: "1" for name in SECONDS} | {"interval_score90": str(2 * crps) if crps else "3"}
    cells |= {name: "0.5" for name in ("cover50", "cover90", "cover95", "below90", "above90")}
    ids = {"table": table, "target": "y", "method": method, "fold": str(fold)}
    return ids | cells | {"crps": str(crps) if crps else ""} | more


def test_the_summary_of_made_up_rows(monkeypatch):
    rows = [result("a", "other", 0, 2.0, cover90="1", fit_wall="3"), result("a", "other", 1, 2.0)]
    rows += [result("a", "jaxreg", 0, 1.0), result("a", "jaxreg", 1, 3.0)]
    rows += [result("b", "jaxreg", 0, 4.0), result("b", "other", 0, 1.0), result("b", "intervals", 0, None)]
    rows += [result("b", "jaxreg", 1, 400.0), result("c", "jaxreg", 0, 1.0)]  # nothing to compare with
    ours, other, intervals = summary(rows, ["jaxreg", "other"])
    assert ours["method"] == "jaxreg" and ours["crps_ratio"] == "1.000" and ours["better"] == ""
    assert other["crps_ratio"] == "0.500" and other["better"] == "1 of 2"  # of 2 / 2 and 1 / 4
    assert (ours["rank"], other["rank"]) == ("1.75", "1.25")  # equal on a, other better on b
    assert (ours["best"], other["best"]) == ("0 of 2", "1 of 2")
    assert other["cover90"] == "62.5" and other["fit_wall"] == "1" and other["targets"] == "2"
    assert intervals["crps_ratio"] == intervals["rank"] == "" and intervals["interval_ratio"] == "0.375"
    lines = by_table(rows, ["jaxreg"])
    assert lines[0] == {"table": "a", "target": "y", "folds": "2", "jaxreg": "2", "other": "2"}
    assert lines[2] == {"table": "c", "target": "y", "folds": "1", "jaxreg": "1", "other": ""}
    page = "\n".join(readme.tables([row | {"device": "here"} for row in rows]))
    assert "| other | 2 | 0.500 | 1 of 2 |" in page and "| b | y | 2 | 202 | 1 |" in page


def method(name, version, calls, fail="", value=None):
    def run(fold):
        calls.append((name, fold.number))
        if fail:
            raise RuntimeError(fail)
        n, targets = len(fold.x_test), fold.y.shape[1]
        mean = np.full((n, targets), fold.y.mean() if value is None else value)
        quantiles = np.broadcast_to(mean, (len(LEVELS), n, targets))
        return Prediction(mean, quantiles), dict.fromkeys(SECONDS, 1.0)

    return Method(name, version, run)


def test_a_cut_run_goes_on_where_it_was(described, tmp_path, capsys):
    table, calls, path = described(target=["y", "x"]), [], tmp_path / "tables.csv"
    console = tables.Console()

    def go(methods, folds, again=False):
        calls.clear()
        tables.run([table], methods, folds, tables.Results(path, again), console)
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    first = method("a", "1", calls)
    rows = go([first, method("b", "1", calls, "it broke\nbadly")], 1)
    assert [(row["target"], row["method"], row["fold"]) for row in rows] == [("y", "a", "0"), ("x", "a", "0")]
    spread = np.abs(table.y["x"].to_numpy()[table.folds[0][1]] - table.y.to_numpy()[table.folds[0][0]].mean())
    np.testing.assert_allclose(float(rows[1]["crps"]), spread.mean(), rtol=1e-5)  # of a point: its error
    assert rows[0]["nll"] == "" and rows[0]["device"] and rows[0]["training_rows"] == "32"
    assert "b: failed, RuntimeError: it broke" in capsys.readouterr().out.replace("\n", " ")
    assert len(go([first, method("b", "1", calls, value=np.nan)], 1)) == 2
    assert "b: failed, ValueError: predicted means that aren't finite" in capsys.readouterr().out
    rows = go([first, method("b", "1", calls)], 2)
    assert calls == [("b", 0), ("a", 1), ("b", 1)] and len(rows) == 8
    go([first, method("b", "2", calls)], 2)
    assert calls == [("b", 0), ("b", 1)]
    rows = go([first], 2, again=True)
    assert calls == [("a", 0), ("a", 1)] and len(rows) == 8
    table = described(target=["y", "x"], leave_out=[])
    table = table._replace(protocol="other rows")
    rows = go([first], 1)
    assert calls == [("a", 0)] and [row["protocol"] for row in rows].count("other rows") == 2
    assert not list(tmp_path.glob("*.part"))


def test_rivals_that_are_not_installed_are_named(tmp_path):
    with table_methods.methods(table_methods.QUICK, tmp_path / "none") as methods:
        missing = {method.name: method.missing for method in methods if method.missing}
    assert list(missing) == ["rivals"] and "rivals.txt" in missing["rivals"]


def test_a_method_that_is_not_there_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        tables.main(quick=True, out=tmp_path, names=["jaxgre"], python=tmp_path / "none")
    assert "no method jaxgre; there are jaxreg; jaxreg, native columns" in capsys.readouterr().err
