"""The engine: a picture and a stream of sound in, a stream of video chunks out (paper: serving; METHOD §7).

Two stages run at the same time, each in a thread and, where there are two, on a device of its own:

    sound ─► DiT stage    │ chunk 0 │ chunk 1 │ chunk 2 │ …      rollout.generate_chunk
    latents ─► VAE stage            │ chunk 0 │ chunk 1 │ …      streaming decode
    caller                                    ▲ chunk 0          as soon as it is decoded

What a chunk needs is computed once and kept: the reference's condition and its cross-attention K/V,
the K/V of the first and the previous chunk, the decoder's history.  All of it is constant in size.
"""

import functools
import math
import os
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from tm_jax.audio.chunking import ChunkAudio, LiveAudio, Mode
from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.audio.listening import Stretch
from tm_jax.audio.log_mel import LogMel
from tm_jax.config import from_json
from tm_jax.diffusion.conditions import face_mask, latents_as_image_tokens, reference_latents, with_mask
from tm_jax.diffusion.noise import stream_noise
from tm_jax.diffusion.rollout import Reference, StreamState, generate_chunk, init_stream, make_reference
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.errors import InputError
from tm_jax.models.clip import CLIPVision, preprocess
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.front_ends import own_front_end
from tm_jax.pretrained.weights import load_model, read_header
from tm_jax.rates import SAMPLE_RATE
from tm_jax.streaming.stages import in_thread
from tm_jax.streaming.statistics import ChunkTiming, StreamChunk
from tm_jax.types import Conditioning


@functools.partial(jax.jit, static_argnames="config")
def encode_reference(
    vae: VAE,
    student: DiT,
    config: RolloutConfig,
    picture: Float[Array, "1 y x 3"],
    face: Float[Array, "1 h w"],
    text_tokens: Float[Array, "1 text text_width"] | None = None,
    picture_encoder: CLIPVision | None = None,
) -> tuple[Reference, StreamState]:
    """What a stream knows of its character, and the state of a stream about to begin.

    Args:
      text_tokens: None is zeros, for a world without prompts.
      picture_encoder: None makes the reference picture's latent its image tokens.
    """
    model, frames = student.config, student.config.trained_frames
    # The clip of a full-size reference would not fit beside its student.
    latents = reference_latents(
        vae, picture, frames, still=model.still_condition, stepwise=picture_encoder is not None
    )
    if text_tokens is None:
        text_tokens = jnp.zeros((1, model.text_length, model.text_width), jnp.float32)
    if picture_encoder is None:
        image_tokens = latents_as_image_tokens(latents[:, 0], model.image_patch)
    else:
        image_tokens = picture_encoder(preprocess(picture, picture_encoder.config.image_size))
    conditioning = Conditioning(
        text_tokens=text_tokens,
        image_tokens=image_tokens,
        condition=with_mask(latents),
        audio_tokens=jnp.zeros((1, frames, model.audio_slots, model.audio_width), jnp.float32),
        audio_keep=jnp.ones((1, frames), jnp.float32),
        face_mask=face,
        mode=jnp.zeros((1, frames), jnp.int32),
    )
    reference = make_reference(student, conditioning)
    return reference, init_stream(student, config, reference)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="state")
def denoise(
    student: DiT,
    config: RolloutConfig,
    reference: Reference,
    state: StreamState,
    noises: Float[Array, "steps 1 g h w c"],
    audio_tokens: Float[Array, "1 g a d"],
    mode: Array,
) -> tuple[Array, StreamState]:
    """One chunk of latents from its noise, its audio and its mode; the state is used up."""
    whole = reference.conditioning.frames(0, config.chunk)
    inputs = whole.replace(audio_tokens=audio_tokens, mode=mode)
    return generate_chunk(student, config, reference, state, noises, inputs)


@functools.partial(jax.jit, static_argnames="first", donate_argnames="state")
def decode(vae: VAE, latents: Array, state: Any, *, first: bool) -> tuple[Array, Any]:
    """The chunk's frames as uint8 [t y x 3], and the decoder's next history."""
    video, state = vae.decode_chunk(latents, state, first=first)
    return jnp.clip(jnp.round(video[0] * 127.5 + 127.5), 0, 255).astype(jnp.uint8), state


