"""A linear start for a VAE: principal components at step 0.

A VAE of random weights spends its first thousand steps on what linear algebra knows already.  Here the
first convolution projects each patch onto its principal components, each temporal stage keeps the mean
of two frames and, for the strongest components, their difference, and the latents are the principal
components of what is left; the decoder inverts it.  It takes a VAE with a linear path (``residual``,
``linear_ends``) whose stages halve only time, but for the first, which may halve the picture instead:
its convolution then projects 2×2 places onto their principal components, and the decoder deals channels
out to 2×2 places through its shortcut.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tm_jax.models.vae import VAE, patchify
from tm_jax.models.vae_blocks import History, average_down
from tm_jax.types import Video

_LEVEL = 0.3
"""RMS of the channels after the first convolution; every temporal stage grows them."""
_MIXING = 0.75
"""Weight of the difference of two frames; the mean has 1.5, which is what a stream's first frame gets."""


def components(
    rows: Float[np.ndarray, "n d"], count: int, *, about_mean: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and the ``count`` leading principal directions [d count], about the mean or about zero."""
    mean = rows.mean(0) if about_mean else np.zeros_like(rows[0])
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


def _double(layer, stage: int, basis: Float[np.ndarray, "used width"]) -> None:
    """A temporal step of the decoder that, with its shortcut, gives twice what ``_halve`` was given.

    Args:
        basis: the decoder's channels that each of the encoder's channels is written in.
    """
    used, width = basis.shape
    same, (strong, room) = np.arange(used), _difference_slots(stage, used)
    kernel = np.zeros(layer.kernel.shape, np.float32)
    for frame, sign in ((0, -1), (1, 1)):
        change = np.zeros((used, used), np.float32)
        change[same, same] = 1.0
        change[room, room] = -1.0
        change[room, strong] = sign * 1.5 / _MIXING
        kernel[2, 0, 0, :, frame * width : (frame + 1) * width] = np.linalg.pinv(basis) @ change @ basis
    layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.zeros(2 * width)


def _gather(stage, features: Float[np.ndarray, "b t y x c"]) -> Float[np.ndarray, "c 2 2 o"]:
    """Set the stage that halves the picture to the principal components of its 2×2 places; returns them."""
    batch, frames, height, width, channels = features.shape
    outputs = stage.outputs
    blocks = features.reshape(batch, frames, height // 2, 2, width // 2, 2, channels)
    blocks = blocks.transpose(0, 1, 2, 4, 6, 3, 5).reshape(-1, 4 * channels)
    # About zero, the mean over all places: the four places' own means lie in the span, because the
    # decoder's biases know no place and could not bring them back.
    _, basis = components(blocks, outputs, about_mean=False)
    for resnet in stage.resnets:
        _widen(resnet)
    unit = np.eye(4 * channels, dtype=np.float32).reshape(-1, 1, channels, 2, 2).transpose(0, 1, 3, 4, 2)
    shortcut = average_down(jnp.asarray(unit), outputs, temporal=False, spatial=True, starts=True)
    rest = (basis - np.asarray(shortcut).reshape(4 * channels, outputs)).reshape(channels, 2, 2, outputs)
    layer = stage.resample.conv
    kernel = np.zeros(layer.kernel.shape, np.float32)
    kernel[:2, :2, :channels] = rest.transpose(1, 2, 0, 3)
    layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.zeros(outputs)
    return basis.reshape(channels, 2, 2, outputs)


def _widen(resnet) -> None:
    """A residual block's shortcut as the identity on the channels that both of its sides have."""
    if resnet.shortcut is not None:
        _set_linear(
            resnet.shortcut, np.eye(*resnet.shortcut.kernel.shape[-2:], dtype=np.float32), np.zeros(0)
        )


def _scatter(stage, basis: Float[np.ndarray, "c 2 2 o"]) -> Float[np.ndarray, "o w"]:
    """Set the stage that doubles the picture to its shortcut alone; returns the basis in its channels."""
    layer = stage.resample.conv
    layer.kernel[...], layer.bias[...] = jnp.zeros_like(layer.kernel[...]), jnp.zeros_like(layer.bias[...])
    dealt = basis[: stage.outputs].reshape(-1, basis.shape[-1])
    return np.ascontiguousarray(dealt.T)


def quiet(vae: VAE) -> VAE:
    """The VAE with silent branches, attention and refiner, and a posterior of standard deviation e⁻⁴."""
    z = vae.config.z_dim

    def one(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if any(part in name for part in ("conv2.", "attention.out.", "refiner.conv_out.")):
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
        ValueError: the VAE has no linear path from pixels to latents and back.
    """
    config = vae.config
    used, width = vae.encoder.stages[-1].outputs, vae.decoder.stages[0].outputs
    _check_path(vae, used, width)
    vae = quiet(vae)
    encoder, decoder = vae.encoder, vae.decoder
    flat = lambda x: np.asarray(x, np.float32).reshape(-1, x.shape[-1])
    patches = patchify(video, config.patch_size)
    mean, basis = components(flat(patches), config.base_dim)
    basis = basis * (_LEVEL / np.sqrt(np.square((flat(patches) - mean) @ basis).mean()))
    _set_linear(encoder.conv_in, basis, -mean @ basis)
    history = History(None)
    x = encoder.conv_in(history.extend(patches, 2))
    mixing = np.eye(used, width, dtype=np.float32)
    temporal = [stage for stage in encoder.stages[:-1] if stage.temporal]
    doubling = [stage for stage in decoder.stages[:-1] if stage.temporal]
    for stage in encoder.stages:
        if stage.spatial:
            mixing = _scatter(decoder.stages[-2], _gather(stage, np.asarray(x)))
        elif stage.temporal:
            _halve(stage.resample.time_conv, temporal.index(stage))
        x = stage(x, history)
    average, directions = components(flat(x[:, 1:]), config.z_dim)
    directions = directions / ((flat(x[:, 1:]) - average) @ directions).std()
    _set_linear(encoder.conv_out, directions, -average @ directions)

    means, _ = vae.encode_moments(video)
    matrix, bias = regression(flat(means), flat(x))
    _set_linear(decoder.conv_in, matrix @ mixing, bias @ mixing)
    for index, stage in enumerate(doubling):
        _double(stage.resample.time_conv, len(doubling) - 1 - index, mixing)
    for stage in decoder.stages:
        for resnet in stage.resnets:
            _widen(resnet)
    history = History(None)
    y = decoder.conv_in(history.extend(vae.post_quant(means), 2))
    for stage in decoder.stages:
        y = stage(y, history)
    _set_linear(decoder.conv_out, *regression(flat(y), flat(patches)))
    return vae


def _check_path(vae: VAE, used: int, width: int) -> None:
    """A sentence about the first thing that stands in a linear start's way."""
    config = vae.config
    spatial = [index for index, halves in enumerate(config.halves) if halves]
    if not (config.residual and config.linear_ends):
        raise ValueError("a linear start needs residual and linear_ends")
    if spatial not in ([], [0]) or (spatial and config.temporal_downsample[0]):
        raise ValueError(
            "a linear start needs stages that halve only time, the first may halve only the picture"
        )
    if any(stage.outputs != used for stage in vae.encoder.stages[len(spatial) :]) or width < used:
        raise ValueError("a linear start needs one width wherever time is halved, and no narrower a decoder")
    if spatial and width != 4 * vae.decoder.stages[-2].outputs:
        raise ValueError("a linear start needs a quarter of the decoder's width where the picture is doubled")
