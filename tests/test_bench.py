import csv
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import (
    ablation,
    coverage,
    datasets,
    gpu,
    losses,
    machine,
    notebook,
    predict,
    readme,
    scale,
    speed,
    table_methods,
    tables,
    uci,
)
from bench.__main__ import MEASUREMENTS
from jaxreg import Affine, Gaussian


@pytest.mark.slow
def test_notebook_bench_in_its_quick_form(tmp_path, capsys):
    rows = notebook.main(quick=True, out=tmp_path)
    assert [row["epoch"] for row in rows] == [100] and not list(tmp_path.iterdir())
    for name in ("jaxreg", "torch"):
        assert 0 <= rows[0][f"{name}_percentile"] <= 100
        quantiles = [rows[0][f"{name}_q{q}"] for q in (5, 50, 95)]
        assert np.isfinite(quantiles).all() and quantiles == sorted(quantiles)
    assert "-0.2359" in capsys.readouterr().out


@pytest.mark.slow
def test_speed_bench_in_its_quick_form(tmp_path, capsys, request):
    if not request.config.getoption("--all-seeds"):
        pytest.skip("--all-seeds")  # half a minute of compiling
    rows = speed.main(quick=True, out=tmp_path)
    assert not list(tmp_path.iterdir())
    assert {row["device"] for row in rows} == {machine.device()}
    for row in rows:
        assert float(row["least"]) <= float(row["median"]) <= float(row["most"])
    compiled = [row["median"] for row in rows if row["unit"] == "programs compiled"]
    assert compiled[1] == "0"  # a second sweep, of other numbers
    printed = capsys.readouterr().out
    assert "times ours: median of the ratios within a round; rounds: 2" in printed
    (memory,) = (row for row in rows if row["unit"] == "times its parameters")
    assert 2 < float(memory["median"]) < 20
    for question in {row["question"] for row in rows}:
        assert question in printed
        timed = [row for row in rows if row["question"] == question and row["unit"] == "us"]
        assert not timed or timed[0]["times_ours"] == "1"


@pytest.mark.slow
def test_a_rival_that_trains_otherwise_is_found():
    class Faster(speed.rivals.Eager):
        def run(self, orders):
            return super().run(orders[:, :, ::-1])  # other batches

    with np.testing.assert_raises_regex(AssertionError, "isn't the same training"):
        speed.Problem(8, 64, 1).rival(Faster, "eager")


