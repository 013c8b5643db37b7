import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest

from jaxreg import Fitted, MeanVarRegressor, Scaler
from jaxreg.cli import app
from jaxreg.estimator import DeepEnsembleRegressor
from jaxreg.model import model_file

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_sweep(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--settings", "4", "--epochs", "3"])
    module = runpy.run_path(str(EXAMPLES / "sweep.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "4 settings, best first" in printed and "validation NLL" in printed
    scores = [row["validation NLL"] for row in module["sweep"](3, 2)]
    assert scores == sorted(scores) and len(scores) == 3


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {
        "sweep.py",
        "shap_values.py",  # where shap is installed
        "serve.py",  # by test_export
        "read_model.py",
        "server.py",
        "loopback.sh",
        "slurm.sh",
        "jobset.yaml",
    }


# What SLURM's srun sets, for two tasks on this machine.
SRUN = """#!/usr/bin/env bash
for i in 0 1; do
    SLURM_JOB_ID=$PPID SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_TASKS=2 SLURM_NTASKS=2 \\
        SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_STEP_NUM_NODES=1 "$@" $OPTIONS > out.$i 2> err.$i &
    started+=($!)
done
for one in "${started[@]}"; do wait $one || exit; done
"""
OPTIONS = (
    "--members 2 --frequencies 1 --frequency-scale 1 --noise 1 --epochs 2 --batch-size 32 --no-cache".split()
)


@pytest.fixture
def place(tmp_path):
    """A folder with rows, and what runs a recipe there."""
    rng = np.random.default_rng(0)
    table = pl.DataFrame({"area": rng.normal(size=200), "price": rng.normal(size=200)})
    table.write_parquet(tmp_path / "rows.parquet", row_group_size=50)
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)

    def run(recipe, *arguments):
        path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        given = {"cwd": tmp_path, "env": os.environ | {"PATH": path, "OPTIONS": " ".join(OPTIONS)}}
        ended = subprocess.run(
            ["bash", EXAMPLES / recipe, *arguments], **given, capture_output=True, text=True
        )
        assert ended.returncode == 0, (ended.stderr, [p.read_text() for p in tmp_path.glob("err.*")])

    return tmp_path, run


@pytest.mark.slow
def test_a_run_of_several_processes_on_one_machine(place, request):
    if not request.config.getoption("--many-processes"):
        pytest.skip("--many-processes")
    folder, run = place
    run("loopback.sh", "2", "rows.parquet", "price", *OPTIONS)
    assert model_file.load(folder / "model").members == 2


@pytest.mark.slow
def test_a_run_under_slurm(place):
    folder, run = place
    run("slurm.sh", "rows.parquet", "price")
    assert model_file.load(folder / "run/model").members == 2


def test_ci_runs_the_test_command_of_the_readme():
    readme, ci = ((EXAMPLES.parent / name).read_text() for name in ("README.md", ".ci/run"))
    (command,) = re.findall(r"<!-- command: tests -->.*?```bash\n(.*?)\n```", readme, flags=re.S)
    assert f"{command.replace('.venv', '.ci/venv')} || exit" in ci.splitlines()


@pytest.mark.parametrize("recipe", ["loopback.sh", "slurm.sh", "jobset.yaml"])
def test_options_in_recipes_exist(recipe):
    text = (EXAMPLES / recipe).read_text().partition("jaxreg fit")[2]
    known = {f"--{name.replace('_', '-')}" for name in app.fit_command.__signature__.parameters} | {"--out"}
    assert set(re.findall(r" (--[a-z-]+)", text)) <= known


def test_a_server(tmp_path, monkeypatch):
    model, x = MeanVarRegressor(hidden=(8,)), np.array([[1.5, 3.0], [2.5, 1.0]])
    params = model.init(jax.random.key(0), x.astype(np.float32))
    fitted = Fitted(model, params, Scaler.fit(x), Scaler.fit(np.array([10.0, 20.0])))
    model_file.save(tmp_path / "m", fitted)
    monkeypatch.setenv("MODEL", str(tmp_path / "m"))
    app = runpy.run_path(str(EXAMPLES / "server.py"))["app"]

    def post(content):
        said = []
        environ = {"CONTENT_LENGTH": str(len(content)), "wsgi.input": io.BytesIO(content)}
        (body,) = app(environ, lambda status, headers: said.append(status))
        return said[0], json.loads(body)

    status, answer = post(json.dumps(x.tolist()).encode())
    own = fitted.predict(x)
    assert status == "200 OK" and set(answer) == {"mean", "std", "lower", "upper"}
    np.testing.assert_allclose(answer["mean"], own.mean)
    np.testing.assert_allclose(answer["upper"], own.interval(0.95)[1])
    assert post(b"[[1, 2, 3]]") == (
        "400 Bad Request",
        {"error": "x has 3 features, the model was trained on 2"},
    )
    assert post(b"{")[0] == post(b"")[0] == "400 Bad Request"


def test_shap_values(capsys):
    pytest.importorskip("shap")
    module = runpy.run_path(str(EXAMPLES / "shap_values.py"), run_name="__main__")
    assert "std: mean absolute Shapley value" in capsys.readouterr().out
    model, table, found = module["model"], module["table"], module["found"]
    mean, std = model.predict(table[500:520], return_std=True)
    base = [part.mean() for part in model.predict(table[:60], return_std=True)]
    for what, whole, start in (("mean", mean, base[0]), ("std", std, base[1])):  # they add up
        np.testing.assert_allclose(found[what].sum(axis=1), whole - start, rtol=1e-3, atol=1e-2)
    assert abs(found["mean"]).mean(axis=0).argmax() == 0 and abs(found["std"]).mean(axis=0).argmax() == 1


@pytest.mark.slow
def test_a_model_file_is_read_by_numpy_alone(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    size = np.where(rng.random(200) < 0.1, np.nan, rng.standard_t(2, size=200))
    table = pl.DataFrame(
        {"size": size, "city": rng.choice(["a", "b", "c", "rare"], 200, p=[0.5, 0.3, 0.19, 0.01])}
    )
    y = 1e3 + 5 * np.nan_to_num(size) + rng.normal(size=200)
    settings = {
        "members": 3,
        "hidden": (8, 8),
        "frequencies": 2,
        "frequency_scale": 1,
        "epochs": 2,
        "random_state": 0,
    }
    table = table.fill_nan(None)
    model = DeepEnsembleRegressor(**settings, noise=4).fit(table, y)
    model.save(tmp_path / "m.model")
    table.write_csv(tmp_path / "rows.csv")
    arguments = "read_model.py", "m.model", "rows.csv"
    monkeypatch.setattr(sys, "argv", [arguments[0], *(str(tmp_path / name) for name in arguments[1:])])
    runpy.run_path(str(EXAMPLES / "read_model.py"))
    found = np.loadtxt(io.StringIO(capsys.readouterr().out), delimiter=",", skiprows=1)
    mean, std = model.predict(table, return_std=True)
    np.testing.assert_allclose(found[:, 0], mean, atol=1e-4 * std.min())
    np.testing.assert_allclose(found[:, 1], std, rtol=1e-4)
    imported = re.findall(r"^(?:import|from) (\w+)", (EXAMPLES / "read_model.py").read_text(), flags=re.M)
    assert set(imported) == {"csv", "json", "struct", "sys", "pathlib", "numpy"}
