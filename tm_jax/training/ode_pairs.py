"""Pairs of noise and the teacher's sample from it: what the student's first step regresses to.

A clip's conditioning is recut from its video, and its noise redrawn from its seed, so a pair stores
only the frames' indices and the sample.
"""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from jaxtyping import Float, Int
from tqdm import tqdm

from tm_jax.data.latent_clips import ClipConfig, EncodedVideo, clip_frames, conditioning_arrays
from tm_jax.diffusion.noise import stream_noise
from tm_jax.diffusion.sampler import SamplerConfig, sample
from tm_jax.models.dit import DiT
from tm_jax.nn.masks import Bidirectional
from tm_jax.types import Conditioning


@dataclasses.dataclass(frozen=True)
class PairsConfig:
    """How many pairs the teacher makes, and how."""

    count: int = 512
    """Pairs."""
    batch: int = 8
    """Clips sampled at once."""
    sampler: SamplerConfig = SamplerConfig()
    seed: int = 0
    """Seed of the noise and of the choice of clips."""


@dataclasses.dataclass(frozen=True)
class OdePairs:
    """Cached pairs: clip i is ``frames[i]`` of video ``video[i]``, sampled from noise ``noise(i)``."""

    video: Int[np.ndarray, " n"]
    frames: Int[np.ndarray, "n f"]
    clean: Float[np.ndarray, "n f h w c"]
    seed: int

    def noise(self, index: int) -> Float[np.ndarray, "f h w c"]:
        """The noise that pair ``index`` was sampled from."""
        return stream_noise(self.seed, index, 0, self.clean.shape[1:])

    def element(self, index: int, videos: list[EncodedVideo], clip: ClipConfig) -> dict:
        """{"noise", "clean", "conditioning"} of one pair."""
        conditioning = conditioning_arrays(videos[self.video[index]], self.frames[index], clip)
        return {
            "noise": self.noise(index),
            "clean": self.clean[index].astype(np.float32),
            "conditioning": conditioning,
        }


def batch_conditioning(arrays: list[dict[str, np.ndarray]]) -> Conditioning:
    """Several clips' conditioning arrays as one Conditioning."""
    return Conditioning(**jax.tree.map(lambda *parts: np.stack(parts), *arrays))


def make_pairs(
    teacher: DiT, videos: list[EncodedVideo], clip: ClipConfig, config: PairsConfig, folder: Path
) -> OdePairs:
    """All pairs of a config, from the cache in ``folder`` or sampled now with a progress bar.

    The folder must belong to this teacher and these videos.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = jax.jit(
        lambda model, conditioning, noise: sample(
            model, conditioning, noise, config.sampler, pattern=Bidirectional()
        )
    )
    rng = np.random.default_rng(config.seed)
    choice = rng.integers(0, len(videos), config.count)
    frames = np.stack([clip_frames(len(videos[video].latents), clip, rng) for video in choice])
    shape = (clip.frames, *videos[0].latents.shape[1:])
    parts = []
    with tqdm(total=config.count, desc="sampling the teacher's pairs", unit="clip") as bar:
        for start in range(0, config.count, config.batch):
            path = folder / f"{start:06d}.safetensors"
            rows = range(start, min(start + config.batch, config.count))
            if not path.exists():
                padded = [min(row, rows[-1]) for row in range(start, start + config.batch)]
                arrays = [conditioning_arrays(videos[choice[row]], frames[row], clip) for row in padded]
                noise = np.stack([stream_noise(config.seed, row, 0, shape) for row in padded])
                clean = run(teacher, batch_conditioning(arrays), noise)
                partial = path.with_suffix(".partial")
                kept = np.asarray(clean[: len(rows)], np.float16)
                safetensors.numpy.save_file({"clean": kept}, partial)
                os.replace(partial, path)
            parts.append(safetensors.numpy.load_file(path)["clean"])
            bar.update(len(rows))
    return OdePairs(choice, frames, np.concatenate(parts), config.seed)
