import json
import os
import stat
import struct

import jax
import numpy as np
import pytest
from flax.linen import gelu, leaky_relu
from safetensors.numpy import load_file, save_file

from jaxreg import (
    Fitted,
    MeanOnlyRegressor,
    MeanVarRegressor,
    NaturalRegressor,
    PeriodicEmbedding,
    Scaler,
    model_file,
)
from jaxreg.calibration import NoiseScaling, VarianceScaling

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 2)) * [1.0, 1e3]


def make(model=None, seed=0, outputs=1):
    model = model or MeanVarRegressor(hidden=(8, 4))
    params = model.init(jax.random.key(seed), X.astype(np.float32))
    y = 1e6 + RNG.normal(size=20 if outputs == 1 else (20, outputs))
    return Fitted(model, params, Scaler.fit(X), Scaler.fit(y), ("a", "ü b"), ("y",), {"epochs": 3})


@pytest.mark.parametrize(
    "model, outputs",
    [
        (MeanVarRegressor(hidden=(8, 4)), 1),
        (MeanVarRegressor(hidden=(8,), outputs=3, activation=gelu), 3),
        (MeanOnlyRegressor(hidden=()), 1),
        (NaturalRegressor(hidden=(4,)), 1),
        (MeanVarRegressor(hidden=(4,), detach_variance=True), 1),
        (MeanVarRegressor(hidden=(4,), embedding=PeriodicEmbedding(3, (0.1, 2.0))), 1),
    ],
)
def test_round_trip(tmp_path, model, outputs):
    fitted = make(model, outputs=outputs)
    model_file.save(tmp_path / "m", fitted)
    loaded = model_file.load(str(tmp_path / "m"))
    assert loaded.model == model
    assert loaded[4:] == fitted[4:]
    for a, b in zip(loaded[1:4], fitted[1:4], strict=True):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        jax.tree.map(np.testing.assert_array_equal, a, b)
    ours, theirs = fitted.predict(X), loaded.predict(X)
    np.testing.assert_array_equal(ours.mean, theirs.mean)
    np.testing.assert_array_equal(ours.std, theirs.std)
    assert os.listdir(tmp_path) == ["m"]


def test_names_may_be_absent(tmp_path):
    model_file.save(tmp_path / "m", make()._replace(feature_names=None, target_names=None, settings=None))
    assert model_file.load(tmp_path / "m")[4:] == (None, None, None, None, None)


@pytest.mark.parametrize("calibration", [None, NoiseScaling(1.7), VarianceScaling(np.array([0.3, 2.0]))])
def test_an_ensemble_and_its_calibration(tmp_path, calibration):
    fitted = make(MeanVarRegressor(hidden=(4,), outputs=2), outputs=2)
    members = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf, leaf + 1]), fitted.params)
    fitted = fitted._replace(params=members, members=3, calibration=calibration)
    model_file.save(tmp_path / "m", fitted)
    loaded = model_file.load(tmp_path / "m")
    assert loaded.members == 3 and type(loaded.calibration) is type(calibration)
    ours, theirs = fitted.predict(X), loaded.predict(X)
    assert ours.dist.means.shape == (3, 20, 2)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    damaged(tmp_path / "m", {"members": 4})
    with pytest.raises(ValueError, match="don't fit"):
        model_file.load(tmp_path / "m")


def test_a_file_of_the_first_format(tmp_path):
    whole = make()
    model_file.save(tmp_path / "m", whole)
    kept = load_file(tmp_path / "m")
    header = {
        "format": 1,
        "model": {"kind": "MeanVarRegressor", "hidden": [8, 4], "outputs": None, "activation": "relu"},
        "feature_names": None,
        "target_names": None,
        "settings": None,
        "versions": {"jaxreg": "0.1.0"},
    }
    save_file(kept, tmp_path / "m", metadata={"jaxreg": json.dumps(header)})
    jax.tree.map(np.testing.assert_array_equal, model_file.load(tmp_path / "m").predict(X), whole.predict(X))


