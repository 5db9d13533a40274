"""The systems that are compared: models and generators, built once and only as far as they are wanted."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flax import nnx
from tqdm import tqdm

from tm_jax.audio.log_mel import LogMel
from tm_jax.config import from_json
from tm_jax.data.puppets.world import PuppetWorld
from tm_jax.diffusion.sampler import Guidance, SamplerConfig
from tm_jax.diffusion.schedule import RolloutConfig, Schedule
from tm_jax.errors import InputError
from tm_jax.evaluation.generators import (
    Encoder,
    Generator,
    HeldOut,
    Reconstruction,
    Streamer,
    TeacherSampler,
    clip_frames,
    held_still,
    latents_shuffled,
    with_shuffled_sound,
)
from tm_jax.evaluation.reader import Reader, ReaderConfig
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.front_ends import own_front_end
from tm_jax.pretrained.weights import load_model, read_config, read_header


class Systems:
    """Models and generators, built once and only as far as they are wanted."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.reader = load_model(arguments.reader, Reader, ReaderConfig)
        self.vae = load_model(arguments.vae, VAE, VAEConfig) if arguments.what != "reader" else None
        self.encoder = None if self.vae is None else self._encoder()
        schedule = Schedule(shift=arguments.shift)
        self.sampler = SamplerConfig(arguments.steps, schedule, Guidance(audio=arguments.guidance))
        self.rollout = RolloutConfig(arguments.chunk, arguments.student_steps, schedule)
        if arguments.what in ("student", "drift", "all"):
            shipped = read_header(arguments.student).meta.get("rollout")
            self.rollout = self.rollout if shipped is None else from_json(RolloutConfig, shipped)

    def _encoder(self) -> Encoder:
        """Makes what the models that are measured are told; no sound is regressor where only the VAE is.

        Raises:
            InputError: they do not agree, or what they listen through is missing.
        """
        arguments, what = self.arguments, self.arguments.what
        paths = [] if what == "vae" else [arguments.student]
        if what == "teacher":
            paths = [arguments.teacher]
        elif what != "drift":
            paths += [path for path in (arguments.teacher, arguments.warmup) if paths and path.exists()]
        kinds = {
            path: (config.audio_width, config.still_condition)
            for path, config in ((path, read_config(path, DiTConfig)) for path in paths)
        }
        if len(set(kinds.values())) > 1:
            listed = ", ".join(f"{path} {width} and {still}" for path, (width, still) in kinds.items())
            raise InputError(
                f"The models differ in audio_width and still_condition ({listed}): give models of one kind."
            )
        if not kinds:
            return Encoder(self.vae, LogMel())
        ((width, still),) = set(kinds.values())
        found = own_front_end(width, arguments.visemes)
        if found is None:
            raise InputError(
                f"{paths[0]} reads audio tokens of {width} numbers, which {arguments.visemes} does not "
                "give: say by --visemes which viseme encoder it was trained with."
            )
        return Encoder(self.vae, found, still=still)

    def model(self, path: Path) -> DiT:
        """A transformer's weights."""
        return load_model(path, DiT, DiTConfig)

    def streamer(self, path: Path) -> Streamer:
        """A causal model from these weights."""
        return Streamer(self.model(path), self.vae, self.rollout)

    def generators(self) -> dict[str, Generator]:
        """The systems that this evaluation compares, by name."""
        arguments, what = self.arguments, self.arguments.what
        if what == "reader":
            return {}
        found: dict[str, Generator] = {
            "vae": Reconstruction(self.vae),
            "held still": held_still,
            "latents shuffled": latents_shuffled,
        }
        has_teacher = arguments.teacher.exists()
        if what == "teacher" or (what in ("student", "all") and has_teacher):
            teacher = self.model(arguments.teacher)
            found["teacher"] = TeacherSampler(teacher, self.vae, self.sampler, self.rollout.chunk)
            if what != "teacher":
                found["untrained"] = Streamer(teacher, self.vae, self.rollout)
        if what in ("student", "all"):
            if arguments.warmup.exists():
                found["warm-up"] = self.streamer(arguments.warmup)
            found["student"] = self.streamer(arguments.student)
            found["random weights"] = self.random_network(found["student"])
            found["shuffled sound"] = _Shuffled(found["student"])
        return found

    def random_network(self, student: Streamer) -> Streamer:
        """A network of the student's size that nobody trained: the control of the whole chain."""
        config = student.model.config
        return Streamer(DiT(config, rngs=nnx.Rngs(self.arguments.seed)), self.vae, self.rollout)


class _Shuffled:
    """A generator whose characters hear each other's sound."""

    def __init__(self, generator: Generator):
        self.generator = generator

    def __call__(self, held_out: HeldOut) -> np.ndarray:
        return self.generator(with_shuffled_sound(held_out))


def held_out_batches(arguments, systems: Systems, split: str, count: int) -> Iterator[HeldOut]:
    """Held-out clips, encoded (unless only the reader is measured), a few at a time, with a progress bar."""
    world = PuppetWorld(seed=arguments.seed, split=split, size=arguments.size)
    seconds = clip_frames(arguments.seconds, systems.rollout.chunk) / 25
    with tqdm(total=count, desc=f"{split} clips", unit="clip", leave=False) as bar:
        for start in range(0, count, arguments.batch):
            indices = list(range(start, min(count, start + arguments.batch)))
            clips = [world.clip(index, seconds) for index in indices]
            yield systems.encoder(clips, indices) if systems.encoder else HeldOut(clips, (), indices)
            bar.update(len(indices))
