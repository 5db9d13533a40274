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

from tm_jax.data.latent_clips import ClipConfig, EncodedVideo, clip_frames, stream_frames
from tm_jax.diffusion.conditions import latents_as_image_tokens, with_mask
from tm_jax.errors import InputError
from tm_jax.models.audio_adapter import audio_windows
from tm_jax.sharding import replicated
from tm_jax.training.clip_data import Videos
from tm_jax.training.ode_pairs import OdePairs, pair_noise


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
    """All videos on the devices, in the precision in which they are kept.

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
    names = ("latents", "reference", "audio_tokens", "mode", "face_mask")
    stacked = {name: np.stack([getattr(row, name) for row in rows]) for name in names}
    return _everywhere(DeviceVideos(**stacked, lids=np.stack([filled(row) for row in rows])))


def _everywhere(tree: Any) -> Any:
    """The arrays whole on every device of the current mesh."""
    mesh = jax.sharding.get_mesh()
    return jax.device_put(tree, None if mesh.empty else replicated(mesh))


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


class PairedPlaces(grain.transforms.RandomMap):
    """Adds the number of a cached pair, drawn as `PairedClips` does: {"clip": {…}, "pair": row}."""

    def __init__(self, config: ClipConfig, videos: Videos, pairs: OdePairs):
        self.pairs, self.places = pairs, ClipPlaces(config, videos)

    def random_map(self, element: int, rng: np.random.Generator) -> dict[str, Any]:
        """One place, and one pair that has nothing to do with it."""
        row = int(rng.integers(len(self.pairs.video)))
        return {"clip": self.places.random_map(element, rng), "pair": np.int32(row)}


@flax.struct.dataclass
class DevicePairs:
    """The teacher's samples with their noise and where their clips lie."""

    clean: Any
    noise: Any
    video: Any
    frames: Any


def put_pairs(pairs: OdePairs) -> DevicePairs:
    """All pairs on the devices."""
    rows = range(len(pairs.video))
    clean = np.stack([pairs.clean(row).astype(np.float16) for row in rows])
    noise = np.stack([pair_noise(pairs.seed, row, clean.shape[1:], pairs.rollout) for row in rows])
    return _everywhere(DevicePairs(clean, noise, pairs.video, pairs.frames))


class DeviceClips:
    """Videos on the devices, and the program that makes a batch of the numbers that come from the loader."""

    def __init__(
        self, config: ClipConfig, videos: Videos, pairs: OdePairs | None = None, long_chunks: int = 0
    ):
        """Puts all there.

        Args:
            pairs: with them, a batch is what `PairedClips` gives.
            long_chunks: chunks of a long stream.
        """
        self.config, self.store = config, put_videos(videos)
        self.long = stream_frames(self.store.mode.shape[1], config, long_chunks)
        self.pairs = None if pairs is None else put_pairs(pairs)
        self.places = PairedPlaces(config, videos, pairs) if pairs else ClipPlaces(config, videos)
        self.count = len(videos)
        self._cut = jax.jit(self._pair if pairs else self._clip)

    def dataset(self, seed: int) -> grain.MapDataset:
        """The places, in the order in which the host would cut the clips themselves."""
        return grain.MapDataset.range(self.count).seed(seed).random_map(self.places)

    def batch(self, places: dict) -> dict:
        """The batch of these places."""
        return self._cut(self.store, self.pairs, places)

    def _clip(self, store: DeviceVideos, pairs: None, places: dict) -> dict:
        return cut_clips(store, places["video"], places["frames"], self.config)

    def _pair(self, store: DeviceVideos, pairs: DevicePairs, places: dict) -> dict:
        row, video = places["pair"], places["clip"]["video"]
        stream = jnp.broadcast_to(jnp.asarray(self.long), (len(row), len(self.long)))
        conditioning = cut_conditioning(store, pairs.video[row], pairs.frames[row], self.config)
        clean = pairs.clean[row].astype(jnp.float32)
        return {
            "clip": cut_clips(store, video, places["clip"]["frames"], self.config),
            "pair": {"noise": pairs.noise[row], "clean": clean, "conditioning": conditioning},
            "stream": {"conditioning": cut_conditioning(store, video, stream, self.config)},
        }
