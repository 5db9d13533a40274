"""Windows from anywhere in puppets' videos, encoded as if the video began there, with sound and frames.

What the decoder learns on (`training.decoder_phase`): the frames to be drawn, and all that a student needs to
make their latents.  A window is drawn, heard and encoded when it is asked for.
"""

import dataclasses
from typing import Any

import numpy as np

from tm_jax.data.encoded_videos import VideoEncoder
from tm_jax.data.latent_clips import ClipConfig, conditioning_arrays
from tm_jax.data.puppets.variety import PLAIN, Variety
from tm_jax.data.puppets.world import FPS, PuppetWorld, frame_count
from tm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class SpokenWindowsConfig:
    """Which windows are drawn."""

    split: str = "train"
    """train, heldout or language: which part of the world the videos come from."""
    videos: int = 3000
    """Different videos."""
    seconds: float = 10.0
    """Length of the videos that windows are cut from."""
    windows: int = 1_000_000
    """Windows in an epoch."""
    seed: int = 0
    size: int = 128
    """Height and width in pixels."""
    variety: Variety = PLAIN
    """How far the faces leave the plain world's."""

    def __post_init__(self):
        if min(self.videos, self.windows) < 1:
            raise ValueError("windows: videos and windows must be at least 1")


class SpokenWindows:
    """A random-access source: {"frames": uint8 [t y x 3], "latents": [f h w c], "conditioning": {…}}."""

    def __init__(self, config: SpokenWindowsConfig, encoder: VideoEncoder, clip: ClipConfig):
        """``clip`` says how many latent frames a window has and what is heard with each.

        Raises:
            InputError: the videos are shorter than a window.
        """
        self.config, self.clip, self._encode = config, clip, encoder
        self._world = PuppetWorld(config.seed, config.split, config.size, variety=config.variety)
        self._frames = 1 + 4 * (clip.frames - 1)
        self._spare = frame_count(config.seconds) - self._frames
        if self._spare < 0:
            raise InputError(
                f"windows.seconds {config.seconds}: a window takes {self._frames} frames; give at least "
                f"{self._frames / FPS}."
            )

    def __len__(self) -> int:
        return self.config.windows

    def __getitem__(self, index: int) -> dict[str, Any]:
        config = self.config
        rng = np.random.default_rng((config.seed, index))
        video, start = int(rng.integers(config.videos)), int(rng.integers(self._spare + 1))
        window = self._world.window(video, start, self._frames, seconds=config.seconds)
        encoded = self._encode(window)
        return {
            "frames": window.frames,
            "latents": encoded.latents.astype(np.float32),
            "conditioning": conditioning_arrays(encoded, np.arange(self.clip.frames), self.clip),
        }
