"""Phase 2 as the loop runs it: the audio-conditioned teacher on encoded videos, puppets' or people's.

With ``init_from`` it starts from a public Wan checkpoint, whose output it has until it learns to hear: the
audio module is silent at first, or that of FantasyTalking with ``init_audio``.  The state is made with zeros
then, and ``start`` puts the values in their place, shard by shard.  A teacher of ours may be the start as
well; if it is to hear other audio tokens or to predict something else, what does so begins afresh.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tm_jax.data.encoded_videos import EncodedConfig
from tm_jax.data.latent_clips import ClipConfig, LatentClips
from tm_jax.diffusion.noise import stream_noise
from tm_jax.diffusion.sampler import SamplerConfig, sample
from tm_jax.evaluation.event_gains import LEVELS, EventClips, event_clips, model_gains
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.nn.masks import Bidirectional
from tm_jax.pretrained.fantasytalking import FantasyTalking, open_fantasytalking
from tm_jax.pretrained.front_ends import load_front_end
from tm_jax.pretrained.runs import saved_steps
from tm_jax.pretrained.sources import load_any
from tm_jax.sharding import AnyMesh, keep_sharded, shard
from tm_jax.training.abstract import (
    Steps,
    abstract_batch,
    abstract_state,
    clip_shapes,
    compiled_once,
    conditioning_shapes,
)
from tm_jax.training.accumulate import gradients_of
from tm_jax.training.clip_data import check_clips, clip_work, heldout_clips, training_videos
from tm_jax.training.device_clips import DeviceClips
from tm_jax.training.flow_matching import FlowMatchingLoss, NoisedClip, draw_clip, velocity_loss
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.networks import DiTSource, open_dit
from tm_jax.training.optim import OptimConfig, make_optimizer
from tm_jax.training.passes import ClipShape, teacher_passes
from tm_jax.training.previews import write_preview
from tm_jax.training.state import TrainState
from tm_jax.types import Conditioning

HEARING = ("audio_embedding.", "mode_embedding", "blocks.audio.")
"""Beginnings of the names of the parameters that no silent model has."""


@dataclasses.dataclass(frozen=True)
class TeacherExperiment:
    """Everything that decides a teacher's training."""

    loop: LoopConfig
    model: DiTConfig
    vae: Path
    """The VAE whose latents the teacher learns: weights or a run of ours, or a public folder or Hub id."""
    init_from: str | None = None
    """Public Wan transformer to start from: a folder, a safetensors file or a Hub id; or weights or the run
    of a teacher of ours, of the same sizes but for its audio tokens, its condition and what it predicts.
    None starts afresh."""
    init_audio: Path | None = None
    """FantasyTalking's audio weights as safetensors, by which a teacher that starts from a public checkpoint
    hears from the first step; None begins silent.  Preset wan14b_fantasytalking_teacher has their sizes."""
    optim: OptimConfig = OptimConfig()
    loss: FlowMatchingLoss = FlowMatchingLoss()
    clip: ClipConfig = ClipConfig()
    videos: EncodedConfig = EncodedConfig()
    prepared: Path | None = None
    """Folder of real clips from ``python -m tm_jax.data.prepare``; None draws and encodes puppets."""
    visemes: Path | None = None
    """Weights of the viseme encoder through which puppets are heard; None is log-mel."""
    cache: Path = Path("cache")
    """Folder of encoded puppets."""
    on_device: bool = False
    """Whether the encoded videos are put on the devices, which then cut the clips themselves."""
    trained: Literal["all", "audio"] = "all"
    """audio: only what hears learns, the audio module and the mode embedding; what the model could do before
    stays as it was, and neither gradients nor moments of it are held.  A second run then trains all."""
    ema: float = 0.999
    """Decay of the average of the parameters that is shipped."""
    sampler: SamplerConfig = SamplerConfig()
    """How previews are sampled."""

    def __post_init__(self):
        check_clips(self)
        if self.init_audio is not None and self.init_from is None:
            raise ValueError("init_audio: audio weights belong to a model, give init_from too")
        if self.trained == "audio" and not self.model.has_audio:
            raise ValueError("trained 'audio': the model has no audio module, so give --model.audio-dim")

    def build(self) -> "TeacherPhase":
        """The phase that the loop runs."""
        return TeacherPhase(self)


