"""What is evaluated: functions from held-out clips to frames.

A generator sees a clip's first frame, sound and mode; only ``Reconstruction``, the VAE's ceiling, sees the
rest.  The teacher knows a few chunks, so a longer clip is sampled in windows [C₀ | later chunks], which it
was trained on as gapped clips; where two windows meet, head and background may jump, so no measure of
motion reaches across its ``seams``.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.data.encoded_videos import VideoEncoder
from tm_jax.data.latent_clips import ClipConfig, EncodedVideo, clip_config, conditioning_arrays
from tm_jax.data.puppets.world import Clip
from tm_jax.diffusion.noise import chunk_noises, stream_noise
from tm_jax.diffusion.rollout import generate_chunk, init_stream, make_reference
from tm_jax.diffusion.sampler import SamplerConfig, sample
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.media.pixels import to_pixels
from tm_jax.models.dit import DiT
from tm_jax.models.vae import VAE
from tm_jax.nn.masks import Bidirectional
from tm_jax.types import Conditioning

Frames = UInt8[np.ndarray, "b t y x 3"]
CHUNKS_PER_CLIP = 6
"""Clips are 1 + 6k chunks long, which windows of the teacher of 2, 3 or 6 later chunks fill."""


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A batch of held-out clips of equal length, with their latents and conditions."""

    clips: Sequence[Clip]
    encoded: Sequence[EncodedVideo]
    seeds: Sequence[int]
    """Seed of the noise of each clip."""

    @property
    def frames(self) -> Frames:
        """The true frames."""
        return np.stack([clip.frames for clip in self.clips])

    @property
    def latent_frames(self) -> int:
        """Length in latents."""
        return len(self.encoded[0].latents)


@runtime_checkable
class Generator(Protocol):
    """Anything that makes videos for held-out clips, as long as the true ones."""

    def __call__(self, held_out: HeldOut) -> Frames:
        """One video for each clip."""
        ...


def clip_frames(seconds: float, chunk: int = 3) -> int:
    """The least number of pixel frames ≥ seconds that the teacher's windows and whole chunks both fill."""
    chunks = 1
    while 4 * chunk * chunks - 3 < seconds * 25:
        chunks += CHUNKS_PER_CLIP
    return 4 * chunk * chunks - 3


def with_shuffled_sound(held_out: HeldOut) -> HeldOut:
    """The same characters, each hearing its neighbour's sound and mode."""
    others = [*held_out.encoded[1:], held_out.encoded[0]]
    mixed = [
        dataclasses.replace(own, audio_tokens=other.audio_tokens, mode=other.mode)
        for own, other in zip(held_out.encoded, others, strict=True)
    ]
    return dataclasses.replace(held_out, encoded=mixed)


class Encoder:
    """Makes HeldOut batches with one VAE and one audio front end."""

    def __init__(
        self, vae: VAE, front_end: AudioFrontEnd, reference_frames: int = 21, *, still: bool = False
    ):
        self.front_end = front_end
        self._encode = VideoEncoder(vae, front_end, reference_frames, still=still)

    def __call__(self, clips: Sequence[Clip], seeds: Sequence[int]) -> HeldOut:
        """Encode clips of 1 + 4k frames."""
        return HeldOut(clips, [self._encode(clip) for clip in clips], seeds)


class Truth:
    """The true frames themselves."""

    def __call__(self, held_out: HeldOut) -> Frames:
        """Unchanged."""
        return held_out.frames


def held_still(held_out: HeldOut) -> Frames:
    """The first frame of each clip, over and over: the control of all that moves."""
    return np.repeat(held_out.frames[:, :1], held_out.frames.shape[1], axis=1)


def latents_shuffled(held_out: HeldOut) -> Frames:
    """True frames, the fours of frames that a latent makes in a wrong order: the control of borders."""
    frames = held_out.frames
    fours = 1 + np.arange(frames.shape[1] - 1).reshape(-1, 4)
    order = np.concatenate([[0], *fours[np.random.default_rng(0).permutation(len(fours))]])
    return frames[:, order]


class Decoder:
    """Latents [b f h w c] to frames, chunk by chunk, so that memory does not grow with the length."""

    def __init__(self, vae: VAE, chunk: int = 3):
        self.vae, self.chunk = vae, chunk

    def stream(self, chunks: Iterator[np.ndarray]) -> Iterator[Frames]:
        """Frames of each chunk of latents as it comes."""
        state = None
        for latents in chunks:
            video, state = _decode(self.vae, latents, state, first=state is None)
            yield to_pixels(video)

    def __call__(self, latents: np.ndarray) -> Frames:
        """All frames of whole clips."""
        starts = range(0, latents.shape[1], self.chunk)
        cut = (np.asarray(latents[:, start : start + self.chunk], np.float32) for start in starts)
        return np.concatenate(list(self.stream(cut)), axis=1)


