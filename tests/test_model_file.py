import json
import os
import stat
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest
from flax.linen import gelu, leaky_relu
from safetensors.numpy import load_file, save_file

from jaxreg import (
    Columns,
    FamilyRegressor,
    Fitted,
    MeanOnlyRegressor,
    MeanVarRegressor,
    MixtureRegressor,
    NaturalRegressor,
    PeriodicEmbedding,
    Scaler,
    settings,
)
from jaxreg.calibration.scaling import NoiseScaling, VarianceScaling
from jaxreg.model import archive, model_file

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 2)) * [1.0, 1e3]


def make(model=None, seed=0, outputs=1):
    model = model or MeanVarRegressor(hidden=(8, 4))
    params = model.init(jax.random.key(seed), X.astype(np.float32))
    y = 1e6 + RNG.normal(size=20 if outputs == 1 else (20, outputs))
    targets = {"target_names": tuple("yzw"[:outputs]), "target_dtypes": ("float64",) * outputs}
    return Fitted(
        model, params, Scaler.fit(X), Scaler.fit(y), ("a", "ü b"), settings={"epochs": 3},
        feature_dtypes=("float32", "int64"), scores={"loss": 0.5, "nll": None}, **targets,
    )  # fmt: skip


@pytest.mark.parametrize(
    "model, outputs",
    [
        (MeanVarRegressor(hidden=(8, 4)), 1),
        (MeanVarRegressor(hidden=(8,), outputs=3, activation=gelu), 3),
        (MeanOnlyRegressor(hidden=()), 1),
        (NaturalRegressor(hidden=(4,)), 1),
        (MeanVarRegressor(hidden=(4,), detach_variance=True), 1),
        (MixtureRegressor(hidden=(4,), components=3, smallest_std=0.25), 1),
        (MixtureRegressor(hidden=(4,), components=4, outputs=2), 2),
        (FamilyRegressor(hidden=(4,), family="StudentT", outputs=2), 2),
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
    bare = Fitted(*make()[:4])
    model_file.save(tmp_path / "m", bare)
    assert model_file.load(tmp_path / "m")[4:] == (None,) * 9


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


GOLDEN = Path(__file__).parent / "models"


@pytest.mark.parametrize("number", [1, 2, 3, archive.FORMAT])
def test_files_of_every_format_are_read(number):
    """Written once by the version that had the format; `models/README.md` says how."""
    expected = json.loads((GOLDEN / "predictions.json").read_text())[f"format-{number}"]
    header = model_file.read_header(GOLDEN / f"format-{number}.safetensors")
    assert header.format == number
    prediction = model_file.load(GOLDEN / f"format-{number}.safetensors").predict(expected["x"])
    np.testing.assert_allclose(prediction.mean, expected["mean"], rtol=1e-5)
    np.testing.assert_allclose(prediction.std, expected["std"], rtol=1e-5)


def test_the_file_is_json_and_arrays(tmp_path, monkeypatch):
    model_file.save(tmp_path / "m", make())
    content = (tmp_path / "m").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    outer = json.loads(content[8 : 8 + length])
    header = json.loads(outer["__metadata__"]["jaxreg"])
    assert header["format"] == archive.FORMAT
    assert header["model"] == {
        "kind": "MeanVarRegressor", "hidden": [8, 4], "outputs": None, "activation": "relu"
    }  # fmt: skip
    assert header["feature_names"] == ["a", "ü b"] and set(header["versions"]) == {"jaxreg", "jax", "flax"}

    def forbid(*_, **__):
        pytest.fail("the file was unpickled or run")

    for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "builtins.eval", "marshal.loads"):
        monkeypatch.setattr(name, forbid)
    monkeypatch.setattr(model_file, "_faults", lambda *_: iter(()))  # it traces, which may eval
    model_file.load(tmp_path / "m")


def test_a_failing_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m"
    model_file.save(path, make())
    path.chmod(0o640)
    old = path.read_bytes()

    def fail(temporary, content):
        with temporary.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
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
    """Write a model file with another header, or with arrays changed (None takes one out), and its digest."""
    model_file.save(path, make())
    kept = {name: a for name, a in (load_file(path) | arrays).items() if a is not None}
    if isinstance(header, str):
        save_file(kept, path, metadata={"jaxreg": header})
    else:
        archive.write(path, "model", header_of(path) | (header or {}), kept)


def header_of(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["jaxreg"])


def test_a_change_anywhere_is_found(tmp_path):
    path = tmp_path / "m"
    model_file.save(path, make())
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for bit in rng.choice(8 * len(whole), 1000, replace=False):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=f"^{path} "):
            model_file.read_header(path)


