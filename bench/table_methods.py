"""What `python -m bench tables` compares: jaxreg, scikit-learn's trees, and rivals in another process."""

import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mapie
import numpy as np
import pandas as pd
import sklearn
from mapie.regression import ConformalizedQuantileRegressor
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import train_test_split

import jaxreg
from bench.prepared import Columns
from bench.table_scores import LEVELS, SECONDS, at, interpolated
from jaxreg import DeepEnsembleRegressor

HERE = Path(__file__).parent
RIVALS_PYTHON = HERE / ".rivals" / "bin" / "python"
TOO_FEW = "Number of samples of the score is too low"  # what MAPIE says of too few held-out rows
_BELOW = np.array([1, 2.5, 5, 10, 15, 20, 25, 30, 40]) / 100
TREE_LEVELS = np.r_[_BELOW, 0.5, 1 - _BELOW[::-1]]  # 19, closer together where quantiles bend
CATEGORIES = 254  # scikit-learn's trees take 255 values of a category, a gap among them


class Fold(NamedTuple):
    """Training and test rows; targets are `(n, targets)`."""

    x: pd.DataFrame
    y: np.ndarray
    x_test: pd.DataFrame
    number: int


class Prediction(NamedTuple):
    """What a method says of the test rows.

    Attributes:
        mean: `(n, targets)`.
        quantiles: at LEVELS, `(levels, n, targets)`; NaN where a method doesn't give a level.
        log_density: of targets `(n, targets)`, if the method has a density.
    """

    mean: np.ndarray
    quantiles: np.ndarray
    log_density: Callable[[np.ndarray], np.ndarray] | None = None


Seconds = dict[str, float]
Predict = Callable[[pd.DataFrame], Prediction]


class Method(NamedTuple):
    """A method by its name.

    Attributes:
        name: as tables show it.
        version: of the packages that do the work; another version is measured anew.
        run: fits a fold and predicts its test rows; the seconds are those of all targets.
        missing: why it can't be measured here, if it can't.
    """

    name: str
    version: str
    run: Callable[[Fold], tuple[Prediction, Seconds]] | None
    missing: str = ""


class Effort(NamedTuple):
    """How much each method does: settings of the estimator, and how often scikit-learn's trees boost."""

    network: dict[str, Any]
    boosts: int


FULL = Effort({}, 100)  # scikit-learn's default
QUICK = Effort({"members": 2, "hidden": (8,), "epochs": 20, "frequency_scale": 1.0, "noise": 1}, 10)


