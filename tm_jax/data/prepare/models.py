"""The networks that prepare clips, from our own weights files or from public checkpoints."""

import dataclasses
import hashlib

import jax
import numpy as np
from flax import nnx

from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.audio.log_mel import LogMel
from tm_jax.audio.sliding_window import WindowConfig
from tm_jax.data.prepare.settings import PrepareConfig
from tm_jax.errors import InputError
from tm_jax.models.clip import CLIPVision
from tm_jax.models.vae import VAE
from tm_jax.models.wav2vec2_front_end import Wav2Vec2FrontEnd
from tm_jax.pretrained.sources import load_any


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
    vae = load_any(config.vae, "vae")
    stride = vae.config.spatial_stride
    if any(side % stride for side in config.size):
        height, width = config.size
        raise InputError(f"--size {height} {width} does not fit the VAE: give multiples of {stride}.")
    front_end: AudioFrontEnd = LogMel()
    if config.speech is not None:
        window = WindowConfig(lookahead=config.speech_lookahead)
        front_end = Wav2Vec2FrontEnd(load_any(config.speech, "speech"), window)
    return Encoders(vae, front_end, None if config.image is None else load_any(config.image, "image"))
