"""Results as JSON (docs/reference/command.md says which keys)."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxreg.cli.console import out


def print_json(found: Mapping[str, Any]) -> None:
    """One JSON object on standard output; numbers that JSON lacks are null."""
    out.file.write(json.dumps(_plain(found), allow_nan=False) + "\n")


def scores_of(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of one output, from `metrics.evaluate`, those of the trivial prediction among them."""
    kept = {name: value for name, value in scores.items() if name != "baseline"}
    return kept | ({"trivial": dict(scores["baseline"])} if "baseline" in scores else {})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic | np.ndarray) or hasattr(value, "tolist"):
        return _plain(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
