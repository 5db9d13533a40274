"""FantasyTalking's audio weights as the start of a teacher that hears (METHOD §4).

The one open audio adapter of our form: wav2vec2's tokens are projected without bias and normed, and every
layer has keys and values of them for the cross-attention's own queries.  What it lacks begins at zero, where
it changes nothing: the projection's bias, the positions of the window's slots, the mode embedding.

It was trained on windows of 15 tokens at 25 frames/s (17 at 23), 8j-11 … 8j+3 for latent frame j, which is
``audio_left`` 5 and ``audio_lookahead`` 2 here.  It leaves tokens beyond the sound's ends out of the
attention; ours are attended zeros, so that such windows differ.

Its file is a pickle: ``python -m tm_jax.pretrained convert fantasytalking_model.ckpt --to FILE`` comes first.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from tm_jax.errors import InputError
from tm_jax.models.audio_adapter import AudioAttention
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.pretrained.files import Checkpoint, open_checkpoint
from tm_jax.pretrained.load import check_fit, load_pretrained
from tm_jax.pretrained.names import LINEAR, NameMap, Rule, paths, with_values
from tm_jax.pretrained.other_kinds import fantasytalking

EPS = 1e-5
"""Added to the variance in its norm."""
WINDOW = {"audio_left": 5, "audio_lookahead": 2}
"""Its windows at 25 frames/s."""

NAMES = NameMap(
    (
        Rule("audio_embedding.projection.kernel", "proj_model.proj.weight", LINEAR),
        Rule("audio_embedding.norm.scale", "proj_model.norm.weight"),
        Rule("audio_embedding.norm.bias", "proj_model.norm.bias"),
        Rule("blocks.audio.key.kernel", "blocks.{layer}.cross_attn.processor.k_proj.weight", LINEAR),
        Rule("blocks.audio.value.kernel", "blocks.{layer}.cross_attn.processor.v_proj.weight", LINEAR),
    )
)
NEW = ("audio_embedding.projection.bias", "audio_embedding.position")
"""Our paths that it lacks."""
_PREFIX = "audio_processor."


class Hearing(nnx.Module):
    """The parts of a transformer that hear, under the transformer's own paths."""

    def __init__(self, model: DiT):
        self.audio_embedding = model.audio_embedding
        self.blocks = HearingBlocks(model.blocks.audio)


class HearingBlocks(nnx.Module):
    """Of all blocks what hears."""

    def __init__(self, audio: AudioAttention):
        self.audio = audio


@dataclasses.dataclass(frozen=True)
class FantasyTalking:
    """Audio weights that were found to fit a transformer; none of their values is read yet."""

    checkpoint: Checkpoint
    """Their headers."""

    @property
    def sizes(self) -> dict[str, int]:
        """Fields of the transformer's config that the shapes decide."""
        shapes = self.checkpoint.shapes
        layers = sum(name.endswith(".processor.k_proj.weight") for name in shapes)
        found = {"layers": layers}
        for names, name in (
            (("audio_dim", "audio_width"), "proj_model.proj.weight"),
            (("width", "audio_dim"), "blocks.0.cross_attn.processor.k_proj.weight"),
        ):
            found.update(zip(names, shapes.get(name, ()), strict=False))
        return found

    @property
    def config(self) -> DiTConfig:
        """A transformer of these sizes, as far as they are known."""
        sizes = self.sizes
        heads = max(1, sizes.get("width", 0) // 128)
        return dataclasses.replace(DiTConfig(), **{"heads": heads, **sizes}, audio_eps=EPS, **WINDOW)

    def load(self, model: DiT, *, progress: bool = True) -> DiT:
        """The transformer with these weights in the place of what hears, in the same shards.

        Args:
            model: on its devices; its other parameters are not copied.
        """
        mine = Hearing(model)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, mine)
        # What the file lacks are zeros, whatever the model holds there.
        make = lambda: jax.tree.map(jnp.zeros_like, Hearing(DiT(model.config, rngs=nnx.Rngs(0))))
        loaded = load_pretrained(self.checkpoint, make, NAMES, shardings, new=NEW, progress=progress)
        values = {path: variable[...] for path, variable in paths(model).items()}
        values.update({path: variable[...] for path, variable in paths(loaded).items()})
        return with_values(model, values)


def open_headers(path: str | Path) -> FantasyTalking:
    """The headers of audio weights, without the prefix that their names may have.

    Raises:
        InputError: no such weights; a pickle is told how to become safetensors.
    """
    checkpoint = open_checkpoint(Path(path).expanduser())
    if not fantasytalking(checkpoint.tensors):
        raise InputError(f"{path} does not hold FantasyTalking's audio weights; give their safetensors file")
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in checkpoint.tensors.items()}
    return FantasyTalking(dataclasses.replace(checkpoint, tensors=tensors))


def open_fantasytalking(path: str | Path, config: DiTConfig) -> FantasyTalking:
    """Audio weights, compared with a transformer's config; ``load`` then reads the values.

    Raises:
        InputError: one sentence about whatever does not fit.
    """
    found = open_headers(path)
    wanted = {**found.sizes, "audio_eps": EPS}
    if differing := [
        f"{name} {getattr(config, name)} here, {value} there"
        for name, value in wanted.items()
        if getattr(config, name) != value
    ]:
        raise InputError(
            f"{path} hears otherwise than this model ({'; '.join(differing)}); "
            "take the preset wan14b_fantasytalking_teacher, or give these as --model flags"
        )
    abstract = jax.eval_shape(lambda: Hearing(DiT(config, rngs=nnx.Rngs(0))))
    check_fit(found.checkpoint, abstract, NAMES, NEW)
    return found
