"""The parity gate: a rollout of the export in PyTorch against the same rollout of its checkpoint in JAX.

Both hear the same speech through their own front ends, see the same picture through their own encoders and
start from the same noise, for eight chunks, which is past the pinning of positions.  The reference computes
in float32, whatever the model was trained in.

    f32    latents within 1e-4 of the reference at every chunk, frames within 1 of 255
    bf16   latents within 0.02, frames at least 45 dB
    fp8    latents within 0.06, frames at least 35 dB
"""

import dataclasses
import importlib.metadata
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from tm_jax.audio.chunking import AudioChunker
from tm_jax.config import to_json
from tm_jax.diffusion.noise import stream_noise
from tm_jax.errors import InputError
from tm_jax.export.source import Source
from tm_jax.media.picture import load_picture
from tm_jax.media.sound import read_audio
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.wav2vec2_front_end import Wav2Vec2FrontEnd
from tm_jax.pretrained.front_ends import load_front_end
from tm_jax.pretrained.sources import load_by_slices
from tm_jax.pretrained.weights import origin
from tm_jax.rates import FRAMES_PER_SECOND, SAMPLE_RATE
from tm_jax.streaming.backend import Backend
from tm_jax.streaming.jax_engine import JaxBackend, read_rollout

ASSETS = Path(__file__).parent.parent / "assets"


@dataclasses.dataclass(frozen=True)
class Bounds:
    """How far an export may lie from its reference, at every chunk."""

    latents: float
    """Relative error of the latents."""
    frames: int
    """Largest difference of a pixel, of 255."""
    decibels: float
    """Least signal-to-noise ratio of the frames."""


BOUNDS = {
    "f32": Bounds(latents=1e-4, frames=1, decibels=50.0),
    "bf16": Bounds(latents=0.02, frames=255, decibels=45.0),
    "fp8": Bounds(latents=0.06, frames=255, decibels=35.0),
}


@dataclasses.dataclass(frozen=True)
class ChunkOutput:
    """What a backend made of one chunk."""

    latents: Float32[np.ndarray, "g h w c"]
    frames: UInt8[np.ndarray, "t y x 3"]


