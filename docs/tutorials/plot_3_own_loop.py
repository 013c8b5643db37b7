"""
Your own network, loss and loop
===============================

A Linen module of your own with a head for Student's t, trained in a loop of your own: ``trainer.step`` is a
pure function that is jitted, mapped over and differentiated like any other.
"""

# %%
# The network
# -----------
#
# A network returns a distribution. Student's t has three fields: location, log scale and log degrees of
# freedom, each of shape ``(n,)``. ``StudentT.from_raw`` makes them of any three numbers, so that the scale is
# positive and the degrees of freedom are at least 2.1: at 2 and below there is no standard deviation.

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxreg import Fitted, Scaler, StudentT, make_trainer, metrics, predict, run_epochs, sgd

print(StudentT._fields)


class Network(nn.Module):
    """Two hidden layers, and a head for each field."""

    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Dense(32)(nn.tanh(nn.Dense(32)(x))))
        fields = nn.Dense(3)(h)
        return StudentT.from_raw(fields[:, 0], fields[:, 1], fields[:, 2])


key = jax.random.key(0)
x_key, noise_key, key = jax.random.split(key, 3)
x = jax.random.uniform(x_key, (400, 1), minval=-3, maxval=3)
y = jnp.sin(2 * x[:, 0]) + 0.2 * jax.random.t(noise_key, 2.0, (400,))  # heavy tails

# %%
# The loop
# --------
#
# Without a loss the trainer takes ``-log_prob`` of what the network returns. ``init`` makes a state, and
# ``step`` a new state and the loss of the batch. Nothing else is kept anywhere.

model = Network()
trainer = make_trainer(model, sgd(5e-3, momentum=0.9))
state = trainer.init(key, x)
losses = []
for epoch in range(60):
    order = jax.random.permutation(jax.random.fold_in(key, epoch), len(y))
    for rows in order.reshape(-1, 50):
        state, loss = trainer.step(state, (x[rows], y[rows]))
    losses.append(float(loss))
print(f"first and last loss: {losses[0]:.2f}, {losses[-1]:.2f}")

grid = jnp.linspace(-3, 3, 50)[:, None]
dist = predict(model, state.params, grid)
lower, upper = dist.interval(0.9)
fig, ax = plt.subplots(figsize=(7, 4))
ax.plot(x[:, 0], y, ".", color="0.6", label="data")
ax.plot(grid[:, 0], dist.loc, label="median")
ax.fill_between(grid[:, 0], lower, upper, alpha=0.3, label="90 % interval")
ax.set(xlabel="x", ylabel="y", ylim=(-4, 4))
ax.legend()

# %%
# Scores, scales, and units
# -------------------------
#
# What the network predicts has scores like any other distribution:

scores = metrics.evaluate(predict(model, state.params, x), y, level=0.9)
print(f"inside: {scores['coverage']:.2f}, CRPS: {scores['crps']:.2f}")

# %%
# These data are near 0 and 1. Rows of other sizes are standardised before, or the loop learns very little.
# ``Fitted`` puts model and scales together, and predicts in the target's units:

y_large = 500 + 30 * y
x_scaler, y_scaler = Scaler.fit(x), Scaler.fit(y_large)
rows = x_scaler.transform(x), y_scaler.transform(y_large)
large = trainer.init(key, rows[0])
for _ in range(200):
    large, loss = trainer.step(large, rows)
five = Fitted(model, large.params, x_scaler, y_scaler).predict(x[:5])
print("mean and std of five rows:", np.round(five.mean), np.round(five.std))

# %%
# A model file holds jaxreg's own networks alone. Parameters of yours are a tree of arrays, which Orbax, or
# ``flax.serialization.to_bytes``, keeps.

# %%
# A loss of your own
# ------------------
#
# A loss is elementwise, ``(y, *fields)``. This one asks for degrees of freedom that aren't too large:


def penalised(y, loc, log_scale, log_df):
    return -StudentT(loc, log_scale, log_df).log_prob(y) + 0.01 * log_df**2


own = make_trainer(model, sgd(5e-3, momentum=0.9), penalised)
own_state, loss = own.step(own.init(key, x), (x, y))
print(f"its first loss: {loss:.2f}")

# %%
# The loop as one program
# -----------------------
#
# ``run_epochs`` is the loop above as a pure function of its key, for ``jit``, ``vmap`` and ``grad``.
# Eight runs with different keys are one call:

epochs, batch_size = 30, 50


@jax.jit
@jax.vmap
def train(key):
    state = trainer.init(key, x)
    state, losses = run_epochs(key, trainer, state, (x, y), epochs=epochs, batch_size=batch_size)
    return state.params, losses


params, losses = train(jax.random.split(key, 8))
print("last loss of each run:", np.round(losses[:, -1], 2))

# %%
# Gradients through training
# --------------------------
#
# The loss after a few steps is a function of the learning rate, and has a derivative. A number of the
# optimizer that is traced makes it one:


def after_training(learning_rate):
    trainer = make_trainer(model, sgd(learning_rate, momentum=0.9))
    state = trainer.init(key, x)
    _, losses = run_epochs(key, trainer, state, (x, y), epochs=2, batch_size=batch_size)
    return losses[-1]


value, slope = jax.value_and_grad(after_training)(1e-3)
print(f"loss {value:.3f}, and {slope:.0f} for each unit of the learning rate")