def test_the_picture_shows_the_committed_results(tmp_path):
    with (readme.RESULTS / "speed-cpu.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ax = speed.draw(rows, tmp_path / "speed.png")
    ours = next(line for line in ax.lines if line.get_label() == speed.OURS)
    assert ours.get_xdata().tolist() == [1, 16, 64, 256]
    times = [row["median"] for row in rows if row["what"] == speed.OURS and row["hidden"] == "128-128"]
    assert ours.get_ydata().tolist() == [float(value) for value in times[:4]]
    assert "µs" in ax.get_ylabel() and (tmp_path / "speed.png").stat().st_size > 10_000


@pytest.mark.slow
def test_predict_bench_in_its_quick_form(tmp_path, capsys):
    rows = predict.main(quick=True, out=tmp_path)
    assert not list(tmp_path.iterdir()) and {row["case"] for row in rows} == set(predict.CASES)
    errors = {}
    for row in rows:
        if row["largest_error_in_stds"]:
            errors.setdefault(row["what"], []).append(float(row["largest_error_in_stds"]))
    assert max(errors["jaxreg, float64"]) < 1e-9 and max(errors["jaxreg"]) < 1e-4
    assert min(errors["1,000 draws a row, NumPy"]) > 1e-3
    assert "members far apart" in capsys.readouterr().out


@pytest.mark.slow
def test_coverage_bench_in_its_quick_form(tmp_path, capsys):
    truth, ours, conformal = coverage.main(quick=True, out=tmp_path)
    assert not list(tmp_path.iterdir()) and "truth" in capsys.readouterr().out
    assert abs(float(truth["coverage"]) - 0.95) < 0.05 and truth["aleatoric_off"] == ""
    assert float(ours["least"]) <= float(ours["coverage"]) <= float(ours["most"])
    assert ours["seeds"] == 2 and "x =" in ours["bias_of_the_mean_of_all_seeds"]
    assert conformal["setting"].endswith("CV+") and conformal["crps"] == ""


@pytest.mark.slow
def test_scale_bench_in_its_quick_form(tmp_path, capsys):
    rows = scale.main(quick=True, out=tmp_path)
    assert not list(tmp_path.iterdir()) and "streamed against in memory" in capsys.readouterr().out
    values = {(row["question"], row["what"]): float(row["value"]) for row in rows}
    assert all(np.isfinite(value) for value in values.values())
    mixed = [value for (question, _), value in values.items() if question.startswith("correlation")]
    assert mixed[0] > 0.5 > mixed[1] and abs(mixed[-1]) < 0.1 and mixed == sorted(mixed, reverse=True)
    shares = [f"a share of {count}{more}" for count in (2, 4) for more in ("", ", as many steps")]
    for order in ("rows in random order", "rows in order of a feature"):
        question = f"NLL of held-out rows, members over processes, {order}"
        assert [what for own, what in values if own == question] == ["all files", *shares]
    table = "\n".join(readme.scale([{k: str(v) for k, v in row.items()} for row in rows]))
    assert f"| {question} | all files | {values[question, 'all files']:.3g} nats |" in table


@pytest.mark.slow
def test_losses_bench_in_its_quick_form(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "in" / "made").mkdir(parents=True)
    table = np.c_[rng.normal(size=(60, 2)), 1e3 + rng.normal(size=60)]
    for name, values in [
        ("data", table),
        ("index_features", [0, 1]),
        ("index_target", [2]),
        ("n_splits", [3]),
    ]:
        np.savetxt(tmp_path / "in" / "made" / f"{name}.txt", values)
    rows = losses.main(quick=True, out=tmp_path, folders=[tmp_path / "in"])
    assert [row["set"] for row in rows] == ["made"] and len(list(tmp_path.iterdir())) == 1
    assert float(rows[0]["rmse"]) < 10  # in units of the target, whose mean is 1,000
    assert all(np.isfinite(float(rows[0][score])) for score in losses.SCORES)
    assert "made, 1 splits" in capsys.readouterr().out


def test_datasets_are_split_as_the_literature_does(tmp_path):
    (tmp_path / "line.txt").write_text("x y\n" + "".join(f"{i} {2 * i}\n" for i in range(20)))
    (one,) = datasets.read(tmp_path)
    assert one.name == "line" and one.x.shape == (20, 1) and one.y.tolist() == list(range(0, 40, 2))
    splits = list(one.splits(2))
    rng = np.random.RandomState(1)
    for train, test in splits:
        np.testing.assert_array_equal(np.r_[train, test], rng.choice(20, 20, replace=False))
        assert len(train) == 18
    with np.testing.assert_raises_regex(ValueError, "holds no data sets"):
        (tmp_path / "empty").mkdir()
        datasets.read(tmp_path / "empty")


def test_multiply_adds_are_those_of_the_products():
    # x W (and by W), h V (by h and V), h w for each of two heads (by h and w); rows 7, width 5.
    assert machine.multiply_adds(width=5, rows=7) == 7 * (2 * 5 + 3 * 25 + 3 * 2 * 5)


def test_help_says_of_each_measurement_what_it_asks_takes_needs_and_writes(tmp_path):
    bench = Path(readme.__file__).parent
    for command, path in ((["-m", "bench"], bench.parent), ([str(bench)], "")):
        run = [sys.executable, *command, "--help"]
        environment = os.environ | {"PYTHONPATH": str(path)}
        said = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        lines = {line.split()[0]: line for line in said.stdout.splitlines() if line.endswith("?")}
        assert list(lines) == list(MEASUREMENTS)
        for name, measurement in MEASUREMENTS.items():
            assert all(part in lines[name] for part in measurement if isinstance(part, str))


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_each_measurement_is_there(name):
    tests = MEASUREMENTS[name].tests
    module = None if tests else importlib.import_module(f"bench.{name}")
    assert (readme.ROOT / tests.path).is_file() if tests else callable(module.main)
    written = MEASUREMENTS[name].writes.partition(",")[0]
    assert (readme.RESULTS / written).is_file()


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.stem)
def test_a_page_shows_the_committed_results(page):
    text = page.read_text()
    assert readme.render(text) == text
    tables = re.findall(r"<!-- table: (.*) -->\n\|.*?<!-- end: (.*) -->", text, flags=re.S)
    assert len(tables) == 1 and tables[0][0] == tables[0][1] in readme.TABLES