def fitting_size(
    model: DiTConfig,
    vae: VAEConfig,
    front_end: AudioFrontEnd,
    picture_encoder: CLIPVision | None,
    size: tuple[int, int] | None,
) -> tuple[int, int]:
    """The (height, width) of the video; raises InputError where the parts do not fit each other."""
    stride, z_dim, patch = vae.spatial_stride, vae.z_dim, model.image_patch or 1
    width = z_dim * patch**2 if picture_encoder is None else picture_encoder.config.width
    if (model.in_channels, model.out_channels) != (2 * z_dim + 4, z_dim) or model.image_width != width:
        giver = "VAE gives" if picture_encoder is None else f"picture encoder gives width {width}, the VAE"
        raise InputError(
            f"The student was made for latents of {model.out_channels} channels and image tokens of "
            f"width {model.image_width}, the {giver} {z_dim}: give the VAE that it was trained with."
        )
    if not model.has_audio or model.audio_width != front_end.token_width:
        raise InputError(
            f"The student hears audio tokens of width {model.audio_width if model.has_audio else 0}, "
            f"the front end gives {front_end.token_width}: give the front end that it was trained with."
        )
    if picture_encoder is not None:
        size, tokens = size or (512, 512), picture_encoder.config.tokens
        steps = [stride * edge for edge in model.patch[1:]]
        if tokens != model.image_length or any(edge % step for edge, step in zip(size, steps, strict=True)):
            raise InputError(
                f"A video of {size[1]}×{size[0]} with {tokens} image tokens does not fit the student, which "
                f"knows {model.image_length} and draws cells of {steps[1]}×{steps[0]} pixels: change --size."
            )
        return size
    side = math.isqrt(model.image_length) * patch * stride
    size = (side, side) if size is None else size
    cells = math.prod(edge // stride for edge in size)
    if cells != model.image_length * patch**2 or any(edge % (stride * patch) for edge in size):
        raise InputError(
            f"A video of {size[1]}×{size[0]} does not give the {model.image_length} image "
            f"tokens of {stride}×{stride} pixels that the student knows: choose another size."
        )
    return size


def read_rollout(student: Path) -> RolloutConfig:
    """The rollout that a student's weights file was distilled for.

    Raises:
      InputError: the file is missing or damaged, or doesn't say it.
    """
    meta = read_header(student).meta
    if "rollout" not in meta:
        raise InputError(
            f"{student} does not say with which steps and chunks it was distilled: "
            "give the weights that python train.py with a student preset wrote."
        )
    return from_json(RolloutConfig, meta["rollout"])


class Engine:
    """Makes streams of video from pictures and sound with one student and one VAE."""

    def __init__(
        self,
        vae: VAE,
        student: DiT,
        *,
        rollout: RolloutConfig = RolloutConfig(),
        front_end: AudioFrontEnd | None = None,
        picture_encoder: CLIPVision | None = None,
        text_tokens: Float[np.ndarray, "text text_width"] | None = None,
        size: tuple[int, int] | None = None,
        devices: tuple[jax.Device, jax.Device] | None = None,
    ):
        """Checks that the parts fit and puts them in place.

        Args:
          front_end: None is log-mel.
          picture_encoder: None makes the picture's own latent its image tokens.
          text_tokens: the prompt's embedding; None is a world without prompts.
          size: (height, width) of the video; None is 512×512, or without a picture encoder the square that
            the model's number of image tokens makes.
          devices: of the DiT and of the VAE; None leaves both where JAX puts them.

        Raises:
          InputError: the parts do not fit each other.
        """
        self.rollout, self.front_end = rollout, LogMel() if front_end is None else front_end
        self.size = fitting_size(student.config, vae.config, self.front_end, picture_encoder, size)
        self.grid = tuple(edge // vae.config.spatial_stride for edge in self.size)
        self.dit_device, self.vae_device = devices or (None, None)
        self.student = jax.device_put(student, self.dit_device)
        self.vae = jax.device_put(vae, self.vae_device)
        # Without a second device both stages use one copy of the weights.
        self._encoder = self.vae if devices is None else jax.device_put(vae, self.dit_device)
        constants = {} if text_tokens is None else {"text_tokens": text_tokens[None]}
        constants |= {} if picture_encoder is None else {"picture_encoder": picture_encoder}
        self._constants = jax.device_put(constants, self.dit_device)

    @classmethod
    def load(cls, folder: str | os.PathLike, **options: Any) -> "Engine":
        """The engine of a folder that holds vae.safetensors, student.safetensors and visemes.safetensors.

        The student's file says with which chunk size, steps and schedule it was distilled; one that hears
        log-mel needs no visemes.

        Raises:
          InputError: a file is missing or damaged, or the two do not fit.
        """
        vae_path, student_path = Path(folder) / "vae.safetensors", Path(folder) / "student.safetensors"
        viseme_path = Path(folder) / "visemes.safetensors"
        vae, student = load_model(vae_path, VAE, VAEConfig), load_model(student_path, DiT, DiTConfig)
        rollout = read_rollout(student_path)
        options.setdefault("front_end", own_front_end(student.config.audio_width, viseme_path))
        return cls(vae, student, rollout=rollout, **options)

    @property
    def has_picture_encoder(self) -> bool:
        """Whether the student sees through a picture encoder, as those born from Wan do."""
        return "picture_encoder" in self._constants

    def warm_up(self) -> None:
        """Compile everything that a stream runs, so that the first one starts at once."""
        grey = np.full((*self.size, 3), 128, np.uint8)
        for _ in self.stream(grey, [np.zeros(2 * SAMPLE_RATE, np.float32)]):
            pass

    def reference(
        self, picture: UInt8[np.ndarray, "y x 3"], face_box: tuple[int, int, int, int] | None = None
    ) -> tuple[Reference, StreamState]:
        """What a stream needs of a picture of the model's size; may be kept and used for many streams.

        Args:
          face_box: (y0, x0, y1, x1) in pixels, outside which sound moves nothing; None is everywhere.
        """
        if picture.shape != (*self.size, 3):
            raise ValueError(f"the picture has shape {picture.shape}, the model needs {(*self.size, 3)}")
        if face_box is None:
            face = jnp.ones((1, *self.grid), jnp.float32)
        else:
            face = face_mask(jnp.asarray([face_box], jnp.int32), self.size, self.grid)
        pixels = picture[None].astype(np.float32) / 127.5 - 1.0
        place = functools.partial(jax.device_put, device=self.dit_device)
        return encode_reference(
            self._encoder, self.student, self.rollout, place(pixels), place(face), **self._constants
        )

    def stream(
        self,
        picture: UInt8[np.ndarray, "y x 3"] | tuple[Reference, StreamState],
        audio: Iterable[np.ndarray],
        *,
        seed: int = 0,
        mode: Mode = "auto",
        listen: tuple[Stretch, ...] = (),
        face_box: tuple[int, int, int, int] | None = None,
    ) -> Generator[StreamChunk]:
        """Video for as long as there is sound, chunk by chunk.

        Args:
          picture: of the model's size, or what ``reference`` made of one.
          audio: blocks of 16 kHz mono sound; read in a thread, only as far as is needed.
          seed: of the noise; the same seed, picture and sound give the same video.
          mode: auto follows voice activity; speak and listen hold one mode.
          listen: stretches in seconds in which the character listens.
          face_box: of a picture, as ``reference`` takes it.

        Raises whatever the sound raises, after the chunks before it.  Closing the generator stops the stages.
        """
        started = time.perf_counter()
        reference = self.reference(picture, face_box) if isinstance(picture, np.ndarray) else picture
        config = self.student.config
        live = LiveAudio(
            self.front_end, self.rollout.chunk, config.audio_left, config.audio_lookahead, mode, listen
        )
        stop = threading.Event()
        denoised = in_thread(self._denoised(reference, live.chunks(audio), seed), stop)
        decoded = in_thread(self._decoded(denoised, started), stop)
        try:
            yield from decoded
        finally:
            stop.set()
            decoded.close()

    def _denoised(
        self, start: tuple[Reference, StreamState], chunks: Iterator[ChunkAudio], seed: int
    ) -> Iterator[tuple[ChunkAudio, Array, float, float]]:
        """The DiT stage: latents of chunk after chunk, when its sound was there, and how long it took."""
        reference, state = start
        state = jax.tree.map(jnp.copy, state)  # the caller may begin another stream with his
        config, rollout = self.student.config, self.rollout
        shape = (1, rollout.chunk, *self.grid, config.out_channels)
        for chunk in chunks:
            ready = time.perf_counter()
            noises = np.stack([stream_noise(seed, chunk.index, step, shape) for step in range(rollout.steps)])
            inputs = jax.device_put((noises, chunk.windows[None], chunk.mode[None]), self.dit_device)
            latents, state = denoise(self.student, rollout, reference, state, *inputs)
            latents.block_until_ready()
            yield chunk, latents, ready, time.perf_counter() - ready

    def _decoded(
        self, denoised: Iterator[tuple[ChunkAudio, Array, float, float]], started: float
    ) -> Iterator[StreamChunk]:
        """The VAE stage: frames of chunk after chunk with their sound."""
        state = None
        for chunk, latents, ready, dit_seconds in denoised:
            begun = time.perf_counter()
            latents = jax.device_put(latents, self.vae_device)
            pixels, state = decode(self.vae, latents, state, first=chunk.index == 0)
            frames = np.asarray(pixels)[: chunk.frames]
            now = time.perf_counter()
            timing = ChunkTiming(dit_seconds, now - begun, now - ready, now - started)
            yield StreamChunk(chunk.index, frames, chunk.samples, chunk.mode, timing)
