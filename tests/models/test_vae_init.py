"""The linear start: far better than random weights on any smooth video, exact where the data allow it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.vae_cases import TINY, WAN22, abstract, build, config, jit
from tm_jax.models.vae import unpatchify
from tm_jax.models.vae_config import VAEConfig
from tm_jax.models.vae_init import linear_start, quiet

TIME_ALONE = {
    "dim_mult": (1, 1, 1),
    "decoder_base_dim": 20,
    "temporal_downsample": (True, True),
    "spatial_downsample": (False, False),
    "patch_size": 4,
    "residual": True,
    "linear_ends": True,
}
FORMS = {"time alone": (TIME_ALONE, 16, 0, 8), "picture first": (TINY | {"decoder_base_dim": 8}, 8, 1, 8)}
"""Form, base width, residual blocks, latent channels; both have a stride of 4 × 4 pixels."""
CLIPS = 6


def made(name: str, rng: np.random.Generator) -> VAEConfig:
    form, base, blocks, z_dim = FORMS[name]
    return VAEConfig(
        base_dim=base,
        num_res_blocks=blocks,
        z_dim=z_dim,
        latents_mean=tuple(rng.normal(size=z_dim).tolist()),
        latents_std=tuple(rng.uniform(0.5, 3, size=z_dim).tolist()),
        **form,
    )


def smooth(rng: np.random.Generator) -> jnp.ndarray:
    """Clips of slow waves of random direction, speed and colour."""
    time, y, x = np.meshgrid(np.arange(9) / 25, *2 * [np.arange(16) / 16], indexing="ij")
    video = np.zeros((CLIPS, 9, 16, 16, 3))
    for clip in video:
        for _ in range(6):
            wave = 2 * np.pi * (rng.uniform(-1, 1, 3) @ np.stack([time, y, x]).reshape(3, -1) + rng.uniform())
            clip += np.cos(wave).reshape(time.shape)[..., None] * rng.normal(size=3) / 4
    return jnp.asarray(video, jnp.float32)


def low_rank(rng: np.random.Generator) -> jnp.ndarray:
    """Clips of two patterns of pixels, whose weights go straight within the frames of a latent."""
    pixels, starts = rng.normal(size=(2, 4 * 4 * 3)), rng.normal(size=(CLIPS, 3, 4, 4, 2))
    slopes = rng.normal(size=(CLIPS, 3, 4, 4, 2)) / 4
    straight = [starts[:, j] + slopes[:, j] * k for j in (1, 2) for k in range(4)]
    weights = np.stack([starts[:, 0], *straight], axis=1)
    return unpatchify(jnp.asarray(weights @ pixels + 0.1, jnp.float32), 4)


@jit
def again(vae, video):
    return vae.decode(vae.encode(video))


def error(vae, video) -> float:
    """What is lost of the variation of a video."""
    return float(jnp.linalg.norm(again(vae, video) - video) / jnp.linalg.norm(video - video.mean()))


def least_error(video, z_dim: int) -> float:
    """What any linear code of this width loses of the later latents' blocks of 4 frames × 4 × 4 pixels."""
    blocks = np.asarray(video)[:, 1:].reshape(CLIPS, 2, 4, 4, 4, 4, 4, 3).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    blocks = blocks.reshape(-1, 4 * 4 * 4 * 3)
    values = np.square(np.linalg.svd(blocks - blocks.mean(0), compute_uv=False))
    return float(np.sqrt(values[z_dim:].sum() / values.sum()))


@pytest.mark.parametrize("name", FORMS)
def test_a_linear_start_is_as_good_as_linear_can_be_and_holds_for_unseen_clips(name, rng):
    random, video = build(made(name, rng), rng), smooth(rng)
    fitted, unseen = linear_start(random, video), smooth(rng)
    assert error(fitted, video) < 1.1 * least_error(video, random.config.z_dim)
    assert error(fitted, unseen) < 0.4 < 1.0 < error(random, unseen)


@pytest.mark.parametrize("name", FORMS)
def test_data_of_low_rank_come_back_nearly_exactly(name, rng):
    random = build(made(name, rng), rng)
    video = low_rank(rng)
    assert error(linear_start(random, video), video) < 1e-4


@pytest.mark.parametrize("ends", [True, False])
def test_linear_ends_leave_a_linear_path_when_the_branches_are_silent(ends, rng, relative_error):
    vae = quiet(build(dataclasses.replace(made("picture first", rng), linear_ends=ends), rng))
    a, b = (jnp.asarray(rng.normal(size=(1, 2, 2, 2, 8)), jnp.float32) for _ in range(2))
    decode = jit(lambda vae, z: vae.decode(z))
    bent = relative_error(decode(vae, 0.5 * (a + b)), 0.5 * (decode(vae, a) + decode(vae, b)))
    assert (bent < 1e-5) == ends


PATH = made("picture first", np.random.default_rng(0))
FAULTS = {
    "Wan's norms at the ends": (PATH, {"linear_ends": False}, "residual and linear_ends"),
    "the picture halved later": (PATH, {"spatial_downsample": (False, True, False)}, "only the picture"),
    "picture and time at once": (PATH, {"temporal_downsample": (True, False, True)}, "only the picture"),
    "two widths": (PATH, {"dim_mult": (2, 2, 2, 4)}, "one width"),
    "a narrow decoder": (PATH, {"decoder_base_dim": 2}, "no narrower a decoder"),
    "the decoder not four times as wide": (PATH, {"decoder_dim_mult": (1, 2, 4, 4)}, "a quarter"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_vae_without_a_linear_path_is_refused_before_anything_is_computed(fault):
    given, change, sentence = FAULTS[fault]
    with pytest.raises(ValueError, match=sentence):
        linear_start(abstract(dataclasses.replace(given, **change)), jnp.zeros((1, 1, 4, 4, 3)))


def test_wans_own_forms_have_no_linear_path(rng):
    with pytest.raises(ValueError, match="residual and linear_ends"):
        linear_start(abstract(config(rng, WAN22)), jnp.zeros((1, 1, 8, 8, 3)))
