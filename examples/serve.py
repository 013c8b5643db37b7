"""Predict with a file of `jaxreg export`, where only jax, numpy and flatbuffers are installed.

python serve.py model.jaxexport rows.csv
"""

import csv
import datetime
import hashlib
import json
import math
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np

EPOCH, DAY = datetime.datetime(1970, 1, 1), datetime.timedelta(days=1)
GAPS = "", "?", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"


def coded(column: dict, text: str) -> float:
    """The number that the function takes for what a file has."""
    levels = column.get("levels") or column.get("order")
    if levels:
        return levels.index(text) if text in levels else len(levels) + (text in GAPS)
    if text in GAPS:
        return math.nan
    if "time" in column:
        written = (column["time"] or "").replace("%.f", ".%f" if "." in text else "")
        read = datetime.datetime.strptime
        time = read(text, written) if written else datetime.datetime.fromisoformat(text)
        return (time.replace(tzinfo=None) - EPOCH) / DAY
    return float({"true": 1, "false": 0}.get(text.lower(), text))


jax.config.update("jax_enable_x64", True)
_, digest, rest = Path(sys.argv[1]).read_bytes().split(b"\n", 2)
if hashlib.sha256(rest).hexdigest().encode() != digest:
    sys.exit(f"{sys.argv[1]} is damaged")  # and reading it might crash
header, content = rest.split(b"\n", 1)
columns = json.loads(header)["inputs"]
with open(sys.argv[2], newline="", encoding="utf-8-sig") as file:
    names, *lines = csv.reader(file)
places = [names.index(column["name"]) if "name" in column else i for i, column in enumerate(columns)]
rows = [
    [coded(column, line[i].strip()) for column, i in zip(columns, places, strict=True)]
    for line in lines
    if line
]
mean, std, lower, upper = jax.export.deserialize(bytearray(content)).call(np.array(rows), 0.95)
np.savetxt(sys.stdout, np.stack([mean, std, lower, upper], 1), delimiter=",", header="mean,std,lower,upper")
