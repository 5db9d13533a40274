"""Names of wav2vec2 as transformers' Wav2Vec2Model stores it.

A checkpoint with a speech-recognition head, such as base-960h, puts ``wav2vec2.`` before every name.
The positional convolution's weight norm is spelt in two ways, by the age of the library that wrote it.
"""

from collections.abc import Collection

from tm_jax.pretrained.names import CONV1D, LINEAR, NameMap, Rule, rules

PREFIX = "wav2vec2."
WEIGHT_NORMS = (
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ("weight_g", "weight_v"),
)
WAV2VEC2_IGNORED = ("lm_head.*", "quantizer.*", "project_q.*", "project_hid.*")
"""Keys without a place here: the heads of recognition and of pretraining."""
WAV2VEC2_NEW = ("mask_vector",)
"""Our paths that a checkpoint may lack: models fine-tuned without masking drop its vector."""


def _norm(ours: str, theirs: str) -> tuple[Rule, ...]:
    return Rule(f"{ours}.scale", f"{theirs}.weight"), Rule(f"{ours}.bias", f"{theirs}.bias")


def wav2vec2_names(keys: Collection[str] = ()) -> NameMap:
    """The name map in the spelling of a checkpoint with these keys; without keys, transformers 5's."""
    prefix = PREFIX if any(key.startswith(PREFIX) for key in keys) else ""
    old = any(key.endswith("pos_conv_embed.conv.weight_g") for key in keys)
    gain, direction = WEIGHT_NORMS[old]
    layer = f"{prefix}encoder.layers.{{layer}}"
    position = f"{prefix}encoder.pos_conv_embed.conv"
    return NameMap(
        (
            Rule("extractor.{i}.kernel", f"{prefix}feature_extractor.conv_layers.{{i}}.conv.weight", CONV1D),
            *_norm("extractor.{i}", f"{prefix}feature_extractor.conv_layers.{{i}}.layer_norm"),
            *_norm("feature_norm", f"{prefix}feature_projection.layer_norm"),
            *rules("projection", f"{prefix}feature_projection.projection", LINEAR),
            Rule("mask_vector", f"{prefix}masked_spec_embed"),
            Rule("position.gain", f"{position}.{gain}", CONV1D),
            Rule("position.direction", f"{position}.{direction}", CONV1D),
            Rule("position.bias", f"{position}.bias"),
            *_norm("input_norm", f"{prefix}encoder.layer_norm"),
            *rules("blocks.query", f"{layer}.attention.q_proj", LINEAR),
            *rules("blocks.key", f"{layer}.attention.k_proj", LINEAR),
            *rules("blocks.value", f"{layer}.attention.v_proj", LINEAR),
            *rules("blocks.out", f"{layer}.attention.out_proj", LINEAR),
            *_norm("blocks.attention_norm", f"{layer}.layer_norm"),
            *rules("blocks.up", f"{layer}.feed_forward.intermediate_dense", LINEAR),
            *rules("blocks.down", f"{layer}.feed_forward.output_dense", LINEAR),
            *_norm("blocks.ffn_norm", f"{layer}.final_layer_norm"),
        )
    )
