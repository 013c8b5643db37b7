"""The rivals of `python -m bench uci`, each with its defaults; runs in their environment, without jaxreg.

Reads lines `NAME FILE`, fits the rival to the rows in the file, adds its predictions to it, and answers with
a line of JSON: the seconds of the fit, or what went wrong.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from catboost import CatBoostRegressor
from ngboost import NGBRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.neural_network import MLPRegressor

Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def ngboost(x: np.ndarray, y: np.ndarray) -> Predict:
    """Trees that boost both parameters of a normal distribution."""
    model = NGBRegressor(verbose=False, random_state=0).fit(x, y)
    return lambda x: tuple(model.pred_dist(x).params[name] for name in ("loc", "scale"))


def catboost(x: np.ndarray, y: np.ndarray) -> Predict:
    """Trees that predict a mean and a variance."""
    quiet = {"verbose": False, "allow_writing_files": False}
    model = CatBoostRegressor(loss_function="RMSEWithUncertainty", random_seed=0, **quiet).fit(x, y)

    def predict(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, variance = model.predict(x).T
        return mean, np.sqrt(variance)

    return predict


def gaussian_process(x: np.ndarray, y: np.ndarray) -> Predict:
    """scikit-learn's, whose kernel is fixed by default."""
    model = GaussianProcessRegressor(random_state=0).fit(x, y)
    return lambda x: model.predict(x, return_std=True)


def mlp(x: np.ndarray, y: np.ndarray) -> Predict:
    """scikit-learn's network, which predicts no std: it gets that of its errors on the training rows."""
    model = MLPRegressor(random_state=0).fit(x, y)
    std = np.sqrt(np.mean((model.predict(x) - y) ** 2))
    return lambda x: (model.predict(x), np.full(len(x), std))


RIVALS = {
    "NGBoost": ngboost,
    "CatBoost, RMSEWithUncertainty": catboost,
    "scikit-learn's Gaussian process": gaussian_process,
    "scikit-learn's MLP": mlp,
}


def main() -> None:
    """Answer requests until there are no more."""
    warnings.simplefilter("ignore")
    print(json.dumps(list(RIVALS)), flush=True)
    for line in sys.stdin:
        name, _, path = line.rstrip("\n").partition("\t")
        try:
            rows = dict(np.load(path))
            began = time.perf_counter()
            predict = RIVALS[name](rows["x"], rows["y"])
            answer = {"seconds": time.perf_counter() - began}
            rows["mean"], rows["std"] = predict(rows["x_test"])
            np.savez(Path(path), **rows)
        except Exception as error:  # the bench reports it and goes on
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
