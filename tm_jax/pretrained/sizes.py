"""How large a public checkpoint's model is: its config, from the stored shapes and from config.json.

Shapes tell nearly all.  What a config.json states counts where it is there; a value in it that no model can
have is told, not taken.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from tm_jax.errors import InputError
from tm_jax.models.clip import CLIPConfig
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.umt5 import UMT5Config
from tm_jax.models.vae_config import WAN22_VAE, VAEConfig
from tm_jax.models.wav2vec2 import Wav2Vec2Config

Shapes = Mapping[str, tuple[int, ...]]

_LARGEST = {"layers": 1000}
"""The largest number that a field may have, where it is less than ten million."""


def _size(shapes: Shapes, key: str, axis: int, otherwise: int) -> int:
    """One dimension of a stored tensor, or another value where it is missing."""
    shape = shapes.get(key, ())
    return shape[axis] if axis < len(shape) else otherwise


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that the pattern's group finds among the keys.

    A number beyond all of the keys is a damaged name, and how many there are counts.
    """
    numbers = {int(match[1]) for key in shapes if (match := re.match(pattern, key))}
    largest = max(numbers, default=-1) + 1
    return largest if largest <= len(shapes) else len(numbers)


def _fits(value: Any, example: Any, largest: int) -> bool:
    """Whether a value of config.json can stand where this default stands."""
    if isinstance(example, tuple):
        return (
            isinstance(value, list) and len(value) <= 64 and all(_fits(v, example[0], largest) for v in value)
        )
    if isinstance(example, bool):
        return isinstance(value, bool)
    if isinstance(example, float):
        return type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e6
    return type(value) is int and 0 < value <= largest


