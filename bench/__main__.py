"""`python -m bench WHAT`; `python -m bench --help` lists what."""

import argparse
import subprocess
import sys
from pathlib import Path

from bench import ablation, coverage, faults, losses, notebook, predict, readme, scale, speed, uci
from bench.readme import RESULTS

MEASUREMENTS = {
    "notebook": notebook,
    "speed": speed,
    "predict": predict,
    "coverage": coverage,
    "losses": losses,
    "uci": uci,
    "ablation": ablation,
    "faults": faults,
    "scale": scale,
}
# Measurements that are tests, of which the suite takes fewer cases.
TESTS = {
    "parity": ["tests/test_parity.py", "--all-seeds", "--record-parity", str(RESULTS / "parity.csv")],
    "inputs": [
        "tests/test_properties.py",
        "--hypothesis-profile=long",
        "--record-properties",
        str(RESULTS / "inputs.csv"),
    ],
}
WITH_DATA = ("losses", "uci", "ablation")


def main() -> None:
    """Run one measurement, or make the README's tables anew."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("what", choices=[*MEASUREMENTS, *TESTS, "readme"])
    parser.add_argument("--quick", action="store_true", help="a few seeds in seconds; nothing is kept")
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        help=f"{', '.join(WITH_DATA)}: a folder of data sets; may be given several times",
    )
    args = parser.parse_args()
    if args.what in MEASUREMENTS:
        folders = {"folders": args.data} if args.what in WITH_DATA else {}
        MEASUREMENTS[args.what].main(quick=args.quick, out=RESULTS, **folders)
    elif args.what == "readme":
        readme.main()
    else:
        sys.exit(
            subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "", *TESTS[args.what]]
            ).returncode
        )


if __name__ == "__main__":
    main()
