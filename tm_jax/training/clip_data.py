"""The clips that teacher and student learn from and are shown on: prepared real ones, or puppets."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from tm_jax.data.encoded_videos import EncodedConfig, check_condition, encoded_videos, videos_digest
from tm_jax.data.latent_clips import ClipConfig, EncodedVideo, clip_config, conditioning_arrays
from tm_jax.data.prepare.shards import PreparedVideos
from tm_jax.data.puppets.variety import PLAIN
from tm_jax.data.skipping import Skipping
from tm_jax.errors import InputError
from tm_jax.models.dit_config import DiTConfig
from tm_jax.pretrained.front_ends import load_front_end
from tm_jax.pretrained.sources import load_any
from tm_jax.sharding import check_mesh
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.passes import Passes, model_flops
from tm_jax.types import Conditioning, Latents


@runtime_checkable
class Videos(Protocol):
    """Random access to encoded videos."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> EncodedVideo: ...


@runtime_checkable
class ClipExperiment(Protocol):
    """The fields of an experiment that say what its clips are."""

    model: DiTConfig
    vae: Path
    clip: ClipConfig
    videos: EncodedConfig
    prepared: Path | None
    visemes: Path | None
    cache: Path
    loop: LoopConfig


def clip_work(config: ClipExperiment, programs: list[Passes]) -> tuple[float, float]:
    """Tokens of a batch, and the model FLOPs of these programs on it."""
    rows, columns = (
        size // patch for size, patch in zip(config.videos.grid, config.model.patch[1:], strict=True)
    )
    batch = config.loop.batch_size
    tokens = config.clip.frames * rows * columns
    return float(batch * tokens), float(batch * sum(map(model_flops, programs)))


def check_clips(config: ClipExperiment) -> None:
    """The clips bring the condition that the model reads, and the videos are as long as a clip.

    Raises:
        ValueError: one has the picture held still, the other mid-grey; clips are cut otherwise than the
            model reads them; or puppets would speak too shortly.
    """
    check_condition(config.model, config.videos)
    wanted = clip_config(config.model, config.clip.chunk, config.clip.chunks)
    for name in ("audio_left", "audio_lookahead", "image_patch", "text_length", "text_width"):
        if getattr(config.clip, name) != getattr(wanted, name):
            raise ValueError(
                f"clip.{name} {getattr(config.clip, name)}: the model reads {getattr(wanted, name)}"
            )
    if config.prepared is None and config.videos.latent_frames < config.clip.frames:
        raise ValueError(
            f"videos.seconds {config.videos.seconds:g}: that is {config.videos.latent_frames} latent frames, "
            f"and a clip takes {config.clip.frames}"
        )
    if config.prepared is not None and config.model.still_condition:
        raise ValueError("model.still_condition: prepared clips have mid-grey after the reference picture")


def _prepared(config: ClipExperiment, split: Literal["train", "heldout"]) -> PreparedVideos:
    """Real clips, compared with what the model reads."""
    videos, model = PreparedVideos(config.prepared, split=split, clip=config.clip, lenient=True), config.model
    videos.check(
        latent_channels=model.out_channels,
        audio_width=model.audio_width,
        image_width=model.image_width,
        text_width=model.text_width,
    )
    grid, wanted, edge = videos.grid, config.videos.grid, config.videos.size
    if grid not in (None, wanted):
        raise InputError(
            f"The clips in {config.prepared} are of {grid[0]}×{grid[1]} latents and training is set to "
            f"{wanted[0]}×{wanted[1]}: prepare them with --size {edge} {edge}, or give --videos.size the "
            "edge of the clips, which must be square."
        )
    return videos


def training_videos(config: ClipExperiment) -> Videos:
    """The videos that clips are cut from; puppets are drawn and encoded now if they are not in the cache.

    Raises:
        InputError: prepared clips that are not there, damaged or made for another model.
    """
    mesh = jax.sharding.get_mesh()
    if not mesh.empty:
        clips = config.loop.batch_size // config.loop.accumulate
        check_mesh(mesh, config.model.mesh_sizes(*config.videos.grid) | {"batch": clips}, config.loop.rules)
    if config.prepared is not None:
        videos = _prepared(config, "train")
        return Skipping(videos, config.loop.skip, missing=videos.missing)
    vae, front_end = load_any(config.vae, "vae"), load_front_end(config.visemes)
    return encoded_videos(vae, front_end, config.videos, config.cache)


def training_videos_digest(config: ClipExperiment) -> str:
    """What the videos depend on; what is made of them is kept under this name."""
    if config.prepared is None:
        return f"{videos_digest(load_any(config.vae, 'vae'), config.videos)}-{config.videos.count}"
    state = hashlib.sha256()
    for path in sorted([config.prepared / "prepare.json", *(config.prepared / "reports").glob("*.json")]):
        state.update(path.read_bytes())
    return f"prepared-{state.hexdigest()[:12]}"


def batch_conditioning(arrays: list[dict[str, np.ndarray]]) -> Conditioning:
    """Several clips' conditioning arrays as one Conditioning."""
    return Conditioning(**jax.tree.map(lambda *parts: np.stack(parts), *arrays))


def heldout_clips(config: ClipExperiment, count: int = 2) -> tuple[Conditioning, Latents] | None:
    """Conditioning and true latents of the beginnings of held-out videos; None where none was held out."""
    if config.prepared is not None:
        heldout = _prepared(config, "heldout")
        videos = [heldout[row] for row in range(min(count, len(heldout)))]
        if not videos:
            return None
    else:
        heldout = dataclasses.replace(config.videos, split="heldout", count=count, variety=PLAIN)
        vae = load_any(config.vae, "vae")
        videos = encoded_videos(vae, load_front_end(config.visemes), heldout, config.cache)
    frames = np.arange(config.clip.frames)
    conditioning = batch_conditioning([conditioning_arrays(video, frames, config.clip) for video in videos])
    return conditioning, jnp.stack([jnp.asarray(video.latents[frames], jnp.float32) for video in videos])
