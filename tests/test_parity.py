"""Every number against PyTorch's, on the platform that both see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch

import jaxreg
import torch_ref.losses
import torch_ref.models
import torch_ref.training
from jaxreg import data, fit, make_trainer, predict, sgd
from jaxreg.model import torch_weights
from jaxreg.training import TrainState

CLASSES = {
    "MeanVarRegressor": (jaxreg.MeanVarRegressor, torch_ref.models.MeanVarRegressor),
    "MeanOnlyRegressor": (jaxreg.MeanOnlyRegressor, torch_ref.models.MeanOnlyRegressor),
}
SEEDS = range(20)
NOTEBOOK_SGD = (5e-3, 0.9, 1e-4)
DEVICE = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module", autouse=True)
def optimized():
    """Programs as users have them, also where other tests left one that is optimised less."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", before)


both_models = pytest.mark.parametrize("name", CLASSES)
both_outputs = pytest.mark.parametrize("outputs", [None, 2])


def to_torch(array, dtype=torch.float64):
    return torch.tensor(np.array(array), dtype=dtype, device=DEVICE)


def to_numpy(tensor):
    return tensor.detach().cpu().numpy()


def largest(a, b):
    return float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))))


def make_data(seed, outputs, n=256, dtype=np.float64):
    """The notebook's data; a second target with noise of its own where there are two outputs."""
    x, y = (np.array(a, dtype) for a in data.sinusoid(jax.random.key(seed), n))
    if outputs is not None:
        noise = np.random.default_rng(seed).normal(0, 0.5, n)
        y = np.stack([y, (np.cos(x[:, 0]) + noise).astype(dtype)], axis=1)
    return x, y


def make_pair(name, outputs, seed, dtype=torch.float64):
    """Both models, with PyTorch's weights."""
    build, torch_build = CLASSES[name]
    torch.manual_seed(seed)
    torch_model = torch_build(outputs=outputs).to(DEVICE, dtype)
    model = build(outputs=outputs)
    params = torch_weights.from_state_dict(model, torch_model.state_dict())
    return model, jax.tree.map(jnp.asarray, params), torch_model


def make_state(model, params, x, numbers=NOTEBOOK_SGD):
    trainer = make_trainer(model, sgd(*numbers))
    return trainer, trainer.init(jax.random.key(0), x)._replace(params=params)


def gradients(model, params, x, y):
    def loss(params):
        return jaxreg.gaussian_nll(y, *model.apply(params, x)).mean()

    return jax.grad(loss)(params)


@pytest.mark.parametrize("dtype,bound", [("float64", 1e-12), ("float32", 1e-6)])
def test_nll_and_its_gradients(agree, dtype, bound):
    rng = np.random.default_rng(0)
    n = 20_000
    log_var = np.concatenate([rng.uniform(-30, 30, n), np.repeat([-30.0, 0, 30], 4)])
    residual = np.concatenate(
        [rng.normal(size=n) * 10.0 ** rng.uniform(-6, 6, n), np.tile([0, 1e-6, 1e6, -1e6], 3)]
    )
    mean = np.concatenate([rng.normal(size=n), np.zeros(12)])
    y, mean, log_var = (a.astype(dtype) for a in (mean + residual, mean, log_var))
    with jax.enable_x64(dtype == "float64"):
        loss = jaxreg.gaussian_nll(y, mean, log_var)
        by_mean, by_log_var = jax.grad(lambda *a: jaxreg.gaussian_nll(y, *a).sum(), argnums=(0, 1))(
            mean, log_var
        )
    m, s = (to_torch(a, getattr(torch, dtype)).requires_grad_() for a in (mean, log_var))
    torch_loss = torch_ref.losses.gaussian_nll(to_torch(y, getattr(torch, dtype)), m, s)
    torch_loss.sum().backward()

    ours = (np.asarray(a) for a in (loss, by_mean, by_log_var))
    theirs = (to_numpy(a) for a in (torch_loss, m.grad, s.grad))
    r, wide = y.astype(np.float64) - mean, log_var.astype(np.float64)
    z2 = r**2 * np.exp(-wide)
    # Terms may cancel, as log_var and z^2 do where r^2 = v: a difference is judged against their size.
    sizes = {
        "gaussian_nll": np.abs(wide) + z2,
        "gaussian_nll, gradient by mean": np.abs(r) * np.exp(-wide),
        "gaussian_nll, gradient by log_var": 0.5 * (1 + z2),
    }
    for (what, size), a, b in zip(sizes.items(), ours, theirs, strict=True):
        apart = np.abs(a.astype(np.float64) - b)
        agree(what, np.max(apart / np.where(size > 0, size, 1)), bound, dtype)


