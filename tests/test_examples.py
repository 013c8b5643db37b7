import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from jaxreg import cli, model_file

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
        "serve.py",  # by test_export
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
OPTIONS = "--members 2 --frequencies 1 --frequency-scale 1 --epochs 2 --batch-size 32 --no-cache".split()


@pytest.mark.parametrize("recipe", ["loopback.sh", "slurm.sh"])
def test_recipes_of_several_processes(tmp_path, recipe):
    rng = np.random.default_rng(0)
    table = pl.DataFrame({"area": rng.normal(size=200), "price": rng.normal(size=200)})
    table.write_parquet(tmp_path / "rows.parquet", row_group_size=50)
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {"cwd": tmp_path, "env": os.environ | {"PATH": path, "OPTIONS": " ".join(OPTIONS)}}
    own = ["2", "rows.parquet", "price", *OPTIONS] if recipe == "loopback.sh" else ["rows.parquet", "price"]
    times = 1 if recipe == "loopback.sh" else 2  # the second goes on from the first's end
    for _ in range(times):
        ended = subprocess.run(["bash", EXAMPLES / recipe, *own], **given, capture_output=True, text=True)
        errors = [path.read_text() for path in tmp_path.glob("err.*")]
        assert ended.returncode == 0, (ended.stderr, errors)
    model = tmp_path / ("model" if recipe == "loopback.sh" else "run/model")
    assert model_file.load(model).members == 2


@pytest.mark.parametrize("recipe", ["loopback.sh", "slurm.sh", "jobset.yaml"])
def test_options_in_recipes_exist(recipe):
    text = (EXAMPLES / recipe).read_text().partition("jaxreg fit")[2]
    known = {f"--{name.replace('_', '-')}" for name in cli.fit_command.__signature__.parameters} | {"--out"}
    assert set(re.findall(r" (--[a-z-]+)", text)) <= known
