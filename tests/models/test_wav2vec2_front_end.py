"""The sliding window: whole equals streamed, every window is a clip of its own, nothing later is heard."""

import numpy as np
import pytest
import torch

from tests.models.encoder_cases import generator, wav2vec2_pair
from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.audio.sliding_window import WindowConfig
from tm_jax.models.wav2vec2_front_end import Wav2Vec2FrontEnd, window_tokens
from tm_jax.rates import SAMPLES_PER_TOKEN

WINDOW = WindowConfig(past=10, hop=2, lookahead=3, batch=4)


@pytest.fixture
def pair(seed):
    reference, model, _ = wav2vec2_pair(generator(seed, 0))
    return reference, Wav2Vec2FrontEnd(model, WINDOW)


def test_it_is_a_front_end(pair):
    _, front_end = pair
    assert isinstance(front_end, AudioFrontEnd)
    assert front_end.token_width == front_end.encoder.config.width
    assert Wav2Vec2FrontEnd(front_end.encoder).lookahead == 5


def test_streaming_equals_the_whole_file(pair, rng, relative_error):
    _, front_end = pair
    sound = rng.normal(size=40 * SAMPLES_PER_TOKEN - 77).astype(np.float32)
    whole = front_end.tokens(sound)
    assert whole.shape == (40, front_end.token_width) and whole.dtype == np.float32
    silence = np.zeros((front_end.lookahead + 1) * SAMPLES_PER_TOKEN, np.float32)
    state, streamed, given, heard = front_end.start(), [], 0, 0
    sizes = [0, 1, 319, *rng.integers(0, 2500, 12)]
    for piece in [*np.split(sound, np.minimum(np.cumsum(sizes), len(sound))), silence]:
        tokens, state = front_end.push(state, piece)
        streamed.append(tokens)
        given, heard = given + len(tokens), heard + len(piece)
        assert given > heard // SAMPLES_PER_TOKEN - front_end.lookahead - 1
        assert len(state.sound) < (WINDOW.length + 1) * SAMPLES_PER_TOKEN
    # Batches of windows and single windows are two compilations of one computation.
    assert relative_error(np.concatenate(streamed)[:40], whole) <= 1e-6


def test_every_window_is_a_clip_of_its_own(pair, rng, relative_error):
    reference, front_end = pair
    sound = rng.normal(0.1, 0.2, size=30 * SAMPLES_PER_TOKEN).astype(np.float32)
    tokens = front_end.tokens(sound)
    padded = np.pad(sound, (0, 8 * SAMPLES_PER_TOKEN))
    for start in (0, 4, 12, 28):
        first = max(0, start - WINDOW.past)
        clip = padded[first * SAMPLES_PER_TOKEN : (start + WINDOW.hop + WINDOW.lookahead) * SAMPLES_PER_TOKEN]
        clip = np.pad((clip - clip.mean()) / np.sqrt(clip.var() + 1e-7), (0, 80))
        with torch.no_grad():
            alone = reference(torch.tensor(clip[None], dtype=torch.float32)).last_hidden_state[0].numpy()
        kept = alone[start - first : start - first + WINDOW.hop]
        assert relative_error(tokens[start : start + WINDOW.hop], kept) <= 1e-5, f"window of token {start}"


def test_later_sound_has_no_influence(pair, rng):
    _, front_end = pair
    sound = rng.normal(size=24 * SAMPLES_PER_TOKEN).astype(np.float32)
    changed = sound.copy()
    changed[20 * SAMPLES_PER_TOKEN :] += 1.0
    before, after = front_end.tokens(sound), front_end.tokens(changed)
    deaf = 20 - front_end.lookahead
    np.testing.assert_array_equal(before[:deaf], after[:deaf])
    assert (before[deaf:] != after[deaf:]).any(-1).all()


def test_a_stream_compiles_once(pair, rng):
    _, front_end = pair
    front_end.tokens(rng.normal(size=30 * SAMPLES_PER_TOKEN).astype(np.float32))
    compiled = window_tokens._cache_size()
    state = front_end.start()
    for _ in range(12):
        _, state = front_end.push(state, rng.normal(size=3 * SAMPLES_PER_TOKEN).astype(np.float32))
    front_end.tokens(rng.normal(size=33 * SAMPLES_PER_TOKEN + 5).astype(np.float32))
    assert window_tokens._cache_size() == compiled


@pytest.mark.parametrize("samples, tokens", [(0, 0), (1, 1), (320, 1), (321, 2)])
def test_short_and_silent_sounds(pair, samples, tokens):
    _, front_end = pair
    given = front_end.tokens(np.zeros(samples, np.float32))
    assert given.shape == (tokens, front_end.token_width) and np.isfinite(given).all()


def test_impossible_windows_are_refused():
    with pytest.raises(ValueError, match="hop"):
        WindowConfig(hop=0)


def test_sound_in_other_types_is_taken(pair, rng):
    _, front_end = pair
    sound = rng.normal(size=700)
    np.testing.assert_array_equal(front_end.tokens(sound), front_end.tokens(sound.astype(np.float32)))
    assert isinstance(front_end.tokens(sound), np.ndarray)
