"""Streaming in constant memory gives what encoding the whole clip gives."""

import jax
import numpy as np
import pytest

from tests.data.prepare.world import SIZE, VAE_SMALL, face, tiny_vae, voice
from tm_jax.audio.log_mel import LogMel
from tm_jax.data.prepare.encode import ClipEncoder, latent_mode
from tm_jax.data.prepare.models import Encoders, fingerprint
from tm_jax.media.pixels import to_signed


@pytest.fixture(scope="module")
def vae():
    return tiny_vae()


def test_a_clip_is_what_the_whole_encoder_gives(vae, rng):
    frames = rng.integers(0, 255, (9, *SIZE, 3), dtype=np.uint8)
    frames[0] = face(SIZE[0])
    sound, ticks = voice(9 / 25), []
    speaking = np.zeros(18, bool)
    speaking[12] = True
    encoder = ClipEncoder(Encoders(vae, LogMel(), None), reference_frames=3)
    video = encoder(iter(frames), 9, sound, speaking, (8.0, 4.2, 19.5, 15.9), tick=ticks.append)
    whole = to_signed(frames)
    grey = np.concatenate([whole[:1], np.zeros_like(whole[1:])])
    latents, reference = jax.jit(lambda vae, video: vae.encode(video))(vae, np.stack([whole, grey]))
    np.testing.assert_allclose(video.latents, latents, atol=2e-3, rtol=2e-3)
    np.testing.assert_allclose(video.reference, reference, atol=2e-3, rtol=2e-3)
    np.testing.assert_allclose(video.audio_tokens, LogMel().tokens(sound), atol=1e-3)
    # Tokens 10 … 17 belong to latent 2; cells have four pixels.
    assert video.mode.tolist() == [0, 0, 1] and sum(ticks) == 9
    rows, columns = np.flatnonzero(video.face_mask.any(1)), np.flatnonzero(video.face_mask.any(0))
    assert rows.tolist() == [2, 3, 4] and columns.tolist() == [1, 2, 3]
    assert video.latents.dtype == np.float16 and video.latents.shape == (3, 8, 8, VAE_SMALL.z_dim)
    assert video.image_tokens is None and video.text_tokens is None


def test_modes_are_those_of_a_live_stream():
    speaking = np.zeros(18, bool)
    speaking[[1, 17]] = True
    assert latent_mode(speaking).tolist() == [1, 0, 1]


def test_fingerprints_tell_weights_apart(vae):
    other = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, vae)
    assert fingerprint(vae) == fingerprint(jax.tree.map(np.asarray, vae)) != fingerprint(other)
