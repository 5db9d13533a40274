"""Arrays assembled on their devices, piece by piece, from whatever can be read by slices.

Every device asks for its own part only; devices that hold the same part (replicas) share one read.  A part
larger than ``PIECE_BYTES`` is filled on the device in bands along its first axis, which is the layer axis of
scanned stacks, so that the host never holds more than one band whatever the model's size.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

PIECE_BYTES = 64 * 2**20

Index = tuple[slice, ...]
Read = Callable[[Index], np.ndarray]


@functools.partial(jax.jit, donate_argnums=0)
def _fill(part, band, start):
    return jax.lax.dynamic_update_slice_in_dim(part, band, start, axis=0)


def _bounds(index: Index, shape: tuple[int, ...]) -> Index:
    """The index with every start and stop written out, and no step."""
    return tuple(slice(*cut.indices(size)[:2]) for cut, size in zip(index, shape, strict=True))


def _part(index: Index, dtype: np.dtype, device: jax.Device, read: Read, piece_bytes: int) -> jax.Array:
    """One device's part of an array, put there in bands of at most ``piece_bytes`` where that is possible."""
    shape = tuple(cut.stop - cut.start for cut in index)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes <= piece_bytes or not shape or shape[0] == 1:
        return jax.block_until_ready(jax.device_put(read(index).astype(dtype, copy=False), device))
    rows = max(1, shape[0] * piece_bytes // nbytes)
    part = jax.device_put(jnp.zeros(shape, dtype, device=device), device)
    first = index[0]
    for start in range(first.start, first.stop, rows):
        cut = slice(start, min(start + rows, first.stop))
        band = jax.device_put(read((cut, *index[1:])).astype(dtype, copy=False), device)
        # Waiting lets go of the band before the next one is read.
        part = jax.block_until_ready(_fill(part, band, start - first.start))
    return part


def local_indices(
    shape: tuple[int, ...], sharding: jax.sharding.Sharding
) -> list[tuple[Index, list[jax.Device]]]:
    """The distinct parts of an array that this process holds, each with the devices that hold it."""
    parts: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = _bounds(index, shape)
        parts.setdefault(tuple((cut.start, cut.stop) for cut in bounds), []).append(device)
    return [(tuple(slice(*cut) for cut in bounds), devices) for bounds, devices in parts.items()]


def place(
    shape: tuple[int, ...],
    dtype: jax.typing.DTypeLike,
    sharding: jax.sharding.Sharding,
    read: Read,
    piece_bytes: int = PIECE_BYTES,
) -> jax.Array:
    """An array under a sharding, filled by ``read(index)`` with one call for each distinct part or band.

    Processes need no communication: each one reads its own parts.
    """
    dtype, arrays = np.dtype(dtype), {}
    for index, devices in local_indices(shape, sharding):
        part = _part(index, dtype, devices[0], read, piece_bytes)
        for device in devices:
            arrays[device] = part if device == devices[0] else jax.device_put(part, device)
    order = list(sharding.addressable_devices_indices_map(shape))
    return jax.make_array_from_single_device_arrays(shape, sharding, [arrays[device] for device in order])
