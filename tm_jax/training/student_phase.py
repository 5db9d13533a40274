"""Phase 3 as the loop runs it: the bidirectional teacher is distilled into the sparse causal student.

    steps 0 … warmup-1     regression alone: cached teacher samples at σ = 1, real clips later
    critic_lead steps      the critic alone
    from then on           critic every step; student every ``critic_per_student``-th, DMD + regression

Each update of the student is three programs, so that the memory of none adds to another's:
    own, real, long     a clip from one of three sources, and what the student makes of it (`student_clips`)
    gap                 the difference of critic and guided teacher there, without gradient (`dmd`)
    student             the clean clip again, with gradient; DMD + regression; the average of the parameters

Student and critic are float32 with their optimizers; the teacher, which never changes, is stored in its
compute dtype.  All are sharded by the same rules, and none is ever whole on a host.  With ``lora`` the two
are low-rank changes of a frozen transformer (`lora`): the teacher or, for the student, ``init_from``.
"""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import flax.struct
import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tm_jax.config import to_json
from tm_jax.diffusion.noise import clip_noises
from tm_jax.diffusion.rollout import clip_steps
from tm_jax.models.dit import DiT
from tm_jax.pretrained.weights import save_sharded
from tm_jax.sharding import AnyMesh, keep_sharded, shard
from tm_jax.training.abstract import (
    Steps,
    abstract_batch,
    abstract_state,
    clip_shapes,
    compiled_once,
    conditioning_shapes,
    latent_shapes,
)
from tm_jax.training.accumulate import Loss, gradients_of, in_parts
from tm_jax.training.clip_data import (
    clip_work,
    heldout_clips,
    training_videos,
    training_videos_digest,
)
from tm_jax.training.device_clips import DeviceClips
from tm_jax.training.dmd import (
    critic_loss,
    distribution_matching_loss,
    draw_gap,
    regression_clips,
    regression_loss,
    score_gap,
)
from tm_jax.training.flow_matching import NoisedClip
from tm_jax.training.frozen import Frozen
from tm_jax.training.lora import Adapters, through, whole
from tm_jax.training.networks import copied, frozen_dit
from tm_jax.training.ode_pairs import make_pairs, pairs_batch, sample_pairs
from tm_jax.training.optim import make_optimizer
from tm_jax.training.paired_clips import PairedClips
from tm_jax.training.passes import ClipShape, distillation_passes
from tm_jax.training.previews import write_preview
from tm_jax.training.state import TrainState
from tm_jax.training.student_clips import CLIPS, StudentClip, abstract_clip, estimate, keep_clip
from tm_jax.training.student_experiment import StudentExperiment
from tm_jax.types import Conditioning, Latents


@flax.struct.dataclass
class DistillationState:
    """Student and critic in training; the teacher never changes."""

    student: TrainState
    critic: TrainState


