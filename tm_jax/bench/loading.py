"""Loading measured: a synthetic checkpoint in several files, read by several processes over virtual devices.

The parent writes a transformer of Wan's release layout in random values and starts the processes; each
one reports the bytes of the shards it holds and the peak of its memory (VmHWM: mapped file pages count
too), and compares some of its shards with the values that were written.
"""

import argparse
import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from flax import nnx

from tm_jax.errors import InputError
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.pretrained import wan_dit
from tm_jax.pretrained.files import DTYPES, open_checkpoint
from tm_jax.pretrained.layouts import load_public
from tm_jax.pretrained.names import expected, paths
from tm_jax.sharding import MeshConfig, make_mesh, shardings_like

ALLOWANCE = 10**9
"""What a process may need beside its shards: 1 GB, libraries and compiled code included."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Load a synthetic checkpoint by several processes and measure their memory."""

    gib: float = 3.0
    """Size of the checkpoint in GiB."""
    files: int = 4
    """Files it is split into."""
    processes: int = 2
    """Processes that load it together."""
    devices: int = 8
    """Virtual devices of all processes together."""
    dtype: Literal["F32", "BF16", "F16"] = "BF16"
    """Storage type."""
    folder: Path | None = None
    """Where to write it (default: the system's temporary folder)."""


@dataclasses.dataclass(frozen=True)
class ProcessFigures:
    """What one process measured."""

    rank: int
    """Its number."""
    local_bytes: int
    """Bytes of the shards on its devices."""
    before_bytes: int
    """Its memory before loading: Python, JAX and the devices."""
    peak_bytes: int
    """The largest that its memory ever was."""
    seconds: float
    """Time to load."""
    compared: int
    """Shards whose values were compared with what was written; all were equal."""

    @property
    def bound(self) -> int:
        """The largest peak allowed."""
        return self.local_bytes + ALLOWANCE


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A checkpoint and the figures of every process that loaded it."""

    stored_bytes: int
    """Bytes of all files."""
    files: int
    """Number of files."""
    devices: int
    """Virtual devices of all processes together."""
    dtype: str
    """Storage type."""
    processes: tuple[ProcessFigures, ...]
    """One entry a process."""

    @property
    def within_bound(self) -> bool:
        """Whether every process stayed within its local shards + 1 GB."""
        return all(figures.peak_bytes <= figures.bound for figures in self.processes)

    def __str__(self) -> str:
        lines = [
            f"{self.stored_bytes / 2**30:.2f} GiB of {self.dtype} in {self.files} files, "
            f"{len(self.processes)} processes, {self.devices} devices"
        ]
        for figures in self.processes:
            lines.append(
                f"process {figures.rank}: peak {figures.peak_bytes / 1e9:.2f} GB of "
                f"{figures.bound / 1e9:.2f} GB allowed ({figures.local_bytes / 1e9:.2f} GB of shards + 1 GB; "
                f"{figures.before_bytes / 1e9:.2f} GB before loading), {figures.seconds:.1f} s, "
                f"{figures.compared} shards compared"
            )
        return "\n".join([*lines, "within the bound" if self.within_bound else "BEYOND THE BOUND"])


def sized_config(gib: int | float, dtype: str) -> DiTConfig:
    """A text-to-video transformer whose checkpoint has about this many GiB: T2V-1.3B's width, more layers."""
    values = gib * 2**30 / np.dtype(DTYPES[dtype]).itemsize
    width, ffn, text = (1536, 8960, 4096) if values > 2e8 else (96, 384, 64)
    layer = 8 * width**2 + 2 * width * ffn
    return DiTConfig(
        width=width,
        ffn=ffn,
        heads=width // 32,
        layers=max(2, math.ceil(values / layer)),
        in_channels=16,
        text_width=text,
        has_image=False,
        audio_dim=0,
    )


