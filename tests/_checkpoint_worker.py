"""Processes that tests/test_checkpoint.py starts: `python _checkpoint_worker.py MODE ARGUMENTS...`."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen import checkpoint
from jaxgen.types import InputError


def tree(seed: int, size: int = 16) -> dict:
    """A small state, as different as possible for every seed, that any process can make again."""
    rng = np.random.default_rng(seed)
    return {
        "step": jnp.asarray(seed, jnp.int32),
        "kernel": jnp.asarray(rng.normal(size=(size, 24)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=(8, 5)), jnp.bfloat16),
        "cube": jnp.asarray(rng.integers(0, 255, (3, 8, 4)), jnp.uint8),
        "bias": jnp.asarray(rng.normal(size=(7,)), jnp.float32),
        "complex": jnp.asarray(rng.normal(size=(8, 3)) * 1j, jnp.complex64),
        "key": jax.random.key(seed),
        "keys": jax.random.split(jax.random.key(seed + 1), 8),
    }


def raw(x) -> bytes:
    data = jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return np.asarray(data).tobytes()


def same(a, b) -> bool:
    """Whether two states agree in structure, dtype, shape and every bit."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and x.shape == y.shape and raw(x) == raw(y) for x, y in pairs)


def layouts(mesh: jax.sharding.Mesh) -> dict[str, dict]:
    """A replicated layout, and one that cuts every array that can be cut over the first axis, or over both."""
    replicated = {name: NamedSharding(mesh, P()) for name in tree(0)}
    first, second = mesh.axis_names
    cut = {"kernel": P(first, second), "half": P((first, second)), "cube": P(None, second, first), "keys": P(first)}
    cut |= {"complex": P(second)}
    return {
        "replicated": replicated,
        "cut": replicated | {name: NamedSharding(mesh, spec) for name, spec in cut.items()},
    }


def devices(saved_on_one: str, folder: str) -> None:
    """On 8 devices: fingerprints and restores in both layouts, then a save in each for the caller to restore."""
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    answer = {"devices": jax.device_count()}
    for name, shardings in layouts(mesh).items():
        state = jax.device_put(tree(3), shardings)
        answer[name] = checkpoint.fingerprint(state).tolist()
        store = checkpoint.open_store(saved_on_one, read_only=True)
        restored, step = checkpoint.restore(store, state)
        answer[name + " restored"] = step == 3 and same(jax.device_get(restored["half"]), jax.device_get(state["half"]))
        answer[name + " restored"] &= checkpoint.fingerprint(restored).tolist() == answer[name]
        answer[name + " placed"] = all(
            x.sharding.is_equivalent_to(y.sharding, x.ndim)
            for x, y in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True)
        )
        store = checkpoint.open_store(Path(folder) / name)
        checkpoint.save(store, state, 3)
        checkpoint.close(store)
    print(json.dumps(answer))


def loop(folder: str) -> None:
    """Save step after step until killed; print which steps are surely on the disk."""
    store = checkpoint.open_store(folder, keep=2)
    step = checkpoint.latest(folder) or 0
    while True:
        step += 1
        checkpoint.save(store, tree(step, 20_000), step)
        print(step - 1, flush=True)


def limit(folder: str) -> None:
    """A background save that hits the limit of file sizes, as a full disk would."""
    store = checkpoint.open_store(folder)
    checkpoint.save(store, tree(1), 1)
    checkpoint.wait(store)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for call in (lambda: checkpoint.wait(store), lambda: checkpoint.save(store, tree(4), 4)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        checkpoint.save(store, tree(2, 20_000), 2)
        try:
            call()
            print("hidden")
        except checkpoint.SaveError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    restored, step = checkpoint.restore(store, tree(0))
    print(step, same(restored, tree(1)))
    checkpoint.save(store, tree(2), 2)
    checkpoint.close(store)
    print(checkpoint.steps(folder))


def pair(rank: str, port: str, folder: str) -> None:
    """One of two processes that save, lose and restore steps together."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(rank))
    mesh = jax.make_mesh((2, 1), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    shardings = layouts(mesh)["cut"]

    def place(state: dict) -> dict:
        return jax.jit(lambda: state, out_shardings=shardings)()

    store = checkpoint.open_store(folder)
    assert checkpoint.restore(store, place(tree(0))) is None
    for step in (1, 2, 3):
        checkpoint.save(store, place(tree(step)), step)
    checkpoint.wait(store)
    lines: list[str] = []
    good = checkpoint.restore(store, place(tree(0)), lines.append)
    answer = {"first": good[1], "sums": checkpoint.fingerprint(good[0]).tolist()}
    try:
        checkpoint.restore(store, tree(0) | {"bias": jax.ShapeDtypeStruct((8,), jnp.float32)})
    except InputError as error:
        answer["refused"] = str(error)
    multihost_utils.sync_global_devices("before damage")
    if rank == "0":
        for file in (Path(folder) / "3" / "state").rglob("d/*"):
            os.truncate(file, file.stat().st_size // 2)
    multihost_utils.sync_global_devices("after damage")
    good = checkpoint.restore(store, place(tree(0)), lines.append)
    answer |= {"second": good[1], "lines": lines, "exact": checkpoint.fingerprint(good[0]).tolist()}
    saved = checkpoint.save(store, place(tree(3)), 3)
    checkpoint.close(store)
    print(json.dumps(answer | {"again": saved}))


if __name__ == "__main__":
    {"devices": devices, "loop": loop, "limit": limit, "pair": pair}[sys.argv[1]](*sys.argv[2:])
