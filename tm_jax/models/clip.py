"""CLIP's picture encoder: the reference picture → 257 tokens of width 1280 (METHOD §2).

The ViT-H/14 that Wan2.1 takes from open-clip's XLM-R model: a pre-norm transformer with exact GELU.
Wan reads the output of block 31 of 32, before the final norm, so the last block and that norm are
held (a checkpoint goes in and out whole) but never run.

Pictures are prepared as Wan's release does it: squeezed to a square by plain bicubic interpolation.
The diffusers pipeline crops the centre and antialiases instead; the two differ on any picture that
is not 224×224.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from tm_jax.errors import InputError
from tm_jax.nn.attention import attention
from tm_jax.nn.layers import LayerNorm, dense, gelu_exact

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Sizes of the picture encoder; the defaults are ViT-H/14's."""

    width: int = 1280
    """Width of the residual stream and of the output."""
    heads: int = 16
    """Attention heads; they divide the width."""
    ffn: int = 5120
    """Hidden units of the feed-forward layer."""
    layers: int = 32
    """Blocks that the model holds."""
    output_layer: int = 31
    """Blocks that are run: the output is that of this one."""
    image_size: int = 224
    """Height and width in pixels of the picture that the model reads."""
    patch: int = 14
    """Height and width of a patch in pixels; it divides the image size."""
    eps: float = 1e-5
    """Added to the variance in the norms."""
    dtype: str = "float32"
    """Compute dtype; parameters, norms and softmax stay float32."""

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"CLIPConfig.heads = {self.heads} does not divide width {self.width}")
        if self.image_size % self.patch:
            raise ValueError(f"CLIPConfig.patch = {self.patch} does not divide image_size {self.image_size}")
        if not 0 <= self.output_layer <= self.layers:
            raise ValueError(f"CLIPConfig.output_layer = {self.output_layer}: must be 0 to {self.layers}")

    @property
    def tokens(self) -> int:
        """Length of the output: the class token and one token for each patch."""
        return 1 + (self.image_size // self.patch) ** 2


def _bicubic(n_in: int, n_out: int) -> np.ndarray:
    """The [n_out, n_in] matrix of cubic interpolation (a = −0.75, no antialiasing, edges repeated)."""
    centre = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5
    first = np.floor(centre).astype(int) - 1
    matrix = np.zeros((n_out, n_in))
    a = -0.75
    for tap in range(4):
        t = np.abs(centre - (first + tap))
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = a * (((t - 5) * t + 8) * t - 4)
        np.add.at(matrix, (np.arange(n_out), np.clip(first + tap, 0, n_in - 1)), np.where(t <= 1, near, far))
    return matrix.astype(np.float32)


def preprocess(image: Float[Array | np.ndarray, "b y x 3"], size: int = 224) -> Float[Array, "b size size 3"]:
    """Pictures in [-1, 1] of any size → the encoder's pixels, normalised by CLIP's mean and deviation."""
    _, y, x, _ = image.shape
    if not y or not x:
        raise InputError(f"the reference picture is {y}×{x} pixels: give one that is not empty")
    resized = jnp.einsum("Yy,byxc,Xx->bYXc", _bicubic(y, size), image, _bicubic(x, size))
    mean, std = (jnp.asarray(v)[None, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    return (resized * 0.5 + 0.5 - mean) / std


class CLIPBlock(nnx.Module):
    """Self-attention, then a feed-forward layer, each behind its norm."""

    def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs):
        def linear(n_in, n_out, axes):
            return dense(n_in, n_out, axes, rngs=rngs, dtype=config.dtype)

        self.config = config
        self.attention_norm = LayerNorm(config.width, eps=config.eps)
        self.query = linear(config.width, config.width, ("embed", "heads"))
        self.key = linear(config.width, config.width, ("embed", "heads"))
        self.value = linear(config.width, config.width, ("embed", "heads"))
        self.out = linear(config.width, config.width, ("heads", "embed"))
        self.ffn_norm = LayerNorm(config.width, eps=config.eps)
        self.up = linear(config.width, config.ffn, ("embed", "mlp"))
        self.down = linear(config.ffn, config.width, ("mlp", "embed"))

    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """One block."""
        b, length, d = x.shape
        h = self.attention_norm(x).astype(self.config.dtype)
        q, k, v = (
            f(h).reshape(b, length, self.config.heads, d // self.config.heads)
            for f in (self.query, self.key, self.value)
        )
        x = x + self.out(attention(q, k, v).reshape(b, length, d))
        h = self.ffn_norm(x).astype(self.config.dtype)
        return x + self.down(gelu_exact(self.up(h)))


class CLIPVision(nnx.Module):
    """The picture encoder: normalised pixels → tokens."""

    def __init__(self, config: CLIPConfig = CLIPConfig(), *, rngs: nnx.Rngs):
        c = config
        normal = lambda *shape: nnx.initializers.normal(0.02)(rngs.params(), shape)
        self.config = config
        self.patch_kernel = nnx.Param(normal(c.patch, c.patch, 3, c.width), axes=(None, None, None, "embed"))
        self.class_token = nnx.Param(normal(c.width), axes=("embed",))
        self.positions = nnx.Param(normal(c.tokens, c.width), axes=(None, "embed"))
        self.input_norm = LayerNorm(c.width, eps=c.eps)
        keys = jax.random.split(rngs.params(), c.layers)
        self.blocks = jax.vmap(lambda key: CLIPBlock(c, rngs=nnx.Rngs(key)))(keys)
        self.output_norm = LayerNorm(c.width, eps=c.eps)

    def _embed(self, pixels: Float[Array, "b y x 3"]) -> Float[Array, "b l d"]:
        c = self.config
        b, y, x, _ = pixels.shape
        if (y, x) != (c.image_size, c.image_size):
            raise InputError(
                f"the picture is {y}×{x}, the encoder reads {c.image_size}×{c.image_size}: preprocess it"
            )
        side = c.image_size // c.patch
        patches = pixels.astype(c.dtype).reshape(b, side, c.patch, side, c.patch, 3)
        tokens = jnp.einsum("bhywxc,yxcd->bhwd", patches, self.patch_kernel[...].astype(c.dtype))
        first = jnp.broadcast_to(self.class_token[...].astype(c.dtype), (b, 1, c.width))
        tokens = jnp.concatenate([first, tokens.reshape(b, side * side, c.width)], axis=1)
        return self.input_norm(tokens + self.positions[...].astype(c.dtype)[None]).astype(c.dtype)

    def _run(self, pixels, layers: int, keep: bool):
        x = self._embed(pixels)

        def step(x, layer):
            # Indexing inside the scan, because slicing the stack outside it would copy 31 of 32 blocks.
            pick = lambda leaf: jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False)
            y = jax.tree.map(pick, self.blocks)(x)
            return y, (y if keep else None)

        last, outputs = jax.lax.scan(step, x, jnp.arange(layers))
        return x, outputs, last

    def __call__(self, pixels: Float[Array, "b y x 3"]) -> Float[Array, "b l d"]:
        """Tokens after ``output_layer`` blocks, class token first, not normed.

        Pixels come from ``preprocess``.  Raises InputError for another size than the model's.
        """
        return self._run(pixels, self.config.output_layer, keep=False)[2]

    def hidden_states(self, pixels: Float[Array, "b y x 3"]) -> Float[Array, "states b l d"]:
        """The normed embeddings and the output of every block that the model holds, stacked."""
        first, outputs, _ = self._run(pixels, self.config.layers, keep=True)
        return jnp.concatenate([first[None], outputs])
