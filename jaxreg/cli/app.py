"""The `jaxreg` command: its names and options. What each command does is imported when it runs."""

import glob
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import jaxreg
from jaxreg.cli import ending
from jaxreg.cli.console import as_utf8, say
from jaxreg.cli.options import number as as_number
from jaxreg.cli.options import said_with_start, with_form, with_settings
from jaxreg.settings import EnsembleSettings, check_settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Regression networks that say how sure they are.",
)

HELP_WIDTH = 80  # narrower columns would cut names of options
START_SECONDS = 40  # as `hosts.START_SECONDS`, which isn't loaded here

ROWS_HELP = (
    "CSV, Parquet or Excel file, a folder of them, a pattern such as 'folder/*.parquet', or - for "
    "standard input"
)
NoCache = Annotated[
    bool,
    typer.Option("--no-cache", envvar="JAXREG_NO_CACHE", help="Don't keep compiled programs between runs."),
]
Read = Annotated[
    Literal["auto", "whole", "stream"],
    typer.Option(help="All rows at once, or as they are needed; auto goes by the machine's memory."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of data, weights and the order of rows.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but warnings and errors.")]
Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON object on standard output, errors too."),
]
Model = Annotated[Path, typer.Argument(help="Model file, from jaxreg fit.")]


def main() -> None:
    """Run the command; bad input ends with one line and exit code 2."""
    if shutil.get_terminal_size().columns < HELP_WIDTH:
        os.environ.setdefault("TERMINAL_WIDTH", str(HELP_WIDTH))  # which Typer reads
    # Typer draws a box around what is wrong with options, where no JSON is asked for.
    ending.run(lambda: sys.exit(app(standalone_mode=not ending.wants_json())))


def _say_version(asked: bool) -> bool:
    if asked:
        say(f"jaxreg {jaxreg.__version__}")
        raise typer.Exit
    return asked


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", help="Say which version this is.", is_eager=True, callback=_say_version),
    ] = False,
) -> None:
    """Options of the command as a whole."""


def check_there(*files: Path, model: Path | None = None) -> None:
    """Raise for a file that isn't there, before anything that takes time is loaded."""
    if model is not None and not model.exists():
        raise FileNotFoundError(f"there is no model file {model}")
    for file in files:
        if str(file) != "-" and not (file.exists() or glob.has_magic(str(file))):
            raise FileNotFoundError(f"there is no file {file}")


@app.command()
def demo(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the pictures and tables.")] = Path(
        "jaxreg-demo"
    ),
    seed: Seed = 0,
    epochs: Annotated[int, typer.Option(help="Epochs of the first model; the second takes 300.")] = 800,
    data: Annotated[
        Path | None, typer.Option(help="CSV or Parquet file to use instead of made-up data.")
    ] = None,
    x: Annotated[
        str | None, typer.Option(help="Column of the file to predict from.", callback=as_utf8)
    ] = None,
    y: Annotated[str | None, typer.Option(help="Column of the file to predict.", callback=as_utf8)] = None,
    x_test: Annotated[
        Path | None, typer.Option(help="File with rows of x to predict instead of a grid.")
    ] = None,
    no_cache: NoCache = False,
) -> None:
    """Train a heteroscedastic and a homoscedastic network on one feature, and draw both."""
    if epochs < 1:
        raise ValueError(f"--epochs must be at least 1, got {epochs}")
    if (
        (data is None) != (x is None)
        or (data is None) != (y is None)
        or (data is None and x_test is not None)
    ):
        raise ValueError("--data FILE needs --x COLUMN and --y COLUMN, and --x-test needs all three")
    check_there(*(file for file in (data, x_test) if file is not None))
    from jaxreg.cli import demo

    _use_cache(no_cache)
    demo.run(out_dir, seed, epochs, demo.Columns(data, x, y, x_test) if data is not None else None)


