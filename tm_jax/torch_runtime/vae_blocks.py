"""The parts of Wan's causal VAE in PyTorch: convolutions with a past, norm, residual block, resampling.

Tensors are [t y x c] in memory throughout, so that norms run over the last axis and convolutions see
channels-last views; there is no batch axis.  A causal convolution is a sum of 2-D ones, one for each of its
taps in time: the fastest form on a GPU (PyTorch's conv3d is slower in every layout) and on a CPU.  Modules
bear the names that diffusers' AutoencoderKLWan stores.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class History:
    """The past that one pass reads and the past that it leaves, in the order in which the network runs.

    The pasts live in ``state``, a list that the first pass of all fills and every later one writes over: a
    tensor of it never moves.
    """

    def __init__(self, state: list[Tensor], *, starts: bool):
        """A pass over the next part of a stream, or over its first, which reads zeros whatever it holds."""
        self.starts, self._state, self._at = starts, state, 0

    def extend(self, x: Tensor, frames: int) -> Tensor:
        """The clip with the ``frames`` frames before it at its front, zeros at a stream's start."""
        past = x.new_zeros(frames, *x.shape[1:]) if self.starts else self._state[self._at]
        longer = torch.cat([past, x])
        self.keep(longer, frames)
        return longer

    def keep(self, x: Tensor, frames: int) -> None:
        """Leave the last frames of x as this place's past."""
        last = x[x.shape[0] - frames :]
        if self._at == len(self._state):
            self._state.append(last.clone())
        else:
            self._state[self._at].copy_(last)
        self._at += 1


def kernel(outputs: int, inputs: int, height: int, width: int) -> nn.Parameter:
    """An empty kernel in the layout that convolutions of [t y x c] want."""
    weight = torch.empty(outputs, inputs, height, width).contiguous(memory_format=torch.channels_last)
    return nn.Parameter(weight, requires_grad=False)


def packed(weight: Tensor, stride: int, padding: int) -> Tensor:
    """A float32 kernel on a CPU in oneDNN's own layout, into which it is otherwise put at every call."""
    if not (weight.is_cpu and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()):
        return weight
    pair = lambda number: [number, number]
    return torch._C._nn.mkldnn_reorder_conv2d_weight(
        weight.data.to_mkldnn(), pair(padding), pair(stride), pair(1), 1
    )


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, onto: Tensor | None):
    """A 2-D convolution of [t c y x], added to ``onto`` where that is given."""
    if weight.is_mkldnn:
        shape = [padding, padding], [stride, stride], [1, 1], 1
        if onto is None:
            return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *shape, "none", [], "")
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            onto, x, weight, bias, *shape, "add", 1.0, None, [], None
        )
    y = F.conv2d(x, weight, bias, stride, padding)
    return y if onto is None else onto.add_(y)


class Conv2d(nn.Module):
    """A 2-D convolution of every frame; with stride 2 the padding is below and to the right."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1):
        super().__init__()
        self.kernels = nn.ParameterList([kernel(outputs, inputs, size, size)])
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False)
        self.stride, self.padding = stride, size // 2 if stride == 1 else 0
        self._packed = list(self.kernels)

    def pack(self) -> None:
        """Once the weights are there: put them into the layout that the device likes best."""
        self._packed = [packed(self.kernels[0], self.stride, self.padding)]

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        if self.stride == 2:
            x = F.pad(x, (0, 1, 0, 1))
        y = convolve(x, self._packed[0], self.bias, self.stride, self.padding, None)
        return y.permute(0, 2, 3, 1)


class CausalConv3d(nn.Module):
    """A 3-D convolution whose input brings the frames before it along; ``stride`` is in time."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int, int] = (3, 3, 3), stride: int = 1):
        super().__init__()
        taps, *space = size
        self.kernels = nn.ParameterList(kernel(outputs, inputs, *space) for _ in range(taps))
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False)
        self.stride, self.padding = stride, space[0] // 2
        self._packed = list(self.kernels)

    def pack(self) -> None:
        """Once the weights are there: put them into the layout that the device likes best."""
        self._packed = [packed(weight, 1, self.padding) for weight in self.kernels]

    def forward(self, x: Tensor) -> Tensor:
        """[t + taps - 1 y x i] → [t y x o], or every ``stride``-th of them."""
        count = (x.shape[0] - len(self._packed)) // self.stride + 1
        last, frames, y = self.stride * (count - 1) + 1, x.permute(0, 3, 1, 2), None
        for tap, weight in enumerate(self._packed):
            seen = frames[tap : tap + last : self.stride]
            y = convolve(seen, weight, None if tap else self.bias, 1, self.padding, y)
        return y.permute(0, 2, 3, 1)


