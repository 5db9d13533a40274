"""Voice activity is causal and holds on for a moment; stretches of listening are read strictly."""

import math

import numpy as np
import pytest

from tm_jax.audio.listening import inside, parse_listen
from tm_jax.audio.voice_activity import VoiceActivity
from tm_jax.errors import InputError


def voice(seconds: float) -> np.ndarray:
    """A vowel: a buzz at 120 Hz through three formants, its level moving at the rate of syllables."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    weight = lambda hertz: sum(np.exp(-(((hertz - f) / 130) ** 2)) for f in (700, 1200, 2600))
    sound = sum(weight(120 * k) * np.sin(2 * np.pi * 120 * k * time) for k in range(1, 40))
    return (0.1 * sound * (1 + 0.5 * np.sin(2 * np.pi * 4 * time))).astype(np.float32)


def scene() -> np.ndarray:
    """Silence 1 s, voice 2 s, silence 1 s."""
    quiet = np.zeros(16_000, np.float32)
    return np.concatenate([quiet, voice(2.0), quiet])


def test_speech_begins_soon_and_ends_after_a_pause():
    speaking = VoiceActivity().push(scene())
    assert speaking.shape == (200,)
    start, end = int(speaking.argmax()), 199 - int(speaking[::-1].argmax())
    assert 51 <= start <= 58, "within 160 ms of the first sound"
    assert 149 + 12 <= end <= 149 + 25, "about 0.3 s after the last"
    assert speaking[start : end + 1].all()


def test_silence_is_never_speech():
    assert not VoiceActivity().push(np.zeros(32_000, np.float32)).any()


def test_blocks_change_nothing(rng):
    audio, detector, parts, at = scene(), VoiceActivity(), [], 0
    while at < len(audio):
        step = int(rng.integers(0, 3000))
        parts.append(detector.push(audio[at : at + step]))
        at += step
    np.testing.assert_array_equal(np.concatenate(parts), VoiceActivity().push(audio))


def test_later_sound_changes_nothing_before_it():
    audio = scene()
    later = audio.copy()
    later[320 * 80 :] = 0
    np.testing.assert_array_equal(VoiceActivity().push(later)[:80], VoiceActivity().push(audio)[:80])


@pytest.mark.parametrize(
    "text,stretches",
    [
        ("3.0-5.0,8-9", ((3.0, 5.0), (8.0, 9.0))),
        (" 8 - 9 , .5-1. ", ((0.5, 1.0), (8.0, 9.0))),
        ("1-3,2-4", ((1.0, 4.0),)),
        ("1-2,2-3", ((1.0, 3.0),)),
        ("2-", ((2.0, math.inf),)),
    ],
)
def test_listen_is_read(text, stretches):
    assert parse_listen(text) == stretches


@pytest.mark.parametrize("text", ["", "3", "3-2", "2-2", "a-b", "1-2,", "-1-2", "1:2", "1-2-3", "nan-3"])
def test_bad_listen_gets_one_sentence(text):
    with pytest.raises(InputError, match="--listen has"):
        parse_listen(text)


def test_inside():
    assert inside(((0.04, 0.06), (0.1, 1.0)), 1, 5, 50).tolist() == [False, True, False, False, True]
