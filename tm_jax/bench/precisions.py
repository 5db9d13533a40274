"""What lower precisions cost in the picture: exports of one student on held-out characters, beside the first.

    python -m tm_jax.bench precisions --exports out/f32 out/bf16 out/fp8

Every export is streamed by the PyTorch engine itself: the same pictures, sounds, modes and noise.  Lip-sync
and identity are read from the frames as the evaluation reads them (``tm_jax.evaluation``; JAX is needed for
that).  A lower precision passes if it follows the voice as well within 0.03, keeps the identity within 5 %,
and does so in the last minute of a long stream too.
"""

import dataclasses
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tm_jax.data.puppets.world import PuppetWorld, Track
from tm_jax.errors import InputError
from tm_jax.evaluation.drift import Drift, DriftMeter, Minute, drift
from tm_jax.evaluation.reader import Reader, ReaderConfig
from tm_jax.flags import WEIGHTS, ShippedPath
from tm_jax.pretrained.weights import load_model
from tm_jax.rates import FRAMES_PER_SECOND
from tm_jax.streaming.engine import StreamEngine
from tm_jax.torch_runtime.engine import load_engine

LIP_SYNC, IDENTITY = 0.03, 1.05
"""How much lip-sync may fall, and what the identity error may be of the first export's."""
READ = 120
"""Frames that are read at once."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare exports of one student on clips and on a long stream."""

    exports: tuple[Path, ...]
    """Folders of exports; the first is what the others are compared with."""
    clips: int = 24
    """Held-out clips."""
    seconds: float = 6.0
    """Length of a clip."""
    minutes: float = 10.0
    """Length of the long stream; 0 leaves it out."""
    reader: ShippedPath = WEIGHTS / "reader.safetensors"
    """Weights of the evaluation's reader."""
    seed: int = 0
    """Seed of the drawn world."""

    def __post_init__(self):
        if len(self.exports) < 2:
            raise InputError("--exports: give at least two folders, the first to compare the others with.")
        if self.clips < 1 or self.seconds < 3 or not (self.minutes == 0 or self.minutes >= 2):
            raise InputError("--clips must be at least 1, --seconds 3, and --minutes 0 or at least 2.")


@dataclasses.dataclass(frozen=True)
class Quality:
    """What one export made."""

    name: str
    lip_sync: float
    """Mean over clips of the correlation of read and true opening over speaking frames."""
    identity: float
    """Mean over clips of the embedding's distance from the first picture's."""
    first: Minute | None
    """Of the long stream."""
    last: Minute | None

    @property
    def drift(self) -> Drift | None:
        """Last minute against first."""
        return None if self.first is None else drift([self.first, self.last])

    def keeps_up_with(self, whole: "Quality") -> bool:
        """Whether it is as good as another, on the clips and at the end of the long stream."""
        pairs = [(self, whole)] if whole.last is None else [(self, whole), (self.last, whole.last)]
        return all(
            ours.lip_sync >= theirs.lip_sync - LIP_SYNC and ours.identity <= IDENTITY * theirs.identity
            for ours, theirs in pairs
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """All exports, the first of which the others are compared with."""

    qualities: tuple[Quality, ...]

    @property
    def within_bound(self) -> bool:
        """Whether every export is as good as the first."""
        return all(quality.keeps_up_with(self.qualities[0]) for quality in self.qualities)

    def __str__(self) -> str:
        heads = ["export", "lip-sync", "identity error"]
        if self.qualities[0].last is not None:
            heads += ["first minute: lip-sync, identity", "last minute", "colour", "sharpness", ""]
        else:
            heads += [""]
        rows = [heads, ["---"] * len(heads), *map(self._row, self.qualities)]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)

    def _row(self, quality: Quality) -> list[str]:
        cells = [quality.name, f"{quality.lip_sync:.3f}", f"{quality.identity:.4f}"]
        if quality.last is not None:
            minute = lambda one: f"{one.lip_sync:.3f}, {one.identity:.4f}"
            moved = quality.drift
            cells += [minute(quality.first), minute(quality.last)]
            cells += [f"{moved.colour:.2f}", f"{moved.sharpness:.3f}"]
        return [*cells, "as good" if quality.keeps_up_with(self.qualities[0]) else "WORSE"]


def run(arguments: Arguments) -> Report:
    """The report; a row is printed as soon as its export is measured."""
    reader = load_model(arguments.reader, Reader, ReaderConfig)
    qualities = []
    for folder in arguments.exports:
        engine = load_engine(folder)
        engine.warm_up()
        name = f"{folder.name} ({engine.backend.config.dtype})"
        qualities.append(measured(name, engine, reader, arguments))
        print(Report(tuple(qualities)).__str__().splitlines()[-1], flush=True)
    return Report(tuple(qualities))


def measured(name: str, engine: StreamEngine, reader: Reader, arguments: Arguments) -> Quality:
    """One export on the clips and on the long stream."""
    world = PuppetWorld(seed=arguments.seed, split="heldout", size=engine.size[0])
    clips = []
    for index in tqdm(range(arguments.clips), desc=f"{name}: clips", leave=False):
        clips += watch(engine, reader, world, index, arguments.seconds, minute=arguments.seconds)
    minutes = [None]
    if arguments.minutes:
        minutes = watch(engine, reader, world, 0, 60 * arguments.minutes, minute=60.0)
    return Quality(
        name,
        float(np.nanmean([clip.lip_sync for clip in clips])),
        float(np.mean([clip.identity for clip in clips])),
        minutes[0],
        minutes[-1],
    )


def watch(
    engine: StreamEngine, reader: Reader, world: PuppetWorld, index: int, seconds: float, *, minute: float
) -> list[Minute]:
    """Stream a held-out character that speaks and listens as its true clip does, measured on the way."""
    track = world.truth(index, seconds)
    picture = world.window(index, 0, 1, seconds=seconds).frames[0]
    meter, done, waiting = DriftMeter(reader, picture, minute), 0, []
    blocks = np.array_split(track.audio.astype(np.float32), max(1, round(seconds)))
    total = len(track.opening)
    with tqdm(total=total, desc="frames", leave=False, disable=seconds < 60) as bar:
        for chunk in engine.stream(picture, blocks, seed=index, mode="speak", listen=listening(track)):
            waiting.append(chunk.frames)
            count = min(sum(map(len, waiting)), total - done)
            bar.update(len(chunk.frames))
            if count < READ and done + count < total:
                continue
            part = slice(done, done + count)
            meter.update(np.concatenate(waiting)[:count], track.opening[part], track.mode[part])
            done, waiting = done + count, []
    return meter.minutes()


def listening(track: Track) -> list[tuple[float, float]]:
    """The stretches of a clip, in seconds, in which its character listens."""
    listens = np.concatenate([[False], track.mode == 0, [False]])
    edges = np.flatnonzero(np.diff(listens.astype(int))) / FRAMES_PER_SECOND
    return [(float(begin), float(end)) for begin, end in edges.reshape(-1, 2)]
