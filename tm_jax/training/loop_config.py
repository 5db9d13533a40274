"""Length, data order, saving, logging and machines of a run."""

import dataclasses
from pathlib import Path

from tm_jax.sharding import MeshConfig, ShardingRules
from tm_jax.training.cluster import ClusterConfig


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Length, data order, saving and logging of a run."""

    name: str
    """Name of the run; it is written to <runs>/<name>."""
    steps: int = 1000
    """Steps in all."""
    batch_size: int = 8
    """Clips in a batch, over all devices."""
    accumulate: int = 1
    """Parts of a batch whose gradients are summed before an update: the memory of one part, the same step."""
    seed: int = 0
    """Seed of the initial weights and of the data's order."""
    run_dir: Path | None = None
    """Folder of the run, which all processes share; runs/<name> when not given."""
    max_minutes: float = 0.0
    """Stop with a checkpoint after this time (0: no limit); the same command resumes."""
    resume: bool = True
    """Continue from the newest checkpoint of the run; with --loop.no-resume a run must be new."""
    same: tuple[str, ...] = ("model",)
    """Fields of the whole config in which a checkpoint must agree to be resumed."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Newest checkpoints that are kept."""
    best: str = ""
    """A figure of the previews, such as preview_error: the checkpoint and the weights where it was smallest
    are kept as well, the weights as best.safetensors."""
    preview_every: int = 500
    """Steps between sample videos (0: none)."""
    log_every: int = 10
    """Steps whose mean makes one point of the log."""
    profile: int = 0
    """Steps to write a trace of, into <run>/profile; it begins with the fourth step after the start."""
    skip: float = 0.01
    """Largest share of the data's elements that may be damaged; they are left out and counted."""
    threads: int = 2
    """Threads that read data ahead, in each process."""
    workers: int = 0
    """Processes that read data ahead instead of threads (0: none)."""
    prefetch: int = 4
    """Batches read ahead."""
    mesh: MeshConfig = MeshConfig()
    """Devices by use."""
    rules: ShardingRules = ShardingRules()
    """Logical axes by mesh axis."""
    cluster: ClusterConfig = ClusterConfig()
    """The processes of the run."""

    def __post_init__(self):
        counts = (
            self.steps,
            self.batch_size,
            self.accumulate,
            self.checkpoint_every,
            self.keep,
            self.log_every,
        )
        if min(counts) < 1:
            raise ValueError(
                "steps, batch_size, accumulate, checkpoint_every, keep and log_every must be at least 1"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed {self.seed}: give 0 to {2**32 - 1}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"a batch of {self.batch_size} does not split into {self.accumulate} equal parts"
            )

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return Path(self.run_dir) if self.run_dir else Path("runs") / self.name
