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
    """A 2-D convolution with PyTorch's meaning of kernel and padding; reverse-mode differentiation only."""
    if stride == 1 and padding == "SAME" and kernel.shape[0] % 2 == kernel.shape[1] % 2 == 1:
        return _same_conv2d(x, kernel)
    return _plain_conv2d(x, kernel, stride, padding)


def _plain_conv2d(x: Array, kernel: Array, stride: int = 1, padding="SAME") -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=numbers)


@jax.custom_vjp
def _same_conv2d(x: Array, kernel: Array) -> Array:
    return _plain_conv2d(x, kernel)


def _same_conv2d_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _plain_conv2d(x, kernel), (x, kernel)


def _same_conv2d_backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, kernel = saved
    (x_slope,) = jax.vjp(lambda x: _plain_conv2d(x, kernel), x)[1](slope)
    # Only the branch of the platform that the program is compiled for is lowered.
    kernel_slope = jax.lax.platform_dependent(
        x,
        slope,
        kernel,
        cpu=_kernel_slope_by_products,
        default=lambda x, slope, kernel: jax.vjp(lambda k: _plain_conv2d(x, k), kernel)[1](slope)[0],
    )
    return x_slope, kernel_slope


def _kernel_slope_by_products(x: Array, slope: Array, kernel: Array) -> Array:
    """The weight gradient as one matrix product per tap: twice the rate of XLA's convolution on CPU.

    The input is transposed once, behind a barrier, or XLA would transpose it again for every tap; the
    shifts are taken of the slope, which has no taps in time and so is the smaller of the two.
    """
    high, wide, inputs, outputs = kernel.shape
    height, width = x.shape[1:3]
    rows = jax.lax.optimization_barrier(x.reshape(-1, inputs).T)
    margin = ((0, 0), (high // 2, high // 2), (wide // 2, wide // 2), (0, 0))
    padded = jnp.pad(slope, margin)
    taps = [
        rows @ padded[:, high - 1 - i :][:, :height, wide - 1 - j :][:, :, :width].reshape(-1, outputs)
        for i in range(high)
        for j in range(wide)
    ]
    return jnp.stack(taps).reshape(kernel.shape)


_same_conv2d.defvjp(_same_conv2d_forward, _same_conv2d_backward)


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
