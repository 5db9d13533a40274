"""Devices that aren't here, described well enough to be compiled for.

TPUs by libtpu, which also refuses what does not fit their memory; H100s by JAX's CUDA plug-in, which
doesn't.  Both are optional, and neither needs its hardware.
"""

import importlib.util
import os

import jax
from jax.experimental import topologies

from tm_jax.errors import InputError
from tm_jax.plan.hardware import Topology

LIBTPU = f'pip install "jax[tpu]=={jax.__version__}"'
CUDA = f"pip install jax-cuda13-plugin=={jax.__version__} jax-cuda13-pjrt=={jax.__version__}"

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # A third of the compile time; the memory is the same.
    "JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1.0",
}
"""What a process that compiles must find before it imports JAX."""

# What XLA asks of a GPU before it compiles for it, as an H100 SXM answers.
H100 = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 48 * 1024,
    "shared_memory_per_core": 228 * 1024,
    "shared_memory_per_block_optin": 227 * 1024,
    "threads_per_core_limit": 2048,
    "core_count": 132,
    "fpus_per_core": 128,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "memory_bandwidth": 3_352_320_000_000,
    "l2_cache_size": 50 * 2**20,
    "clock_rate_ghz": 1.98,
    "device_memory_size": 84_929_347_584,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
}
CUDNN = (9, 12, 0)


def check_installed(where: Topology) -> None:
    """Refuses a topology whose compiler is not installed.

    Raises:
      InputError: saying what to install.
    """
    if where.gpu:
        if not all(map(importlib.util.find_spec, ("jax_cuda13_plugin", "jax_plugins.xla_cuda13"))):
            raise InputError(f"Compiling for {where.name} takes JAX's CUDA plug-in: {CUDA} (no GPU needed).")
    elif importlib.util.find_spec("libtpu") is None:
        raise InputError(f"Compiling for {where.name} takes libtpu: {LIBTPU} (no TPU needed).")


def described(where: Topology) -> list[jax.Device]:
    """All devices of a topology.

    Raises:
      InputError: the compiler knows no such topology.
    """
    try:
        if where.gpu:
            _answer_for_cudnn()
            nodes, each = where.shape
            found = topologies.get_topology_desc(
                platform="cuda", target_config=_target(), topology=f"1x{nodes}x{each}"
            )
        else:
            found = topologies.get_topology_desc(platform="tpu", **_tpu(where))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The compiler cannot describe {where.name}: {reason}") from error
    return list(found.devices)


def _tpu(where: Topology) -> dict:
    options: dict = {"topology_name": where.name.split("*")[0]}
    if where.slices > 1:
        options["num_slices"] = where.slices
    if where.chip.name == "v4":
        # Both cores of a chip as one device, as Cloud TPU runs them.
        options |= {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}
    if where.chips == 1:
        options["chips_per_host_bounds"] = (1,) * 3
    return options


def _target() -> str:
    """The description of an H100, in the text form of XLA's protocol buffer."""
    numbers = "".join(f"  {name}: {value}\n" for name, value in H100.items())
    major, minor, _ = CUDNN
    return (
        f"gpu_device_info {{\n{numbers}  cuda_compute_capability {{ major: 9 minor: 0 }}\n}}\n"
        f'platform_name: "CUDA"\ndnn_version_info {{ major: {major} minor: {minor} }}\n'
        "runtime_version { major: 13 minor: 0 patch: 0 }\n"
        'device_description_str: "NVIDIA H100 80GB HBM3"\n'
    )


def _answer_for_cudnn() -> None:
    """Tells JAX the version of a cuDNN that isn't loaded here; there is no public way to."""
    import jax._src.cudnn.fused_attention_stablehlo as fused

    major, minor, patch = CUDNN
    fused.check_cudnn_version = lambda: 10000 * major + 100 * minor + patch


def environment() -> dict[str, str]:
    """The environment of a process that compiles."""
    return {**os.environ, **ENVIRONMENT}
