import io
import re

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxreg import Hook, MeanVarRegressor, fit, fit_ensemble, make_trainer, sgd
from jaxreg.progress import Bar, Lines

TRAINER = make_trainer(MeanVarRegressor(hidden=(4,)), sgd(1e-3))


def train(rows, *hooks, **more):
    return fit(jax.random.key(0), TRAINER, rows, epochs=30, hooks=hooks, **more)


def test_a_terminal_sees_the_epochs(sinusoid):
    file = io.StringIO()
    bar = Bar(Console(file=file, force_terminal=True, width=100), "houses")
    _, history = train(sinusoid, bar)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert "houses" in shown and "30/30" in shown and f"nll {history.loss[-1]:.4f}" in shown
    assert bar.progress.live.is_started is False
    assert file.getvalue().rstrip().endswith("\x1b[2K")  # and is wiped at the end


def test_it_follows_the_validation_nll_and_may_be_used_again(sinusoid):
    file = io.StringIO()
    bar = Bar(Console(file=file, force_terminal=True, width=100))
    for _ in range(2):
        _, history = train(sinusoid, bar, validation=sinusoid)
    assert f"nll {history.validation_nll[-1]:.4f}" in file.getvalue()


def test_of_several_members_it_shows_the_median(sinusoid):
    file = io.StringIO()
    bar = Bar(Console(file=file, force_terminal=True, width=100))
    _, history = fit_ensemble(jax.random.key(0), TRAINER, sinusoid, members=3, epochs=30, hooks=[bar])
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert "30/30" in shown and f"nll {np.median(history.loss[:, -1]):.4f}" in shown


def test_nothing_is_printed_without_a_terminal(sinusoid, capfd):
    file = io.StringIO()
    train(sinusoid, Bar(Console(file=file)), Bar())
    assert file.getvalue() == "" and capfd.readouterr() == ("", "")


def test_nothing_is_drawn_where_a_terminal_cannot(sinusoid, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    file = io.StringIO()
    train(sinusoid, Bar(Console(file=file, force_terminal=True)))
    assert file.getvalue() == ""


def test_the_result_does_not_depend_on_it(sinusoid):
    with_bar, without = (
        train(sinusoid, Bar(Console(file=io.StringIO(), force_terminal=True))),
        train(sinusoid),
    )
    jax.tree.map(np.testing.assert_array_equal, with_bar, without)


def test_it_is_closed_when_fit_raises(sinusoid):
    class Breaks(Hook):
        def after_chunk(self, run, history):
            raise KeyboardInterrupt

    bar = Bar(Console(file=io.StringIO(), force_terminal=True))
    with pytest.raises(KeyboardInterrupt):
        train(sinusoid, bar, Breaks())
    assert bar.progress.live.is_started is False


def test_close_before_start():
    Bar(Console(file=io.StringIO())).close()


def test_lines_where_there_is_no_terminal(sinusoid, monkeypatch):
    file, clock = io.StringIO(), iter(range(0, 10**6, 4))
    monkeypatch.setattr("jaxreg.progress.time.monotonic", lambda: next(clock))  # 4 s from look to look
    lines = Lines(Console(file=file, width=40), "houses", seconds=10)
    every = Hook()
    every.every = 5
    _, history = train(sinusoid, lines, every, validation=sinusoid)
    first, *others = file.getvalue().splitlines()
    assert first == "houses: at most 30 epochs" and 1 <= len(others) <= 3
    for line in others:
        epoch, nll = re.fullmatch(r"houses: epoch (\d+) of 30, nll (.*), at most \d+ s left", line).groups()
        assert float(nll) == round(history.validation_nll[int(epoch) - 1], 4)
