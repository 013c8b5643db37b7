"""The `jaxreg` command."""

import glob
import inspect
import io
import math
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import jax
import msgspec
import numpy as np
import polars as pl
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxreg import aborts, export, hosts, model_file, plots, report, sources, tables
from jaxreg.cache import use_cache
from jaxreg.checkpoints import LIBRARIES, Checkpoint, Interrupted, StopOnSignal
from jaxreg.checks import check_probability, check_varies
from jaxreg.data import Scaler, check_data, check_features, check_trainable, grid, sinusoid
from jaxreg.estimator import DeepEnsembleRegressor
from jaxreg.files import check_writable, replacing
from jaxreg.fitted import Fitted
from jaxreg.gaussian import Affine, Gaussian
from jaxreg.metrics import evaluate
from jaxreg.models import MeanOnlyRegressor, MeanVarRegressor
from jaxreg.progress import Bar
from jaxreg.settings import settings_of
from jaxreg.training import History, Hook, Run, fit, make_trainer, sgd

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Regression networks that say how sure they are.",
)


def visible(text: str) -> str:
    r"""The same text with escapes for what a terminal would obey, and for what no encoding has.

    >>> from jaxreg.cli import visible
    >>> print(visible("red \x1b[31m, half of a letter \udc80"))
    red \x1b[31m, half of a letter \udc80
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class Plain(Console):
    """Prints texts as they are, in tables too, but for what `visible` escapes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, emoji=False, markup=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Make of a string what is printed, line by line."""
        return super().render_str("\n".join(map(visible, text.split("\n"))), **settings)


out, err = Plain(), Plain(stderr=True)

# The notebook's settings, of its first and its second model.
NOTEBOOK_SGD = {"learning_rate": 5e-3, "momentum": 0.9, "weight_decay": 1e-4}
NOTEBOOK_BATCH = 64
NOTEBOOK_FULL_BATCH_EPOCHS = 300
NOTEBOOK_RANGE = (-3.5, 3.5)

FIT_TEST_FRACTION = 0.1
FIT_FEWEST_TEST = 2
FIT_FEWEST_TRAIN = 4
INFO_COLUMNS = 20
FIT_SCORES = ("rmse", "nll", "crps", "coverage")

PREDICTED = "mean", "std", "lower", "upper"
# Rows of files that aren't held in memory are kept from training by a seed of their own, at most so many.
MOST_TEST_ROWS = 2**16
TEST_TAG = 1
FIT_CHECKPOINT, STREAMED_CHECKPOINT = 20, 0.1
# Copies of a table that training in memory makes, about.
IN_MEMORY_COPIES = 10

# Settings of the estimator that aren't options of `jaxreg fit`, and types that typer reads itself.
NO_OPTIONS = "hidden", "random_state", "hooks"
TYPES = int, float, str, float | None

NoCache = Annotated[
    bool,
    typer.Option("--no-cache", envvar="JAXREG_NO_CACHE", help="Don't keep compiled programs between runs."),
]
ROWS_HELP = "CSV or Parquet file, a folder of them, or a pattern such as 'folder/*.parquet'"
Read = Annotated[
    Literal["auto", "whole", "stream"],
    typer.Option(help="All rows at once, or as they are needed; auto goes by the machine's memory."),
]


def as_utf8(given: str | list[str] | None) -> str | list[str] | None:
    """Names of columns as files have them, where the locale's encoding lacks their letters."""
    if isinstance(given, list):
        return [as_utf8(name) for name in given]
    if given is None or given.isprintable():
        return given
    try:
        return os.fsencode(given).decode()
    except UnicodeError:
        return given


Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of data, weights and the order of rows.")]


