"""What the transformer is told about the reference picture and the place of audio.

Wan's image-to-video condition: the reference frame followed by mid-grey (zeros in [−1, 1]), through
the VAE, with a mask of four channels that is one where pixels are given.  A small model may be given the
picture itself, held still, in the place of grey (``DiTConfig.still_condition``).  It follows RoPE position
and not time, so a stream computes it once per reference for the trained range of frames.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tm_jax.models.vae import VAE
from tm_jax.types import Latents

Picture = Float[Array, "b y x 3"]


def reference_latents(
    vae: VAE, picture: Picture, latent_frames: int, *, still: bool, stepwise: bool = False
) -> Latents:
    """VAE latents of the reference frame followed by mid-grey, [b f h w c].

    Args:
        still: the reference frame held still follows, and not mid-grey.
        stepwise: encode one latent after the other, in the memory of one: the same but for rounding.
    """
    rest = picture[:, None] if still else jnp.zeros_like(picture)[:, None]
    stride = vae.config.temporal_stride
    if stepwise:
        rest = jnp.repeat(rest, stride, axis=1)
        first, state = vae.encode_step(picture[:, None], None, first=True)

        def step(state, _):
            latent, state = vae.encode_step(rest, state, first=False)
            return state, latent[:, 0]

        _, later = jax.lax.scan(step, state, length=latent_frames - 1)
        return jnp.concatenate([first, jnp.moveaxis(later, 0, 1)], axis=1)
    rest = jnp.repeat(rest, stride * (latent_frames - 1), axis=1)
    return vae.encode(jnp.concatenate([picture[:, None], rest], axis=1))


def with_mask(latents: Latents) -> Float[Array, "b f h w mask_and_c"]:
    """``[mask 4 | latent c]``: the mask is one on the first latent frame, which holds the given picture."""
    mask = jnp.zeros((*latents.shape[:-1], 4), latents.dtype).at[:, 0].set(1)
    return jnp.concatenate([mask, latents], axis=-1)


def latents_as_image_tokens(
    reference: Float[Array | np.ndarray, "b h w c"], patch: int = 1
) -> Float[Array | np.ndarray, "b image width"]:
    """The reference picture's own latent as image tokens, where a model has no CLIP.

    Args:
        patch: side of the square of latent cells that makes one token, of width c·patch².
    """
    batch, height, width, channels = reference.shape
    squares = reference.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch * patch * channels)


def face_mask(
    box: Int[Array, "b 4"], picture_size: tuple[int, int], grid: tuple[int, int]
) -> Float[Array, "b h w"]:
    """1 on every latent cell that a face box (y0, x0, y1, x1 in pixels) touches, 0 elsewhere."""

    def touches(low, high, size, cells):
        edges = jnp.linspace(0.0, size, cells + 1)
        return (edges[None, 1:] > low[:, None]) & (edges[None, :-1] < high[:, None])

    rows = touches(box[:, 0], box[:, 2], picture_size[0], grid[0])
    columns = touches(box[:, 1], box[:, 3], picture_size[1], grid[1])
    return (rows[:, :, None] & columns[:, None, :]).astype(jnp.float32)
