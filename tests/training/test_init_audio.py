"""A teacher that begins hearing by FantasyTalking's audio weights: it says what they say beside Wan."""

import dataclasses
import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file

from tests.models.dit_cases import inputs
from tests.training.test_init_from import MODEL, Phase, experiment, wan
from tm_jax.data.latent_clips import clip_config
from tm_jax.errors import InputError
from tm_jax.models.audio_adapter import window_indices
from tm_jax.models.dit import DiT
from tm_jax.nn.masks import Bidirectional
from tm_jax.pretrained.__main__ import main
from tm_jax.pretrained.convert import convert
from tm_jax.pretrained.fantasytalking import EPS, WINDOW
from tm_jax.pretrained.weights import save_model
from tm_jax.training.loop import train

HEARING = dataclasses.replace(MODEL, audio_eps=EPS, **WINDOW)
HEARS = {"model": HEARING, "clip": clip_config(HEARING, 3)}

__all__ = ["wan"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random audio weights as the release keeps them (a pickle of two state dicts), made safetensors."""
    torch.manual_seed(1)
    draw = lambda *shape: torch.randn(shape) * shape[-1] ** -0.5
    content = {
        "proj_model": {
            # Of small numbers, so that what is added to their variance counts.
            "proj.weight": 0.01 * draw(MODEL.audio_dim, MODEL.audio_width),
            "norm.weight": 1 + draw(MODEL.audio_dim),
            "norm.bias": draw(MODEL.audio_dim),
        },
        "audio_processor": {
            f"blocks.{layer}.cross_attn.processor.{part}_proj.weight": draw(MODEL.width, MODEL.audio_dim)
            for layer in range(MODEL.layers)
            for part in "kv"
        },
    }
    folder = tmp_path_factory.mktemp("fantasytalking")
    torch.save(content, folder / "fantasytalking_model.ckpt")
    convert(folder / "fantasytalking_model.ckpt", folder / "fantasytalking.safetensors")
    return folder / "fantasytalking.safetensors"


@pytest.fixture(scope="module")
def teacher(wan, weights, tmp_path_factory):
    """The teacher that a run begins with, through the loop itself."""
    chex.clear_trace_counter()
    config = experiment(tmp_path_factory.mktemp("run"), wan[0])
    config = dataclasses.replace(config, **HEARS, init_audio=weights)
    state = train(Phase(config), config.loop, config)
    return jax.device_put(state.model, jax.devices()[0]), jax.device_put(state.ema, jax.devices()[0])


def heard(stored, layer, query, tokens):
    """What one layer hears of windows of tokens [b f a audio_width], asked by its queries [b l d].

    Projection without bias, LayerNorm, keys and values of the layer, attention of the query's heads within
    each latent frame.
    """
    tensor = lambda name: torch.from_numpy(stored[name])
    processor = f"audio_processor.blocks.{layer}.cross_attn.processor"
    projected = tokens @ tensor("proj_model.proj.weight").T
    centred = projected - projected.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    embedded = normed * tensor("proj_model.norm.weight") + tensor("proj_model.norm.bias")
    batch, frames = embedded.shape[:2]
    heads = lambda x: x.reshape(batch, frames, -1, MODEL.heads, MODEL.head_dim).transpose(2, 3)
    keys = heads(embedded @ tensor(f"{processor}.k_proj.weight").T)
    values = heads(embedded @ tensor(f"{processor}.v_proj.weight").T)
    logits = heads(query) @ keys.transpose(-1, -2) * MODEL.head_dim**-0.5
    return (logits.softmax(-1) @ values).transpose(2, 3).reshape(query.shape)


def with_audio(model, stored, tokens, run):
    """Runs diffusers' transformer with what each layer hears added before its output projection."""
    hooks, queries = [], {}
    for layer, block in enumerate(model.blocks):
        keep = lambda _, __, out, layer=layer: queries.update({layer: out})
        add = lambda _, given, layer=layer: (given[0] + heard(stored, layer, queries[layer], tokens),)
        hooks.append(block.attn2.norm_q.register_forward_hook(keep))
        hooks.append(block.attn2.to_out[0].register_forward_pre_hook(add))
    try:
        with torch.no_grad():
            return run(model)
    finally:
        for hook in hooks:
            hook.remove()


def test_it_says_what_wan_with_these_weights_says(teacher, wan, weights, rng, relative_error):
    noisy, sigma, conditioning = inputs(HEARING, rng, batch=2, frames=3, height=3, width=4)
    conditioning = conditioning.replace(
        audio_keep=jnp.ones_like(conditioning.audio_keep), face_mask=jnp.ones_like(conditioning.face_mask)
    )
    tensor = lambda array: torch.from_numpy(np.array(array))

    def run(model):
        return model(
            tensor(jnp.concatenate([noisy, conditioning.condition], -1)).permute(0, 4, 1, 2, 3),
            timestep=tensor(sigma * 1000.0),
            encoder_hidden_states=tensor(conditioning.text_tokens),
            encoder_hidden_states_image=tensor(conditioning.image_tokens),
            return_dict=False,
        )[0].permute(0, 2, 3, 4, 1)

    reference = with_audio(wan[1], load_file(weights), tensor(conditioning.audio_tokens), run)
    with torch.no_grad():
        assert relative_error(run(wan[1]), reference) > 0.01
    forward = jax.jit(lambda model, *given: model(*given, pattern=Bidirectional()))
    for model in teacher:
        assert relative_error(forward(model, noisy, sigma, conditioning), reference) <= 1e-5


def test_its_windows_are_theirs():
    frames = np.arange(1, 5)
    found = window_indices(frames, left=WINDOW["audio_left"], lookahead=WINDOW["audio_lookahead"])
    np.testing.assert_array_equal(found, 8 * frames[:, None] + np.arange(-11, 4))
    # 17 tokens, one more at either end, are those of its default 23 frames/s.
    np.testing.assert_array_equal(
        window_indices(frames, left=6, lookahead=3), 8 * frames[:, None] + np.arange(-12, 5)
    )


def test_the_preset_has_their_sizes():
    preset = importlib.import_module("configs.wan14b_fantasytalking_teacher").PRESET
    model, clip = preset.model, preset.clip
    assert (model.audio_width, model.audio_dim, model.audio_slots, model.audio_eps) == (768, 2048, 15, 1e-5)
    assert (model.audio_left, model.audio_lookahead) == (clip.audio_left, clip.audio_lookahead)
    silent = importlib.import_module("configs.wan14b_teacher").PRESET
    audio = {name: value for name, value in vars(silent.model).items() if name.startswith("audio_")}
    assert dataclasses.replace(model, **audio) == silent.model
    shapes = jax.eval_shape(lambda: DiT(model, rngs=nnx.Rngs(0)))
    assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e9, 2) == 17.24