def main() -> None:
    """Run the command; bad input ends with one line and exit code 2."""
    _prepare_streams()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with warnings.catch_warnings():
            said = set()  # a table that is read twice is warned of once

            def warn(message: Warning | str, *_: Any) -> None:
                if str(message) not in said:
                    said.add(str(message))
                    _say("warning", message, "yellow")

            warnings.showwarning = warn
            _run()
    except BrokenPipeError:  # whoever reads has enough
        leave(1)
    except (ValueError, OSError, MemoryError, FloatingPointError, jax.errors.JaxRuntimeError) as error:
        lost = hosts.is_lost(error)
        if isinstance(error, jax.errors.JaxRuntimeError) and not lost:
            _raise_alone()
        _say("error", hosts.lost_message(f"{error}{aborts.written()}") if lost else error, "red")
        code = 2 if isinstance(error, ValueError | FileNotFoundError) else 1
        leave(hosts.LOST_CODE if lost else code)
    except SystemExit as ended:
        if ended.code:
            leave(ended.code)
        raise
    except Exception:
        if (fault := _platform_fault()) is None:
            _raise_alone()
        _say("error", fault, "red")
        leave(2)
    except BaseException:
        _raise_alone()
    finally:
        signal.signal(signal.SIGTERM, before)


def _prepare_streams() -> None:
    """Have any text be printed by any console, and nothing of ours go to where a stream was closed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open until the process ends
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run() -> None:
    """Run the command until all it printed is written."""
    try:
        app(standalone_mode=True)
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            # Python would try it again at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


def _platform_fault() -> str | None:
    """What keeps JAX from running on what JAX_PLATFORMS names, if anything does."""
    try:
        jax.devices()
    except Exception as error:
        asked = jax.config.jax_platforms
        return f"JAX can't run on JAX_PLATFORMS={asked}: unset it, or install jax for it ({error!r:.300})"
    return None


def _raise_alone() -> NoReturn:
    """Raise what is being handled; where others would wait for this process, print it and end."""
    if hosts.started():
        traceback.print_exc()
        hosts.leave(1)
    raise


def leave(code: int) -> None:
    """End the process; where others wait for it at their ends, at once."""
    if hosts.started():
        hosts.leave(code)
    sys.exit(code)


def _say(kind: str, message: Exception | str, style: str) -> None:
    """One line on standard error."""
    err.print(f"{kind}: {' '.join(str(message).split())}", style=style, soft_wrap=True)


def say(text: str) -> None:
    """One line on standard output."""
    out.print(text, soft_wrap=True)


class LogLines(Hook):
    """Prints the notebook's line every 100 epochs."""

    def __init__(self) -> None:
        self.printed = 0

    def after_chunk(self, run: Run, history: History) -> None:
        """Print the lines that have become due."""
        done = int(run.cursor[0])
        for epoch in range(self.printed + 100, done + 1, 100):
            out.print(f"epoch {epoch:4d} | nll: {history.loss[epoch - 1]:.4f}")
            self.printed = epoch


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
    if not no_cache:
        use_cache()
    check_positive("--epochs", epochs)
    if (
        (data is None) != (x is None)
        or (data is None) != (y is None)
        or (data is None and x_test is not None)
    ):
        raise ValueError("--data FILE needs --x COLUMN and --y COLUMN, and --x-test needs all three")
    data_key, *keys = jax.random.split(jax.random.key(seed), 3)
    if data is None:
        rows = check_data(sinusoid(data_key))
        points = np.linspace(*NOTEBOOK_RANGE, 400, dtype=np.float32)[:, None]
        x, y = "x", "y"
    else:
        rows = one_feature(data, x, y)
        points = grid(rows[0])
        if x_test is not None:
            points = check_features(tables.columns(x_test, [x]), dtype=np.float64)
    models = {
        "heteroscedastic": (MeanVarRegressor(), NOTEBOOK_BATCH, epochs),
        "homoscedastic": (MeanOnlyRegressor(), None, NOTEBOOK_FULL_BATCH_EPOCHS),
    }
    make_folder(out_dir)
    for name in (*(f"{name}.png" for name in models), "history.csv", "predictions.csv"):
        check_output(out_dir / name, data, x_test)

    history, predictions = [], []
    labels = plots.literal(x), plots.literal(y)
    # The notebook trains on its data as they are; a user's own come in any units and are standardised.
    scalers = [Scaler(np.zeros(1), np.ones(1)), Scaler(np.zeros(()), np.ones(()))]
    if data is not None:
        scalers = [Scaler.fit(rows[0], [x]), Scaler.fit(rows[1], [y])]
    scaled = tuple(s.transform(a).astype(np.float32) for s, a in zip(scalers, rows, strict=True))
    for key, (name, (model, batch_size, count)) in zip(keys, models.items(), strict=True):
        out.print(name)
        trainer = make_trainer(model, sgd(**NOTEBOOK_SGD))
        hooks = [Bar(err, name), LogLines()]
        state, report = fit(key, trainer, scaled, epochs=count, batch_size=batch_size, hooks=hooks)
        prediction = Fitted(model, state.params, *scalers).predict(points)
        history.append(pl.DataFrame({"model": name, "epoch": np.arange(1, count + 1), "nll": report.loss}))
        table = prediction_table(prediction, 0.95)
        predictions.append(table.select(pl.lit(name).alias("model"), pl.Series("x", points[:, 0]), pl.all()))
        ax = Figure(figsize=(8, 5), layout="constrained").subplots()
        title = f"{name.capitalize()} Gaussian NLL with SGD"
        plots.band(points, prediction, train=rows, title=title, labels=labels, ax=ax)
        with replacing(out_dir / f"{name}.png") as path:
            ax.figure.savefig(path, format="png", dpi=150)
    tables.write(pl.concat(history), out_dir / "history.csv")
    tables.write(pl.concat(predictions), out_dir / "predictions.csv")
    say(f"pictures and tables are in {out_dir}")


