"""Coverage in each group
======================

Three sensors measure the same quantity, one of them with much more noise than the others. The model doesn't
know which sensor a row is of. Its 90 % intervals may be right over all rows and wrong for each sensor.
``MondrianConformal`` corrects them sensor by sensor.
"""

import matplotlib.pyplot as plt
import numpy as np

from jaxreg import MeanVarRegressor, fit, make_trainer, metrics, predict, sgd
from jaxreg.calibration import MondrianConformal, SplitConformal

STD = {"old": 0.8, "new": 0.15, "spare": 0.4}


def measured(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows ``(x, y, sensor)``."""
    rng = np.random.default_rng(seed)
    x, sensor = rng.uniform(-3, 3, (n, 1)), rng.choice([*STD], n)
    std = np.array([STD[name] for name in sensor])
    return x, np.sin(1.3 * x[:, 0]) + std * rng.normal(size=n), sensor


x, y, _ = measured(256, 0)
held_out_x, held_out_y, held_out_sensor = measured(1500, 1)
fresh_x, fresh_y, fresh_sensor = measured(6000, 2)

# %%
# A calibration learns from rows that weren't used in training. ``SplitConformal`` takes all of them together.
# ``MondrianConformal`` takes those of each group by themselves, so each group needs enough: an interval of
# 90 % needs at least 9 rows.

model = MeanVarRegressor()
state, _ = fit(0, make_trainer(model, sgd(5e-3)), (x, y), epochs=200, batch_size=64)
held_out, fresh = (predict(model, state.params, rows) for rows in (held_out_x, fresh_x))
intervals = {
    "model alone": fresh,
    "SplitConformal": SplitConformal.fit(held_out, held_out_y)(fresh),
    "MondrianConformal": MondrianConformal.fit(held_out, held_out_y, held_out_sensor)(fresh, fresh_sensor),
}

# %%
# Split conformal intervals hold about 90 % of all rows, but not of each sensor's. Those of each group do, and
# they are narrower where the sensor is good.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for i, (name, prediction) in enumerate(intervals.items()):
    covered = metrics.coverage_by(prediction, fresh_y, fresh_sensor, level=0.9)
    places = np.arange(len(covered.names)) + 0.25 * (i - 1)
    left.plot(places, covered.coverage, "os^"[i], color=f"C{i}", label=name)
    right.plot(places, covered.width, "os^"[i], color=f"C{i}", label=name)
    total = metrics.coverage(prediction, fresh_y, 0.9)
    each = ", ".join(f"{g} {c:.1%}" for g, c in zip(covered.names, covered.coverage, strict=True))
    print(f"{name}: all {total:.1%}; {each}")
left.axhline(0.9, color="0.4", linestyle="--", linewidth=1, label="asked for")
left.set(xlabel="sensor", ylabel="share inside the 90 % interval")
right.set(xlabel="sensor", ylabel="mean width, in units of y", ylim=(0, None))
for ax in (left, right):
    ax.set_xticks(range(len(covered.names)), covered.names)
legend = left.legend(fontsize="small")
