import runpy
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_sweep(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--settings", "4", "--epochs", "3"])
    module = runpy.run_path(str(EXAMPLES / "sweep.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "4 settings, best first" in printed and "validation NLL" in printed
    scores = [row["validation NLL"] for row in module["sweep"](3, 2)]
    assert scores == sorted(scores) and len(scores) == 3


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "sweep.py",
        "serve.py",
    }  # the second by test_export
