"""Phase 3 as the loop runs it: the bidirectional teacher is distilled into the sparse causal student.

    steps 0 … warmup-1     regression alone: cached teacher samples at σ = 1, real clips later
    from then on           critic every step; student every ``critic_per_student``-th, DMD + regression

Each update of the student is
    drawn       a denoising step, and a clip from one of three sources (`student_clips`: own, real, long)
    estimated   the clean clip with gradient; the gap between critic and guided teacher without (`dmd`)
    updated     by DMD + regression; then the average of its parameters
"""

import dataclasses
from pathlib import Path
from typing import Any

import chex
import flax.struct
import grain
import jax
import jax.numpy as jnp
import numpy as np

from tm_jax.config import to_json
from tm_jax.data.encoded_videos import (
    EncodedConfig,
    check_condition,
    digest,
    encoded_videos,
    videos_digest,
)
from tm_jax.data.latent_clips import ClipConfig, EncodedVideo, LatentClips, conditioning_arrays
from tm_jax.diffusion.noise import stream_noise
from tm_jax.diffusion.rollout import parallel_steps
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.front_ends import load_front_end
from tm_jax.pretrained.weights import load_model, save_model
from tm_jax.training.dmd import (
    DistillationLoss,
    critic_loss,
    distribution_matching_loss,
    regression_loss,
    score_gap,
)
from tm_jax.training.loop import LoopConfig
from tm_jax.training.ode_pairs import OdePairs, PairsConfig, batch_conditioning, make_pairs
from tm_jax.training.optim import OptimConfig, make_optimizer
from tm_jax.training.previews import write_preview
from tm_jax.training.state import TrainState
from tm_jax.training.student_clips import CLIPS, rollout_clip
from tm_jax.types import Conditioning


@dataclasses.dataclass(frozen=True)
class StudentExperiment:
    """Everything that decides a distillation."""

    loop: LoopConfig
    model: DiTConfig
    vae: Path
    """Weights of the VAE."""
    teacher: Path
    """Weights of the teacher; student and critic start from them."""
    rollout: RolloutConfig = RolloutConfig()
    loss: DistillationLoss = DistillationLoss()
    warmup: int = 300
    """Steps of regression alone."""
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
    visemes: Path | None = None
    """Weights of the viseme encoder through which the teacher hears; None is log-mel."""
    pairs: PairsConfig = PairsConfig()
    cache: Path = Path("cache")
    """Folder of encoded videos and of the teacher's samples."""
    ema: float = 0.99
    """Decay of the average of the student's parameters that is shipped."""

    def __post_init__(self):
        check_condition(self.model, self.videos)
        if self.long_every and self.long_chunks < self.clip.chunks:
            raise ValueError(
                f"long_chunks {self.long_chunks}: a stream holds at least {self.clip.chunks} chunks"
            )
        if dataclasses.replace(self.warmup_optim, lr=self.optim.lr) != self.optim:
            raise ValueError("warmup_optim and optim may differ in lr alone: they share one optimizer state")

    def build(self) -> "StudentPhase":
        """The phase that the loop runs."""
        return StudentPhase(self)


@flax.struct.dataclass
class DistillationState:
    """Student and critic in training; the teacher never changes."""

    student: TrainState
    critic: TrainState


class PairedClips(grain.transforms.RandomMap):
    """Adds to an encoded video's clip a cached pair and the start of the video as a long stream."""

    def __init__(self, config: StudentExperiment, videos: list[EncodedVideo], pairs: OdePairs):
        self.config, self.videos, self.pairs = config, videos, pairs
        self.clips = LatentClips(config.clip)

    def random_map(self, element: EncodedVideo, rng: np.random.Generator) -> dict:
        """{"clip": {…}, "pair": {…}, "stream": {…}}."""
        row = int(rng.integers(len(self.pairs.video)))
        frames = np.arange(self.config.long_chunks * self.config.clip.chunk)
        return {
            "clip": self.clips.random_map(element, rng),
            "pair": self.pairs.element(row, self.videos, self.config.clip),
            "stream": {"conditioning": conditioning_arrays(element, frames, self.config.clip)},
        }