class RMSNorm(nn.Module):
    """Scales every vector of channels to the length √channels, in float32; ``gamma`` includes it."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(channels), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).clamp_(min=1e-12)
        return (wide / length).mul_(self.gamma)


def normed(norm: RMSNorm, x: Tensor) -> Tensor:
    """Norm, then SiLU."""
    return F.silu(norm(x), inplace=True).to(x.dtype)


class ResidualBlock(nn.Module):
    """Two causal convolutions beside a shortcut, which is a matrix where the width changes."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1, self.conv1 = RMSNorm(inputs), CausalConv3d(inputs, outputs)
        self.norm2, self.conv2 = RMSNorm(outputs), CausalConv3d(outputs, outputs)
        self.conv_shortcut = None if inputs == outputs else CausalConv3d(inputs, outputs, (1, 1, 1))

    def forward(self, x: Tensor, history: History) -> Tensor:
        y = self.conv1(history.extend(normed(self.norm1, x), 2))
        y = self.conv2(history.extend(normed(self.norm2, y), 2))
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class FrameAttention(nn.Module):
    """Single-head self-attention among the places of one frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = RMSNorm(channels)
        self.to_qkv, self.proj = Conv2d(channels, 3 * channels, 1), Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.to_qkv(self.norm(x).to(x.dtype)).flatten(1, 2)[:, None].chunk(3, -1)
        mixed = F.scaled_dot_product_attention(query, key, value)[:, 0]
        return x + self.proj(mixed.view(x.shape))


class MiddleBlock(nn.Module):
    """Residual block, attention, residual block at the narrowest place."""

    def __init__(self, channels: int):
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(channels, channels) for _ in range(2))
        self.attentions = nn.ModuleList([FrameAttention(channels)])

    def forward(self, x: Tensor, history: History) -> Tensor:
        x = self.attentions[0](self.resnets[0](x, history))
        return self.resnets[1](x, history)


def _second(conv: Conv2d) -> nn.ModuleList:
    """The convolution as it is stored: behind the padding or the nearest neighbours that it follows."""
    return nn.ModuleList([nn.Identity(), conv])


class Downsample(nn.Module):
    """Halves the picture, the frame rate or both; a stream's first frame bypasses the latter."""

    def __init__(self, channels: int, *, spatial: bool, temporal: bool):
        super().__init__()
        self.resample = _second(Conv2d(channels, channels, stride=2)) if spatial else None
        self.time_conv = CausalConv3d(channels, channels, (3, 1, 1), stride=2) if temporal else None

    def forward(self, x: Tensor, history: History) -> Tensor:
        x = x if self.resample is None else self.resample[1](x)
        if self.time_conv is None:
            return x
        if not history.starts:
            return self.time_conv(history.extend(x, 1))
        history.keep(x, 1)
        return x if x.shape[0] == 1 else torch.cat([x[:1], self.time_conv(x)])


class Upsample(nn.Module):
    """Doubles the picture, the frame rate or both.

    The first frame of a stream bypasses the temporal convolution, which on the second frame starts from
    zeros and not from the first: Wan's decoder was trained so.
    """

    def __init__(self, channels: int, outputs: int, *, spatial: bool, temporal: bool):
        super().__init__()
        self.resample = _second(Conv2d(channels, outputs)) if spatial else None
        self.time_conv = CausalConv3d(channels, 2 * channels, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, history: History) -> Tensor:
        if self.time_conv is not None:
            bypassing, rest = (x[:1], x[1:]) if history.starts else (x[:0], x)
            longer = history.extend(rest, 2)
            x = torch.cat([bypassing, self._double(longer)]) if len(rest) else bypassing
        if self.resample is None:
            return x
        frames, height, width, channels = x.shape
        x = x[:, :, None, :, None].expand(frames, height, 2, width, 2, channels)
        return self.resample[1](x.reshape(frames, 2 * height, 2 * width, channels))

    def _double(self, longer: Tensor) -> Tensor:
        """Two frames from every frame but the two in front."""
        pairs = self.time_conv(longer).unflatten(-1, (2, -1))
        return pairs.permute(0, 3, 1, 2, 4).flatten(0, 1)


