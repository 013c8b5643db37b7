"""A progress bar, as a hook of `fit`."""

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxreg.training import History, Hook, Job, Run


class Bar(Hook):
    """Shows the epoch, the loss and the time left while a run goes on, and goes away with it.

    Args:
        console: where to draw; by default standard error. Nothing is drawn where that is no terminal.
        description: stands before the bar.

    `fit(..., hooks=[progress.Bar()])`.
    """

    def __init__(self, console: Console | None = None, description: str = "training"):
        self.console = console or Console(stderr=True)
        self.description = description
        self.progress: Progress | None = None

    def begin(self, job: Job) -> None:
        """Take how many batches an epoch has, where that is to be seen."""
        self.per_epoch = job.settings.get("batches_per_epoch") or 1

    def restore(self, run: Run) -> Run:
        """Start the bar."""
        if not self.console.is_terminal:
            return run
        self.progress = Progress(
            TextColumn(self.description),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("nll {task.fields[nll]:.4f}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.task = self.progress.add_task(self.description, total=None, nll=np.nan)
        self.progress.start()
        return run

    def after_chunk(self, run: Run, history: History) -> None:
        """Move the bar to the epoch that was reached; of several members the median is shown."""
        if self.progress is None:
            return
        epoch, batch = run.position
        series = history.loss if history.validation_nll is None else history.validation_nll
        latest = np.asarray(series[..., max(epoch - 1, 0)]).ravel()
        if epoch == 0 and batch:
            losses, weights = map(np.asarray, run.sums)
            latest = (losses / np.where(weights > 0, weights, np.nan)).ravel()
        finite = latest[np.isfinite(latest)]
        nll = np.median(finite) if finite.size else np.nan
        done = epoch + batch / self.per_epoch
        self.progress.update(self.task, completed=done, total=history.loss.shape[-1], nll=nll)

    def close(self) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.stop()

    def for_trial(self) -> "Bar":
        """A bar of its own for a run that prepares this one."""
        return Bar(self.console, "preparing")