def test_every_result_has_one_page():
    shown = re.findall("<!-- table: (.*) -->", "".join(page.read_text() for page in readme.PAGES))
    there = [name for name, (file_name, _) in readme.TABLES.items() if (readme.RESULTS / file_name).exists()]
    assert sorted(shown) == sorted(there)
    assert "| largest difference |" in readme.render("<!-- table: parity -->\n<!-- end: parity -->")


@pytest.mark.parametrize(
    "name, rounds", [("speed", speed.FULL), ("intervals", predict.FULL), ("scale", scale.FULL)]
)
def test_pages_say_what_ratios_are_medians_of(name, rounds):
    text = (readme.ROOT / "docs/benchmarks" / f"{name}.md").read_text()
    assert f"{rounds.rounds} rounds" in text.partition("<!-- table")[0]


def test_the_readme_stays_short():
    lines = readme.PAGES[0].read_text().splitlines()
    assert len(lines) <= 130 and sum(line.startswith("|") for line in lines) <= 15
    assert sum("![" in line for line in lines) == 1


@pytest.mark.parametrize(
    "page", [*readme.ROOT.glob("*.md"), *readme.ROOT.glob("docs/**/*.md")], ids=lambda page: page.stem
)
def test_what_pages_link_to_is_there(page):
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def toy(folder, n=60):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2))
    rows = np.column_stack([x, x[:, 0] + 0.3 * rng.normal(size=n)])
    np.savetxt(folder / "toy.txt", rows, header="a b y", comments="")
    (folder / "published.csv").write_text(
        "dataset,method,rmse,nll,crps,source,spread\ntoy,Oracle,0.1,0.2,,A 2020,std\nother,X,1,2,3,B,std\n"
    )
    return folder


# A rival that needs no environment: it says that every row is as the training rows are.
RIVAL = """
import json, sys, numpy as np
print(json.dumps(["the mean", "broken"]), flush=True)
for line in sys.stdin:
    name, _, path = line.rstrip().partition("\t")
    rows = dict(np.load(path))
    answer = {"error": "it broke"}
    if name != "broken":
        rows["mean"], rows["std"] = np.zeros(len(rows["x_test"])), np.ones(len(rows["x_test"]))
        np.savez(path, **rows)
        answer = {"seconds": 1.5}
    print(json.dumps(answer), flush=True)
"""


