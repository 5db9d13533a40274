"""Names of CLIP's picture encoder: transformers' CLIPVisionModel, Wan's own release, and open_clip.

Checkpoints that transformers wrote before its version 5, the one in Wan's pipelines and ComfyUI's
``clip_vision_h`` among them, put ``vision_model.`` before every name.  The other two put ``visual.`` before
it, hold a text encoder beside it, and store query, key and value as one tensor: whoever reads the headers
divides it (``FUSED``), since its thirds lie one after another in the file.
"""

from collections.abc import Collection

from tm_jax.pretrained.names import CONV2D, LINEAR, NameMap, Rule, Transform, rules

PREFIX = "vision_model."
CLIP_IGNORED = ("*position_ids", "text_model.*", "*_projection.weight", "logit_scale")
"""Keys without a place here: a constant of old checkpoints, and the text half of a whole CLIP."""

VISUAL = "visual."
FUSED = ("query", "key", "value")
"""What the thirds of a fused tensor are; ``key/query`` is the name of the first."""
ORIGINAL_FUSED = r"transformer\.\d+\.attn\.to_qkv\.(weight|bias)"
ORIGINAL_IGNORED = ("textual.*", "log_scale", "head")
OPEN_CLIP_FUSED = r"transformer\.resblocks\.\d+\.attn\.in_proj_(weight|bias)"
OPEN_CLIP_IGNORED = ("textual.*", "proj")
OPEN_CLIP_SPELLINGS = ((r"^(?!visual\.)", "textual."), (r"^visual\.", ""))
"""Both halves of open_clip's model call their blocks alike, the text's without a prefix."""
_ROW = Transform((1, 2), drop=(0,))
_VECTOR = Transform((2,), drop=(0, 1))


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


def _fused(ours: str, weight: str, bias: str) -> tuple[Rule, ...]:
    """The rules of query, key and value that share one tensor of theirs."""
    return tuple(
        rule
        for part in FUSED
        for rule in (
            Rule(f"{ours}.{part}.kernel", f"{weight}/{part}", LINEAR),
            Rule(f"{ours}.{part}.bias", f"{bias}/{part}"),
        )
    )


ORIGINAL = NameMap(
    (
        Rule("class_token", "cls_embedding", _VECTOR),
        Rule("patch_kernel", "patch_embedding.weight", CONV2D),
        Rule("positions", "pos_embedding", _ROW),
        *_norm("input_norm", "pre_norm"),
        *_norm("blocks.attention_norm", "transformer.{layer}.norm1"),
        *_fused("blocks", "transformer.{layer}.attn.to_qkv.weight", "transformer.{layer}.attn.to_qkv.bias"),
        *rules("blocks.out", "transformer.{layer}.attn.proj", LINEAR),
        *_norm("blocks.ffn_norm", "transformer.{layer}.norm2"),
        *rules("blocks.up", "transformer.{layer}.mlp.0", LINEAR),
        *rules("blocks.down", "transformer.{layer}.mlp.2", LINEAR),
        *_norm("output_norm", "post_norm"),
    )
)
"""The keys of Wan's own release, without ``visual.``."""

_RESBLOCK = "transformer.resblocks.{layer}"
OPEN_CLIP = NameMap(
    (
        Rule("class_token", "class_embedding"),
        Rule("patch_kernel", "conv1.weight", CONV2D),
        Rule("positions", "positional_embedding"),
        *_norm("input_norm", "ln_pre"),
        *_norm("blocks.attention_norm", f"{_RESBLOCK}.ln_1"),
        *_fused("blocks", f"{_RESBLOCK}.attn.in_proj_weight", f"{_RESBLOCK}.attn.in_proj_bias"),
        *rules("blocks.out", f"{_RESBLOCK}.attn.out_proj", LINEAR),
        *_norm("blocks.ffn_norm", f"{_RESBLOCK}.ln_2"),
        *rules("blocks.up", f"{_RESBLOCK}.mlp.c_fc", LINEAR),
        *rules("blocks.down", f"{_RESBLOCK}.mlp.c_proj", LINEAR),
        *_norm("output_norm", "ln_post"),
    )
)
"""The keys of open_clip's picture encoder, without ``visual.``."""
