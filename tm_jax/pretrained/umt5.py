"""Names of the UMT5 encoder: transformers' UMT5EncoderModel, and Wan's own release.

In transformers' the token table is ``shared.weight`` in most checkpoints and ``encoder.embed_tokens.weight``
in some; where both are there they are the same table, and the second is passed over.  Single files for
ComfyUI hold the tokenizer's model beside the weights, as ``spiece_model``.
"""

from collections.abc import Collection

from tm_jax.pretrained.names import LINEAR, NameMap, Rule

TABLES = ("shared.weight", "encoder.embed_tokens.weight")
UMT5_IGNORED = ("decoder.*", "lm_head.weight", "encoder.embed_tokens.weight", "spiece_model")
"""Keys without a place here: the decoder of a whole UMT5, the second spelling of the token table, and the
tokenizer."""

_ATTENTION = "encoder.block.{layer}.layer.0"
_FFN = "encoder.block.{layer}.layer.1"
_BLOCKS = (
    Rule("blocks.attention_norm.scale", f"{_ATTENTION}.layer_norm.weight"),
    Rule("blocks.query.kernel", f"{_ATTENTION}.SelfAttention.q.weight", LINEAR),
    Rule("blocks.key.kernel", f"{_ATTENTION}.SelfAttention.k.weight", LINEAR),
    Rule("blocks.value.kernel", f"{_ATTENTION}.SelfAttention.v.weight", LINEAR),
    Rule("blocks.out.kernel", f"{_ATTENTION}.SelfAttention.o.weight", LINEAR),
    Rule("blocks.position_bias", f"{_ATTENTION}.SelfAttention.relative_attention_bias.weight"),
    Rule("blocks.ffn_norm.scale", f"{_FFN}.layer_norm.weight"),
    Rule("blocks.gate.kernel", f"{_FFN}.DenseReluDense.wi_0.weight", LINEAR),
    Rule("blocks.up.kernel", f"{_FFN}.DenseReluDense.wi_1.weight", LINEAR),
    Rule("blocks.down.kernel", f"{_FFN}.DenseReluDense.wo.weight", LINEAR),
    Rule("final_norm.scale", "encoder.final_layer_norm.weight"),
)


def umt5_names(keys: Collection[str] = ()) -> NameMap:
    """The name map in the spelling of a checkpoint with these keys; without keys, transformers 5's."""
    table = next((name for name in TABLES if name in keys), TABLES[0])
    return NameMap((Rule("embedding", table), *_BLOCKS))


ORIGINAL = NameMap(
    (
        Rule("embedding", "token_embedding.weight"),
        Rule("blocks.attention_norm.scale", "blocks.{layer}.norm1.weight"),
        Rule("blocks.query.kernel", "blocks.{layer}.attn.q.weight", LINEAR),
        Rule("blocks.key.kernel", "blocks.{layer}.attn.k.weight", LINEAR),
        Rule("blocks.value.kernel", "blocks.{layer}.attn.v.weight", LINEAR),
        Rule("blocks.out.kernel", "blocks.{layer}.attn.o.weight", LINEAR),
        Rule("blocks.position_bias", "blocks.{layer}.pos_embedding.embedding.weight"),
        Rule("blocks.ffn_norm.scale", "blocks.{layer}.norm2.weight"),
        Rule("blocks.gate.kernel", "blocks.{layer}.ffn.gate.0.weight", LINEAR),
        Rule("blocks.up.kernel", "blocks.{layer}.ffn.fc1.weight", LINEAR),
        Rule("blocks.down.kernel", "blocks.{layer}.ffn.fc2.weight", LINEAR),
        Rule("final_norm.scale", "norm.weight"),
    )
)
"""The keys of Wan's own release of the encoder (``models_t5_umt5-xxl-enc-bf16``)."""
