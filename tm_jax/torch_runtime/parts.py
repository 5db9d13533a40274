"""All that a student needs to stream, from the folder of an export onto the devices that are to run it."""

from pathlib import Path

import torch

from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.audio.log_mel import LogMel
from tm_jax.torch_runtime import devices
from tm_jax.torch_runtime import export_format as form
from tm_jax.torch_runtime.backend import TorchBackend
from tm_jax.torch_runtime.decoding import VaeStage
from tm_jax.torch_runtime.denoising import DitStage
from tm_jax.torch_runtime.dit import DiT
from tm_jax.torch_runtime.encoders import (
    PictureEncoder,
    VisemeEncoder,
    speech_front_end,
    viseme_front_end,
)
from tm_jax.torch_runtime.fp8 import quantise
from tm_jax.torch_runtime.loading import Stored, load_dit, load_vae, load_visemes
from tm_jax.torch_runtime.parallel import Alone, Exchange
from tm_jax.torch_runtime.vae import VAE

COMPUTE = {"f32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16}
"""What the student computes in."""


def load_backend(
    folder: Path,
    *,
    dit_device: str | None = None,
    vae_device: str | None = None,
    dtype: form.Dtype | None = None,
) -> TorchBackend:
    """The backend of an export; arguments and errors are those of ``engine.load_engine``."""
    config = form.read_config(folder)
    first, second = devices.default_devices()
    apart = config.picture_encoder and not dit_device
    dit = devices.device(dit_device or first, "--dit-devices")
    vae = devices.device(vae_device or (second if apart else dit_device or first), "--vae-devices")
    dtype = dtype or config.dtype
    devices.check_memory(config, dtype, dit, vae)
    return TorchBackend(
        config,
        load_dit_stage(folder, config, dtype, dit),
        load_vae_stage(folder, config, dtype, vae),
        load_front_end(folder, config, dit),
    )


def load_dit_stage(
    folder: Path,
    config: form.ExportConfig,
    dtype: form.Dtype,
    device: torch.device,
    exchange: Exchange = Alone(),
) -> DitStage:
    """The student of an export and what it sees and reads through, on its device."""
    if device.type == "cpu":
        devices.share_cpu()
    text = None
    if config.prompt is not None:
        text = Stored(folder / form.PROMPT)[form.PROMPT_TENSOR]
        text = torch.nn.functional.pad(text, (0, 0, 0, config.student.text_length - len(text)))
    encoder = PictureEncoder(folder / form.IMAGE, device) if config.picture_encoder else None
    student = load_student(folder, config, dtype, device)
    return DitStage(config, student, picture_encoder=encoder, text_tokens=text, exchange=exchange)


def load_vae_stage(
    folder: Path, config: form.ExportConfig, dtype: form.Dtype, device: torch.device
) -> VaeStage:
    """The VAE of an export on its device."""
    if device.type == "cpu":
        devices.share_cpu()
    return VaeStage(load_decoder(folder, config, dtype, device), config.size)


def load_student(folder: Path, config: form.ExportConfig, dtype: form.Dtype, device: torch.device) -> DiT:
    """The student of an export on its device, in a precision that may be another than the stored one."""
    with device:
        student = DiT(config.student, COMPUTE[dtype])
    load_dit(student, Stored(folder / form.TRANSFORMER))
    if dtype == "fp8" and config.dtype != "fp8":
        quantise(student)
    return student.requires_grad_(False).eval()


def load_decoder(folder: Path, config: form.ExportConfig, dtype: form.Dtype, device: torch.device) -> VAE:
    """The VAE of an export on its device: bf16 on a GPU unless all is f32; f32 on a CPU."""
    with device:
        vae = VAE(config.vae)
    load_vae(vae, Stored(folder / form.VAE))
    if device.type == "cuda" and dtype != "f32":
        vae.half_precision()
    return vae.requires_grad_(False).eval()


def load_front_end(folder: Path, config: form.ExportConfig, device: torch.device) -> AudioFrontEnd:
    """What the student hears through."""
    if config.front_end == "wav2vec2":
        return speech_front_end(folder / form.SPEECH, config.window, device)
    if config.front_end == "log_mel":
        return LogMel()
    encoder = VisemeEncoder(config.visemes)
    load_visemes(encoder, Stored(folder / form.VISEMES))
    # A network this small is heard on the host: a GPU would be asked for it in the middle of a chunk.
    return viseme_front_end(encoder.requires_grad_(False).eval())