@dataclasses.dataclass(frozen=True)
class ChunkParity:
    """One chunk of the export against its reference."""

    latents: float
    """‖export − reference‖ / ‖reference‖ of the latents."""
    frames: int
    """Largest difference of a pixel, of 255."""
    decibels: float
    """Peak signal-to-noise ratio of the frames; infinite where they are equal."""

    def within(self, bounds: Bounds) -> bool:
        """Whether it keeps the bounds; what is not finite does not."""
        return (
            self.latents <= bounds.latents
            and self.frames <= bounds.frames
            and self.decibels >= bounds.decibels
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """What the gate found."""

    dtype: str
    """Precision of the export."""
    bounds: Bounds
    chunks: tuple[ChunkParity, ...]
    size: tuple[int, int]
    """Height and width of the video that was compared."""
    steps: int
    frames_a_chunk: int
    """Latent frames of a chunk."""

    @property
    def passed(self) -> bool:
        """Whether every chunk keeps the bounds."""
        return all(chunk.within(self.bounds) for chunk in self.chunks)

    def __str__(self) -> str:
        rows = [
            f"{index:5d}  {chunk.latents:12.2e}  {chunk.frames:15d}  {chunk.decibels:8.1f}"
            f"{'' if chunk.within(self.bounds) else '  too far'}"
            for index, chunk in enumerate(self.chunks)
        ]
        about = f"{self.size[1]}×{self.size[0]}, chunks of {self.frames_a_chunk}, {self.steps} steps"
        bound = f"bounds {self.bounds.latents:12.0e}  {self.bounds.frames:15d}  {self.bounds.decibels:8.1f}"
        return "\n".join(
            [
                f"parity of PyTorch ({self.dtype}) with JAX (f32): {'passed' if self.passed else 'FAILED'}",
                about,
                "chunk  latents, rel.  frames, of 255    PSNR dB",
                *rows,
                bound,
            ]
        )


def reference_backend(source: Source) -> JaxBackend:
    """The checkpoint itself in JAX, in float32."""
    attention = "xla" if source.student.attention == "cudnn" else source.student.attention
    config = dataclasses.replace(source.student, dtype="float32", attention=attention)
    if source.front_end == "wav2vec2":
        front_end = Wav2Vec2FrontEnd(source.load_speech())
    else:
        front_end = load_front_end(source.visemes_path)
    text = None if source.prompt is None else source.prompt.tokens(config.text_length)
    return JaxBackend(
        source.load_vae(),
        load_by_slices(source.student_path, DiT, DiTConfig, config=config, progress=False),
        rollout=read_rollout(source.student_path),
        front_end=front_end,
        picture_encoder=source.load_picture_encoder() if source.picture_encoder else None,
        text_tokens=text,
        size=source.size,
    )


def shipped_inputs(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A picture of the given size and some speech, which come with the package."""
    picture = load_picture(ASSETS / "photo.png", size)
    return picture, np.concatenate(list(read_audio(ASSETS / "speech.wav").blocks))


def roll_out(
    backend: Backend,
    to_host: Callable[[Any], np.ndarray],
    picture: UInt8[np.ndarray, "y x 3"],
    sound: Float32[np.ndarray, "s"],
    *,
    chunks: int = 8,
    seed: int = 0,
    face_box: tuple[int, int, int, int] | None = None,
) -> list[ChunkOutput]:
    """The first chunks of a stream, without threads: latents and frames of each.

    Args:
      to_host: from the backend's latents of a chunk to an array [g h w c].
      sound: 16 kHz mono; repeated as often as the chunks need.
    """
    rollout = backend.rollout
    chunker = AudioChunker(
        backend.front_end,
        chunk=rollout.chunk,
        left=backend.audio_left,
        lookahead=backend.audio_lookahead,
    )
    seconds = 4 * rollout.chunk * (chunks + 1) / FRAMES_PER_SECOND
    chunker.push(np.resize(sound, int(SAMPLE_RATE * seconds)).astype(np.float32))
    chunker.finish()
    shape = (1, rollout.chunk, *backend.latent_shape)
    reference = backend.reference(picture, face_box)
    state, decoder, made = backend.begin(reference), None, []
    for index in range(chunks):
        audio_chunk = chunker.take()
        noises = np.stack([stream_noise(seed, index, step, shape) for step in range(rollout.steps)])
        latents, state = backend.denoise(
            reference, state, noises, audio_chunk.windows[None], audio_chunk.mode[None]
        )
        backend.wait(latents)
        pieces = list(backend.decode(latents, decoder, first=index == 0))
        decoder = pieces[-1][1]
        frames = np.concatenate([frames for frames, _ in pieces])
        made.append(ChunkOutput(np.array(to_host(latents), np.float32), frames))
    return made


def of_jax(latents: Any) -> np.ndarray:
    """The JAX backend's latents of a chunk on the host."""
    return np.asarray(latents)[0]


def of_torch(latents: Any) -> np.ndarray:
    """The PyTorch backend's latents of a chunk on the host."""
    return latents.tensor.float().cpu().numpy()


def compare(made: list[ChunkOutput], reference: list[ChunkOutput]) -> tuple[ChunkParity, ...]:
    """Every chunk against its reference."""
    return tuple(_parity(ours, theirs) for ours, theirs in zip(made, reference, strict=True))


def _parity(ours: ChunkOutput, theirs: ChunkOutput) -> ChunkParity:
    error = np.linalg.norm(ours.latents.astype(np.float64) - theirs.latents) / np.linalg.norm(theirs.latents)
    apart = np.abs(ours.frames.astype(np.float64) - theirs.frames)
    square = np.mean(np.square(apart))
    decibels = math.inf if square == 0 else 10 * math.log10(255.0**2 / square)
    return ChunkParity(float(error), int(apart.max()), decibels)


def judge(made: list[ChunkOutput], reference: list[ChunkOutput], backend: Backend, dtype: str) -> Report:
    """The report on a rollout of an export in a precision."""
    return Report(
        dtype=dtype,
        bounds=BOUNDS[dtype],
        chunks=compare(made, reference),
        size=tuple(backend.size),
        steps=backend.rollout.steps,
        frames_a_chunk=backend.rollout.chunk,
    )


def write_report(report: Report, folder: Path) -> None:
    """Put the report into the export, for people and for programs.

    Raises:
      InputError: it cannot be written.
    """
    about = {name: importlib.metadata.version(name) for name in ("jax", "torch")}
    content = {"passed": report.passed, **to_json(report), "versions": about, **origin()}
    # JSON knows no infinity.
    text = json.dumps(content, indent=1).replace("Infinity", "null")
    try:
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        (folder / "report.txt").write_text(f"{report}\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"The report could not be written to {folder}: {error}.") from error
