"""The one kind of file for models and checkpoints: a JSON header, named arrays and a SHA-256 (safetensors).

No code runs when one is read.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jaxreg.files import replacing

# 2: ensembles, calibrations, embeddings. 3: a digest, scores, types of columns. 5: a digest of every byte,
# checkpoints. There never was a format 4: the number was skipped to count models and checkpoints on one line.
# What is new gets a name in the header; the number rises only where an old reader would read a file wrongly.
FORMAT = 5
DIGEST_SINCE, WHOLE_SINCE = 3, 5

# What a header may take, in characters: names and types of 100,000 columns.
LONGEST_HEADER = 16 * 2**20

# The entry of a file's metadata that holds the header, by what the file is.
ENTRIES = {"model": "jaxreg", "checkpoint": "jaxreg checkpoint"}

NO_DIGEST = "0" * 64


def write(path: Path, kind: str, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a header and arrays; the path holds the old file or the whole new one, never a part.

    Args:
        path: where to.
        kind: "model" or "checkpoint".
        header: what JSON can hold, with a `format` and `versions`; its `sha256` is filled in here.
        arrays: of NumPy's own types.

    Raises:
        ValueError: if the header is longer than `read` takes, or a file can't hold an array's type.
        OSError: if the disk is full, for example.
    """
    text = json.dumps({"sha256": None} | dict(header) | {"sha256": NO_DIGEST})  # it stands first
    if len(text) > LONGEST_HEADER:
        raise ValueError(f"{path} can't be written: its header has {len(text):,} characters")
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    if unknown := sorted({array.dtype.name for array in arrays.values() if array.dtype.kind not in "biuf"}):
        raise ValueError(f"{path} can't be written: a file can't hold arrays of {', '.join(unknown)}")
    content = save(arrays, {ENTRIES[kind]: text})
    with replacing(path) as temporary:
        digest = hashlib.sha256(content).hexdigest().encode()
        temporary.write_bytes(content.replace(NO_DIGEST.encode(), digest, 1))


def read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A file's header and arrays as they were written.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated or changed, is something else, or is of a newer format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {kind} file {path}")
    content = path.read_bytes()
    try:
        arrays, metadata = load(content), _metadata(content)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a type NumPy lacks
        raise ValueError(f"{path} is truncated or isn't a jaxreg {kind} file ({error})") from None
    if ENTRIES[kind] not in metadata:
        raise ValueError(f"{path} holds arrays but no jaxreg {kind}: give a file written by jaxreg")
    text = metadata[ENTRIES[kind]]
    header = _parsed(path, text)
    written, number = header.get("sha256"), header["format"]
    if written is None and number >= DIGEST_SINCE:
        raise ValueError(f"{path} is damaged: its digest is missing")
    if written is not None:
        old = number < WHOLE_SINCE
        right = _digest_of_format_3(text, str(written), arrays) if old else _digest(content, str(written))
        if written != right:
            raise ValueError(f"{path} is damaged: its content isn't what was written (SHA-256)")
    return header, arrays


def _metadata(content: bytes) -> dict[str, str]:
    """What safetensors reads from a file on the disk alone."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]).get("__metadata__") or {}


def _parsed(path: Path, text: str) -> dict[str, Any]:
    """The header, if it is of a format that this version reads."""
    if len(text) > LONGEST_HEADER:
        raise ValueError(f"{path} is damaged: its header has {len(text):,} characters")
    try:
        header = json.loads(text, object_pairs_hook=_without_repeats)
        if header["format"] <= FORMAT:
            return header
        newer = header["format"], header["versions"]["jaxreg"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:  # JSON's too
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged, its header can't be understood ({reason})") from None
    raise ValueError(
        f"{path} has format {newer[0]}, this version of jaxreg reads up to {FORMAT}: upgrade jaxreg "
        f"(the file was written by {newer[1]})"
    )


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise TypeError("a name stands twice")
    return dict(pairs)


def _digest(content: bytes, written: str) -> str:
    """SHA-256 of a whole file, with zeros in the place of the one that it holds."""
    unsigned = content.replace(written.encode(errors="replace"), NO_DIGEST.encode(), 1)
    return hashlib.sha256(unsigned).hexdigest()


def _digest_of_format_3(text: str, written: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a header, with zeros in the digest's place, and of arrays with names, types and shapes."""
    digest = hashlib.sha256(text.replace(written, NO_DIGEST, 1).encode())
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
