import gzip
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

import jaxreg.cli.demo
import jaxreg.cli.fit
import jaxreg.cli.inputs
import jaxreg.cli.predict
from jaxreg import PeriodicEmbedding, Scaler, cli, metrics, recipe, report, sources
from jaxreg.cli import console
from jaxreg.cli.inputs import rows_in_memory
from jaxreg.data import HeldOut
from jaxreg.estimator import DeepEnsembleRegressor
from jaxreg.model import archive, model_file
from jaxreg.model.checkpoints import Checkpoint, StopOnSignal
from jaxreg.model.fitted import Fitted
from jaxreg.networks.models import MeanVarRegressor
from jaxreg.training import feeds


def table(n=60, seed=0):
    rng = np.random.default_rng(seed)
    area, rooms = rng.uniform(20, 200, n), rng.integers(1, 6, n)
    return pl.DataFrame({"area": area, "rooms": rooms, "price": 1e6 + 2e3 * area + 1e4 * rng.normal(size=n)})


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command here; gives its exit code, standard output and standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jaxreg", *map(str, arguments)])
        monkeypatch.setenv("JAXREG_NO_CACHE", "1")
        shown, filters = warnings.showwarning, list(warnings.filters)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert warnings.showwarning is shown and warnings.filters == filters
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, re.sub(r"^\d of \d: .*\n", "", err, flags=re.M)  # how far it is

    return call


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(run, tmp_path, monkeypatch):
    """Runs a command that must end with one line that holds `words`, before training, and change no file."""

    def call(arguments, *words):
        before = contents(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(jaxreg.cli.demo, "fit", lambda *_, **__: pytest.fail("it trained"))
            patch.setattr(recipe, "fit_ensemble", lambda *_, **__: pytest.fail("it trained"))
            code, out, err = run(*arguments)
        assert code == 2 and out == "", (code, out, err)
        assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
        for word in words:
            assert str(word) in err, err
        assert contents(tmp_path) == before
        return err

    return call


@pytest.fixture
def houses(tmp_path):
    table().write_csv(tmp_path / "houses.csv")
    return tmp_path / "houses.csv"


SMALL = "--members", 2, "--frequencies", 1, "--epochs", 2, "--frequency-scale", 1, "--noise", 1


def train(file, out, *more):
    return "fit", file, "--target", "price", "--out", out, *SMALL, *more


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file, made without training."""
    rows, network = table(), MeanVarRegressor(hidden=(8,))
    x = rows.select("area", "rooms").to_numpy()
    params = network.init(jax.random.key(0), x.astype(np.float32))
    scalers = Scaler.fit(x), Scaler.fit(rows["price"].to_numpy())
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model_file.save(path, Fitted(network, params, *scalers, ("area", "rooms"), ("price",), {}))
    return path


@pytest.mark.parametrize("made_up", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_demo(run, tmp_path, made_up):
    arguments = ["demo", "--epochs", 3, "--seed", 5]
    x, y, inside = "x", "y", (-3.5, 3.5)
    if not made_up:
        rows = table().rename({"area": "area $^m"})  # no formula
        rows.write_csv(tmp_path / "a.csv")
        x, y = "area $^m", "price"
        arguments += ["--data", tmp_path / "a.csv", "--x", x, "--y", y]
        reach = 0.25 * (rows[x].max() - rows[x].min())
        inside = rows[x].min() - reach, rows[x].max() + reach
    code, out, err = run(*arguments, "--out", tmp_path / "one" / "deep")
    assert code == 0 and err == ""
    assert "epoch  300 | nll:" in out
    assert set(contents(tmp_path / "one")) == {
        tmp_path / "one" / "deep" / name
        for name in ("heteroscedastic.png", "homoscedastic.png", "history.csv", "predictions.csv")
    }
    for name in ("heteroscedastic", "homoscedastic"):
        assert matplotlib.image.imread(tmp_path / "one" / "deep" / f"{name}.png").shape == (750, 1200, 4)
    history = pl.read_csv(tmp_path / "one" / "deep" / "history.csv")
    assert history.columns == ["model", "epoch", "nll"]
    assert history["model"].to_list() == ["heteroscedastic"] * 3 + ["homoscedastic"] * 300
    assert history["epoch"].to_list() == [*range(1, 4), *range(1, 301)]
    assert history["nll"].is_finite().all()
    made = pl.read_csv(tmp_path / "one" / "deep" / "predictions.csv")
    assert made.columns == ["model", "x", "mean", "std", "lower", "upper"]
    assert made["model"].to_list() == ["heteroscedastic"] * 400 + ["homoscedastic"] * 400
    for name in ("heteroscedastic", "homoscedastic"):
        part = made.filter(pl.col("model") == name)
        np.testing.assert_allclose(part["x"], np.linspace(*inside, 400), rtol=1e-5, atol=1e-5)
        assert ((part["lower"] < part["mean"]) & (part["mean"] < part["upper"])).all()
        half = 1.959964 * part["std"].to_numpy()
        atol = 1e-5 * np.abs(part["std"]).max()
        np.testing.assert_allclose(part["mean"] - part["lower"], half, rtol=1e-4, atol=atol)
        np.testing.assert_allclose(part["upper"] - part["mean"], half, rtol=1e-4, atol=atol)
    spread = made.filter(pl.col("model") == "homoscedastic")["std"]
    assert spread.max() - spread.min() < 1e-6 * spread.max()

    if made_up:
        run(*arguments, "--out", tmp_path / "two")
        again = contents(tmp_path / "two")
        assert {p.name: b for p, b in again.items()} == {
            p.name: b for p, b in contents(tmp_path / "one").items()
        }
    else:
        run(*arguments, "--out", tmp_path / "two", "--x-test", tmp_path / "a.csv")
        at_rows = pl.read_csv(tmp_path / "two" / "predictions.csv")
        np.testing.assert_allclose(at_rows["x"], [*rows[x], *rows[x]], rtol=1e-6)
        near = at_rows.filter(pl.col("model") == "homoscedastic")["mean"].to_numpy()
        assert np.corrcoef(near, rows[y])[0, 1] > 0.9  # the rows' order and the target's units
        assert abs(near.mean() / rows[y].mean() - 1) < 0.1


@pytest.mark.slow
def test_seeds_differ(run, tmp_path):
    for seed in (0, 1):
        run("demo", "--epochs", 1, "--seed", seed, "--out", tmp_path / str(seed))
    first, second = ((tmp_path / seed / "history.csv").read_text() for seed in "01")
    assert first != second


@pytest.mark.slow
def test_as_a_process(tmp_path):
    command = [sys.executable, "-m", "jaxreg", "demo", "--epochs", "2", "--out", str(tmp_path), "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(list(tmp_path.iterdir())) == 4
    assert len(pl.read_csv(tmp_path / "history.csv")) == 302


@pytest.mark.parametrize("suffix", [".csv", pytest.param(".tsv", marks=pytest.mark.slow), ".parquet"])
def test_fit_and_predict(run, tmp_path, suffix):
    rows, separator = table(300), "\t" if suffix == ".tsv" else ","
    file, model, got = tmp_path / f"rows{suffix}", tmp_path / "m.safetensors", tmp_path / f"got{suffix}"
    if suffix == ".parquet":
        rows.write_parquet(file)
    else:
        rows.write_csv(file, separator=separator)
    page = tmp_path / "page.html"
    scale = "auto" if suffix == ".csv" else 0.25
    given = "--epochs", 60, "--frequency-scale", scale, "--drop", "rooms", "--report", page
    code, out, err = run(*train(file, model, *given))
    assert code == 0 and err == "", err
    assert "30 rows that it wasn't trained on" in out and "inside the 95% interval" in out
    assert str(model) in out and f"30 rows of {file.name}" in page.read_text()
    fitted = model_file.load(model)
    assert fitted.feature_names == ("area",) and fitted.target_names == ("price",)
    assert fitted.settings["rows"] == 270 and fitted.members == 2
    assert fitted.feature_dtypes == fitted.target_dtypes == ("Float64",)
    assert fitted.scores["test_rows"] == 30 and f"{fitted.scores['test_rmse']:,.0f}" in out

    assert run("predict", model, file, "--out", got, "--level", 0.8) == (0, "", "")
    predicted = pl.read_parquet(got) if suffix == ".parquet" else pl.read_csv(got, separator=separator)
    assert predicted.columns == ["mean", "std", "lower", "upper"] and len(predicted) == 300
    assert np.sqrt(np.mean((predicted["mean"] - rows["price"]).to_numpy() ** 2)) < 5e4
    np.testing.assert_array_equal(predicted["mean"], fitted.predict(rows).mean)
    lower, upper = fitted.predict(rows).interval(0.8)
    np.testing.assert_allclose(predicted["lower"], lower, rtol=1e-6)
    np.testing.assert_allclose(predicted["upper"], upper, rtol=1e-6)
    first = got.read_bytes()
    run("predict", model, file, "--out", got, "--level", 0.8)
    assert got.read_bytes() == first
    code, out, err = run("predict", model, file, "--level", 0.8)
    assert code == 0 and err == "" and pl.read_csv(out.encode()).equals(predicted)


@pytest.mark.slow
def test_same_seed_same_model(run, houses, tmp_path):
    for name in "ab":
        run(*train(houses, tmp_path / name, "--seed", 3))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.filterwarnings("default:.*(holds no checkpoint|are too few)")
@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_was_stopped_goes_on(run, refused, houses, tmp_path, monkeypatch, number, code):
    kept, resumed, whole = tmp_path / "kept", tmp_path / "resumed", tmp_path / "whole"
    given = ["--epochs", 6, "--checkpoint", kept, "--checkpoint-every", 2]
    run(*train(houses, whole, *given[:2]))

    class Stops(Checkpoint):
        def after_chunk(self, run, history):
            super().after_chunk(run, history)
            if self.folder == kept and np.max(run.cursor[0]) == 4:
                signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(jaxreg.cli.fit, "Checkpoint", Stops)
        stopped = run(*train(houses, resumed, *given))
    assert stopped[0] == code and not resumed.exists()
    said = f"stopped: {number.name} after epoch 4; the run is kept in {kept}: the same command and --resume"
    assert stopped[2].startswith(said), stopped
    refused(train(houses, resumed, *given), "holds checkpoints of an earlier run: resume it")
    code, _, err = run(*train(houses, resumed, *given, "--resume", "--learning-rate", 0.5))
    assert code == 2 and re.search("--learning-rate [0-9.]+ there and 0.5 here", err), err
    assert not resumed.exists()
    for _ in range(2):  # the second time after the end
        assert run(*train(houses, resumed, *given, "--resume"))[0] == 0
        assert resumed.read_bytes() == whole.read_bytes()
        resumed.unlink()
    begun = run(*train(houses, resumed, "--epochs", 6, "--checkpoint", tmp_path / "none", "--resume"))
    assert begun[0] == 0 and "none holds no checkpoint: the run begins at its start" in begun[2]
    refused(train(houses, resumed, "--resume"), "--checkpoint")


@pytest.mark.filterwarnings("default:.*too few for 10 folds")
def test_few_rows_are_all_trained_on(run, tmp_path):
    table(6).write_csv(tmp_path / "few.csv")
    code, out, err = run(*train(tmp_path / "few.csv", tmp_path / "m"))
    assert code == 0 and "wasn't trained on" not in out
    assert err.startswith("warning: 6 rows are too few") and err.count("\n") == 1
    assert model_file.load(tmp_path / "m").settings["rows"] == 6


@pytest.mark.filterwarnings("default:constant column")
@pytest.mark.filterwarnings("default:columns")
def test_a_constant_feature_is_warned_of(run, houses, tmp_path):
    table().with_columns(floors=pl.lit(2)).write_csv(houses)
    code, _, err = run(*train(houses, tmp_path / "m"))
    assert code == 0 and (tmp_path / "m").exists()
    assert err.startswith("warning: ") and err.count("\n") == 1 and "'floors'" in err


@pytest.mark.slow
def test_settings_are_those_of_the_estimator(run, houses, tmp_path):
    given = ["--loss", "crps", "--validation-fraction", 0.2, "--time-limit", 60, "--batch-size", 8]
    given += ["--frequency-scale", 0.5, "--activation", "gelu", "--learning-rate", 1e-2]
    assert run(*train(houses, tmp_path / "m", *given))[0] == 0
    settings = model_file.load(tmp_path / "m").settings
    expected = {
        "members": 2, "frequencies": 1, "epochs": 2, "loss": "crps", "validation_fraction": 0.2,
        "time_limit": 60.0, "batch_size": 8, "frequency_scale": 0.5, "activation": "gelu",
        "learning_rate": 1e-2, "weight_decay": 0.1, "hidden": [128, 128], "random_state": 0,
    }  # fmt: skip
    assert expected.items() <= settings.items()
    code, out, _ = run("fit", "--help")
    named = {"categories", "numbers", "verbose", "random_state", "hooks", "warm_start"}  # otherwise or not
    names = set(inspect.signature(DeepEnsembleRegressor).parameters) - named - {"hidden"}
    assert code == 0 and all("--" + name.replace("_", "-")[:20] in out for name in names)


def test_predict_takes_columns_in_any_order_and_ignores_others(run, model, tmp_path):
    rows = table(5)
    rows.write_csv(tmp_path / "a.csv")
    other = rows.select(pl.lit("text").alias("city"), "rooms", pl.lit(None).alias("empty"), "area")
    other.write_csv(tmp_path / "b.csv")
    first, second = (run("predict", model, tmp_path / name) for name in ("a.csv", "b.csv"))
    assert first == second and first[0] == 0 and first[1].count("\n") == 6


def test_predict_without_feature_names(run, model, tmp_path):
    nameless = model_file.load(model)._replace(feature_names=None)
    model_file.save(tmp_path / "m", nameless)
    rows = table(5).select("area", "rooms")
    rows.write_csv(tmp_path / "a.csv")
    assert run("predict", tmp_path / "m", tmp_path / "a.csv") == run("predict", model, tmp_path / "a.csv")


BROKEN_FILES = {
    "ragged": (b"area,price\n1,2\n1,2,3,4\n", ["more values in line 3"]),
    "latin-1": (b"area,pr\xe9\xff\n1,2\n\xff\xfe,4\n", ["isn't UTF-8", "line 1"]),
    "empty": (b"", ["is empty"]),
    "no rows": (b"area,price\n", ["no rows", "'price'"]),
    "one row": (b"area,price\n1,2\n", ["1 row is too few"]),
    "text target": (b"area,price\n1,dear\n3,cheap\n", ["'price'", "'dear'"]),
    "no values": (b"area,price\n,2\nNA,5\n,3\nNA,4\n,6\n", ["'area'"]),
    "missing target": (b"area,price\n1,2\n1,5\n2,\n", ["3", "'price'"]),
    "infinite": (b"area,price\n1,2\n-inf,5\n2,3\n", ["infinit", "'area'", "1 "]),
    "constant target": (b"area,price\n1,2\n3,2\n", ["'price'", "one value, 2, in all 2 rows"]),
    "no features": (b"price\n1\n3\n", ["no column", "'price'"]),
    "no target": (b"area,rooms\n1,2\n3,4\n", ["no column 'price'", "'area', 'rooms'"]),
}


@pytest.mark.parametrize("what", BROKEN_FILES)
def test_unusable_training_files(refused, tmp_path, what):
    content, words = BROKEN_FILES[what]
    (tmp_path / "rows.csv").write_bytes(content)
    refused(train(tmp_path / "rows.csv", tmp_path / "m"), *words)
    if what != "no features":
        demo = [
            "demo",
            "--data",
            tmp_path / "rows.csv",
            "--x",
            "area",
            "--y",
            "price",
            "--out",
            tmp_path / "d",
        ]
        refused(demo, *words)
        assert not (tmp_path / "d").exists()


def test_fit_arguments(refused, houses, tmp_path):
    out = tmp_path / "m"
    refused(train(tmp_path / "none.csv", out), "there is no file", "none.csv")
    (tmp_path / "empty").mkdir()
    refused(train(tmp_path / "empty", out), "no file matches")
    refused(("fit", houses, "--target", "prize", "--out", out), "'prize'", "'area', 'rooms', 'price'")
    refused(train(houses, out, "--drop", "room"), "'room'", "'area', 'rooms', 'price'")
    refused(train(houses, out, "--drop", "area", "--drop", "rooms"), "'price'")
    for epochs in (0, -3):
        refused(train(houses, out, "--epochs", epochs), "epochs must be at least 1", epochs)
        refused(("demo", "--epochs", epochs, "--out", tmp_path / "d"), "--epochs must be at least 1", epochs)
    refused(train(houses, out, "--loss", "mse"), "loss must be one of", "'gaussian_nll'", "'mse'")
    refused(train(houses, out, "--test-fraction", 1), "--test-fraction must be from 0 up to 1")
    refused(train(houses, out, "--report", tmp_path / "r.docx"), ".html or .pdf")
    report_without_rows = "--report", tmp_path / "r.html", "--test-fraction", 0
    refused(
        train(houses, out, *report_without_rows), "--report needs at least 2 rows", "--test-fraction of 0"
    )
    refused(train(houses, tmp_path), "is a folder")
    refused(train(houses, tmp_path / "none" / "m"), "none doesn't exist")
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    refused(train(tmp_path / "rows.xlsx", out), "'.xlsx'", ".parquet")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    refused(train(tmp_path / "rows.parquet", out), "can't be read")


def test_folders_that_cannot_be_written(refused, houses, model, tmp_path, monkeypatch):
    def forbid(**_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "d").mkdir()
    monkeypatch.setattr("jaxreg.files.tempfile.mkstemp", forbid)
    words = "can't be written to", "Permission denied"
    refused(train(houses, tmp_path / "m"), tmp_path, *words)
    refused(("predict", model, houses, "--out", tmp_path / "p.csv"), tmp_path, *words)
    refused(("demo", "--out", tmp_path / "d"), tmp_path / "d", *words)
    refused(("demo", "--out", houses), houses, "can't be made", "File exists")


def test_outputs_that_would_be_lost_after_training(refused, houses, tmp_path):
    long, kept = tmp_path / ("m" * 250), tmp_path / "kept"
    refused(train(houses, long), "File name too long", long)
    refused(train(houses, tmp_path / "m.html", "--report", tmp_path / "m.html"), "would replace", "m.html")
    refused(train(houses, kept, "--checkpoint", kept), "would replace", kept)
    os.mkfifo(tmp_path / "pipe")
    refused(train(houses, tmp_path / "pipe"), "pipe is a device or a pipe")
    refused(train(houses, tmp_path / "m", "--test-fraction", 0.999), "leaves 0 of 60 rows", "at least 4")
    refused(train(houses, tmp_path / "m", "--epochs", 10**12), "epochs", "at most 2,147,483,647")


def test_processes_that_share_rows_are_told_what_took_their_place(refused, houses, tmp_path):
    refused(train(houses, tmp_path / "m", "--split-rows", 2), "--split-rows is gone", "with --own-files")
    words = "--own-files parts the files of a run of several processes", "give --distributed too"
    refused(train(houses, tmp_path / "m", "--own-files"), *words)


def test_names_are_shown_as_they_are(run, tmp_path):
    odd = tmp_path / "run[red][" / "x] m"
    odd.parent.mkdir()
    table().rename({"price": "price [/m2]"}).write_csv(tmp_path / "rows.csv")
    given = ["--target", "price [/m2]", "--out", odd, *SMALL]
    code, out, _ = run("fit", tmp_path / "rows.csv", *given)
    assert code == 0 and "price [/m2] from 2 columns" in out and f"the model is in {odd}" in out
    assert "price [/m2]" in run("info", odd)[1]
    run("predict", odd, tmp_path / "rows.csv", "--out", tmp_path / "p.tsv")
    assert pl.read_csv(tmp_path / "p.tsv", separator="\t").columns == ["mean", "std", "lower", "upper"]


def test_a_result_never_replaces_what_it_is_made_from(refused, houses, model, tmp_path):
    words = "would replace", "--out"
    refused(train(houses, houses), houses, *words)
    (tmp_path / "link").symlink_to(houses)
    refused(train(houses, tmp_path / "link"), houses, *words)
    refused(["predict", model, houses, "--out", houses], houses, *words)
    copy = tmp_path / "copy.csv"
    copy.write_bytes(model.read_bytes())
    refused(["predict", copy, houses, "--out", copy], copy, *words)
    for name in ("history.csv", "predictions.csv"):
        table().write_csv(tmp_path / name)
        demo = ["demo", "--out", tmp_path, "--x", "area", "--y", "price", "--data"]
        refused([*demo, tmp_path / name], tmp_path / name, *words)
        refused([*demo, houses, "--x-test", tmp_path / name], tmp_path / name, *words)


@pytest.mark.parametrize("read", ["whole", "stream"])
def test_a_name_that_is_almost_right(refused, houses, tmp_path, read):
    given = "--out", tmp_path / "m", "--read", read
    said = "'area', 'rooms', 'price'; did you mean"
    refused(("fit", houses, "--target", "Price", *given), f"{said} 'price'?")
    refused(("fit", houses, "--target", "price", "--drop", "ROOM", *given), f"{said} 'rooms'?")
    demo = "demo", "--data", houses, "--out", tmp_path / "d", "--x"
    refused((*demo, "Area", "--y", "price"), f"{said} 'area'?")
    refused((*demo, "area", "--y", "prize"), f"{said} 'price'?")
    refused(("fit", houses, "--target", "cost of it", *given), "'area', 'rooms', 'price'\n")


def test_a_link_stays_and_the_file_behind_it_is_replaced(run, refused, houses, model, tmp_path):
    (tmp_path / "behind").mkdir()
    for there in (True, False):
        behind, link = tmp_path / "behind" / f"{there}.csv", tmp_path / f"{there}.csv"
        link.symlink_to(f"behind/{there}.csv")
        if there:
            behind.write_text("old")
        assert run("predict", model, houses, "--out", link)[0] == 0
        assert link.is_symlink() and not behind.is_symlink() and len(pl.read_csv(behind)) == 60
    assert {path.name for path in (tmp_path / "behind").iterdir()} == {"True.csv", "False.csv"}
    (tmp_path / "lost.csv").symlink_to("nowhere/p.csv")
    refused(["predict", model, houses, "--out", tmp_path / "lost.csv"], "nowhere doesn't exist")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    refused(
        ["predict", model, houses, "--out", tmp_path / "loop.csv"], "loop.csv is a symbolic link that leads"
    )


def test_demo_arguments(refused, houses, tmp_path):
    words = "--data", "--x", "--y"
    demo = ["demo", "--out", tmp_path / "d"]
    refused([*demo, "--data", houses], *words)
    refused([*demo, "--data", houses, "--x", "area"], *words)
    refused([*demo, "--x", "area", "--y", "price"], *words)
    refused([*demo, "--x-test", houses], "--x-test", *words)
    demo += ["--data", houses, "--x", "area"]
    refused([*demo, "--y", "prize"], "'prize'", "'area', 'rooms', 'price'")
    (tmp_path / "test.csv").write_text("rooms\n1\n")
    refused([*demo, "--y", "price", "--x-test", tmp_path / "test.csv"], "'area'", "'rooms'")
    (tmp_path / "test.csv").write_text("area\nbig\n")
    refused([*demo, "--y", "price", "--x-test", tmp_path / "test.csv"], "'area'", "'big'")
    assert not (tmp_path / "d").exists()


def test_predict_arguments(refused, houses, model, tmp_path):
    predict = ["predict", model, houses]
    for level in (0, 1, -0.5, 95, "nan"):
        refused([*predict, "--level", level], "--level", level)
    refused([*predict, "--out", tmp_path], "is a folder")
    refused([*predict, "--out", tmp_path / "none" / "p.csv"], "none doesn't exist")
    refused([*predict, "--out", tmp_path / "p.json"], "'.json'")
    refused(["predict", tmp_path / "none", houses], "no model file", "none")
    refused(["predict", model, tmp_path / "none.csv"], "no file", "none.csv")


@pytest.mark.parametrize(
    "content, words",
    [
        ("area,floors\n1,2\n", ["'rooms'", "'area', 'floors'"]),
        ("area,rooms\n1,two\n", ["'rooms'", "'two'"]),
        ("area,rooms\n1,2\n,2\n", ["missing", "'area'", "1 of 2 rows"]),
        ("area,rooms\ninf,2\n", ["infinite", "'area'", "1 of 1 rows"]),
        ("area,rooms\n1,\n", ["'rooms'", "no values"]),
        ("area,rooms\n", ["no rows"]),
    ],
)
def test_unusable_prediction_files(refused, model, tmp_path, content, words):
    (tmp_path / "p.csv").write_text(content)
    refused(["predict", model, tmp_path / "p.csv", "--out", tmp_path / "out.csv"], *words)
    with pytest.raises(AssertionError):  # predict has no --drop to point to
        refused(["predict", model, tmp_path / "p.csv"], "--drop")


def test_info(run, refused, model, tmp_path):
    fitted = model_file.load(model)
    names = ("area [m²]", *(f"c{i}" for i in range(29)))
    wide = MeanVarRegressor(hidden=(8,), embedding=PeriodicEmbedding(2))
    params = wide.init(jax.random.key(0), np.zeros((1, 30), np.float32))
    more = {"settings": {"epochs": 7, "hidden": [8]}, "scores": {"test_rmse": 0.25, "test_nll": None}}
    columns = {"x_scaler": Scaler(np.zeros(30), np.ones(30)), "feature_names": names}
    columns |= {"feature_dtypes": ("Int64",) * 30, "target_dtypes": ("Float64",)}
    model_file.save(tmp_path / "m", fitted._replace(model=wide, params=params, **columns, **more))
    code, out, err = run("info", tmp_path / "m")
    assert code == 0 and err == ""
    lines = {tuple(cell.strip() for cell in line.strip("│\n").split("│")) for line in out.splitlines()}
    assert lines >= {
        ("network", "MeanVarRegressor"), ("hidden", "8"), ("members", "1"), ("calibration", "none"),
        ("features", "area [m²] Int64"), ("", "c0 Int64"), ("", "and 10 more"), ("targets", "price Float64"),
        ("epochs", "7"), ("test_rmse", "0.25"), ("test_nll", "None"), ("format", str(model_file.FORMAT)),
        ("embedding", "frequencies 2, scales 0.05, 4"),
    }  # fmt: skip
    for state, shown in ((5, False), (None, True), ("RandomState", True)):
        more["settings"] = {"random_state": state, "seed": 987654}
        model_file.save(tmp_path / "m", fitted._replace(**more))
        assert ("987654" in run("info", tmp_path / "m")[1]) == shown
    content = bytearray((tmp_path / "m").read_bytes())
    content[-3] ^= 1
    (tmp_path / "m").write_bytes(content)
    refused(["info", tmp_path / "m"], "damaged", "SHA-256")
    refused(["info", tmp_path / "none"], "no model file")


def test_evaluate(run, model, tmp_path):
    rows = table(80, seed=1)
    rows.write_csv(tmp_path / "new.csv")
    fitted = model_file.load(model)
    code, out, err = run("evaluate", model, tmp_path / "new.csv", "--level", 0.8)
    assert code == 0 and err == ""
    expected = metrics.evaluate(
        fitted.predict(rows), rows["price"], level=0.8, baseline=tuple(fitted.y_scaler)
    )
    for row in report.score_rows(expected):
        (line,) = [line for line in out.splitlines() if line.strip("│ ").startswith(row.name)]
        assert row.model in line and row.trivial in line
    assert "inside the 80% interval" in out and "80 rows of new.csv" in out
    page = tmp_path / "page.html"
    code, out, err = run("evaluate", model, tmp_path / "new.csv", "--report", page)
    assert code == 0 and str(page) in out
    assert "80 rows of new.csv" in page.read_text() and "price" in page.read_text()


@pytest.mark.filterwarnings("default:7 of 80 rows")
def test_rows_without_a_target_are_left_out_and_counted(run, model, tmp_path):
    rows = table(80, seed=1)
    gap = pl.when(pl.int_range(80) < 7).then(None).otherwise(pl.col("price")).alias("price")
    rows.with_columns(gap).write_csv(tmp_path / "gaps.csv")
    rows[7:].write_csv(tmp_path / "whole.csv")
    code, out, err = run("evaluate", model, tmp_path / "gaps.csv", "--by", "rooms", "--json")
    assert code == 0 and "7 of 80 rows have no 'price': left out" in err
    found, whole = json.loads(out), json.loads(run("evaluate", model, tmp_path / "whole.csv", "--json")[1])
    assert found["rows"] == 80 and whole["rows"] == 73
    found, whole = found["scores"]["price"], whole["scores"]["price"]
    assert found["rows"] == whole["rows"] == sum(found["by"]["rooms"]["rows"]) == 73
    for score in ("rmse", "nll", "crps", "coverage", "width"):
        np.testing.assert_allclose(found[score], whole[score], rtol=1e-5)


def test_evaluate_arguments(refused, run, houses, model, tmp_path):
    command = ["evaluate", model, houses]
    refused([*command, "--level", 1.5], "--level", "1.5")
    refused([*command, "--report", tmp_path / "r.docx"], ".html or .pdf", "'.docx'")
    refused([*command, "--report", tmp_path / "none" / "r.pdf"], "none doesn't exist")
    refused(["evaluate", tmp_path / "none", houses], "no model file")
    (tmp_path / "page.html").write_bytes(model.read_bytes())
    inputs = ["evaluate", tmp_path / "page.html", houses, "--report", tmp_path / "page.html"]
    refused(inputs, "would replace", "page.html")
    for content, words in [
        ("area,rooms\n1,2\n", ["no column 'price'", "'area', 'rooms'"]),
        ("area,price\n1,2\n", ["'rooms'"]),
        ("area,rooms,price\n1,2,\n3,4,\n", ["'price'", "holds no values"]),
        ("area,rooms,price\n1,2,inf\n3,4,5\n", ["infinite", "'price'", "1 of 2 rows"]),
        ("area,rooms,price\n1,2,cheap\n", ["'price'", "'cheap'"]),
    ]:
        (tmp_path / "new.csv").write_text(content)
        refused(["evaluate", model, tmp_path / "new.csv", "--report", tmp_path / "r.html"], *words)
    fitted = model_file.load(model)
    model_file.save(tmp_path / "unnamed", fitted._replace(feature_names=None, target_names=None))
    refused(["evaluate", tmp_path / "unnamed", houses], "doesn't say what its columns are called")


def test_unusable_model_files(refused, houses, model, tmp_path):
    whole, bad = model.read_bytes(), tmp_path / "bad"
    for length in (0, 1, 8, 50, len(whole) // 2, len(whole) - 1):
        bad.write_bytes(whole[:length])
        refused(["predict", bad, houses], bad)
    bad.write_text("area,price\n1,2\n" * 20)
    refused(["predict", bad, houses], bad)
    save_file({"a": np.zeros(3)}, bad)
    refused(["predict", bad, houses], bad, "no jaxreg model")
    save_file({"a": np.zeros(3)}, bad, metadata={"jaxreg": "{"})
    refused(["predict", bad, houses], bad, "damaged")
    fitted = model_file.load(model)
    both = MeanVarRegressor(hidden=(8,), outputs=2)
    params = both.init(jax.random.key(0), np.zeros((1, 2), np.float32))
    twice = Scaler(np.zeros(2), np.ones(2))
    model_file.save(bad, fitted._replace(model=both, params=params, y_scaler=twice, target_names=None))
    refused(["predict", bad, houses], "2 targets")


def test_programs_are_kept_unless_told_otherwise(run, houses, model, monkeypatch):
    asked = []
    monkeypatch.setattr(jaxreg.cache, "use_cache", lambda: asked.append("cache"))
    assert run("predict", model, houses)[0] == 0 and not asked  # JAXREG_NO_CACHE is set
    monkeypatch.delenv("JAXREG_NO_CACHE")
    for more in (["--no-cache"], []):
        monkeypatch.setattr(sys, "argv", ["jaxreg", "predict", str(model), str(houses), *more])
        with pytest.raises(SystemExit):
            cli.main()
        assert asked == ([] if more else ["cache"])


@pytest.fixture
def parts(tmp_path):
    """Three Parquet files of houses, of several row groups each."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for i in range(3):
        pq.write_table(table(200, i).to_arrow(), folder / f"{i}.parquet", row_group_size=70)
    return folder


@pytest.mark.parametrize("read", ["stream", pytest.param("whole", marks=pytest.mark.slow)])
def test_fit_on_many_files(run, parts, tmp_path, read):
    given = ["--read", read, "--batch-size", 32, "--drop", "rooms", "--report", tmp_path / "r.html"]
    given = given if read == "stream" else [*given[:-2], "--frequency-scale", 1]
    code, out, err = run(*train(parts, tmp_path / "m", *given))
    assert code == 0 and err == "", err
    rows = int(re.search(r"(\d+) rows that it wasn't trained on", out)[1])
    assert 40 < rows < 80 and re.search(rf"training rows +│ {600 - rows}", out)
    fitted = model_file.load(tmp_path / "m")
    assert fitted.feature_names == ("area",) and fitted.scores["test_rows"] == rows
    if read == "stream":
        assert (tmp_path / "r.html").exists()
        same = tmp_path / "same"
        assert run(*train(f"{parts}/*.parquet", same, *given[:-2]))[0] == 0
        jax.tree.map(np.testing.assert_array_equal, model_file.load(same).params, fitted.params)


@pytest.mark.slow
def test_size_decides_what_is_streamed_and_that_is_said(run, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxreg.cli.inputs, "memory", lambda: 10 * 600 * 3 * 8 - 1.0)
    said = "3 files hold 0.0 GB of values: rows are read as they are needed (--read whole reads all)"
    short = train(parts, tmp_path / "m", "--epochs", 1, "--frequency-scale", 1)
    code, _, err = run(*short)
    assert code == 0 and err.strip() == said
    monkeypatch.setattr(jaxreg.cli.inputs, "memory", lambda: 10 * 600 * 3 * 8.0)
    assert run(*short)[2] == ""


@pytest.mark.slow
def test_a_streamed_run_resumes_within_an_epoch(run, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(feeds, "BLOCK_ROWS", 64)
    kept = tmp_path / "kept"
    given = ["--read", "stream", "--batch-size", 32, "--frequency-scale", 1, "--checkpoint", kept]
    after_chunk = StopOnSignal.after_chunk

    def interrupt(self, current, history):
        self.every = 0.2
        if current.position >= (1, 6):
            self._came(signal.SIGINT, None)
        after_chunk(self, current, history)

    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "after_chunk", interrupt)
        code, _, err = run(*train(parts, tmp_path / "m", *given))
    assert code == 130 and "stopped: SIGINT after epoch 1 and" in err and not (tmp_path / "m").exists()
    assert run(*train(parts, tmp_path / "m", *given, "--resume"))[0] == 0
    assert run(*train(parts, tmp_path / "whole", *given[:-2]))[0] == 0
    assert (tmp_path / "m").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_predictions_of_many_files_are_in_their_order(run, parts, tmp_path, model, monkeypatch, kind):
    monkeypatch.setattr(sources, "GROUP_ROWS", 50)
    outs = {}
    for read in ("stream", "whole"):
        outs[read] = tmp_path / f"{read}.{kind}"
        assert run("predict", model, parts, "--read", read, "--out", outs[read]) == (0, "", "")
    frames = [getattr(pl, f"read_{kind}")(path) for path in outs.values()]
    assert frames[0].columns == ["mean", "std", "lower", "upper"] and frames[0].height == 600
    np.testing.assert_allclose(*frames, rtol=1e-6)
    expected = model_file.load(model).predict(pl.concat([table(200, i) for i in range(3)]))
    np.testing.assert_allclose(frames[0]["mean"], expected.mean, rtol=1e-6)
    if kind == "parquet":
        assert pl.scan_parquet(outs["stream"]).collect().n_chunks() > 3
    code, out, _ = run("predict", model, parts, "--read", "stream")
    assert code == 0 and out.count("\n") == 601


def test_a_prediction_that_fails_late_leaves_no_file(refused, parts, tmp_path, model):
    bad = table(200, 9).with_columns(area=pl.when(pl.int_range(200) < 199).then("area"))
    pq.write_table(bad.to_arrow(), parts / "3.parquet", row_group_size=70)
    out = tmp_path / "p.parquet"
    refused(
        ("predict", model, parts, "--read", "stream", "--out", out),
        "3.parquet, row group 2, column 'area': 1",
    )


MANY = {
    "none": (lambda d: [path.unlink() for path in d.iterdir()], "no file matches"),
    "target in some": (
        lambda d: table().drop("price").write_parquet(d / "3.parquet"),
        "'price'",
        "3.parquet",
    ),
    "types": (
        lambda d: table().with_columns(pl.col("price").cast(pl.String)).write_parquet(d / "3.parquet"),
        "'price'",
        "3.parquet",
    ),
    "cut": (lambda d: (d / "3.parquet").write_bytes((d / "1.parquet").read_bytes()[:999]), "3.parquet can't"),
    "kinds": (lambda d: table().write_csv(d / "3.csv"), "Parquet and other files"),
}


@pytest.mark.parametrize("what", MANY)
def test_files_that_do_not_belong_together(refused, parts, tmp_path, what):
    spoil, *words = MANY[what]
    spoil(parts)
    refused(train(f"{parts}/*", tmp_path / "m", "--read", "stream"), *words)
    refused((*train(f"{parts}/*", parts / "0.parquet"),), "would replace" if what != "none" else "no file")


def test_a_signal_while_nothing_trains_leaves_nothing(run, parts, tmp_path, model, monkeypatch):
    before = contents(tmp_path)

    def killed(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        return iter(())

    monkeypatch.setattr(jaxreg.cli.predict, "whole_tables", killed)
    code, _, err = run("predict", model, parts, "--read", "whole", "--out", tmp_path / "p.parquet")
    assert code == 128 + signal.SIGTERM and err == "" and contents(tmp_path) == before


def test_rows_that_cannot_be_read_are_not_the_fault_of_what_is_written(
    run, parts, tmp_path, model, monkeypatch
):
    def unreadable(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(jaxreg.cli.predict, "read", unreadable)
    code, _, err = run("predict", model, parts, "--read", "whole", "--out", tmp_path / "p.parquet")
    assert code == 2 and err.startswith("error: the rows can't be read: ") and "0.parquet" in err
    assert not (tmp_path / "p.parquet").exists()


ODD_NAMES = ["*", "^y.*$", "^.*$", "y1", "a.b", "a", "(x)", "['y']"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "target, read",
    [
        pytest.param("*", "whole", marks=pytest.mark.slow),
        ("^y.*$", "stream"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("*", "stream"), ("^y.*$", "whole"))),
        pytest.param("a", "stream", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("default")
def test_columns_are_taken_by_name_never_by_pattern(run, tmp_path, read, target):
    rng = np.random.default_rng(0)
    rows = pl.DataFrame({name: i + rng.normal(size=200) for i, name in enumerate(ODD_NAMES)})
    rows = rows.with_columns(pl.Series(target, 1e3 + 1e-3 * rng.normal(size=200)))
    rows.write_parquet(tmp_path / "rows.parquet")
    rows.write_csv(tmp_path / "rows.csv")
    for suffix in ("parquet", "csv"):
        file = tmp_path / f"rows.{suffix}"
        given = ["--target", target, "--out", tmp_path / "m", "--read", read, "--frequency-scale", 1, *SMALL]
        code, _, err = run("fit", file, *given, "--batch-size", 32)
        assert code == 0, err
        fitted = model_file.load(tmp_path / "m")
        assert fitted.feature_names == tuple(name for name in ODD_NAMES if name != target)
        assert abs(fitted.y_scaler.loc - 1e3) < 1 and fitted.scores["test_rmse"] < 1
        code, out, err = run("predict", tmp_path / "m", file, "--read", read)
        found = pl.read_csv(out.encode())
        assert code == 0 and err == "" and np.abs(found["mean"].to_numpy() - 1e3).max() < 1
        code, out, err = run("evaluate", tmp_path / "m", file)
        assert code == 0 and err == "" and f"{target}: 200 rows" in out


@pytest.mark.parametrize("read", ["whole", "stream"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_that_are_kept_stand_before_the_predictions(
    run, refused, model, tmp_path, monkeypatch, read, kind
):
    monkeypatch.setattr(sources, "GROUP_ROWS", 7)
    rows = table(20).with_columns(id=pl.format("00{}", pl.int_range(20)), note=pl.lit('a, "b"\nc'), mean=1)
    (tmp_path / "in").mkdir()
    for i, part in enumerate((rows[:12], rows[12:], rows[:0])):
        getattr(part, f"write_{kind}")(tmp_path / "in" / f"{i}.{kind}")
    out = tmp_path / "out.csv"
    given = [
        "predict",
        model,
        tmp_path / "in",
        "--read",
        read,
        "--keep",
        "id",
        "--keep",
        "note",
        "--keep",
        "id",
    ]
    assert run(*given, "--out", out) == (0, "", "")
    found = pl.read_csv(out, infer_schema=False)
    assert found.columns == ["id", "note", "mean", "std", "lower", "upper"]
    assert found["id"].to_list() == rows["id"].to_list() and set(found["note"]) == {'a, "b"\nc'}
    bare = pl.read_csv(run(*given[:5])[1].encode())
    np.testing.assert_allclose(found["mean"].cast(pl.Float64), bare["mean"], rtol=1e-6)
    refused([*given, "--keep", "street"], "street")
    refused([*given, "--keep", "price,mean"], "--keep mean: predictions have a column of that name")


INDEX = {
    "pandas, Parquet": (lambda frame, file: frame.to_parquet(file), "parquet", "'__index_level_0__'"),
    "pandas, CSV": (lambda frame, file: frame.to_csv(file), "csv", "''"),
    "read again": (
        lambda frame, file: frame.reset_index(names="Unnamed: 0").to_csv(file),
        "csv",
        "'', 'Unnamed: 0'",
    ),
    "twice": (
        lambda frame, file: frame.assign(**{"Unnamed: 0": 1, "Unnamed: 0.1": 2}).to_parquet(
            file, index=False
        ),
        "parquet",
        "'Unnamed: 0', 'Unnamed: 0.1'",
    ),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("default:.*the index of a data frame")
@pytest.mark.parametrize(
    "what", [pytest.param(name, marks=pytest.mark.slow) if "Parquet" in name else name for name in INDEX]
)
def test_the_index_of_a_frame_is_no_feature(run, tmp_path, what):
    write, kind, names = INDEX[what]
    write(table().to_pandas().query("rooms > 1"), tmp_path / f"rows.{kind}")
    for read in ("whole", "stream"):
        code, _, err = run(
            *train(tmp_path / f"rows.{kind}", tmp_path / "m", "--read", read, "--batch-size", 16)
        )
        assert code == 0 and f"{names} of {tmp_path}" in err and "left out" in err and err.count("\n") == 1, (
            err
        )
        assert model_file.load(tmp_path / "m").feature_names == ("area", "rooms")
        assert run("predict", tmp_path / "m", tmp_path / f"rows.{kind}", "--read", read)[0] == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("default:columns")
def test_what_is_said_of_columns(run, refused, tmp_path):
    rows = table(80).with_columns(
        zip=pl.int_range(80) % 3, id=pl.int_range(80), **{"a,b": pl.int_range(80) % 7}
    )
    rows = rows.with_columns(code=pl.Series(["x" if i % 4 else f"{i}" for i in range(80)]))
    rows.write_csv(tmp_path / "rows.csv")
    said = "--drop", "id,rooms", "--drop", "a,b", "--category", "zip", "--number", "code"
    code, _, err = run(*train(tmp_path / "rows.csv", tmp_path / "m", *said))
    fitted = model_file.load(tmp_path / "m")
    assert code == 0 and fitted.feature_names == ("area", "zip", "code"), err
    assert [kind[1].split(",")[0] for kind in fitted.x_scaler.told()] == ["number", "category", "number"]
    assert fitted.settings["categories"] == ["zip"] and fitted.settings["numbers"] == ["code"]
    for given, words in (
        (["--drop", "id,room,zap"], "--drop: .*rows.csv has no columns 'room', 'zap'.*did you mean 'rooms'"),
        (["--category", "price"], "--category price is the target, which is a number: name another column"),
        (["--category", "zip", "--number", "zip"], "'zip' is asked to be two things"),
        (["--drop", "id,price"], "leaves out the target"),
    ):
        assert re.search(words, refused(train(tmp_path / "rows.csv", tmp_path / "n", *given)))


@pytest.mark.slow
@pytest.mark.filterwarnings("default:columns")
def test_files_without_names_of_columns(run, refused, tmp_path):
    rows = table(60).with_columns(city=pl.Series(["Rome", "Oslo", "Bonn"] * 20), date=pl.lit("x"))
    rows.write_csv(tmp_path / "rows.csv", include_header=False)
    rows.write_csv(tmp_path / "named.csv")
    found = []
    for name, target, given in (("rows.csv", "2", ["--no-header"]), ("named.csv", "price", [])):
        arguments = ["fit", tmp_path / name, "--target", target, "--out", tmp_path / "m", *SMALL, *given]
        code, _, err = run(*arguments, "--drop", "4" if given else "date")
        assert code == 0, err
        code, out, err = run("predict", tmp_path / "m", tmp_path / name, *given)
        assert code == 0 and not err
        found.append(out)
        code, out, err = run("evaluate", tmp_path / "m", tmp_path / name, *given)
        assert code == 0 and f"60 rows of {name}" in out, err
    assert found[0] == found[1] and found[0].count("\n") == 61
    (tmp_path / "long.csv").write_text("1,2,3\n4,5,6\n7,8,9,10\n")
    said = refused(["fit", tmp_path / "long.csv", "--no-header", "--target", "2", "--out", tmp_path / "n"])
    assert "long.csv (below a line of names) has more values in line 4" in said
    table().write_parquet(tmp_path / "rows.parquet")
    refused(train(tmp_path / "rows.parquet", tmp_path / "n", "--no-header"), "--no-header is for text files")


@pytest.mark.filterwarnings("default:1 of 60 rows")
def test_rows_without_a_target_are_left_out(run, houses, tmp_path):
    rows = table().with_columns(price=pl.when(pl.int_range(60) != 7).then("price"))
    rows.write_csv(houses)
    code, out, err = run(*train(houses, tmp_path / "m"))
    assert code == 0 and re.search("training rows +│ 53", out)
    assert err == "warning: 1 of 60 rows have no 'price': left out\n"


@pytest.mark.slow
@pytest.mark.filterwarnings("default:columns")
def test_columns_of_any_kind_are_trained_on(run, refused, tmp_path):
    rng = np.random.default_rng(0)
    rows = table(80).with_columns(
        city=pl.Series(rng.choice(["Rome", "Oslo"], 80)),
        sold=pl.date_range(pl.date(2020, 1, 1), pl.date(2020, 3, 20), eager=True),
        empty=pl.lit(None),
        zone=pl.lit("x"),
        code=pl.Series([None if i % 9 == 0 else f"{i}" for i in range(80)]),
    )
    rows.write_parquet(tmp_path / "rows.parquet")
    rows.write_csv(tmp_path / "rows.csv")
    for name, read in (("rows.parquet", "stream"), ("rows.csv", "whole")):
        given = "--read", read, "--batch-size", 16
        code, out, err = run(*train(tmp_path / name, tmp_path / "m", *given))
        assert code == 0 and "price from 5 columns" in out, err
        assert "'empty': empty, left out" in err and "'zone': constant, left out" in err
        assert ("'sold': time, written as text (%Y-%m-%d)" in err) == (name == "rows.csv")
        code, out, _ = run("info", tmp_path / "m")
        for words in (
            "category, 2 levels",
            "left out",
            " sold ",
            "and whether it is missing",
            "time of the year",
        ):
            assert words in " ".join(out.replace("│", " ").split())
        code, first, err = run("predict", tmp_path / "m", tmp_path / name, "--keep", "city")
        assert code == 0 and first.startswith("city,mean,std") and first.count("\n") == 81 and not err
        # Columns in another order, a level and a gap that no row had, and the same by way of a stream.
        odd = rows.head(2).with_columns(city=pl.Series(["Bonn", None]))
        odd[:, ::-1].write_csv(tmp_path / "odd.csv")
        for how in ("whole", "stream"):
            code, out, err = run("predict", tmp_path / "m", tmp_path / "odd.csv", "--read", how)
            assert code == 0 and out.count("\n") == 3 and "'city' (2 rows)" in err, err
        code, out, err = run("evaluate", tmp_path / "m", tmp_path / name)
        assert code == 0 and "80 rows" in out, err
    refused(
        ["predict", tmp_path / "m", table(3).write_csv(tmp_path / "few.csv") or tmp_path / "few.csv"],
        "'city'",
    )


@pytest.mark.slow
def test_words_for_true_and_false_are_numbers(run, tmp_path):
    rows = table().with_columns(old=pl.Series(["True", "False", "true"] * 20))
    rows.write_csv(tmp_path / "rows.csv")
    found = []
    for read in ("whole", "stream"):
        given = ["--read", read, "--frequency-scale", 1, "--batch-size", 16, "--test-fraction", 0]
        code, _, err = run(*train(tmp_path / "rows.csv", tmp_path / "m", *given))
        assert code == 0 and err == "", err
        found.append(model_file.load(tmp_path / "m").x_scaler)
    assert str(found[0]) == str(found[1]) and found[0].told()[2][:2] == ("old", "number")
    for one, other in zip(*(columns.kinds for columns in found), strict=True):
        assert vars(one) == pytest.approx(vars(other))


def test_what_a_terminal_would_obey_is_escaped(run, refused, tmp_path):
    odd = tmp_path / "m\x1b[2J"
    table().rename({"area": "a\x1b[31mred", "price": "pr\x9bice\u202e"}).write_csv(tmp_path / "rows.csv")
    given = ["fit", tmp_path / "rows.csv", "--out", odd, *SMALL]
    code, out, err = run(*given, "--target", "pr\x9bice\u202e")
    assert code == 0 and (out + err).replace("\n", "").isprintable()
    assert r"pr\x9bice\u202e from 2 columns" in out and rf"the model is in {tmp_path}/m\x1b[2J" in out
    out = run("info", odd)[1]
    assert r"│ a\x1b[31mred Float64 " in out and out.replace("\n", "").isprintable()
    table().write_csv(tmp_path / "a\x1b[1m.csv")
    words = tmp_path / r"a\x1b[1m.csv", "'pr\\x9bice\\u202e'"
    refused(["evaluate", odd, tmp_path / "a\x1b[1m.csv"], *words)


def test_info_shows_what_no_encoding_has(run, refused, model, houses, tmp_path):
    names = {"feature_names": ("area", "NAME"), "settings": {"NAME": "NAME"}}
    model_file.save(tmp_path / "m", model_file.load(model)._replace(**names))
    header, arrays = archive.read(tmp_path / "m", "model")
    header = json.loads(json.dumps(header).replace("NAME", r"half\n\udc80"))
    archive.write(tmp_path / "m", "model", header, arrays)
    code, out, _ = run("info", tmp_path / "m")
    assert code == 0 and out.count(r"half\n\udc80") == 3
    refused(["predict", tmp_path / "m", houses], r"lack column 'half\n\udc80'")


@pytest.fixture
def command(tmp_path):
    """Runs a shell's line with `jaxreg` in it, in a folder of the test's own."""

    def call(line, **variables):
        line = f"set -o pipefail; {line}".replace("jaxreg", f"{sys.executable} -m jaxreg")
        environment = os.environ | {"JAXREG_NO_CACHE": "1"} | variables
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return call


SCORES = {"rmse", "mae", "nll", "crps", "level", "coverage", "width", "interval_score", "calibration_error"}
SCORES |= {"below", "above", "max_calibration_error", "ence", "sharpness", "aleatoric", "epistemic"}


def test_results_as_json(run, houses, tmp_path):
    path = tmp_path / "m"
    code, out, err = run(*train(houses, path, "--json"))
    found = json.loads(out)
    assert code == 0 and err == "" and found["model"] == str(path) and found["features"] == ["area", "rooms"]
    assert found["training_rows"] == 54 and found["test_rows"] == 6 and found["networks"] == 2
    assert SCORES | {"trivial"} == set(found["scores"]) and set(found["scores"]["trivial"]) == SCORES
    assert found["report"] is None and found["epochs"] <= found["most_epochs"] == 2
    code, out, err = run("evaluate", path, houses, "--json")
    found = json.loads(out)
    assert code == 0 and err == "" and found["rows"] == 60 and set(found["scores"]) == {"price"}
    assert SCORES | {"trivial", "advice", "rows"} == set(found["scores"]["price"])
    code, out, err = run("info", path, "--json")
    found = json.loads(out)
    assert code == 0 and found["settings"]["members"] == 2 and found["network"]["kind"] == "MeanVarRegressor"
    text = Path("docs/reference/command.md").read_text()
    assert all(f"`{name}`" in text for name in {*found, *SCORES})


@pytest.mark.slow
def test_noise_and_bounds_are_options(run, houses, tmp_path):
    code, out, _ = run(*train(houses, tmp_path / "m", "--noise", 2, "--bounds", "0,"))
    assert code == 0 and re.search(r"every prediction is +│ at least 0 ", out)
    fitted = model_file.load(tmp_path / "m")
    assert fitted.model.components == 2 and fitted.bounds == (0, np.inf)
    assert fitted.settings["bounds"] == [0, None] and fitted.settings["noise"] == 2
    code, out, _ = run("predict", tmp_path / "m", houses, "--level", 0.999)
    assert code == 0 and min(float(line.split(",")[2]) for line in out.split()[1:]) >= 0
    for given, message in (
        ("0,1", "outside the bounds (0, 1)"),
        ("some", "bounds must be None, 'auto' or two"),
    ):
        code, _, err = run(*train(houses, tmp_path / "n", "--bounds", given))
        assert code == 2 and message in err and not (tmp_path / "n").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["fit", "none.csv", "--target", "y", "--out", "m"], "there is no file none.csv"),
        (["fit", "none.csv"], "Missing option"),
        (["evaluate", "none", "none.csv", "--level", "many"], "'--level'"),
        (["fit", "HOUSES", "--target", "prize", "--out", "m"], "did you mean 'price'?"),
        (["info", "none"], "there is no model file none"),
    ],
)
def test_errors_as_json(run, houses, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*(houses if one == "HOUSES" else one for one in arguments), "--json")
    assert code == 2 and out == "" and err.count("\n") == 1
    assert words in json.loads(err)["error"] and json.loads(err)["exit_code"] == 2


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_standard_input(run, model, houses, tmp_path, monkeypatch, suffix):
    file = tmp_path / f"rows{suffix}"
    (table().write_csv if suffix == ".csv" else table().write_parquet)(file)

    def sent(*arguments):
        with file.open() as stream:
            monkeypatch.setattr(sys, "stdin", stream)
            return run(*arguments)

    assert sent("predict", model, "-") == run("predict", model, file)
    code, out, err = sent("fit", "-", "--target", "price", "--out", tmp_path / "m", "--quiet", *SMALL)
    assert (code, out, err) == (0, "", "") and (tmp_path / "m").exists()
    assert "60 rows of standard input, predicted" in sent("evaluate", model, "-")[1]
    words = "standard input has no column 'prize': it has columns 'area'"
    for more in ((), ("--json",)):
        assert words in sent("fit", "-", "--target", "prize", "--out", tmp_path / "n", *more)[2]
    for read in ("whole", "stream"):
        given = "predict", model, "-", "--keep", "roof", "--read", read
        assert sent(*given)[2].startswith("error: --keep: standard input has no column 'roof'")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_pipe_is_read_like_standard_input(run, model, tmp_path, kind):
    file, pipe = tmp_path / f"rows.{kind}", tmp_path / "pipe"
    getattr(table(), f"write_{kind}")(file)
    os.mkfifo(pipe)

    def sent(*arguments):
        writer = threading.Thread(target=lambda: pipe.write_bytes(file.read_bytes()))
        writer.start()
        ended = run(*arguments)
        writer.join()
        return ended

    assert sent("predict", model, pipe) == run("predict", model, file)
    assert sent("fit", pipe, "--target", "price", "--out", tmp_path / "m", *SMALL)[0] == 0
    assert "60 rows of pipe, predicted" in sent("evaluate", model, pipe)[1]
    assert f"error: --keep: {pipe} has no column" in sent("predict", model, pipe, "--keep", "roof")[2]
    shown = sent("demo", "--data", pipe, "--x", "area", "--y", "prize", "--out", tmp_path / "d")[2]
    assert shown.startswith(f"error: {pipe} has no column 'prize'")


def test_one_target_is_predicted_and_not_dropped(refused, houses, tmp_path):
    refused(train(houses, tmp_path / "m", "--target", "rooms"), "--target is given 2 times", "Python")
    refused(train(houses, tmp_path / "m", "--drop", "price"), "--drop price leaves out the target")
    words = "epochs must be a whole number, got 'x'; 'auto' may stand here too; patience must be a share"
    refused(train(houses, tmp_path / "m", "--epochs", "x", "--patience", 7), words)


def test_an_empty_standard_input(refused, model, monkeypatch, tmp_path):
    with Path(os.devnull).open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        for command in (["predict", model, "-"], ["evaluate", model, "-"]):
            refused(command, "standard input is empty")
        refused(["fit", "-", "--target", "y", "--out", tmp_path / "m"], "standard input is empty")


@pytest.mark.slow
def test_stages_are_told_where_there_is_no_terminal(houses, tmp_path, monkeypatch, capsys):
    given = train(houses, tmp_path / "m", "--frequency-scale", "auto", "--epochs", 8)
    monkeypatch.setattr(sys, "argv", ["jaxreg", *map(str, given)])
    monkeypatch.setenv("JAXREG_NO_CACHE", "1")
    with pytest.raises(SystemExit):
        cli.main()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"1 of 3: reading {houses}",
        "2 of 3: trying out settings: at most 2 epochs",
        "3 of 3: training: at most 8 epochs",
    ]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["fit", "--help"], ["fit", "none.csv", "--target", "y", "--out", "m"]],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(arguments):
    code = f"import sys; sys.argv = ['jaxreg', *{arguments!r}]\nfrom jaxreg.cli import main\n"
    code += "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = set(ended.stderr.splitlines()[-1].split())
    assert "typer" in loaded and not loaded & {"jax", "numpy", "polars", "sklearn", "matplotlib", "flax"}


@pytest.mark.slow
@pytest.mark.parametrize("name, value", [("COLUMNS", "20"), ("NO_COLOR", "1"), ("TERM", "dumb")])
def test_odd_terminals(name, value, model):
    environment = os.environ | {name: value}
    for command in (["--help"], ["info", str(model)]):
        line = [sys.executable, "-m", "jaxreg", *command]
        ended = subprocess.run(line, capture_output=True, text=True, env=environment)
        assert ended.returncode == 0 and ended.stderr == "" and ended.stdout
        assert name == "COLUMNS" or "\x1b" not in ended.stdout


NUMBER = r"(?<!\S)[-+]?\d[\d.,e+-]*%?(?!\S)"


@pytest.mark.parametrize("what", ["evaluate", "info", pytest.param("fit", marks=pytest.mark.slow)])
def test_numbers_are_whole_on_a_narrow_terminal(run, houses, model, tmp_path, monkeypatch, what):
    commands = {"evaluate": ("evaluate", model, houses), "info": ("info", model)}
    commands["fit"] = train(houses, tmp_path / "m")
    shown = {}
    for width in (200, 80, 40, 20):
        monkeypatch.setattr(console.out, "width", width)
        code, shown[width], _ = run(*commands[what])
        assert code == 0 and "…" not in shown[width]
    assert len({tuple(sorted(re.findall(NUMBER, text))) for text in shown.values()}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["20", "40", "80"])
def test_options_are_whole_on_a_narrow_terminal(command, columns):
    for line in ("--help", "fit --help", "predict --help"):
        wide, narrow = (command(f"jaxreg {line}", COLUMNS=width)[1] for width in ("200", columns))
        assert "…" not in narrow
        assert set(re.findall("--[a-z-]+", wide)) <= set(re.findall("--[a-z-]+", narrow))


# Runs each line of standard input as a command.
COMMANDS = """
import sys
from jaxreg import cli
for line in sys.stdin:
    sys.argv = ["jaxreg", *line.split()]
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            raise
print("done")
"""


@pytest.mark.longest
def test_without_docstrings(houses, model, tmp_path):
    lines = ["--help", "fit --help", f"info {model}", f"predict {model} {houses}"]
    lines += [f"evaluate {model} {houses}", f"export {model} --out {tmp_path / 'exported'}"]
    lines += [" ".join(map(str, train(houses, tmp_path / "m")))]
    given = {"input": "\n".join(lines), "capture_output": True, "text": True}
    done = subprocess.run(
        [sys.executable, "-OO", "-c", COMMANDS], **given, env=os.environ | {"JAXREG_NO_CACHE": "1"}
    )
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr
    assert re.sub(r"^\d of \d: .*\n", "", done.stderr, flags=re.M) == "", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_that_jax_lacks(command, houses, platform):
    if platform == "cuda" and any(device.platform == "gpu" for device in jax.devices()):
        pytest.skip("has a GPU")
    line = {"cuda": "demo", "nonsense": "fit houses.csv --target price --out m"}[platform]
    code, out, err = command(f"jaxreg {line}", JAX_PLATFORMS=platform)
    assert code == 2 and out == "" and err.count("\n") == 1, err
    assert err.startswith(f"error: JAX can't run on JAX_PLATFORMS={platform}: unset it, or install jax")


@pytest.mark.slow
def test_standard_output_that_is_closed(command, houses, model):
    said = "error: standard output is closed: name a file to write\n"
    assert command(f"jaxreg predict {model} houses.csv >&-") == (1, "", said)
    # What is printed for a reader alone is left out.
    for line in ("jaxreg --help >&-", f"jaxreg info {model} >&-", f"jaxreg info {model} <&- >&- 2>&-"):
        assert command(line) == (0, "", "")
    assert command(f"jaxreg predict {model} houses.csv --out p.csv <&- >&- 2>&-") == (0, "", "")
    assert len(pl.read_csv(houses.with_name("p.csv"))) == 60


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough(command, houses, model, unbuffered):
    table(9999).write_csv(houses.with_name("large.csv"))
    table(5).write_csv(houses.with_name("few.csv"))
    one_line = f"jaxreg predict {model} large.csv | head -1"
    assert command(one_line, PYTHONUNBUFFERED=unbuffered) == (1, "mean,std,lower,upper\n", "")
    for line in ("jaxreg --help", f"jaxreg info {model}", f"jaxreg predict {model} few.csv"):
        assert command(f"{line} | true", PYTHONUNBUFFERED=unbuffered) == (1, "", "")
        if os.path.exists("/dev/full"):
            code, _, err = command(f"{line} > /dev/full", PYTHONUNBUFFERED=unbuffered)
            assert code == 1 and err == "error: [Errno 28] No space left on device\n"


@pytest.mark.slow
def test_a_console_of_ascii(command, houses, tmp_path):
    table().rename({"price": "prix_é", "area": "aire_é"}).write_csv(houses)
    ascii_alone = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    given = f"houses.csv --target prix_é --drop aire_é --out modèle {' '.join(map(str, SMALL))}"
    code, out, err = command(f"jaxreg fit {given} 2>&1", **ascii_alone)
    assert code == 0 and r"prix_\xe9 from 1 column " in out, out
    assert out.isascii() and "the model is in mod" in out
    assert model_file.load(tmp_path / "modèle").target_names == ("prix_é",)
    demo = "demo --data houses.csv --x aire_é --y prix_é --epochs 1 --out démo"
    assert command(f"jaxreg {demo}", **ascii_alone)[0] == 0
    assert len(list((tmp_path / "démo").iterdir())) == 4


@pytest.mark.filterwarnings("default")
def test_what_is_said_of_how_a_file_is_written(run, refused, tmp_path):
    rows = table(60).select("area", "rooms", "price")
    text = rows.write_csv(separator=";").replace(".", ",").replace("rooms", "räume")
    (tmp_path / "de.csv").write_bytes(gzip.compress(("# made up\n" + text).encode("cp1252")))
    said = "--encoding", "cp1252", "--na", "9999"
    code, _, err = run(*train(tmp_path / "de.csv", tmp_path / "m"), *said)
    assert code == 0 and "decimal commas: 'area'" in err and "1 line before the names skipped" in err
    model = model_file.load(tmp_path / "m")
    assert model.feature_names == ("area", "räume") and "/jaxreg-" not in err
    code, out, _ = run("predict", tmp_path / "m", tmp_path / "de.csv", *said)
    assert code == 0 and len(pl.read_csv(out.encode())) == 60
    code, _, err = run("evaluate", tmp_path / "m", tmp_path / "de.csv")
    assert code == 2 and f"error: {tmp_path / 'de.csv'} isn't UTF-8 text: line 2 has the byte 0xe4" in err
    refused(
        ["evaluate", tmp_path / "m", tmp_path / "de.csv", "--unpacked", 0], "--unpacked must be a positive"
    )


def test_coverage_by_columns(run, refused, model, tmp_path):
    rows = table(200).with_columns(town=pl.Series(["Oslo", None] * 100))
    rows.write_csv(tmp_path / "rows.csv")
    given = "evaluate", model, tmp_path / "rows.csv", "--by", "town", "--by", "area", "--by", "rooms"
    code, out, err = run(*given, "--level", 0.9, "--report", tmp_path / "r.html")
    assert (code, err) == (0, "") and "by town" in out and "inside 90%" in out and "area at most" in out
    page = (tmp_path / "r.html").read_text()
    for title in ("Coverage by predicted std and mean", "Coverage by town", "Coverage by rooms"):
        assert title in page
    by = json.loads(run(*given, "--json")[1])["scores"]["price"]["by"]
    assert by["town"]["names"] == ["Oslo", "missing"] and by["town"]["rows"] == [100, 100]
    assert by["rooms"]["names"] == ["1", "2", "3", "4", "5"] and by["area"]["rows"] == [40] * 5
    refused(
        ["evaluate", model, tmp_path / "rows.csv", "--by", "twon"], "no column 'twon'", "did you mean 'town'"
    )


def test_what_carries_a_prediction(run, model, tmp_path):
    table(100, seed=2).write_csv(tmp_path / "rows.csv")
    given = "evaluate", model, tmp_path / "rows.csv", "--importance"
    code, out, err = run(*given, "--report", tmp_path / "r.html")
    assert (code, err) == (0, "") and "CRPS rises by" in out
    page = (tmp_path / "r.html").read_text()
    for title in ("What carries the prediction", "What carries its std", "Depending on area"):
        assert title in page
    found = json.loads(run(*given, "--json")[1])["scores"]["price"]["importance"]
    assert found["names"] == ["area", "rooms"] and len(found["crps"]) == len(found["std_spread"]) == 2


@pytest.mark.filterwarnings("default")
def test_the_decimal_mark_is_kept_in_the_model(run, tmp_path):
    rows = "".join(f"{1 + i % 9}.{100 + i};{i},5\n" for i in range(60))
    (tmp_path / "de.csv").write_text("x;y\n" + rows)
    (tmp_path / "new.csv").write_text(
        "x\n" + "".join(line.split(";")[0] + "\n" for line in rows.split("\n")[:4])
    )
    given = "--members", 2, "--frequencies", 1, "--epochs", 2, "--frequency-scale", 1, "--noise", 1
    assert run("fit", tmp_path / "de.csv", "--target", "y", "--out", tmp_path / "m", *given)[0] == 0
    assert model_file.load(tmp_path / "m").settings["decimal"] == ","
    with_target, without = (
        run("predict", tmp_path / "m", tmp_path / f"{name}.csv") for name in ("de", "new")
    )
    assert without[1].split() == with_target[1].split()[:5] and "points between thousands: 'x'" in without[2]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["whole", "stream"])
@pytest.mark.filterwarnings("default")
def test_going_on_from_a_model(run, refused, tmp_path, how):
    rows = table(300)
    seen, more = rows[:200], rows.sample(fraction=1, shuffle=True, seed=1)
    for name, part in {"old": seen, "all": more.with_columns(extra=1)}.items():
        part.write_parquet(tmp_path / f"{name}.parquet")
    old, new = tmp_path / "old.model", tmp_path / "new.model"
    assert run(*train(tmp_path / "old.parquet", old, "--seed", 3, "--read", how))[0] == 0
    arguments = "fit", tmp_path / "all.parquet", "--from", old, "--out", new, "--read", how
    code, out, err = run(*arguments, "--epochs", 1)
    assert code == 0, err
    assert "left out, because the model doesn't have them: column 'extra'" in err
    before, after = map(model_file.load, (old, new))
    assert after.settings["epochs"] == 1 and after.settings["members"] == 2
    assert after.y_scaler.loc == before.y_scaler.loc and after.feature_names == before.feature_names
    if how == "whole":
        known = {"held_out": HeldOut.of(before.settings["test_rows"]), "features": ["area", "rooms"]}
        files = [tmp_path / "old.parquet"], [tmp_path / "all.parquet"]
        whole, longer = (rows_in_memory(file, "price", [], 0.1, 3, **known) for file in files)
        tested, still, trained = (
            set(zip(*x.get_columns(), y, strict=True)) for x, y in (whole.test, longer.test, longer.train)
        )
        assert len(tested) == 20 and tested <= still and not still & trained
        assert after.settings["test_rows"] == before.settings["test_rows"]
        assert after.settings["rows"] == len(trained) == 300 - len(still)
    more.drop("rooms").write_parquet(tmp_path / "less.parquet")
    start = "fit", tmp_path / "all.parquet", "--out", tmp_path / "x.model"
    refused((*start, "--from", old, "--members", 3), "members is 3, the model has 2")
    refused((*start, "--from", old, "--seed", 0, "--drop", "area"), "--seed and --drop: leave that out")
    refused((*start, "--from", old, "--target", "area"), "--target area: ", "predicts column 'price'")
    refused((*start, "--from", tmp_path / "none.model"), "there is no model file")
    refused(start, "--target is missing")
    other = "whole" if how == "stream" else "stream"
    refused((*start, "--from", old, "--read", other), f"old.model was trained with --read {how}, which knows")
    less = "fit", tmp_path / "less.parquet", "--from", old, "--out", tmp_path / "x.model"
    refused(less, "has no column 'rooms', which the model has")
