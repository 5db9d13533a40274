"""A tiny world without a VAE, for tests of the phases: random encoded videos and a two-layer DiT."""

import jax
import numpy as np

from tests.models.dit_cases import build
from tm_jax.data.latent_clips import ClipConfig, EncodedVideo
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig

CLIP = ClipConfig(text_length=3, text_width=8)
CONFIG = DiTConfig(
    width=48, ffn=64, heads=4, layers=2, patch=(1, 1, 1), in_channels=12, out_channels=4, text_width=8,
    text_length=3, image_width=4, image_length=4, audio_width=6, audio_dim=16, audio_lookahead=0,
    time_frequencies=16, dtype="float32", remat="products",
)  # fmt: skip


def videos(count: int, frames: int = 30) -> list[EncodedVideo]:
    """Random videos."""
    rng = np.random.default_rng(0)
    return [
        EncodedVideo(
            latents=rng.normal(size=(frames, 2, 2, 4)).astype(np.float16),
            reference=rng.normal(size=(21, 2, 2, 4)).astype(np.float16),
            audio_tokens=rng.normal(size=(8 * frames, 6)).astype(np.float16),
            mode=rng.integers(0, 2, frames).astype(np.int32),
            face_mask=np.ones((2, 2), np.float32),
        )
        for _ in range(count)
    ]


def random_dit(key) -> DiT:
    """A DiT whose zero-initialised parameters are random too."""
    return build(CONFIG, int(jax.random.bits(key)))
