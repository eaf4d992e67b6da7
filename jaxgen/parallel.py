"""Layouts: where the state and the batch lie, and how the one step is compiled there.

The step is written for a complete batch and has no collectives. Under `one`, `data` and `fsdp` a layout is only a rule
that places arrays, and the compiler adds the communication; `pmap` maps the same step over devices by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from jaxgen.training import Step, repeat
from jaxgen.types import Batch, TrainState, Tree, check

LAYOUTS = ("one", "data", "fsdp", "pmap")
DIVIDED_SIZE = 1024  # elements of an array that fsdp divides: below it the messages cost more than the memory saved
BATCH_AXIS = 3  # of the arrays [steps, minibatches, slices, B, ...] that a compiled call takes


class Layout(NamedTuple):
    """name   one of `LAYOUTS`
    mesh   the devices, one axis named "data"
    """

    name: str
    mesh: Mesh

    @property
    def devices(self) -> int:
        """How many there are."""
        return self.mesh.size

    @property
    def rows(self) -> Sharding | None:
        """The sharding of a batch [B, ...] outside the step: for sampling, and None on one device."""
        return None if self.devices == 1 else NamedSharding(self.mesh, PartitionSpec("data"))


def layout(name: str = "one", devices: Sequence[Any] | None = None) -> Layout:
    """`one`: the first device. `data`: the state on every device, the batch divided. `fsdp`: the state divided too.
    `pmap`: as `data`, mapped by hand with one mean over devices. devices: all of them by default."""
    check(name in LAYOUTS, f"unknown layout {name!r}: choose one of {', '.join(LAYOUTS)}")
    devices = list(jax.devices() if devices is None else devices)
    check(
        name != "one" or jax.process_count() == 1,
        f"layout 'one' cannot serve {jax.process_count()} processes: choose data, fsdp or pmap",
    )
    devices = devices[:1] if name == "one" else devices
    # Auto: the compiler chooses the communication; make_mesh alone would ask for explicit types
    return Layout(name, jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices))


def state_sharding(place: Layout, shapes: Tree) -> Tree:
    """A sharding for each array of a state. `fsdp` divides the large arrays along the last axis that the devices
    divide: of a kernel the output channels, or else the input channels."""

    def rule(leaf: Any) -> NamedSharding:
        spec: list = [None] * len(leaf.shape)
        axes = [i for i, n in enumerate(leaf.shape) if n % place.devices == 0]
        if place.name == "fsdp" and axes and math.prod(leaf.shape) >= DIVIDED_SIZE:
            spec[axes[-1]] = "data"
        return NamedSharding(place.mesh, PartitionSpec(*spec))

    return jax.tree.map(rule, shapes)


def template(place: Layout, init: Callable[..., TrainState], *args: Any) -> TrainState:
    """Shapes, dtypes and shardings of the state that `init(*args)` makes, without making it: what a restore needs.

    args: trees of arrays, or of `jax.ShapeDtypeStruct`.
    """
    shapes = jax.eval_shape(init, *args)
    place_of = state_sharding(place, shapes)
    return jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, place_of)


def create(shapes: TrainState, init: Callable[..., TrainState], *args: Any) -> TrainState:
    """`init(*args)` made where its `template` lies, piece by piece; args: the same arrays in every process."""
    where = jax.tree.map(lambda s: s.sharding, shapes)
    # an initialisation runs once: on the CPU optimising it costs more than it saves, and changes no value
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(init, out_shardings=where, compiler_options=options)(*args)


def place_batch(place: Layout, batch: Batch) -> Batch:
    """A batch of numpy arrays [S, M, A, B of this process, ...] as device arrays, divided along B."""
    spec = PartitionSpec(*[None] * BATCH_AXIS, "data")
    where = NamedSharding(place.mesh, spec)

    def put(a: np.ndarray) -> jax.Array:
        if jax.process_count() > 1:
            return jax.make_array_from_process_local_data(where, a)
        return jax.device_put(a, where)

    return jax.tree.map(put, batch)


def to_host(x: Any) -> np.ndarray:
    """The values of an array, wherever its parts lie, on every process. Collective: all processes call it."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        x = multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


def from_first(value: Any) -> Any:
    """A number of the first process, on all of them: what they do together may rest on no file that one is writing, and
    on no time that two measure."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(np.asarray(value)).item()


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process of the run has ended, or cannot be reached."""
    signs = ("Gloo", "NCCL", "coordination service", "CoordinationService", "Connection reset", "Connection closed")
    return jax.process_count() > 1 and any(sign in f"{error} {error.__cause__}" for sign in signs)


def compile_step(place: Layout, make: Callable[..., Any], state: Tree) -> Callable[[TrainState, Batch, Any], tuple]:
    """`run(state, batches [S, M, A, B, ...], n)`: n steps in one call, the state donated.

    make: `partial(make_step, model, optimizers, ...)`; state: the state or its template. Returns (state, Report).
    """
    if place.name == "pmap":
        return _compile_pmap(place, make)
    where = state_sharding(place, state)
    replicated = NamedSharding(place.mesh, PartitionSpec())
    return jax.jit(repeat(_traced_once(make())), donate_argnums=0, out_shardings=(where, replicated))


def _traced_once(step: Step) -> Step:
    """`repeat` needs the shapes of a step's metrics before it loops: the trace made for them serves the loop too."""
    return jax.jit(step, inline=True)


def _compile_pmap(place: Layout, make: Callable[..., Any]) -> Callable[[TrainState, Batch, Any], tuple]:
    """A thin adapter: the batch axis first, every device a copy of the state, one mean over devices in the step."""
    stacked = NamedSharding(place.mesh, PartitionSpec("data"))
    count = place.devices
    copy = jax.jit(
        lambda tree: jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape)), tree), out_shardings=stacked
    )

    def divide(a: jax.Array) -> jax.Array:
        b = a.shape[BATCH_AXIS] // count
        return jnp.moveaxis(a.reshape(*a.shape[:BATCH_AXIS], count, b, *a.shape[BATCH_AXIS + 1 :]), BATCH_AXIS, 0)

    divided = jax.jit(lambda batch: jax.tree.map(divide, batch), out_shardings=stacked)
    mapped = jax.pmap(
        repeat(_traced_once(make(axis_name="data"))),
        axis_name="data",
        in_axes=(0, 0, None),
        donate_argnums=0,
        devices=list(place.mesh.devices.flat),
    )

    def run(state: TrainState, batches: Batch, n: Any) -> tuple:
        state, report = mapped(copy(state), divided(batches), n)
        return _first(place, state), _first(place, report)

    return run


def _first(place: Layout, tree: Tree) -> Tree:
    """What every device holds a copy of, [devices, ...], as one replicated array."""
    replicated = NamedSharding(place.mesh, PartitionSpec())

    def one(a: jax.Array) -> jax.Array:
        shards = [shard.data[0] for shard in a.addressable_shards]
        return jax.make_array_from_single_device_arrays(a.shape[1:], replicated, shards)

    return jax.tree.map(one, tree)
