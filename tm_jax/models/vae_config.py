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
_WAN22_LATENTS_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)
_WAN22_LATENTS_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
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


WAN22_VAE = VAEConfig(
    base_dim=160,
    decoder_base_dim=256,
    z_dim=48,
    patch_size=2,
    residual=True,
    latents_mean=_WAN22_LATENTS_MEAN,
    latents_std=_WAN22_LATENTS_STD,
)
"""Wan2.2's VAE, as TI2V-5B has it."""
