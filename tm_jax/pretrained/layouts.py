"""The public checkpoints that are known: how each is recognised, how large it is, which name map reads it.

A layout is recognised by keys that it alone has; the size comes from config.json where there is one and
from the shapes otherwise.  Older spellings of a layout (a prefix that libraries have since dropped) are
rewritten to the newer before anything else looks at the keys.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from tm_jax.errors import InputError
from tm_jax.models.clip import CLIPConfig, CLIPVision
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.umt5 import UMT5, UMT5Config
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.models.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from tm_jax.pretrained import clip, umt5, wan_dit, wan_vae, wav2vec2
from tm_jax.pretrained.files import Checkpoint, holds_safetensors, open_checkpoint
from tm_jax.pretrained.hub import resolve
from tm_jax.pretrained.load import check_fit, load_pretrained
from tm_jax.pretrained.names import NameMap

Shapes = Mapping[str, tuple[int, ...]]
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

    def respelled(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with its keys in the newer spelling."""

        def rewrite(key: str) -> str:
            for old, newer in self.spellings:
                key = re.sub(old, newer, key)
            return key

        tensors = {rewrite(key): tensor for key, tensor in checkpoint.tensors.items()}
        return dataclasses.replace(checkpoint, tensors=tensors)


def _size(shapes: Shapes, key: str, axis: int, otherwise: int) -> int:
    """One dimension of a stored tensor, or another value where it is missing."""
    shape = shapes.get(key, ())
    return shape[axis] if axis < len(shape) else otherwise


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that the pattern's group finds among the keys."""
    numbers = [int(match[1]) for key in shapes if (match := re.match(pattern, key))]
    return max(numbers, default=-1) + 1


def _stated(config: dict, **fields: str) -> dict[str, Any]:
    """Our field → the value of their field, for those that config.json has; lists become tuples."""
    found = {ours: config[theirs] for ours, theirs in fields.items() if config.get(theirs) is not None}
    return {ours: tuple(value) if isinstance(value, list) else value for ours, value in found.items()}


