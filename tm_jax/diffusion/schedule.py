"""Which noise levels are visited, by sampler and student: plain numbers that need no JAX."""

import dataclasses

from tm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which noise levels are visited."""

    shift: float = 5.0
    """Timestep shift s: σ' = s·σ / (1 + (s−1)·σ).  Wan's default is 5; 3 is advised at 480p and below."""

    def __post_init__(self):
        if self.shift <= 0:
            raise ValueError(f"schedule shift {self.shift}: must be positive")

    def warp(self, sigma):
        """The shifted noise level of an evenly spaced one."""
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)

    def steps(self, count: int) -> tuple[float, ...]:
        """The ``count + 1`` noise levels of a sampler, from 1 down to 0."""
        return tuple(float(self.warp(1 - index / count)) for index in range(count + 1))


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """How the student generates."""

    chunk: int = 3
    """Latent frames a chunk: 3 for the lowest latency, 7 for quality."""
    steps: int = 2
    """Denoising steps, and network evaluations, a chunk."""
    schedule: Schedule = Schedule()
    """Noise levels are the schedule's: {1, shift(1/2)} in 2 steps."""
    correlation: float = 0.0
    """Correlation ρ of the noise at σ = 1 between neighbouring chunks, in training and streaming alike."""
    clean_kv: bool = False
    """Whether chunks read what earlier ones wrote when they were clean, which costs one more evaluation a
    chunk, instead of what they wrote at the same step.  For the ablation: PyTorch exports don't do it."""

    def __post_init__(self):
        if self.chunk < 1 or self.steps < 1:
            raise ValueError(f"chunks of {self.chunk} in {self.steps} steps: give at least 1 of both")
        if not 0 <= self.correlation < 1:
            raise ValueError(f"correlation {self.correlation}: it lies from 0 to below 1")

    def in_steps(self, steps: int | None) -> "RolloutConfig":
        """The same rollout in another number of steps; None leaves it as the student was distilled.

        Raises:
            InputError: there are no such steps.
        """
        if steps is None:
            return self
        if not 1 <= steps <= 50:
            raise InputError(f"{steps} denoising steps a chunk: give 1 to 50.")
        return dataclasses.replace(self, steps=steps)

    @property
    def contexts(self) -> int:
        """How many caches a stream holds: one for each step, or the clean one."""
        return 1 if self.clean_kv else self.steps

    def context_of(self, step: int) -> int:
        """Which of them a step reads."""
        return 0 if self.clean_kv else step

    @property
    def evaluations(self) -> int:
        """Network evaluations of a chunk."""
        return self.steps + self.clean_kv

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise level of each step, from 1 downwards, without the final 0."""
        return self.schedule.steps(self.steps)[:-1]
