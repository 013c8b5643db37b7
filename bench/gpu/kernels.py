"""Kernels in which each member of an ensemble takes many steps of SGD: one in Pallas, one in CUDA.

A member has one feature, two hidden layers of 128 and two heads, as `MeanVarRegressor()` has, and trains on
batches of 64 by the mean of `gaussian_nll`. Both kernels take arrays in the order of `LEAVES`, parameters
and then velocities, and batches `(members, steps, 64)`.
"""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from bench.machine import GPU
from bench.rivals import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY

# Layers and their parts, in the order in which the kernels take them.
LEAVES = [
    (layer, part)
    for layer in ("hidden_0", "hidden_1", "mean_head", "log_var_head")
    for part in ("kernel", "bias")
]
PRECISIONS = {
    "TF32": jax.lax.DotAlgorithmPreset.TF32_TF32_F32,
    "3xTF32": jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
}


class Variant(NamedTuple):
    """A way to compile the Pallas kernel.

    Attributes:
        precision: of the matrix products.
        warps: of a program.
        carried: whether the square matrix and its velocity stay in registers from step to step; else they
            are written to the multiprocessor's cache, as the vectors are in any case.
    """

    precision: str
    warps: int
    carried: bool

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"Pallas, {self.precision}, {self.warps} warps, {'registers' if self.carried else 'cache'}"


VARIANTS = [
    Variant("TF32", 8, carried=False),
    Variant("TF32", 8, carried=True),
    Variant("TF32", 4, carried=False),
    Variant("3xTF32", 8, carried=False),
    Variant("3xTF32", 8, carried=True),
]
CUDA = {
    f"CUDA, {precision}, {blocks} on a multiprocessor": f"train_{precision.lower()}_{blocks}"
    for precision in PRECISIONS
    for blocks in (1, 2)
}


def kernel(x_ref: pl.MemoryRef, y_ref: pl.MemoryRef, *refs: pl.MemoryRef, variant: Variant) -> None:
    """All steps of one member: parameters and velocities come in, go out, and live in the outputs.

    Vectors in registers would be held 8 times over, for each group of threads that shares a column; the
    registers then overflow. So they are read where a step needs them, from the multiprocessor's own cache.
    """
    before, params, velocities, loss_ref = refs[:16], refs[16:24], refs[24:32], refs[32]
    precision = PRECISIONS[variant.precision] if GPU else jax.lax.Precision.HIGHEST
    steps, batch = x_ref.shape
    square = LEAVES.index(("hidden_1", "kernel"))

    def dot(a: Array, b: Array, axis_of_a: int, axis_of_b: int) -> Array:
        return jax.lax.dot_general(a, b, (((axis_of_a,), (axis_of_b,)), ((), ())), precision=precision)

    def barrier() -> None:
        # What a thread wrote, the others read only after it.
        if GPU:
            plt.debug_barrier()

    def read(ref: pl.MemoryRef) -> Array:
        return ref[0] if ref.shape == (1,) else ref[...]

    def write(ref: pl.MemoryRef, value: Array) -> None:
        ref[0 if ref.shape == (1,) else ...] = value

    def descend(param: Array, velocity: Array, grad: Array) -> tuple[Array, Array]:
        velocity = (MOMENTUM * velocity + WEIGHT_DECAY * param) + grad
        return param - LEARNING_RATE * velocity, velocity

    def update(i: int, grad: Array) -> None:
        param, velocity = descend(read(params[i]), read(velocities[i]), grad)
        write(params[i], param)
        write(velocities[i], velocity)

    def step(i: Array, carry: tuple) -> tuple:
        weights, velocity = carry if variant.carried else (read(params[square]), None)
        x, y = x_ref[i, :], y_ref[i, :]
        h1 = jnp.maximum(x[:, None] * read(params[0])[None] + read(params[1])[None], 0.0)
        h2 = jnp.maximum(dot(h1, weights, 1, 0) + read(params[3])[None], 0.0)
        to_mean, to_raw = read(params[4]), read(params[6])
        mean = jnp.sum(h2 * to_mean[None], 1) + read(params[5])
        raw = jnp.sum(h2 * to_raw[None], 1) + read(params[7])
        tail = jnp.exp(-jnp.abs(raw))
        var = jnp.maximum(raw, 0.0) + jnp.log(1.0 + tail) + 1e-6
        slope = jnp.where(raw > 0, 1.0, tail) / (1.0 + tail)  # of the softplus
        precise = 1.0 / var
        squared = (y - mean) * (y - mean) * precise
        loss_ref[i] = jnp.sum(0.5 * (jnp.log(var) + squared)) * (1 / batch)
        d_mean = (mean - y) * precise * (1 / batch)
        d_raw = (1.0 - squared) * precise * slope * (0.5 / batch)
        d2 = d_mean[:, None] * to_mean[None] + d_raw[:, None] * to_raw[None]
        d2 = jnp.where(h2 > 0, d2, 0.0)
        barrier()
        update(4, jnp.sum(h2 * d_mean[:, None], 0))
        update(5, jnp.sum(d_mean))
        update(6, jnp.sum(h2 * d_raw[:, None], 0))
        update(7, jnp.sum(d_raw))
        update(3, jnp.sum(d2, 0))
        if not variant.carried:
            weights = read(params[square])  # once more, rather than hold them in registers until here
        d1 = jnp.where(h1 > 0, dot(d2, weights, 1, 1), 0.0)
        update(0, jnp.sum(d1 * x[:, None], 0))
        update(1, jnp.sum(d1, 0))
        grad = dot(h1, d2, 0, 0)
        if variant.carried:
            carry = descend(weights, velocity, grad)
        else:
            update(square, grad)
        barrier()
        return carry

    for source, target in zip(before, params + velocities, strict=True):
        write(target, read(source))
    barrier()
    if variant.carried:
        start = read(params[square]), read(velocities[square])
        weights, velocity = jax.lax.fori_loop(0, steps, step, start)
        write(params[square], weights)
        write(velocities[square], velocity)
    else:
        jax.lax.fori_loop(0, steps, step, ())