def test_the_file_is_json_and_arrays(tmp_path, monkeypatch):
    model_file.save(tmp_path / "m", make())
    content = (tmp_path / "m").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    outer = json.loads(content[8 : 8 + length])
    header = json.loads(outer["__metadata__"]["jaxreg"])
    assert header["format"] == model_file.FORMAT
    assert header["model"] == {
        "kind": "MeanVarRegressor", "hidden": [8, 4], "outputs": None, "activation": "relu"
    }  # fmt: skip
    assert header["feature_names"] == ["a", "ü b"] and set(header["versions"]) == {"jaxreg", "jax", "flax"}

    def forbid(*_, **__):
        pytest.fail("the file was unpickled or run")

    for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "builtins.eval", "marshal.loads"):
        monkeypatch.setattr(name, forbid)
    monkeypatch.setattr(model_file, "_check_params", lambda *_: None)  # it compiles, which may eval
    model_file.load(tmp_path / "m")


def test_a_failing_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m"
    model_file.save(path, make())
    path.chmod(0o640)
    old = path.read_bytes()

    def fail(arrays, temporary, **_):
        temporary.write_bytes(old[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(model_file, "save_file", fail)
        with pytest.raises(OSError, match="No space left"):
            model_file.save(path, make(seed=1))
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["m"]
    model_file.save(path, make(seed=1))
    assert path.read_bytes() != old and os.listdir(tmp_path) == ["m"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_where_and_what_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        model_file.save(tmp_path, make())
    with pytest.raises(ValueError, match="none doesn't exist"):
        model_file.save(tmp_path / "none" / "m", make())
    with pytest.raises(ValueError, match="activation is one of relu"):
        model_file.save(tmp_path / "m", make(MeanVarRegressor(hidden=(4,), activation=leaky_relu)))
    assert not os.listdir(tmp_path)


def test_files_that_are_none(tmp_path):
    path = tmp_path / "m"
    with pytest.raises(FileNotFoundError, match="no model file"):
        model_file.load(path)
    model_file.save(path, make())
    whole = path.read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    contents = [whole[:n] for n in (0, 1, 7, 8, 100, 8 + header, len(whole) - 1)]
    contents += [b"hello, world\n" * 9, whole[:9] + b"}" + whole[10:], whole + b"\0", b"\xff" * 500]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} is truncated or isn't a jaxreg model file"):
            model_file.load(path)
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="no jaxreg model"):
        model_file.load(path)


def damaged(path, header=None, **arrays):
    """Write a model file with another header, or with arrays changed (None takes one out)."""
    model_file.save(path, make())
    kept = {name: a for name, a in (load_file(path) | arrays).items() if a is not None}
    content = path.read_bytes()
    whole = json.loads(
        json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]["jaxreg"]
    )
    text = header if isinstance(header, str) else json.dumps(whole | (header or {}))
    save_file(kept, path, metadata={"jaxreg": text})


@pytest.mark.parametrize(
    "header, match",
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged.*format"),
        ('{"format": "new"}', "damaged"),
        ('{"format": 1}', "damaged.*model"),
        ({"format": 99}, "format 99, .* up to 2: upgrade jaxreg"),
        ({"model": {"kind": "Forest", "activation": "relu", "hidden": []}}, "asks for Forest"),
        (
            {"model": {"kind": "MeanVarRegressor", "activation": "relu", "hidden": [8, 4], "depth": 1}},
            "damaged",
        ),
        (
            {"model": {"kind": "MeanVarRegressor", "activation": "relu", "hidden": [8, 5], "outputs": 1}},
            "damaged: the arrays .* don't fit its MeanVarRegressor",
        ),
        ({"model": 3}, "damaged"),
        ({"feature_names": 3}, "damaged"),
    ],
)
def test_broken_headers(tmp_path, header, match):
    damaged(tmp_path / "m", header)
    with pytest.raises(ValueError, match=match) as caught:
        model_file.load(tmp_path / "m")
    assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    "arrays, match",
    [
        ({"x_scaler/loc": None, "x_scaler/scale": None}, "lacks the arrays of x_scaler"),
        ({"x_scaler/scale": None}, "damaged"),
        ({"y_scaler/other": np.zeros(1)}, "damaged"),
        ({"x_scaler/loc": np.zeros(3)}, "don't fit"),
        ({"params/more": np.zeros(3)}, "params|more"),
    ],
)
def test_broken_arrays(tmp_path, arrays, match):
    damaged(tmp_path / "m", **arrays)
    with pytest.raises(ValueError, match=match):
        model_file.load(tmp_path / "m")
