"""`python -m bench WHAT`; `--help` says what each measurement asks, how long it takes, and what it needs."""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

if not __package__:  # run by its path, as `python path/to/bench`
    sys.path[0] = str(Path(__file__).resolve().parents[1])


class Tests(NamedTuple):
    """A measurement by a file of tests, with the pytest options for more cases than the suite runs."""

    path: str
    all_cases: str
    record: str


class Measurement(NamedTuple):
    """What `--help` says about a measurement, whose module in `bench` has its name unless tests measure it.

    Attributes:
        asks: the question that it answers.
        takes: roughly how long, on 2 cores.
        writes: the file in `bench/results`.
        needs: what it needs besides `pip install -e '.[test]'`.
        tests: the tests that measure it, if any.
    """

    asks: str
    takes: str
    writes: str
    needs: str = ""
    tests: Tests | None = None


SETS = "--data"
MEASUREMENTS = {
    "parity": Measurement(
        "How far are losses, gradients and whole runs from PyTorch's?",
        "10 min",
        "parity.csv",
        tests=Tests("tests/test_parity.py", "--all-seeds", "--record-parity"),
    ),
    "notebook": Measurement(
        "Where do the notebook's printed losses stand among 200 seeds?", "3 min", "notebook.csv"
    ),
    "speed": Measurement(
        "How fast is training, against PyTorch and the machine's limit?", "30 min", "speed-cpu.csv, .png"
    ),
    "predict": Measurement("How exact and fast are an ensemble's intervals?", "4 min", "predict-cpu.csv"),
    "coverage": Measurement(
        "What do 95 % intervals cover where the truth is known?", "2 min", "coverage.csv"
    ),
    "losses": Measurement("How good are mean and error bar under each loss?", "15 min", "losses.csv", SETS),
    "uci": Measurement(
        "How good is the estimator, against what one would pick instead?",
        "20 min",
        "uci.csv",
        f"{SETS}, rivals",
    ),
    "tables": Measurement(
        "How good is it on tables with text, dates and gaps, beside others?",
        "2 h",
        "tables.csv",
        f"{SETS}, rivals",
    ),
    "columns": Measurement("How does the command take each column of tables?", "10 min", "columns.csv", SETS),
    "ablation": Measurement(
        "What is each ingredient of the estimator worth?", "30 min", "ablation.csv", SETS
    ),
    "faults": Measurement(
        "What is lost when a run, a save or a disk fails?", "20 min", "faults.csv", "Linux, root"
    ),
    "inputs": Measurement(
        "Does any input end in right numbers or in one clear error?",
        "30 min",
        "inputs.csv",
        tests=Tests("tests/test_properties.py", "--hypothesis-profile=long", "--record-properties"),
    ),
    "gpu": Measurement(
        "What does a GPU give, beside PyTorch and its own limits?", "8 min", "gpu.csv, .png", "a GPU"
    ),
    "scale": Measurement(
        "What do rows on disk and several processes cost?", "30 min", "scale.csv", "Linux, 2 GB disk"
    ),
}
HELP = f"""\
{"WHAT":10}{"takes":8}{"needs":18}{"writes":21}asks
{{lines}}
{"readme":10}{"1 s":8}{"":18}{"":21}Makes the tables in README.md and docs/benchmarks anew from bench/results.

Times are rough, on 2 cores. Results are written to bench/results, and not with --quick.
{SETS} is a folder of data sets: NAME.txt with a line of names, then numbers, the target last; or folders with
data.txt, index_features.txt, index_target.txt and n_splits.txt. Without it, losses takes made-up data alone.
For tables and columns it's a folder with tables.json, or such a file, as bench/tables.py describes.
bench/rivals.txt says how to install the rivals, rivals-tables.txt one more for tables; what isn't there is
left out.
Without root, faults leaves out disks that are full or read-only.
"""


def main() -> None:
    """Run one measurement, or make the tables of README and docs anew."""
    lines = (f"{name:10}{m.takes:8}{m.needs:18}{m.writes:21}{m.asks}" for name, m in MEASUREMENTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        epilog=HELP.format(lines="\n".join(lines)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=[*MEASUREMENTS, "readme"], metavar="WHAT", help="see below")
    parser.add_argument("--quick", action="store_true", help="a few cases in about a minute; nothing is kept")
    with_data = [name for name, measurement in MEASUREMENTS.items() if SETS in measurement.needs]
    parser.add_argument(
        SETS,
        type=Path,
        action="append",
        metavar="FOLDER",
        help=f"data sets for {', '.join(with_data)}; may be given several times",
    )
    parser.add_argument("--minutes", type=float, default=8, help="how long gpu may take (default 8)")
    parser.add_argument("--cpu", action="store_true", help="gpu without a GPU: every part at its smallest")
    parser.add_argument("--parts", default="", help="some parts of gpu, as 3,4; the others' rows are kept")
    parser.add_argument("--folds", type=int, default=5, help="how many folds of each table (default 5)")
    parser.add_argument("--again", action="store_true", help="tables: measure what bench/results has, too")
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME",
        help="tables: this method; may be given again",
    )
    args = parser.parse_args()
    if not args.data and (
        args.what in ("uci", "ablation", "columns") or args.what == "tables" and not args.quick
    ):
        parser.error(f"{args.what} needs {SETS} FOLDER")
    readme = importlib.import_module("bench.readme")
    if args.what == "readme":
        readme.main()
    elif tests := MEASUREMENTS[args.what].tests:
        options = [] if args.quick else [tests.all_cases, tests.record, readme.RESULTS / f"{args.what}.csv"]
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "", tests.path, *options]
        sys.exit(subprocess.run(command, cwd=readme.ROOT).returncode)
    else:
        settings = {"folders": args.data} if args.what in with_data else {}
        if args.what == "gpu":
            settings = {
                "minutes": args.minutes,
                "cpu": args.cpu,
                "parts": args.parts.split(",") * bool(args.parts),
            }
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too
        if args.what == "tables":
            settings |= {"folds": args.folds, "again": args.again, "names": args.method}
        measure = importlib.import_module(f"bench.{args.what}").main
        measure(quick=args.quick, out=readme.RESULTS, **settings)


if __name__ == "__main__":
    main()