def average_down(x: Tensor, outputs: int, *, temporal: bool, spatial: bool, starts: bool) -> Tensor:
    """Wan2.2's parameter-free shortcut down: 2×2(×2) neighbours become channels, averaged in groups."""
    in_time, in_space = 1 + temporal, 1 + spatial
    if temporal and starts:
        x = torch.cat([torch.zeros_like(x[:1]), x])
    frames, height, width, channels = x.shape
    frames, height, width = frames // in_time, height // in_space, width // in_space
    x = x.reshape(frames, in_time, height, in_space, width, in_space, channels)
    x = x.permute(0, 2, 4, 6, 1, 3, 5)
    return x.reshape(frames, height, width, outputs, -1).mean(-1)


def duplicate_up(x: Tensor, outputs: int, *, temporal: bool, spatial: bool, starts: bool) -> Tensor:
    """Wan2.2's parameter-free shortcut up: channels are repeated, then dealt out to 2×2(×2) neighbours."""
    in_time, in_space = 1 + temporal, 1 + spatial
    frames, height, width, channels = x.shape
    x = x.repeat_interleave(outputs * in_time * in_space**2 // channels, -1)
    x = x.view(frames, height, width, outputs, in_time, in_space, in_space).permute(0, 4, 1, 5, 2, 6, 3)
    x = x.reshape(in_time * frames, in_space * height, in_space * width, outputs)
    return x[1:] if temporal and starts else x


class DownStage(nn.Module):
    """The residual blocks of one resolution of Wan2.2's encoder, and the step to the next."""

    def __init__(self, inputs: int, outputs: int, *, blocks: int, spatial: bool, temporal: bool):
        super().__init__()
        widths, moves = [inputs, *[outputs] * blocks], {"spatial": spatial, "temporal": temporal}
        self.resnets = nn.ModuleList(map(ResidualBlock, widths[:-1], widths[1:]))
        self.downsampler = Downsample(outputs, **moves) if spatial or temporal else None
        self.outputs, self.moves = outputs, moves

    def forward(self, x: Tensor, history: History) -> Tensor:
        y = x
        for resnet in self.resnets:
            y = resnet(y, history)
        if self.downsampler is not None:
            y = self.downsampler(y, history)
        return y + average_down(x, self.outputs, **self.moves, starts=history.starts)


class UpStage(nn.Module):
    """The residual blocks of one resolution of the decoder and the step to the next."""

    def __init__(
        self, inputs: int, outputs: int, *, blocks: int, spatial: bool, temporal: bool, residual: bool
    ):
        super().__init__()
        widths, moves = [inputs, *[outputs] * blocks], {"spatial": spatial, "temporal": temporal}
        self.resnets = nn.ModuleList(map(ResidualBlock, widths[:-1], widths[1:]))
        # Wan2.1 halves the width on the way up; Wan2.2 keeps it, for its shortcut to be added.
        if not (spatial or temporal):
            self.upsamplers = []
        elif residual:
            self.upsampler = Upsample(outputs, outputs, **moves)
            self.upsamplers = [self.upsampler]
        else:
            self.upsamplers = nn.ModuleList([Upsample(outputs, outputs // 2, **moves)])
        self.outputs, self.moves, self.residual = outputs, moves, residual

    def forward(self, x: Tensor, history: History) -> Tensor:
        y = x
        for resnet in self.resnets:
            y = resnet(y, history)
        for upsampler in self.upsamplers:
            y = upsampler(y, history)
        if not self.residual or not any(self.moves.values()):
            return y
        return y + duplicate_up(x, self.outputs, **self.moves, starts=history.starts)
