"""`jaxreg demo`: the notebook's two models on one feature, drawn."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from jaxreg import plots
from jaxreg.cli.console import err, out, say
from jaxreg.cli.inputs import one_feature
from jaxreg.cli.outputs import check_output, make_folder, prediction_table
from jaxreg.cli.standard_input import as_file
from jaxreg.data import Scaler, check_data, check_features, grid, sinusoid
from jaxreg.files import replacing
from jaxreg.model.fitted import Fitted
from jaxreg.networks import MeanOnlyRegressor, MeanVarRegressor
from jaxreg.progress import Bar
from jaxreg.tables import columns, write
from jaxreg.training import History, Hook, Run, fit, make_trainer, sgd

# The notebook's settings, of its first and its second model.
NOTEBOOK_SGD = {"learning_rate": 5e-3, "momentum": 0.9, "weight_decay": 1e-4}
NOTEBOOK_BATCH = 64
NOTEBOOK_FULL_BATCH_EPOCHS = 300
NOTEBOOK_RANGE = (-3.5, 3.5)


class Columns(NamedTuple):
    """Columns of a user's file, what is predicted from what, and a file of rows to predict."""

    file: Path
    x: str
    y: str
    x_test: Path | None


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


def run(out_dir: Path, seed: int, epochs: int, own: Columns | None) -> None:
    """Train both models on the notebook's data, or on a user's own, and write pictures and tables."""
    data_key, *keys = jax.random.split(jax.random.key(seed), 3)
    # The notebook trains on its data as they are; a user's own come in any units and are standardised.
    scalers = [Scaler(np.zeros(1), np.ones(1)), Scaler(np.zeros(()), np.ones(()))]
    if own is None:
        rows, names = check_data(sinusoid(data_key)), ("x", "y")
        points = np.linspace(*NOTEBOOK_RANGE, 400, dtype=np.float32)[:, None]
    else:
        own = own._replace(file=as_file(own.file), x_test=own.x_test and as_file(own.x_test))
        rows, names = one_feature(own.file, own.x, own.y), (own.x, own.y)
        points = grid(rows[0])
        if own.x_test is not None:
            points = check_features(columns(own.x_test, [own.x]), dtype=np.float64)
        scalers = [Scaler.fit(rows[0], [own.x]), Scaler.fit(rows[1], [own.y])]
    models = {
        "heteroscedastic": (MeanVarRegressor(), NOTEBOOK_BATCH, epochs),
        "homoscedastic": (MeanOnlyRegressor(), None, NOTEBOOK_FULL_BATCH_EPOCHS),
    }
    make_folder(out_dir)
    inputs = () if own is None else (own.file, own.x_test)
    for name in (*(f"{name}.png" for name in models), "history.csv", "predictions.csv"):
        check_output(out_dir / name, *inputs)

    history, predictions = [], []
    labels = tuple(map(plots.literal, names))
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
    write(pl.concat(history), out_dir / "history.csv")
    write(pl.concat(predictions), out_dir / "predictions.csv")
    say(f"pictures and tables are in {out_dir}")