def with_settings(command: Callable) -> Callable:
    """A command whose `settings` become an option for each setting of the estimator."""
    own = inspect.signature(command)
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(DeepEnsembleRegressor, name),
            annotation=Annotated[
                setting.type if setting.type in TYPES else str, typer.Option(help=setting.description)
            ],
        )
        for name, setting in settings_of(DeepEnsembleRegressor).items()
        if name not in NO_OPTIONS
    ]
    kept = [parameter for name, parameter in own.parameters.items() if name != "settings"]
    command.__signature__ = own.replace(parameters=[*kept, *options])
    return command


@app.command("fit")
@with_settings
def fit_command(
    file: Annotated[Path, typer.Argument(help=f"{ROWS_HELP}, one row for each observation.")],
    target: Annotated[str, typer.Option(help="Column to predict.", callback=as_utf8)],
    out_file: Annotated[Path, typer.Option("--out", help="Model file to write.")],
    drop: Annotated[
        list[str] | None,
        typer.Option(help="Column to leave out; may be given several times.", callback=as_utf8),
    ] = None,
    test_fraction: Annotated[
        float, typer.Option(help="Share of the rows kept from training, to score the model on.")
    ] = FIT_TEST_FRACTION,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Page on these rows to write, .html or .pdf.")
    ] = None,
    read: Read = "auto",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder to keep the run in, so that it can go on after an end.")
    ] = None,
    checkpoint_every: Annotated[
        float | None,
        typer.Option(help="Epochs between two checkpoints, 20 by default; of rows that are streamed 0.1."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Be one of the processes of a SLURM, MPI or Kubernetes job.")
    ] = False,
    coordinator: Annotated[
        str | None, typer.Option(help="HOST:PORT of process 0, where JAX can't find the job by itself.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="How many there are.")] = None,
    wait: Annotated[
        int, typer.Option(min=1, help="Seconds in which all of them have to come.")
    ] = hosts.START_SECONDS,
    process: Annotated[int | None, typer.Option(min=0, help="Which one this is, from 0.")] = None,
    own_files: Annotated[
        bool,
        typer.Option("--own-files", help="Each process's members learn from its share of the files alone."),
    ] = False,
    split_rows: Annotated[str | None, typer.Option(hidden=True)] = None,
    seed: Seed = 0,
    no_cache: NoCache = False,
    **settings: Any,
) -> None:
    """Train an ensemble on the numeric columns of a file, or of many, and keep it in a model file."""
    if split_rows is not None:
        raise ValueError(
            "--split-rows is gone, batches aren't split over processes any more: members are dealt over "
            "them, and with --own-files those of each process learn from its share of the files"
        )
    if not no_cache:
        use_cache()
    distributed = distributed or any(given is not None for given in (coordinator, processes, process))
    if distributed:
        aborts.take_over(hosts.cannot_begin(coordinator, processes, wait))
        hosts.start(coordinator, processes, process, timeout=wait)
        aborts.take_over(None)
        out.quiet = jax.process_index() > 0
    elif own_files:
        raise ValueError("--own-files parts the files of a run of several processes: give --distributed too")
    with hosts.checked_by_all():
        paths = found(file)
        if not out.quiet:  # the first process writes
            for path, others in ((out_file, paths), (report_file, [*paths, out_file])):
                for given in others if path is not None else ():
                    check_output(path, given, checkpoint)
    if resume and checkpoint is None:
        raise ValueError("--resume goes on from a checkpoint: name its folder with --checkpoint")
    if not 0 <= test_fraction < 1:
        raise ValueError(f"--test-fraction must be from 0 up to 1, got {test_fraction}")
    if checkpoint_every is not None and not 0 < checkpoint_every < math.inf:
        raise ValueError(f"--checkpoint-every must be a positive number of epochs, got {checkpoint_every}")
    if report_file is not None:
        report.check_suffix(report_file)
    streamed = distributed or is_streamed(paths, read)
    if distributed:
        if read == "whole":
            raise ValueError("the processes of a run read rows as they are needed: leave --read whole out")
    if streamed:
        with hosts.checked_by_all():
            files = sources.from_files(file, target=target, drop=drop or [])
        if distributed:
            asked = {"seed": seed, "test_fraction": test_fraction, "resume": resume, "own_files": own_files}
            asked |= {"checkpoint": checkpoint is not None, "checkpoint_every": checkpoint_every}
            check_same_job(files, asked | {"settings": settings})
        rows = streamed_rows(replace(files, own_share=own_files), test_fraction, seed)
    else:
        rows = rows_in_memory(paths, target, drop or [], test_fraction, seed)
    if len(rows.test[0]) < FIT_FEWEST_TEST and report_file is not None:
        raise ValueError(
            f"--report needs at least {FIT_FEWEST_TEST} rows to score the model on: {rows.total:,} rows and "
            f"a --test-fraction of {test_fraction} leave too few"
        )
    numbers = {name: _number(value) for name, value in settings.items()}
    hooks: list[Hook] = [] if out.quiet else [Bar(err)]
    if checkpoint is not None:
        given = {f"--{name.replace('_', '-')}": value for name, value in numbers.items()}
        every = checkpoint_every or (STREAMED_CHECKPOINT if streamed else FIT_CHECKPOINT)
        hooks.append(Checkpoint(checkpoint, every, resume=resume, about=given))
        with hosts.checked_by_all():
            hooks[-1].check()
    with StopOnSignal() as stop:
        ensemble = DeepEnsembleRegressor(**numbers, random_state=seed, hooks=[*hooks, stop])
        try:
            ensemble.fit(*rows.train)
        except Interrupted as error:
            kept = "nothing was kept, which --checkpoint FOLDER would have done"
            if checkpoint is not None:
                kept = f"the run is kept in {checkpoint}: the same command and --resume go on from there"
            _say("stopped", f"{error}; {kept}", "yellow")
            leave(128 + error.signal)
    if distributed and jax.process_index() > 0:
        return
    fitted = ensemble.fitted_._replace(feature_dtypes=rows.dtypes[:-1], target_dtypes=rows.dtypes[-1:])
    x, y = rows.test
    if len(y):
        prediction = fitted.predict(x)
        result = evaluate(prediction, y, baseline=trivial(fitted.y_scaler, 0))
        own = {f"test_{name}": float(result[name]) for name in FIT_SCORES}
        fitted = fitted._replace(scores=fitted.scores | {"test_rows": len(y)} | own)
    model_file.save(out_file, fitted)

    features = fitted.feature_names
    title = f"{target} from {len(features)} columns"
    summary = Table(title=title, title_justify="left", show_header=False)
    summary.add_row("training rows", f"{rows.total - len(y):,}")
    summary.add_row("networks", f"{fitted.members}")
    summary.add_row("epochs, the longest", f"{ensemble.n_iter_} of {fitted.settings['epochs']}")
    out.print(summary)
    if len(y):
        out.print(f"{len(y):,} rows that it wasn't trained on")
        out.print(report.score_table(result))
        if advice := report.verdict(result, len(y)):
            say(advice)
        if report_file is not None:
            feature = x[:, 0] if len(features) == 1 else None
            section = report.Section(target, prediction, y, result, feature, features[0])
            about = f"{len(y):,} rows of {file.name} that {out_file.name} wasn't trained on"
            report.write(report_file, [section], title=f"How well {target} is predicted", about=about)
            say(f"the report is in {report_file}")
    say(f"the model is in {out_file}")


class Rows(NamedTuple):
    """What a command trains on.

    Attributes:
        train: what the estimator's `fit` is given.
        test: features and target of the rows to score it on, as they are in the file.
        total: rows in all.
        dtypes: of the columns, the target last.
    """

    train: tuple[Any, ...]
    test: tuple[np.ndarray, np.ndarray]
    total: int
    dtypes: tuple[str, ...]


def found(file: Path) -> list[Path]:
    """The files that an argument names."""
    if not (file.exists() or glob.has_magic(str(file))):
        raise FileNotFoundError(f"there is no file {file}")
    return sources.find(file)


def is_streamed(paths: list[Path], read: str) -> bool:
    """Whether rows are read as they are needed; where their size decides it, that is said."""
    if read != "auto":
        return read == "stream"
    size = sources.size(paths)
    streamed = size * IN_MEMORY_COPIES > tables.memory()
    if streamed:
        what = f"{len(paths):,} files hold" if len(paths) > 1 else f"{paths[0]} holds"
        text = (
            f"{what} {size / 1e9:.1f} GB of values: rows are read as they are needed (--read whole reads all)"
        )
        err.print(text, soft_wrap=True)
    return streamed


def rows_in_memory(paths: list[Path], target: str, drop: list[str], test_fraction: float, seed: int) -> Rows:
    """All rows of some files, a share of them to score the model on."""
    parts, features, dtypes = [], None, None
    for path in paths:
        table = tables.read(path, empty=len(paths) > 1)
        tables.check_columns(table, [target, *drop, *(features or ())], path)
        if features is None:
            left_out = {target, *drop, *sources.without_index(path, (target, *drop))}
            features = [name for name in table.columns if name not in left_out]
            if not features:
                raise ValueError(f"no column of {path} is left to predict {target!r} from")
            dtypes = tuple(str(table[name].dtype) for name in [*features, target])
        if len(table):
            parts.append(tables.numeric(table, [*features, target], path, droppable=features))
    if not parts:
        raise ValueError(f"{paths[0]} and {len(paths) - 1:,} more files have no rows")
    known = pl.concat(parts, how="vertical_relaxed")
    x, y = trainable(known, features, target)

    order = np.random.default_rng(seed).permutation(len(x))
    test, train = np.split(order, [round(test_fraction * len(x))])
    if len(train) < FIT_FEWEST_TRAIN:
        raise ValueError(
            f"a --test-fraction of {test_fraction} leaves {len(train)} of {len(x)} rows to train on, "
            f"at least {FIT_FEWEST_TRAIN} are needed"
        )
    if len(test) < FIT_FEWEST_TEST:
        test, train = order[:0], order
    constant = [name for name, column in zip(features, x[train].T, strict=True) if np.ptp(column) == 0]
    if constant:
        listed = ", ".join(map(repr, constant))
        warnings.warn(f"constant column {listed}: it tells nothing about the target", stacklevel=2)

    given = pl.DataFrame(x[train], schema=features), pl.Series(target, y[train])
    return Rows(given, (x[test], y[test]), len(x), dtypes)


def streamed_rows(files: sources.Files, test_fraction: float, seed: int) -> Rows:
    """The rows of some files, all but a few of them where they are."""
    files = replace(files, process=(jax.process_index(), jax.process_count()))
    units = files.scalers()  # first, because it counts what is wrong in all files
    most = min(round(test_fraction * files.rows), MOST_TEST_ROWS)
    test = np.zeros((0, len(files.features))), np.zeros(0)
    if most >= FIT_FEWEST_TEST:
        _, *test = files.take([seed, TEST_TAG], most)
        files = files.without([seed, TEST_TAG], most)
    files = replace(files, units=units)
    return Rows((files,), tuple(test), files.rows, files.types)


def check_same_job(files: sources.Files, given: dict[str, Any]) -> None:
    """Raise, on every process, unless all of them were given the same, and see the same files."""
    listed = {name: np.asarray(array).tolist() for name, array in files.describe().items()}
    about = {f"the version of {name}": metadata.version(name) for name in LIBRARIES}
    about |= {"the number of files": len({piece.path for piece in files.pieces})}
    about |= {"the number of rows": files.rows, "the columns": listed["columns"]}
    about |= {"the names and row groups of files": listed["files"]}
    about |= {"the number of devices": jax.local_device_count(), "jax_enable_x64": jax.config.jax_enable_x64}
    hosts.agree(about | {f"--{name.replace('_', '-')}": value for name, value in given.items()})


def _number(value: Any) -> Any:
    """A number that was given as text, or no number, where a word might have been."""
    if value == "None":
        return None
    for kind in (int, float):
        try:
            return kind(value) if isinstance(value, str) else value
        except ValueError:
            continue
    return value


@app.command("predict")
def predict_command(
    model: Annotated[Path, typer.Argument(help="Model file, from jaxreg fit.")],
    file: Annotated[Path, typer.Argument(help=f"{ROWS_HELP}, with the columns the model was trained on.")],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="CSV or Parquet file to write; by default standard output.")
    ] = None,
    level: Annotated[float, typer.Option(help="Share of the probability between lower and upper.")] = 0.95,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Column of the file to copy into the predictions; may be given several times."),
    ] = None,
    read: Read = "auto",
    no_cache: NoCache = False,
) -> None:
    """Predict each row of a file, or of many: mean, std, lower and upper, in the target's units."""
    keep = list(dict.fromkeys(keep or []))
    if taken := [name for name in keep if name in PREDICTED]:
        raise ValueError(f"--keep {taken[0]}: predictions have a column of that name, rename it in the file")
    if not no_cache:
        use_cache()
    check_probability("--level", level)
    paths = found(file)
    if out_file is not None:
        for given in paths:
            check_output(out_file, model, given)
        tables.check_suffix(out_file)
    fitted = model_file.load(model)
    if outputs := np.shape(fitted.y_scaler.loc):
        raise ValueError(
            f"{model} predicts {outputs[0]} targets, this command writes only one: use "
            "jaxreg.model_file.load in Python"
        )
    with sources.Writer(out_file) as writer:
        parts = rows_in_turn if is_streamed(paths, read) else whole_tables
        for rows, kept in as_inputs_fault(parts(paths, file, fitted, keep)):
            predicted = prediction_table(fitted.predict(rows), level)
            writer.write(pl.DataFrame([*kept.get_columns(), *predicted.get_columns()]))


def as_inputs_fault(parts: Iterator[Any]) -> Iterator[Any]:
    """The same parts, whose errors of the disk aren't taken for those of the file that is written."""
    try:
        yield from parts
    except OSError as error:
        raise ValueError(f"the rows can't be read: {error}") from error


def whole_tables(
    paths: list[Path], file: Path, fitted: Fitted, keep: list[str]
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """The tables of some files with numbers in what a model needs, and the columns to keep."""
    tables_read = 0
    for path in paths:
        text = set(keep) - set(fitted.feature_names or ())
        table = tables.read(path, text=text, empty=len(paths) > 1)
        tables.check_columns(table, keep, path)
        kept = table[keep] if keep else pl.DataFrame()
        if fitted.feature_names is None:
            dropped = {*keep, *sources.without_index(path, keep)}
            needed = [name for name in table.columns if name not in dropped]
        else:
            needed = fitted.feature_names
        if len(table):
            tables_read += 1
            # Columns the model doesn't know may hold anything; one it needs and lacks is named by predict.
            known = set(needed) <= set(table.columns)
            yield tables.numeric(table, needed, path) if known else table, kept
    if not tables_read:
        raise ValueError(f"{paths[0]} and {len(paths) - 1:,} more files have no rows")


def rows_in_turn(
    paths: list[Path], file: Path, fitted: Fitted, keep: list[str]
) -> Iterator[tuple[np.ndarray, pl.DataFrame]]:
    """Some rows at a time of what a model needs, and of the columns to keep, in the order of the files."""
    drop = keep if fitted.feature_names is None else ()
    files = sources.from_files(file, target=None, features=fitted.feature_names, drop=drop, keep=keep)
    for piece, (x, _) in zip(files.pieces, sources.ahead(map(files.read, files.pieces)), strict=True):
        kept = files.kept(piece) if keep else pl.DataFrame()
        for i in range(0, len(x), sources.GROUP_ROWS):
            yield x[i : i + sources.GROUP_ROWS], kept.slice(i, sources.GROUP_ROWS)


@app.command("evaluate")
def evaluate_command(
    model: Annotated[Path, typer.Argument(help="Model file, from jaxreg fit.")],
    file: Annotated[
        Path, typer.Argument(help="CSV or Parquet file with the columns and the target it was trained on.")
    ],
    level: Annotated[float, typer.Option(help="Share of the probability inside the intervals.")] = 0.95,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Page with scores and pictures to write, .html or .pdf.")
    ] = None,
    no_cache: NoCache = False,
) -> None:
    """Score a model on rows whose target is known, best ones it wasn't trained on."""
    if not no_cache:
        use_cache()
    check_probability("--level", level)
    if report_file is not None:
        report.check_suffix(report_file)
        check_output(report_file, model, file)
    fitted = model_file.load(model)
    if fitted.feature_names is None or fitted.target_names is None:
        raise ValueError(
            f"{model} doesn't say what its columns are called: use jaxreg.metrics.evaluate in Python"
        )
    table = tables.read(file)
    tables.check_columns(table, fitted.target_names, file)
    known = set(fitted.feature_names) <= set(table.columns)
    names = [*fitted.feature_names, *fitted.target_names]
    numbers = tables.numeric(table, names, file) if known else table
    prediction = fitted.predict(numbers)
    y = check_features(numbers[[*fitted.target_names]], "the target", dtype=np.float64)

    about = f"{len(y):,} rows of {file.name}, predicted by {model.name}"
    x = numbers[fitted.feature_names[0]].to_numpy() if len(fitted.feature_names) == 1 else None
    sections = []
    for i, name in enumerate(fitted.target_names):
        one = prediction if prediction.mean.ndim == 1 else prediction.output(i)
        result = evaluate(one, y[:, i], level=level, baseline=trivial(fitted.y_scaler, i))
        sections.append(report.Section(name, one, y[:, i], result, x, fitted.feature_names[0]))
        say(f"{name}: {about}")
        out.print(report.score_table(result))
        if advice := report.verdict(result, len(y)):
            say(advice)
    if report_file is not None:
        title = f"How well {', '.join(fitted.target_names)} is predicted"
        report.write(report_file, sections, title=title, about=about)
        say(f"the report is in {report_file}")


@app.command("info")
def info_command(
    model: Annotated[Path, typer.Argument(help="Model file, from jaxreg fit.")],
) -> None:
    """Show what a model file says of itself, once its content is found to be what was written."""
    header = model_file.read_header(model)
    shown = {"format": header.format, "network": header.model.kind}
    described = msgspec.to_builtins(header.model)
    shown |= {name: described[name] for name in described if name != "kind"}
    shown |= {"members": header.members or 1, "calibration": header.calibration or "none"}
    shown = {name: _in_words(value) for name, value in shown.items()}
    for what in ("feature", "target"):
        names, dtypes = (getattr(header, f"{what}_{part}") or () for part in ("names", "dtypes"))
        columns = [visible(" ".join(filter(None, column))) for column in zip_longest(names, dtypes)]
        more = [f"and {len(columns) - INFO_COLUMNS:,} more"] if len(columns) > INFO_COLUMNS else []
        shown[f"{what}s"] = "\n".join([*columns[:INFO_COLUMNS], *more])
    table = Table(title=f"{model}", title_justify="left", show_header=False)
    for name, value in shown.items():
        table.add_row(name, value)
    for title in ("settings", "scores", "versions"):
        table.add_section()
        table.add_row(Text(title, style="bold"), "")
        for name, value in (getattr(header, title) or {}).items():
            table.add_row(visible(name), _in_words(value))
    out.print(table)