SAME_TO_SAFETENSORS = {
    "a blank": (b'"__metadata__":{', b'"__metadata__":\n{'),
    "a letter's spelling": (b'"jaxreg":', b'"jaxre\\u0067":'),
    "an entry beside": (b'"__metadata__":{', b'"__metadata__":{"more":"words",'),
}


@pytest.mark.parametrize("what", SAME_TO_SAFETENSORS)
def test_a_change_that_safetensors_does_not_see_is_found(tmp_path, what):
    path = tmp_path / "m"
    model_file.save(path, make())
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    text = content[8 : 8 + length].replace(*SAME_TO_SAFETENSORS[what])
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    assert load_file(path)
    with pytest.raises(ValueError, match=f"{path} is damaged: its content isn't what was written"):
        model_file.load(path)


def test_a_change_in_a_file_of_format_3_is_found(tmp_path):
    """Its digest is of its header and arrays, which safetensors may have written in another way."""
    whole = (GOLDEN / "format-3.safetensors").read_bytes()
    for old, new in ((b"rooms", b"rooma"), (whole[-4:], b"\0\0\x80?"), (b"586a17b2", b"586a17b3")):
        (tmp_path / "m").write_bytes(whole.replace(old, new))
        with pytest.raises(ValueError, match="damaged: its content isn't what was written"):
            model_file.load(tmp_path / "m")


def test_a_header_longer_than_is_read_is_not_written(tmp_path):
    fitted = make()._replace(settings={"words": "x" * archive.LONGEST_HEADER})
    with pytest.raises(ValueError, match="m can't be written: its header has 16,77.,... characters"):
        model_file.save(tmp_path / "m", fitted)
    assert not os.listdir(tmp_path)


def test_an_array_that_could_not_be_read_is_not_written(tmp_path):
    header = {"format": archive.FORMAT, "versions": {}}
    with pytest.raises(ValueError, match="m can't be written: a file can't hold arrays of bfloat16"):
        archive.write(tmp_path / "m", "checkpoint", header, {"a": np.asarray(jnp.ones(3, jnp.bfloat16))})
    assert not os.listdir(tmp_path)


def test_a_checkpoint_is_no_model(tmp_path):
    archive.write(tmp_path / "m", "checkpoint", {"format": archive.FORMAT, "versions": {}}, {"a": X})
    with pytest.raises(ValueError, match="m holds arrays but no jaxreg model"):
        model_file.load(tmp_path / "m")


def test_a_file_without_its_digest(tmp_path):
    model_file.save(tmp_path / "m", make())
    header = header_of(tmp_path / "m")
    header.pop("sha256")
    save_file(load_file(tmp_path / "m"), tmp_path / "m", metadata={"jaxreg": json.dumps(header)})
    with pytest.raises(ValueError, match="digest is missing"):
        model_file.load(tmp_path / "m")


BIG = {"kind": "MeanVarRegressor", "activation": "relu", "hidden": [8, 4], "outputs": None}


@pytest.mark.parametrize(
    "header, match",
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged.*format"),
        ('{"format": "new"}', "damaged"),
        ('{"format": 1}', "damaged.*model"),
        ({"format": 99}, f"format 99, .* up to {archive.FORMAT}: upgrade jaxreg"),
        (
            {"model": {"kind": "Forest", "activation": "relu", "hidden": [], "outputs": None}},
            "asks for a Forest",
        ),
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
        ({"shape": 3}, "damaged.*unknown field `shape`"),
        ({"members": -1}, "damaged.*>= 1"),
        ({"model": BIG | {"hidden": [10**12]}}, "asks for more than"),
        ({"model": BIG | {"hidden": [8] * 10**5}}, "damaged: its network has 100,000 hidden layers"),
        ({"model": BIG | {"outputs": 10**12}}, "asks for more than"),
        ({"model": BIG | {"embedding": {"frequencies": 10**9, "scales": [0.1, 1.0]}}}, "asks for more than"),
        ({"members": 10**12}, "asks for more than"),
        ({"model": BIG | {"hidden": [10**100]}}, "damaged"),
        ('{"format": 3, "settings": ' + "[" * 10_000 + "]" * 10_000 + "}", "damaged.*Recursion"),
        ('{"format": 3, "format": 1}', "damaged.*a name stands twice"),
        ('{"format": 3' + " " * archive.LONGEST_HEADER + "}", "damaged: its header has 16,777,"),
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
        ({"x_scaler/loc": None, "x_scaler/scale": None}, "x_scaler/loc, x_scaler/scale"),
        ({"x_scaler/scale": None}, "damaged"),
        ({"y_scaler/other": np.zeros(1)}, "damaged"),
        ({"x_scaler/loc": np.zeros(3)}, "don't fit"),
        ({"x_scaler/loc": np.zeros((2, 1))}, "don't fit"),
        ({"params/more": np.zeros(3)}, "params/more"),
        ({"../../etc/passwd": np.zeros(3)}, "don't fit"),
        ({"params": np.zeros(3)}, "don't fit"),
        ({"y_scaler/loc": np.zeros((), np.int64)}, "don't fit"),
        ({"params/mean/bias": np.zeros(1, np.float16)}, "don't fit"),
        ({"calibration/factor": np.ones(())}, "don't fit"),
    ],
)
def test_broken_arrays(tmp_path, arrays, match):
    damaged(tmp_path / "m", **arrays)
    with pytest.raises(ValueError, match=match):
        model_file.load(tmp_path / "m")


