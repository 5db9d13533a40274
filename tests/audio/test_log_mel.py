"""The log-mel front end: its timing to the sample, its streaming form, its scale."""

import numpy as np
import pytest

from tests.audio.front_end_cases import push_in_pieces
from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.audio.log_mel import LogMel, LogMelConfig


def voice(rng, samples: int, level: float = 0.1) -> np.ndarray:
    """Something with harmonics, pauses and noise, at the given RMS."""
    time = np.arange(samples) / 16_000
    buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 30))
    sound = buzz * (np.sin(2 * np.pi * 3 * time) > -0.3) + 0.02 * rng.standard_normal(samples)
    return (sound * level / np.sqrt(np.mean(sound**2))).astype(np.float32)


def test_it_is_a_front_end():
    assert isinstance(LogMel(), AudioFrontEnd)
    assert (LogMel().token_width, LogMel().lookahead) == (80, 0)


@pytest.mark.parametrize("samples,tokens", [(0, 0), (1, 1), (320, 1), (321, 2), (16_000, 50), (15_999, 50)])
def test_token_count_rounds_up(samples, tokens):
    out = LogMel().tokens(np.zeros(samples, np.float32))
    assert out.shape == (tokens, 80) and out.dtype == np.float32


@pytest.mark.parametrize("longest", [1, 7, 320, 641, 5000])
def test_streaming_gives_the_same_bits(rng, longest):
    front, audio = LogMel(), voice(rng, 320 * {1: 10, 7: 40}.get(longest, 2100))
    parts = []
    for tokens, state in push_in_pieces(front, audio, longest, rng):
        parts.append(tokens)
        assert len(state) < 240 + 320
    np.testing.assert_array_equal(np.concatenate(parts), front.tokens(audio))


def test_token_hears_no_sample_past_its_end(rng):
    front, audio = LogMel(), voice(rng, 320 * 20)
    before = front.tokens(audio)
    for i in (0, 5, 19):
        changed = audio.copy()
        changed[320 * (i + 1) :] += 0.5
        np.testing.assert_array_equal(front.tokens(changed)[: i + 1], before[: i + 1])
        changed = audio.copy()
        changed[320 * (i + 1) - 40] += 0.5
        assert np.abs(front.tokens(changed)[i] - before[i]).max() > 1e-2


def test_silence_is_exactly_zero():
    assert not LogMel().tokens(np.zeros(3200, np.float32)).any()


def test_scale_and_level(rng):
    audio = voice(rng, 16_000 * 3)
    speech = LogMel().tokens(audio)
    assert 0 <= speech.min() and 0.2 < speech.mean() < 1.2 and 1.4 < np.percentile(speech, 99) < 2.5
    louder = LogMel().tokens(audio * 2)
    assert np.abs(louder - speech).max() <= np.log(4) / 5 + 1e-6, (
        "a gain of 6 dB moves no value by more than log 4"
    )


def test_a_tone_lights_its_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32) * 0.1
    hop = LogMel().tokens(tone)[10, :40]
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([60, 7600]) / 700)), 42) / 2595) - 1)
    assert abs(edges[1 + int(hop.argmax())] - 1000) < 60


def test_config_is_checked():
    with pytest.raises(ValueError, match="highest"):
        LogMelConfig(highest=9000.0)
