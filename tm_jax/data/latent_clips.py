"""Training clips of latents: a video is encoded once, whole, and clips are cut from it afterwards.

A clip is C₀, the chunk that begins with the reference picture, then consecutive chunks from anywhere
later in the same video (METHOD §6):

    video   | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |10 |11 | …      chunks of 3 latent frames
    clip    | 0 |               | 5 | 6 | 7 | 8 | 9 |10 |            gap 4; re-indexed to RoPE 0 … 20
"""

import dataclasses

import grain
import numpy as np
from jaxtyping import Float, Int

from tm_jax.diffusion.conditions import latents_as_image_tokens
from tm_jax.models.audio_adapter import window_indices
from tm_jax.models.dit_config import DiTConfig

BLINK = 0.5
"""How far shut the eyes are in a blink."""


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """How training clips are cut from encoded videos."""

    chunk: int = 3
    """Latent frames a chunk."""
    chunks: int = 7
    """Chunks a clip, the first one included."""
    contiguous: float = 0.5
    """Probability that the clip is taken without a gap."""
    blinks: float = 0.0
    """Probability that the clip's place is drawn among those that hold a blink, where the video has any."""
    audio_left: int = 8
    """Audio tokens a latent frame sees before its own eight."""
    audio_lookahead: int = 0
    """Audio tokens a latent frame sees after its own eight."""
    image_patch: int = 1
    """Side of the square of latent cells that makes one image token of the reference picture."""
    text_length: int = 4
    text_width: int = 16
    """Shape of the text tokens, which are zeros where a world has no prompts."""

    def __post_init__(self):
        if self.chunk < 1 or self.chunks < 1:
            raise ValueError(f"clips of {self.chunks} chunks of {self.chunk}: give at least 1 of both")
        for name in ("contiguous", "blinks"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: a probability lies in 0 … 1")

    @property
    def frames(self) -> int:
        """Latent frames a clip."""
        return self.chunk * self.chunks


def clip_config(model: DiTConfig, chunk: int, chunks: int = 7) -> ClipConfig:
    """Clips as a model of ours reads them."""
    return ClipConfig(
        chunk=chunk,
        chunks=chunks,
        image_patch=model.image_patch or 1,
        audio_left=model.audio_left,
        audio_lookahead=model.audio_lookahead,
        text_length=model.text_length,
        text_width=model.text_width,
    )


@dataclasses.dataclass(frozen=True)
class EncodedVideo:
    """One whole video, encoded: what clips are cut from."""

    latents: Float[np.ndarray, "f h w c"]
    reference: Float[np.ndarray, "trained_f h w c"]
    """VAE latents of the reference picture followed by mid-grey, or by the picture held still."""
    audio_tokens: Float[np.ndarray, "l d"]
    mode: Int[np.ndarray, " f"]
    face_mask: Float[np.ndarray, "h w"]
    image_tokens: Float[np.ndarray, "image image_width"] | None = None
    """CLIP's features of the reference picture; None where its own latent serves."""
    text_tokens: Float[np.ndarray, "text text_width"] | None = None
    """The prompt's embedding without padding; None where there is no prompt."""
    lids: Float[np.ndarray, " f"] | None = None
    """How far the eyes are shut at most in each latent frame, 0 … 1; None where nobody knows."""


def gather_tokens(
    tokens: Float[np.ndarray, "l d"], indices: Int[np.ndarray, "f a"]
) -> Float[np.ndarray, "f a d"]:
    """Tokens at these indices, zeros where the index lies outside."""
    inside = (indices >= 0) & (indices < len(tokens))
    return np.where(inside[..., None], tokens[np.clip(indices, 0, len(tokens) - 1)], 0)


def padded_text(video: EncodedVideo, config: ClipConfig) -> Float[np.ndarray, "text text_width"]:
    """The prompt's tokens, zeros after their end.

    Raises:
        ValueError: more or wider tokens than the config's.
    """
    text = np.zeros((config.text_length, config.text_width), np.float32)
    if video.text_tokens is not None:
        count, width = video.text_tokens.shape
        if count > config.text_length or width != config.text_width:
            raise ValueError(
                f"a prompt of {count} tokens × {width} does not fit text_length {config.text_length} "
                f"and text_width {config.text_width}"
            )
        text[:count] = video.text_tokens
    return text


def conditioning_arrays(
    video: EncodedVideo, frames: Int[np.ndarray, " f"], config: ClipConfig
) -> dict[str, np.ndarray]:
    """The members of a Conditioning for these absolute latent frames of a video, without a batch axis."""
    reference = np.asarray(video.reference, np.float32)
    mask = np.zeros((*reference.shape[:-1], 4), np.float32)
    mask[0] = 1
    windows = window_indices(frames, left=config.audio_left, lookahead=config.audio_lookahead)
    return {
        "text_tokens": padded_text(video, config),
        "image_tokens": latents_as_image_tokens(reference[:1], config.image_patch)[0]
        if video.image_tokens is None
        else np.asarray(video.image_tokens, np.float32),
        "condition": np.concatenate([mask, reference], -1),
        "audio_tokens": gather_tokens(video.audio_tokens, windows).astype(np.float32),
        "audio_keep": np.ones(len(frames), np.float32),
        "face_mask": np.asarray(video.face_mask, np.float32),
        "mode": np.asarray(video.mode)[frames].astype(np.int32),
    }


def clip_frames(
    video_frames: int,
    config: ClipConfig,
    rng: np.random.Generator,
    lids: Float[np.ndarray, " video_f"] | None = None,
) -> Int[np.ndarray, " f"]:
    """Absolute latent frames of one clip of a video.

    Args:
        lids: how far the eyes are shut, for ``config.blinks``.

    Raises:
        ValueError: the video is shorter than a clip.
    """
    last = video_frames // config.chunk - (config.chunks - 1)
    if last < 1:
        raise ValueError(f"a clip takes {config.frames} latent frames but the video has {video_frames}")
    first = 1 if rng.random() < config.contiguous else int(rng.integers(1, last + 1))
    length = (config.chunks - 1) * config.chunk
    if config.blinks and lids is not None and rng.random() < config.blinks:
        shut = np.lib.stride_tricks.sliding_window_view(lids, length)[config.chunk :: config.chunk].max(1)
        places = 1 + np.flatnonzero(shut[:last] > BLINK)
        first = int(rng.choice(places)) if len(places) else first
    later = np.arange(first * config.chunk, first * config.chunk + length)
    return np.concatenate([np.arange(config.chunk), later])


def stream_frames(video_frames: int, config: ClipConfig, chunks: int) -> Int[np.ndarray, " f"]:
    """Absolute latent frames of a long stream: the video from its start, again and again where it is shorter.

    Raises:
        ValueError: the video is shorter than a chunk.
    """
    whole = video_frames // config.chunk
    if not whole:
        raise ValueError(f"a chunk takes {config.chunk} latent frames but the video has {video_frames}")
    return np.arange(chunks * config.chunk) % (whole * config.chunk)


class LatentClips(grain.transforms.RandomMap):
    """Cuts one random clip out of an encoded video: {"latents", "lids", "conditioning": {…}}."""

    def __init__(self, config: ClipConfig):
        self.config = config

    def random_map(self, element: EncodedVideo, rng: np.random.Generator) -> dict:
        """One clip of the video, its place drawn from rng."""
        lids = element.lids
        frames = clip_frames(len(element.latents), self.config, rng, lids)
        return {
            "latents": np.asarray(element.latents)[frames].astype(np.float32),
            "lids": np.zeros(len(frames), np.float32) if lids is None else lids[frames].astype(np.float32),
            "conditioning": conditioning_arrays(element, frames, self.config),
        }
