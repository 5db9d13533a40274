"""A cache of encoded puppet videos: rendered, encoded whole by the VAE once, kept in memory as float16.

Shards of a few videos each are written as safetensors, so that an interrupted run goes on where it
stopped and a longer one takes over what a shorter one has made; the folder's name carries a digest of all
that the latents depend on.  They hold the sound itself, so that any audio front end can listen to it.
"""

import concurrent.futures
import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Float
from tqdm import tqdm

from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.data.latent_clips import EncodedVideo
from tm_jax.data.puppets.world import Clip, PuppetWorld
from tm_jax.diffusion.conditions import face_mask, reference_latents
from tm_jax.media.pixels import to_signed
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae import VAE
from tm_jax.rates import LATENT_STRIDE

FIELDS = ("latents", "reference", "mode", "face_mask", "lids")
"""What a shard keeps of each EncodedVideo, beside its sound."""


@dataclasses.dataclass(frozen=True)
class EncodedConfig:
    """Which puppet videos are encoded."""

    split: str = "train"
    """train, heldout or language: which part of the world the videos come from."""
    count: int = 600
    """Videos."""
    seconds: float = 10.0
    """Length of each video; 1 + 4k frames are used."""
    seed: int = 0
    """Seed of the world."""
    size: int = 128
    """Height and width in pixels."""
    reference_frames: int = 21
    """Latent frames of the reference condition: the trained range."""
    still_condition: bool = False
    """What follows the picture in the condition, as ``DiTConfig.still_condition`` says."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the latents."""
        return (self.size // LATENT_STRIDE,) * 2


def check_condition(model: DiTConfig, videos: EncodedConfig) -> None:
    """The videos bring the condition that the model reads.

    Raises:
        ValueError: one has the picture held still, the other mid-grey.
    """
    if model.still_condition != videos.still_condition:
        raise ValueError(
            f"still_condition is {model.still_condition} in model and {videos.still_condition} in videos: "
            "give both the same"
        )


def latent_mode(mode: np.ndarray, stride: int) -> np.ndarray:
    """Speaking or listening per latent frame: what most of its video frames are."""
    later = mode[1:].reshape(-1, stride).mean(1) >= 0.5
    return np.concatenate([mode[:1], later.astype(mode.dtype)]).astype(np.int32)


def latent_lids(blink: Float[np.ndarray, " t"], stride: int) -> Float[np.ndarray, " f"]:
    """How far the eyes are shut at most in each latent frame."""
    return np.concatenate([blink[:1], blink[1:].reshape(-1, stride).max(1)]).astype(np.float32)


class VideoEncoder:
    """Encodes whole clips with one VAE and one audio front end; compiled once per clip length."""

    def __init__(self, vae: VAE, front_end: AudioFrontEnd, reference_frames: int, *, still: bool):
        self.vae, self.front_end = vae, front_end
        self._encode = jax.jit(lambda vae, video: vae.encode(video))
        self._reference = jax.jit(
            lambda vae, picture: reference_latents(vae, picture, reference_frames, still=still)
        )

    def __call__(self, clip: Clip) -> EncodedVideo:
        """The encoded clip; latents as float16."""
        frames = to_signed(clip.frames)[None]
        size, stride = clip.frames.shape[1:3], self.vae.config.spatial_stride
        grid = (size[0] // stride, size[1] // stride)
        return EncodedVideo(
            latents=np.asarray(self._encode(self.vae, frames)[0], np.float16),
            reference=np.asarray(self._reference(self.vae, frames[:, 0])[0], np.float16),
            audio_tokens=self.front_end.tokens(clip.audio).astype(np.float16),
            mode=latent_mode(clip.mode, self.vae.config.temporal_stride),
            face_mask=np.asarray(face_mask(jnp.asarray([clip.face_box]), size, grid)[0]),
            lids=latent_lids(clip.meta["blink"], self.vae.config.temporal_stride),
        )


def digest(weights: Any, *choices: Any) -> str:
    """A short digest of weights and of the dataclasses or values that go with them."""
    state = hashlib.sha256(repr(choices).encode())
    for leaf in jax.tree.leaves(weights):
        state.update(np.ascontiguousarray(leaf).tobytes())
    return state.hexdigest()[:12]


def videos_digest(vae: VAE, config: EncodedConfig) -> str:
    """What the latents depend on: the encoding half of the VAE and which videos, but not how many.

    A moment of the first video stands for how the world draws, moves and speaks.

    A decoder that is trained further, or gets a refiner, finds the latents of before.
    """
    encoding = dataclasses.replace(
        vae.config,
        decoder_base_dim=None,
        decoder_dim_mult=None,
        refine_blocks=0,
        refine_dim=0,
        refine_patch=1,
    )
    moment = PuppetWorld(seed=config.seed, split=config.split, size=config.size).clip(0, 1.0)
    sample = moment.frames[-1], moment.audio
    which = dataclasses.replace(config, count=0)
    return digest((vae.encoder, vae.quant, *sample), encoding, which, FIELDS, "audio")


def _write(path: Path, videos: list[EncodedVideo], sounds: list[np.ndarray]) -> None:
    stacked = {name: np.stack([getattr(video, name) for video in videos]) for name in FIELDS}
    stacked["audio"] = np.stack([np.rint(sound * 32767).astype(np.int16) for sound in sounds])
    partial = path.with_suffix(".partial")
    safetensors.numpy.save_file(stacked, partial)
    os.replace(partial, path)


def _read(path: Path, front_end: AudioFrontEnd) -> list[EncodedVideo]:
    stacked = safetensors.numpy.load_file(path)
    return [
        EncodedVideo(
            **{name: stacked[name][index] for name in FIELDS},
            audio_tokens=front_end.tokens(sound.astype(np.float32) / 32767).astype(np.float16),
        )
        for index, sound in enumerate(stacked["audio"])
    ]


def encoded_videos(
    vae: VAE, front_end: AudioFrontEnd, config: EncodedConfig, folder: Path, *, per_shard: int = 20
) -> list[EncodedVideo]:
    """All videos of a config, from the cache in ``folder`` or made now with a progress bar."""
    folder = folder / f"{config.split}-{videos_digest(vae, config)}"
    folder.mkdir(parents=True, exist_ok=True)
    world = PuppetWorld(seed=config.seed, split=config.split, size=config.size)
    encoder = VideoEncoder(vae, front_end, config.reference_frames, still=config.still_condition)
    videos: list[EncodedVideo] = []
    with (
        tqdm(total=config.count, desc=f"encoding {config.split} videos", unit="video") as bar,
        concurrent.futures.ThreadPoolExecutor(1) as ahead,
    ):
        for start in range(0, config.count, per_shard):
            indices = range(start, min(start + per_shard, config.count))
            path = folder / f"{start:06d}+{len(indices)}.safetensors"
            if not path.exists():
                pending = ahead.submit(world.clip, indices[0], config.seconds)
                made, sounds = [], []
                for index in indices:
                    clip = pending.result()
                    if index + 1 < indices.stop:
                        pending = ahead.submit(world.clip, index + 1, config.seconds)
                    made.append(encoder(clip))
                    sounds.append(clip.audio)
                _write(path, made, sounds)
            videos += _read(path, front_end)
            bar.update(len(indices))
    return videos