def nested(depth):
    return {"a": nested(depth - 1)} if depth else {}


DEEP = [1] * (settings.MOST_LAYERS + 1)
MANY = {f"params/more_{i}": np.zeros(1) for i in range(len(DEEP))}
MEAN, POSITIVE, UNKNOWN = "params/mean_head/bias", "numbers that aren't positive", "NaN or infinite"


@pytest.mark.parametrize(
    "header, arrays, match",
    [
        *(({}, {MEAN: np.full(1, bad)}, f"{MEAN} has .*{UNKNOWN}") for bad in (np.nan, np.inf, -np.inf)),
        *(({}, {"y_scaler/loc": np.array(bad)}, f"y_scaler/loc has .*{UNKNOWN}") for bad in (np.nan, np.inf)),
        *(({}, {"y_scaler/scale": np.array(bad)}, "y_scaler/scale has") for bad in (-1.0, 0, np.nan, np.inf)),
        *(({}, {"x_scaler/loc": np.array([0, bad])}, "x_scaler/loc has") for bad in (np.nan, np.inf)),
        *(
            ({}, {"x_scaler/scale": np.array([1, bad])}, "x_scaler/scale has")
            for bad in (-1, 0, np.nan, -np.inf)
        ),
        *(
            ({"calibration": "NoiseScaling"}, {"calibration/factor": np.array(bad)}, "calibration/factor has")
            for bad in (-1, 0.0, np.nan, np.inf)
        ),
        ({"target_names": ["y", "z"]}, {}, "its target_names are 2 and its targets 1"),
        ({"target_names": []}, {}, "its target_names are 0 and its targets 1"),
        ({"feature_names": ["a"]}, {}, "its feature_names are 1 and its features 2"),
        ({"feature_dtypes": ["int8"] * 3}, {}, "its feature_dtypes are 3 and its features 2"),
        ({"target_dtypes": []}, {}, "its target_dtypes are 0 and its targets 1"),
        ({"feature_names": ["a", "a"]}, {}, "its feature_names repeat column 'a'"),
        ({}, {"x_scaler/loc": np.zeros(0), "x_scaler/scale": np.zeros(0)}, "x_scaler/loc don't fit"),
        *(
            ({"model": BIG | {"embedding": {"frequencies": 2, "scales": scales}}}, {}, "scales must be")
            for scales in ([0.0, 1.0], [-1.0, 1.0], [2.0, 1.0])
        ),
        ({"model": BIG | {"hidden": DEEP}}, MANY, "its network has 257 hidden layers, a file may hold 256"),
        ({"settings": nested(17)}, {}, "its settings are nested more than 16 deep"),
        ({"settings": nested(480)}, {}, "its settings are nested more than 16 deep"),
    ],
)
def test_impossible_content_with_a_right_digest(tmp_path, header, arrays, match):
    path = tmp_path / "m"
    arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    damaged(path, header, **arrays)
    with pytest.raises(ValueError, match=f"^{path} is damaged: .*{match}"):
        model_file.load(path)


def test_a_header_that_can_only_be_shown_is_refused_too(tmp_path):
    for header, match in ({"settings": nested(480)}, "nested"), ({"model": BIG | {"hidden": DEEP}}, "257"):
        damaged(tmp_path / "m", header)
        with pytest.raises(ValueError, match=f"is damaged: .*{match}"):
            model_file.read_header(tmp_path / "m")