def _values(key: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """The values that the synthetic checkpoint stores under a key."""
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    return (generator.random(shape, np.float32) - np.float32(0.5)).astype(DTYPES[dtype])


def write_checkpoint(folder: Path, config: DiTConfig, files: int, dtype: str) -> None:
    """A transformer in Wan's release layout, split into indexed files; one tensor in memory at a time."""
    abstract = jax.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0)))
    shapes = expected(abstract, wan_dit.RELEASE)
    itemsize = np.dtype(DTYPES[dtype]).itemsize
    total, written, weight_map = sum(math.prod(shape) for shape in shapes.values()), 0, {}
    groups: list[list[str]] = [[] for _ in range(files)]
    for key, shape in shapes.items():
        groups[min(files - 1, written * files // total)].append(key)
        written += math.prod(shape)
    for number, keys in enumerate(groups, start=1):
        name, header, end = f"diffusion_pytorch_model-{number:05d}-of-{files:05d}.safetensors", {}, 0
        for key in keys:
            start, end = end, end + math.prod(shapes[key]) * itemsize
            header[key] = {"dtype": dtype, "shape": shapes[key], "data_offsets": [start, end]}
            weight_map[key] = name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / name, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for key in keys:
                file.write(_values(key, shapes[key], dtype).tobytes())
    index = {"metadata": {"total_size": total * itemsize}, "weight_map": weight_map}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps(index), encoding="utf-8"
    )
    stated = {
        "model_type": "t2v",
        "dim": config.width,
        "num_heads": config.heads,
        "num_layers": config.layers,
    }
    (folder / "config.json").write_text(json.dumps(stated), encoding="utf-8")


def _memory(field: str) -> int:
    """A figure of this process's memory in bytes: VmRSS is now, VmHWM the largest so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise InputError(f"/proc/self/status has no {field}; measure on Linux")


def _compared(model: nnx.Module, dtype: str) -> int:
    """How many shards of the first and last layers and of the bare parameters hold what was written."""
    count = 0
    for path, variable in paths(model).items():
        for layer, key, transform in list(wan_dit.RELEASE.places(path, variable.shape))[::10]:
            theirs = _values(key, transform.shape_to_theirs(variable.shape[layer is not None :]), dtype)
            ours = np.asarray(transform.to_ours(theirs), np.float32)
            for shard in variable[...].addressable_shards:
                index = shard.index if layer is None else shard.index[1:]
                held = shard.data if layer is None else shard.data[layer]
                if not np.array_equal(np.asarray(held), ours[index]):
                    raise AssertionError(f"{path}: the shard of {shard.device} differs from {key}")
                count += 1
    return count


def _worker(arguments: argparse.Namespace) -> None:
    """One process: loads its shards and prints its figures as JSON."""
    jax.config.update("jax_num_cpu_devices", arguments.devices // arguments.processes)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{arguments.port}", arguments.processes, arguments.rank)
    tensor = 2 if arguments.devices % 2 == 0 else 1
    mesh = make_mesh(MeshConfig(data=1, fsdp=arguments.devices // tensor, tensor=tensor))
    before, start = _memory("VmRSS"), time.perf_counter()
    model, _ = load_public(
        arguments.folder, "transformer", shardings=lambda m: shardings_like(m, mesh), progress=arguments.bar
    )
    jax.block_until_ready(model)
    seconds, peak = time.perf_counter() - start, _memory("VmHWM")
    shards = [shard.data for leaf in jax.tree.leaves(model) for shard in leaf.addressable_shards]
    local = sum(shard.nbytes for shard in shards)
    compared = _compared(model, arguments.dtype)
    figures = ProcessFigures(arguments.rank, local, before, peak, seconds, compared)
    print(json.dumps(dataclasses.asdict(figures)), flush=True)
    jax.distributed.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run(folder: Path, processes: int, devices: int, dtype: str, timeout: float) -> Iterator[ProcessFigures]:
    """Starts the processes and yields what each one reports."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "tm_jax.bench.loading", str(folder), str(_free_port())]
    command += [str(processes), str(devices), dtype]
    running = [
        subprocess.Popen(
            [*command, str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(processes)
    ]
    try:
        # Figures and errors are short: they fit in the pipes, so that nothing has to be read meanwhile.
        deadline = time.monotonic() + timeout
        while any(process.poll() is None for process in running):
            if any(process.poll() for process in running):
                break  # one has failed, and the others would wait for it
            if time.monotonic() > deadline:
                raise RuntimeError(f"loading took more than {timeout:.0f} s")
            time.sleep(0.1)
        for process in sorted(running, key=lambda process: not process.poll()):
            if process.poll() is None:
                process.kill()
            output, errors = process.communicate()
            if process.returncode:
                raise RuntimeError(f"a loading process failed:\n{errors[-3000:]}")
            yield ProcessFigures(**json.loads(output.strip().splitlines()[-1]))
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()


def measure(
    gib: int | float = 3.0,
    files: int = 4,
    processes: int = 2,
    devices: int = 8,
    dtype: str = "BF16",
    folder: Path | None = None,
    timeout: float = 1800.0,
) -> Measurement:
    """Writes a checkpoint of about ``gib`` GiB and loads it; the files are removed afterwards.

    Raises InputError where the devices do not divide among the processes or the disk is too small.
    """
    if min(processes, devices, files) < 1 or not 0 < gib < float("inf"):
        raise InputError("--gib must be more than 0, and --files, --processes and --devices at least 1")
    if devices % processes:
        raise InputError(f"{devices} devices do not divide among {processes} processes; choose a multiple")
    try:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            write_checkpoint(Path(name), sized_config(gib, dtype), files, dtype)
            stored = open_checkpoint(Path(name))
            figures = tuple(_run(Path(name), processes, devices, dtype, timeout))
            return Measurement(stored.nbytes, len(stored.files), devices, dtype, figures)
    except OSError as error:
        raise InputError(
            f"{gib} GiB cannot be written to {folder or tempfile.gettempdir()} ({error})"
        ) from None


def run(arguments: Arguments) -> Measurement:
    """Writes the checkpoint and loads it."""
    return measure(**vars(arguments))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("processes", type=int)
    parser.add_argument("devices", type=int)
    parser.add_argument("dtype")
    parser.add_argument("rank", type=int)
    parser.add_argument("--bar", action="store_true")
    _worker(parser.parse_args())
