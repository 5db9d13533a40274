"""The public checkpoints that are known: how each is recognised, how large it is, which name map reads it.

A layout is recognised by keys that it alone has; the size comes from config.json where there is one and
from the shapes otherwise.  Older spellings of a layout (a prefix that libraries have since dropped) are
rewritten to the newer before anything else looks at the keys.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from tm_jax.errors import InputError
from tm_jax.models.clip import CLIPVision
from tm_jax.models.dit import DiT
from tm_jax.models.umt5 import UMT5
from tm_jax.models.vae import VAE
from tm_jax.models.wav2vec2 import Wav2Vec2
from tm_jax.pretrained import clip, sizes, umt5, wan_dit, wan_vae, wav2vec2
from tm_jax.pretrained.files import (
    Checkpoint,
    StoredTensor,
    holds_safetensors,
    open_checkpoint,
    refuse_scaled,
)
from tm_jax.pretrained.hub import resolve
from tm_jax.pretrained.load import check_fit, load_pretrained
from tm_jax.pretrained.names import NameMap
from tm_jax.pretrained.other_kinds import refuse_others
from tm_jax.pretrained.sizes import Shapes
from tm_jax.pretrained.wan_family import member, refuse_relatives

Shardings = Callable[[nnx.Module], Any] | None

FOLDERS = {
    "transformer": "transformer",
    "vae": "vae",
    "text": "text_encoder",
    "image": "image_encoder",
    "speech": "speech_encoder",
}
"""Kind of model → its subfolder in a diffusers pipeline (speech: by the same habit, none has it)."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way in which one kind of model is stored."""

    kind: str
    """What the model does: a key of ``FOLDERS``."""
    name: str
    """Whose key names these are: diffusers, original or transformers."""
    marks: tuple[str, ...]
    """Keys that together show this layout."""
    config: Callable[[Shapes, dict], Any]
    """The model's config from stored shapes and config.json."""
    model: Callable[..., nnx.Module]
    """The model's class."""
    names: Callable[[Any, Collection[str]], NameMap]
    """The name map for a config and the checkpoint's keys."""
    new: tuple[str, ...] = ()
    """Patterns of our paths that the checkpoint may lack."""
    ignored: tuple[str, ...] = ()
    """Patterns of their keys that have no place here."""
    spellings: tuple[tuple[str, str], ...] = ()
    """Regular expressions of older keys with what replaces them."""
    fused: str | None = None
    """Regular expression of keys that hold query, key and value, one after another."""

    def respelled(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with its keys in the newer spelling, and its fused tensors divided."""

        def rewrite(key: str) -> str:
            for old, newer in self.spellings:
                key = re.sub(old, newer, key)
            return key

        tensors: dict[str, StoredTensor] = {}
        for key, tensor in checkpoint.tensors.items():
            newer = rewrite(key)
            # Where two keys become one, the second keeps its name and is told as unknown.
            newer = key if newer in tensors else newer
            if self.fused and re.fullmatch(self.fused, newer) and (thirds := tensor.divided(len(clip.FUSED))):
                tensors |= {f"{newer}/{part}": third for part, third in zip(clip.FUSED, thirds, strict=True)}
            else:
                tensors[newer] = tensor
        return dataclasses.replace(checkpoint, tensors=tensors)

    def sized(self, checkpoint: Checkpoint) -> Any:
        """The model's config, from the checkpoint's shapes and its config.json.

        Raises:
            InputError: they describe no model.
        """
        try:
            return self.config(checkpoint.shapes, checkpoint.config)
        except InputError as error:
            raise InputError(f"{checkpoint.path}: {error}") from None
        except (ValueError, TypeError, ArithmeticError) as error:
            raise self._impossible(checkpoint, error) from None

    def abstract(self, checkpoint: Checkpoint, config: Any) -> nnx.Module:
        """The shapes of the model that a config describes.

        Raises:
            InputError: JAX cannot build a model of such sizes.
        """
        try:
            return jax.eval_shape(lambda: self.model(config, rngs=nnx.Rngs(0)))
        except Exception as error:
            # Whatever sizes a damaged file asks for, JAX and Flax refuse them in their own ways.
            raise self._impossible(checkpoint, error) from None

    def _impossible(self, checkpoint: Checkpoint, error: Exception) -> InputError:
        reason = str(error).split("\n")[0] or type(error).__name__
        return InputError(
            f"{checkpoint.path} describes no {self.kind} that can be built ({reason}); "
            "download it again, its config.json too"
        )


_DIFFUSION_PREFIX = ((r"^(model\.)?diffusion_model\.", ""),)

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "transformer",
        "diffusers",
        ("patch_embedding.weight", "condition_embedder.time_embedder.linear_1.weight"),
        functools.partial(sizes.dit_config, diffusers=True),
        DiT,
        lambda config, keys: wan_dit.DIFFUSERS,
        new=wan_dit.NEW,
        spellings=_DIFFUSION_PREFIX,
    ),
    Layout(
        "transformer",
        "original",
        ("patch_embedding.weight", "time_embedding.0.weight"),
        functools.partial(sizes.dit_config, diffusers=False),
        DiT,
        lambda config, keys: wan_dit.RELEASE,
        new=wan_dit.NEW,
        spellings=_DIFFUSION_PREFIX,
    ),
    Layout(
        "vae",
        "diffusers",
        ("encoder.conv_in.weight", "decoder.conv_in.weight"),
        sizes.vae_config,
        VAE,
        lambda config, keys: wan_vae.wan_vae_names(config),
    ),
    Layout(
        "vae",
        "original",
        ("encoder.conv1.weight", "decoder.conv1.weight", "decoder.middle.0.residual.0.gamma"),
        sizes.original_vae_config,
        VAE,
        lambda config, keys: wan_vae.original_wan_vae_names(config),
    ),
    Layout(
        "text",
        "transformers",
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.final_layer_norm.weight"),
        sizes.umt5_config,
        UMT5,
        lambda config, keys: umt5.umt5_names(keys),
        ignored=umt5.UMT5_IGNORED,
    ),
    Layout(
        "text",
        "original",
        ("token_embedding.weight", "blocks.0.ffn.gate.0.weight", "norm.weight"),
        functools.partial(sizes.umt5_config, original=True),
        UMT5,
        lambda config, keys: umt5.ORIGINAL,
        ignored=umt5.UMT5_IGNORED,
    ),
    Layout(
        "image",
        "transformers",
        ("embeddings.patch_embedding.weight", "pre_layrnorm.weight"),
        sizes.clip_config,
        CLIPVision,
        lambda config, keys: clip.clip_names(keys),
        ignored=clip.CLIP_IGNORED,
        spellings=((rf"^{re.escape(clip.PREFIX)}", ""),),
    ),
    Layout(
        "image",
        "original",
        ("cls_embedding", "pos_embedding", "pre_norm.weight"),
        sizes.original_clip_config,
        CLIPVision,
        lambda config, keys: clip.ORIGINAL,
        ignored=clip.ORIGINAL_IGNORED,
        spellings=((rf"^{re.escape(clip.VISUAL)}", ""),),
        fused=clip.ORIGINAL_FUSED,
    ),
    Layout(
        "image",
        "open_clip",
        ("class_embedding", "positional_embedding", "ln_pre.weight"),
        sizes.open_clip_config,
        CLIPVision,
        lambda config, keys: clip.OPEN_CLIP,
        ignored=clip.OPEN_CLIP_IGNORED,
        spellings=clip.OPEN_CLIP_SPELLINGS,
        fused=clip.OPEN_CLIP_FUSED,
    ),
    Layout(
        "speech",
        "transformers",
        ("feature_extractor.conv_layers.0.conv.weight", "feature_projection.projection.weight"),
        sizes.wav2vec2_config,
        Wav2Vec2,
        lambda config, keys: wav2vec2.wav2vec2_names(keys),
        new=wav2vec2.WAV2VEC2_NEW,
        ignored=wav2vec2.WAV2VEC2_IGNORED,
        spellings=((rf"^{re.escape(wav2vec2.PREFIX)}", ""),),
    ),
)


def _without_prefix(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without the dotted words that all of its keys begin with, such as ``model.``."""
    first, last = (choose(checkpoint.tensors).split(".") for choose in (min, max))
    words = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first[:-1], last[:-1], strict=False))
    common = "".join(f"{word}." for word, _ in words)
    tensors = {key.removeprefix(common): tensor for key, tensor in checkpoint.tensors.items()}
    return dataclasses.replace(checkpoint, tensors=tensors)


