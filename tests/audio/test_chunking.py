"""Chunked audio equals the windows of the whole recording, wherever the blocks are cut."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.audio.test_voice_activity import scene, voice
from tm_jax.audio.chunking import AudioChunker
from tm_jax.audio.log_mel import LogMel
from tm_jax.models.audio_adapter import audio_windows
from tm_jax.rates import SAMPLES_PER_TOKEN


class LateFrontEnd:
    """Log-mel with the habits of a front end that looks ahead: hops of two tokens, four tokens late."""

    token_width, lookahead = 80, 5

    def tokens(self, audio):
        return LogMel().tokens(audio)

    def start(self):
        return LogMel().start(), np.zeros((0, 80), np.float32)

    def push(self, state, samples):
        tokens, inner = LogMel().push(state[0], samples)
        held = np.concatenate([state[1], tokens])
        out = max(0, (len(held) - 4) // 2 * 2)
        return held[:out], (inner, held[out:])


def chunks_of(chunker, blocks):
    """Every chunk of the blocks, as soon as it can be had."""
    for block in blocks:
        chunker.push(block)
        while chunker.ready():
            yield chunker.take()
    chunker.finish()
    while chunker.ready():
        yield chunker.take()
    assert chunker.over


def cut(audio, rng, longest):
    at = 0
    while at < len(audio):
        step = int(rng.integers(0, longest + 1))
        yield audio[at : at + step]
        at += step


@pytest.mark.parametrize("chunk,left,lookahead,front_end", [
    (3, 8, 0, LogMel()), (3, 8, 4, LogMel()), (7, 0, 2, LogMel()), (1, 8, 0, LogMel()),
    (3, 8, 4, LateFrontEnd()),
])  # fmt: skip
@pytest.mark.parametrize("samples", [1, 5761, 50_001])
def test_windows_equal_those_of_the_whole(rng, chunk, left, lookahead, front_end, samples):
    audio = (0.1 * rng.standard_normal(samples)).astype(np.float32)
    chunker = AudioChunker(front_end, chunk=chunk, left=left, lookahead=lookahead)
    chunks = list(chunks_of(chunker, cut(audio, rng, 4000)))
    windows = np.concatenate([one.windows for one in chunks])
    whole = audio_windows(
        jnp.asarray(front_end.tokens(audio))[None], jnp.arange(len(windows)), left, lookahead
    )
    np.testing.assert_array_equal(windows, np.asarray(whole)[0])
    np.testing.assert_array_equal(np.concatenate([one.samples for one in chunks]), audio)
    assert [one.index for one in chunks] == list(range(len(chunks)))
    assert sum(one.frames for one in chunks) == -(-samples // 640), "as much video as sound"
    assert all(one.frames == 4 * chunk - 3 * (one.index == 0) for one in chunks[:-1])
    for one in chunks[:-1]:
        assert len(one.samples) == 640 * one.frames, "each chunk carries the sound of its own frames"


def test_a_chunk_leaves_as_soon_as_its_sound_is_there(rng):
    given = 0

    def blocks():
        nonlocal given
        for _ in range(60):
            given += 1
            yield np.zeros(SAMPLES_PER_TOKEN, np.float32)

    left_at = [given for _ in chunks_of(AudioChunker(LogMel()), blocks())]
    assert left_at[:2] == [18, 42]


def test_memory_is_constant():
    chunker, sizes = AudioChunker(LogMel(), lookahead=4), []
    for _ in range(50):
        chunker.push(np.zeros(7680, np.float32))
        while chunker.ready():
            chunker.take()
        sizes.append((len(chunker._tokens), len(chunker._speaking), chunker.waiting, len(chunker._borders)))
    assert max(sizes[5:]) <= max(sizes[1:5]) and sizes[-1][0] < 60 and sizes[-1][-1] <= 2


def test_sound_that_has_not_come_yet_changes_nothing(rng):
    audio = voice(3.0)
    changed = audio.copy()
    changed[640 * 21 :] = 0.3 * rng.standard_normal(len(audio) - 640 * 21)
    make = lambda sound: list(chunks_of(AudioChunker(LogMel()), [sound]))[:2]
    for one, other in zip(make(audio), make(changed), strict=True):
        np.testing.assert_array_equal(one.windows, other.windows)
        np.testing.assert_array_equal(one.mode, other.mode)


def modes(audio, **settings) -> np.ndarray:
    return np.concatenate([one.mode for one in chunks_of(AudioChunker(LogMel(), **settings), [audio])])


def test_mode_follows_the_voice():
    found = modes(scene())  # silence 1 s, voice 2 s, silence 1 s; latent j ends at 0.16 j + 0.04 s
    assert not found[:6].any() and found[8:18].all() and not found[22:].any()


def test_mode_can_be_held_or_set():
    audio = voice(2.0)
    assert modes(audio, mode="speak").all() and modes(np.zeros(9600, np.float32), mode="speak").all()
    assert not modes(audio, mode="listen").any()
    found = modes(audio, mode="speak", listen=((0.5, 1.0),))
    centres = 0.16 * np.arange(len(found)) - 0.04
    np.testing.assert_array_equal(found == 0, (centres >= 0.5) & (centres < 1.0))


def test_listening_hears_silence_and_passes_the_sound_on():
    audio = voice(2.0)
    chunks = list(chunks_of(AudioChunker(LogMel(), listen=((0.5, 1.2),)), [audio]))
    windows = np.concatenate([one.windows for one in chunks])
    assert not windows[5:7].any(), "0.5 s + window, to 1.2 s"
    assert windows[2].any() and windows[9].any()
    np.testing.assert_array_equal(np.concatenate([one.samples for one in chunks]), audio)


SHAPES = pytest.mark.parametrize("chunk,left,lookahead,front_end", [
    (3, 8, 0, LogMel()), (7, 0, 2, LogMel()), (1, 8, 4, LateFrontEnd()), (3, 0, 0, LateFrontEnd()),
])  # fmt: skip


@SHAPES
@pytest.mark.parametrize("size", [160_000, 1000])
def test_a_mode_holds_for_whole_chunks_from_the_next_one_on(chunk, left, lookahead, front_end, size):
    """Whatever was heard already of the chunk to come; tokens are those of a sound silenced there."""
    audio = voice(3.0)
    chunker = AudioChunker(front_end, chunk=chunk, left=left, lookahead=lookahead, mode="speak")
    made, modes = [], ["speak", "listen", "listen", "auto", "speak", "listen", "speak", "auto"]
    for one in chunks_of(chunker, np.split(audio, range(size, len(audio), size))):
        made.append(one)
        chunker.mode = modes[min(len(made), 7)]
    ends = [0, *np.cumsum([640 * one.frames for one in made])]
    for index, one in enumerate(made[:-1]):
        expected = {"speak": {1}, "listen": {0}, "auto": {1}}[modes[min(index, 7)]]
        assert set(one.mode) == expected, index
        # What a chunk hears: the past as it was heard then, the sound to come by its own mode.
        sound = audio.copy()
        for before in range(index):
            if modes[min(before, 7)] == "listen":
                sound[ends[before] : ends[before + 1]] = 0
        if modes[min(index, 7)] == "listen":
            sound[ends[index] :] = 0
        frames = jnp.arange(index * chunk, (index + 1) * chunk)
        whole = audio_windows(jnp.asarray(front_end.tokens(sound))[None], frames, left, lookahead)[0]
        np.testing.assert_array_equal(one.windows, whole)
    np.testing.assert_array_equal(np.concatenate([one.samples for one in made]), audio)


@SHAPES
@pytest.mark.parametrize("finished", [False, True])
def test_an_interruption_drops_what_waits_and_listens_at_once(chunk, left, lookahead, front_end, finished):
    audio, later = voice(3.0), voice(2.0)[::-1].copy()
    chunker = AudioChunker(front_end, chunk=chunk, left=left, lookahead=lookahead, mode="speak")
    chunker.push(audio)
    made = [chunker.take(), chunker.take()]
    if finished:
        chunker.finish()
    chunker.interrupt()
    chunker.interrupt()
    assert chunker.ready()
    made.append(chunker.take())
    assert not made[-1].mode.any() and not made[-1].samples.any() and made[-1].frames == 4 * chunk
    assert not chunker.ready() and chunker.over == finished
    if not finished:
        made += chunks_of(chunker, [later])
    spoken = 640 * (made[0].frames + made[1].frames)
    sound = np.concatenate(
        [audio[:spoken], np.zeros(640 * 4 * chunk, np.float32), later[: 0 if finished else None]]
    )
    np.testing.assert_array_equal(np.concatenate([one.samples for one in made]), sound)
    windows = np.concatenate([one.windows for one in made])
    sound_of = lambda index: sound if index != 2 else sound[: spoken + 640 * 4 * chunk]
    for index in range(2, len(made)):
        tokens = jnp.asarray(front_end.tokens(np.pad(sound_of(index), (0, 6400))))[None]
        if index == len(made) - 1:
            tokens = jnp.asarray(front_end.tokens(sound))[None]
        frames = jnp.arange(index * chunk, (index + 1) * chunk)
        whole = audio_windows(tokens, frames, left, lookahead)[0]
        np.testing.assert_array_equal(windows[index * chunk : (index + 1) * chunk], whole)


def test_voice_is_looked_for_afresh_after_an_interruption():
    chunker = AudioChunker(LogMel(), chunk=1)  # shorter than speech is held to last after its end
    chunker.push(voice(0.9))
    assert [chunker.take().mode.any() for _ in range(5)][-1]
    chunker.interrupt()
    chunker.push(np.zeros(16_000, np.float32))
    assert not any(chunker.take().mode.any() for _ in range(6))
    chunker.push(voice(2.0))
    modes = np.concatenate([chunker.take().mode for _ in range(4)])
    assert modes.any()


def test_an_hour_in_one_block_is_cut_without_copying_it():
    chunker, hour = AudioChunker(LogMel()), np.zeros(3600 * 16_000, np.float32)
    chunker.push(hour)
    for _ in range(20):
        assert len(chunker.take().samples)
    assert all(np.shares_memory(block, hour) for block in chunker._coming._blocks)