def timed(call: Callable[[], Any], what: str) -> tuple[Any, Seconds]:
    """A call's result, and its CPU and wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = call()
    return result, {
        f"{what}_cpu": time.process_time() - cpu,
        f"{what}_wall": time.perf_counter() - wall,
    }


def _here(fit: Callable[[Fold], Predict], fold: Fold) -> tuple[Prediction, Seconds]:
    """Fit and predict in this process."""
    predict, fitting = timed(lambda: fit(fold), "fit")
    prediction, predicting = timed(lambda: predict(fold.x_test), "predict")
    return prediction, fitting | predicting


def _of_network(model: DeepEnsembleRegressor, x: Any) -> Prediction:
    dist = model.predict_dist(x)
    quantiles = np.asarray(dist.quantile(LEVELS), np.float64)
    mean = np.asarray(dist.mean, np.float64)

    def log_density(y: np.ndarray) -> np.ndarray:
        return np.asarray(dist.log_prob(y.reshape(mean.shape))).reshape(len(y), -1)

    return Prediction(mean.reshape(len(mean), -1), quantiles.reshape(*quantiles.shape[:2], -1), log_density)


def _network(fold: Fold, settings: dict[str, Any]) -> Predict:
    """The estimator on columns that were prepared by hand."""
    columns = Columns.fit(fold.x)
    model = DeepEnsembleRegressor(random_state=fold.number, **settings)
    model.fit(columns.one_hot(fold.x), _squeezed(fold.y))
    return lambda x: _of_network(model, columns.one_hot(x))


def _native_network(fold: Fold, settings: dict[str, Any]) -> Predict:
    """The estimator on the table as it was read."""
    model = DeepEnsembleRegressor(random_state=fold.number, **settings)
    model.fit(fold.x, _squeezed(fold.y))
    return lambda x: _of_network(model, x)


def _squeezed(y: np.ndarray) -> np.ndarray:
    return y[:, 0] if y.shape[1] == 1 else y


def _of_targets(fit: Callable[..., Predict], fold: Fold, boosts: int) -> Predict:
    """A model for each target, of numbers with gaps and codes of categories."""
    columns = Columns.fit(fold.x)
    x = columns.codes(fold.x, fold.x, CATEGORIES)
    of_category = np.arange(x.shape[1]) >= x.shape[1] - len(columns.categories)
    new = partial(HistGradientBoostingRegressor, categorical_features=of_category, random_state=fold.number)
    new = partial(new, max_iter=boosts)
    models = [fit(new, x, y, fold.number) for y in fold.y.T]

    def predict(table: pd.DataFrame) -> Prediction:
        found = [model(columns.codes(fold.x, table, CATEGORIES)) for model in models]
        return Prediction(
            np.stack([mean for mean, _ in found], axis=1), np.stack([q for _, q in found], axis=2)
        )

    return predict


def _boosted(new: Callable, x: np.ndarray, y: np.ndarray, seed: int) -> Callable:
    """A mean and a model for each of 19 levels, linear between."""
    mean = new().fit(x, y)
    levels = [new(loss="quantile", quantile=level).fit(x, y) for level in TREE_LEVELS]
    return lambda x: (
        mean.predict(x),
        interpolated(TREE_LEVELS, np.stack([model.predict(x) for model in levels])),
    )


def _conformal(new: Callable, x: np.ndarray, y: np.ndarray, seed: int) -> Callable:
    """A mean, and intervals of 50, 90 and 95 % by conformalised quantiles, for a fifth of the rows held out.

    A level for which these are too few is left out.
    """
    mean = new().fit(x, y)
    x, x_held_out, y, y_held_out = train_test_split(x, y, test_size=0.2, random_state=seed)
    intervals = {}
    for percent in (50, 90, 95):
        model = ConformalizedQuantileRegressor(
            new(loss="quantile", quantile=0.5), confidence_level=percent / 100, prefit=False
        )
        intervals[percent] = model.fit(x, y).conformalize(x_held_out, y_held_out)

    def predict(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        quantiles = np.full((len(LEVELS), len(x)), np.nan)
        for percent, model in intervals.items():
            try:
                bounds = model.predict_interval(x)[1]
            except ValueError as error:
                if TOO_FEW not in str(error):
                    raise
                continue
            at(quantiles, 0.5 - percent / 200)[:] = bounds[:, 0, 0]
            at(quantiles, 0.5 + percent / 200)[:] = bounds[:, 1, 0]
        return mean.predict(x), quantiles

    return predict


class Rivals:
    """The process that fits the rivals; `bench/table_rivals.py` says what it reads and answers."""

    def __init__(self, process: subprocess.Popen, folder: Path):
        self._process, self._rows = process, folder / "rows.npz"
        self.methods = [
            Method(name, version, partial(self._run, name), missing)
            for name, version, missing in json.loads(process.stdout.readline())
        ]

    def _run(self, name: str, fold: Fold) -> tuple[Prediction, Seconds]:
        columns, rows = Columns.fit(fold.x), {}
        for suffix, x in (("", fold.x), ("_test", fold.x_test)):
            rows[f"numbers{suffix}"] = columns.numeric(x)
            rows[f"text{suffix}"] = columns.text(x).astype(str)
            rows[f"one_hot{suffix}"] = columns.one_hot(x)
        found, total = [], dict.fromkeys(SECONDS, 0.0)
        for y in fold.y.T:
            np.savez(self._rows, **rows, y=y, seed=fold.number, levels=TREE_LEVELS)
            self._process.stdin.write(f"{name}\t{self._rows}\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline() or '{"error": "the rivals have ended"}')
            if "error" in answer:
                raise RuntimeError(answer["error"])
            total = {what: total[what] + answer[what] for what in SECONDS}
            with np.load(self._rows) as file:
                found.append(dict(file))
        mean = np.stack([rows["mean"] for rows in found], axis=1)
        if "std" in found[0]:
            std = np.stack([rows["std"] for rows in found], axis=1)
            quantiles = norm.ppf(LEVELS[:, None, None], mean, std)
            return Prediction(mean, quantiles, lambda y: norm.logpdf(y, mean, std)), total
        quantiles = [interpolated(rows["levels"], rows["quantiles"]) for rows in found]
        return Prediction(mean, np.stack(quantiles, axis=2)), total


def _digest() -> str:
    """The library's source in 8 letters: its version says too little while it's being changed."""
    package = Path(jaxreg.__file__).parent
    source = b"".join(path.read_bytes() for path in sorted(package.rglob("*.py")))
    return hashlib.sha256(source).hexdigest()[:8]


@contextmanager
def methods(effort: Effort, python: Path) -> Iterator[list[Method]]:
    """All methods, those that are missing too; the first is what others are compared with."""
    ours, trees = f"{jaxreg.__version__} {_digest()}", f"scikit-learn {sklearn.__version__}"
    found = []
    for name, version, fit in (
        ("jaxreg", ours, partial(_network, settings=effort.network)),
        ("jaxreg, native columns", ours, partial(_native_network, settings=effort.network)),
        ("HistGradientBoosting, 19 levels", trees, _trees(_boosted, effort)),
        (
            "HistGradientBoosting, conformalised by MAPIE",
            f"{trees}, MAPIE {mapie.__version__}",
            _trees(_conformal, effort),
        ),
    ):
        found.append(Method(name, version, partial(_here, fit)))
    if not python.exists():
        note = f"there is no {python}; {HERE / 'rivals.txt'} says how to make it"
        yield [*found, Method("rivals", "", None, note)]
        return
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with tempfile.TemporaryDirectory() as folder:
        with subprocess.Popen([str(python), str(HERE / "table_rivals.py")], **pipes) as process:
            yield [*found, *Rivals(process, Path(folder)).methods]
            process.stdin.close()


def _trees(fit: Callable[..., Callable], effort: Effort) -> Callable[[Fold], Predict]:
    return partial(_of_targets, fit, boosts=effort.boosts)
