"""Pairs of noise and the teacher's sample from it: what the student's first step regresses to.

A clip's conditioning is recut from its video, and its noise redrawn from its seed, so a pair stores
only the frames' indices and the sample.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from jax.experimental import multihost_utils
from jaxtyping import Float, Int
from tqdm import tqdm

from tm_jax.data.latent_clips import ClipConfig, clip_frames, conditioning_arrays
from tm_jax.diffusion.noise import clip_noises
from tm_jax.diffusion.sampler import SamplerConfig, sample
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.models.dit import DiT
from tm_jax.nn.masks import Bidirectional
from tm_jax.sharding import AnyMesh, ShardingRules, batch_axes, batch_sharding, local_rows, shard
from tm_jax.training.clip_data import Videos
from tm_jax.types import Conditioning, Latents


@dataclasses.dataclass(frozen=True)
class PairsConfig:
    """How many pairs the teacher makes, and how."""

    count: int = 512
    """Pairs."""
    batch: int = 8
    """Clips sampled at once."""
    sampler: SamplerConfig = SamplerConfig()
    seed: int = 0
    """Seed of the noise and of the choice of clips."""

    def __post_init__(self):
        if self.count < 1 or self.batch < 1:
            raise ValueError("pairs: count and batch must be at least 1")


def pair_noise(
    seed: int, index: int, shape: tuple[int, ...], rollout: RolloutConfig
) -> Float[np.ndarray, "f h w c"]:
    """The noise of pair ``index``: that of a stream of its own at σ = 1, as the student will be given it."""
    once = dataclasses.replace(rollout, steps=1)
    chunk = (rollout.chunk, *shape[1:])
    return clip_noises(seed + ((index + 1) << 64), shape[0] // rollout.chunk, chunk, once)[0]


@dataclasses.dataclass(frozen=True)
class OdePairs:
    """Cached pairs: clip i is ``frames[i]`` of video ``video[i]``, sampled from its ``pair_noise``.

    The samples stay in their files and are read one at a time.
    """

    video: Int[np.ndarray, " n"]
    frames: Int[np.ndarray, "n f"]
    files: tuple[Path, ...]
    """Samples in order, ``per_file`` in each."""
    per_file: int
    seed: int
    rollout: RolloutConfig

    def clean(self, index: int) -> Float[np.ndarray, "f h w c"]:
        """The teacher's sample of pair ``index``."""
        number, row = divmod(index, self.per_file)
        with safetensors.safe_open(self.files[number], framework="numpy") as file:
            return file.get_slice("clean")[row].astype(np.float32)

    def element(self, index: int, videos: Videos, clip: ClipConfig) -> dict:
        """{"noise", "clean", "conditioning"} of one pair."""
        clean = self.clean(index)
        return {
            "noise": pair_noise(self.seed, index, clean.shape, self.rollout),
            "clean": clean,
            "conditioning": conditioning_arrays(videos[int(self.video[index])], self.frames[index], clip),
        }


def sample_pairs(
    config: SamplerConfig, teacher: DiT, conditioning: dict[str, jax.Array], noise: Latents
) -> Latents:
    """The teacher's samples from these noises; one program of the distillation."""
    clip_conditioning = Conditioning(**conditioning)
    return shard(sample(teacher, clip_conditioning, noise, config, pattern=Bidirectional()), "batch")


def pairs_batch(batch: int, mesh: AnyMesh, rules: ShardingRules) -> int:
    """Clips that are sampled at once: the config's number, rounded up to what the devices share evenly."""
    shares = math.prod(mesh.shape[axis] for axis in batch_axes(rules))
    return -(-batch // shares) * shares


def _write(path: Path, clean: np.ndarray) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    safetensors.numpy.save_file({"clean": clean}, partial)
    os.replace(partial, path)


def make_pairs(
    teacher: Callable[[], DiT],
    run: Callable[[DiT, dict, Latents], Latents],
    videos: Videos,
    clip: ClipConfig,
    config: PairsConfig,
    rollout: RolloutConfig,
    folder: Path,
    rules: ShardingRules,
) -> OdePairs:
    """All pairs of a config, from the cache in ``folder`` or sampled now with a progress bar.

    All devices of the current mesh sample together; an interrupted run goes on where it stopped, on whatever
    mesh.  With several processes the first one writes, and those that don't see its folder write their own.

    Args:
        teacher: gives the teacher, once there is something to sample.
        run: ``sample_pairs``, compiled.
        rollout: says how the noise of a clip's chunks is drawn.
        folder: it must belong to this teacher, these videos and this noise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(config.seed)
    choice = rng.integers(0, len(videos), config.count)
    lengths = {video: len(videos[video].latents) for video in np.unique(choice).tolist()}
    frames = np.stack([clip_frames(lengths[video], clip, rng) for video in choice])
    paths = [folder / f"{start:06d}.safetensors" for start in range(0, config.count, config.batch)]
    missing = [not path.exists() for path in paths]
    if jax.process_count() > 1:
        missing = multihost_utils.broadcast_one_to_all(np.array(missing)).tolist()
    silent = jax.process_index() > 0

    def element(row: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        video = videos[int(choice[row])]
        noise = pair_noise(config.seed, row, (clip.frames, *video.latents.shape[1:]), rollout)
        return conditioning_arrays(video, frames[row], clip), noise

    with tqdm(total=config.count, desc="sampling the teacher's pairs", unit="clip", disable=silent) as bar:
        for number, (path, absent) in enumerate(zip(paths, missing, strict=True)):
            rows = range(number * config.batch, min((number + 1) * config.batch, config.count))
            if absent:
                clean = _sample_rows(teacher(), run, element, rows, config.batch, rules)
                if not silent:
                    _write(path, clean)
                if jax.process_count() > 1:
                    multihost_utils.sync_global_devices(path.name)
                    if not path.exists():
                        _write(path, clean)
            bar.update(len(rows))
    return OdePairs(choice, frames, tuple(paths), config.batch, config.seed, rollout)


def _sample_rows(
    teacher: DiT,
    run: Callable[[DiT, dict, Latents], Latents],
    element: Callable[[int], tuple[dict[str, np.ndarray], np.ndarray]],
    rows: range,
    batch: int,
    rules: ShardingRules,
) -> np.ndarray:
    """The samples of these pairs on every process, as float16.

    Args:
        element: conditioning arrays and noise of a pair.
    """
    mesh = jax.sharding.get_mesh()
    sharding = None if mesh.empty else batch_sharding(mesh, rules)
    whole = batch if mesh.empty else pairs_batch(batch, mesh, rules)
    mine = range(whole) if sharding is None else local_rows(sharding, whole)
    # The last batch repeats its last row, so that all batches have one shape.
    elements = [element(min(rows.start + place, rows[-1])) for place in mine]
    inputs = jax.tree.map(lambda *parts: np.stack(parts), *elements)
    if sharding is not None:
        inputs = jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), inputs)
    clean = run(teacher, *inputs)
    if jax.process_count() > 1:
        clean = multihost_utils.process_allgather(clean, tiled=True)
    return np.asarray(clean[: len(rows)], np.float16)