def _dit(shapes: Shapes, config: dict, *, diffusers: bool) -> DiTConfig:
    pick = lambda theirs, release: theirs if diffusers else release
    patch = shapes.get("patch_embedding.weight", ())
    width = _size(shapes, "patch_embedding.weight", 0, 5120)
    image = pick("condition_embedder.image_embedder.norm1.weight", "img_emb.proj.0.weight")
    time = pick("condition_embedder.time_embedder.linear_1.weight", "time_embedding.0.weight")
    text = pick("condition_embedder.text_embedder.linear_1.weight", "text_embedding.0.weight")
    seen = {
        "width": width,
        "ffn": _size(shapes, pick("blocks.0.ffn.net.0.proj.weight", "blocks.0.ffn.0.weight"), 0, 13824),
        "heads": max(1, width // 128),
        "layers": _count(shapes, r"blocks\.(\d+)\."),
        "in_channels": _size(shapes, "patch_embedding.weight", 1, 36),
        "patch": tuple(patch[2:]) if len(patch) == 5 else (1, 2, 2),
        "text_width": _size(shapes, text, 1, 4096),
        "time_frequencies": _size(shapes, time, 1, 256),
        "has_image": image in shapes,
        "image_width": _size(shapes, image, 0, 1280),
    }
    cells = seen["patch"][0] * seen["patch"][1] * seen["patch"][2]
    seen["out_channels"] = _size(shapes, pick("proj_out.weight", "head.head.weight"), 0, 16 * cells) // cells
    if diffusers:
        stated = _stated(
            config,
            heads="num_attention_heads",
            layers="num_layers",
            ffn="ffn_dim",
            in_channels="in_channels",
            out_channels="out_channels",
            patch="patch_size",
            text_width="text_dim",
            time_frequencies="freq_dim",
            eps="eps",
        )
        if "num_attention_heads" in config and "attention_head_dim" in config:
            stated["width"] = config["num_attention_heads"] * config["attention_head_dim"]
        if "image_dim" in config:
            stated["has_image"] = config["image_dim"] is not None
            stated.update(_stated(config, image_width="image_dim"))
    else:
        stated = _stated(
            config,
            width="dim",
            ffn="ffn_dim",
            heads="num_heads",
            layers="num_layers",
            in_channels="in_dim",
            out_channels="out_dim",
            time_frequencies="freq_dim",
            text_length="text_len",
            eps="eps",
        )
        if "model_type" in config:
            stated["has_image"] = config["model_type"] == "i2v"
    return DiTConfig(**{**seen, **stated, "audio_dim": 0})


def _vae(shapes: Shapes, config: dict) -> VAEConfig:
    residual = "encoder.down_blocks.0.resnets.0.conv1.weight" in shapes
    z = _size(shapes, "decoder.conv_in.weight", 1, 16)
    seen = {"base_dim": _size(shapes, "encoder.conv_in.weight", 0, 96), "z_dim": z, "residual": residual}
    stated = _stated(
        config,
        base_dim="base_dim",
        decoder_base_dim="decoder_base_dim",
        z_dim="z_dim",
        dim_mult="dim_mult",
        num_res_blocks="num_res_blocks",
        temporal_downsample="temperal_downsample",
        patch_size="patch_size",
        residual="is_residual",
        latents_mean="latents_mean",
        latents_std="latents_std",
    )
    if "latents_mean" not in stated and z != VAEConfig().z_dim:
        raise InputError(
            f"a VAE of {z} latent channels needs its config.json, "
            "which holds their means; put it beside the weights"
        )
    return VAEConfig(**{**seen, **stated})


def _umt5(shapes: Shapes, config: dict) -> UMT5Config:
    attention = "encoder.block.0.layer.0.SelfAttention"
    table = next((name for name in umt5.TABLES if name in shapes), umt5.TABLES[0])
    heads = _size(shapes, f"{attention}.relative_attention_bias.weight", 1, 64)
    seen = {
        "vocab_size": _size(shapes, table, 0, 256384),
        "width": _size(shapes, table, 1, 4096),
        "heads": heads,
        "head_dim": _size(shapes, f"{attention}.q.weight", 0, 64 * heads) // heads,
        "ffn": _size(shapes, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 0, 10240),
        "layers": _count(shapes, r"encoder\.block\.(\d+)\."),
        "buckets": _size(shapes, f"{attention}.relative_attention_bias.weight", 0, 32),
    }
    stated = _stated(
        config,
        vocab_size="vocab_size",
        width="d_model",
        heads="num_heads",
        head_dim="d_kv",
        ffn="d_ff",
        layers="num_layers",
        buckets="relative_attention_num_buckets",
        max_distance="relative_attention_max_distance",
        eps="layer_norm_epsilon",
    )
    return UMT5Config(**{**seen, **stated})


def _clip(shapes: Shapes, config: dict) -> CLIPConfig:
    patch = _size(shapes, "embeddings.patch_embedding.weight", 2, 14)
    width = _size(shapes, "embeddings.patch_embedding.weight", 0, 1280)
    side = round((_size(shapes, "embeddings.position_embedding.weight", 0, 257) - 1) ** 0.5)
    layers = _count(shapes, r"encoder\.layers\.(\d+)\.")
    seen = {
        "width": width,
        "heads": max(1, width // 80),
        "ffn": _size(shapes, "encoder.layers.0.mlp.fc1.weight", 0, 5120),
        "layers": layers,
        "image_size": side * patch,
        "patch": patch,
    }
    stated = _stated(
        config.get("vision_config", config),
        width="hidden_size",
        heads="num_attention_heads",
        ffn="intermediate_size",
        layers="num_hidden_layers",
        image_size="image_size",
        patch="patch_size",
        eps="layer_norm_eps",
    )
    merged = {**seen, **stated}
    return CLIPConfig(**merged, output_layer=max(0, merged["layers"] - 1))


def _wav2vec2(shapes: Shapes, config: dict) -> Wav2Vec2Config:
    seen = {
        "width": _size(shapes, "feature_projection.projection.weight", 0, 768),
        "ffn": _size(shapes, "encoder.layers.0.feed_forward.intermediate_dense.weight", 0, 3072),
        "layers": _count(shapes, r"encoder\.layers\.(\d+)\."),
    }
    seen["heads"] = max(1, seen["width"] // 64)
    stated = _stated(
        config,
        conv_widths="conv_dim",
        conv_kernels="conv_kernel",
        conv_strides="conv_stride",
        width="hidden_size",
        heads="num_attention_heads",
        ffn="intermediate_size",
        layers="num_hidden_layers",
        position_kernel="num_conv_pos_embeddings",
        position_groups="num_conv_pos_embedding_groups",
        eps="layer_norm_eps",
    )
    return Wav2Vec2Config(**{**seen, **stated})


_DIFFUSION_PREFIX = ((r"^(model\.)?diffusion_model\.", ""),)

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "transformer",
        "diffusers",
        ("patch_embedding.weight", "condition_embedder.time_embedder.linear_1.weight"),
        lambda shapes, config: _dit(shapes, config, diffusers=True),
        DiT,
        lambda config, keys: wan_dit.DIFFUSERS,
        new=wan_dit.NEW,
    ),
    Layout(
        "transformer",
        "original",
        ("patch_embedding.weight", "time_embedding.0.weight"),
        lambda shapes, config: _dit(shapes, config, diffusers=False),
        DiT,
        lambda config, keys: wan_dit.RELEASE,
        new=wan_dit.NEW,
        spellings=_DIFFUSION_PREFIX,
    ),
    Layout(
        "vae",
        "diffusers",
        ("encoder.conv_in.weight", "decoder.conv_in.weight"),
        _vae,
        VAE,
        lambda config, keys: wan_vae.wan_vae_names(config),
    ),
    Layout(
        "text",
        "transformers",
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.final_layer_norm.weight"),
        _umt5,
        UMT5,
        lambda config, keys: umt5.umt5_names(keys),
        ignored=umt5.UMT5_IGNORED,
    ),
    Layout(
        "image",
        "transformers",
        ("embeddings.patch_embedding.weight", "pre_layrnorm.weight"),
        _clip,
        CLIPVision,
        lambda config, keys: clip.clip_names(keys),
        ignored=clip.CLIP_IGNORED,
        spellings=((rf"^{re.escape(clip.PREFIX)}", ""),),
    ),
    Layout(
        "speech",
        "transformers",
        ("feature_extractor.conv_layers.0.conv.weight", "feature_projection.projection.weight"),
        _wav2vec2,
        Wav2Vec2,
        lambda config, keys: wav2vec2.wav2vec2_names(keys),
        new=wav2vec2.WAV2VEC2_NEW,
        ignored=wav2vec2.WAV2VEC2_IGNORED,
        spellings=((rf"^{re.escape(wav2vec2.PREFIX)}", ""),),
    ),
)


def recognise(checkpoint: Checkpoint) -> tuple[Layout, Checkpoint]:
    """The layout of a checkpoint, and the checkpoint in that layout's newer spelling.

    Raises InputError where the keys belong to no model that is known here.
    """
    best = None
    for layout in LAYOUTS:
        respelled = layout.respelled(checkpoint)
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
    theirs = layout.config(checkpoint.shapes, checkpoint.config)
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
    abstract = jax.eval_shape(lambda: layout.model(config, rngs=nnx.Rngs(0)))
    check_fit(checkpoint, abstract, layout.names(config, checkpoint.tensors), layout.new, layout.ignored)
    return config


def fits_itself(layout: Layout, checkpoint: Checkpoint) -> Any:
    """The config of a checkpoint that is complete by its own account; raises InputError where it is not."""
    return _check(layout, checkpoint, layout.config(checkpoint.shapes, checkpoint.config))