class StudentPhase:
    """Distillation; the loop's Phase."""

    def __init__(self, config: StudentExperiment):
        self.config = config
        self.warmup_tx = make_optimizer(config.warmup_optim)
        self.tx = make_optimizer(config.optim)
        self.critic_tx = make_optimizer(config.critic_optim)
        self.teacher = load_model(config.teacher, DiT, DiTConfig, expect=config.model)
        once = lambda function, **options: jax.jit(chex.assert_max_traces(function, n=1), **options)
        self._warm = once(self._warmup_update, donate_argnums=0)
        self._critic = once(self._critic_update, donate_argnums=0)
        self._generate = {
            (step, source): once(self._student_update(step, source), donate_argnums=0)
            for step in range(config.rollout.steps)
            for source in CLIPS
        }
        self._rollout = jax.jit(
            lambda model, conditioning, noises: parallel_steps(model, config.rollout, conditioning, noises)[1]
        )

    def init(self, key: jax.Array) -> DistillationState:
        """Student and critic, both as copies of the teacher."""
        keys = jax.random.split(key)
        copy = lambda: jax.tree.map(jnp.copy, self.teacher)
        return DistillationState(
            TrainState.create(copy(), self.tx, keys[0]),
            TrainState.create(copy(), self.critic_tx, keys[1]),
        )

    def start(self, state: DistillationState) -> DistillationState:
        """The same: the teacher was read before."""
        return state

    def step(
        self, state: DistillationState, batch: dict, index: int
    ) -> tuple[DistillationState, dict[str, jax.Array]]:
        """One step: warm-up, or a critic update and, in its turn, a student update."""
        config = self.config
        if index < config.warmup:
            return self._warm(state, batch)
        if index == config.warmup:
            self.save_baseline(state)
        state, metrics = self._critic(state, batch)
        turn, rest = divmod(index - config.warmup, config.critic_per_student)
        if rest == config.critic_per_student - 1:
            state, student_metrics = self._generate[self._draw(index, turn)](state, self.teacher, batch)
            metrics |= student_metrics
        return state, metrics

    def _draw(self, index: int, turn: int) -> tuple[int, str]:
        """The denoising step and the source of the clip of the student's update number ``turn``."""
        config = self.config
        draw = np.random.default_rng((config.loop.seed, index))
        step = 0 if draw.random() < config.exit_first else config.rollout.steps - 1
        source = "real" if step and draw.random() < config.real_start else "own"
        if config.long_every and turn % config.long_every == config.long_every - 1:
            source = "long"
        return step, source

    def _regression(self, student: DiT, batch: dict, key: jax.Array) -> jax.Array:
        pair, clip = batch["pair"], batch["clip"]
        return regression_loss(
            student,
            self.config.rollout,
            (pair["noise"], pair["clean"], Conditioning(**pair["conditioning"])),
            (clip["latents"], Conditioning(**clip["conditioning"])),
            key,
            self.config.loss,
        )

    def _warmup_update(self, state: DistillationState, batch: dict):
        student = state.student
        loss, gradients = jax.value_and_grad(self._regression)(student.model, batch, student.draw())
        return state.replace(student=student.apply(gradients, self.warmup_tx, self.config.ema)), {
            "loss": loss
        }

    def save_baseline(self, state: DistillationState) -> None:
        """The warmed-up student, kept beside the run as a baseline for the evaluation."""
        path = self.config.loop.folder / "warmup.safetensors"
        save_model(path, state.student.ema, self.config.model, self.describe())

    def _critic_update(self, state: DistillationState, batch: dict):
        clip_key, loss_key = jax.random.split(state.critic.draw())
        _, clean = rollout_clip(state.student.model, self.config.rollout, batch["clip"], clip_key)
        conditioning = Conditioning(**batch["clip"]["conditioning"])
        loss, gradients = jax.value_and_grad(critic_loss)(
            state.critic.model, clean, conditioning, loss_key, self.config.loss
        )
        critic = state.critic.apply(gradients, self.critic_tx, self.config.ema)
        return state.replace(critic=critic), {"loss": loss, "critic_loss": loss}

    def _student_update(self, step: int, source: str) -> Any:
        """The update whose DMD loss is applied at denoising step ``step`` of a clip from ``source``."""
        config, draw = self.config, CLIPS[source]

        def update(state: DistillationState, teacher: DiT, batch: dict):
            clip_key, gap_key, regression_key = jax.random.split(state.student.draw(), 3)
            clip = draw(state.student.model, config.rollout, batch, step, clip_key)

            def loss_of(student: DiT):
                clean = clip.estimate(student, clip.noisy)
                gap = score_gap(
                    jax.lax.stop_gradient(clean),
                    teacher,
                    state.critic.model,
                    clip.conditioning,
                    gap_key,
                    config.loss,
                )
                matching = distribution_matching_loss(clean, gap, clip.conditioning, config.loss)
                regression = self._regression(student, batch, regression_key)
                metrics = {"dmd_loss": matching, "regression_loss": regression}
                return config.loss.dmd * matching + config.loss.regression * regression, metrics

            gradients, metrics = jax.grad(loss_of, has_aux=True)(state.student.model)
            student = state.student.apply(gradients, self.tx, config.ema)
            return state.replace(student=student), metrics

        # Chex counts the traces of a function by its name.
        update.__name__ = f"update_{source}_{step}"
        return update

    def _videos(self) -> tuple[VAE, list[EncodedVideo]]:
        vae = load_model(self.config.vae, VAE, VAEConfig)
        front_end = load_front_end(self.config.visemes)
        return vae, encoded_videos(vae, front_end, self.config.videos, self.config.cache)

    def dataset(self) -> grain.MapDataset:
        """Clips, cached pairs and streams; the pairs are sampled first if they are not there."""
        config = self.config
        vae, videos = self._videos()
        # How many pairs and videos there are decides which video a pair is of.
        sampled = digest(self.teacher, self.teacher.config, config.pairs, config.videos.count)
        tag = f"{sampled}-{videos_digest(vae, config.videos)}"
        pairs = make_pairs(self.teacher, videos, config.clip, config.pairs, config.cache / f"pairs-{tag}")
        source = grain.MapDataset.source(videos).seed(config.loop.seed)
        return source.random_map(PairedClips(config, videos, pairs))

    def preview(self, state: DistillationState, folder: Path, index: int) -> dict[str, float]:
        """The student's clips of two held-out characters beside the true ones."""
        config = self.config
        vae = load_model(config.vae, VAE, VAEConfig)
        heldout = dataclasses.replace(config.videos, split="heldout", count=2)
        videos = encoded_videos(vae, load_front_end(config.visemes), heldout, config.cache)
        frames = np.arange(config.clip.frames)
        conditioning = batch_conditioning(
            [conditioning_arrays(video, frames, config.clip) for video in videos]
        )
        true = jnp.stack([jnp.asarray(video.latents[frames], jnp.float32) for video in videos])
        noises = np.stack([stream_noise(0, 0, step, true.shape) for step in range(config.rollout.steps)])
        clean = self._rollout(state.student.ema, conditioning, noises)
        write_preview(vae, {"true": true, "student": clean}, folder / f"{index:06d}")
        return {"preview_error": float(jnp.mean(jnp.square(clean - true)))}

    def weights(self, state: DistillationState) -> DiT:
        """The averaged student."""
        return state.student.ema

    def describe(self) -> dict[str, Any]:
        """The rollout that the student was distilled for."""
        return {"rollout": to_json(self.config.rollout)}
