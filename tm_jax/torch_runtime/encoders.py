"""What the student hears and sees through: our viseme encoder, and transformers' own wav2vec2 and CLIP."""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tm_jax.audio.mel_network import MelNetwork
from tm_jax.audio.sliding_window import SlidingWindow, WindowConfig
from tm_jax.errors import InputError
from tm_jax.models.viseme_config import MOUTH, VisemeConfig
from tm_jax.rates import SAMPLES_PER_TOKEN
from tm_jax.torch_runtime.layers import gelu_tanh


class VisemeEncoder(nn.Module):
    """Log-mel tokens → viseme tokens, without padding: ``past`` fewer come out than went in."""

    def __init__(self, config: VisemeConfig):
        super().__init__()
        width, norm = config.width, lambda size: nn.LayerNorm(size, eps=1e-5)
        self.first = nn.Linear(config.inputs, width)
        self.norms = nn.ModuleList(norm(width) for _ in config.dilations)
        self.layers = nn.ModuleList(nn.Linear(3 * width, width) for _ in config.dilations)
        self.middle, self.last = norm(width), nn.Linear(width, config.outputs)
        self.norm = norm(config.outputs)
        self.head = nn.Linear(config.outputs, len(config.offsets) * len(MOUTH))
        self.config = config

    def forward(self, mel: Tensor) -> Tensor:
        x = self.first(mel)
        for distance, norm, layer in zip(self.config.dilations, self.norms, self.layers, strict=True):
            seen = norm(x)
            taps = (seen[: -2 * distance], seen[distance:-distance], seen[2 * distance :])
            x = x[2 * distance :] + layer(gelu_tanh(torch.cat(taps, -1)))
        return self.norm(self.last(gelu_tanh(self.middle(x))))


def viseme_front_end(encoder: VisemeEncoder) -> MelNetwork:
    """The viseme encoder as a streaming front end."""
    config = encoder.config

    @torch.inference_mode()
    def encode(mel: np.ndarray) -> np.ndarray:
        return encoder(torch.from_numpy(mel).to(encoder.first.weight.device)).cpu().numpy()

    return MelNetwork(encode, inputs=config.inputs, past=config.past, token_width=config.outputs)


def speech_front_end(folder: Path, window: WindowConfig, device: torch.device) -> SlidingWindow:
    """wav2vec2 on a sliding window; a window whose past is not there yet is run as a shorter clip."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config.from_pretrained(folder)
    model = _pretrained(Wav2Vec2Model, folder, config).to(device)
    reach, stride = 1, 1
    for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
        reach, stride = reach + (kernel - 1) * stride, stride * step
    if stride != SAMPLES_PER_TOKEN:
        raise InputError(
            f"{folder} takes {stride} samples a token where {SAMPLES_PER_TOKEN} are needed: export again."
        )
    tail = reach - stride

    @torch.inference_mode()
    def encode(windows: np.ndarray, skip: np.ndarray) -> np.ndarray:
        out = np.zeros((*windows.shape[:1], windows.shape[1] // SAMPLES_PER_TOKEN, config.hidden_size), "f4")
        for missing in np.unique(skip):
            here = skip == missing
            sound = torch.from_numpy(windows[here][:, missing * SAMPLES_PER_TOKEN :]).to(device)
            variance, mean = torch.var_mean(sound, 1, keepdim=True, correction=0)
            sound = F.pad((sound - mean) * torch.rsqrt(variance + 1e-7), (0, tail))
            out[here, missing:] = model(sound).last_hidden_state.float().cpu().numpy()
        return out

    return SlidingWindow(encode, config.hidden_size, window)


class PictureEncoder:
    """CLIP's picture tower: a picture → tokens of its last block but one, as Wan reads them."""

    def __init__(self, folder: Path, device: torch.device):
        from transformers import CLIPVisionConfig, CLIPVisionModel

        config = CLIPVisionConfig.from_pretrained(folder)
        self.model = _pretrained(CLIPVisionModel, folder, config).to(device)
        self.size, self.layers = config.image_size, config.num_hidden_layers
        pixels = json.loads((folder / "preprocessor_config.json").read_text("utf-8"))
        self.mean, self.std = (
            torch.tensor(pixels[name], device=device) for name in ("image_mean", "image_std")
        )

    def __call__(self, picture: Tensor) -> Tensor:
        """Tokens [257 1280] of a picture [y x 3] in [-1, 1], squeezed to a square by plain bicubic."""
        square = F.interpolate(
            picture.permute(2, 0, 1)[None], (self.size, self.size), mode="bicubic", align_corners=False
        )
        pixels = (square.permute(0, 2, 3, 1) * 0.5 + 0.5 - self.mean) / self.std
        states = self.model(pixel_values=pixels.permute(0, 3, 1, 2), output_hidden_states=True).hidden_states
        return states[self.layers - 1][0].float()


def _pretrained(model_class, folder: Path, config):
    """A module of transformers in float32, for inference."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return model_class.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error}): copy the export again.") from None
