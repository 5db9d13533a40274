"""A linear start for a VAE whose stages halve only the frame rate: principal components at step 0.

A VAE of random weights spends its first thousand steps on what linear algebra knows already.  Here the
first convolution projects each patch onto its principal components, each temporal stage keeps the mean
of two frames and, for the strongest components, their difference, and the latents are the principal
components of what is left; the decoder inverts it.  It takes a VAE with a linear path (``residual``,
``linear_ends``).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tm_jax.models.vae import VAE, patchify
from tm_jax.models.vae_blocks import History
from tm_jax.types import Video

_LEVEL = 0.3
"""RMS of the channels after the first convolution; every temporal stage grows them."""
_MIXING = 0.75
"""Weight of the difference of two frames; the mean has 1.5, which is what a stream's first frame gets."""


def components(rows: Float[np.ndarray, "n d"], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and the ``count`` leading principal directions [d count]."""
    mean = rows.mean(0)
    centred = (rows - mean).astype(np.float64)
    directions = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    return mean, directions[:, :count].astype(np.float32)


def regression(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n o"]) -> tuple[np.ndarray, np.ndarray]:
    """Matrix [d o] and bias [o] of the least-squares fit of y on x, lightly regularised."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = (x - mean_x).astype(np.float64)
    gram = centred.T @ centred
    gram += 1e-6 * np.trace(gram) / len(gram) * np.eye(len(gram))
    matrix = np.linalg.solve(gram, centred.T @ (y - mean_y)).astype(np.float32)
    return matrix, mean_y - mean_x @ matrix


def _set_linear(layer, matrix: np.ndarray, bias: np.ndarray) -> None:
    """A convolution that looks at its own place only: the last tap in time, the middle one in space."""
    kernel = np.zeros(layer.kernel.shape, np.float32)
    middle = tuple(size // 2 for size in kernel.shape[1:3])
    kernel[-1, middle[0], middle[1], : matrix.shape[0], : matrix.shape[1]] = matrix
    values = np.zeros(layer.bias.shape, np.float32)
    values[: len(bias)] = bias
    layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.asarray(values)


def _difference_slots(stage: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Channels whose difference is kept by a stage, and the channels that make room for it."""
    count = width // 4
    last = width - count * stage
    return np.arange(count), np.arange(last - count, last)


def _halve(layer, stage: int) -> None:
    """A temporal step of the encoder that, with its shortcut, gives 1.5·mean and differences."""
    width = layer.kernel.shape[-1]
    kernel = np.zeros(layer.kernel.shape, np.float32)
    same, (strong, room) = np.arange(width), _difference_slots(stage, width)
    for tap, sign in ((1, -1), (2, 1)):
        kernel[tap, 0, 0, same, same] = 0.25
        kernel[tap, 0, 0, room, room] = -0.5
        kernel[tap, 0, 0, strong, room] = sign * _MIXING
    layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.zeros(width)


def _double(layer, stage: int, used: int) -> None:
    """A temporal step of the decoder that, with its shortcut, gives twice what ``_halve`` was given."""
    width = layer.kernel.shape[-2]
    kernel = np.zeros(layer.kernel.shape, np.float32)
    same, (strong, room) = np.arange(width), _difference_slots(stage, used)
    for frame, sign in ((0, -1), (1, 1)):
        kernel[2, 0, 0, same, frame * width + same] = 1.0
        kernel[2, 0, 0, room, frame * width + room] = -1.0
        kernel[2, 0, 0, room, frame * width + strong] = sign * 1.5 / _MIXING
    layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.zeros(2 * width)


def quiet(vae: VAE) -> VAE:
    """The VAE with silent residual branches and attention, and a posterior of standard deviation e⁻⁴."""
    z = vae.config.z_dim

    def one(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if "conv2.kernel" in name or "attention.out.kernel" in name:
            return jnp.zeros_like(leaf)
        if name.startswith("quant.kernel"):
            return jnp.eye(2 * z).at[:, z:].set(0.0)
        if name.startswith("quant.bias"):
            return leaf.at[:z].set(0.0).at[z:].set(-8.0)
        if name.startswith("post_quant.kernel"):
            return jnp.eye(z)
        return jnp.zeros_like(leaf) if name.startswith("post_quant.bias") else leaf

    return jax.tree_util.tree_map_with_path(one, vae)


def linear_start(vae: VAE, video: Video) -> VAE:
    """The VAE as the best linear autoencoder of this shape, fitted to some clips of training data.

    Raises:
        ValueError: the VAE has stages that halve the picture, or widths that change, or a decoder
            narrower than its encoder.
    """
    config = vae.config
    narrow, wide = config.base_dim, config.decoder_base_dim or config.base_dim
    if any(config.halves) or set(config.dim_mult) != {1} or wide < narrow or not config.linear_ends:
        raise ValueError("a linear start needs linear_ends and stages of one width that halve only time")
    vae = quiet(vae)
    flat = lambda x: np.asarray(x, np.float32).reshape(-1, x.shape[-1])
    patches = patchify(video, config.patch_size)
    mean, basis = components(flat(patches), narrow)
    basis = basis * (_LEVEL / np.sqrt(np.square((flat(patches) - mean) @ basis).mean()))
    _set_linear(vae.encoder.conv_in, basis, -mean @ basis)
    for index, stage in enumerate(vae.encoder.stages[:-1]):
        _halve(stage.resample.time_conv, index)
    history = History(None)
    x = vae.encoder.conv_in(history.extend(patches, 2))
    for stage in vae.encoder.stages:
        x = stage(x, history)
    average, directions = components(flat(x[:, 1:]), config.z_dim)
    directions = directions / ((flat(x[:, 1:]) - average) @ directions).std()
    _set_linear(vae.encoder.conv_out, directions, -average @ directions)

    means, _ = vae.encode_moments(video)
    _set_linear(vae.decoder.conv_in, *regression(flat(means), flat(x)))
    steps = [stage.resample.time_conv for stage in vae.decoder.stages[:-1]]
    for index, layer in enumerate(steps):
        _double(layer, len(steps) - 1 - index, narrow)
    history = History(None)
    y = vae.decoder.conv_in(history.extend(vae.post_quant(means), 2))
    for stage in vae.decoder.stages:
        y = stage(y, history)
    _set_linear(vae.decoder.conv_out, *regression(flat(y), flat(patches)))
    return vae
