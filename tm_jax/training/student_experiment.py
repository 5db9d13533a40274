"""Everything that decides a distillation, as one frozen config."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from tm_jax.data.encoded_videos import EncodedConfig
from tm_jax.data.latent_clips import ClipConfig
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.models.dit_config import DiTConfig
from tm_jax.training.clip_data import check_clips
from tm_jax.training.dmd import DistillationLoss
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.ode_pairs import PairsConfig
from tm_jax.training.optim import OptimConfig


@dataclasses.dataclass(frozen=True)
class StudentExperiment:
    """Everything that decides a distillation."""

    loop: LoopConfig
    model: DiTConfig
    vae: Path
    """The VAE of the latents: weights or a run of ours, or a public folder or Hub id."""
    teacher: Path
    """The teacher, from which the critic starts, and the student too without ``init_from``: weights or a run
    of ours, or a public folder or Hub id."""
    init_from: str | None = None
    """Where the student starts instead, such as another run's warm-up: weights or a run of ours, or a public
    folder or Hub id.  The critic always starts from the teacher."""
    lora: int = 0
    """Rank of the changes of the blocks' kernels that are all that student and critic learn, on top of the
    frozen transformers where they start (LoRA, `training/lora.py`); 0 trains all parameters."""
    rollout: RolloutConfig = RolloutConfig()
    loss: DistillationLoss = DistillationLoss()
    warmup: int = 300
    """Steps of regression alone."""
    critic_lead: int = 0
    """Critic updates after the warm-up and before the student's first by DMD: it starts as the teacher, and
    until it knows the student's clips the gap of the two is noise and guidance alone."""
    critic_mixed: bool = False
    """Whether the critic learns on clips of all the sources and steps that the student is improved on, in the
    same shares, and not on the student's own finished clips alone."""
    critic_per_student: int = 5
    """Critic updates for each update of the student."""
    real_start: float = 0.25
    """Probability that a student step at σ < 1 starts from a noised real clip, not from the student's own."""
    exit_first: float = 0.25
    """Probability that the DMD loss is applied to the estimate of the first pass, at σ = 1."""
    long_every: int = 4
    """Every how many student updates the clip is the end of a long stream; 0 for never."""
    long_chunks: int = 14
    """Chunks of a long stream."""
    optim: OptimConfig = OptimConfig()
    """The student's optimizer after the warm-up."""
    warmup_optim: OptimConfig = OptimConfig()
    """The student's optimizer in the warm-up; only its learning rate may differ from ``optim``'s."""
    critic_optim: OptimConfig = OptimConfig()
    clip: ClipConfig = ClipConfig()
    videos: EncodedConfig = EncodedConfig()
    prepared: Path | None = None
    """Folder of real clips from ``python -m tm_jax.data.prepare``; None draws and encodes puppets."""
    visemes: Path | None = None
    """Weights of the viseme encoder through which the teacher hears; None is log-mel."""
    pairs: PairsConfig = PairsConfig()
    cache: Path = Path("cache")
    """Folder of encoded videos and of the teacher's samples."""
    on_device: bool = False
    """Whether videos and pairs are put on the devices, which then cut the clips themselves."""
    ema: float = 0.99
    """Decay of the average of the student's parameters that is shipped."""

    def __post_init__(self):
        check_clips(self)
        if self.lora < 0:
            raise ValueError(f"lora {self.lora}: give a rank, or 0 to train all parameters")
        for name, least in (("warmup", 0), ("critic_lead", 0), ("critic_per_student", 1), ("long_every", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: give at least {least}")
        for name in ("real_start", "exit_first"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: a probability lies in 0 … 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema {self.ema}: the decay lies from 0 to below 1")
        if self.rollout.chunk != self.clip.chunk:
            raise ValueError(
                f"rollout.chunk {self.rollout.chunk} and clip.chunk {self.clip.chunk}: the student learns on "
                "chunks of the size in which it streams, so give both the same"
            )
        if 3 * self.rollout.chunk > self.model.trained_frames:
            raise ValueError(
                f"rollout.chunk {self.rollout.chunk}: a stream reads three chunks, and the model knows "
                f"{self.model.trained_frames} latent frames, so give at most {self.model.trained_frames // 3}"
            )
        if self.long_every and self.long_chunks < self.clip.chunks:
            raise ValueError(
                f"long_chunks {self.long_chunks}: a stream holds at least {self.clip.chunks} chunks"
            )
        if dataclasses.replace(self.warmup_optim, lr=self.optim.lr) != self.optim:
            raise ValueError("warmup_optim and optim may differ in lr alone: they share one optimizer state")

    @property
    def sources(self) -> tuple[tuple[str, int], ...]:
        """Every (source of a clip, denoising step) that an update of the student may have."""
        last = self.rollout.steps - 1
        found = [("own", step) for step in {0, last}]
        if last and self.real_start:
            found.append(("real", last))
        if self.long_every:
            found += [("long", step) for step in {0, last}]
        return tuple(found)

    def turn(self, index: int) -> int | None:
        """The number of the student's update by DMD that step ``index`` holds; None if it holds none."""
        turn, rest = divmod(index - self.warmup - self.critic_lead, self.critic_per_student)
        return turn if turn >= 0 and rest == self.critic_per_student - 1 else None

    def draw(self, index: int, turn: int) -> tuple[int, str]:
        """The denoising step and the source of the clip of the student's update number ``turn``."""
        return self._drawn((self.loop.seed, index), turn)

    def draw_for_critic(self, index: int) -> tuple[int, str]:
        """The denoising step and the source of the clip that the critic learns on at step ``index``."""
        if not self.critic_mixed:
            return self.rollout.steps - 1, "own"
        # A long stream for every so many steps, as the student has one for every so many updates.
        return self._drawn((self.loop.seed, index, 1), index)

    def _drawn(self, seed: tuple[int, ...], count: int) -> tuple[int, str]:
        draw = np.random.default_rng(seed)
        step = 0 if draw.random() < self.exit_first else self.rollout.steps - 1
        source = "real" if step and draw.random() < self.real_start else "own"
        if self.long_every and count % self.long_every == self.long_every - 1:
            source = "long"
        return step, source

    def build(self) -> Any:
        """The phase that the loop runs."""
        from tm_jax.training.student_phase import StudentPhase

        return StudentPhase(self)
