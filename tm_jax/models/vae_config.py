"""The sizes of the VAE, apart from it: whoever reads them needs no JAX."""

import dataclasses

# fmt: off
WAN_LATENTS_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)
WAN_LATENTS_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)
# fmt: on


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Sizes of the VAE; the defaults are Wan2.1's."""

    base_dim: int = 96
    """Channels of the encoder at full resolution."""
    decoder_base_dim: int | None = None
    """Channels of the decoder at full resolution; None for the encoder's."""
    z_dim: int = 16
    """Latent channels."""
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Width of every stage, in multiples of the base; each stage but the last halves something."""
    decoder_dim_mult: tuple[int, ...] | None = None
    """Widths of the decoder's stages, in multiples of its base and in the encoder's order; None for the
    encoder's multiples."""
    num_res_blocks: int = 2
    """Residual blocks of an encoder stage; a decoder stage has one more."""
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    """Which of the stages halve the frame rate."""
    spatial_downsample: tuple[bool, ...] | None = None
    """Which of the stages halve the picture; None for all of them, as in both of Wan's forms.  A stage
    that halves only the frame rate needs the linear shortcuts."""
    patch_size: int = 1
    """Side of the square of pixels that becomes channels before the first convolution."""
    residual: bool = False
    """Whether stages have Wan2.2's linear shortcuts."""
    linear_ends: bool = False
    """Whether the last convolution of either half reads the residual stream itself, without Wan's norm and
    SiLU before it: with ``residual`` a linear path leads from pixels to latents and back."""
    refine_blocks: int = 0
    """Residual blocks of the refiner, which sharpens the decoder's frames one by one; 0 for none, as in
    both of Wan's forms.  A large patch makes a cheap decoder, but one that draws every patch from a few
    numbers at once; the refiner sees small patches across the borders of large ones."""
    refine_dim: int = 24
    """Channels of the refiner."""
    refine_patch: int = 2
    """Side of the square of pixels that becomes the refiner's channels."""
    latents_mean: tuple[float, ...] = WAN_LATENTS_MEAN
    """Mean of every latent channel over the training data."""
    latents_std: tuple[float, ...] = WAN_LATENTS_STD
    """Standard deviation of every latent channel over the training data."""
    dtype: str = "float32"
    """Dtype of the convolutions; parameters, norms and results stay float32."""

    def __post_init__(self):
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise ValueError("temporal_downsample needs one entry fewer than dim_mult")
        if self.decoder_dim_mult and len(self.decoder_dim_mult) != len(self.dim_mult):
            raise ValueError("decoder_dim_mult needs as many entries as dim_mult")
        if len(self.halves) != len(self.dim_mult) - 1:
            raise ValueError("spatial_downsample needs one entry fewer than dim_mult")
        if not all(self.halves) and not self.residual:
            raise ValueError("stages that do not halve the picture need residual=True")
        if not len(self.latents_mean) == len(self.latents_std) == self.z_dim:
            raise ValueError(f"latents_mean and latents_std need z_dim = {self.z_dim} numbers each")

    @property
    def halves(self) -> tuple[bool, ...]:
        """Which stages halve the picture."""
        return self.spatial_downsample or (True,) * (len(self.dim_mult) - 1)

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent place, in either direction."""
        return self.patch_size * 2 ** sum(self.halves)

    @property
    def temporal_stride(self) -> int:
        """Frames per latent after the first."""
        return 2 ** sum(self.temporal_downsample)