@both_models
@both_outputs
def test_forward_both_directions(agree, x64, name, outputs):
    x, _ = make_data(0, outputs)
    x = x * np.linspace(0.1, 3, len(x))[:, None]
    for seed in SEEDS:
        model, params, torch_model = make_pair(name, outputs, seed)
        fresh = model.init(jax.random.key(seed), x)
        back = torch_weights.to_state_dict(model, fresh)
        for given, module in (
            (params, torch_model),
            (fresh, CLASSES[name][1](outputs=outputs).to(DEVICE).double()),
        ):
            if given is fresh:
                module.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()})
            for ours, theirs in zip(model.apply(given, x), module(to_torch(x)), strict=True):
                agree("forward pass, weights converted both ways", largest(ours, to_numpy(theirs)), 1e-12)


@pytest.mark.parametrize("limit,bound", [(20.0, 1e-12), (60.0, 3e-9)])
def test_variance_head_where_torch_softplus_turns_linear(agree, x64, limit, bound):
    model, params, torch_model = make_pair("MeanVarRegressor", None, 0)
    raw = np.linspace(-40 if limit == 20 else 20, limit, 2001)
    # One hidden unit passes |x| on, every other weight is 0: the variance head's input is raw itself.
    state_dict = {k: np.zeros(v.shape) for k, v in torch_model.state_dict().items()}
    for weight in ("shared.0.weight", "shared.2.weight", "logvar_head.weight"):
        state_dict[weight][0, 0] = 1.0
    state_dict["logvar_head.bias"][:] = -50.0
    params = torch_weights.from_state_dict(model, state_dict)
    torch_model.load_state_dict({k: torch.from_numpy(v) for k, v in state_dict.items()})
    x = (raw + 50)[:, None]
    log_var, torch_log_var = model.apply(params, x).log_var, torch_model(to_torch(x))[1]
    what = (
        "log_var, variance head's input up to 20"
        if limit == 20
        else "log_var, variance head's input above 20"
    )
    agree(what, largest(log_var, to_numpy(torch_log_var)), bound)


@both_models
@both_outputs
def test_gradients_of_every_parameter(agree, x64, name, outputs):
    for seed in SEEDS:
        x, y = make_data(seed, outputs)
        model, params, torch_model = make_pair(name, outputs, seed)
        ours = torch_weights.to_state_dict(model, gradients(model, params, x, y))
        torch_ref.losses.gaussian_nll(to_torch(y), *torch_model(to_torch(x))).mean().backward()
        for key, parameter in torch_model.named_parameters():
            agree("gradients of every parameter", largest(ours[key], to_numpy(parameter.grad)), 1e-10)


@both_models
@both_outputs
@pytest.mark.parametrize("learning_rate", [1e-3, 5e-2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-4, 0.1])
def test_ten_sgd_steps(agree, x64, name, outputs, learning_rate, momentum, weight_decay):
    numbers = learning_rate, momentum, weight_decay
    x, y = make_data(0, outputs)
    model, params, torch_model = make_pair(name, outputs, 0)
    optimizer = torch_ref.training.sgd(torch_model, *numbers)
    trainer, state = make_state(model, params, x, numbers)
    for i in range(10):
        rows = np.asarray(data.batch_order(jax.random.key(1), i, len(x)))[:64]
        state, loss = trainer.step(state, (x[rows], y[rows]))
        torch_loss = torch_ref.training.step(torch_model, optimizer, to_torch(x[rows]), to_torch(y[rows]))
        agree("10 SGD steps, losses", largest(loss, to_numpy(torch_loss)), 1e-12)
    ours = torch_weights.to_state_dict(model, state.params)
    for key, value in torch_model.state_dict().items():
        agree("10 SGD steps, parameters", largest(ours[key], to_numpy(value)), 1e-12)


