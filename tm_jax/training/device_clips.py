"""Clips cut on the accelerator: the encoded videos are put there once, and a batch is but numbers of frames.

A small model's step takes less time than the host needs to cut a batch of clips and to send it.
"""

from typing import Any

import flax.struct
import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from tm_jax.data.latent_clips import ClipConfig, EncodedVideo, clip_frames
from tm_jax.diffusion.conditions import latents_as_image_tokens, with_mask
from tm_jax.errors import InputError
from tm_jax.models.audio_adapter import audio_windows
from tm_jax.training.clip_data import Videos


@flax.struct.dataclass
class DeviceVideos:
    """Encoded videos of equal length, stacked: members of `EncodedVideo` with a first axis for the video."""

    latents: Any
    reference: Any
    audio_tokens: Any
    mode: Any
    face_mask: Any
    lids: Any


def put_videos(videos: Videos) -> DeviceVideos:
    """All videos on the default device, in the precision in which they are kept.

    Raises:
        InputError: they differ in length, or have prompts or a picture encoder's tokens.
    """
    rows = [videos[index] for index in range(len(videos))]
    if len({row.latents.shape for row in rows}) > 1:
        raise InputError("Clips are cut on the device from videos of equal length: set on_device to False.")
    if any(row.text_tokens is not None or row.image_tokens is not None for row in rows):
        raise InputError("Clips with prompts are not cut on the device: set on_device to False.")
    length = len(rows[0].latents)
    filled = lambda row: np.zeros(length, np.float32) if row.lids is None else row.lids
    stack = lambda name: jnp.asarray(np.stack([getattr(row, name) for row in rows]))
    return DeviceVideos(
        **{name: stack(name) for name in ("latents", "reference", "audio_tokens", "mode", "face_mask")},
        lids=jnp.asarray(np.stack([filled(row) for row in rows])),
    )


def cut_conditioning(
    store: DeviceVideos, video: Int[Array, " b"], frames: Int[Array, "b f"], config: ClipConfig
) -> dict[str, Array]:
    """A batch of what `data.latent_clips.conditioning_arrays` gives."""
    reference = store.reference[video].astype(jnp.float32)
    batch, count = frames.shape
    windows = audio_windows(
        store.audio_tokens[video].astype(jnp.float32), frames, config.audio_left, config.audio_lookahead
    )
    return {
        "text_tokens": jnp.zeros((batch, config.text_length, config.text_width), jnp.float32),
        "image_tokens": latents_as_image_tokens(reference[:, 0], config.image_patch),
        "condition": with_mask(reference),
        "audio_tokens": windows,
        "audio_keep": jnp.ones((batch, count), jnp.float32),
        "face_mask": store.face_mask[video].astype(jnp.float32),
        "mode": jnp.take_along_axis(store.mode[video], frames, axis=1).astype(jnp.int32),
    }


def cut_clips(
    store: DeviceVideos, video: Int[Array, " b"], frames: Int[Array, "b f"], config: ClipConfig
) -> dict[str, Any]:
    """A batch of what `data.latent_clips.LatentClips` gives."""
    rows = jnp.arange(frames.shape[0])[:, None]
    return {
        "latents": store.latents[video][rows, frames].astype(jnp.float32),
        "lids": jnp.take_along_axis(store.lids[video], frames, axis=1).astype(jnp.float32),
        "conditioning": cut_conditioning(store, video, frames, config),
    }


class ClipPlaces(grain.transforms.RandomMap):
    """Where a clip is cut: {"video", "frames"}, drawn as `LatentClips` draws it."""

    def __init__(self, config: ClipConfig, videos: Videos):
        self.config, self.videos = config, videos

    def random_map(self, element: int, rng: np.random.Generator) -> dict[str, Any]:
        """One place in the video of this number."""
        video: EncodedVideo = self.videos[element]
        frames = clip_frames(len(video.latents), self.config, rng, video.lids)
        return {"video": np.int32(element), "frames": frames.astype(np.int32)}


def clip_places(config: ClipConfig, videos: Videos, seed: int) -> grain.MapDataset:
    """The data set of places, in the same order as that of the clips themselves."""
    source = grain.MapDataset.range(len(videos)).seed(seed)
    return source.random_map(ClipPlaces(config, videos))


def compiled_cut(config: ClipConfig) -> Any:
    """``cut_clips`` as a program: (store, {"video", "frames"}) → batch."""
    return jax.jit(lambda store, place: cut_clips(store, place["video"], place["frames"], config))
