"""Wan's causal VAE in PyTorch, as a stream: latents → frames, and the reference picture → latents.

The twin of ``tm_jax.models.vae`` with its options (Wan2.1's form, Wan2.2's, the small refined one).  What a
stream carries is a list of tensors, the last inputs of every causal convolution in running order, written
over in place: nothing is allocated for it after the first pass.
"""

import torch
from torch import Tensor, nn

from tm_jax.models.vae_config import VAEConfig
from tm_jax.torch_runtime.vae_blocks import (
    CausalConv3d,
    Conv2d,
    Downsample,
    DownStage,
    History,
    MiddleBlock,
    ResidualBlock,
    RMSNorm,
    UpStage,
    normed,
)

State = list[Tensor]
"""What a stream carries; an empty list before its first part."""


class Encoder(nn.Module):
    """Patched video → moments of the latents."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = [config.base_dim * factor for factor in (1, *config.dim_mult)]
        last = len(config.dim_mult) - 1
        self.conv_in = CausalConv3d(3 * config.patch_size**2, widths[0])
        blocks: list[nn.Module] = []
        for i in range(last + 1):
            moves = {
                "spatial": i < last and config.halves[i],
                "temporal": i < last and config.temporal_downsample[i],
            }
            if config.residual:
                blocks.append(DownStage(widths[i], widths[i + 1], blocks=config.num_res_blocks, **moves))
                continue
            inside = [widths[i], *[widths[i + 1]] * config.num_res_blocks]
            blocks += map(ResidualBlock, inside[:-1], inside[1:])
            blocks += [Downsample(widths[i + 1], **moves)] if any(moves.values()) else []
        self.down_blocks = nn.ModuleList(blocks)
        self.mid_block = MiddleBlock(widths[-1])
        self.norm_out = None if config.linear_ends else RMSNorm(widths[-1])
        self.conv_out = CausalConv3d(widths[-1], 2 * config.z_dim)

    def forward(self, x: Tensor, history: History) -> Tensor:
        x = self.conv_in(history.extend(x, 2))
        for block in self.down_blocks:
            x = block(x, history)
        x = self.mid_block(x, history)
        return self.conv_out(history.extend(x if self.norm_out is None else normed(self.norm_out, x), 2))


class Decoder(nn.Module):
    """Latents → patched video."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        base = config.decoder_base_dim or config.base_dim
        factors = (config.decoder_dim_mult or config.dim_mult)[::-1]
        widths = [base * factor for factor in (factors[0], *factors)]
        last = len(factors) - 1
        # Wan2.1's upsampling has halved the width already when a later stage begins.
        enter = [width // 2 if i and not config.residual else width for i, width in enumerate(widths[:-1])]
        self.conv_in = CausalConv3d(config.z_dim, widths[0])
        self.mid_block = MiddleBlock(widths[0])
        self.up_blocks = nn.ModuleList(
            UpStage(
                enter[i],
                widths[i + 1],
                blocks=config.num_res_blocks + 1,
                spatial=i < last and config.halves[last - 1 - i],
                temporal=i < last and config.temporal_downsample[last - 1 - i],
                residual=config.residual,
            )
            for i in range(last + 1)
        )
        self.norm_out = None if config.linear_ends else RMSNorm(widths[-1])
        self.conv_out = CausalConv3d(widths[-1], 3 * config.patch_size**2)

    def forward(self, x: Tensor, history: History) -> Tensor:
        x = self.mid_block(self.conv_in(history.extend(x, 2)), history)
        for stage in self.up_blocks:
            x = stage(x, history)
        return self.conv_out(history.extend(x if self.norm_out is None else normed(self.norm_out, x), 2))


class RefinerBlock(nn.Module):
    """Two 2-D convolutions beside a shortcut."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.conv1 = RMSNorm(channels), Conv2d(channels, channels)
        self.norm2, self.conv2 = RMSNorm(channels), Conv2d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(normed(self.norm1, x))
        return x + self.conv2(normed(self.norm2, y))


class Refiner(nn.Module):
    """Frames → sharper frames, each by itself."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        colours, width = 3 * config.refine_patch**2, config.refine_dim
        self.conv_in, self.conv_out = Conv2d(colours, width), Conv2d(width, colours)
        self.blocks = nn.ModuleList(RefinerBlock(width) for _ in range(config.refine_blocks))
        self.norm_out = RMSNorm(width)
        self.patch = config.refine_patch

    def forward(self, video: Tensor, dtype: torch.dtype) -> Tensor:
        x = self.conv_in(patchify(video, self.patch).to(dtype))
        for block in self.blocks:
            x = block(x)
        return video + unpatchify(self.conv_out(normed(self.norm_out, x)).float(), self.patch)


class VAE(nn.Module):
    """The causal VAE; latents outside are normalised per channel, video is in [-1, 1]."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = Conv2d(2 * config.z_dim, 2 * config.z_dim, 1)
        self.post_quant_conv = Conv2d(config.z_dim, config.z_dim, 1)
        self.refiner = Refiner(config) if config.refine_blocks else None
        self.mean = nn.Buffer(torch.tensor(config.latents_mean), persistent=False)
        self.std = nn.Buffer(torch.tensor(config.latents_std), persistent=False)
        self.config = config

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the convolutions."""
        return self.decoder.conv_in.bias.dtype

    def half_precision(self) -> None:
        """Put the convolutions into bfloat16; norms compute in float32, latents' statistics stay so."""
        mean, std = self.mean, self.std
        self.to(torch.bfloat16)
        self.mean, self.std = mean, std
        self.pack()

    def pack(self) -> None:
        """Once the weights are there: put the kernels into the layout that the device likes best."""
        for module in self.modules():
            if isinstance(module, Conv2d | CausalConv3d):
                module.pack()

    def encode(self, frames: Tensor, state: State, *, first: bool) -> Tensor:
        """Latents [f h w c] of a stream's next frames [t y x 3]: 1 + 4k of them at its start, else 4k."""
        history = History(state, starts=first)
        x = self.encoder(patchify(frames, self.config.patch_size).to(self.dtype), history)
        mean = self.quant_conv(x).float()[..., : self.config.z_dim]
        return (mean - self.mean) / self.std

    def decode(self, latents: Tensor, state: State, *, first: bool) -> Tensor:
        """A stream's next frames, uint8 [t y x 3]: 4f of f latents, or 4f - 3 at its start."""
        return self.frames(self.cells(latents, state, first=first))

    def cells(self, latents: Tensor, state: State, *, first: bool) -> Tensor:
        """The part of ``decode`` that remembers: patches of pixels [t y/p x/p p·p·3]."""
        history = History(state, starts=first)
        x = self.post_quant_conv((latents * self.std + self.mean).to(self.dtype))
        return self.decoder(x, history)

    def frames(self, cells: Tensor) -> Tensor:
        """The part of ``decode`` that takes every frame by itself."""
        video = unpatchify(cells.float(), self.config.patch_size)
        if self.refiner is not None:
            video = self.refiner(video, self.dtype)
        return (video * 127.5 + 127.5).round_().clamp_(0, 255).to(torch.uint8)


def patchify(video: Tensor, side: int) -> Tensor:
    """Squares of pixels [t y x 3] as channels [t y/side x/side side·side·3], ordered row, column, colour.

    Wan2.2's order is colour, column, row; the weights that read or write patches are put into this one when
    they are loaded (``patch_order``), because whole runs of numbers move faster than single ones.
    """
    x = video.unflatten(2, (-1, side)).unflatten(1, (-1, side))
    return x.transpose(2, 3).flatten(3)


def unpatchify(x: Tensor, side: int) -> Tensor:
    """The inverse of ``patchify``."""
    return x.unflatten(3, (side, side, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def patch_order(side: int) -> Tensor:
    """Where a patch's channels lie in the stored order."""
    return torch.arange(3 * side * side).view(3, side, side).permute(2, 1, 0).flatten()


def reference_latents(vae: VAE, picture: Tensor, latent_frames: int, *, still: bool) -> Tensor:
    """Latents [f h w c] of the picture [y x 3] followed by mid-grey, or held still; one latent at a time."""
    rest = picture if still else torch.zeros_like(picture)
    rest = rest[None].expand(vae.config.temporal_stride, -1, -1, -1)
    state: State = []
    latents = [vae.encode(picture[None], state, first=True)]
    latents += [vae.encode(rest, state, first=False) for _ in range(latent_frames - 1)]
    return torch.cat(latents)
