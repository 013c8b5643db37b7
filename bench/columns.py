"""How the command takes tables as people have them: each column of each table, by `jaxreg fit` and `info`."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import table_files
from bench.machine import versions
from bench.readme import ROOT, write

COMMAND = "from jaxreg.cli import main; main()"
SMALLEST = "--members", "1", "--epochs", "1", "--frequency-scale", "0", "--noise", "1"


def main(*, quick: bool, out: Path, folders: list[Path] | None = None) -> list[dict]:
    """Train on each table of some descriptions, and keep how its columns were taken."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        for name, file, entry in table_files.described(folders or []):
            target, *others = table_files.names(entry["target"])
            drop = [*others, *table_files.names(entry.get("leave_out"))]
            options = ["--target", target, "--out", model, *(SMALLEST if quick else ())]
            options += ["--drop", ",".join(drop)] if drop else []
            options += [] if entry.get("header", True) else ["--no-header"]
            scores = json.loads(command("fit", file, *options, "--json"))["scores"]
            told = json.loads(command("info", model, "--json"))["columns"]
            about = {"table": name, "target": target, "options": f"--drop {','.join(drop)}" if drop else ""}
            scored = {"test_crps": f"{scores['crps']:.4g}", "test_coverage": f"{scores['coverage']:.3g}"}
            found += [
                about
                | scored
                | {"column": column["name"], "is": column["told"][0], "taken_as": column["told"][1]}
                for column in told
            ]
            print(f"{name}: {len(told)} columns, CRPS {scored['test_crps']}", flush=True)
    if not quick and found:
        write([row | versions() for row in found], out / "columns.csv")
    return found


def command(*arguments: object) -> str:
    """What a command of `jaxreg` prints."""
    called = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    done = subprocess.run(called, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"jaxreg {' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout
