"""`jaxreg fit`: an ensemble trained on the rows of files, scored on some of them, kept in a model file."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.table import Table

from jaxreg import hosts, report
from jaxreg.cli import aborts
from jaxreg.cli.console import err, note, out, say, show
from jaxreg.cli.ending import leave
from jaxreg.cli.inputs import (
    FEWEST_TEST_ROWS,
    Rows,
    check_same_job,
    is_streamed,
    rows_in_memory,
    split_names,
    streamed_rows,
)
from jaxreg.cli.json_output import print_json, scores_of
from jaxreg.cli.outputs import check_output, only_numbers, trivial, written_as_before
from jaxreg.cli.standard_input import as_file, called
from jaxreg.data import HeldOut, Scaler
from jaxreg.estimator import DeepEnsembleRegressor
from jaxreg.going_on import check_goes_on
from jaxreg.machine import unused_gpu
from jaxreg.metrics import evaluate
from jaxreg.model import model_file
from jaxreg.model.checkpoints import Checkpoint, Interrupted, StopOnSignal
from jaxreg.model.fitted import Fitted
from jaxreg.model.header import read_header
from jaxreg.plain import counted, did_you_mean, listed, warn
from jaxreg.progress import can_draw, shown
from jaxreg.tables import Form, decimal_of, find, from_files, names_of, plain
from jaxreg.training import Hook
from jaxreg.training.members import computed_on

SCORES_KEPT = "rmse", "nll", "crps", "coverage"
# Options that say what columns are, as the estimator has them.
SETTINGS = {"--category": "categories", "--number": "numbers"}
# Epochs between two checkpoints.
EVERY, EVERY_STREAMED = 20, 0.1


class Known(NamedTuple):
    """What a model that training goes on from says of rows: its columns, and those kept to score it on."""

    features: tuple[str, ...]
    held_out: HeldOut | None


class Asked(NamedTuple):
    """What is trained on, and where the results go.

    Attributes:
        columns: what each option says of them.
        start: a model file to go on from, which knows the target.
        known: what that says of the rows.
    """

    file: Path
    target: str | None
    columns: dict[str, tuple[str, ...]]
    form: Form
    how: str
    test_fraction: float
    seed: int
    out_file: Path
    report_file: Path | None
    start: Path | None = None
    known: Known | None = None


class Kept(NamedTuple):
    """Where a run is kept, how often, and whether it goes on from there."""

    folder: Path | None
    every: float | None
    resume: bool


class Cluster(NamedTuple):
    """A run of several processes, of which this is one."""

    coordinator: str | None
    processes: int | None
    process: int | None
    wait: int
    own_files: bool


class Talk(NamedTuple):
    """Whether the command says nothing but warnings, or prints JSON."""

    quiet: bool
    as_json: bool


def run(asked: Asked, kept: Kept, cluster: Cluster | None, settings: dict[str, Any], talk: Talk) -> None:
    """Train, score, and write."""
    if cluster is not None:
        aborts.take_over(hosts.cannot_begin(cluster.coordinator, cluster.processes, cluster.wait))
        hosts.start(cluster.coordinator, cluster.processes, cluster.process, timeout=cluster.wait)
        aborts.take_over(None)
    first = jax.process_index() == 0 if cluster is not None else True  # the first process writes and talks
    out.quiet = talk.quiet or talk.as_json or not first
    start = None if asked.start is None else DeepEnsembleRegressor.load(asked.start)
    if start is not None:
        check_goes_on(start.set_params(**settings), start.fitted_)
        asked = as_trained(asked, start.fitted_)
        if cluster is not None and asked.how == "whole":
            raise ValueError(f"{asked.start} was trained with --read whole, which a run of processes isn't")
    tried = "auto" in (settings.get("frequency_scale"), settings.get("noise"))
    stages = Stages(2 + tried, silent=talk.quiet or not first)
    rows, said = read_rows(asked, kept, cluster, settings, stages)
    settings = settings | said
    if len(rows.test[0]) < FEWEST_TEST_ROWS and asked.report_file is not None:
        raise ValueError(
            f"--report needs at least {FEWEST_TEST_ROWS} rows to score the model on: "
            f"{counted(rows.total, 'row')} and a --test-fraction of {asked.test_fraction} leave too few"
        )
    streamed = len(rows.train) == 1
    ensemble = start or DeepEnsembleRegressor(random_state=asked.seed)
    ensemble.set_params(**settings, warm_start=start is not None)
    train(rows, ensemble, checkpoint_of(kept, settings, asked.start, streamed), stages)
    if not first:
        return
    types = dict(zip(ensemble.feature_names_in_, rows.dtypes, strict=False))
    fitted = ensemble.fitted_
    types = tuple(map(types.get, fitted.feature_names))
    written = {} if rows.decimal is None else {"decimal": rows.decimal}
    written |= {"test_fraction": asked.test_fraction, "read": "stream" if streamed else "whole"}
    written |= {} if rows.held_out is None else {"test_rows": rows.held_out._asdict()}
    settings = (fitted.settings or {}) | written
    fitted = fitted._replace(feature_dtypes=types, target_dtypes=rows.dtypes[-1:], settings=settings)
    x, y = rows.test
    section = None
    if len(y):
        prediction = fitted.predict(x)
        result = evaluate(prediction, y, baseline=trivial(fitted.y_scaler, 0))
        test_scores = {f"test_{name}": float(result[name]) for name in SCORES_KEPT}
        fitted = fitted._replace(scores=fitted.scores | {"test_rows": len(y)} | test_scores)
        features = fitted.feature_names
        feature = only_numbers(x)
        section = report.Section(asked.target, prediction, y, result, feature, features[0])
    model_file.save(asked.out_file, fitted)
    if section is not None and asked.report_file is not None:
        rows_of = f"{counted(len(y), 'row')} of {called(Path(asked.file.name))}"
        about = f"{rows_of} that {asked.out_file.name} wasn't trained on"
        title = f"How well {asked.target} is predicted"
        report.write(asked.report_file, [section], title=title, about=about)
    if talk.as_json:
        print_json(described(asked, rows, ensemble, fitted, section))
    else:
        tell(asked, rows, ensemble, section)


def as_trained(asked: Asked, fitted: Fitted) -> Asked:
    """The same with what a model that training goes on from says itself."""
    if fitted.target_names is None or fitted.feature_names is None or isinstance(fitted.x_scaler, Scaler):
        raise ValueError(f"{asked.start} doesn't say how columns are taken: partial_fit in Python goes on")
    if asked.target not in (None, *fitted.target_names):
        known = listed(fitted.target_names)
        raise ValueError(f"--target {asked.target}: {asked.start} predicts {known}; leave --target out")
    if len(fitted.target_names) > 1:
        raise ValueError(f"{asked.start} predicts several columns: partial_fit in Python goes on with it")
    said, seed = fitted.settings or {}, (fitted.settings or {}).get("random_state")
    kept, read = said.get("test_rows"), said.get("read")
    if read is not None and asked.how not in ("auto", read):
        trained = f"{asked.start} was trained with --read {read}"
        raise ValueError(f"--read {asked.how}: {trained}, which knows its test rows; leave --read out")
    if "test_fraction" not in said:
        unknown = f"{asked.start} doesn't say which rows it wasn't trained on"
        warn(f"{unknown}: it is scored on none, jaxreg evaluate scores it on others")
    return asked._replace(
        target=fitted.target_names[0],
        form=written_as_before(asked.form, fitted),
        how=read or asked.how,
        test_fraction=said.get("test_fraction", 0.0),
        seed=seed if isinstance(seed, int) else said["seed"],
        known=Known(
            tuple(kind.name for kind in fitted.x_scaler.kinds), None if kept is None else HeldOut.of(kept)
        ),
    )


def not_in_model(features: Sequence[str], target: str, names: Sequence[str], path: Path) -> list[str]:
    """Columns of a file that a model doesn't have, which is said.

    Raises:
        ValueError: names columns of the model that the file doesn't have.
    """
    if missing := [name for name in (*features, target) if name not in set(names)]:
        raise ValueError(
            f"{path} has no {listed(missing)}, which the model has: it has {listed(names)}"
            f"{did_you_mean(missing[0], names)}"
        )
    if more := [name for name in names if name not in {*features, target}]:
        warn(f"left out, because the model doesn't have them: {listed(more)}")
    return more


def read_rows(
    asked: Asked, kept: Kept, cluster: Cluster | None, settings: dict[str, Any], stages: "Stages"
) -> tuple[Rows, dict[str, list[str]]]:
    """The rows to train on and to score on, once the files are found to be right; and what columns are."""
    with hosts.checked_by_all():
        paths = find(as_file(asked.file))
        if jax.process_index() == 0:
            for path, others in ((asked.out_file, paths), (asked.report_file, [*paths, asked.out_file])):
                for given in others if path is not None else ():
                    check_output(path, given, kept.folder)
        paths, form = plain(paths, asked.form), asked.form.of_values
        form = form._replace(decimal=form.decimal or decimal_of(paths, form))
        names = names_of(paths[0])
        said = {what: split_names(what, given, names, paths[0]) for what, given in asked.columns.items()}
        for what, given in said.items():
            if asked.target in given:
                means = "leaves out the target" if what == "--drop" else "is the target, which is a number"
                raise ValueError(f"{what} {asked.target} {means}: name another column")
        drop, known = said.pop("--drop"), asked.known
        if known is not None:
            drop = not_in_model(known.features, asked.target, names, paths[0])
    if asked.report_file is not None:
        report.check_suffix(asked.report_file)
    said = {SETTINGS[what]: given for what, given in said.items() if given}
    stages.reading(asked.file)
    if cluster is None and not is_streamed(paths, asked.how):
        of_model = {} if known is None else known._asdict()
        rows = rows_in_memory(
            paths, asked.target, drop, asked.test_fraction, asked.seed, form=form, **of_model
        )
        return rows._replace(decimal=form.decimal), said
    with hosts.checked_by_all():
        files = from_files(paths, target=asked.target, drop=drop, any_kind=True, form=form)
    if cluster is not None:
        given = {"seed": asked.seed, "test_fraction": asked.test_fraction, "resume": kept.resume}
        given |= {"own_files": cluster.own_files, "checkpoint": kept.folder is not None}
        given |= {"from": None if asked.start is None else read_header(asked.start).sha256}
        check_same_job(files, given | {"checkpoint_every": kept.every, "settings": settings | said})
        files = replace(files, own_share=cluster.own_files)
    rows = streamed_rows(files, said if known is None else None, asked.test_fraction, asked.seed)
    return rows._replace(decimal=form.decimal), {}


def checkpoint_of(
    kept: Kept, settings: dict[str, Any], start: Path | None, streamed: bool
) -> list[Checkpoint]:
    """The hook that keeps the run, where that is asked for."""
    if kept.folder is None:
        return []
    options = {setting: option for option, setting in SETTINGS.items()}
    about = {options.get(name, f"--{name.replace('_', '-')}"): value for name, value in settings.items()}
    about |= {} if start is None else {"--from": str(start)}
    every = kept.every or (EVERY_STREAMED if streamed else EVERY)
    hook = Checkpoint(kept.folder, every, resume=kept.resume, about=about)
    with hosts.checked_by_all():
        hook.check()
    return [hook]


def train(
    rows: Rows, ensemble: DeepEnsembleRegressor, checkpoints: list[Checkpoint], stages: "Stages"
) -> None:
    """Train the ensemble; a signal ends that in good order."""
    if missed := unused_gpu(jax.default_backend()):
        note("note", missed, "yellow")
    with StopOnSignal() as stop:
        hooks: list[Hook] = [*stages.hooks(), *checkpoints, stop]
        try:
            ensemble.set_params(hooks=hooks).fit(*rows.train)
        except Interrupted as error:
            ended = "nothing was kept, which --checkpoint FOLDER would have done"
            for hook in checkpoints:
                ended = f"the run is kept in {hook.folder}: the same command and --resume go on from there"
            note("stopped", f"{error}; {ended}", "yellow")
            leave(128 + error.signal)


class Stages:
    """Says which stage of how many the command is at: by a bar on a terminal, else in lines."""

    def __init__(self, count: int, *, silent: bool):
        self.count, self.silent = count, silent

    def reading(self, file: Path) -> None:
        """Say that the first stage begins, which is too short for a bar."""
        if not self.silent and not can_draw(err):
            err.print(f"1 of {self.count}: reading {called(file)}", soft_wrap=True)

    def hooks(self) -> list[Hook]:
        """What shows how far the training is."""
        if self.silent:
            return []
        names = f"{self.count} of {self.count}: training", f"2 of {self.count}: trying out settings"
        return [shown(err, *names)]


def tell(asked: Asked, rows: Rows, ensemble: DeepEnsembleRegressor, section: report.Section | None) -> None:
    """Print what was trained, how good it is, and where it is."""
    fitted = ensemble.fitted_
    title = f"{asked.target} from {counted(len(fitted.feature_names), 'column')}"
    scored = 0 if section is None else len(section.y)
    summary = Table(title=title, title_justify="left", show_header=False)
    summary.add_row("training rows", f"{rows.total - scored:,}")
    summary.add_row("networks", f"{fitted.members}")
    summary.add_row("trained on", computed_on())
    if ensemble.bounds_ is not None:
        ends = zip(("at least", "at most"), ensemble.bounds_, strict=True)
        said = (f"{word} {end:g}" for word, end in ends if math.isfinite(end))
        summary.add_row("every prediction is", " and ".join(said))
    summary.add_row("epochs, the longest", f"{ensemble.n_iter_} of {fitted.settings['epochs']}")
    show(summary)
    if section is not None:
        out.print(f"{counted(scored, 'row')} that it wasn't trained on")
        show(report.score_table(section.scores, scored))
        if advice := report.verdict(section.scores, scored):
            say(advice)
        if asked.report_file is not None:
            say(f"the report is in {asked.report_file}")
    say(f"the model is in {asked.out_file}")


def described(
    asked: Asked,
    rows: Rows,
    ensemble: DeepEnsembleRegressor,
    fitted: Fitted,
    section: report.Section | None,
) -> dict[str, Any]:
    """The same for programs."""
    scored = 0 if section is None else len(section.y)
    found = {"model": asked.out_file, "target": asked.target, "features": fitted.feature_names}
    found |= {"training_rows": rows.total - scored, "test_rows": scored, "networks": fitted.members}
    found |= {
        "trained_on": computed_on(),
        "epochs": ensemble.n_iter_,
        "most_epochs": fitted.settings["epochs"],
        "report": asked.report_file,
    }
    if section is None:
        return found | {"scores": None, "advice": None}
    return found | {"scores": scores_of(section.scores), "advice": report.verdict(section.scores, scored)}
