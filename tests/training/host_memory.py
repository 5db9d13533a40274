"""Memory of a host while a distillation is loaded, trained, saved and restored, by two processes.

    python -m tests.training.host_memory FOLDER [--width 1024] [--layers 8]

Each has four devices.  On a CPU their memory is the host's, so that what is asked of the host itself is the
peak less what the devices hold: at most 1 GB beside one copy of the local shards, which an asynchronous save
needs.
"""

import argparse
import ctypes
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from tests.models.dit_cases import build
from tests.training import tiny_distillation as tiny
from tm_jax.config import to_json
from tm_jax.pretrained.weights import save_model, save_sharded
from tm_jax.sharding import batch_sharding, local_rows, make_mesh, shardings_like
from tm_jax.training.checkpoint import Checkpoints
from tm_jax.training.cluster import ClusterConfig, join, leaving
from tm_jax.training.networks import open_dit

PORT = 23900


def peak(reset: bool = False) -> float:
    """The most memory that this process has held since the last reset, in GB."""
    if reset:
        # What was freed goes back to the system first: the allocator would keep it.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6


def local_gb(tree) -> float:
    """What this process's devices hold of a tree, in GB."""
    leaves = [x for x in jax.tree.leaves(tree) if not jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards) / 1e9


def experiment(folder: Path, width: int, layers: int):
    """The tiny distillation with a larger model."""
    model = dataclasses.replace(tiny.MODEL, width=width, ffn=4 * width, heads=8, layers=layers, remat="full")
    made = tiny.student(folder / "world", run_dir=folder / "run", batch_size=8)
    rollout = dataclasses.replace(made.rollout, steps=1)
    return dataclasses.replace(made, model=model, teacher=folder / "large.safetensors", rollout=rollout)


def measure(config, process: int) -> None:
    """One process: prints the peak of every stage."""

    def tell(stage: str, held: float, before: float) -> None:
        over = peak() - before - held
        print(
            f"process {process} {stage}: {held:.2f} GB local shards, {over:+.2f} GB beside them", flush=True
        )

    phase = config.build()
    mesh = make_mesh(config.loop.mesh)
    with jax.set_mesh(mesh):
        shardings = shardings_like(jax.eval_shape(phase.init, jax.random.key(0)), mesh)
        make = jax.jit(phase.init, out_shardings=shardings).lower(jax.random.key(0)).compile()
        base = peak(reset=True)
        state = phase.start(make(jax.random.key(0)))
        teacher = phase.frozen.teacher()
        jax.block_until_ready((state, teacher))
        held = local_gb((state, teacher))
        tell("loaded", held, base)
        peak(reset=True)
        checkpoints = Checkpoints(config.loop.folder / "checkpoints", keep=1, config=config, same=())
        weights = {"class": "DiT", "config": to_json(config.model), "meta": {}}
        checkpoints.save(1, state, {"weights": weights}, {})
        checkpoints.close()
        tell("checkpoint saved", held, base)
        peak(reset=True)
        path = config.loop.folder / "weights.safetensors"
        save_sharded(path, state.student.ema, config.model, {}, step=1)
        tell("weights saved", held, base)
        abstract = jax.eval_shape(phase.init, jax.random.key(0))
        for leaf in jax.tree.leaves(state):
            leaf.delete()
        peak(reset=True)
        checkpoints = Checkpoints(config.loop.folder / "checkpoints", keep=1, config=config, same=())
        _, state, _ = checkpoints.restore(abstract, shardings)
        jax.block_until_ready(state)
        tell("restored", held, base)
        checkpoints.close()
        for frozen in (False, True):
            peak(reset=True)
            source = open_dit(config.loop.folder, config.model)
            source.digest(config.loop.rules)
            model = source.load(config.loop.rules, frozen=frozen)
            jax.block_until_ready(model)
            tell("its average read as a teacher", held + local_gb(model), base)
            del model
        rng, sharding = np.random.default_rng(0), batch_sharding(mesh)
        rows = len(local_rows(sharding, config.loop.batch_size))

        def random(leaf):
            values = rng.normal(size=(rows, *leaf.shape[1:])).astype(leaf.dtype)
            return jax.make_array_from_process_local_data(sharding, values)

        batch = jax.tree.map(random, phase.abstract_batch(mesh))
        state, _ = phase.step(state, batch, 0)
        jax.block_until_ready(state)
        peak(reset=True)
        for _ in range(2):
            state, _ = phase.step(state, batch, 0)
        jax.block_until_ready(state)
        tell("trained (gradients and activations included)", held, base)


def main() -> None:
    """Starts two processes, or is one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--process", type=int)
    given = parser.parse_args()
    config = experiment(given.folder, given.width, given.layers)
    if given.process is not None:
        join(ClusterConfig(f"127.0.0.1:{PORT}", 2, given.process, timeout=600))
        with leaving():
            measure(config, given.process)
        return
    if not (given.folder / "world").exists():
        tiny.prepare(given.folder / "world")
    save_model(given.folder / "large.safetensors", build(config.model, 3), config.model)
    size = (given.folder / "large.safetensors").stat().st_size / 1e9
    print(f"{size:.2f} GB of float32 parameters", flush=True)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", __spec__.name, *sys.argv[1:], "--process", str(process)], env=environment
        )
        for process in range(2)
    ]
    sys.exit(max(process.wait() for process in processes))


if __name__ == "__main__":
    main()
