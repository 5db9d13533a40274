"""The JAX backend of the engine: one student and one VAE in place, their steps compiled once.

What a chunk needs is computed once and kept: the reference's condition and its cross-attention K/V,
the K/V of the first and the previous chunk, the decoder's history.  All of it is constant in size.
Where there are two devices the DiT has one and the VAE the other, and only latents cross over.  Several
devices may share the DiT's heads and hidden units, and others the rows of the VAE's pictures; a chunk is one
program on all of the DiT's, a latent one on all of the VAE's.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, UInt8

from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.audio.log_mel import LogMel
from tm_jax.config import from_json
from tm_jax.diffusion.conditions import face_mask, latents_as_image_tokens, reference_latents, with_mask
from tm_jax.diffusion.rollout import Reference, StreamState, generate_chunk, init_stream, make_reference
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.errors import InputError
from tm_jax.models.clip import CLIPVision, preprocess
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae import VAE, State
from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.weights import read_header
from tm_jax.sharding import (
    MeshConfig,
    array_sharding,
    check_mesh,
    make_mesh,
    replicated,
    shard,
    shardings_like,
)
from tm_jax.types import Conditioning, Latents

Place = jax.Device | tuple[jax.Device, ...] | None
"""One device, several that share a model, or wherever JAX puts it."""


@jax.jit
def encode_reference(
    vae: VAE,
    student: DiT,
    picture: Float[Array, "1 y x 3"],
    face: Float[Array, "1 h w"],
    text_tokens: Float[Array, "1 text text_width"] | None = None,
    picture_encoder: CLIPVision | None = None,
) -> Reference:
    """What a stream knows of its character.

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
    return make_reference(student, conditioning)


@functools.partial(jax.jit, static_argnames="config")
def begin(student: DiT, config: RolloutConfig, reference: Reference) -> StreamState:
    """The state before the first chunk."""
    return _in_place(init_stream(student, config, reference))


def _in_place(state: StreamState) -> StreamState:
    """The state with its keys and values split by heads where a mesh splits them, as every chunk finds it."""
    names = (None, "batch", None, "whole_heads")
    kept = [
        cache.replace(keys=shard(cache.keys, *names), values=shard(cache.values, *names))
        for cache in state.contexts
    ]
    return state.replace(contexts=tuple(kept))


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
    latents, state = generate_chunk(student, config, reference, state, noises, inputs)
    return shard(latents), _in_place(state)


@functools.partial(jax.jit, static_argnames="first", donate_argnames="state")
def decode(
    vae: VAE, latents: Latents, index: Int[Array | np.ndarray, ""], state: State | None, *, first: bool
) -> tuple[UInt8[Array, "t y x 3"], State]:
    """The frames of one latent of a chunk, one if it is a stream's first, and the decoder's next history."""
    latent = jax.lax.dynamic_slice_in_dim(latents, index, 1, axis=1)
    video, state = vae.decode_step(latent, state, first=first)
    frames = jnp.clip(jnp.round(video[0] * 127.5 + 127.5), 0, 255).astype(jnp.uint8)
    # Where a mesh splits the rows, XLA sends those that a convolution sees beyond a device's own.
    return shard(frames, None, "rows"), tuple(shard(kept, None, None, "rows") for kept in state)


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