@app.command("export")
def export_command(
    model: Annotated[Path, typer.Argument(help="Model file, from jaxreg fit.")],
    out_file: Annotated[Path, typer.Option("--out", help="File to write.")],
) -> None:
    """Write a model as one function for CPU, CUDA and TPU that runs with JAX alone (examples/serve.py)."""
    check_output(out_file, model)
    export.save(out_file, model_file.load(model))


def _in_words(value: Any) -> str:
    """A value of a header for the reader."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    return f"{value:.4g}" if isinstance(value, float) else visible(str(value))


def one_feature(path: Path, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a one-dimensional problem."""
    return trainable(tables.columns(path, [x, y] if x != y else [x]), [x], y)


def trainable(table: pl.DataFrame, features: list[str], target: str) -> tuple[np.ndarray, np.ndarray]:
    """Checked features and target of a table of numbers, or an error that names the column."""
    x = check_features(table[features], dtype=np.float64)
    y = check_features(table[[target]], "the target", dtype=np.float64)[:, 0]
    if len(y) > 1:
        check_varies(repr(target), float(y.min()), float(y.max()), len(y))
    check_trainable((x, y))
    return x, y


def prediction_table(prediction: Affine | Gaussian, level: float) -> pl.DataFrame:
    """Mean, standard deviation and interval as columns."""
    lower, upper = prediction.interval(level)
    return pl.DataFrame(dict(zip(PREDICTED, (prediction.mean, prediction.std, lower, upper), strict=True)))


def trivial(scaler: Scaler, i: int) -> tuple[float, float]:
    """Mean and standard deviation of one target in the training rows."""
    loc, scale = (float(np.ravel(a)[i]) for a in scaler)
    return loc, scale


def make_folder(path: Path) -> None:
    """Make a folder for results, or raise a message that names it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the folder {path} can't be made: {error.strerror}") from None


def check_output(path: Path, *inputs: Path | None) -> None:
    """Raise unless a result can be written to a path, and that path is none of the inputs."""
    check_writable(path)
    for given in inputs:
        if given is None:
            continue
        if path.resolve() == given.resolve() or (given.exists() and path.exists() and path.samefile(given)):
            raise ValueError(f"the result would replace {given}: choose another --out or --report")


def check_positive(name: str, value: int) -> None:
    """Raise unless a number is at least 1."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