def _stated(kind: type, config: dict, **fields: str) -> dict[str, Any]:
    """Our field → the value of their field, for those that config.json has; lists become tuples.

    Raises:
        ValueError: a value of another type than ours has, or out of all bounds.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    found = {}
    for ours, theirs in fields.items():
        value = config.get(theirs)
        if value is None:
            continue
        # The one field that may be absent in ours is a width.
        example = 1 if defaults[ours] is None else defaults[ours]
        if not _fits(value, example, _LARGEST.get(ours, 10_000_000)):
            raise ValueError(f"its config.json says {theirs} = {str(value)[:40]!r}")
        found[ours] = tuple(value) if isinstance(value, list) else value
    return found


def has_pictures(shapes: Shapes, *, diffusers: bool) -> bool:
    """Whether a transformer reads picture tokens: told by its keys, of which any one is enough."""
    marks = ("condition_embedder.image_embedder.",) if diffusers else ("img_emb.",)
    return any(key.startswith(marks) for key in shapes)


def dit_config(shapes: Shapes, config: dict, *, diffusers: bool) -> DiTConfig:
    """The transformer's, without an audio module.

    Wan's own config.json says i2v of models with picture tokens and of those without: the keys decide.
    """
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
        "has_image": has_pictures(shapes, diffusers=diffusers),
        "image_width": _size(shapes, image, 0, 1280),
    }
    cells = seen["patch"][0] * seen["patch"][1] * seen["patch"][2]
    seen["out_channels"] = _size(shapes, pick("proj_out.weight", "head.head.weight"), 0, 16 * cells) // cells
    if diffusers:
        stated = _stated(
            DiTConfig,
            config,
            heads="num_attention_heads",
            layers="num_layers",
            ffn="ffn_dim",
            in_channels="in_channels",
            out_channels="out_channels",
            patch="patch_size",
            text_width="text_dim",
            time_frequencies="freq_dim",
            image_width="image_dim",
            eps="eps",
        )
        if "heads" in stated and isinstance(config.get("attention_head_dim"), int):
            stated["width"] = stated["heads"] * config["attention_head_dim"]
        stated["has_image"] = seen["has_image"] or "image_width" in stated
    else:
        stated = _stated(
            DiTConfig,
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
    return DiTConfig(**{**seen, **stated, "audio_dim": 0})


def vae_config(shapes: Shapes, config: dict) -> VAEConfig:
    """The VAE's, of diffusers' layout."""
    residual = "encoder.down_blocks.0.resnets.0.conv1.weight" in shapes
    z = _size(shapes, "decoder.conv_in.weight", 1, 16)
    seen = {"base_dim": _size(shapes, "encoder.conv_in.weight", 0, 96), "z_dim": z, "residual": residual}
    stated = _stated(
        VAEConfig,
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


def original_vae_config(shapes: Shapes, config: dict) -> VAEConfig:
    """The VAE's, of Wan's own layout: without a config.json, in the two forms that were published."""
    z = _size(shapes, "decoder.conv1.weight", 1, 16)
    form = WAN22_VAE if z == WAN22_VAE.z_dim else VAEConfig()
    if z != form.z_dim:
        raise ValueError(f"{z} latent channels; Wan2.1's has 16 and Wan2.2's 48")
    base = _size(shapes, "encoder.conv1.weight", 0, form.base_dim)
    decoder = _size(shapes, "decoder.conv1.weight", 0, 4 * base) // form.dim_mult[-1]
    return dataclasses.replace(form, base_dim=base, decoder_base_dim=None if decoder == base else decoder)


def umt5_config(shapes: Shapes, config: dict, *, original: bool = False) -> UMT5Config:
    """The text encoder's."""
    pick = lambda theirs, release: release if original else theirs
    tables = ("token_embedding.weight",) if original else ("shared.weight", "encoder.embed_tokens.weight")
    table = next((name for name in tables if name in shapes), tables[0])
    attention = pick("encoder.block.0.layer.0.SelfAttention", "blocks.0.attn")
    bias = pick(f"{attention}.relative_attention_bias.weight", "blocks.0.pos_embedding.embedding.weight")
    ffn = pick("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", "blocks.0.ffn.fc1.weight")
    heads = _size(shapes, bias, 1, 64)
    seen = {
        "vocab_size": _size(shapes, table, 0, 256384),
        "width": _size(shapes, table, 1, 4096),
        "heads": heads,
        "head_dim": _size(shapes, f"{attention}.q.weight", 0, 64 * heads) // heads,
        "ffn": _size(shapes, ffn, 0, 10240),
        "layers": _count(shapes, pick(r"encoder\.block\.(\d+)\.", r"blocks\.(\d+)\.")),
        "buckets": _size(shapes, bias, 0, 32),
    }
    if original:
        return UMT5Config(**seen)
    stated = _stated(
        UMT5Config,
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


def clip_config(shapes: Shapes, config: dict) -> CLIPConfig:
    """The picture encoder's, of transformers' layout."""
    stated = config.get("vision_config", config)
    stated = _stated(
        CLIPConfig,
        stated if isinstance(stated, dict) else {},
        width="hidden_size",
        heads="num_attention_heads",
        ffn="intermediate_size",
        layers="num_hidden_layers",
        image_size="image_size",
        patch="patch_size",
        eps="layer_norm_eps",
    )
    return _clip(
        shapes,
        kernel="embeddings.patch_embedding.weight",
        positions=_size(shapes, "embeddings.position_embedding.weight", 0, 257),
        ffn="encoder.layers.0.mlp.fc1.weight",
        blocks=r"encoder\.layers\.(\d+)\.",
        stated=stated,
    )


def original_clip_config(shapes: Shapes, config: dict) -> CLIPConfig:
    """The picture encoder's, of Wan's own layout."""
    return _clip(
        shapes,
        kernel="patch_embedding.weight",
        positions=_size(shapes, "pos_embedding", 1, 257),
        ffn="transformer.0.mlp.0.weight",
        blocks=r"transformer\.(\d+)\.",
    )


def open_clip_config(shapes: Shapes, config: dict) -> CLIPConfig:
    """The picture encoder's, of open_clip's layout."""
    return _clip(
        shapes,
        kernel="conv1.weight",
        positions=_size(shapes, "positional_embedding", 0, 257),
        ffn="transformer.resblocks.0.mlp.c_fc.weight",
        blocks=r"transformer\.resblocks\.(\d+)\.",
    )


def _clip(
    shapes: Shapes,
    *,
    kernel: str,
    positions: int,
    ffn: str,
    blocks: str,
    stated: dict[str, Any] | None = None,
) -> CLIPConfig:
    patch, width = _size(shapes, kernel, 2, 14), _size(shapes, kernel, 0, 1280)
    seen = {
        "width": width,
        "heads": max(1, width // 80),
        "ffn": _size(shapes, ffn, 0, 5120),
        "layers": _count(shapes, blocks),
        "image_size": round(max(0, positions - 1) ** 0.5) * patch,
        "patch": patch,
    }
    merged = {**seen, **(stated or {})}
    return CLIPConfig(**merged, output_layer=max(0, merged["layers"] - 1))


def wav2vec2_config(shapes: Shapes, config: dict) -> Wav2Vec2Config:
    """The speech encoder's."""
    seen = {
        "width": _size(shapes, "feature_projection.projection.weight", 0, 768),
        "ffn": _size(shapes, "encoder.layers.0.feed_forward.intermediate_dense.weight", 0, 3072),
        "layers": _count(shapes, r"encoder\.layers\.(\d+)\."),
    }
    seen["heads"] = max(1, seen["width"] // 64)
    stated = _stated(
        Wav2Vec2Config,
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
