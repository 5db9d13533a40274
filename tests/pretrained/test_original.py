"""Models under the names of Wan's own release, as single files bring them: read as the same models."""

import jax
import numpy as np
import pytest
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from safetensors.numpy import save_file

from tests.models.encoder_cases import clip_pair, generator, tensors, umt5_pair
from tests.pretrained.test_load import CASES, abstract, tensors_of
from tm_jax.errors import InputError
from tm_jax.models.umt5 import UMT5, UMT5Config
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import WAN22_VAE, VAEConfig
from tm_jax.pretrained import clip, umt5
from tm_jax.pretrained.layouts import load_public
from tm_jax.pretrained.names import expected, load
from tm_jax.pretrained.wan_vae import original_wan_vae_names, wan_vae_names

PREFIXES = ("", "model.", "diffusion_model.", "model.diffusion_model.", "generator_ema.model.")


def read(path, stored, kind):
    """The model of a single file with these tensors, and its config."""
    save_file({key: np.ascontiguousarray(value) for key, value in stored.items()}, path)
    return load_public(path, kind, progress=False)


def assert_same(model, reference):
    assert jax.tree.structure(model) == jax.tree.structure(reference)
    for ours, theirs in zip(jax.tree.leaves(model), jax.tree.leaves(reference), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("base", [4, 96])
def test_the_vae_needs_renaming_alone(base, tmp_path, rng):
    config = VAEConfig(base_dim=base)
    shapes = expected(abstract(VAE, config), original_wan_vae_names(config))
    assert len(shapes) == 194
    if base == 96:
        assert convert_wan_vae_to_diffusers(shapes) == expected(abstract(VAE, config), wan_vae_names(config))
        return
    stored = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    reference = load(abstract(VAE, config), convert_wan_vae_to_diffusers(stored), wan_vae_names(config))
    for prefix in ("", "model."):
        named = {prefix + key: value for key, value in stored.items()}
        model, found = read(tmp_path / "wan_2.1_vae.safetensors", named, "vae")
        assert found == config
        assert_same(model, reference)


def test_the_wan22_vae_has_its_published_size_without_a_config(tmp_path):
    keys = expected(abstract(VAE, WAN22_VAE), original_wan_vae_names(WAN22_VAE))
    parameters = lambda shapes: sum(int(np.prod(shape)) for shape in shapes.values())
    theirs = expected(abstract(VAE, WAN22_VAE), wan_vae_names(WAN22_VAE))
    assert len(keys) == len(theirs) and parameters(keys) == parameters(theirs)
    assert keys["decoder.conv1.weight"] == (1024, 48, 3, 3, 3)
    assert keys["encoder.conv1.weight"] == (160, 12, 3, 3, 3)
    assert "decoder.upsamples.0.upsamples.0.residual.2.weight" in keys
    assert "encoder.downsamples.1.downsamples.2.time_conv.weight" in keys
    assert not any(key.startswith("encoder.downsamples.3.downsamples.2") for key in keys)
    small = VAEConfig(**{**vars(WAN22_VAE), "base_dim": 4, "decoder_base_dim": 8})
    stored = {
        key: np.zeros(shape, np.float16)
        for key, shape in expected(abstract(VAE, small), original_wan_vae_names(small)).items()
    }
    assert read(tmp_path / "wan2.2_vae.safetensors", stored, "vae")[1] == small


def original_umt5(stored):
    """The keys of transformers' encoder as Wan's release calls them."""
    renamed = {"shared.weight": "token_embedding.weight", "encoder.final_layer_norm.weight": "norm.weight"}
    places = {
        "layer.0.layer_norm": "norm1",
        **{f"layer.0.SelfAttention.{part}": f"attn.{part}" for part in "qkvo"},
        "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
        "layer.1.layer_norm": "norm2",
        "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
        "layer.1.DenseReluDense.wi_1": "ffn.fc1",
        "layer.1.DenseReluDense.wo": "ffn.fc2",
    }
    for layer in range(sum(key.endswith("SelfAttention.q.weight") for key in stored)):
        for theirs, release in places.items():
            renamed[f"encoder.block.{layer}.{theirs}.weight"] = f"blocks.{layer}.{release}.weight"
    return {renamed[key]: value for key, value in stored.items()}


def test_the_text_encoder(tmp_path, seed):
    reference, model, config = umt5_pair(generator(seed, 0))
    stored = original_umt5(tensors(reference))
    found, its_config = read(tmp_path / "umt5-xxl-enc.safetensors", stored, "text")
    for field in ("vocab_size", "width", "heads", "head_dim", "ffn", "layers", "buckets"):
        assert getattr(its_config, field) == getattr(config, field), field
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    full = expected(abstract(UMT5, UMT5Config()), umt5.ORIGINAL)
    assert len(full) == 242 and full["blocks.23.ffn.gate.0.weight"] == (10240, 4096)
    assert full["token_embedding.weight"] == (256384, 4096)


def test_a_text_encoder_may_bring_its_tokenizer(tmp_path, seed):
    reference, model, _ = umt5_pair(generator(seed, 0))
    stored = {**tensors(reference), "spiece_model": np.zeros(9, np.uint8)}
    found, _ = read(tmp_path / "umt5_xxl_fp16.safetensors", stored, "text")
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def fused(stored, layer, kind):
    """Query, key and value of one layer as one tensor."""
    return np.concatenate([stored[f"encoder.layers.{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"])


def original_clip(stored, layers):
    """The keys of transformers' picture encoder as Wan's release calls them, beside its text half."""
    renamed = {
        "visual.cls_embedding": stored["embeddings.class_embedding"][None, None],
        "visual.pos_embedding": stored["embeddings.position_embedding.weight"][None],
        "visual.patch_embedding.weight": stored["embeddings.patch_embedding.weight"],
        "visual.head": np.zeros((4, 4), np.float32),
        "textual.token_embedding.weight": np.zeros((4, 4), np.float32),
        "log_scale": np.zeros((), np.float32),
    }
    for kind in ("weight", "bias"):
        renamed[f"visual.pre_norm.{kind}"] = stored[f"pre_layrnorm.{kind}"]
        renamed[f"visual.post_norm.{kind}"] = stored[f"post_layernorm.{kind}"]
        for layer in range(layers):
            ours, theirs = f"visual.transformer.{layer}", f"encoder.layers.{layer}"
            renamed[f"{ours}.attn.to_qkv.{kind}"] = fused(stored, layer, kind)
            renamed[f"{ours}.attn.proj.{kind}"] = stored[f"{theirs}.self_attn.out_proj.{kind}"]
            renamed[f"{ours}.norm1.{kind}"] = stored[f"{theirs}.layer_norm1.{kind}"]
            renamed[f"{ours}.norm2.{kind}"] = stored[f"{theirs}.layer_norm2.{kind}"]
            renamed[f"{ours}.mlp.0.{kind}"] = stored[f"{theirs}.mlp.fc1.{kind}"]
            renamed[f"{ours}.mlp.2.{kind}"] = stored[f"{theirs}.mlp.fc2.{kind}"]
    return renamed


def open_clip(stored, layers):
    """The same as open_clip calls them; its text half calls its blocks alike, without ``visual.``."""
    renamed = {
        "visual.class_embedding": stored["embeddings.class_embedding"],
        "visual.positional_embedding": stored["embeddings.position_embedding.weight"],
        "visual.conv1.weight": stored["embeddings.patch_embedding.weight"],
        "visual.proj": np.zeros((4, 4), np.float32),
        "positional_embedding": np.zeros((4, 4), np.float32),
        "transformer.resblocks.0.attn.in_proj_weight": np.zeros((12, 4), np.float32),
        "logit_scale": np.zeros((), np.float32),
    }
    for kind in ("weight", "bias"):
        renamed[f"visual.ln_pre.{kind}"] = stored[f"pre_layrnorm.{kind}"]
        renamed[f"visual.ln_post.{kind}"] = stored[f"post_layernorm.{kind}"]
        for layer in range(layers):
            ours, theirs = f"visual.transformer.resblocks.{layer}", f"encoder.layers.{layer}"
            renamed[f"{ours}.attn.in_proj_{kind}"] = fused(stored, layer, kind)
            renamed[f"{ours}.attn.out_proj.{kind}"] = stored[f"{theirs}.self_attn.out_proj.{kind}"]
            renamed[f"{ours}.ln_1.{kind}"] = stored[f"{theirs}.layer_norm1.{kind}"]
            renamed[f"{ours}.ln_2.{kind}"] = stored[f"{theirs}.layer_norm2.{kind}"]
            renamed[f"{ours}.mlp.c_fc.{kind}"] = stored[f"{theirs}.mlp.fc1.{kind}"]
            renamed[f"{ours}.mlp.c_proj.{kind}"] = stored[f"{theirs}.mlp.fc2.{kind}"]
    return renamed


@pytest.mark.parametrize("rename", [original_clip, open_clip])
def test_the_picture_encoder_with_fused_attention(rename, tmp_path, seed):
    reference, model, config = clip_pair(generator(seed, 0))
    stored = rename(tensors(reference), config.layers)
    found, its_config = read(tmp_path / "clip.safetensors", stored, "image")
    for field in ("width", "ffn", "layers", "image_size", "patch"):
        assert getattr(its_config, field) == getattr(config, field), field
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(clip.FUSED) == 3
    name = next(
        key for key in stored if key.startswith("visual.") and "qkv.weight" in key.replace("in_proj_", "qkv.")
    )
    stored[name] = stored[name][:-1]
    with pytest.raises(InputError, match=r"unknown .*(qkv\.|in_proj_)weight"):
        read(tmp_path / "clip.safetensors", stored, "image")


@pytest.mark.parametrize("case", ["dit", "release"])
def test_a_transformer_s_single_file_with_any_prefix(case, tmp_path, rng):
    stored, names = tensors_of(case, rng, np.float16)
    _, model, config, _ = CASES[case]
    reference = load(abstract(model, config), stored, names)
    for prefix in PREFIXES:
        named = {prefix + key: value for key, value in stored.items()}
        found, _ = read(tmp_path / "wan2.1_i2v.safetensors", named, "transformer")
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True):
            np.testing.assert_array_equal(ours, theirs)