@pytest.mark.slow
def test_uci_bench_in_its_quick_form(tmp_path, capsys, monkeypatch):
    (tmp_path / "uci_rivals.py").write_text(RIVAL)
    monkeypatch.setattr(uci, "HERE", tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    rows = uci.main(quick=True, out=tmp_path, folders=[toy(data)], python=Path(sys.executable))
    assert not list(tmp_path.glob("*.csv"))
    ours, mean, known = rows
    assert (ours["method"], mean["method"], known["method"]) == ("jaxreg", "the mean", "Oracle (A 2020)")
    assert ours["splits"] == mean["splits"] == 2 and mean["seconds"] == "1.5" and known["nll"] == "0.2"
    assert {ours["nll_rank"], mean["nll_rank"]} <= {"1.00", "1.50", "2.00"}
    one = next(iter(uci.splits(datasets.read(data)[0], 1)))
    spread = float(np.sqrt(np.mean((one.y_test - one.scale.loc) ** 2)))
    trivial = one.scores(Affine(Gaussian(np.zeros(6), np.zeros(6)), 0.0, 1.0))
    np.testing.assert_allclose(trivial["rmse"], spread, rtol=1e-6)
    np.testing.assert_allclose(trivial["width"], 2 * 1.959964 * one.scale.scale, rtol=1e-5)
    printed = capsys.readouterr().out
    assert "it broke" in printed and "Oracle" in printed
    table = "\n".join(readme.uci([{k: str(v) for k, v in row.items()} for row in rows]))
    assert "| toy | best published | 0.1 (Oracle) | 0.2 (Oracle) |  |" in table
    uci.main(quick=True, out=tmp_path, folders=[], python=tmp_path / "none")
    assert "no rivals" in capsys.readouterr().out


# Rivals that need no environment: a normal distribution, quantiles, one that breaks and one that isn't there.
TABLE_RIVALS = """
import json, sys, numpy as np
names = ["normal", "median", "broken"]
print(json.dumps([[n, "v1", ""] for n in names] + [["lost", "", "nobody has it"]]), flush=True)
for line in sys.stdin:
    name, _, path = line.rstrip().partition("\t")
    rows = dict(np.load(path))
    n = len(rows["one_hot_test"])
    assert len(rows["numbers_test"]) == len(rows["text_test"]) == n and len(rows["text"]) == len(rows["y"])
    found = {"mean": np.full(n, rows["y"].mean())}
    if name == "normal":
        found["std"] = np.full(n, rows["y"].std())
    else:
        quantiles = np.full((len(rows["levels"]), n), np.median(rows["y"]))
        found |= {"levels": rows["levels"], "quantiles": quantiles}
    np.savez(path, **(rows | found))
    times = dict.fromkeys(["fit_cpu", "fit_wall", "predict_cpu", "predict_wall"], 1.5)
    print(json.dumps({"error": "it broke"} if name == "broken" else times), flush=True)
"""


@pytest.mark.slow
def test_tables_bench_in_its_quick_form(tmp_path, capsys, monkeypatch):
    (tmp_path / "table_rivals.py").write_text(TABLE_RIVALS)
    monkeypatch.setattr(table_methods, "HERE", tmp_path)
    rows = tables.main(quick=True, out=tmp_path, python=Path(sys.executable))
    assert not list(tmp_path.glob("*.csv"))
    found = {(row["table"], row["target"], row["method"]): row for row in rows}
    methods = {method for *_, method in found}
    assert {"jaxreg", "HistGradientBoosting, 19 levels", "normal", "median"} <= methods
    assert not {"broken", "lost"} & methods
    targets = [("houses", "price"), ("soils", "2"), ("soils", "3")]
    for target in targets:
        ours, normal, median = (found[*target, name] for name in ("jaxreg", "normal", "median"))
        assert float(ours["crps"]) < float(normal["crps"]) and ours["nll"] and normal["nll"]
        assert median["nll"] == "" and median["cover90"] == "0" and ours["training_rows"] == "120"
        conformal = found[*target, "HistGradientBoosting, conformalised by MAPIE"]
        assert conformal["crps"] == conformal["cover95"] == "" and float(conformal["cover90"]) > 0.6
        if target[0] == "soils":
            native = found[*target, "jaxreg, native columns"]
            np.testing.assert_allclose(float(native["crps"]), float(ours["crps"]), rtol=1e-4)
        np.testing.assert_allclose(float(normal["fit_wall"]), 1.5 if target[0] == "houses" else 3)
    printed = capsys.readouterr().out
    assert "broken: failed, RuntimeError: it broke" in printed and "lost: skipped, nobody has it" in printed
    assert "| houses | price | 1 |" in "\n".join(readme.tables(rows))


@pytest.mark.slow
def test_rivals_that_are_not_installed_are_named():
    with table_methods.methods(table_methods.QUICK, Path(sys.executable)) as methods:
        missing = {method.name: method.missing for method in methods if "install" in method.missing}
    assert "CatBoost, MultiQuantile" in missing and "catboost" in missing["CatBoost, MultiQuantile"]


@pytest.mark.slow
def test_ablation_bench_in_its_quick_form(tmp_path, capsys):
    rows = ablation.main(quick=True, out=tmp_path, folders=[toy(tmp_path)])
    assert [row["variant"] for row in rows] == list(ablation.QUICK.variants)
    assert not list(tmp_path.glob("ablation.csv")) and "noise not scaled" in capsys.readouterr().out
    assert rows[0]["rmse"] == rows[2]["rmse"] and rows[0]["nll"] != rows[2]["nll"]
    assert len(readme.ablation([{k: str(v) for k, v in row.items()} for row in rows])) == 7


@pytest.mark.slow
def test_gpu_bench_in_its_smallest_form(tmp_path, capsys, request):
    if not request.config.getoption("--all-seeds"):
        pytest.skip("--all-seeds")  # a minute of compiling
    rows = gpu.main(quick=False, out=tmp_path, cpu=True)
    assert not list(tmp_path.iterdir())
    assert {row["part"] for row in rows} == {part.name for part in gpu.PARTS}
    assert not [row["what"] for row in rows if "failed" in row["what"] or "no time" in row["what"]]
    by_unit = {unit: [row for row in rows if row["unit"] == unit] for unit in ("float64", "us", "nats")}
    assert max(float(row["median"]) for row in by_unit["float64"]) < 1e-9
    assert all(float(row["least"]) <= float(row["median"]) <= float(row["most"]) for row in by_unit["us"])
    assert [row["median"] for row in by_unit["nats"]][1:] == ["0", "0"]  # a CPU rounds no product
    fused = [row for row in rows if row["unit"] == "of the largest loss"]
    assert len(fused) == 6 and max(float(row["median"]) for row in fused) < 1e-5
    assert "PyTorch" in capsys.readouterr().out


def test_gpu_bench_without_a_gpu_or_without_time(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        gpu.main(quick=False, out=tmp_path)
    assert ended.value.code == 2 and "no GPU here; --cpu" in capsys.readouterr().err
    rows = gpu.main(quick=True, out=tmp_path, cpu=True, minutes=0, parts=["7", "1"])
    assert [(row["part"], row["what"]) for row in rows] == [(p, "left out: no time") for p in "71"]


def test_gpu_results_are_kept_where_a_part_is_measured_again(tmp_path):
    path = tmp_path / "gpu.csv"

    def found(what, value):
        return gpu.single("a question", what, value, "us")

    def kept():
        with path.open(newline="") as file:
            return [(row["part"], row["what"], row["median"]) for row in csv.DictReader(file)]

    first = gpu.Results(path, [])
    for part, what, value in [
        ("3", "a", 1.0),
        ("3", "cut: no time", np.nan),
        ("4", "a", 2.0),
        ("3", "b", 3.0),
    ]:
        first.add(part, found(what, value))
    again = gpu.Results(path, ["3"])
    again.add("3", found("a", 4.0))
    assert kept() == [("3", "a", "4"), ("4", "a", "2"), ("3", "b", "3")]
    gpu.Results(path, []).add("4", found("a", 5.0))  # all parts: from the beginning
    assert kept() == [("4", "a", "5")]
