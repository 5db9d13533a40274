"""Transformers that training starts from or is taught by, read slice by slice into their shards.

A source is our own weights, in one file or in several with an index, or a public Wan checkpoint.  Opening it
reads headers alone and compares them with the model; values are read once the mesh is there.
"""

import dataclasses
import hashlib
import itertools
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
from tm_jax.pretrained.sources import kernels_in, open_own
from tm_jax.pretrained.weights import is_own, read_config
from tm_jax.sharding import ShardingRules, shardings_like

RUNS = ("dtype", "remat", "attention")
"""Fields of the model's config that say how it is run and not what it is."""
_SAMPLE = 2**16


def frozen_dit(config: DiTConfig) -> DiT:
    """A transformer that is not trained: its blocks' kernels are stored in the compute dtype.  Traceable."""
    return kernels_in(config.dtype)(DiT(config, rngs=nnx.Rngs(0)))


def parts_of(mapped: MappedFiles, tensor: StoredTensor | SlicedTensor) -> list[np.ndarray]:
    """A tensor's values as they lie in its files."""
    stored = [tensor] if isinstance(tensor, StoredTensor) else [part for _, part in tensor.slices]
    return [mapped.view(one) for one in stored]


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

    def digest(self) -> str:
        """What the values depend on: all of small tensors, and evenly spaced places of large ones."""
        state = hashlib.sha256()
        with MappedFiles() as mapped:
            for name, tensor in sorted(self.checkpoint.tensors.items()):
                state.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
                for values in parts_of(mapped, tensor):
                    flat = values.reshape(-1)
                    state.update(np.ascontiguousarray(flat[:: max(1, flat.size // _SAMPLE)]).tobytes())
                mapped.release(tensor)
        return state.hexdigest()[:12]


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
    path = Path(source)
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
