"""The JAX engine: its stream equals the plain loop, its stages overlap, nothing compiles twice."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.audio.test_voice_activity import voice
from tests.streaming.tiny import DIT_CONFIG, ROLLOUT, models
from tm_jax.audio.log_mel import LogMel
from tm_jax.diffusion.conditions import reference_latents, with_mask
from tm_jax.diffusion.noise import stream_noise
from tm_jax.diffusion.rollout import clip_steps
from tm_jax.errors import InputError
from tm_jax.models.audio_adapter import audio_windows
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.weights import save_model
from tm_jax.sharding import MeshConfig, array_sharding, make_mesh, replicated
from tm_jax.streaming import jax_engine as module
from tm_jax.streaming.engine import StreamEngine
from tm_jax.streaming.jax_engine import JaxBackend
from tm_jax.streaming.parts import find_devices, load_engine
from tm_jax.streaming.reference import Reference
from tm_jax.streaming.statistics import Statistics
from tm_jax.types import Conditioning

PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def engine() -> StreamEngine:
    made = StreamEngine(JaxBackend(*models(), rollout=ROLLOUT))
    made.warm_up()
    return made


def compiled() -> int:
    jitted = (module.encode_reference, module.begin, module.denoise, module.decode)
    return sum(function._cache_size() for function in jitted)


def blocks(audio: np.ndarray, size: int = 1600):
    for start in range(0, len(audio), size):
        yield audio[start : start + size]


def test_stream_equals_masked_passes_and_whole_decode(engine):
    """Up to the end of the trained range, what streams is what training sees."""
    vae, student = models()
    audio = voice(81 / 25)
    chunks = list(engine.stream(PICTURE, blocks(audio), seed=7, mode="speak"))
    frames = np.concatenate([chunk.frames for chunk in chunks])
    assert [len(chunk.frames) for chunk in chunks] == [9] + [12] * 6 and frames.dtype == np.uint8

    picture = jnp.asarray(PICTURE[None], jnp.float32) / 127.5 - 1
    reference = reference_latents(vae, picture, 21, still=False)
    tokens = jnp.asarray(LogMel().tokens(audio))[None]
    conditioning = Conditioning(
        text_tokens=jnp.zeros((1, 2, 4)),
        image_tokens=reference[:, 0].reshape(1, 4, 4),
        condition=with_mask(reference),
        audio_tokens=audio_windows(tokens, jnp.arange(21), 8, 0),
        audio_keep=jnp.ones((1, 21)),
        face_mask=jnp.ones((1, 2, 2)),
        mode=jnp.ones((1, 21), jnp.int32),
    )
    draw = lambda step: [stream_noise(7, chunk, step, (1, 3, 2, 2, 4)) for chunk in range(7)]
    noises = jnp.stack([jnp.concatenate(draw(step), axis=1) for step in range(2)])
    _, (*_, latents) = jax.jit(clip_steps, static_argnums=1)(student, ROLLOUT, conditioning, noises)
    video = np.asarray(jax.jit(type(vae).decode)(vae, latents))[0]
    pixels = np.clip(video * 127.5 + 127.5, 0, 255)
    assert np.ptp(frames) > 40, "the comparison sees a picture"
    assert np.abs(frames - pixels).max() <= 0.51


def test_same_seed_same_video_whatever_the_blocks(engine):
    audio = voice(1.5)
    first = np.concatenate([c.frames for c in engine.stream(PICTURE, blocks(audio, 1600), seed=3)])
    again = np.concatenate([c.frames for c in engine.stream(PICTURE, blocks(audio, 777), seed=3)])
    other = np.concatenate([c.frames for c in engine.stream(PICTURE, blocks(audio), seed=4)])
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_kept_reference_serves_many_streams(engine):
    audio, reference = voice(0.9), engine.reference(PICTURE)
    direct = [c.frames for c in engine.stream(PICTURE, [audio])]
    for _ in range(2):
        kept = [c.frames for c in engine.stream(reference, [audio])]
        np.testing.assert_array_equal(np.concatenate(kept), np.concatenate(direct))


def test_video_is_as_long_as_the_sound(engine):
    for samples in (1, 640, 641, 9000):
        chunks = list(engine.stream(PICTURE, [np.zeros(samples, np.float32)]))
        assert sum(len(chunk.frames) for chunk in chunks) == -(-samples // 640)
        assert sum(len(chunk.audio) for chunk in chunks) == samples


def test_no_sound_no_video(engine):
    assert list(engine.stream(PICTURE, [])) == []


def test_nothing_compiles_twice(engine):
    before = compiled()
    for seed in range(2):  # past the end of the trained range, where positions are pinned
        list(engine.stream(PICTURE, blocks(voice(5.0)), seed=seed, listen=((1.0, 2.0),)))
    list(engine.stream(PICTURE, [np.zeros(1, np.float32)], mode="listen"))
    assert compiled() == before


def test_what_was_heard_last_reaches_only_the_last_chunk(engine):
    audio = voice(21 / 25)
    changed = audio.copy()
    changed[9 * 640 :] = 0
    (first, second), (same, different) = (
        list(engine.stream(PICTURE, [sound], mode="speak")) for sound in (audio, changed)
    )
    np.testing.assert_array_equal(first.frames, same.frames)
    assert (second.frames != different.frames).any()


def test_decoding_overlaps_denoising(engine, monkeypatch):
    spans = {"denoise": [], "decode": []}

    def slowly(name):
        real = getattr(module, name)

        def run(*args, **kwargs):
            begun = time.perf_counter()
            result = jax.block_until_ready(real(*args, **kwargs))
            time.sleep(0.1)
            spans[name].append((begun, time.perf_counter()))
            return result

        monkeypatch.setattr(module, name, run)

    slowly("denoise")
    slowly("decode")
    assert len(list(engine.stream(PICTURE, [voice(57 / 25)]))) == 5
    for n in range(4):
        decoding, denoising = spans["decode"][3 * n : 3 * n + 3], spans["denoise"][n + 1]
        assert decoding[0][0] < denoising[1] and denoising[0] < decoding[-1][1], "at the same time"


def test_each_stage_has_its_device(engine, monkeypatch):
    """Inputs, weights and state lie where their stage computes; only latents cross over."""
    (dit, vae), kept = jax.devices()[1:3], engine.reference(PICTURE)
    first = engine.backend.begin(kept.content)
    two = StreamEngine(JaxBackend(*models(), rollout=ROLLOUT, devices=(dit, vae)))
    where = lambda tree: set().union(*(leaf.devices() for leaf in jax.tree.leaves(tree)))

    def fake_reference(encoder, student, picture, face):
        assert where((encoder, student, picture, face)) == {dit}
        return jax.device_put(kept.content, dit)

    def fake_begin(student, config, reference):
        assert where((student, reference)) == {dit}
        return jax.device_put(first, dit)

    def fake_denoise(student, config, reference, state, *inputs):
        assert where((student, reference, state, inputs)) == {dit}
        return jax.device_put(jnp.zeros((1, 3, 2, 2, 4)), dit), state

    def fake_decode(decoder, latents, index, state, *, first):
        assert where((decoder, latents, state)) == {vae}
        return jax.device_put(jnp.zeros((1 if first else 4, 16, 16, 3), jnp.uint8), vae), (latents,)

    fakes = (fake_reference, fake_begin, fake_denoise, fake_decode)
    for name, fake in zip(("encode_reference", "begin", "denoise", "decode"), fakes, strict=True):
        monkeypatch.setattr(module, name, fake)
    assert len(list(two.stream(PICTURE, [np.zeros(33 * 640, np.float32)]))) == 3


def test_face_box_limits_what_moves(engine):
    audio = voice(9 / 25)
    make = lambda reference, sound: next(engine.stream(reference, [sound], mode="speak")).frames
    nowhere = Reference(engine.backend.reference(PICTURE, (0, 0, 0, 0)), engine.backend)
    np.testing.assert_array_equal(make(nowhere, audio), make(nowhere, 0 * audio))
    everywhere = engine.reference(PICTURE)
    assert (make(everywhere, audio) != make(everywhere, 0 * audio)).any()


def test_statistics(engine):
    statistics = Statistics()
    for chunk in engine.stream(PICTURE, [voice(2.0)]):
        statistics.add(chunk)
    summary = statistics.summary()
    assert statistics.frames == 50 and summary["seconds"] == 2.0
    assert 0 < summary["first_frame"] <= statistics.elapsed
    assert summary["total_p50"] <= summary["total_p95"] and summary["total_p50"] >= summary["vae_p50"] > 0
    assert summary["fps"] == pytest.approx(25 * summary["times_real_time"])
    assert "× real time" in str(statistics)


def test_parts_that_do_not_fit_are_told():
    vae, student = models()
    changed = lambda **fields: dataclasses.replace(DIT_CONFIG, **fields)

    def with_config(config):
        copy = jax.tree.map(lambda x: x, student)
        copy.config = config
        return copy

    for config, sentence in [
        (changed(in_channels=36, out_channels=16), "latents of 16 channels"),
        (changed(audio_width=768), "audio tokens of width 768"),
        (changed(audio_dim=0), "width 0"),
        (changed(image_length=5), "does not give the 5 image tokens"),
    ]:
        with pytest.raises(InputError, match=sentence):
            JaxBackend(vae, with_config(config))
    with pytest.raises(InputError, match="choose another size"):
        JaxBackend(vae, student, size=(24, 16))


def test_loading_a_folder(tmp_path, engine):
    vae, student = models()
    save_model(tmp_path / "vae.safetensors", vae, vae.config)
    with pytest.raises(InputError, match=r"student.safetensors"):
        load_engine(tmp_path)
    meta = {"rollout": {"chunk": 3, "steps": 2, "schedule": {"shift": 3.0}}}
    save_model(tmp_path / "student.safetensors", student, student.config, meta)
    loaded = load_engine(tmp_path, dit_device="cpu:2", vae_device="cpu")
    assert loaded.rollout == ROLLOUT and loaded.size == (16, 16)
    backend = loaded.backend
    assert (backend.dit_device, backend.vae_device) == (jax.devices()[2], jax.devices()[0])
    assert load_engine(tmp_path, dit_device="cpu:3").backend.vae_device == jax.devices()[3]
    assert load_engine(tmp_path).backend.dit_device is None
    make = lambda one: next(one.stream(PICTURE, [voice(9 / 25)])).frames
    np.testing.assert_array_equal(make(loaded), make(engine))
    with pytest.raises(
        InputError, match=r"--vae-devices cuda:1: JAX has no .* there are cpu:0, cpu:1, .* cpu:7"
    ):
        load_engine(tmp_path, vae_device="cuda:1")
    assert len(jax.tree.leaves(load_engine(tmp_path, vae_device="1-2").backend.vae)[0].devices()) == 2
    with pytest.raises(InputError, match=r"context 3 does not split the 2 rows of the latents: .* 1, 2\."):
        load_engine(tmp_path, vae_device="1-3")


def test_devices_by_kind_and_numbers():
    devices = tuple(jax.devices())
    for text, wanted in (
        ("cpu:2", devices[2:3]),
        ("0-3", devices[:4]),
        ("cpu:5-6", devices[5:7]),
        ("cpu", devices[:1]),
    ):
        assert find_devices(text, "--dit-devices") == wanted
    for text in ("cuda:0", "3-1", "cpu:7-8", "cpu:x", "-"):
        with pytest.raises(InputError, match="has no such device here; there are cpu:0"):
            find_devices(text, "--dit-devices")


def test_a_dit_on_two_devices_and_a_vae_on_two_others_make_the_same_video(engine):
    place = tuple(jax.devices()[2:4]), tuple(jax.devices()[5:7])
    two = StreamEngine(JaxBackend(*models(), rollout=ROLLOUT, devices=place))
    kernel = two.backend.student.blocks.self_attention.query.kernel[...]
    assert kernel.devices() == set(place[0]) and kernel.addressable_shards[0].data.shape == (2, 32, 16)
    assert jax.tree.leaves(two.backend.vae)[0].devices() == set(place[1])
    sound = voice(1.0)
    make = lambda one: np.concatenate([chunk.frames for chunk in one.stream(PICTURE, [sound], seed=3)])
    difference = np.abs(make(two).astype(int) - make(engine).astype(int))
    assert difference.max() <= 1 and difference.mean() < 0.01
    with pytest.raises(InputError, match="does not split the 2 attention heads"):
        JaxBackend(*models(), rollout=ROLLOUT, devices=(tuple(jax.devices()[:4]), jax.devices()[4]))


@pytest.fixture
def quick_compiling():
    """XLA without its optimisations."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize(
    "config", [models()[0].config, VAEConfig(base_dim=4, num_res_blocks=1)], ids=["ours", "wan"]
)
def test_devices_that_share_a_picture_send_rows_alone(config, rng, quick_compiling):
    """Frames and history of a latent equal one device's; the middle's attention alone gathers."""
    vae = jax.eval_shape(lambda: VAE(config, rngs=nnx.Rngs(0)))
    drawn = lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(leaf.dtype)
    latents = rng.normal(size=(1, 2, 4, 3, config.z_dim)).astype(np.float32)
    state = jax.eval_shape(lambda vae: vae.decode_state(1, 4, 3), vae)
    vae, state = jax.tree.map(drawn, (vae, state))
    given = vae, latents, np.int32(1), state
    alone = module.decode(*jax.tree.map(jnp.asarray, given), first=False)

    mesh = make_mesh(MeshConfig(fsdp=1, context=4), jax.devices()[:4])
    rows = lambda leaf: jax.device_put(leaf, array_sharding(leaf.shape, (None, None, "rows"), mesh))
    given = jax.device_put(vae, replicated(mesh)), rows(latents), np.int32(1), tuple(map(rows, state))
    with jax.set_mesh(mesh):
        program = module.decode.lower(*given, first=False).compile()
        frames, left = program(*given)
    assert frames.addressable_shards[0].data.shape[1] * 4 == frames.shape[1]
    assert np.abs(np.asarray(frames, int) - np.asarray(alone[0], int)).max() <= 1
    for ours, theirs in zip(left, alone[1], strict=True):
        assert ours.addressable_shards[0].data.shape[2] * 4 == ours.shape[2]
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
    text = program.as_text()
    assert "collective-permute(" in text and text.count("all-gather(") <= 2
