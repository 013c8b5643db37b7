"""How far a run is, as hooks of `fit`: a bar on a terminal, lines elsewhere."""

import time

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxreg.plain import counted
from jaxreg.training import History, Hook, Job, Run


class Bar(Hook):
    """Shows the epoch, the loss and the time left while a run goes on, and goes away with it.

    Args:
        console: where to draw; by default standard error. Nothing is drawn where that is no terminal, or one
            that can't draw.
        description: stands before the bar.
        of_trial: stands before that of a run which prepares this one.

    `fit(..., hooks=[progress.Bar()])`.
    """

    def __init__(
        self, console: Console | None = None, description: str = "training", of_trial: str = "preparing"
    ):
        self.console = console or Console(stderr=True)
        self.description, self.of_trial = description, of_trial
        self.progress: Progress | None = None

    def begin(self, job: Job) -> None:
        """Take how many epochs there are, and how many batches an epoch has where that is to be seen."""
        self.per_epoch = job.settings.get("batches_per_epoch") or 1
        self.epochs = job.settings["epochs"]

    def restore(self, run: Run) -> Run:
        """Start the bar."""
        if not can_draw(self.console):
            return run
        self.progress = Progress(
            TextColumn(self.description),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[nll]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.task = self.progress.add_task(self.description, total=self.epochs, nll="compiling")
        self.progress.start()
        return run

    def after_chunk(self, run: Run, history: History) -> None:
        """Move the bar to the epoch that was reached; of several members the median is shown."""
        if self.progress is None:
            return
        done, nll = _reached(run, history, self.per_epoch)
        self.progress.update(self.task, completed=done, nll=f"nll {nll:.4f}" if nll == nll else "")

    def close(self) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.stop()

    def for_trial(self) -> "Bar":
        """A bar of its own for a run that prepares this one."""
        return Bar(self.console, self.of_trial)


class Lines(Hook):
    """Prints a line when a run begins, and one every 10 seconds: for logs, and wherever there is no terminal.

    Args:
        console: where to print; by default standard error.
        description: stands before each line.
        of_trial: stands before those of a run which prepares this one.
        seconds: from line to line.

    `fit(..., hooks=[progress.Lines()])`.
    """

    def __init__(
        self,
        console: Console | None = None,
        description: str = "training",
        of_trial: str = "preparing",
        seconds: float | int = 10,
    ):
        self.console = console or Console(stderr=True, highlight=False)
        self.description, self.of_trial, self.seconds = description, of_trial, seconds

    def begin(self, job: Job) -> None:
        """Say that the run begins."""
        self.per_epoch = job.settings.get("batches_per_epoch") or 1
        self.epochs = job.settings.get("epochs")
        self.began = self.said = time.monotonic()
        self.first: float | None = None
        self.console.print(f"{self.description}: at most {counted(self.epochs, 'epoch')}", soft_wrap=True)

    def after_chunk(self, run: Run, history: History) -> None:
        """Say how far it is, if that was 10 seconds ago."""
        now = time.monotonic()
        done, nll = _reached(run, history, self.per_epoch)
        if self.first is None:  # compiling, and what a checkpoint had, say nothing of the speed
            self.first, self.began = done, now
        elif now - self.said >= self.seconds and done > self.first:
            left = (now - self.began) / (done - self.first) * (self.epochs - done)
            self.said = now
            self.console.print(
                f"{self.description}: epoch {done:,.4g} of {self.epochs:,}, nll {nll:.4f}, "
                f"at most {left:,.0f} s left",
                soft_wrap=True,
            )

    def for_trial(self) -> "Lines":
        """Lines of its own for a run that prepares this one."""
        return Lines(self.console, self.of_trial, seconds=self.seconds)


def shown(console: Console | None = None, *names: str) -> Bar | Lines:
    """A bar on a terminal that can draw one, else lines; `names` are its descriptions."""
    console = console or Console(stderr=True, highlight=False)
    return Bar(console, *names) if can_draw(console) else Lines(console, *names)


def can_draw(console: Console) -> bool:
    """Whether it is a terminal that can draw a bar."""
    return console.is_terminal and not console.is_dumb_terminal


def _reached(run: Run, history: History, per_epoch: int) -> tuple[float, float]:
    """Epochs that are done, and the latest score; of several members the median."""
    epoch, batch = run.position
    series = history.loss if history.validation_nll is None else history.validation_nll
    latest = np.asarray(series[..., max(epoch - 1, 0)]).ravel()
    if epoch == 0 and batch:
        losses, weights = map(np.asarray, run.sums)
        latest = (losses / np.where(weights > 0, weights, np.nan)).ravel()
    finite = latest[np.isfinite(latest)]
    return epoch + batch / per_epoch, float(np.median(finite)) if finite.size else np.nan
