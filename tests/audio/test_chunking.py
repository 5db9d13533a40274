"""Chunked audio equals the windows of the whole recording, wherever the blocks are cut."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.audio.test_voice_activity import scene, voice
from tm_jax.audio.chunking import LiveAudio, _Stream
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
    live = LiveAudio(front_end, chunk, left, lookahead)
    chunks = list(live.chunks(cut(audio, rng, 4000)))
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

    left_at = [given for _ in LiveAudio(LogMel(), 3, 8, 0).chunks(blocks())]
    assert left_at[:2] == [18, 42]


def test_memory_is_constant():
    stream, sizes = _Stream(LiveAudio(LogMel())), []
    for _ in range(50):
        stream.push(np.zeros(7680, np.float32))
        while stream.ready():
            stream.take()
        sizes.append((len(stream.tokens), len(stream.speaking), sum(map(len, stream.pending))))
    assert max(sizes[5:]) <= max(sizes[1:5]) and sizes[-1][0] < 60


def test_sound_that_has_not_come_yet_changes_nothing(rng):
    audio = voice(3.0)
    changed = audio.copy()
    changed[640 * 21 :] = 0.3 * rng.standard_normal(len(audio) - 640 * 21)
    make = lambda sound: list(LiveAudio(LogMel()).chunks([sound]))[:2]
    for one, other in zip(make(audio), make(changed), strict=True):
        np.testing.assert_array_equal(one.windows, other.windows)
        np.testing.assert_array_equal(one.mode, other.mode)


def modes(audio, **settings) -> np.ndarray:
    return np.concatenate([one.mode for one in LiveAudio(LogMel(), **settings).chunks([audio])])


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
    chunks = list(LiveAudio(LogMel(), listen=((0.5, 1.2),)).chunks([audio]))
    windows = np.concatenate([one.windows for one in chunks])
    assert not windows[5:7].any(), "0.5 s + window, to 1.2 s"
    assert windows[2].any() and windows[9].any()
    np.testing.assert_array_equal(np.concatenate([one.samples for one in chunks]), audio)
