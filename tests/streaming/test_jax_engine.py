"""The engine: its stream equals the plain loop, its stages overlap and stop, nothing compiles twice."""

import dataclasses
import itertools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.audio.test_voice_activity import voice
from tests.streaming.tiny import DIT_CONFIG, ROLLOUT, models
from tm_jax.audio.log_mel import LogMel
from tm_jax.diffusion.conditions import reference_latents, with_mask
from tm_jax.diffusion.noise import stream_noise
from tm_jax.diffusion.rollout import parallel_steps
from tm_jax.errors import InputError
from tm_jax.models.audio_adapter import audio_windows
from tm_jax.pretrained.weights import save_model
from tm_jax.streaming import engine as module
from tm_jax.streaming.jax_engine import Engine
from tm_jax.streaming.stages import in_thread
from tm_jax.streaming.statistics import Statistics
from tm_jax.types import Conditioning

PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def engine() -> Engine:
    made = Engine(*models(), rollout=ROLLOUT)
    made.warm_up()
    return made


def compiled() -> int:
    return sum(f._cache_size() for f in (module.encode_reference, module.denoise, module.decode))


def blocks(audio: np.ndarray, size: int = 1600):
    for start in range(0, len(audio), size):
        yield audio[start : start + size]


def stages() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tm_jax-stage"]


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
    _, latents = jax.jit(parallel_steps, static_argnums=1)(student, ROLLOUT, conditioning, noises)
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


def test_first_chunk_comes_before_the_sound_of_the_second(engine):
    more = threading.Event()

    def live():
        yield np.zeros(9 * 640, np.float32)
        assert more.wait(30)
        yield np.zeros(12 * 640, np.float32)

    stream = engine.stream(PICTURE, live())
    assert len(next(stream).frames) == 9
    more.set()
    assert len(next(stream).frames) == 12
    assert list(stream) == []


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
        decoding, denoising = spans["decode"][n], spans["denoise"][n + 1]
        assert decoding[0] < denoising[1] and denoising[0] < decoding[1], "at the same time"


def test_work_ahead_is_bounded(engine):
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield np.zeros(12 * 640, np.float32)

    stream = engine.stream(PICTURE, endless())
    next(stream)
    time.sleep(1.0)
    ahead = read
    time.sleep(0.5)
    assert read == ahead <= 7
    stream.close()


def test_closing_stops_the_stages(engine):
    stream = engine.stream(PICTURE, itertools.repeat(np.zeros(1600, np.float32)))
    next(stream)
    assert stages()
    stream.close()
    time.sleep(0.3)
    assert not stages()


def test_closing_does_not_wait_for_sound(engine):
    never = threading.Event()

    def live():
        yield np.zeros(9 * 640, np.float32)
        never.wait(20)

    stream = engine.stream(PICTURE, live())
    next(stream)
    begun = time.perf_counter()
    stream.close()
    assert time.perf_counter() - begun < 5
    never.set()


def test_faults_of_the_sound_come_after_the_chunks_before(engine):
    def broken():
        yield np.zeros(22 * 640, np.float32)
        raise InputError("a.wav is damaged.")

    frames = 0
    with pytest.raises(InputError, match=r"a.wav is damaged."):
        for chunk in engine.stream(PICTURE, broken()):
            frames += len(chunk.frames)
    assert frames == 21


def test_faults_of_a_stage_come_out(engine, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module, "decode", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(engine.stream(PICTURE, [np.zeros(16_000, np.float32)]))
    time.sleep(0.3)
    assert not stages()


def test_each_stage_has_its_device(engine, monkeypatch):
    """Inputs, weights and state lie where their stage computes; only latents cross over."""
    (dit, vae), kept = jax.devices()[1:3], engine.reference(PICTURE)
    two = Engine(*models(), rollout=ROLLOUT, devices=(dit, vae))
    where = lambda tree: set().union(*(leaf.devices() for leaf in jax.tree.leaves(tree)))

    def fake_reference(encoder, student, config, picture, face):
        assert where((encoder, student, picture, face)) == {dit}
        return jax.device_put(kept, dit)

    def fake_denoise(student, config, reference, state, *inputs):
        assert where((student, reference, state, inputs)) == {dit}
        return jax.device_put(jnp.zeros((1, 3, 2, 2, 4)), dit), state

    def fake_decode(decoder, latents, state, *, first):
        assert where((decoder, latents, state)) == {vae}
        return jax.device_put(jnp.zeros((9 if first else 12, 16, 16, 3), jnp.uint8), vae), latents

    fakes = {"encode_reference": fake_reference, "denoise": fake_denoise, "decode": fake_decode}
    for name, fake in fakes.items():
        monkeypatch.setattr(module, name, fake)
    assert len(list(two.stream(PICTURE, [np.zeros(33 * 640, np.float32)]))) == 3


def test_face_box_limits_what_moves(engine):
    audio = voice(9 / 25)
    make = lambda reference, sound: next(engine.stream(reference, [sound], mode="speak")).frames
    nowhere = engine.reference(PICTURE, face_box=(0, 0, 0, 0))
    np.testing.assert_array_equal(make(nowhere, audio), make(nowhere, 0 * audio))
    everywhere = engine.reference(PICTURE)
    assert (make(everywhere, audio) != make(everywhere, 0 * audio)).any()


def test_in_thread_keeps_order_and_reports(engine):
    assert list(in_thread(iter(range(50)), threading.Event())) == list(range(50))

    def items():
        yield 1
        raise KeyError("no")

    made = in_thread(items(), threading.Event())
    assert next(made) == 1
    with pytest.raises(KeyError):
        next(made)


def test_statistics(engine):
    statistics = Statistics()
    for chunk in engine.stream(PICTURE, [voice(2.0)]):
        statistics.add(chunk)
    summary = statistics.summary()
    assert statistics.frames == 50 and summary["seconds"] == 2.0
    assert 0 < summary["first_frame"] <= statistics.elapsed
    assert summary["total_p50"] <= summary["total_p95"] and summary["total_p50"] >= summary["vae_p50"]
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
            Engine(vae, with_config(config))
    with pytest.raises(InputError, match="choose another size"):
        Engine(vae, student, size=(24, 16))


def test_loading_a_folder(tmp_path, engine):
    vae, student = models()
    save_model(tmp_path / "vae.safetensors", vae, vae.config)
    with pytest.raises(InputError, match=r"student.safetensors"):
        Engine.load(tmp_path)
    meta = {"rollout": {"chunk": 3, "steps": 2, "schedule": {"shift": 3.0}}}
    save_model(tmp_path / "student.safetensors", student, student.config, meta)
    loaded = Engine.load(tmp_path)
    assert loaded.rollout == ROLLOUT and loaded.size == (16, 16)
    make = lambda one: next(one.stream(PICTURE, [voice(9 / 25)])).frames
    np.testing.assert_array_equal(make(loaded), make(engine))