class StudentPhase:
    """Distillation; the loop's Phase."""

    def __init__(self, config: StudentExperiment):
        self.config = config
        self.warmup_tx = make_optimizer(config.warmup_optim)
        self.tx = make_optimizer(config.optim)
        self.critic_tx = make_optimizer(config.critic_optim)
        self.frozen = Frozen(config)
        self._device: DeviceClips | None = None
        self._passes = distillation_passes(
            config.model,
            ClipShape(config.clip.frames, *config.videos.grid),
            config.rollout,
            guidance=config.loss.guidance,
            sampler=config.pairs.sampler,
            long_chunks=config.long_chunks,
        )
        self._keys = jax.jit(lambda key, step: tuple(jax.random.split(jax.random.fold_in(key, step), 3)))
        self._warm = compiled_once("warmup", self._warmup_update, donate_argnums=0)
        self._critic = compiled_once("critic", self._critic_update, donate_argnums=0)
        self._gap = compiled_once("gap", self._score_gap)
        self._student = compiled_once("student", self._student_update, donate_argnums=0)
        self._student_long = compiled_once("student_long", self._student_update, donate_argnums=0)
        self._draws = {
            (source, step): compiled_once(f"{source}_{step}", partial(self._draw_clip, source, step))
            for source, step in config.sources
        }
        self.sample_pairs = compiled_once("pairs", partial(sample_pairs, config.pairs.sampler))
        self._rollout = jax.jit(
            lambda base, student, conditioning, noises: shard(
                clip_steps(self._whole(base, student), config.rollout, conditioning, noises)[1][-1]
            )
        )
        self._merge = jax.jit(self._whole)

    def _whole(self, base: DiT | None, trained: Any) -> DiT:
        return whole(base, trained, self.config.loop.rules)

    def init(self, key: jax.Array) -> DistillationState:
        """Student and critic of zeros, in whose place ``start`` puts values from files; or no changes."""
        keys = jax.random.split(key)
        if rank := self.config.lora:
            abstract = jax.eval_shape(lambda: frozen_dit(self.config.model))
            student, critic = (Adapters(abstract, rank, jax.random.fold_in(one, 0)) for one in keys)
            return DistillationState(
                TrainState.create(student, self.tx, keys[0]),
                TrainState.create(critic, self.critic_tx, keys[1], averaged=False),
            )
        zeros = lambda: jax.tree.map(jnp.zeros_like, DiT(self.config.model, rngs=nnx.Rngs(0)))
        return DistillationState(
            TrainState.create(zeros(), self.tx, keys[0]),
            TrainState.create(zeros(), self.critic_tx, keys[1], averaged=False),
        )

    def start(self, state: DistillationState) -> DistillationState:
        """Critic and student with the values of the teacher and of ``init_from``, read into their shards.

        With ``lora`` those are read beside the state.

        Raises:
            InputError: a file is missing or of another config.
        """
        config, rules = self.config, self.config.loop.rules
        if config.lora:
            self.frozen.of_student()
            return state
        teacher, own = self.frozen.source("teacher"), self.frozen.source("init_from")
        # The zeros go first: more whole models would not fit beside the optimizers' state.
        for leaf in jax.tree.leaves((state.student.model, state.student.ema, state.critic.model)):
            leaf.delete()
        critic = teacher.load(rules)
        student = copied(critic) if config.init_from is None else own.load(rules)
        return DistillationState(state.student.begin_with(student), state.critic.begin_with(critic))

    def step(
        self, state: DistillationState, batch: dict, index: int
    ) -> tuple[DistillationState, dict[str, jax.Array]]:
        """One step: warm-up, or a critic update and, in its turn, a student update."""
        config = self.config
        batch = batch if self._device is None else self._device.batch(batch)
        base = self.frozen.of_student()
        if index < config.warmup:
            _, _, key = self._keys(state.student.key, state.student.step)
            student, metrics = self._warm(state.student, batch, key, base)
            return state.replace(student=student), metrics
        if index == config.warmup:
            self.save_baseline(state)
        clip_key, noise_key, _ = self._keys(state.critic.key, state.critic.step)
        step, source = config.draw_for_critic(index)
        clip = self._draws[source, step](state.student.model, batch, clip_key, base)
        # Clips of all sources are the same to critic and scores: one program of each serves them.
        seen = clip.clean, clip.conditioning
        critic, metrics = self._critic(state.critic, *seen, noise_key, self.frozen.of_critic())
        del clip, seen
        state = state.replace(critic=critic)
        turn = config.turn(index)
        if turn is not None:
            step, source = config.draw(index, turn)
            clip_key, gap_key, regression_key = self._keys(state.student.key, state.student.step)
            clip = self._draws[source, step](state.student.model, batch, clip_key, base)
            drawn = clip.clean, clip.conditioning
            gap, sizes = self._gap(self.frozen.teacher(), state.critic.model, *drawn, gap_key)
            update = self._student_long if source == "long" else self._student
            student, student_metrics = update(state.student, clip, gap, batch, regression_key, base)
            state, metrics = state.replace(student=student), metrics | sizes | student_metrics
        return state, metrics

    def work(self, index: int) -> tuple[float, float]:
        """Tokens of the batch, and model FLOPs of the step's programs."""
        config = self.config
        names = ["warmup"]
        if index >= config.warmup:
            step, source = config.draw_for_critic(index)
            names = [f"{source}_{step}", "critic"]
            turn = config.turn(index)
            if turn is not None:
                step, source = config.draw(index, turn)
                names += [f"{source}_{step}", "gap", "student"]
        return clip_work(config, [self._passes[name] for name in names])

    def abstract_batch(self, mesh: AnyMesh) -> dict:
        """Shapes and shardings of a batch."""
        config = self.config
        grid, reference = config.videos.grid, config.clip.frames if config.prepared else None
        reference = reference or config.videos.reference_frames
        shapes = lambda frames: conditioning_shapes(
            config.model, config.clip, grid, frames=frames, reference_frames=reference
        )
        latents, clip = latent_shapes(config.model, config.clip, grid), config.clip
        element = {
            "clip": clip_shapes(config.model, clip, grid, shapes(clip.frames)),
            "pair": {"noise": latents, "clean": latents, "conditioning": shapes(clip.frames)},
            "stream": {"conditioning": shapes(config.long_chunks * clip.chunk)},
        }
        return abstract_batch(element, config.loop.batch_size, mesh, config.loop.rules)

    def steps(self, mesh: AnyMesh) -> Steps:
        """Every program of a distillation, with what it takes."""
        config, rules = self.config, self.config.loop.rules
        state, batch = abstract_state(self, mesh, rules), self.abstract_batch(mesh)
        student, critic, key = state.student, state.critic, state.student.key
        teacher, base, critics_base = self.frozen.abstract(mesh)
        clips = {
            of: abstract_clip(partial(self._draw_clip, *of), (student.model, batch, key, base), mesh, rules)
            for of in config.sources
        }
        own = clips["own", config.rollout.steps - 1]
        gap, latents = own.clean, batch["pair"]["noise"]
        pairs = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                (pairs_batch(config.pairs.batch, mesh, rules), *leaf.shape[1:]),
                leaf.dtype,
                sharding=leaf.sharding,
            ),
            (batch["pair"]["conditioning"], latents),
        )
        found = {
            "pairs": (self.sample_pairs, (teacher, *pairs)),
            "warmup": (self._warm, (student, batch, key, base)),
            "critic": (self._critic, (critic, own.clean, own.conditioning, key, critics_base)),
            "gap": (self._gap, (teacher, critic.model, own.clean, own.conditioning, key)),
            "student": (self._student, (student, own, gap, batch, key, base)),
        }
        found |= {
            f"{source}_{step}": (draw, (student.model, batch, key, base))
            for (source, step), draw in self._draws.items()
        }
        if config.long_every:
            long = clips["long", config.rollout.steps - 1]
            found["student_long"] = (self._student_long, (student, long, gap, batch, key, base))
        return found

    def _draw_clip(
        self, source: str, step: int, student: Any, batch: dict, key: jax.Array, base: DiT | None
    ) -> StudentClip:
        config, student = self.config, self._whole(base, student)
        clip = CLIPS[source](student, config.rollout, batch, step, key, parts=config.loop.accumulate)
        return keep_clip(clip, config.loop.rules)

    def _score_gap(
        self,
        teacher: DiT,
        critic: Any,
        clean: Latents,
        conditioning: dict[str, jax.Array],
        key: jax.Array,
    ) -> tuple[Latents, dict[str, jax.Array]]:
        """The gap of the student's clips at a fresh noise level, and its size."""
        config = self.config
        critic = self._whole(teacher if config.lora else None, critic)
        noise, sigma = draw_gap(clean, key, config.loss)
        inputs = NoisedClip(clean, noise, sigma, Conditioning(**conditioning))
        gap = in_parts(
            lambda part: score_gap(teacher, critic, part, config.loss), inputs, config.loop.accumulate
        )
        gap = shard(gap, "batch", rules=config.loop.rules)
        return gap, {"gap_norm": jnp.sqrt(jnp.mean(jnp.square(gap)))}

    def _regression_clips(self, batch: dict, key: jax.Array) -> tuple[NoisedClip, ...]:
        pair, clip = batch["pair"], batch["clip"]
        return regression_clips(
            self.config.rollout,
            (pair["noise"], pair["clean"], Conditioning(**pair["conditioning"])),
            (clip["latents"], Conditioning(**clip["conditioning"])),
            key,
        )

    def _regression_losses(self, weight: float) -> list[Loss]:
        """One loss for each of the student's noise levels, which differ too much to share their memory."""
        config, steps = self.config, self.config.rollout.steps

        def at(step: int) -> Loss:
            def loss(student: DiT, inputs: dict) -> tuple[jax.Array, dict]:
                value = regression_loss(student, inputs["regression"][step], config.rollout, config.loss)
                return weight * value / steps, {f"regression_{step}": value / steps}

            return loss

        return [at(step) for step in range(steps)]

    def _gradients(
        self,
        losses: list[Loss],
        trained: Any,
        inputs: dict,
        base: DiT | None,
        axes: list[int] | None = None,
    ) -> tuple[Any, dict]:
        """The gradient, and the metrics with the regression's levels summed up."""
        loop = self.config.loop
        losses = [through(base, loss, loop.rules) for loss in losses]
        gradients, metrics = gradients_of(
            losses, trained, inputs, parts=loop.accumulate, axes=axes, rules=loop.rules
        )
        levels = [metrics.pop(f"regression_{step}") for step in range(self.config.rollout.steps)]
        return gradients, {
            "regression_loss": sum(levels),
            "student_grad_norm": metrics.pop("grad_norm"),
            **metrics,
        }

    def _warmup_update(self, student: TrainState, batch: dict, key: jax.Array, base: DiT | None):
        inputs = {"regression": self._regression_clips(batch, key)}
        gradients, metrics = self._gradients(self._regression_losses(1.0), student.model, inputs, base)
        metrics["loss"] = metrics.pop("regression_loss")
        student = student.apply(gradients, self.warmup_tx, self.config.ema)
        return keep_sharded(student, self.config.loop.rules), metrics

    def _student_update(
        self,
        student: TrainState,
        clip: StudentClip,
        gap: Latents,
        batch: dict,
        key: jax.Array,
        base: DiT | None,
    ) -> tuple[TrainState, dict]:
        config = self.config

        def matching(model: DiT, inputs: dict) -> tuple[jax.Array, dict]:
            clip = inputs["clip"]
            clean = estimate(model, config.rollout, clip)
            loss = distribution_matching_loss(
                clean, inputs["gap"], Conditioning(**clip.conditioning), config.loss
            )
            return config.loss.dmd * loss, {"dmd_loss": loss}

        inputs = {"clip": clip, "gap": gap, "regression": self._regression_clips(batch, key)}
        # Members of a dict are flattened in the order of their names.
        rest = jax.tree.leaves({name: inputs[name] for name in ("gap", "regression")})
        axes = clip.batch_axes() + [0] * len(rest)
        losses = [matching, *self._regression_losses(config.loss.regression)]
        gradients, metrics = self._gradients(losses, student.model, inputs, base, axes)
        return keep_sharded(student.apply(gradients, self.tx, config.ema), config.loop.rules), metrics

    def _critic_update(
        self,
        critic: TrainState,
        clean: Latents,
        conditioning: dict[str, jax.Array],
        key: jax.Array,
        base: DiT | None,
    ) -> tuple[TrainState, dict]:
        config, loop = self.config, self.config.loop
        noise, sigma = draw_gap(clean, key, config.loss)
        inputs = NoisedClip(clean, noise, sigma, Conditioning(**conditioning))

        def loss_of(model: DiT, inputs: NoisedClip) -> tuple[jax.Array, dict]:
            loss = critic_loss(model, inputs, config.loss)
            return loss, {"loss": loss, "critic_loss": loss}

        gradients, metrics = gradients_of(
            [through(base, loss_of, loop.rules)],
            critic.model,
            inputs,
            parts=loop.accumulate,
            rules=loop.rules,
        )
        metrics["critic_grad_norm"] = metrics.pop("grad_norm")
        return keep_sharded(critic.apply(gradients, self.critic_tx), loop.rules), metrics

    def save_baseline(self, state: DistillationState) -> None:
        """The warmed-up student, kept beside the run as a baseline for the evaluation."""
        path = self.config.loop.folder / "warmup.safetensors"
        save_sharded(path, self.weights(state), self.config.model, self.describe(), step=self.config.warmup)

    def made_of(self) -> dict[str, str]:
        """The teacher, to which critic and pairs belong; with ``lora`` also what the student changes."""
        fields = ("teacher", "init_from") if self.config.lora else ("teacher",)
        return {field: self.frozen.digest(field) for field in fields}

    def dataset(self) -> grain.MapDataset:
        """Clips, cached pairs and streams; the pairs are sampled first if they are not there."""
        config = self.config
        videos = training_videos(config)
        made_of = self.frozen.digest("teacher"), config.pairs, config.clip, config.rollout.correlation
        of = hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]
        folder = config.cache / f"pairs-{of}-{training_videos_digest(config)}"
        pairs = make_pairs(
            self.frozen.teacher,
            self.sample_pairs,
            videos,
            config.clip,
            config.pairs,
            config.rollout,
            folder,
            config.loop.rules,
        )
        if config.on_device:
            self._device = DeviceClips(config.clip, videos, pairs, config.long_chunks)
            return self._device.dataset(config.loop.seed)
        data = grain.MapDataset.source(videos).seed(config.loop.seed)
        return data.random_map(PairedClips(config, videos, pairs))

    def preview(self, state: DistillationState, folder: Path, index: int) -> dict[str, float]:
        """The student's clips of two held-out characters beside the true ones."""
        config = self.config
        clips = heldout_clips(config)
        if clips is None:
            return {}
        conditioning, true = clips
        chunk = (config.rollout.chunk, *true.shape[2:])
        drawn = [clip_noises(seed, config.clip.chunks, chunk, config.rollout) for seed in range(len(true))]
        noises = np.stack(drawn, axis=1)
        clean = np.asarray(self._rollout(self.frozen.of_student(), state.student.ema, conditioning, noises))
        write_preview(config.vae, {"true": true, "student": clean}, folder / f"{index:06d}")
        return {"preview_error": float(np.mean(np.square(clean - true)))}

    def weights(self, state: DistillationState) -> DiT:
        """The averaged student, its changes merged."""
        base = self.frozen.of_student()
        return state.student.ema if base is None else self._merge(base, state.student.ema)

    def describe(self) -> dict[str, Any]:
        """The rollout that the student was distilled for."""
        return {"rollout": to_json(self.config.rollout)}