def recognise(checkpoint: Checkpoint) -> tuple[Layout, Checkpoint]:
    """The layout of a checkpoint, and the checkpoint in that layout's newer spelling.

    Raises InputError where the keys belong to no model that is known here, or to a file of another kind.
    """
    if not checkpoint.tensors:
        raise InputError(f"{checkpoint.path} holds no tensors; download it again")
    refuse_scaled(checkpoint)
    refuse_others(checkpoint)
    best = None
    for candidate in (checkpoint, _without_prefix(checkpoint)):
        for layout in LAYOUTS:
            respelled = layout.respelled(candidate)
            shown = sum(mark in respelled.tensors for mark in layout.marks)
            if shown == len(layout.marks):
                return layout, respelled
            # One missing key must not hide what the rest plainly is.
            if shown and (best is None or shown > best[0]):
                best = (shown, layout, respelled)
    if best and best[0] > len(best[1].marks) // 2:
        return best[1:]
    raise InputError(
        f"{checkpoint.path} holds {len(checkpoint.tensors)} tensors of no model that is known here "
        f"(such as {', '.join(sorted(checkpoint.tensors)[:2])}); "
        f"known are {', '.join(sorted({layout.kind for layout in LAYOUTS}))} of Wan2.1"
    )


def find(path: Path, kind: str) -> Path:
    """Where a kind of model lies: the folder itself, or its subfolder in a pipeline."""
    if path.is_dir() and not holds_safetensors(path):
        if (path / FOLDERS[kind]).is_dir():
            return path / FOLDERS[kind]
        parts = [folder for folder in FOLDERS.values() if (path / folder).is_dir()]
        if parts:
            raise InputError(
                f"{path} is a pipeline without {FOLDERS[kind]}/ (it has {', '.join(parts)}); "
                "download that folder too"
            )
    return path


