"""Convolutions for video, channels last: 2-D over each frame, and 3-D that is causal in time.

XLA's 3-D convolution on CPU runs 3–6 times slower than its 2-D one, so that the taps in time are
concatenated along channels and one 2-D convolution does the rest; accelerators take the same form.
The past is an argument: a causal convolution sees the frames that precede the clip at the front of its
input, zeros when there are none, so that a clip decoded in pieces equals the clip decoded whole.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def conv2d(
    x: Float[Array, "n y x i"],
    kernel: Float[Array, "p q i o"],
    *,
    stride: int = 1,
    padding: tuple[tuple[int, int], tuple[int, int]] | str = "SAME",
) -> Float[Array, "n yy xx o"]:
    """A 2-D convolution with PyTorch's meaning of kernel and padding."""
    if stride == 1 and padding == "SAME" and kernel.shape[:2] == (3, 3) and jax.default_backend() == "cpu":
        return _conv3x3(x, kernel)
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def _conv3x3(x, kernel):
    """A 3×3 convolution whose weight gradient is one matrix product.

    XLA's own weight gradient on CPU ran at 16–53 GFLOP/s on the tiny VAE's shapes, this one at 27–76.
    """
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _conv3x3_backward(saved, gradient):
    x, kernel = saved
    rows, columns = x.shape[1:3]
    padded = jnp.pad(gradient, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [(2 - i, 2 - j) for i in range(3) for j in range(3)]
    shifted = jnp.concatenate([padded[:, i : i + rows, j : j + columns] for i, j in taps], axis=-1)
    product = x.reshape(-1, x.shape[-1]).T @ shifted.reshape(-1, shifted.shape[-1])
    by_kernel = product.reshape(x.shape[-1], 3, 3, gradient.shape[-1]).transpose(1, 2, 0, 3)
    return _conv3x3(gradient, kernel[::-1, ::-1].swapaxes(2, 3)), by_kernel


_conv3x3.defvjp(lambda x, kernel: (_conv3x3(x, kernel), (x, kernel)), _conv3x3_backward)


def causal_conv3d(
    x: Float[Array, "b tt y x i"],
    kernel: Float[Array, "r p q i o"],
    bias: Float[Array, " o"],
    *,
    stride: int = 1,
) -> Float[Array, "b t y x o"]:
    """A 3-D convolution without padding in time and with equal padding in space.

    Args:
        x: the clip with the r-1 frames before it at the front.
        stride: step in time; output frame j sees input frames stride·j … stride·j + r-1.
    """
    batch, frames, *_ = x.shape
    taps = kernel.shape[0]
    count = (frames - taps) // stride + 1
    last = stride * (count - 1) + 1
    seen = [x[:, tap : tap + last : stride] for tap in range(taps)]
    stacked = seen[0] if taps == 1 else jnp.concatenate(seen, axis=-1)
    flat = stacked.reshape(batch * count, *stacked.shape[2:])
    merged = kernel.transpose(1, 2, 0, 3, 4).reshape(*kernel.shape[1:3], taps * kernel.shape[3], -1)
    y = conv2d(flat, merged) if merged.shape[:2] != (1, 1) else flat @ merged[0, 0]
    y = y + bias.astype(y.dtype)[None, None, None, :]
    return y.reshape(batch, count, *y.shape[1:])


class Conv2d(nnx.Module):
    """A 2-D convolution of every frame of a video."""

    def __init__(self, inputs: int, outputs: int, *, size: int = 3, stride: int = 1, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_initial(rngs.params(), (size, size, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.stride = stride

    def __call__(self, x: Float[Array, "b t y x i"]) -> Float[Array, "b t yy xx o"]:
        padding = ((0, 1), (0, 1)) if self.stride == 2 else "SAME"
        y = conv2d(
            x.reshape(-1, *x.shape[2:]), self.kernel[...].astype(x.dtype), stride=self.stride, padding=padding
        )
        y = y + self.bias[...].astype(y.dtype)[None, None, None, :]
        return y.reshape(*x.shape[:2], *y.shape[1:])


class CausalConv3d(nnx.Module):
    """A 3-D convolution whose input brings the frames before it along."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: tuple[int, int, int] = (3, 3, 3),
        stride: int = 1,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(_initial(rngs.params(), (*size, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.stride = stride

    def __call__(self, x: Float[Array, "b tt y x i"]) -> Float[Array, "b t y x o"]:
        return causal_conv3d(x, self.kernel[...].astype(x.dtype), self.bias[...], stride=self.stride)


def _initial(key: jax.Array, shape: tuple[int, ...]) -> Array:
    """Variance 1/(3·fan-in): PyTorch's default, which Wan's training started from."""
    return jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")(key, shape)
