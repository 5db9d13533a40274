"""A guided image-to-video sample against diffusers' Wan pipeline, from picture and noise to video."""

import dataclasses
import functools

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.models import vae_cases
from tests.models.dit_cases import SMALL, inputs, plain
from tests.pretrained.test_wan_dit import paired
from tests.pretrained.test_wan_vae import channels_first, channels_last, pair
from tm_jax.diffusion.conditions import reference_latents, with_mask
from tm_jax.diffusion.sampler import Guidance, SamplerConfig, sample
from tm_jax.diffusion.schedule import Schedule
from tm_jax.nn.masks import Bidirectional

STEPS, BATCH, FRAMES = 4, 2, 3


class EvenEuler(FlowMatchEulerDiscreteScheduler):
    """The scheduler on Wan's own levels, evenly spaced from 1 before the shift.

    Left alone, diffusers ends one shift of its shifted 1/1000 above zero and spaces the rest from there.
    """

    def set_timesteps(self, num_inference_steps, device=None):
        super().set_timesteps(sigmas=np.linspace(1, 0, num_inference_steps + 1)[:-1], device=device)


@dataclasses.dataclass(frozen=True)
class Both:
    """The two sides' models and what both are given."""

    vae: object
    model: object
    pipeline: diffusers.WanImageToVideoPipeline
    picture: jnp.ndarray
    noise: jnp.ndarray
    conditioning: object
    negative: jnp.ndarray


@pytest.fixture
def both(rng, seed) -> Both:
    """Two clips of nine frames, with pictures, texts and noise of their own."""
    vae, their_vae = pair(vae_cases.config(rng, vae_cases.WAN21), rng)
    channels = vae.config.z_dim
    config = dataclasses.replace(
        plain(SMALL), patch=(1, 2, 2), text_length=512, out_channels=channels, in_channels=2 * channels + 4
    )
    model, their_model = paired(config, seed)
    pipeline = diffusers.WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=their_vae, scheduler=EvenEuler(), transformer=their_model
    )
    pipeline.set_progress_bar_config(disable=True)
    noise, _, conditioning = inputs(config, rng, batch=BATCH, frames=FRAMES, height=2, width=4)
    side = vae.config.spatial_stride
    picture = jnp.asarray(rng.uniform(-1, 1, (BATCH, 2 * side, 4 * side, 3)), jnp.float32)
    condition = vae_cases.jit(
        lambda vae, picture: with_mask(reference_latents(vae, picture, FRAMES, still=False))
    )
    conditioning = conditioning.replace(condition=condition(vae, picture))
    negative = jnp.asarray(rng.normal(size=conditioning.text_tokens.shape), jnp.float32)
    return Both(vae, model, pipeline, picture, noise, conditioning, negative)


@torch.no_grad()
def theirs(both: Both, shift: float, scale: float) -> dict[str, np.ndarray]:
    """Condition, latents and video that diffusers makes, clip by clip."""
    both.pipeline.scheduler = EvenEuler(shift=shift)
    tensor = lambda x: torch.from_numpy(np.array(x))
    made = {"condition": [], "latents": [], "video": []}
    for clip in range(BATCH):
        one = slice(clip, clip + 1)
        picture = tensor(both.picture[one]).permute(0, 3, 1, 2)
        size = {"height": picture.shape[2], "width": picture.shape[3], "num_frames": 4 * FRAMES - 3}
        noise = channels_first(both.noise[one])
        channels = noise.shape[1]
        condition = both.pipeline.prepare_latents(
            picture, 1, channels, **size, dtype=torch.float32, device="cpu", latents=noise
        )[1]
        kept, tokens = {}, tensor(both.conditioning.image_tokens[one])
        both.pipeline.encode_image = lambda _image, _device, tokens=tokens: tokens
        video = both.pipeline(
            image=(picture + 1) / 2,
            prompt_embeds=tensor(both.conditioning.text_tokens[one]),
            negative_prompt_embeds=tensor(both.negative[one]),
            latents=noise,
            num_inference_steps=STEPS,
            guidance_scale=scale,
            output_type="pt",
            callback_on_step_end=lambda _pipe, _index, _time, state, kept=kept: kept.update(state) or state,
            **size,
        ).frames
        made["condition"].append(channels_last(condition))
        made["latents"].append(channels_last(kept["latents"]))
        made["video"].append(video.permute(0, 1, 3, 4, 2).numpy() * 2 - 1)
    return {name: np.concatenate(parts) for name, parts in made.items()}


def test_a_guided_sample_equals_diffusers_pipeline(both, relative_error):
    shift, scale = 5.0, 4.0
    reference = theirs(both, shift, scale)
    assert relative_error(both.conditioning.condition, reference["condition"]) <= 1e-5
    config = SamplerConfig(steps=STEPS, schedule=Schedule(shift), guidance=Guidance(text=scale))
    run = functools.partial(sample, pattern=Bidirectional(), negative_text=both.negative)
    latents = vae_cases.jit(lambda model, *given: run(model, *given, config))(
        both.model, both.conditioning, both.noise
    )
    assert relative_error(latents, reference["latents"]) <= 1e-4
    video = vae_cases.jit(lambda vae, latents: vae.decode(latents))(both.vae, latents)
    # diffusers clamps its pictures, ours does not: enough must lie within for the comparison to mean much.
    assert np.mean(np.abs(video) < 1) > 0.2
    assert relative_error(jnp.clip(video, -1, 1), reference["video"]) <= 1e-4


@pytest.mark.parametrize(("shift", "steps"), [(1.0, 7), (3.0, 20), (5.0, 4)])
def test_noise_levels_equal_diffusers_and_wans(shift, steps):
    scheduler = EvenEuler(shift=shift)
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(Schedule(shift).steps(steps), scheduler.sigmas.numpy(), rtol=1e-6, atol=1e-7)
