"""Names of CLIP's picture encoder as transformers' CLIPVisionModel stores it.

Checkpoints written before transformers 5, Wan's among them, put ``vision_model.`` before every name.
"""

from collections.abc import Collection

from tm_jax.pretrained.names import CONV2D, LINEAR, NameMap, Rule, rules

PREFIX = "vision_model."
CLIP_IGNORED = ("*position_ids", "text_model.*", "*_projection.weight", "logit_scale")
"""Keys without a place here: a constant of old checkpoints, and the text half of a whole CLIP."""


def _norm(ours: str, theirs: str) -> tuple[Rule, ...]:
    return Rule(f"{ours}.scale", f"{theirs}.weight"), Rule(f"{ours}.bias", f"{theirs}.bias")


def clip_names(keys: Collection[str] = ()) -> NameMap:
    """The name map in the spelling of a checkpoint with these keys; without keys, transformers 5's."""
    prefix = PREFIX if any(key.startswith(PREFIX) for key in keys) else ""
    layer = f"{prefix}encoder.layers.{{layer}}"
    return NameMap(
        (
            Rule("class_token", f"{prefix}embeddings.class_embedding"),
            Rule("patch_kernel", f"{prefix}embeddings.patch_embedding.weight", CONV2D),
            Rule("positions", f"{prefix}embeddings.position_embedding.weight"),
            # The misspelling is the checkpoint's.
            *_norm("input_norm", f"{prefix}pre_layrnorm"),
            *_norm("blocks.attention_norm", f"{layer}.layer_norm1"),
            *rules("blocks.query", f"{layer}.self_attn.q_proj", LINEAR),
            *rules("blocks.key", f"{layer}.self_attn.k_proj", LINEAR),
            *rules("blocks.value", f"{layer}.self_attn.v_proj", LINEAR),
            *rules("blocks.out", f"{layer}.self_attn.out_proj", LINEAR),
            *_norm("blocks.ffn_norm", f"{layer}.layer_norm2"),
            *rules("blocks.up", f"{layer}.mlp.fc1", LINEAR),
            *rules("blocks.down", f"{layer}.mlp.fc2", LINEAR),
            *_norm("output_norm", f"{prefix}post_layernorm"),
        )
    )
