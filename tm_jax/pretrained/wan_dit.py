"""Name maps of the transformer: our tree ↔ diffusers' WanTransformer3DModel ↔ Wan's own release.

Both layouts hold the same tensors, 1,303 for I2V-14B.  The audio parameters exist in neither; the maps
give them names in each style, so that a whole model can be exported and read back.  A public checkpoint
is read with ``new=NEW``: the audio module starts silent, and the model's output is the public one's.
"""

from tm_jax.pretrained.names import CONV3D, KEEP, LINEAR, NameMap, Rule, Transform

_ROW = Transform((1, 2), drop=(0,))
"""Their modulation tables have a leading axis of size 1."""

# Layers with kernel and bias: ours, diffusers, release.
_LINEARS = (
    ("time_embedding.inner", "condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("time_embedding.outer", "condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("time_projection", "condition_embedder.time_proj", "time_projection.1"),
    ("text_embedding.inner", "condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("text_embedding.outer", "condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("image_embedding.mlp.inner", "condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("image_embedding.mlp.outer", "condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    ("audio_embedding.projection", "audio_embedder.proj", "audio_emb.proj.0"),
    ("head", "proj_out", "head.head"),
)

_BLOCK_LINEARS = (
    ("self_attention.query", "attn1.to_q", "self_attn.q"),
    ("self_attention.key", "attn1.to_k", "self_attn.k"),
    ("self_attention.value", "attn1.to_v", "self_attn.v"),
    ("self_attention.out", "attn1.to_out.0", "self_attn.o"),
    ("cross_attention.query", "attn2.to_q", "cross_attn.q"),
    ("cross_attention.key", "attn2.to_k", "cross_attn.k"),
    ("cross_attention.value", "attn2.to_v", "cross_attn.v"),
    ("cross_attention.out", "attn2.to_out.0", "cross_attn.o"),
    ("image.key", "attn2.add_k_proj", "cross_attn.k_img"),
    ("image.value", "attn2.add_v_proj", "cross_attn.v_img"),
    ("feed_forward.inner", "ffn.net.0.proj", "ffn.0"),
    ("feed_forward.outer", "ffn.net.2", "ffn.2"),
)

_BLOCK_LINEARS_WITHOUT_BIAS = (
    ("audio.key", "attn2.audio_k_proj", "cross_attn.k_audio"),
    ("audio.value", "attn2.audio_v_proj", "cross_attn.v_audio"),
)

# Norms with scale and bias.
_LAYER_NORMS = (
    ("image_embedding.norm_in", "condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
    ("image_embedding.norm_out", "condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
    ("audio_embedding.norm", "audio_embedder.norm", "audio_emb.proj.1"),
)

# Norms with a scale alone.
_BLOCK_RMS_NORMS = (
    ("self_attention.query_norm", "attn1.norm_q", "self_attn.norm_q"),
    ("self_attention.key_norm", "attn1.norm_k", "self_attn.norm_k"),
    ("cross_attention.query_norm", "attn2.norm_q", "cross_attn.norm_q"),
    ("cross_attention.key_norm", "attn2.norm_k", "cross_attn.norm_k"),
    ("image.key_norm", "attn2.norm_added_k", "cross_attn.norm_k_img"),
)

# Bare parameters, whole keys.
_TABLES = (
    ("head_modulation", "scale_shift_table", "head.modulation", _ROW),
    ("blocks.modulation", "blocks.{layer}.scale_shift_table", "blocks.{layer}.modulation", _ROW),
    ("audio_embedding.position", "audio_embedder.position", "audio_emb.position", KEEP),
    ("mode_embedding", "mode_embedding", "mode_emb", KEEP),
)


def _table(layout: int) -> tuple[Rule, ...]:
    """All rules of one layout: 1 is diffusers', 2 is the release's."""
    found = [
        Rule("patch_embedding.kernel", "patch_embedding.weight", CONV3D),
        Rule("patch_embedding.bias", "patch_embedding.bias"),
    ]

    def layer(names, ours: str, theirs: str, transform: Transform = KEEP, *, block: bool):
        mine, other = ("blocks.", "blocks.{layer}.") if block else ("", "")
        found.append(Rule(f"{mine}{names[0]}.{ours}", f"{other}{names[layout]}.{theirs}", transform))

    for table, block in ((_LINEARS, False), (_BLOCK_LINEARS, True)):
        for names in table:
            layer(names, "kernel", "weight", LINEAR, block=block)
            layer(names, "bias", "bias", block=block)
    for names in _BLOCK_LINEARS_WITHOUT_BIAS:
        layer(names, "kernel", "weight", LINEAR, block=True)
    cross_norm = ("cross_norm", "norm2", "norm3")
    for names, block in (*((names, False) for names in _LAYER_NORMS), (cross_norm, True)):
        layer(names, "scale", "weight", block=block)
        layer(names, "bias", "bias", block=block)
    for names in _BLOCK_RMS_NORMS:
        layer(names, "scale", "weight", block=True)
    found += [Rule(names[0], names[layout], names[3]) for names in _TABLES]
    return tuple(found)


DIFFUSERS = NameMap(_table(1))
"""The keys of diffusers' WanTransformer3DModel."""

RELEASE = NameMap(_table(2))
"""The keys of Wan's own release, which most GPU tools use."""

NEW = ("audio_embedding.*", "blocks.audio.*", "mode_embedding")
"""Our paths that no public checkpoint has: they keep their initial values, which are silent."""