# Jitted once for the module and not in each object: the student and its baselines share one compilation.
@partial(jax.jit, static_argnames="first")
def _decode(vae, latents, state, *, first):
    return vae.decode_chunk(latents, state, first=first)


@partial(jax.jit, static_argnames="config")
def _begin(model, config, conditioning):
    reference = make_reference(model, conditioning)
    return reference, init_stream(model, config, reference)


_step = jax.jit(generate_chunk, static_argnums=1)


class Reconstruction:
    """The true clip through the VAE: the ceiling of all that is drawn in its latents."""

    def __init__(self, vae: VAE):
        self._decode = Decoder(vae)

    def __call__(self, held_out: HeldOut) -> Frames:
        """Decode the true latents."""
        return self._decode(np.stack([video.latents for video in held_out.encoded]))


def _conditioning(videos: Sequence[EncodedVideo], frames: np.ndarray, config: ClipConfig) -> Conditioning:
    """Conditions of these frames; the reference's are cut to as many, counted from its own beginning."""
    rows = [conditioning_arrays(video, frames, config) for video in videos]
    stacked = {name: jnp.asarray(np.stack([row[name] for row in rows])) for name in rows[0]}
    stacked["condition"] = stacked["condition"][:, : len(frames)]
    return Conditioning(**stacked)


def _noise(seeds: Sequence[int], chunk: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([stream_noise(seed, chunk, step, shape) for seed in seeds])


class TeacherSampler:
    """The bidirectional teacher, window by window.

    ``later`` is the number of chunks that a window has after C₀.
    """

    def __init__(self, teacher: DiT, vae: VAE, config: SamplerConfig, chunk: int = 3):
        self.teacher, self.chunk = teacher, chunk
        self.later = teacher.config.trained_frames // chunk - 1
        self.clip = clip_config(teacher.config, chunk)
        self._sample = jax.jit(partial(sample, config=config, pattern=Bidirectional()))
        self._decode = Decoder(vae, chunk)

    def seams(self, frames: int) -> list[int]:
        """The first frames of the later windows."""
        window = 4 * self.chunk * self.later
        return list(range(window + 4 * self.chunk - 3, frames, window))

    def __call__(self, held_out: HeldOut) -> Frames:
        """Sample every window from the same first chunk of noise, then decode the whole."""
        size, count = self.chunk, held_out.latent_frames // self.chunk
        parts = []
        for start in range(1, count, self.later):
            chunks = [0, *range(start, min(start + self.later, count))]
            frames = np.concatenate([np.arange(index * size, (index + 1) * size) for index in chunks])
            shape = (size, *held_out.encoded[0].latents.shape[1:])
            noise = np.concatenate([_noise(held_out.seeds, index, 0, shape) for index in chunks], axis=1)
            conditioning = _conditioning(held_out.encoded, frames, self.clip)
            latents = np.asarray(self._sample(self.teacher, conditioning, noise))
            parts.append(latents if not parts else latents[:, size:])
        return self._decode(np.concatenate(parts, axis=1))


class Streamer:
    """A causal model chunk by chunk, as it is served: the student, or a teacher that was never distilled."""

    def __init__(self, model: DiT, vae: VAE, config: RolloutConfig):
        self.model, self.config = model, config
        self.clip = clip_config(model.config, config.chunk)
        self._decode = Decoder(vae, config.chunk)

    def latents(
        self, videos: Sequence[EncodedVideo], seeds: Sequence[int], chunks: int
    ) -> Iterator[np.ndarray]:
        """Chunk after chunk of latents [b g h w c], in constant memory."""
        size = self.config.chunk
        shape = (size, *videos[0].reference.shape[1:])
        first = np.arange(size)
        trained = np.minimum(np.arange(self.model.config.trained_frames), len(videos[0].mode) - 1)
        conditioning = _conditioning(videos, trained, self.clip)
        reference, state = _begin(self.model, self.config, conditioning)
        for index in range(chunks):
            inputs = _conditioning(videos, first + index * size, self.clip)
            noises = np.stack([chunk_noises(seed, index, shape, self.config) for seed in seeds], axis=1)
            latents, state = _step(self.model, self.config, reference, state, noises, inputs)
            yield np.asarray(latents)

    def frames(self, videos: Sequence[EncodedVideo], seeds: Sequence[int], chunks: int) -> Iterator[Frames]:
        """The same, decoded."""
        return self._decode.stream(self.latents(videos, seeds, chunks))

    def __call__(self, held_out: HeldOut) -> Frames:
        """Whole clips."""
        chunks = held_out.latent_frames // self.config.chunk
        return np.concatenate(list(self.frames(held_out.encoded, held_out.seeds, chunks)), axis=1)
