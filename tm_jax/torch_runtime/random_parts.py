"""A backend of random weights, for measuring speed where no checkpoint is at hand.

wan14b   the 18 B student at 512×512 with Wan's VAE, log-mel in the place of wav2vec2, a noise picture
tiny     the shape of the shipped student and its VAE
"""

import dataclasses

import torch
from torch import nn

from tm_jax.audio.log_mel import LogMel
from tm_jax.diffusion.schedule import RolloutConfig, Schedule
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae_config import VAEConfig
from tm_jax.torch_runtime import devices
from tm_jax.torch_runtime.backend import TorchBackend
from tm_jax.torch_runtime.decoding import VaeStage
from tm_jax.torch_runtime.denoising import DitStage
from tm_jax.torch_runtime.dit import DiT
from tm_jax.torch_runtime.export_format import Dtype, ExportConfig
from tm_jax.torch_runtime.fp8 import quantise
from tm_jax.torch_runtime.layers import Linear
from tm_jax.torch_runtime.parts import COMPUTE
from tm_jax.torch_runtime.vae import VAE
from tm_jax.torch_runtime.vae_blocks import RMSNorm

# The picture's latent in the place of CLIP's tokens: as many, of the same width (1,280 is no square of cells,
# so one token is 16·4² = 256 wide here; the difference is one matrix that runs once a stream).
WAN14B = ExportConfig(
    student=DiTConfig(audio_width=80, image_width=256, image_length=256),
    vae=VAEConfig(),
    rollout=RolloutConfig(),
    front_end="log_mel",
    size=(512, 512),
    dtype="bf16",
)
TINY = ExportConfig(
    student=DiTConfig(
        width=192,
        ffn=512,
        heads=4,
        layers=5,
        in_channels=68,
        out_channels=32,
        text_width=16,
        text_length=4,
        image_width=128,
        image_length=64,
        audio_width=80,
        audio_dim=128,
        time_frequencies=64,
        trained_frames=21,
        predicts="change",
        still_condition=True,
        dtype="float32",
    ),
    vae=VAEConfig(
        base_dim=64,
        decoder_base_dim=80,
        z_dim=32,
        dim_mult=(1, 1, 1),
        num_res_blocks=0,
        temporal_downsample=(True, True),
        spatial_downsample=(False, False),
        patch_size=8,
        residual=True,
        linear_ends=True,
        refine_blocks=3,
        latents_mean=(0.0,) * 32,
        latents_std=(1.0,) * 32,
    ),
    rollout=RolloutConfig(schedule=Schedule(shift=3.0)),
    front_end="log_mel",
    size=(128, 128),
)
CONFIGS = {"wan14b": WAN14B, "tiny": TINY}


@torch.inference_mode()
def random_backend(
    name: str,
    rollout: RolloutConfig,
    dtype: Dtype,
    dit_device: torch.device,
    vae_device: torch.device,
) -> TorchBackend:
    """A backend of the given size.

    Raises:
      InputError: a device is too small for it.
    """
    config = dataclasses.replace(CONFIGS[name], rollout=rollout, dtype=dtype)
    devices.check_memory(config, dtype, dit_device, vae_device)
    if vae_device.type == "cpu":
        devices.share_cpu()
    with dit_device:
        student = DiT(config.student, COMPUTE[dtype])
    draw(student, 0)
    if dtype == "fp8":
        quantise(student)
    for module in student.modules():
        if isinstance(module, Linear):
            module.pack()
    with vae_device:
        vae = VAE(config.vae)
    draw(vae, 1)
    if vae_device.type == "cuda" and dtype != "f32":
        vae.half_precision()
    vae.pack()
    stages = DitStage(config, student.eval()), VaeStage(vae.eval(), config.size)
    return TorchBackend(config, *stages, LogMel())


def draw(module: nn.Module, seed: int) -> None:
    """Weights of about unit gain: matrices and kernels normal, scales near one, all else small."""
    generators: dict[torch.device, torch.Generator] = {}
    norms = {id(m.gamma) for m in module.modules() if isinstance(m, RMSNorm)}
    for name, parameter in module.named_parameters():
        place = parameter.device
        if place not in generators:
            generators[place] = torch.Generator(place).manual_seed(seed)
        parameter.normal_(generator=generators[place])
        if id(parameter) in norms or name.endswith(("norm.weight", "norm_in.weight", "norm_out.weight")):
            parameter.mul_(0.1).add_(1.0)
        elif parameter.ndim > 1:
            parameter.mul_((parameter.numel() / parameter.shape[0]) ** -0.5)
        else:
            parameter.mul_(0.02)
