"""Gains: how much of a blink, a glance, a turn of the head or a spoken mouth a denoiser gives back.

A held-out clip is drawn twice, with and without one kind of event, and both get the same noise and the same
conditions.  Of the difference of the two true clips, the share that is found in the difference of the two
clean estimates is the gain: 1 for a perfect denoiser, 0 for one that draws what is likely whatever it is
given.
At σ = 0.9 it can only be small; a blink that does not come back at 0.5 will never be sampled.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.data.encoded_videos import VideoEncoder
from tm_jax.data.latent_clips import BLINK, ClipConfig, conditioning_arrays
from tm_jax.data.puppets.draw import MOTION, render
from tm_jax.data.puppets.world import Clip, PuppetWorld
from tm_jax.diffusion.flow import add_noise, clean_from_velocity
from tm_jax.diffusion.noise import stream_noise
from tm_jax.models.dit import DiT
from tm_jax.models.vae import VAE
from tm_jax.nn.masks import Bidirectional
from tm_jax.types import Conditioning, Latents

LEVELS = (0.9, 0.75, 0.5, 0.25, 0.14)
EVENTS = {
    "blinks": ("blink",),
    "gaze": ("gaze_x", "gaze_y"),
    "head": ("x", "y", "angle", "yaw", "pitch"),
    "mouth": ("opening", "width", "rounding"),
}
"""By name: the columns of motion that are zeroed in the clip without the event."""
_HAPPENS = {"blink": BLINK, "gaze_x": 0.4, "opening": 0.3}
"""How far these must go in a clip for it to show every event."""

Estimate = Callable[[Latents, Float[Array, " b"]], Latents]
"""The clean estimate of noisy clips at their noise levels."""


@dataclasses.dataclass(frozen=True)
class EventClips:
    """Held-out clips with everything, and without each kind of event."""

    whole: Latents
    without: dict[str, Latents]
    """By the names of ``EVENTS``."""
    conditioning: Conditioning


def _eventful_clips(world: PuppetWorld, count: int, frames: int) -> list[Clip]:
    """The first clips in which an eye shuts, glances away and the mouth opens."""
    found, index = [], 0
    while len(found) < count:
        motion = np.abs(world.truth(index, frames / 25).motion)
        if all(motion[:, MOTION.index(name)].max() > least for name, least in _HAPPENS.items()):
            found.append(world.clip(index, frames / 25))
        index += 1
    return found


def event_clips(
    vae: VAE,
    front_end: AudioFrontEnd,
    clip: ClipConfig,
    *,
    still: bool,
    count: int = 4,
    size: int = 128,
    seed: int = 0,
) -> EventClips:
    """Draw and encode the beginnings of held-out videos, with every event, as long as a training clip."""
    world = PuppetWorld(seed=seed, split="heldout", size=size)
    encoder = VideoEncoder(vae, front_end, clip.frames, still=still)
    latents, conditions = {name: [] for name in ("whole", *EVENTS)}, []
    for whole in _eventful_clips(world, count, 4 * clip.frames - 3):
        identity = world.identity(whole.meta["identity"]).vector()
        for name in latents:
            motion = whole.meta["motion"].copy()
            motion[:, [MOTION.index(column) for column in EVENTS.get(name, ())]] = 0
            drawn = dataclasses.replace(whole, frames=render(identity, motion, size))
            video = encoder(drawn)
            latents[name].append(np.asarray(video.latents, np.float32))
            if name == "whole":
                conditions.append(conditioning_arrays(video, np.arange(clip.frames), clip))
    stacked = {name: jnp.asarray(np.stack(rows)) for name, rows in latents.items()}
    conditioning = Conditioning(**jax.tree.map(lambda *rows: jnp.asarray(np.stack(rows)), *conditions))
    return EventClips(stacked.pop("whole"), stacked, conditioning)


def gains(
    estimate: Estimate, clips: EventClips, levels: tuple[float, ...] = LEVELS
) -> dict[str, list[float]]:
    """The gain of each kind of event at each noise level."""
    count, *shape = clips.whole.shape
    noise = jnp.asarray(np.stack([stream_noise(0, clip, 0, tuple(shape)) for clip in range(count)]))
    found: dict[str, list[float]] = {name: [] for name in clips.without}
    for level in levels:
        sigma = jnp.full((count,), level, jnp.float32)
        seen = lambda clean, sigma=sigma: np.asarray(estimate(add_noise(clean, noise, sigma), sigma))
        whole = seen(clips.whole)
        for name, clean in clips.without.items():
            true = np.asarray(clips.whole - clean)
            found[name].append(float(((whole - seen(clean)) * true).sum() / np.square(true).sum()))
    return found


@jax.jit
def _clean_estimate(model: DiT, noisy: Array, sigma: Array, conditioning: Conditioning) -> Array:
    velocity = model(noisy, sigma, conditioning, pattern=Bidirectional())
    return clean_from_velocity(noisy, velocity, sigma)


def model_gains(model: DiT, clips: EventClips) -> dict[str, list[float]]:
    """The gains of a teacher."""
    return gains(lambda noisy, sigma: _clean_estimate(model, noisy, sigma, clips.conditioning), clips)
