"""Where members of an ensemble run: on the cores of a CPU, on devices, and in many processes."""

import math
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import PyTree

from jaxreg.machine import cores
from jaxreg.plain import check_whole, counted

AXIS = "members"
SIDE_BY_SIDE = "side by side"

# A CPU core works through the members one after another, because their matrix products are then fastest.
# Steps of fewer multiply-adds than this cost more to launch than to compute: several share a launch.
SMALL_STEP = 2**20
SMALL_SIDE_BY_SIDE = 4

# A call of a compiled program costs a core about 1 ms in Python, which calls of this length hide. A core
# makes several calls for a chunk of epochs, so that a core that is done early takes work from the others.
CALL_SECONDS = 0.05
CALLS_PER_CORE = 16
MEMBERS_IN_TURN = 4


class Layout(NamedTuple):
    """How members are distributed.

    Attributes:
        call: members in one call of the compiled program.
        side_by_side: members that run as one batch of matrix products.
        workers: threads that make calls.
        mesh: devices of one call; None is the default device.
    """

    call: int
    side_by_side: int
    workers: int
    mesh: Mesh | None

    @property
    def everywhere(self) -> NamedSharding | None:
        """The sharding of arrays that all members share."""
        return None if self.mesh is None else _sharding(self.mesh)


class Place(NamedTuple):
    """The part of a run that this process trains.

    Attributes:
        mesh: the devices that this process uses; None lets it choose its own.
        first: its first member.
        count: its members.
        bounds: first and last member of each process, by its number.
    """

    mesh: Mesh | None
    first: int
    count: int
    bounds: dict[int, tuple[int, int]]

    @property
    def processes(self) -> int:
        """How many processes the run has."""
        return len(self.bounds)

    def members_of(self, leaf: ArrayLike) -> ArrayLike:
        """This process's members of an array."""
        return leaf[self.first : self.first + self.count]

    def all_members(self, own: PyTree) -> PyTree:
        """The members of all processes, gathered on each."""
        if self.processes == 1:
            return own
        own = jax.tree.map(np.asarray, own)
        wait_for_all()
        most = max(last - first for first, last in self.bounds.values())
        gathered = multihost_utils.process_allgather(
            jax.tree.map(lambda leaf: _members_part(leaf, 0, most), own)
        )

        def joined(leaf: np.ndarray) -> np.ndarray:
            shares = [leaf[process][: last - first] for process, (first, last) in self.bounds.items()]
            return np.concatenate(shares)

        return jax.tree.map(joined, gathered)


