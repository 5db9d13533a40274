"""The viseme encoder as a front end: causal, streamed as heard whole, found by the width of its tokens."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from tests.audio.front_end_cases import push_in_pieces
from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.audio.log_mel import LogMel
from tm_jax.errors import InputError
from tm_jax.models.viseme_config import VisemeConfig
from tm_jax.models.visemes import VisemeEncoder, VisemeFrontEnd
from tm_jax.pretrained.front_ends import load_front_end, own_front_end
from tm_jax.pretrained.weights import save_model

CONFIG = VisemeConfig(width=16, dilations=(1, 3), outputs=12)


@pytest.fixture(scope="module")
def front_end():
    return VisemeFrontEnd(jax.jit(lambda: VisemeEncoder(CONFIG, rngs=nnx.Rngs(3)))())


def test_it_is_a_front_end(front_end):
    assert isinstance(front_end, AudioFrontEnd)
    assert (front_end.token_width, front_end.lookahead) == (12, 0)
    assert front_end.tokens(np.zeros(0, np.float32)).shape == (0, 12)
    assert front_end.tokens(np.zeros(321, np.float32)).shape == (2, 12)


@pytest.mark.parametrize("longest", [3, 400, 20_000])
def test_streaming_gives_the_same_tokens(front_end, rng, longest):
    audio = 0.1 * rng.standard_normal(320 * {3: 4}.get(longest, 100)).astype(np.float32)
    parts = []
    for tokens, state in push_in_pieces(front_end, audio, longest, rng):
        parts.append(tokens)
        assert len(state.mel) == CONFIG.past
    np.testing.assert_allclose(np.concatenate(parts), front_end.tokens(audio), rtol=0, atol=2e-6)


def test_a_token_hears_its_own_past_and_nothing_else(front_end, rng):
    audio = 0.1 * rng.standard_normal(320 * 60).astype(np.float32)
    before = front_end.tokens(audio)
    later = audio.copy()
    later[320 * 30 :] *= 3
    after = front_end.tokens(later)
    np.testing.assert_allclose(after[:30], before[:30], atol=2e-6)
    assert np.abs(after[30] - before[30]).max() > 1e-3
    earlier = audio.copy()
    earlier[: 320 * 10] = 0
    heard = np.abs(front_end.tokens(earlier) - before).max(1)
    # Log-mel reaches 240 samples back, hence one token more than the layers do.
    assert heard[10 + CONFIG.past] > 1e-4 and heard[12 + CONFIG.past :].max() < 2e-6


def test_a_model_finds_what_it_hears_through(front_end, tmp_path):
    path = tmp_path / "visemes.safetensors"
    assert isinstance(load_front_end(None), LogMel)
    assert isinstance(own_front_end(80, path), LogMel)
    assert own_front_end(12, path) is None
    with pytest.raises(InputError, match="There is no weights file"):
        load_front_end(path)
    save_model(path, front_end.encoder, CONFIG)
    found = own_front_end(12, path)
    sound = np.linspace(-0.1, 0.1, 3200, dtype=np.float32)
    np.testing.assert_array_equal(found.tokens(sound), front_end.tokens(sound))
    assert own_front_end(768, path) is None


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="at least 1"):
        VisemeConfig(dilations=(1, 0))
    other = VisemeEncoder(dataclasses.replace(CONFIG, inputs=40), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="40 numbers where log-mel gives 80"):
        VisemeFrontEnd(other)
