"""What moves single predictions, and their error bars: Shapley values of mean and std.

`pip install shap` first. Permutation importance (`jaxreg.importance`) says how much columns tell over all
rows; Shapley values say by how much each one moves the mean, and the std, of one row away from the average.
Columns of text and dates are handed to SHAP as the numbers of their values. Lundberg & Lee 2017, "A unified
approach to interpreting model predictions".
"""

import numpy as np
import pandas as pd
import shap

from jaxreg import DeepEnsembleRegressor

SMALL = {"members": 3, "hidden": (64,), "epochs": 100, "frequency_scale": 0.25, "noise": 1, "random_state": 0}


def houses(n: int = 600, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Made-up sales: area and date move the price, the town how sure one can be."""
    rng = np.random.default_rng(seed)
    sold = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 1500, n), "D")
    table = pd.DataFrame({"area": rng.lognormal(4.5, 0.4, n), "town": rng.choice(["Bonn", "Rome"], n)})
    table["sold"] = sold
    std = np.where(table["town"] == "Rome", 60.0, 15.0)
    days = (table["sold"] - table["sold"].min()).dt.days
    return table, np.asarray(2.5 * table["area"] + 0.05 * days + std * rng.normal(size=n))


def explained(
    model: DeepEnsembleRegressor, background: pd.DataFrame, rows: pd.DataFrame
) -> dict[str, np.ndarray]:
    """Shapley values of mean and std, `(rows, columns)` each.

    Args:
        model: fitted.
        background: rows that columns without a say are averaged over, about a hundred.
        rows: to be explained.
    """
    both = pd.concat([background, rows], ignore_index=True)
    coded = [pd.factorize(both[name], sort=True) for name in both]
    codes = np.stack([code for code, _ in coded], axis=1).astype(float)

    def mean_and_std(codes: np.ndarray) -> np.ndarray:
        columns = {
            name: levels.take(codes[:, i].astype(int))
            for i, (name, (_, levels)) in enumerate(zip(both, coded, strict=True))
        }
        return np.stack(model.predict(pd.DataFrame(columns), return_std=True), axis=1)

    known = codes[: len(background)]
    explainer = shap.PermutationExplainer(mean_and_std, shap.maskers.Independent(known, len(known)), seed=0)
    values = explainer(codes[len(background) :]).values
    return {"mean": values[..., 0], "std": values[..., 1]}


if __name__ == "__main__":
    table, price = houses()
    model = DeepEnsembleRegressor(**SMALL).fit(table[:500], price[:500])
    found = explained(model, table[:60], table[500:520])
    for what, values in found.items():
        told = ", ".join(
            f"{name} {size:.1f}" for name, size in zip(table, abs(values).mean(axis=0), strict=True)
        )
        print(f"{what}: mean absolute Shapley value, thousands: {told}")