NOT_SIZES = ("dtype", "remat", "attention", "output_layer", "trained_frames", "text_length", "image_length")
"""Fields of our configs that no stored tensor decides; ``audio_*`` belongs to them too."""


def sizes_that_differ(ours: Any, theirs: Any, unknown: tuple[str, ...] = ()) -> list[str]:
    """The sizes in which two configs of one class differ, as ``width 5120 here, 1536 there``."""
    found = []
    for field in dataclasses.fields(ours):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        free = field.name in NOT_SIZES + unknown or field.name.startswith("audio_")
        if mine != other and not free:
            found.append(f"{field.name} {mine} here, {other} there")
    return found


@dataclasses.dataclass(frozen=True)
class PublicModel:
    """A checkpoint that was found to fit a model; none of its values is read yet."""

    checkpoint: Checkpoint
    """Its headers, in the layout's newer spelling."""
    layout: Layout
    """How it is stored."""
    config: Any
    """The model's config."""

    def load(self, shardings: Shardings = None, *, seed: int = 0, progress: bool = True) -> nnx.Module:
        """The model, each device holding its shard.

        Args:
            shardings: from the abstract model, a tree like it (``lambda m: shardings_like(m, mesh, rules)``).
            seed: of the parameters that public checkpoints lack.
            progress: draw a bar.
        """
        make = lambda: self.layout.model(self.config, rngs=nnx.Rngs(seed))
        return load_pretrained(
            self.checkpoint,
            make,
            self.layout.names(self.config, self.checkpoint.tensors),
            None if shardings is None else shardings(jax.eval_shape(make)),
            new=self.layout.new,
            ignored=self.layout.ignored,
            progress=progress,
        )


def open_public(source: str | Path, kind: str, config: Any = None) -> PublicModel:
    """The headers of a public model, compared with a config; ``load`` then reads the values.

    Args:
        source: a folder (of one model, or a diffusers pipeline), a safetensors file, or a Hub id.
        kind: a key of ``FOLDERS``.
        config: the config that the model must have; None takes the checkpoint's own, without audio.

    Raises:
        InputError: one sentence about whatever is wrong; of keys that do not fit, all at once.
    """
    others = tuple(folder for name, folder in FOLDERS.items() if name != kind)
    checkpoint = open_checkpoint(find(resolve(source, skip=others), kind))
    layout, checkpoint = recognise(checkpoint)
    if layout.kind != kind:
        raise InputError(f"{checkpoint.path} holds a {layout.kind} and not a {kind}; give the other folder")
    theirs = layout.sized(checkpoint)
    if kind == "transformer":
        refuse_relatives(checkpoint.path, member(checkpoint.shapes, theirs))
    config = theirs if config is None else config
    # No shape tells the number of heads: without a config.json the caller's word counts.
    if differing := sizes_that_differ(config, theirs, () if checkpoint.config else ("heads",)):
        raise InputError(
            f"{checkpoint.path} is of another size than the config asks for "
            f"({'; '.join(differing)}); choose the preset of its size"
        )
    return PublicModel(checkpoint, layout, _check(layout, checkpoint, config))


def load_public(
    source: str | Path,
    kind: str,
    config: Any = None,
    shardings: Shardings = None,
    *,
    seed: int = 0,
    progress: bool = True,
) -> tuple[nnx.Module, Any]:
    """A model from a folder, a file or a Hub id, and its config: ``open_public``, then ``load``."""
    public = open_public(source, kind, config)
    return public.load(shardings, seed=seed, progress=progress), public.config


def _check(layout: Layout, checkpoint: Checkpoint, config: Any) -> Any:
    """The config, once every key has been compared with its model."""
    names = layout.names(config, checkpoint.tensors)
    check_fit(checkpoint, layout.abstract(checkpoint, config), names, layout.new, layout.ignored)
    return config


def fits_itself(layout: Layout, checkpoint: Checkpoint) -> Any:
    """The config of a checkpoint that is complete by its own account; raises InputError where it is not."""
    return _check(layout, checkpoint, layout.sized(checkpoint))
