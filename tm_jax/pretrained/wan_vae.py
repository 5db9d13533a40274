"""Names of Wan's VAE, in Wan2.1's form and in Wan2.2's: diffusers' AutoencoderKLWan, and Wan's own release.

The release's names are also those of the single files that ComfyUI reads (``wan_2.1_vae.safetensors``).
"""

from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.names import (
    CONV2D,
    CONV3D,
    POINTWISE2D,
    POINTWISE3D,
    NameMap,
    Rule,
    Transform,
    rules,
)

VECTOR3D = Transform((0,), drop=(1, 2, 3))
VECTOR2D = Transform((0,), drop=(1, 2))


def _resnet(ours: str, theirs: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{ours}.norm1.scale", f"{theirs}.norm1.gamma", VECTOR3D),
        *rules(f"{ours}.conv1", f"{theirs}.conv1", CONV3D),
        Rule(f"{ours}.norm2.scale", f"{theirs}.norm2.gamma", VECTOR3D),
        *rules(f"{ours}.conv2", f"{theirs}.conv2", CONV3D),
        *rules(f"{ours}.shortcut", f"{theirs}.conv_shortcut", CONV3D),
    )


def _resample(ours: str, theirs: str) -> tuple[Rule, ...]:
    return (
        *rules(f"{ours}.conv", f"{theirs}.resample.1", CONV2D),
        *rules(f"{ours}.time_conv", f"{theirs}.time_conv", CONV3D),
    )


def _ends_and_middle(half: str) -> tuple[Rule, ...]:
    return (
        *rules(f"{half}.conv_in", f"{half}.conv_in", CONV3D),
        *_resnet(f"{half}.middle.resnets.{{i}}", f"{half}.mid_block.resnets.{{i}}"),
        Rule(f"{half}.middle.attention.norm.scale", f"{half}.mid_block.attentions.0.norm.gamma", VECTOR2D),
        *rules(f"{half}.middle.attention.qkv", f"{half}.mid_block.attentions.0.to_qkv", POINTWISE2D),
        *rules(f"{half}.middle.attention.out", f"{half}.mid_block.attentions.0.proj", POINTWISE2D),
        Rule(f"{half}.norm_out.scale", f"{half}.norm_out.gamma", VECTOR3D),
        *rules(f"{half}.conv_out", f"{half}.conv_out", CONV3D),
    )


COMMON = (
    *_ends_and_middle("encoder"),
    *_ends_and_middle("decoder"),
    *rules("quant", "quant_conv", POINTWISE3D),
    *rules("post_quant", "post_quant_conv", POINTWISE3D),
    *_resnet("decoder.stages.{i}.resnets.{j}", "decoder.up_blocks.{i}.resnets.{j}"),
)
REFINER = (
    *rules("refiner.conv_in", "refiner.conv_in", CONV2D),
    Rule("refiner.blocks.{i}.norm1.scale", "refiner.blocks.{i}.norm1.gamma", VECTOR2D),
    *rules("refiner.blocks.{i}.conv1", "refiner.blocks.{i}.conv1", CONV2D),
    Rule("refiner.blocks.{i}.norm2.scale", "refiner.blocks.{i}.norm2.gamma", VECTOR2D),
    *rules("refiner.blocks.{i}.conv2", "refiner.blocks.{i}.conv2", CONV2D),
    Rule("refiner.norm_out.scale", "refiner.norm_out.gamma", VECTOR2D),
    *rules("refiner.conv_out", "refiner.conv_out", CONV2D),
)
"""Ours: diffusers has no refiner, and an export keeps its names in the same style."""

WAN22 = (
    *_resnet("encoder.stages.{i}.resnets.{j}", "encoder.down_blocks.{i}.resnets.{j}"),
    *_resample("encoder.stages.{i}.resample", "encoder.down_blocks.{i}.downsampler"),
    *_resample("decoder.stages.{i}.resample", "decoder.up_blocks.{i}.upsampler"),
)


def _wan21(config: VAEConfig) -> tuple[Rule, ...]:
    """Wan2.1 numbers the encoder's residual blocks and resamplings through, across its stages."""
    table = [*_resample("decoder.stages.{i}.resample", "decoder.up_blocks.{i}.upsamplers.0")]
    number = 0
    for stage in range(len(config.dim_mult)):
        for block in range(config.num_res_blocks):
            ours = f"encoder.stages.{stage}.resnets.{block}"
            table += _resnet(ours, f"encoder.down_blocks.{number}")
            number += 1
        table += _resample(f"encoder.stages.{stage}.resample", f"encoder.down_blocks.{number}")
        number += 1
    return tuple(table)


def wan_vae_names(config: VAEConfig) -> NameMap:
    """The name map of diffusers' layout for a VAE of this config."""
    return NameMap(COMMON + REFINER + (WAN22 if config.residual else _wan21(config)))


def _original_resnet(ours: str, theirs: str) -> tuple[Rule, ...]:
    """The release numbers a residual block's layers, those without parameters included."""
    return (
        Rule(f"{ours}.norm1.scale", f"{theirs}.residual.0.gamma", VECTOR3D),
        *rules(f"{ours}.conv1", f"{theirs}.residual.2", CONV3D),
        Rule(f"{ours}.norm2.scale", f"{theirs}.residual.3.gamma", VECTOR3D),
        *rules(f"{ours}.conv2", f"{theirs}.residual.6", CONV3D),
        *rules(f"{ours}.shortcut", f"{theirs}.shortcut", CONV3D),
    )


def _original_half(half: str) -> tuple[Rule, ...]:
    """The first and last layers of encoder or decoder, and what lies in the middle."""
    return (
        *rules(f"{half}.conv_in", f"{half}.conv1", CONV3D),
        *_original_resnet(f"{half}.middle.resnets.0", f"{half}.middle.0"),
        Rule(f"{half}.middle.attention.norm.scale", f"{half}.middle.1.norm.gamma", VECTOR2D),
        *rules(f"{half}.middle.attention.qkv", f"{half}.middle.1.to_qkv", POINTWISE2D),
        *rules(f"{half}.middle.attention.out", f"{half}.middle.1.proj", POINTWISE2D),
        *_original_resnet(f"{half}.middle.resnets.1", f"{half}.middle.2"),
        Rule(f"{half}.norm_out.scale", f"{half}.head.0.gamma", VECTOR3D),
        *rules(f"{half}.conv_out", f"{half}.head.2", CONV3D),
    )


def _original_stages(half: str, run: str, config: VAEConfig, blocks: int) -> tuple[Rule, ...]:
    """The stages of a half.  Wan2.1 numbers their layers through, Wan2.2 within each stage."""
    table, number = [], 0
    for stage in range(len(config.dim_mult)):
        for layer in range(blocks + 1):
            place = f"{stage}.{run}.{layer}" if config.residual else f"{number}"
            ours = f"{half}.stages.{stage}"
            if layer < blocks:
                table += _original_resnet(f"{ours}.resnets.{layer}", f"{half}.{run}.{place}")
            else:
                table += _resample(f"{ours}.resample", f"{half}.{run}.{place}")
            number += 1
    return tuple(table)


def original_wan_vae_names(config: VAEConfig) -> NameMap:
    """The name map of Wan's own layout for a VAE of this config."""
    return NameMap(
        (
            *_original_half("encoder"),
            *_original_half("decoder"),
            *rules("quant", "conv1", POINTWISE3D),
            *rules("post_quant", "conv2", POINTWISE3D),
            *_original_stages("encoder", "downsamples", config, config.num_res_blocks),
            *_original_stages("decoder", "upsamples", config, config.num_res_blocks + 1),
        )
    )
