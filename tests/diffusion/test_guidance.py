"""Audio guidance where the mouth is: the mouth's cells are guided as ever, all others not at all."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.training.tiny import CLIP, random_dit, videos
from tm_jax.data.latent_clips import conditioning_arrays
from tm_jax.diffusion.face_cells import mouth_mask
from tm_jax.diffusion.sampler import Guidance, guided_velocity
from tm_jax.nn.masks import Bidirectional
from tm_jax.types import Conditioning


def test_guidance_of_the_mouth_leaves_the_rest_of_the_picture_as_it_is(getkey):
    model, video = random_dit(getkey()), videos(1)[0]
    arrays = conditioning_arrays(video, np.arange(CLIP.frames), CLIP)
    conditioning = Conditioning(**jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], arrays))
    noise, sigma = jax.random.normal(getkey(), (1, CLIP.frames, 2, 2, 4)), jnp.array([0.7])
    see = lambda guidance: np.asarray(
        jax.jit(guided_velocity(model, conditioning, guidance, pattern=Bidirectional()))(noise, sigma)
    )
    plain, guided = see(Guidance()), see(Guidance(audio=3.0))
    mouth = np.asarray(mouth_mask(conditioning.face_mask))[0] > 0
    assert mouth.tolist() == [[False, False], [True, True]]
    found = see(Guidance(audio=3.0, mouth_alone=True))
    np.testing.assert_allclose(found[:, :, mouth], guided[:, :, mouth], atol=1e-5)
    np.testing.assert_allclose(found[:, :, ~mouth], plain[:, :, ~mouth], atol=1e-5)
    assert np.abs(guided - plain)[:, :, ~mouth].max() > 1e-2
