"""Model files that ask for too much, or hold what can't be."""

import json
import struct
from pathlib import Path

import numpy as np

from bench import victims
from jaxreg.model import archive, model_file

BIG, DEEP = 10**12, "[" * 10_000 + "]" * 10_000


def files(folder: Path) -> dict[str, bytes]:
    """Contents by name, with a right digest where there can be one."""
    path = folder / "whole"
    model_file.save(path, victims.fitted(0, 8))
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    outer, arrays = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    header = json.loads(outer["__metadata__"]["jaxreg"])
    network = header["model"]

    def with_header(text: str) -> bytes:
        return raw(json.dumps(outer | {"__metadata__": {"jaxreg": text}}), arrays)

    def with_model(**changes: object) -> bytes:
        return signed(header | {"model": network | changes})

    def signed(changed: dict) -> bytes:
        few = {name: np.zeros(3, np.float32) for name in ("params/mean/bias", "x_scaler/loc")}
        archive.write(path, "model", changed, few)
        return path.read_bytes()

    array = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
    as_text = json.dumps(array)
    return {
        "an array of 10^12 numbers": raw(json.dumps({"a": array | {"shape": [BIG]}}), bytes(12)),
        "an array of 10^12 bytes": raw(json.dumps({"a": array | {"data_offsets": [0, BIG]}}), bytes(12)),
        "a header of 10^18 bytes": struct.pack("<Q", 10**18) + b"{}",
        "nested 10,000 deep": raw('{"__metadata__": ' + DEEP + "}"),
        "a description nested 10,000 deep": with_header('{"format": 3, "settings": ' + DEEP + "}"),
        "an unknown type": raw(json.dumps({"a": array | {"dtype": "F99"}}), bytes(12)),
        "half floats": raw(whole[8 : 8 + length].decode().replace('"F32"', '"F16"'), arrays),
        "whole numbers": raw(whole[8 : 8 + length].decode().replace('"F32"', '"I32"'), arrays),
        "a name that is a path": raw(json.dumps({"../../etc/passwd": array}), bytes(12)),
        "an array named twice": raw(f'{{"a": {as_text}, "a": {as_text}}}', bytes(12)),
        "a word twice in its description": with_header('{"format": 3, "format": 1}'),
        "10^12 hidden units": with_model(hidden=[BIG]),
        "10^6 hidden layers": with_model(hidden=[8] * 10**6),
        "10^12 outputs": with_model(outputs=BIG),
        "10^12 frequencies": with_model(embedding={"frequencies": BIG, "scales": [0.1, 1.0]}),
        "10^12 members": signed(header | {"members": BIG}),
        "a number of 10,000 digits": with_header('{"format": 1' + "0" * 10_000 + "}"),
        "another kind of network": with_model(kind="os.system"),
        "another activation": with_model(activation="__import__"),
    }  # fmt: skip


def raw(header: str, arrays: bytes = b"") -> bytes:
    """A safetensors file as bytes, with any header."""
    text = header.encode()
    return struct.pack("<Q", len(text)) + text + arrays
