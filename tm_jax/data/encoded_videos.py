"""A cache of encoded puppet videos: rendered, encoded whole by the VAE once, kept in memory as float16.

Shards of a few videos each are written as safetensors, so that an interrupted run goes on where it
stopped and a longer one takes over what a shorter one has made; the folder's name carries a digest of all
that the latents depend on.  They hold the sound itself, so that any audio front end can listen to it.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.experimental import multihost_utils
from jaxtyping import Float
from tqdm import tqdm

from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.data.latent_clips import EncodedVideo
from tm_jax.data.puppets.ahead import drawn_ahead
from tm_jax.data.puppets.variety import PLAIN, Variety
from tm_jax.data.puppets.world import Clip, PuppetWorld, frame_count
from tm_jax.diffusion.conditions import face_mask, reference_latents
from tm_jax.media.pixels import to_signed
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae import VAE
from tm_jax.rates import LATENT_STRIDE

MAKING = ("count", "workers", "batch")
"""Fields of a config that say how many videos are made and how, and not what is in one."""
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
    variety: Variety = PLAIN
    """Framing and photograph-like faces."""
    workers: int = 0
    """Processes that speak and draw, for an accelerator's sake; 0 is a thread."""
    batch: int = 1
    """Videos that are encoded at once."""

    def __post_init__(self):
        if self.count < 1 or self.workers < 0 or self.batch < 1:
            raise ValueError("videos: count and batch must be at least 1, workers at least 0")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the latents."""
        return (self.size // LATENT_STRIDE,) * 2

    @property
    def latent_frames(self) -> int:
        """Latent frames of each video."""
        return 1 + (frame_count(self.seconds) - 1) // 4

    @property
    def world(self) -> PuppetWorld:
        """The world that the videos are of."""
        return PuppetWorld(seed=self.seed, split=self.split, size=self.size, variety=self.variety)


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
    """Encodes whole clips with one VAE and one audio front end; compiled once per length and number."""

    def __init__(self, vae: VAE, front_end: AudioFrontEnd, reference_frames: int, *, still: bool):
        self.vae, self.front_end = vae, front_end
        self._encode = jax.jit(lambda vae, video: vae.encode(video))
        self._reference = jax.jit(
            lambda vae, picture: reference_latents(vae, picture, reference_frames, still=still)
        )

    def __call__(self, clip: Clip) -> EncodedVideo:
        """The encoded clip; latents as float16."""
        return self.encode([clip])[0]

    def encode(self, clips: Sequence[Clip], batch: int = 1) -> list[EncodedVideo]:
        """Clips of equal length, ``batch`` at a time."""
        videos = []
        for start in range(0, len(clips), batch):
            part = clips[start : start + batch]
            # A short last batch repeats its last clip, so that nothing is compiled again.
            padded = [*part, *[part[-1]] * (batch - len(part))]
            frames = np.stack([to_signed(clip.frames) for clip in padded])
            latents = np.asarray(self._encode(self.vae, frames), np.float16)
            references = np.asarray(self._reference(self.vae, frames[:, 0]), np.float16)
            videos += [self._video(*each) for each in zip(part, latents, references, strict=False)]
        return videos

    def _video(self, clip: Clip, latents: np.ndarray, reference: np.ndarray) -> EncodedVideo:
        size, stride = clip.frames.shape[1:3], self.vae.config.spatial_stride
        grid = (size[0] // stride, size[1] // stride)
        return EncodedVideo(
            latents=latents,
            reference=reference,
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
    moment = config.world.clip(0, 1.0)
    sample = [moment.frames[-1], moment.audio]
    which = {name: value for name, value in dataclasses.asdict(config).items() if name not in MAKING}
    if config.variety == PLAIN:
        # Videos that were encoded before there was any variety are found again.
        del which["variety"]
    elif config.variety.photographs:
        # The first video may be of a drawn style.
        all_photographs = dataclasses.replace(config.variety, photographs=1.0)
        sample.append(dataclasses.replace(config, variety=all_photographs).world.portrait(0))
    return digest((vae.encoder, vae.quant, *sample), encoding, which, FIELDS, "audio")


def _write(path: Path, videos: list[EncodedVideo], sounds: list[np.ndarray]) -> None:
    stacked = {name: np.stack([getattr(video, name) for video in videos]) for name in FIELDS}
    stacked["audio"] = np.stack([np.rint(sound * 32767).astype(np.int16) for sound in sounds])
    partial = path.with_suffix(f".{os.getpid()}.partial")
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
    """All videos of a config, from the cache in ``folder`` or made now with a progress bar.

    Several processes share out what is to be made; one that does not see the others' folder makes it all.
    """
    folder = folder / f"{config.split}-{videos_digest(vae, config)}"
    folder.mkdir(parents=True, exist_ok=True)
    world = config.world
    encoder = VideoEncoder(vae, front_end, config.reference_frames, still=config.still_condition)
    shards = [
        range(start, min(start + per_shard, config.count)) for start in range(0, config.count, per_shard)
    ]
    path_of = lambda shard: folder / f"{shard.start:06d}+{len(shard)}.safetensors"
    videos: list[EncodedVideo] = []

    def make(wanted: list[range]) -> None:
        numbers = [index for shard in wanted for index in shard]
        with contextlib.closing(drawn_ahead(world, numbers, config.seconds, workers=config.workers)) as clips:
            for shard in wanted:
                taken = list(itertools.islice(clips, len(shard)))
                _write(path_of(shard), encoder.encode(taken, config.batch), [clip.audio for clip in taken])

    missing = [shard for shard in shards if not path_of(shard).exists()]
    part, parts = jax.process_index(), jax.process_count()
    bar = tqdm(total=config.count, desc=f"encoding {config.split} videos", unit="video", disable=part > 0)
    with bar:
        if parts > 1:
            make(missing[part::parts])
            multihost_utils.sync_global_devices(f"encoded {folder.name}")
        make([shard for shard in missing if not path_of(shard).exists()])
        for shard in shards:
            videos += _read(path_of(shard), front_end)
            bar.update(len(shard))
    return videos
