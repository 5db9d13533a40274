"""What follows the reference picture in the condition."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.streaming.tiny import models
from tm_jax.data.encoded_videos import EncodedConfig, check_condition
from tm_jax.diffusion.conditions import reference_latents
from tm_jax.models.dit_config import DiTConfig


@pytest.mark.parametrize("still", (False, True))
def test_the_rest_of_the_condition(still, relative_error):
    """Grey or the picture itself, whole and step by step alike."""
    vae, _ = models()
    picture = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)), jnp.float32)
    rest = picture if still else jnp.zeros_like(picture)
    video = jnp.concatenate([picture[:, None], jnp.repeat(rest[:, None], 8, axis=1)], axis=1)
    expected = jax.jit(type(vae).encode)(vae, video)
    for stepwise in (False, True):
        found = reference_latents(vae, picture, 3, still=still, stepwise=stepwise)
        assert relative_error(found, expected) < 1e-5


def test_videos_without_the_condition_that_the_model_reads():
    still = dataclasses.replace(DiTConfig(), still_condition=True)
    with pytest.raises(ValueError, match="still_condition is True in model and False in videos"):
        check_condition(still, EncodedConfig())
    check_condition(still, EncodedConfig(still_condition=True))
