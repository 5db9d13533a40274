"""The axis letters and the pytrees that every part of the package shares.

One legend for jaxtyping, einsum and einops:

    b batch            f latent frames      h w latent grid (height, width)
    t pixel frames     y x pixels           c latent channels
    l tokens           d model width        n heads          k head dim
    a audio tokens     s samples of sound

Arrays are channels-last.  Video is ``[b t y x 3]`` in [-1, 1]; latents are ``[b f h w c]``,
normalised per channel.  One latent frame is one pixel frame for f = 0 and four for every later f.
"""

import flax.struct
from jaxtyping import Array, Float, Int

Video = Float[Array, "b t y x 3"]
Latents = Float[Array, "b f h w c"]


@flax.struct.dataclass
class Conditioning:
    """What the transformer is told about a clip besides its noisy latents.

    Every per-frame member follows the clip's RoPE frames, so a chunk's conditioning is a slice over f.
    """

    text_tokens: Float[Array, "b text text_width"]
    """Text embeddings, zero-padded to the model's text length (the pads are attended: Wan's own habit)."""
    image_tokens: Float[Array, "b image image_width"]
    """Features of the reference picture: CLIP's penultimate layer, or in tiny models its latent."""
    condition: Float[Array, "b f h w mask_and_c"]
    """``[mask 4 | condition latent c]``, concatenated to the noisy latents along channels."""
    audio_tokens: Float[Array, "b f a audio_width"]
    """The window of audio tokens that each latent frame may query."""
    audio_keep: Float[Array, "b f"]
    """1 where the frame hears its audio, 0 where audio is dropped (guidance)."""
    face_mask: Float[Array, "b h w"]
    """1 where audio may move the picture, 0 elsewhere; on the latent grid."""
    mode: Int[Array, "b f"]
    """0 listening, 1 speaking."""

    def frames(self, start: int, stop: int) -> "Conditioning":
        """The conditioning of latent frames start … stop-1."""
        return self.replace(**{name: part[:, start:stop] for name, part in self.timed().items()})

    def timed(self) -> dict[str, Array]:
        """The members that follow the frames, each with its frames on the second axis."""
        names = ("condition", "audio_tokens", "audio_keep", "mode")
        return {name: getattr(self, name) for name in names}
