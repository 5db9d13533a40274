"""Transformers that training starts from or is taught by, read slice by slice into their shards.

A source is our own weights, in one file or in several with an index, a run of ours with its checkpoints, or a
public Wan checkpoint.  Opening it reads headers alone and compares them with the model; values are read once
the mesh is there.
"""

import dataclasses
import functools
import hashlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tm_jax.config import differences
from tm_jax.errors import InputError
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.pretrained.files import Checkpoint, MappedFiles, SlicedTensor, StoredTensor
from tm_jax.pretrained.layouts import open_public
from tm_jax.pretrained.load import load_pretrained
from tm_jax.pretrained.names import NameMap, Rule, paths
from tm_jax.pretrained.run_checkpoint import RunCheckpoint, open_run
from tm_jax.pretrained.runs import is_run
from tm_jax.pretrained.sources import kernels_in, open_own
from tm_jax.pretrained.weights import is_own, read_config
from tm_jax.sharding import ShardingRules, replicated, shardings_like, variable_sharding

RUNS = ("dtype", "remat", "attention")
"""Fields of the model's config that say how it is run and not what it is."""
_SAMPLE = 2**16
_SMALL = 2**22
"""Elements of an array that every device may hold whole for a moment."""


def frozen_dit(config: DiTConfig) -> DiT:
    """A transformer that is not trained: its blocks' kernels are stored in the compute dtype.  Traceable."""
    return kernels_in(config.dtype)(DiT(config, rngs=nnx.Rngs(0)))


def _places(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Evenly spaced places of an array, all where it is small: one index for each axis."""
    if not shape:
        return ()
    size = math.prod(shape)
    return np.unravel_index(np.arange(0, size, max(1, size // _SAMPLE)), shape)


def _in_files(mapped: MappedFiles, tensor: StoredTensor | SlicedTensor) -> np.ndarray:
    """A tensor's values at ``_places``, in whatever parts it lies in its files."""
    places = _places(tensor.shape)
    if isinstance(tensor, StoredTensor):
        return mapped.view(tensor)[places]
    found = np.empty(len(places[0]), np.float32)
    for index, part in tensor.slices:
        axes = list(zip(places, index, strict=True))
        inside = np.logical_and.reduce([(cut.start <= at) & (at < cut.stop) for at, cut in axes])
        found[inside] = mapped.view(part)[tuple(at[inside] - cut.start for at, cut in axes)]
    return found


@functools.partial(jax.jit, static_argnums=2)
def _gather(array: jax.Array, places: tuple[jax.Array, ...], whole: jax.sharding.Sharding) -> jax.Array:
    # As integers, since what the devices lack is a zero in their sum, and -0.0 + 0.0 is another number.
    found = jax.lax.bitcast_convert_type(array, jnp.uint32)[places]
    return jax.lax.with_sharding_constraint(found, whole)


def _on_devices(array: jax.Array, whole: jax.sharding.Sharding) -> np.ndarray:
    """An array's values at ``_places``; it is not gathered."""
    return np.asarray(_gather(array, _places(array.shape), whole)).view(np.float32)


@dataclasses.dataclass(frozen=True)
class DiTSource:
    """A transformer in files, found to fit a config; no value is read yet."""

    checkpoint: Checkpoint
    names: NameMap
    config: DiTConfig
    new: tuple[str, ...] = ()
    """Patterns of our paths that the files may lack."""
    ignored: tuple[str, ...] = ()

    def load(self, rules: ShardingRules, *, frozen: bool = False, seed: int = 0) -> DiT:
        """The transformer on the current mesh, or on one device where none is set.

        Args:
          frozen: store the kernels in the compute dtype, as ``frozen_dit`` does.
          seed: of the parameters that public checkpoints lack.
        """
        adapt = kernels_in(self.config.dtype) if frozen else lambda model: model
        make = lambda: adapt(DiT(self.config, rngs=nnx.Rngs(seed)))
        mesh = jax.sharding.get_mesh()
        shardings = None if mesh.empty else shardings_like(jax.eval_shape(make), mesh, rules)
        return load_pretrained(
            self.checkpoint, make, self.names, shardings, new=self.new, ignored=self.ignored
        )

    def digest(self, rules: ShardingRules) -> str:
        """What the values depend on: all of small tensors, and evenly spaced places of large ones.

        The same for weights of ours wherever and in however many parts they lie.  Every process must call it:
        a run's arrays are brought onto the devices for it, one after another.
        """
        state = hashlib.sha256()
        for name, values in self._sampled(rules):
            tensor = self.checkpoint.tensors[name]
            state.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            state.update(np.ascontiguousarray(values).tobytes())
        return state.hexdigest()[:12]

    def _sampled(self, rules: ShardingRules) -> Iterator[tuple[str, np.ndarray]]:
        names, stored = sorted(self.checkpoint.tensors), self.checkpoint
        if not isinstance(stored, RunCheckpoint):
            with MappedFiles() as mapped:
                for name in names:
                    yield name, _in_files(mapped, stored.tensors[name])
                    mapped.release(stored.tensors[name])
            return
        mesh, wanted = jax.sharding.get_mesh(), {}
        whole = jax.sharding.SingleDeviceSharding(jax.local_devices()[0]) if mesh.empty else replicated(mesh)
        variables = paths(jax.eval_shape(lambda: DiT(self.config, rngs=nnx.Rngs(0))))
        for name in names:
            shape = stored.tensors[name].shape
            split = math.prod(shape) > _SMALL and not mesh.empty
            where = variable_sharding(variables[name], mesh, rules) if split else whole
            wanted[name] = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)
        small = [name for name in names if math.prod(wanted[name].shape) <= _SMALL]
        held = stored.restore({name: wanted[name] for name in small})
        for name in names:
            if name in held:
                yield name, np.asarray(held[name])[_places(wanted[name].shape)]
            else:
                yield name, _on_devices(stored.restore({name: wanted[name]})[name], whole)