class TeacherPhase:
    """Flow matching; the loop's Phase."""

    def __init__(self, config: TeacherExperiment):
        """Compares the headers of ``init_from`` with the model, unless the run has a checkpoint already.

        Raises:
            InputError: with every key of the public checkpoint that does not fit.
        """
        self.config = config
        self.source: DiTSource | None = None
        self.audio: FantasyTalking | None = None
        self._events: EventClips | None = None
        self._device: DeviceClips | None = None
        if config.init_from is not None and not saved_steps(config.loop.folder / "checkpoints"):
            self.source = open_dit(config.init_from, config.model, as_start=True)
            if config.init_audio is not None:
                self.audio = open_fantasytalking(config.init_audio, config.model)
        only = HEARING if config.trained == "audio" else ()
        self._only = only
        self.tx = make_optimizer(config.optim, only=only)
        self._step = compiled_once("update", self._update, donate_argnums=0)
        self._sample = jax.jit(lambda *given: shard(sample(*given, config.sampler, pattern=Bidirectional())))
        self._passes = teacher_passes(config.model, ClipShape(config.clip.frames, *config.videos.grid))

    def init(self, key: jax.Array) -> TrainState:
        """A fresh teacher; zeros where ``start`` is to put values from files."""
        weights, draws = jax.random.split(key)
        teacher = DiT(self.config.model, rngs=nnx.Rngs(weights))
        if self.source is not None:
            teacher = jax.tree.map(jnp.zeros_like, teacher)
        return TrainState.create(teacher, self.tx, draws)

    def start(self, state: TrainState) -> TrainState:
        """The state with the values of ``init_from``, read straight into their shards."""
        if self.source is None:
            return state
        # The zeros go first: two whole models more would not fit beside the optimizer's state.
        for leaf in jax.tree.leaves((state.model, state.ema)):
            leaf.delete()
        teacher = self.source.load(self.config.loop.rules, seed=self.config.loop.seed)
        if self.audio is not None:
            teacher = self.audio.load(teacher)
        self.source = self.audio = None
        return state.begin_with(teacher)

    def _update(self, state: TrainState, batch: dict) -> tuple[TrainState, dict[str, jax.Array]]:
        config, loop = self.config, self.config.loop
        given = Conditioning(**batch["conditioning"])
        clip = draw_clip(batch["latents"], batch["lids"], given, state.draw(), config.loss)

        def loss_of(model: DiT, clip: NoisedClip) -> tuple[jax.Array, dict]:
            terms = config.loss
            predicted = model(clip.noisy, clip.sigma, clip.conditioning, pattern=Bidirectional())
            loss = velocity_loss(
                predicted, clip, face=terms.face, mouth=terms.mouth, low=terms.low, blink=terms.blink
            )
            return loss, {"loss": loss}

        gradients, metrics = gradients_of(
            [loss_of], state.model, clip, parts=loop.accumulate, only=self._only, rules=loop.rules
        )
        return keep_sharded(state.apply(gradients, self.tx, config.ema), loop.rules), metrics

    def work(self, index: int) -> tuple[float, float]:
        """Tokens of the batch, and model FLOPs of the update."""
        return clip_work(self.config, [self._passes["update"]])

    def abstract_batch(self, mesh: AnyMesh) -> dict:
        """Shapes and shardings of a batch."""
        config, grid = self.config, self.config.videos.grid
        reference = config.clip.frames if config.prepared else config.videos.reference_frames
        conditioning = conditioning_shapes(
            config.model, config.clip, grid, frames=config.clip.frames, reference_frames=reference
        )
        element = clip_shapes(config.model, config.clip, grid, conditioning)
        return abstract_batch(element, config.loop.batch_size, mesh, config.loop.rules)

    def steps(self, mesh: AnyMesh) -> Steps:
        """The update, with what it takes."""
        state = abstract_state(self, mesh, self.config.loop.rules)
        return {"update": (self._step, (state, self.abstract_batch(mesh)))}

    def step(self, state: TrainState, batch: dict, index: int) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update."""
        return self._step(state, batch if self._device is None else self._device.batch(batch))

    def made_of(self) -> dict[str, str]:
        """Nothing: a checkpoint goes on by itself."""
        return {}

    def dataset(self) -> grain.MapDataset:
        """Random clips of the encoded videos."""
        config, videos = self.config, training_videos(self.config)
        if config.on_device:
            self._device = DeviceClips(config.clip, videos)
            return self._device.dataset(config.loop.seed)
        source = grain.MapDataset.source(videos).seed(config.loop.seed)
        return source.random_map(LatentClips(config.clip))

    def preview(self, state: TrainState, folder: Path, index: int) -> dict[str, float]:
        """Sampled clips of two held-out characters beside the true ones; of puppets, the gains of events."""
        clips = heldout_clips(self.config)
        if clips is None:
            return {}
        conditioning, true = clips
        noise = np.stack([stream_noise(0, row, 0, true.shape[1:]) for row in range(len(true))])
        sampled = np.asarray(self._sample(state.ema, conditioning, noise))
        write_preview(self.config.vae, {"true": true, "sampled": sampled}, folder / f"{index:06d}")
        figures = {"preview_error": float(np.mean(np.square(sampled - true)))}
        alone = jax.process_count() == 1 and self.config.prepared is None
        return figures | (self._gains(state.ema) if alone else {})

    def _gains(self, teacher: DiT) -> dict[str, float]:
        """Share of blinks, glances, head and mouth that the clean estimate gives back, by noise level."""
        config = self.config
        if self._events is None:
            vae, front_end = load_any(config.vae, "vae"), load_front_end(config.visemes)
            self._events = event_clips(
                vae, front_end, config.clip, still=config.model.still_condition, size=config.videos.size
            )
        measured = model_gains(teacher, self._events)
        return {
            f"gain/{name}/{level:g}": value
            for name, values in measured.items()
            for level, value in zip(LEVELS, values, strict=True)
        }

    def weights(self, state: TrainState) -> DiT:
        """The averaged teacher."""
        return state.ema

    def describe(self) -> dict[str, Any]:
        """Nothing beside the config."""
        return {}
