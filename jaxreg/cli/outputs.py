"""Where the command's results go, and what stands in them."""

from pathlib import Path

import numpy as np
import polars as pl

from jaxreg.data.scaler import Scaler
from jaxreg.distributions import Prediction
from jaxreg.files import check_writable
from jaxreg.model.fitted import Fitted
from jaxreg.tables.form import Form

PREDICTED = "mean", "std", "lower", "upper"


def prediction_table(prediction: Prediction, level: float) -> pl.DataFrame:
    """Mean, standard deviation and interval as columns."""
    lower, upper = prediction.interval(level)
    return pl.DataFrame(dict(zip(PREDICTED, (prediction.mean, prediction.std, lower, upper), strict=True)))


def written_as_before(form: Form, fitted: Fitted) -> Form:
    """How files are written: with the decimal mark of those that were trained on, unless another is said."""
    return form._replace(decimal=form.decimal or (fitted.settings or {}).get("decimal"))


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


def only_numbers(x: pl.DataFrame | np.ndarray) -> np.ndarray | None:
    """The one feature of a table that has no other and is numbers, to be drawn; None where that isn't so."""
    if x.shape[1] != 1:
        return None
    column = np.asarray(x)[:, 0]
    return column if column.dtype.kind in "biuf" and np.isfinite(column).all() else None
