"""Devices by name, whether a model fits on them before it is loaded, and what a CPU needs to be quick."""

import ctypes
import math
import os

import torch

from tm_jax.errors import InputError
from tm_jax.models.dit_config import DiTConfig
from tm_jax.torch_runtime.export_format import Dtype, ExportConfig

RESERVE = 2**30
"""Bytes that a GPU's context and its libraries' workspaces take beside our tensors."""


def known_devices() -> list[str]:
    """The names that ``device`` takes on this machine."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cpu", *(f"cuda:{index}" for index in range(count))]


def device(name: str, flag: str) -> torch.device:
    """A device by its name, ``cpu`` or ``cuda:N``.

    Raises:
      InputError: there is none of that name; those that exist are told.
    """
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in known_devices():
        raise InputError(f"{flag} {name}: this machine has {', '.join(known_devices())}; give one of them.")
    return torch.device(wanted)


def default_devices() -> tuple[str, str]:
    """Of the DiT and of the VAE: two GPUs where there are two, the same device otherwise."""
    names = known_devices()[1:] or ["cpu"]
    return names[0], names[min(1, len(names) - 1)]


def student_bytes(config: DiTConfig, dtype: Dtype) -> int:
    """Bytes of the student's weights in a precision, its small float32 parts left out."""
    width, wide = config.width, 4 if dtype == "f32" else 2
    each_step = 6 * width * width + 2 * width * config.ffn
    image = 2 * width * width if config.has_image else 0
    once = 2 * width * width + image + 2 * width * config.audio_dim
    return config.layers * (each_step * (1 if dtype == "fp8" else wide) + once * wide)


def stream_bytes(config: ExportConfig, dtype: Dtype) -> int:
    """Bytes that one stream holds on the student's device, the most of it keys and values."""
    student, (rows, columns) = config.student, _grid(config)
    tokens = config.rollout.chunk * rows * columns // math.prod(student.patch)
    wide = 4 if dtype == "f32" else 2
    caches = config.rollout.steps * 3 * tokens
    condition = student.text_length + (student.image_length if student.has_image else 0)
    return student.layers * 2 * (caches + condition) * student.width * wide


def working_bytes(config: ExportConfig, dtype: Dtype) -> tuple[int, int]:
    """Bytes of activations of a chunk, of the student and of the VAE, with room for fragments."""
    student, (rows, columns) = config.student, _grid(config)
    tokens = config.rollout.chunk * rows * columns // math.prod(student.patch)
    wide = 4 if dtype == "f32" else 2
    of_student = 4 * tokens * max(student.ffn, 3 * student.width) * wide
    frames = config.rollout.chunk * config.vae.temporal_stride
    height, width = (edge // config.vae.patch_size for edge in config.size)
    base = config.vae.decoder_base_dim or config.vae.base_dim
    return of_student, 12 * frames * height * width * base * wide


def check_memory(config: ExportConfig, dtype: Dtype, dit: torch.device, vae: torch.device) -> None:
    """Refuse to load what a device has no room for.

    Raises:
      InputError: needed and free memory of the device that is too small.
    """
    weights, stream = student_bytes(config.student, dtype), stream_bytes(config, dtype)
    of_student, of_vae = working_bytes(config, dtype)
    needed = {dit: weights + stream + of_student}
    needed[vae] = needed.get(vae, 0) + of_vae
    for where, count in needed.items():
        free = free_bytes(where)
        count += RESERVE if where.type == "cuda" else 0
        if count > free:
            name = f"{where} ({torch.cuda.get_device_name(where)})" if where.type == "cuda" else str(where)
            raise InputError(
                f"{name} has {free / 1e9:.1f} GB free, the model needs {count / 1e9:.1f} GB there in "
                f"{dtype}: free it, give the VAE a device of its own by --vae-devices, or a smaller --dtype."
            )


def free_bytes(where: torch.device) -> float | int:
    """Memory of a device that nobody has."""
    return torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else host_free_bytes()


def host_free_bytes() -> float | int:
    """Memory of this machine that programs can still have; endless where the system doesn't tell."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return math.inf


def _grid(config: ExportConfig) -> tuple[int, int]:
    stride = config.vae.spatial_stride
    return config.size[0] // stride, config.size[1] // stride


def share_cpu() -> None:
    """Settle this process for streaming on a CPU: threads, and what becomes of freed memory.

    Both stages compute at the same time, so each gets half of the cores: more threads than cores would wait
    for each other in every operation.  OMP_NUM_THREADS, where it is set, is left to decide.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let the C library keep what is freed, for the next tensor of that size.

    Otherwise every large tensor on a CPU is mapped and given back again: thousands of page faults in every
    chunk, a sixth of the VAE's time.  Where the C library has no such setting, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    largest_unmapped, never_trim = 2**25, 2**31 - 1
    mallopt(-3, largest_unmapped)  # M_MMAP_THRESHOLD
    mallopt(-1, never_trim)  # M_TRIM_THRESHOLD
