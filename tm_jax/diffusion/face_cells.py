"""Which latent cells of a face mask are mouth and eyes, and how much each cell weighs in a loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def _part(
    face_mask: Float[Array, "b h w"], rows: tuple[float, float], columns: tuple[float, float]
) -> Float[Array, "b h w"]:
    """1 in a part of the face mask, which is a box, given by shares of its height and width; 0 elsewhere."""

    def within(inside: Float[Array, "b n"], low: float, high: float) -> Float[Array, "b n"]:
        place = (jnp.cumsum(inside, axis=1) - 0.5) / jnp.maximum(inside.sum(1, keepdims=True), 1)
        return inside * (place > low) * (place < high)

    tall, wide = within(face_mask.max(axis=2), *rows), within(face_mask.max(axis=1), *columns)
    return tall[:, :, None] * wide[:, None, :]


def mouth_mask(face_mask: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """1 in the lower half and the middle three fifths of the face mask; 0 elsewhere."""
    return _part(face_mask, (0.5, 1.0), (0.2, 0.8))


def eye_mask(face_mask: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """1 in the second quarter from above and the middle seven tenths of the face mask; 0 elsewhere."""
    return _part(face_mask, (0.25, 0.5), (0.15, 0.85))


def cell_weight(
    face_mask: Float[Array, "b h w"], face: float, mouth: float | None = None
) -> Float[Array, "b 1 h w 1"]:
    """Weight of each latent cell: ``face`` inside the mask, ``mouth`` where the mouth is and 1 outside."""
    weight = 1 + (face - 1) * face_mask
    if mouth is not None:
        weight = weight + (mouth - face) * mouth_mask(face_mask)
    return weight[:, None, :, :, None]


def blink_weight(
    face_mask: Float[Array, "b h w"], lids: Float[Array, "b f"], face: float, blink: float
) -> Float[Array, "b f h w 1"]:
    """What is added to ``cell_weight`` in the cells of the eyes, the more the further they are shut."""
    return (blink - face) * (lids[:, :, None, None] * eye_mask(face_mask)[:, None])[..., None]
