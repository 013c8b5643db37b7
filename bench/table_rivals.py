"""The rivals of `python -m bench tables`, each with its defaults; runs in their environment, without jaxreg.

Says first which there are: a line of JSON with names, versions, and why one is missing. Then reads lines
`NAME FILE`, fits the rival to the rows in the file, adds its predictions of the test rows to it, and answers
with a line of JSON: CPU and wall seconds of the fit and of the prediction, or what went wrong. A file has

- `numbers`, `(n, columns)`, whose gaps are NaN; `text`, `(n, columns)`; and both as `one_hot`; the same of
  the test rows as `numbers_test` and so on; `y`, a `seed`, and the `levels` that boosted trees are asked for;
- then `mean`, and either `std` of a normal distribution or `levels` and `quantiles`, `(levels, n)`.
"""

import importlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Rows = dict[str, np.ndarray]
Predict = Callable[[], Rows]
LEVELS = np.arange(1, 100) / 100
FIFTY = np.arange(1, 100, 2) / 100


def _mixed(rows: Rows, suffix: str) -> tuple[pd.DataFrame, list[str]]:
    """Numbers and text side by side, and the names of the text."""
    numbers, text = (pd.DataFrame(rows[f"{kind}{suffix}"]) for kind in ("numbers", "text"))
    numbers, text = numbers.add_prefix("number"), text.add_prefix("text").astype(object)
    return pd.concat([numbers, text], axis=1), list(text)


def _catboost(rows: Rows, loss: str, read: Callable[[np.ndarray], Rows]) -> Predict:
    x, categories = _mixed(rows, "")
    model = importlib.import_module("catboost").CatBoostRegressor(
        loss_function=loss, random_seed=int(rows["seed"]), verbose=False, allow_writing_files=False
    )
    model.fit(x, rows["y"], cat_features=categories)
    return lambda: read(model.predict(_mixed(rows, "_test")[0]))


def catboost_normal(rows: Rows) -> Predict:
    """Trees that predict a mean and a variance."""
    return _catboost(
        rows, "RMSEWithUncertainty", lambda found: {"mean": found[:, 0], "std": found[:, 1] ** 0.5}
    )


def catboost_quantiles(rows: Rows) -> Predict:
    """Trees that predict quantiles at some levels."""
    levels = rows["levels"]
    loss = f"MultiQuantile:alpha={','.join(f'{level:g}' for level in levels)}"
    return _catboost(rows, loss, lambda found: _of(levels, found.T))


def forest(rows: Rows) -> Predict:
    """Meinshausen 2006, "Quantile regression forests", with 300 trees."""
    forest = importlib.import_module("quantile_forest").RandomForestQuantileRegressor
    model = forest(n_estimators=300, n_jobs=-1, random_state=int(rows["seed"])).fit(
        rows["one_hot"], rows["y"]
    )

    def predict() -> Rows:
        x = rows["one_hot_test"]
        found = np.asarray(model.predict(x, quantiles=[float(level) for level in LEVELS]))
        return _of(LEVELS, found.T) | {"mean": model.predict(x, quantiles="mean")}

    return predict


def realmlp(rows: Rows) -> Predict:
    """Holzmüller et al. 2024, "Better by default", trained on the pinball losses of 50 levels."""
    (x, categories), loss = _mixed(rows, ""), f"multi_pinball({','.join(map(str, FIFTY))})"
    model = importlib.import_module("pytabkit").RealMLP_TD_Regressor(
        train_metric_name=loss, val_metric_name=loss, random_state=int(rows["seed"]), device="cpu"
    )
    numbers = [name for name in x if name not in categories]
    medians = x[numbers].median().fillna(0.0)

    def filled(x: pd.DataFrame) -> pd.DataFrame:  # it takes categories, but no gaps
        return x.assign(**x[numbers].fillna(medians))

    model.fit(filled(x), rows["y"], cat_col_names=categories)
    return lambda: _of(FIFTY, np.asarray(model.predict(filled(_mixed(rows, "_test")[0]))).T)


def _of(levels: np.ndarray, quantiles: np.ndarray) -> Rows:
    """Quantiles, and the mean of those at 99 levels."""
    ordered = np.sort(np.asarray(quantiles, np.float64), axis=0)
    mean = np.mean([np.interp(LEVELS, levels, column) for column in ordered.T], axis=1)
    return {"levels": levels, "quantiles": ordered, "mean": mean}


RIVALS = {
    "quantile forest": ("quantile-forest", forest),
    "CatBoost, RMSEWithUncertainty": ("catboost", catboost_normal),
    "CatBoost, MultiQuantile": ("catboost", catboost_quantiles),
    "RealMLP-TD, 50 pinball levels": ("pytabkit", realmlp),
}


def _listed(name: str) -> tuple[str, str, str]:
    package = RIVALS[name][0]
    try:
        importlib.import_module(package.replace("-", "_"))
        return name, f"{package} {version(package)}", ""
    except (ImportError, PackageNotFoundError) as error:
        return name, "", f"{error}; bench/rivals.txt and rivals-tables.txt say how to install it"


def _timed(call: Callable[[], Any], what: str) -> tuple[Any, dict[str, float]]:
    cpu, wall = time.process_time(), time.perf_counter()
    result = call()
    return result, {f"{what}_cpu": time.process_time() - cpu, f"{what}_wall": time.perf_counter() - wall}


def answer(name: str, path: Path) -> dict[str, Any]:
    """Fit a rival and add its predictions to the file."""
    with np.load(path) as file:
        rows = dict(file)
    with redirect_stdout(sys.stderr):  # standard output is for answers
        predict, fitting = _timed(lambda: RIVALS[name][1](rows), "fit")
        found, predicting = _timed(predict, "predict")
    np.savez(path, **(rows | found))
    return fitting | predicting


def main() -> None:
    """Answer requests until there are no more."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with redirect_stdout(sys.stderr):
        listed = [_listed(name) for name in RIVALS]
    print(json.dumps(listed), flush=True)
    for line in sys.stdin:
        name, _, path = line.rstrip("\n").partition("\t")
        try:
            found = answer(name, Path(path))
        except Exception as error:  # the bench reports it and goes on
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