def find_place(mesh: Mesh | None, members: int) -> Place:
    """Find this process in a mesh, or raise an error that says what is wrong with the mesh."""
    this_process = jax.process_index()
    if mesh is None:
        return Place(None, 0, members, {this_process: (0, members)})
    if mesh.axis_names != (AXIS,):
        gone = "; batches aren't split over devices any more: members are distributed over all devices, and "
        gone += "processes may learn from their own share of the files (--own-files, Files.own_share)"
        gone = gone if "rows" in mesh.axis_names else ""
        raise ValueError(f"mesh must have one axis, {AXIS!r}, it has {mesh.axis_names}{gone}")
    devices = mesh.devices
    processes = list(dict.fromkeys(device.process_index for device in devices))
    if processes == [this_process]:
        return Place(mesh, 0, members, {this_process: (0, members)})
    if members < len(processes):
        raise ValueError(f"{members} members are too few for the {len(processes)} processes of the mesh")
    if this_process not in processes:
        raise ValueError(f"mesh has no device of this process, {this_process}")
    edges = [i * members // len(processes) for i in range(len(processes) + 1)]
    bounds = dict(zip(processes, zip(edges[:-1], edges[1:], strict=True), strict=True))
    own_devices = [device for device in devices if device.process_index == this_process]
    # One CPU device is used by a thread for each core.
    threaded = len(own_devices) == 1 and own_devices[0].platform == "cpu"
    first, last = bounds[this_process]
    return Place(None if threaded else Mesh(np.array(own_devices), (AXIS,)), first, last - first, bounds)


def lay_out(members: int, multiply_adds: int, place: Place, side_by_side: int | None) -> Layout:
    """Distribute members over the cores of a CPU, a thread each, or over the devices of a mesh.

    A CPU needs threads, because XLA runs one program on about one core, and a mesh of CPU devices has to be
    set up before JAX's backend starts. Other devices need a mesh.
    """
    if side_by_side is not None:
        check_whole("side_by_side", side_by_side, 1)
    if jax.config.jax_disable_jit:  # one call, which Python interprets
        return Layout(members, 1, 1, None)
    default = jax.config.jax_default_device
    devices = [default] if isinstance(default, jax.Device) else jax.local_devices(backend=default)
    mesh = place.mesh
    if mesh is None and len(devices) > 1:
        mesh = Mesh(np.array(devices), (AXIS,))
    kinds = {device.device_kind for device in (devices if mesh is None else mesh.devices.flat)}
    if len(kinds) > 1:
        raise ValueError(
            f"the devices are of different kinds ({', '.join(sorted(kinds))}), a program serves one: "
            "give a mesh of devices of one kind, or hide the others (CUDA_VISIBLE_DEVICES=0)"
        )
    on_cpu = (devices[0] if mesh is None else mesh.devices.flat[0]).platform == "cpu"
    shards = 1 if mesh is None else mesh.shape[AXIS]
    threaded = on_cpu and mesh is None
    workers = cores() if threaded else 1
    share = math.ceil(members / (shards * workers))
    if side_by_side is None:
        side_by_side = share if not on_cpu else SMALL_SIDE_BY_SIDE if multiply_adds < SMALL_STEP else 1
    side_by_side = min(side_by_side, share)
    in_turn = math.ceil(share / side_by_side)
    if threaded:  # a power of two: ensembles of similar sizes share a program
        in_turn = min(2 ** max(0, int(math.log2(in_turn / CALLS_PER_CORE))), MEMBERS_IN_TURN)
    return Layout(shards * side_by_side * in_turn, side_by_side, workers, mesh)


def computed_on() -> str:
    """What trains and predicts by default: the accelerators' names, or the cores of a CPU."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return counted(cores(), "core") + " of a CPU"
    kinds = Counter(device.device_kind for device in devices)
    return ", ".join(name if count == 1 else f"{count} times {name}" for name, count in kinds.items())


def wait_for_all() -> None:
    """Wait until every process of the run gets here, for days if need be.

    On CPUs a collective times out if a process is half an hour late; `live_devices` waits for as long as it
    takes.
    """
    with multihost_utils.live_devices(jax.devices()):
        pass


def for_all_members(
    function: Callable, layout: Layout, pool: ThreadPoolExecutor, each: PyTree, shared: tuple
) -> Callable:
    """Turn a compiled function of some members into one that calls it for all of them.

    If one call takes all members, arrays stay on its devices. Else they are NumPy arrays, and each call
    copies its members' part in and out, which takes little time beside the computation.
    """
    members = len(jax.tree.leaves(each)[0])

    def part(each: PyTree, first: int) -> tuple[PyTree, ArrayLike]:
        real = np.arange(first, first + layout.call) < members
        part = jax.tree.map(lambda leaf: _members_part(leaf, first, layout.call), each), real
        return part if layout.mesh is None else jax.device_put(part, _sharding(layout.mesh, AXIS))

    def one_call(each: PyTree, shared: tuple, out: PyTree = None) -> PyTree:
        arguments = *part(each, 0), *shared
        # With jit disabled Python interprets the function, which needs JAX arrays.
        whole = function(*(jax.device_put(arguments) if jax.config.jax_disable_jit else arguments))
        return whole if layout.call == members else jax.tree.map(lambda leaf: leaf[:members], whole)

    if layout.call >= members:
        return one_call
    # Compiled here, because JAX's context managers don't reach other threads.
    program = function.func.lower(*part(each, 0), *shared, **function.keywords).compile()
    wide = jax.config.jax_enable_x64

    def many_calls(each: PyTree, shared: tuple, out: PyTree = None) -> PyTree:
        """If `out` is given, the first result is written into it."""
        each = jax.device_get(each)
        blank = jax.tree.map(lambda info: np.empty((members, *info.shape[1:]), info.dtype), program.out_info)
        joined = blank if out is None else (out, *blank[1:])
        for leaf in jax.tree.leaves(joined):
            leaf.flags.writeable = True

        def call(first: int) -> None:
            with jax.enable_x64(wide):
                results = program(*part(each, first), *shared)
            for whole, part_of_them in zip(jax.tree.leaves(joined), jax.tree.leaves(results), strict=True):
                whole[first : first + layout.call] = np.asarray(part_of_them)[: members - first]

        list(pool.map(call, range(0, members, layout.call)))
        for leaf in jax.tree.leaves(joined):
            leaf.flags.writeable = False  # because hooks are shown it
        return joined

    return many_calls


def map_members(
    function: Callable, each: PyTree, shared: tuple, side_by_side: int, mesh: Mesh | None
) -> PyTree:
    """Map a function over members: over the devices of a mesh, on each one after another or side by side."""

    def share(each: PyTree, shared: tuple) -> PyTree:
        if side_by_side == 1:
            return jax.lax.map(lambda one: function(one, *shared), each)
        batches = jax.tree.map(lambda leaf: leaf.reshape(-1, side_by_side, *leaf.shape[1:]), each)
        together = jax.vmap(lambda one: function(one, *shared), axis_name=SIDE_BY_SIDE)
        out = jax.lax.map(together, batches)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out)

    if mesh is None:
        return share(each, shared)
    own, common = PartitionSpec(AXIS), PartitionSpec()
    # Each device runs its own loop, of its own length, without communication.
    on_devices = jax.shard_map(share, mesh=mesh, in_specs=(own, common), out_specs=own, check_vma=False)
    return on_devices(each, shared)


def _sharding(mesh: Mesh, *axes: str) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*axes))


def _members_part(leaf: ArrayLike, first: int, size: int) -> ArrayLike:
    """Some members' part of an array, padded by repeats of the last."""
    if first == 0 and size == len(leaf):
        return leaf
    part = leaf[first : first + size]
    if len(part) == size:
        return part
    kind = jnp if isinstance(leaf, jax.Array) else np
    return kind.concatenate([part, kind.repeat(part[-1:], size - len(part), axis=0)])
