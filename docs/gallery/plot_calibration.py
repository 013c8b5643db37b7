"""An overconfident model, and two corrections
===========================================

A network that was trained for too long predicts a std that is too small. Rows that it wasn't trained on
correct it: ``VarianceScaling`` multiplies the variance by one number, and ``isotonic.fit`` maps the levels of
the cdf to those that were observed.
"""

import jax
import matplotlib.pyplot as plt

from jaxreg import MeanVarRegressor, data, fit, isotonic, make_trainer, metrics, plots, predict, sgd
from jaxreg.calibration import VarianceScaling

train = data.sinusoid(jax.random.key(13), 128)
held_out_x, held_out_y = data.sinusoid(jax.random.key(1), 500)
fresh_x, fresh_y = data.sinusoid(jax.random.key(2), 1000)
model = MeanVarRegressor()
state, _ = fit(3, make_trainer(model, sgd(5e-3)), train, epochs=2000, batch_size=16)

# %%
# Both are fitted to one set of held-out rows and judged by another.

held_out, fresh = (predict(model, state.params, x) for x in (held_out_x, fresh_x))
predictions = {
    "before": fresh,
    "VarianceScaling": VarianceScaling.fit(held_out, held_out_y)(fresh),
    "isotonic": isotonic.fit(held_out, held_out_y)(fresh),
}

# %%
# An overconfident model's curve is too flat in the middle: too many values lie below its low quantiles and
# above its high ones. A right one stays in the grey band. One number for the variance corrects how wide the
# intervals are on the whole. Isotonic levels correct the shape too, and need more held-out rows for that.

figure, axes = plt.subplots(1, 3, figsize=(9, 3.6), layout="constrained")
for ax, (name, prediction) in zip(axes, predictions.items(), strict=True):
    plots.reliability(prediction, fresh_y, title=name, ax=ax)
    if ax is not axes[0]:
        ax.get_legend().remove()
    print(
        f"{name}: calibration error {metrics.calibration_error(prediction, fresh_y):.3f}, "
        f"95 % intervals hold {metrics.coverage(prediction, fresh_y):.1%}"
    )
