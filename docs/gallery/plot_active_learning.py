"""Active learning
===============

Labels are expensive, and most of the unlabelled rows are alike. An ensemble asks for the labels of the rows
on which its members disagree most. Random choice asks for more of the same.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np

from jaxreg import MeanVarRegressor, adamw, fit_ensemble, make_trainer, metrics, predict_ensemble

POOL, START, STEP, ROUNDS, MEMBERS = 256, 8, 6, 5, 5
LABELS = START + STEP * np.arange(ROUNDS + 1)
model = MeanVarRegressor(hidden=(32, 32))
trainer = make_trainer(model, adamw(1e-2, weight_decay=1e-3, steps=300))


def sample(n: int, dense: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows, a share of which lie in a fifth of the range."""
    x = np.where(rng.uniform(size=n) < dense, rng.uniform(-2, -0.8, n), rng.uniform(-3, 3, n))
    return x[:, None], np.sin(2 * x) + 0.3 * x + 0.1 * rng.normal(size=n)


# %%
# ``rows`` gives the numbers of the rows that each member trains on. They are filled up with -1, which stands
# for no row: the shape stays the same, and nothing is compiled again.


def learned(key: jax.Array, pool: tuple, labelled: np.ndarray) -> dict:
    """Parameters of an ensemble that learns from the labelled rows of the pool."""
    rows = np.full((MEMBERS, LABELS[-1]), -1)
    rows[:, : len(labelled)] = labelled
    states, _ = fit_ensemble(key, trainer, pool, members=MEMBERS, rows=rows, epochs=300)
    return states.params


def run(by_std: bool, seed: int) -> tuple[list[float], tuple, np.ndarray]:
    """The RMSE on test rows after each round, the pool, and which of its rows were labelled."""
    rng = np.random.default_rng(seed)
    pool, (test_x, test_y) = sample(POOL, 0.85, rng), sample(512, 0, rng)
    labelled, found = rng.choice(POOL, START, replace=False), []
    for i in range(ROUNDS + 1):
        params = learned(jax.random.key(10 * seed + i), pool, labelled)
        found.append(float(metrics.rmse(predict_ensemble(model, params, test_x), test_y)))
        if i < ROUNDS:
            wanted = rng.uniform(size=POOL)
            if by_std:
                wanted = np.array(predict_ensemble(model, params, pool[0]).epistemic)
            wanted[labelled] = -np.inf
            labelled = np.append(labelled, np.argsort(wanted)[-STEP:])
    return found, pool, labelled


# %%
# The test rows cover the whole range evenly. Thin lines are single pools, thick lines their mean. On the
# right are the rows of the first pool: few of them lie outside the dense part.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for i, (name, by_std) in enumerate({"epistemic std": True, "random choice": False}.items()):
    runs = [run(by_std, seed) for seed in range(3)]
    mean = np.mean([found for found, *_ in runs], axis=0)
    left.plot(LABELS, mean, f"C{i}", linestyle=["-", "--"][i], linewidth=2.5, label=name)
    left.plot(LABELS, np.transpose([found for found, *_ in runs]), f"C{i}", alpha=0.4, linewidth=0.8)
    _, (x, y), labelled = runs[0]
    right.plot(x[:, 0], y + 1.6 * i, ".", color="0.8", label="pool" if i == 0 else None)
    right.plot(x[labelled, 0], y[labelled] + 1.6 * i, "ox"[i], color=f"C{i}", markersize=5, label=name)
    print(f"{name}: RMSE {mean[0]:.3f} with {LABELS[0]} labels, {mean[-1]:.3f} with {LABELS[-1]}")
left.set(xlabel="labels", ylabel="RMSE on test rows, in units of y", ylim=(0, None))
right.set(xlabel="x", ylabel="y, moved up for random choice")
legends = [ax.legend(fontsize="small") for ax in (left, right)]
