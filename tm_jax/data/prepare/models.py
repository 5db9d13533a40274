"""The networks that prepare clips, from our own weights files or from public checkpoints."""

import dataclasses
import hashlib
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from tm_jax.data.prepare.settings import PrepareConfig
from tm_jax.models.clip import CLIPConfig, CLIPVision
from tm_jax.models.log_mel import AudioFrontEnd, LogMel
from tm_jax.models.umt5 import UMT5, UMT5Config
from tm_jax.models.vae import VAE, VAEConfig
from tm_jax.models.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from tm_jax.models.wav2vec2_front_end import Wav2Vec2FrontEnd, WindowConfig
from tm_jax.pretrained.layouts import load_public
from tm_jax.pretrained.weights import is_own, load_model
from tm_jax.types import InputError

CLASSES = {
    "vae": (VAE, VAEConfig),
    "text": (UMT5, UMT5Config),
    "image": (CLIPVision, CLIPConfig),
    "speech": (Wav2Vec2, Wav2Vec2Config),
}


def load(source: str | Path, kind: str) -> nnx.Module:
    """A network of a kind (a key of CLASSES) from our weights file, a public folder or file, or a Hub id.

    Raises:
      InputError: one sentence about whatever is wrong.
    """
    if is_own(source):
        return load_model(source, *CLASSES[kind])
    return load_public(source, kind)[0]


def fingerprint(model: nnx.Module) -> str:
    """A short digest of a network's sizes and of the first values of each parameter: training changes it."""
    state = hashlib.sha256(repr(model.config).encode())
    for leaf in jax.tree.leaves(model):
        state.update(np.asarray(leaf).reshape(-1)[:64].tobytes())
    return state.hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Encoders:
    """What turns pixels and sound into the members of a prepared clip."""

    vae: VAE
    front_end: AudioFrontEnd
    image: CLIPVision | None
    """None where training takes the reference's own latent."""

    def fingerprints(self) -> dict[str, str]:
        """A digest of every network that is there."""
        networks = {"vae": self.vae, "image": self.image, "speech": getattr(self.front_end, "encoder", None)}
        return {name: fingerprint(network) for name, network in networks.items() if network is not None}


def load_encoders(config: PrepareConfig) -> Encoders:
    """The networks that a config names.

    Raises:
      InputError: a model cannot be read, or the clips' size does not fit the VAE.
    """
    vae = load(config.vae, "vae")
    stride = vae.config.spatial_stride
    if any(side % stride for side in config.size):
        height, width = config.size
        raise InputError(f"--size {height} {width} does not fit the VAE: give multiples of {stride}.")
    front_end: AudioFrontEnd = LogMel()
    if config.speech is not None:
        window = WindowConfig(lookahead=config.speech_lookahead)
        front_end = Wav2Vec2FrontEnd(load(config.speech, "speech"), window)
    return Encoders(vae, front_end, None if config.image is None else load(config.image, "image"))