@app.command("fit")
@with_form
@with_settings
def fit_command(
    context: Any,
    file: Annotated[Path, typer.Argument(help=f"{ROWS_HELP}; one row for each observation.")],
    out_file: Annotated[Path, typer.Option("--out", help="Model file to write.")],
    target: Annotated[
        list[str] | None,
        typer.Option(help="Column to predict; not needed with --from.", callback=as_utf8),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Model to go on from with these rows, new ones and best the old ones with them."
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(help="Columns to leave out: a, or a,b,c; may be given several times.", callback=as_utf8),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(help="Columns to take as categories, numbers among them; likewise.", callback=as_utf8),
    ] = None,
    number: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns to take as numbers, other text in them as missing; likewise.", callback=as_utf8
        ),
    ] = None,
    test_fraction: Annotated[
        float, typer.Option(help="Share of the rows kept from training, to score the model on.")
    ] = 0.1,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Report on the test rows to write, .html or .pdf.")
    ] = None,
    read: Read = "auto",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints, so that a stopped run can be resumed.")
    ] = None,
    checkpoint_every: Annotated[
        float | None,
        typer.Option(help="Epochs between two checkpoints: 20 by default, 0.1 if rows are streamed."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Be one of the processes of a SLURM, MPI or Kubernetes job.")
    ] = False,
    coordinator: Annotated[
        str | None, typer.Option(help="HOST:PORT of process 0, where JAX can't find the job by itself.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Number of processes.")] = None,
    wait: Annotated[
        int, typer.Option(min=1, help="Seconds to wait for all processes to start.")
    ] = START_SECONDS,
    process: Annotated[int | None, typer.Option(min=0, help="Which one this is, from 0.")] = None,
    own_files: Annotated[
        bool,
        typer.Option("--own-files", help="Each process's members learn from its share of the files alone."),
    ] = False,
    split_rows: Annotated[str | None, typer.Option(hidden=True)] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
    no_cache: NoCache = False,
    *,
    form: dict[str, Any],
    **settings: Any,
) -> None:
    """Train an ensemble on the columns of a file, or of many, and keep it in a model file."""
    distributed = distributed or any(given is not None for given in (coordinator, processes, process))
    if split_rows is not None:
        raise ValueError(
            "--split-rows is gone, batches aren't split over processes any more: members are distributed "
            "over them, and with --own-files those of each process learn from its share of the files"
        )
    start_with = said_with_start(context, settings) if start is not None else None
    target = target or []
    if start is None and not target:
        raise ValueError("--target is missing: it names the column to predict")
    if len(target) > 1:
        raise ValueError(
            f"--target is given {len(target)} times, the command predicts one column: several targets are "
            "for Python, DeepEnsembleRegressor().fit(x, y) with y of shape (n, d)"
        )
    numbers = {name: as_number(value) for name, value in settings.items()}
    check_settings(EnsembleSettings(**numbers))
    if start_with is not None:
        numbers = {name: numbers[name] for name in start_with}
    if own_files and not distributed:
        raise ValueError("--own-files parts the files of a run of several processes: give --distributed too")
    if not distributed:  # where all processes have to say so together
        check_there(file, model=start)
    if resume and checkpoint is None:
        raise ValueError("--resume goes on from a checkpoint: name its folder with --checkpoint")
    if not 0 <= test_fraction < 1:
        raise ValueError(f"--test-fraction must be from 0 up to 1, got {test_fraction}")
    if checkpoint_every is not None and not 0 < checkpoint_every < math.inf:
        raise ValueError(f"--checkpoint-every must be a positive number of epochs, got {checkpoint_every}")
    if distributed and read == "whole":
        raise ValueError("the processes of a run read rows as they are needed: leave --read whole out")
    from jaxreg.cli import fit
    from jaxreg.tables import Form

    _use_cache(no_cache)
    cluster = fit.Cluster(coordinator, processes, process, wait, own_files) if distributed else None
    kept = fit.Kept(checkpoint, checkpoint_every, resume)
    said = {"--drop": drop, "--category": category, "--number": number}
    columns = {option: tuple(given or ()) for option, given in said.items()}
    asked = fit.Asked(
        file,
        target[0] if target else None,
        columns,
        Form(**form),
        read,
        test_fraction,
        seed,
        out_file,
        report_file,
        start,
    )
    fit.run(asked, kept, cluster, numbers, fit.Talk(quiet, as_json))


@app.command("predict")
@with_form
def predict_command(
    model: Model,
    file: Annotated[Path, typer.Argument(help=f"{ROWS_HELP}, with the columns the model was trained on.")],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="CSV or Parquet file to write; by default standard output.")
    ] = None,
    level: Annotated[float, typer.Option(help="Share of the probability between lower and upper.")] = 0.95,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Columns to copy into the predictions: a, or a,b,c; may be given several times."),
    ] = None,
    read: Read = "auto",
    no_cache: NoCache = False,
    *,
    form: dict[str, Any],
) -> None:
    """Predict each row of a file, or of many: mean, std, lower and upper, in the target's units."""
    check_there(file, model=model)
    from jaxreg.cli import predict
    from jaxreg.tables import Form

    _use_cache(no_cache)
    predict.run(model, file, out_file, level=level, keep=keep or [], how=read, form=Form(**form))


@app.command("evaluate")
@with_form
def evaluate_command(
    model: Model,
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV, Parquet or Excel file with the model's columns and its target, or - for standard "
            "input."
        ),
    ],
    level: Annotated[float, typer.Option(help="Share of the probability inside the intervals.")] = 0.95,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Page with scores and pictures to write, .html or .pdf.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns whose groups are scored by coverage: a, or a,b,c; may be given several times.",
            callback=as_utf8,
        ),
    ] = None,
    importance: Annotated[
        bool,
        typer.Option("--importance", help="Say what carries the prediction and its std, column by column."),
    ] = False,
    as_json: Json = False,
    no_cache: NoCache = False,
    *,
    form: dict[str, Any],
) -> None:
    """Score a model on rows with a known target; use rows that it wasn't trained on."""
    check_there(file, model=model)
    from jaxreg.cli import evaluate
    from jaxreg.tables import Form

    _use_cache(no_cache)
    evaluate.run(
        model,
        file,
        level=level,
        report_file=report_file,
        as_json=as_json,
        form=Form(**form),
        by=by or (),
        importance=importance,
    )


@app.command("info")
def info_command(model: Model, as_json: Json = False) -> None:
    """Check that a model file is undamaged, and show its settings, columns and scores."""
    check_there(model=model)
    from jaxreg.cli import info

    info.run(model, as_json=as_json)


@app.command("export")
def export_command(
    model: Model,
    out_file: Annotated[Path, typer.Option("--out", help="File to write.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write an ONNX graph instead.")] = False,
    levels: Annotated[
        str | None, typer.Option(help="Of the quantiles in the ONNX graph: a,b,c; by default 0.025 to 0.975.")
    ] = None,
) -> None:
    """Write a model as one function for CPU, CUDA and TPU that runs with JAX alone (examples/serve.py)."""
    check_there(model=model)
    if (levels is not None or out_file.suffix == ".onnx") and not onnx:
        raise ValueError("--levels and a file called .onnx are for --onnx: give that too")
    from jaxreg.cli import export

    export.run(model, out_file, onnx=onnx, levels=levels)


def _use_cache(no_cache: bool) -> None:
    if not no_cache:
        jaxreg.use_cache()
