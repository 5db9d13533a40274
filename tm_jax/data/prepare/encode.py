"""Pixels and sound of one clip → an `EncodedVideo`, in constant memory whatever the clip's length.

The VAE runs as a stream, four frames at a time, which gives what encoding the whole clip gives.  The
reference condition (the first frame, then mid-grey) branches off the same stream after its first frame.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Float32, Int32, UInt8

from tm_jax.audio.voice_activity import LISTENING, SPEAKING
from tm_jax.data.latent_clips import EncodedVideo
from tm_jax.data.prepare.models import Encoders
from tm_jax.diffusion.conditions import face_mask
from tm_jax.media.framing import Box, whole_pixels
from tm_jax.media.pixels import to_signed
from tm_jax.models.clip import CLIPVision, preprocess
from tm_jax.models.vae import VAE, State
from tm_jax.rates import TOKENS_PER_LATENT
from tm_jax.types import Latents, Video


def latent_mode(speaking: Bool[np.ndarray, " tokens"]) -> Int32[np.ndarray, " f"]:
    """Speaking or listening per latent frame of 1 + 4k frames: any speech counts, as in a live stream."""
    later = speaking[2:].reshape(-1, TOKENS_PER_LATENT).any(1)
    return np.where(np.r_[speaking[:2].any(), later], SPEAKING, LISTENING).astype(np.int32)


@jax.jit
def _first(vae: VAE, frames: Video) -> tuple[Latents, State]:
    return vae.encode_step(frames, None, first=True)


@jax.jit
def _next(vae: VAE, frames: Video, state: State) -> tuple[Latents, State]:
    return vae.encode_step(frames, state, first=False)


@jax.jit
def _image_tokens(clip: CLIPVision, picture: Float[Array, "b y x 3"]) -> Float[Array, "b l d"]:
    return clip(preprocess(picture, clip.config.image_size))


class ClipEncoder:
    """Encodes clips of one size; two compilations of the VAE serve clips of all lengths."""

    def __init__(self, encoders: Encoders, reference_frames: int):
        self.encoders, self.reference_frames = encoders, reference_frames

    def __call__(
        self,
        frames: Iterator[UInt8[np.ndarray, "y x 3"]],
        count: int,
        sound: Float32[np.ndarray, " s"],
        speaking: Bool[np.ndarray, " tokens"],
        face: Box,
        text: Float16[np.ndarray, "text d"] | None = None,
        tick: Callable[[int], None] = lambda frames: None,
    ) -> EncodedVideo:
        """One clip.

        Args:
          frames: the pixels; ``count`` (1 + 4k) of them are taken.
          sound: 16 kHz, 640 samples a frame.
          speaking: per token of 20 ms, two a frame.
          face: (y0, x0, y1, x1) in pixels of the clip.
          tick: called with the number of frames that have been dealt with since the last call.
        """
        stride = self.encoders.vae.config.temporal_stride
        opening = to_signed(next(frames)[None, None])
        tick(1)
        size = opening.shape[2:4]
        latent, state = _first(self.encoders.vae, opening)
        reference = [latent, *self._grey(state, (1, stride, *opening.shape[2:]))]
        latents = [latent]
        for _ in range((count - 1) // stride):
            group = np.stack([next(frames) for _ in range(stride)])
            latent, state = _next(self.encoders.vae, to_signed(group[None]), state)
            latents.append(latent)
            # Frames that wait for a busy accelerator hold memory: never be more than a few steps ahead.
            latents[max(0, len(latents) - 4)].block_until_ready()
            tick(stride)
        image = None
        if self.encoders.image is not None:
            image = np.asarray(_image_tokens(self.encoders.image, opening[:, 0])[0], np.float16)
        grid = latent.shape[2:4]
        box = jnp.asarray([whole_pixels(face)])
        return EncodedVideo(
            latents=_joined(latents),
            reference=_joined(reference),
            audio_tokens=self.encoders.front_end.tokens(sound).astype(np.float16),
            mode=latent_mode(speaking),
            face_mask=np.asarray(face_mask(box, size, grid)[0]),
            image_tokens=image,
            text_tokens=text,
        )

    def _grey(self, state: State, shape: tuple[int, ...]) -> list[Array]:
        """Latents of mid-grey after the first frame."""
        grey, latents = jnp.zeros(shape, jnp.float32), []
        for _ in range(self.reference_frames - 1):
            latent, state = _next(self.encoders.vae, grey, state)
            latents.append(latent)
        return latents


def _joined(latents: list[Array]) -> Float16[np.ndarray, "f h w c"]:
    return np.concatenate([np.asarray(latent[0], np.float16) for latent in latents])