@pytest.mark.parametrize(
    "change, match",
    [
        ({"model": MeanVarRegressor(hidden=DEEP)}, "its network has 257 hidden layers"),
        ({"settings": nested(17)}, "its settings are nested more than 16 deep"),
        ({"settings": {"a": 1, "b": [[], nested(400)]}}, "more than 16 deep"),
        ({"y_scaler": Scaler(np.zeros(()), np.zeros(()))}, f"y_scaler/scale has {POSITIVE}"),
        ({"target_names": ("y", "z")}, "its target_names are 2"),
        ({"members": 2}, "don't fit its MeanVarRegressor"),
        ({"calibration": NoiseScaling(np.nan)}, f"calibration/factor has .*{UNKNOWN}"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, change, match):
    with pytest.raises(ValueError, match=f"^the model can't be saved: .*{match}"):
        model_file.save(tmp_path / "m", make()._replace(**change))
    assert not os.listdir(tmp_path)


def test_what_is_just_possible(tmp_path):
    """A constant feature has an infinite scale; settings may be nested."""
    kept = make()._replace(x_scaler=Scaler(np.zeros(2), np.array([1, np.inf])), settings=nested(15))
    model_file.save(tmp_path / "m", kept)
    loaded = model_file.load(tmp_path / "m")
    assert loaded.settings == kept.settings
    np.testing.assert_array_equal(loaded.x_scaler.scale, [1, np.inf])
    assert np.isfinite(loaded.predict(X).std).all()


def with_columns(frame, **settings):
    """A model on the columns of a frame, with parameters as they start."""
    columns = Columns.fit(frame, **settings)
    model = MeanVarRegressor(hidden=(4,), embedding=columns.embedding(PeriodicEmbedding(2, (0.1, 1.0))))
    params = model.init(jax.random.key(0), columns.transform(frame).astype(np.float32))
    return Fitted(model, params, columns, Scaler.fit([1.0, 5.0, 9.0]), columns.names, ("y",))


FRAME = pd.DataFrame(
    {
        "area": [50.0, None, 80.0] * 30,
        "city": ["Rome", "Oslo", "\x1b[31m"] * 30,
        "street": [f"street {i % 15}" for i in range(90)],
        "size": pd.Categorical(["S", "M", "L"] * 30, ["S", "M", "L"], ordered=True),
        "sold": pd.date_range("2024-01-01", periods=90, freq="37h"),
        "built": [f"{i % 28 + 1}.{i % 12 + 1}.2020" for i in range(90)],
        "one": 1,
    }
)


@pytest.mark.filterwarnings("ignore:columns taken otherwise")
def test_learned_columns_are_kept(tmp_path):
    fitted = with_columns(FRAME, drop=["one"])
    model_file.save(tmp_path / "m", fitted)
    loaded = model_file.load(tmp_path / "m")
    assert loaded.model == fitted.model and loaded.x_scaler == fitted.x_scaler
    shuffled = FRAME.sample(frac=1, random_state=0)[[*reversed(FRAME.columns)]]
    for rows in (FRAME, shuffled, pl.from_pandas(FRAME)):
        np.testing.assert_array_equal(loaded.predict(rows).mean, fitted.predict(rows).mean)
    odd = FRAME[:2].assign(city=["Bonn", None], area=["?", 7], street="elsewhere", sold=None)
    with pytest.warns(UserWarning, match="'city' .2 rows., 'street' .2 rows., 'sold' .2 rows."):
        assert np.isfinite(loaded.predict(odd).std).all()
    with pytest.raises(ValueError, match="lacks column 'city'"):
        loaded.predict(FRAME.drop(columns="city"))
    other = fitted._replace(model=MeanVarRegressor(hidden=(4,)))
    with pytest.raises(ValueError, match="or the embedding of its Columns"):
        model_file.save(tmp_path / "n", other)


@pytest.mark.filterwarnings("ignore:columns taken otherwise")
@pytest.mark.parametrize(
    "column, change, fault",
    [
        (0, {"kind": "magic"}, "columns can't be understood .KeyError: 'magic'"),
        (0, {"center": "x"}, "columns can't be understood .ValidationError"),
        (0, {"scale": -1.0}, "column 'area': its center is .*, its scale -1"),
        (0, {"name": "city"}, "column 'city': more than one column has that name"),
        (1, {"levels": ["Rome", "Rome", "Oslo"]}, "column 'city': a level stands twice"),
        (1, {"levels": ["Rome"]}, "column 'city': the shares of its 1 inputs are"),
        (1, {"levels": ["Rome"], "shares": [0.5]}, "don't fit its MeanVarRegressor"),
        (1, {"shares": [0.5, 0.5, 0]}, "column 'city': the shares of its 3 inputs are"),
        (2, {"size": 10**6}, "its 15 levels have vectors of 1000000"),
        (3, {"order": ["S", "S", "L"]}, "column 'size': a level stands twice"),
        (4, {"first": "yesterday"}, "columns can't be understood"),
        (5, {"time_format": "%Q"}, "column 'built': its format is '%Q'"),
        (6, {"kind": None}, "columns can't be understood"),
    ],
)
def test_columns_that_no_table_has_are_refused(tmp_path, column, change, fault):
    model_file.save(tmp_path / "m", with_columns(FRAME, drop=["one"]))
    header, arrays = archive.read(tmp_path / "m", "model")
    header["columns"][column] |= change
    archive.write(tmp_path / "m", "model", header, arrays)
    with pytest.raises(ValueError, match=fault):
        model_file.load(tmp_path / "m")
