"""Two stores of one run that save at once, in two processes that are not in step: arguments I PORT FOLDER."""

import sys
import time

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen import checkpoint, parallel


def main(process: int, port: str, folder: str) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    everywhere = NamedSharding(parallel.layout("data").mesh, PartitionSpec())
    state = {"x": jax.jit(lambda: jnp.arange(100.0), out_shardings=everywhere)()}
    stores = [checkpoint.open_store(f"{folder}/{name}") for name in ("all", "best")]
    for step in range(10):
        if process == step % 2:
            time.sleep(0.15)  # the other one is already in the next save, the last goes on in the background
        for store in stores:
            checkpoint.save(store, state, step)
    for store in stores:
        checkpoint.close(store)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