def _on(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager:
    """Where several devices' programs are traced and run; every thread says it for itself."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


class JaxBackend:
    """One student and one VAE behind the interface of `streaming.backend.Backend`."""

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
        devices: tuple[Place, Place] | None = None,
    ):
        """Checks that the parts fit and puts them in place.

        Args:
          front_end: None is log-mel.
          picture_encoder: None makes the picture's own latent its image tokens.
          text_tokens: the prompt's embedding; None is a world without prompts.
          size: (height, width) of the video; None is 512×512, or without a picture encoder the square that
            the model's number of image tokens makes.
          devices: of the DiT and of the VAE; None leaves both where JAX puts them.  Several for the DiT share
            its heads and hidden units, several for the VAE the rows of its latents.

        Raises:
          InputError: the parts do not fit each other, or a model does not split over so many devices.
        """
        self.rollout, self.front_end = rollout, LogMel() if front_end is None else front_end
        self.size = fitting_size(student.config, vae.config, self.front_end, picture_encoder, size)
        self.has_picture_encoder = picture_encoder is not None
        self.audio_left, self.audio_lookahead = student.config.audio_left, student.config.audio_lookahead
        height, width = (edge // vae.config.spatial_stride for edge in self.size)
        self.latent_shape = (height, width, vae.config.z_dim)
        self.dit_device, self.vae_device = devices or (None, None)
        self._mesh = self._vae_mesh = None
        if isinstance(self.dit_device, tuple):
            self._mesh = make_mesh(MeshConfig(fsdp=1, tensor=len(self.dit_device)), list(self.dit_device))
            sizes = student.config.mesh_sizes(height, width)
            check_mesh(self._mesh, {name: sizes[name] for name in ("heads", "mlp")})
            self.dit_device = replicated(self._mesh)
        self._latents_place = self.vae_device
        if isinstance(self.vae_device, tuple):
            shares = MeshConfig(fsdp=1, context=len(self.vae_device))
            self._vae_mesh = make_mesh(shares, list(self.vae_device))
            check_mesh(self._vae_mesh, {"rows": height})
            self.vae_device = replicated(self._vae_mesh)
            shape = 1, rollout.chunk, *self.latent_shape
            self._latents_place = array_sharding(shape, (None, None, "rows"), self._vae_mesh)
        place = self.dit_device if self._mesh is None else shardings_like(student, self._mesh)
        self.student = jax.device_put(student, place)
        self.vae = jax.device_put(vae, self.vae_device)
        # On one device both stages use one copy of the weights.
        apart = self.dit_device is not self.vae_device
        self._encoder = jax.device_put(vae, self.dit_device) if apart else self.vae
        constants = {} if text_tokens is None else {"text_tokens": text_tokens[None]}
        constants |= {} if picture_encoder is None else {"picture_encoder": picture_encoder}
        self._constants = jax.device_put(constants, self.dit_device)

    def reference(
        self, picture: UInt8[np.ndarray, "y x 3"], face_box: tuple[int, int, int, int] | None
    ) -> Reference:
        """The picture's condition and tokens, and their cross-attention K/V."""
        grid = self.latent_shape[:2]
        if face_box is None:
            face = jnp.ones((1, *grid), jnp.float32)
        else:
            face = face_mask(jnp.asarray([face_box], jnp.int32), self.size, grid)
        pixels = picture[None].astype(np.float32) / 127.5 - 1.0
        place = functools.partial(jax.device_put, device=self.dit_device)
        with _on(self._mesh):
            return encode_reference(
                self._encoder, self.student, place(pixels), place(face), **self._constants
            )

    def begin(self, reference: Reference) -> StreamState:
        """No chunk denoised."""
        with _on(self._mesh):
            return begin(self.student, self.rollout, reference)

    def denoise(
        self,
        reference: Reference,
        state: StreamState,
        noises: Float32[np.ndarray, "steps 1 g h w c"],
        windows: Float32[np.ndarray, "1 g a d"],
        mode: Int32[np.ndarray, "1 g"],
    ) -> tuple[Latents, StreamState]:
        """One chunk, dispatched; the state is used up."""
        inputs = jax.device_put((noises, windows, mode), self.dit_device)
        with _on(self._mesh):
            return denoise(self.student, self.rollout, reference, state, *inputs)

    def wait(self, latents: Latents) -> None:
        """Return when they are computed."""
        jax.block_until_ready(latents)

    def decode(
        self, latents: Latents, state: State | None, *, first: bool
    ) -> Iterator[tuple[UInt8[np.ndarray, "t y x 3"], State]]:
        """Latent after latent; the next one is dispatched before the frames of one are handed out."""
        latents, frames = jax.device_put(latents, self._latents_place), None
        for index in range(latents.shape[1]):
            starts = first and index == 0
            with _on(self._vae_mesh):
                following, state = decode(self.vae, latents, np.int32(index), state, first=starts)
            if frames is not None:
                yield np.asarray(frames), state
            frames = following
        yield np.asarray(frames), state
