"""Which evaluations of the transformer each program of a training makes: FLOPs, traffic and MFU follow.

Every number is one clip's.  By name of the program, as the phases give them:

    update              1 bidirectional, trained: the teacher's flow matching
    pairs               steps × guided directions, bidirectional
    warmup              1 sparse at each noise level, trained
    own_k               1 sparse at each noise level up to k; with clean_kv a stream
    real_k              1 sparse
    long_k              all chunks of a stream, at each noise level
    critic              1 bidirectional, trained
    gap                 the teacher's guided directions and the critic, bidirectional
    student             1 sparse, trained, and those of the warm-up
    student_long        the same, of chunks that come late in a stream
"""

import dataclasses

from tm_jax.diffusion.sampler import Guidance, SamplerConfig
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.flops import DiTFlops, chunk_flops, condition_flops, dit_flops


@dataclasses.dataclass(frozen=True)
class Pass:
    """Equal evaluations of one network, each of one clip."""

    flops: DiTFlops
    """Operations of one evaluation."""
    frames: int
    """Latent frames of one evaluation."""
    times: int = 1
    """Evaluations."""
    trained: bool = False
    """Whether a gradient by all parameters follows."""

    def model_flops(self) -> float:
        """Operations of the mathematics."""
        return self.times * (self.flops.training if self.trained else self.flops.forward)

    def executed_flops(self, remat: str, *, fused: bool) -> float:
        """Operations with what the backward pass computes again (`DiTFlops.repeated`)."""
        again = self.flops.repeated(remat, fused=fused) if self.trained else 0.0
        return self.model_flops() + self.times * again


Passes = tuple[Pass, ...]


@dataclasses.dataclass(frozen=True)
class ClipShape:
    """A training clip: latent frames, and rows and columns of latents."""

    frames: int
    height: int
    width: int


def model_flops(passes: Passes) -> float:
    """Model FLOPs of a program for one clip."""
    return sum(one.model_flops() for one in passes)


def executed_flops(passes: Passes, remat: str, *, fused: bool) -> float:
    """FLOPs that the devices execute in a program for one clip."""
    return sum(one.executed_flops(remat, fused=fused) for one in passes)


def _whole(model: DiTConfig, clip: ClipShape, chunk: int | None = None, late: bool = False) -> DiTFlops:
    size = {"frames": clip.frames, "height": clip.height, "width": clip.width}
    return dit_flops(model, **size, chunk=chunk, late=late)


def directions(guidance: Guidance) -> int:
    """Evaluations that a guided velocity takes."""
    return 1 + (guidance.audio != 1) + (guidance.text != 1)


def teacher_passes(model: DiTConfig, clip: ClipShape) -> dict[str, Passes]:
    """The programs of the teacher's training."""
    return {"update": (Pass(_whole(model, clip), clip.frames, trained=True),)}


def distillation_passes(
    model: DiTConfig,
    clip: ClipShape,
    rollout: RolloutConfig,
    *,
    guidance: Guidance,
    sampler: SamplerConfig,
    long_chunks: int,
) -> dict[str, Passes]:
    """The programs of a distillation.

    Args:
      guidance: of the teacher in the score gap; the sampler has its own.
      long_chunks: chunks of a long stream.
    """
    sparse, whole = _whole(model, clip, rollout.chunk), _whole(model, clip)
    # What the clean chunks write, where later ones read that: once beside every pass.
    written = lambda times=1: (Pass(sparse, clip.frames, times),) if rollout.clean_kv else ()
    regression = (Pass(sparse, clip.frames, rollout.steps, trained=True), *written(rollout.steps))
    found: dict[str, Passes] = {
        "pairs": (Pass(whole, clip.frames, sampler.steps * directions(sampler.guidance)),),
        "warmup": regression,
        "critic": (Pass(whole, clip.frames, trained=True),),
        "gap": (Pass(whole, clip.frames, directions(guidance) + 1),),
    }
    for step in range(rollout.steps):
        own = rollout.evaluations if rollout.clean_kv else step + 1
        found[f"own_{step}"] = (Pass(sparse, clip.frames, own),)
        found[f"real_{step}"] = (Pass(sparse, clip.frames), *written())
        found[f"long_{step}"] = stream_passes(model, clip, rollout, chunks=long_chunks)
    late = _whole(model, clip, rollout.chunk, late=True)
    of = lambda estimate: (Pass(estimate, clip.frames, trained=True), *written(), *regression)
    return found | {"student": of(sparse), "student_long": of(late)}


def stream_passes(
    model: DiTConfig, clip: ClipShape, rollout: RolloutConfig, *, chunks: int = 1, condition: bool = True
) -> Passes:
    """Chunks of a stream, one after the other.

    Args:
      condition: with the keys and values of text and image, made once.
    """
    one = chunk_flops(model, chunk=rollout.chunk, height=clip.height, width=clip.width)
    passes = (Pass(one, rollout.chunk, chunks * rollout.evaluations),)
    if not condition:
        return passes
    return (*passes, Pass(DiTFlops(0.0, condition_flops(model), 0.0, 0.0), 0))
