"""A pipeline and a search
=======================

``DeepEnsembleRegressor`` is a scikit-learn regressor: it can be the last step of a pipeline, and
``GridSearchCV`` can search its settings. ``metrics.neg_crps`` scores the whole predicted distribution, where
R squared would score the mean alone.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from jaxreg import DeepEnsembleRegressor, metrics

rng = np.random.default_rng(0)
x = rng.lognormal(0, 1.5, (512, 3))
y = np.sin(2 * np.log(x[:, 0])) + 0.3 * np.log(x[:, 1]) + 0.2 * x[:, 2] ** 0.3 * rng.normal(size=512)

# %%
# The search tries the pipeline with and without a logarithm of the features, and three scales of the
# frequencies that the network starts with. Settings of a step have its name and two underscores before them.

pipeline = Pipeline([
    ("logarithm", FunctionTransformer(np.log)),
    ("model", DeepEnsembleRegressor(members=3, hidden=(64,), epochs=100, noise=1, random_state=0)),
])  # fmt: skip
settings = {
    "logarithm": [FunctionTransformer(np.log), "passthrough"],
    "model__frequency_scale": [0.0, 0.25, 1.0],
}
splits = ShuffleSplit(5, test_size=64, random_state=0)
search = GridSearchCV(pipeline, settings, scoring=metrics.neg_crps, cv=splits, error_score="raise")
search.fit(x, y)
print("best:", search.best_params_)

# %%
# Lower is better. Points are single splits, lines their means.

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
scores = np.stack([search.cv_results_[f"split{i}_test_score"] for i in range(5)])
for i, (values, tried) in enumerate(zip(-scores.T, search.cv_results_["params"], strict=True)):
    logged = tried["logarithm"] != "passthrough"
    ax.scatter(np.full(5, i), values, s=14, alpha=0.6, color="C0" if logged else "C1")
    ax.hlines(
        values.mean(), i - 0.3, i + 0.3, color="C0" if logged else "C1", label={0: "log x", 3: "x"}.get(i)
    )
ax.set_xticks(range(6), [tried["model__frequency_scale"] for tried in search.cv_results_["params"]])
ax.set(xlabel="frequency_scale", ylabel="CRPS of held-out rows, in units of y", ylim=(0, None))
legend = ax.legend()

# %%
# The search predicts by the best pipeline, trained on all rows. Distributions come from its last step, which
# takes what the steps before it make of the features.

best = search.best_estimator_
lower, upper = best[-1].predict_interval(best[:-1].transform(x[:3]), level=0.9)
print(np.column_stack([lower, search.predict(x[:3]), upper]).round(2))