def test_what_does_not_fit_is_told_before_anything_starts(wan, weights, tmp_path):
    config = dataclasses.replace(experiment(tmp_path / "run", wan[0]), init_audio=weights)
    with pytest.raises(
        InputError, match=r"hears otherwise than this model \(audio_eps 1e-06 here, 1e-05 there"
    ):
        config.build()
    with pytest.raises(InputError, match=r"audio_dim 24 here, 16 there.*wan14b_fantasytalking_teacher"):
        dataclasses.replace(config, **HEARS | {"model": dataclasses.replace(HEARING, audio_dim=24)}).build()
    with pytest.raises(ValueError, match="give init_from too"):
        dataclasses.replace(config, init_from=None)
    stored = load_file(weights)
    del stored["audio_processor.blocks.1.cross_attn.processor.v_proj.weight"]
    stored["audio_processor.surprise"] = np.zeros(2, np.float32)
    save_file(stored, tmp_path / "less.safetensors")
    with pytest.raises(InputError, match=r"missing blocks\.1\..*v_proj\.weight; unknown surprise"):
        dataclasses.replace(config, **HEARS, init_audio=tmp_path / "less.safetensors").build()
    save_model(tmp_path / "ours.safetensors", DiT(MODEL, rngs=nnx.Rngs(0)), MODEL)
    for source, sentence in (
        (tmp_path / "ours.safetensors", "does not hold FantasyTalking's audio weights"),
        (weights.with_name("fantasytalking_model.ckpt"), "PyTorch pickle.*pretrained convert"),
        (tmp_path / "none.safetensors", "does not exist"),
    ):
        with pytest.raises(InputError, match=sentence):
            dataclasses.replace(config, **HEARS, init_audio=source).build()
    with pytest.raises(InputError, match=r"give them to train\.py as --init-audio"):
        experiment(tmp_path / "run", weights).build()
    assert not (tmp_path / "run").exists()


def test_names_without_their_prefix_are_read_too(weights, wan, tmp_path):
    stored = {name.removeprefix("audio_processor."): value for name, value in load_file(weights).items()}
    save_file(stored, tmp_path / "fantasytalking_fp16.safetensors")
    config = dataclasses.replace(
        experiment(tmp_path / "run", wan[0]), model=HEARING, clip=clip_config(HEARING, 3)
    )
    assert dataclasses.replace(config, init_audio=tmp_path / "fantasytalking_fp16.safetensors").build().audio


def test_check_says_what_they_are(weights, capsys, tmp_path):
    assert main(["check", str(weights)]) == 0
    out = capsys.readouterr().out
    assert "audio, FantasyTalking (16 channels for 2 layers of width 48)" in out
    assert "complete, a start for train.py --init-audio" in out
    stored = load_file(weights)
    del stored["proj_model.norm.bias"]
    save_file(stored, tmp_path / "less.safetensors")
    assert main(["check", str(tmp_path / "less.safetensors")]) == 2
    assert "missing proj_model.norm.bias" in capsys.readouterr().err
