"""Predict with a model file by NumPy alone: what another language needs to know of the format.

python read_model.py houses.model rows.csv

Columns may be numbers and categories of up to 12 levels. docs/reference/format.md says what stands in a file.
"""

import csv
import json
import struct
import sys
from pathlib import Path

import numpy as np

content = Path(sys.argv[1]).read_bytes()
(length,) = struct.unpack("<Q", content[:8])
entries, data = json.loads(content[8 : 8 + length]), content[8 + length :]
header, params = json.loads(entries.pop("__metadata__")["jaxreg"]), {}
for name, entry in entries.items():
    values = np.frombuffer(data[slice(*entry["data_offsets"])], {"F32": "<f4", "F64": "<f8"}[entry["dtype"]])
    params[name] = values.reshape(entry["shape"])
with open(sys.argv[2], newline="", encoding="utf-8-sig") as file:
    rows = list(csv.DictReader(file))


def flags(values: list[str], shown: list[str], shares: list[float]) -> np.ndarray:
    """0s and 1s less their share of the training rows, over their standard deviation."""
    share = np.array(shares)
    return (np.array([[value == own for own in shown] for value in values]) - share) / np.sqrt(
        np.where(share < 1, share * (1 - share), 1)
    )


numbers, others = [], []
for column in header["columns"]:
    values = [row[column["name"]].strip() for row in rows] if column["kind"] != "nothing" else []
    if column["kind"] == "number":
        x = np.array([float(value or "nan") for value in values])
        z = (x - column["center"]) / (column["scale"] or np.inf)
        z = np.where(np.abs(z) > 4, np.sign(z) * (4 + np.log1p(np.maximum(np.abs(z) - 4, 0))), z)
        numbers.append(np.where(np.isnan(x), 0, (z - column["mean"]) / column["std"])[:, None])
        if column["gaps"]:
            others.append(flags(["gap" * bool(np.isnan(own)) for own in x], ["gap"], [column["gaps"]]))
    elif column["kind"] == "category" and not column["size"]:
        known = {level: level for level in column["levels"]} | {"": "gap"}
        shown = [*column["levels"], *["rare"] * column["rare"], *["gap"] * column["gaps"]]
        others.append(flags([known.get(value, "rare") for value in values], shown, column["shares"]))
    elif column["kind"] != "nothing":
        sys.exit(f"column {column['name']!r} is of a kind that this example leaves out")
x = np.concatenate(numbers, axis=1)
frequency = params.get("params/embedding/embedding/frequency")
turns = np.zeros((1, len(x), 0)) if frequency is None else x[None, :, :, None] * frequency[:, None]
angles = 2 * np.pi * turns.reshape(*turns.shape[:2], -1)
parts = [x[None], np.sin(angles), np.cos(angles), *(own[None] for own in others)]
members = header["members"]
h = np.concatenate([np.broadcast_to(own, (members, *own.shape[1:])) for own in parts], axis=2)


def layer(h: np.ndarray, name: str) -> np.ndarray:
    """A linear layer of all members, `(members, rows, outputs)`."""
    return h @ params[f"params/{name}/kernel"] + params[f"params/{name}/bias"][:, None]


for i in range(len(header["model"]["hidden"])):
    h = layer(h, f"hidden_{i}")
    h = h / (1 + np.exp(-h))  # silu, the default
means = layer(h, "mean_head")
smallest = header["model"].get("smallest_std", 1e-3)
variances = np.logaddexp(0, layer(h, "log_var_head")) + smallest**2
logits = layer(h, "weight_head") if header["model"]["kind"] == "MixtureRegressor" else np.zeros_like(means)
weights = np.exp(logits - logits.max(axis=2, keepdims=True))
weights /= weights.sum(axis=2, keepdims=True)
of_member = (weights * means).sum(axis=2)
noise = (weights * (variances + (means - of_member[:, :, None]) ** 2)).sum(axis=2)
factor = params.get("calibration/factor", 1.0)
loc, scale = params["y_scaler/loc"], params["y_scaler/scale"]
mean = loc + scale * of_member.mean(axis=0)
std = scale * np.sqrt(factor * noise.mean(axis=0) + of_member.var(axis=0))
np.savetxt(sys.stdout, np.stack([mean, std], 1), delimiter=",", header="mean,std", comments="")