def test_adamw(agree, x64):
    x, y = make_data(0, None)
    model, params, torch_model = make_pair("MeanVarRegressor", None, 0)
    optimizer = torch.optim.AdamW(torch_model.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    trainer = jaxreg.make_trainer(model, jaxreg.adamw(3e-3, weight_decay=0.1, steps=20))
    state = trainer.init(jax.random.key(0), x)._replace(params=params)
    for _ in range(20):
        state, loss = trainer.step(state, (x, y))
        torch_loss = torch_ref.training.step(torch_model, optimizer, to_torch(x), to_torch(y))
        schedule.step()
        agree("20 AdamW steps, cosine schedule, losses", largest(loss, to_numpy(torch_loss)), 1e-12)
    ours = torch_weights.to_state_dict(model, state.params)
    for key, value in torch_model.state_dict().items():
        agree("20 AdamW steps, cosine schedule, parameters", largest(ours[key], to_numpy(value)), 1e-10)


def whole_run(name, outputs, seed, *, epochs, batch_size, n=256, dtype=np.float64):
    """A run in both libraries, from PyTorch's weights and over JAX's batches."""
    x, y = make_data(seed, outputs, n, dtype)
    torch_dtype = getattr(torch, x.dtype.name)
    model, params, torch_model = make_pair(name, outputs, seed, torch_dtype)
    trainer, state = make_state(model, params, x)
    key = jax.random.key(seed + 100)
    state, history = fit(key, trainer, (x, y), epochs=epochs, batch_size=batch_size, state=state)
    shuffled = jax.vmap(lambda epoch: data.batch_order(key, epoch, n))(jnp.arange(epochs))
    orders = to_torch(shuffled if batch_size else np.tile(np.arange(n), (epochs, 1)), torch.long)
    optimizer = torch_ref.training.sgd(torch_model, *NOTEBOOK_SGD)
    torch_history = torch_ref.training.fit_in_order(
        torch_model,
        optimizer,
        (to_torch(x, torch_dtype), to_torch(y, torch_dtype)),
        orders=orders,
        batch_size=batch_size or n,
    )
    grid = np.linspace(-3.5, 3.5, 400, dtype=dtype)[:, None]
    prediction = predict(model, state.params, grid)
    theirs = torch_ref.models.predict(torch_model, to_torch(grid, torch_dtype))
    ours = (prediction.mean, prediction.std, *prediction.interval(0.95))
    apart = max(largest(a, to_numpy(b)) for a, b in zip(ours, theirs, strict=True))
    return largest(history.loss, to_numpy(torch_history)), apart


FIRST = {"name": "MeanVarRegressor", "epochs": 800, "batch_size": 64}
SECOND = {"name": "MeanOnlyRegressor", "epochs": 300, "batch_size": None}


@pytest.mark.parametrize(
    "run,what",
    [
        (FIRST | {"outputs": None}, "800 epochs of 64"),
        pytest.param(FIRST | {"outputs": 2}, "800 epochs of 64, two outputs", marks=pytest.mark.slow),
        pytest.param(
            FIRST | {"outputs": None, "n": 250}, "800 epochs of 64 over 250 rows", marks=pytest.mark.slow
        ),
        pytest.param(
            FIRST | {"outputs": None, "name": "MeanOnlyRegressor"},
            "800 epochs of 64, second model",
            marks=pytest.mark.slow,
        ),
        (SECOND | {"outputs": None}, "300 full-batch epochs of the second model"),
        pytest.param(
            SECOND | {"outputs": 2},
            "300 full-batch epochs of the second model, two outputs",
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whole_run(request, agree, x64, run, what):
    # A run of PyTorch's takes two seconds and more: all of them are `python -m bench parity`.
    whole = request.config.getoption("--all-seeds")
    seeds = SEEDS if whole else SEEDS[:1]
    losses, predictions = zip(*(whole_run(seed=seed, **run) for seed in seeds), strict=True)
    if whole:  # some seeds drift by a few 1e-12, and few seeds may have most of them
        agree(f"{what}: losses, median of {len(seeds)} seeds", np.median(losses), 1e-12)
    agree(f"{what}: losses, worst of {len(seeds)} seeds", max(losses), 1e-8)
    agree(f"{what}: predictions and intervals, worst of {len(seeds)} seeds", max(predictions), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MeanVarRegressor", "MeanOnlyRegressor"])
@pytest.mark.parametrize("outputs", [None, 2])
def test_first_500_steps_in_float32(agree, name, outputs):
    # In float32 a ReLU flips on a rounding now and then, after which no two libraries agree: in 2 of 20 seeds
    # of the second model with two outputs (bench/LOG.md), with another JAX in others. So most seeds decide.
    apart = [
        whole_run(name, outputs, seed, epochs=125, batch_size=64, dtype=np.float32)[0] for seed in SEEDS[:5]
    ]
    agree("first 500 steps, losses, median of 5 seeds", np.median(apart), 1e-5, "float32")


@pytest.mark.parametrize("outputs", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_one_epoch_from_torch_state(agree, x64, outputs):
    x, y = make_data(0, outputs)
    model, params, torch_model = make_pair("MeanVarRegressor", outputs, 0)
    optimizer = torch_ref.training.sgd(torch_model, *NOTEBOOK_SGD)
    trainer, state = make_state(model, params, x)
    rows = to_torch(x), to_torch(y)
    for epoch in range(800):
        key = jax.random.key(epoch)
        marked = epoch > 0 and epoch % 50 == 0
        if marked:
            velocity = {k: optimizer.state[p]["momentum_buffer"] for k, p in torch_model.named_parameters()}
            start = TrainState(
                state.step,
                torch_weights.from_state_dict(model, torch_model.state_dict()),
                state.opt_state._replace(velocity=torch_weights.from_state_dict(model, velocity)),
            )
            start = jax.tree.map(jnp.asarray, start)
            ours, history = fit(key, trainer, (x, y), epochs=1, batch_size=64, state=start)
        order = to_torch(data.batch_order(key, 0, len(x)), torch.long)
        theirs = torch_ref.training.fit_in_order(torch_model, optimizer, rows, orders=[order], batch_size=64)
        if marked:
            agree("one epoch from PyTorch's state, loss", largest(history.loss, to_numpy(theirs)), 1e-12)
            weights = torch_weights.to_state_dict(model, ours.params)
            for name, value in torch_model.state_dict().items():
                agree(
                    "one epoch from PyTorch's state, parameters",
                    largest(weights[name], to_numpy(value)),
                    1e-12,
                )


@both_models
def test_initial_weights_have_torch_distribution(name):
    build, torch_build = CLASSES[name]
    x = jnp.ones((1, 5))
    torch.manual_seed(0)
    ours, theirs = {}, {}
    for seed in range(40):
        model = build(outputs=3)
        params = model.init(jax.random.key(seed), x)
        for key, value in torch_weights.to_state_dict(model, params).items():
            ours.setdefault(key, []).append(value.ravel())
        for key, value in torch_build(in_dim=5, outputs=3).state_dict().items():
            theirs.setdefault(key, []).append(value.numpy().ravel())
    assert ours.keys() == theirs.keys()
    for key, values in ours.items():
        ours_all, theirs_all = np.concatenate(values), np.concatenate(theirs[key])
        assert scipy.stats.ks_2samp(ours_all, theirs_all).pvalue > 1e-3, key
        assert np.isclose(np.abs(ours_all).max(), np.abs(theirs_all).max(), rtol=0.05, atol=1e-12), key


def test_torch_gaussian_nll(agree, x64):
    rng = np.random.default_rng(0)
    log_var = np.concatenate([rng.uniform(-30, 10, 2000), np.log([1e-6, 1e-7, 1e-5])])
    y, mean = rng.normal(size=(2, len(log_var)))
    for eps in (1e-6, 1e-2):
        loss, back = jax.vjp(lambda *a, eps=eps: jaxreg.torch_gaussian_nll(*a, eps=eps), y, mean, log_var)
        targets = [to_torch(a).requires_grad_() for a in (y, mean, log_var)]
        theirs = torch.nn.GaussianNLLLoss(reduction="none", eps=eps)(
            targets[1], targets[0], torch.exp(targets[2])
        )
        theirs.sum().backward()
        # Variances at eps make losses of 1e6: each entry is judged against its own terms.
        r2 = (y - mean) ** 2 / np.maximum(np.exp(log_var), eps)
        apart = np.abs(loss - to_numpy(theirs)) / (np.abs(log_var) + r2)
        agree("torch_gaussian_nll against nn.GaussianNLLLoss", apart.max(), 1e-12)
        for ours, target in zip(back(jnp.ones_like(loss)), targets, strict=True):
            size = 1 + np.abs(to_numpy(target.grad))
            agree(
                "torch_gaussian_nll, all gradients",
                np.max(np.abs(ours - to_numpy(target.grad)) / size),
                1e-12,
            )
