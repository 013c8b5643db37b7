"""
A real table, from file to intervals
====================================

A file of cars has text, dates, gaps and numbers. We predict how far each car drives on a gallon, with an
interval, look at where the interval is right, write a report, and keep the model.

The same works for a file of your own. Only its path and the name of the target change.
"""

# %%
# The file
# --------
#
# The cars are those of the American Statistical Association's data exposition of 1983, which
# ``vega_datasets`` brings along. We write them to a CSV file, so that what follows begins where your work
# begins.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from vega_datasets import data

from jaxreg import DeepEnsembleRegressor, importance, metrics, plots
from jaxreg.calibration import MondrianConformal

folder = Path(tempfile.mkdtemp())
data.cars().to_csv(folder / "cars.csv", index=False)
cars = pd.read_csv(folder / "cars.csv", parse_dates=["Year"])
cars

# %%
# Eight cars have no value of the target. Rows without a target are left out, and a warning counts them;
# here we leave them out ourselves. A quarter of the rest is kept for the test, drawn at random.

cars = cars.dropna(subset="Miles_per_Gallon").reset_index(drop=True)
test = cars.sample(frac=0.25, random_state=0)
train = cars.drop(test.index)
target = "Miles_per_Gallon"

# %%
# A fit
# -----
#
# Nothing is prepared. ``Name`` has nearly as many values as there are cars, so that it can't help with
# new ones; we leave it out. ``columns_`` shows what was made of each of the others.

model = DeepEnsembleRegressor(drop=["Name"], random_state=0).fit(train.drop(columns=target), train[target])
print(model.columns_)

# %%
# Here is what the model says of five cars that it hasn't seen:

x_test, y_test = test.drop(columns=target), test[target].to_numpy()
dist = model.predict_dist(x_test)
lower, upper = dist.interval(0.9)
pd.DataFrame({"name": test["Name"], "true": y_test, "mean": dist.mean, "lower": lower, "upper": upper}).round(
    1
).head()

# %%
# Is it right?
# ------------
#
# Nine in ten test rows should lie inside the intervals. The CRPS is an error of the whole distribution,
# in miles per gallon.

scores = metrics.evaluate(dist, y_test, level=0.9)
print(f"inside: {scores['coverage']:.2f}, CRPS: {scores['crps']:.2f}, RMSE: {scores['rmse']:.2f}")

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
plots.observed_against_predicted(dist, y_test, level=0.9, ax=left)
plots.reliability(dist, y_test, ax=right)

# %%
# Coverage by group
# -----------------
#
# An average hides groups. Cars of each origin by themselves:

covered = metrics.coverage_by(dist, y_test, x_test["Origin"], level=0.9)
fig, ax = plt.subplots(figsize=(7, 3))
plots.coverage_by(covered, ax=ax)

# %%
# Where a group's coverage must be right whatever the model does, conformal intervals guarantee it, on
# rows that neither trained nor tested. Half of the test rows serve to calibrate, to show how it is done;
# there are few of them, so that the intervals are wide.

half = len(test) // 2
origin = x_test["Origin"].to_numpy()
before = model.predict_dist(x_test[:half])
conformal = MondrianConformal.fit(before, y_test[:half], origin[:half])
guarded = conformal(model.predict_dist(x_test[half:]), origin[half:])
lower, upper = guarded.interval(0.8)
print(f"inside 80 % intervals: {np.mean((lower <= y_test[half:]) & (y_test[half:] <= upper)):.2f}")

# %%
# What carries the prediction
# ---------------------------
#
# The importance of a column is how much the CRPS rises when its values are shuffled among the rows.

found = importance.permutation(model.predict_dist, x_test, y_test)
fig, ax = plt.subplots(figsize=(7, 3.5))
plots.importance(found, ax=ax)

# %%
# Keep it, and write a report
# ---------------------------

model.save(folder / "cars.model")
again = DeepEnsembleRegressor.load(folder / "cars.model")
np.testing.assert_array_equal(again.predict(x_test), model.predict(x_test))

# %%
# The command does all of this in one line, report included:
#
# .. code-block:: bash
#
#    jaxreg fit cars.csv --target Miles_per_Gallon --out cars.model --report report.html
#    jaxreg predict cars.model new.csv --out predictions.csv --level 0.9
#
# The report is one file that opens in any browser, without a network.