@partial(jax.jit, static_argnums=0)
def pallas_steps(variant: Variant, leaves: list[Array], x: Array, y: Array) -> tuple[list[Array], Array]:
    """Parameters and velocities `(members, ...)`, after steps on batches `(members, steps, rows)`; losses."""

    def of_member(array: Array | jax.ShapeDtypeStruct) -> pl.BlockSpec:
        shape = array.shape[1:]
        return pl.BlockSpec((None, *shape), lambda member: (member, *[0] * len(shape)))

    outputs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (*leaves, x[:, :, 0])]
    *after, losses = pl.pallas_call(
        partial(kernel, variant=variant),
        grid=(len(x),),
        in_specs=[of_member(a) for a in (x, y, *leaves)],
        out_specs=[of_member(a) for a in outputs],
        out_shape=outputs,
        compiler_params=plt.CompilerParams(num_warps=variant.warps, num_stages=1),
        interpret=not GPU,
    )(x, y, *leaves)
    return after, losses


def build_cuda() -> None:
    """Compile `kernels.cu` with CUDA's compiler, and register its functions with XLA."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    source = Path(__file__).with_name("kernels.cu")
    library = Path(tempfile.mkdtemp()) / "fused.so"
    arguments = ["-std=c++17", "-O3", "-w", "-gencode=arch=compute_90a,code=sm_90a", "--shared"]
    arguments += ["-Xcompiler", "-fPIC", "-I", jax.ffi.include_dir(), str(source), "-o", str(library)]
    compiled = subprocess.run([nvcc, *arguments], capture_output=True, text=True)
    if compiled.returncode:
        raise RuntimeError(compiled.stderr[-2000:])
    functions = ctypes.cdll.LoadLibrary(str(library))
    for name in CUDA.values():
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(functions, name)), platform="CUDA")


@partial(jax.jit, static_argnums=0)
def cuda_steps(function: str, leaves: list[Array], x: Array, y: Array) -> tuple[list[Array], Array]:
    """What `pallas_steps` does, by the kernel in CUDA."""
    outputs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (*leaves, x[:, :, 0])]
    *after, losses = jax.ffi.ffi_call(function, outputs)(x, y, *leaves)
    return after, losses


def by_name() -> dict[str, Callable[[list[Array], Array, Array], tuple[list[Array], Array]]]:
    """All kernels that can run here."""
    found = {variant.name: partial(pallas_steps, variant) for variant in VARIANTS}
    if not GPU:
        return found
    build_cuda()
    return found | {name: partial(cuda_steps, function) for name, function in CUDA.items()}
