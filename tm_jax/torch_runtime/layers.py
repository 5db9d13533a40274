"""Layers of the transformer in PyTorch: matrices in any precision, norms, rotary positions, attention.

The same arithmetic as the JAX model's: products in the compute dtype, norms, softmax, modulation and
rotation in float32.  One stream at a time, so no tensor has a batch axis: tokens are [l d].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tm_jax.torch_runtime import fp8


class Linear(nn.Module):
    """A matrix [out in] and its bias in the compute dtype; or the matrix in FP8 with a scale per output."""

    def __init__(self, inputs: int, outputs: int, *, dtype: torch.dtype, bias: bool = True):
        super().__init__()
        self.dtype = dtype
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=dtype), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype), requires_grad=False) if bias else None
        self.scale: nn.Parameter | None = None
        self._packed: Tensor | None = None

    def pack(self) -> None:
        """Put a float32 matrix on a CPU into oneDNN's own layout, once and for all.

        PyTorch gives float32 products on a CPU to MKL, which on AMD's cores runs at half of oneDNN's rate.
        """
        if self.weight.is_cpu and self.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            self._packed = self.weight.data.to_mkldnn()
            self.weight = None

    def quantise(self, weight: Tensor, scale: Tensor) -> None:
        """Replace the matrix by one in FP8: weight [out in] float8, scale [out] float32."""
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale[None].contiguous(), requires_grad=False)

    def gelu(self, x: Tensor) -> Tensor:
        """The layer followed by GELU in its tanh approximation."""
        if self._packed is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "gelu", [], "tanh")
        return gelu_tanh(self(x))

    def forward(self, x: Tensor) -> Tensor:
        if self._packed is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        if self.scale is None:
            return F.linear(x, self.weight, self.bias)
        return fp8.linear(x, self.weight, self.scale, self.bias)


class MLP(nn.Module):
    """Two matrices with an activation between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, activation, *, dtype: torch.dtype):
        super().__init__()
        self.inner = Linear(inputs, hidden, dtype=dtype)
        self.outer = Linear(hidden, outputs, dtype=dtype)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.activation(self.inner(x)))


class Scale(nn.Module):
    """The scale of a norm, and its shift where it has one; float32."""

    def __init__(self, width: int, *, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(width), requires_grad=False) if bias else None


def layer_norm(x: Tensor, eps: float, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Layer norm over the last axis; float32."""
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis; float32."""
    return F.rms_norm(x.float(), x.shape[-1:], weight, eps)


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU."""
    return F.gelu(x, approximate="tanh")


def halves(head_dim: int) -> Tensor:
    """The order of a head's channels in which pair i is (i, i + k/2) and not (2i, 2i + 1).

    Queries and keys are put in this order when the weights are loaded, because whole halves turn faster
    than interleaved pairs; their products do not notice.
    """
    return torch.cat([torch.arange(0, head_dim, 2), torch.arange(1, head_dim, 2)])


def rope_table(frames: list[int], rows: int, columns: int, head_dim: int, theta: float) -> Tensor:
    """Cosines and sines of every token of some frames, [2 l 1 k], float32; angles are taken in float64.

    Rows and columns turn k // 6 pairs each, frames the rest, as Wan splits them.  Both halves of a head have
    the same angles; sines of the first half are negative, as ``rotate`` wants them.
    """
    space = head_dim // 6
    pairs = head_dim // 2 - 2 * space

    def angles(places: Tensor, pairs: int) -> Tensor:
        return places.double()[:, None] * theta ** (-torch.arange(pairs).double() / max(pairs, 1))

    shape = (len(frames), rows, columns, -1)
    time = angles(torch.tensor(frames), pairs)[:, None, None].expand(shape)
    row = angles(torch.arange(rows), space)[None, :, None].expand(shape)
    column = angles(torch.arange(columns), space)[None, None].expand(shape)
    turned = torch.cat([time, row, column], -1).reshape(-1, 1, head_dim // 2)
    cos, sin = turned.cos(), turned.sin()
    return torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)]).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """x [l n k] in the order of ``halves``, each pair turned by its angle; float32."""
    x = x.float()
    low, high = x.chunk(2, -1)
    return torch.addcmul(x * table[0], torch.cat([high, low], -1), table[1])


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention, [… l n k] for queries [… l n k] and keys [… m n k], by cuDNN's kernel on a GPU.

    cuDNN's runs at nearly twice the rate of PyTorch's own choice there; it is called by its name, so that
    no compiler chooses another.
    """
    batched = query.ndim == 4
    q, k, v = (x.transpose(-2, -3) if batched else x.transpose(0, 1)[None] for x in (query, key, value))
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        read = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, False)[0]
    else:
        read = F.scaled_dot_product_attention(q, k, v)
    return read.transpose(-2, -3) if batched else read[0].transpose(0, 1)