AFRESH = {
    ("audio_width", "audio_dim", "audio_left", "audio_lookahead", "audio_eps"): (
        "audio_embedding.",
        "blocks.audio.",
    ),
    ("predicts", "change_scale"): ("head.",),
}
"""Fields in which weights of ours that a training starts from may differ, and the parameters that then begin
afresh."""


def open_dit(source: str | Path, config: DiTConfig, *, as_start: bool = False) -> DiTSource:
    """A transformer of ours or a public one, compared with a config.

    Args:
      as_start: training goes on from it, so that it may hear other audio tokens, see another condition or
        predict something else: what does so begins afresh.

    Raises:
      InputError: it is not there, or of another config; all that differs in one sentence.
    """
    if not is_own(source):
        public = open_public(source, "transformer", config)
        names = public.layout.names(config, public.checkpoint.tensors)
        return DiTSource(public.checkpoint, names, config, public.layout.new, public.layout.ignored)
    path = open_run(Path(source)).path if is_run(Path(source)) else Path(source)
    saved = read_config(path, DiTConfig)
    free = (*RUNS, *itertools.chain(*AFRESH), "still_condition") if as_start else RUNS
    same = dataclasses.replace(saved, **{name: getattr(config, name) for name in free})
    if found := differences(same, config):
        raise InputError(f"{path} was made with another config (file against expected): {'; '.join(found)}.")
    differs = lambda fields: any(getattr(saved, name) != getattr(config, name) for name in fields)
    afresh = tuple(part for fields, parts in AFRESH.items() if differs(fields) for part in parts)
    abstract = jax.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0)))
    names = NameMap(Rule(name, name) for name in paths(abstract) if not name.startswith(afresh))
    patterns = tuple(f"{part}*" for part in afresh)
    return DiTSource(open_own(path), names, config, patterns, patterns)


def copied(model: nnx.Module) -> nnx.Module:
    """A second copy, in the same places."""
    return jax.tree.map(jnp.copy, model)
