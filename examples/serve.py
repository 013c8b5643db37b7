"""Predict with a file of `jaxreg export`, where only jax, numpy and flatbuffers are installed.

python serve.py model.jaxexport rows.csv
"""

import hashlib
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np

jax.config.update("jax_enable_x64", True)
_, digest, content = Path(sys.argv[1]).read_bytes().split(b"\n", 2)
if hashlib.sha256(content).hexdigest().encode() != digest:
    sys.exit(f"{sys.argv[1]} is damaged")  # and reading it might crash
rows = np.loadtxt(sys.argv[2], delimiter=",", skiprows=1, ndmin=2)
mean, std, lower, upper = jax.export.deserialize(bytearray(content)).call(rows, 0.95)
np.savetxt(sys.stdout, np.stack([mean, std, lower, upper], 1), delimiter=",", header="mean,std,lower,upper")
