"""Names of Wan's VAE as diffusers' AutoencoderKLWan stores it, in Wan2.1's form and in Wan2.2's."""

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
    return NameMap(COMMON + (WAN22 if config.residual else _wan21(config)))
