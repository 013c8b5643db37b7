"""What the machine has."""

import math
import os
from pathlib import Path

# Where Linux and Windows' Linux have NVIDIA's GPUs.
GPU_FILES = "/dev/nvidia0", "/dev/dxg"


def memory() -> float:
    """Bytes of the machine's memory, infinity where that isn't known."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def unused_gpu(platform: str) -> str | None:
    """What to tell a user of a machine that has a GPU whose JAX computes on a platform without it."""
    unwanted = os.environ.get("JAX_PLATFORMS") or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if platform != "cpu" or unwanted or not any(Path(file).exists() for file in GPU_FILES):
        return None
    return (
        "this machine has an NVIDIA GPU, but JAX computes on its CPU: pip install 'jaxreg[cuda]', or if that "
        """is installed, see what python -c "import jax; jax.devices('gpu')" says"""
    )
