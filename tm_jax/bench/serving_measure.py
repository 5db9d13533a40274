"""The measurements behind ``bench serving``: one backend, one rollout, sound from a file and a clock."""

import dataclasses
import gc
import resource
import threading
import time
from typing import Any

import numpy as np
import torch

from tm_jax.audio.voice_activity import SPEAKING
from tm_jax.bench.serving import Arguments
from tm_jax.flags import WEIGHTS
from tm_jax.media.sound import read_audio
from tm_jax.models.flops import chunk_flops, vae_decode_flops
from tm_jax.rates import FRAMES_PER_SECOND, SAMPLE_RATE
from tm_jax.streaming.engine import StreamEngine
from tm_jax.torch_runtime import devices
from tm_jax.torch_runtime.backend import TorchBackend
from tm_jax.torch_runtime.parts import load_backend
from tm_jax.torch_runtime.random_parts import random_backend

OutOfMemory = torch.OutOfMemoryError
UNMEASURED = 3
"""Chunks at a stream's beginning that are left out of the rates."""
BLOCK = 320
"""Samples of a block of live sound: 20 ms."""
PEAKS = {"H100": {"bf16": 989e12, "fp8": 1979e12}, "H200": {"bf16": 989e12, "fp8": 1979e12}}
"""Dense operations a second of the tensor cores, from the vendor's data sheets (SXM)."""


@dataclasses.dataclass(frozen=True)
class ChunkSpan:
    """When a chunk's stages ran, in seconds from the stream's start."""

    dit_from: float
    dit_to: float
    vae_from: float
    vae_to: float


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one setting reached; times in seconds, unless their name says otherwise."""

    dtype: str
    chunk: int
    """Latent frames of a chunk."""
    steps: int
    dit_device: str
    vae_device: str
    size: tuple[int, int]
    threads: int
    """Of PyTorch, on a CPU."""
    chunks: int
    """Measured."""
    dit_ms: float
    """Median of denoising a chunk."""
    copy_ms: float
    """Median of its latents' way to another device."""
    vae_ms: float
    """Median of decoding it."""
    overlap: float
    """Share of the shorter stage that ran under the longer one: 0 one after the other, 1 all."""
    interval_ms: tuple[float, float, float]
    """From chunk to chunk: p50, p95, p99."""
    fps: float
    real_time: float
    """Seconds of video in a second."""
    first_cold: float
    """From the picture to the first frame, sound at hand, in a process that has just loaded the weights."""
    first_warm: float
    """The same in a process that has streamed before."""
    first_live: float | None
    """From the first block of live sound to the first frame."""
    speech_live: float | None
    """From the block that begins to speak to the first frame of the chunk that speaks."""
    memory_gb: dict[str, float]
    """The most that was allocated, by device; of the host, the process's largest size."""
    tflop_dit: float
    """Work of a chunk's denoising."""
    tflop_vae: float
    tflops: float
    """Both, by the interval."""
    peak_share: float | None
    """Of the device's peak in this precision, where that is known and both stages share it."""
    spans: tuple[ChunkSpan, ...]
    """Of the first chunks, for the timeline."""


class _Copies:
    """A backend that also notes how long latents take to cross over."""

    def __init__(self, backend: "TorchBackend | WithoutVae"):
        self._backend, self.seconds = backend, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def decode(self, latents, state, *, first):
        """The backend's, and the latents' way is noted."""
        yield from self._backend.decode(latents, state, first=first)
        self.seconds.append(latents.copy_seconds())


class WithoutVae:
    """A backend that gives blank frames, as if decoding were another device's work and free of cost here."""

    def __init__(self, backend: TorchBackend):
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def decode(self, latents, state, *, first):
        """As many frames as the latents are worth."""
        for index in range(len(latents.tensor)):
            count = 1 if first and index == 0 else self._backend.config.vae.temporal_stride
            yield np.zeros((count, *self._backend.size, 3), np.uint8), state


def prepare(arguments: Arguments, dtype: str, apart: bool) -> TorchBackend:
    """The backend that the arguments ask for, alone in memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    first, second = devices.default_devices()
    dit = arguments.dit_devices or first
    vae = arguments.vae_devices or (second if apart else dit)
    if arguments.folder is not None:
        return load_backend(arguments.folder, dit_device=dit, vae_device=vae, dtype=dtype or None)
    from tm_jax.torch_runtime.random_parts import CONFIGS

    places = devices.device(dit, "--dit-devices"), devices.device(vae, "--vae-devices")
    rollout = CONFIGS[arguments.random].rollout
    return random_backend(
        arguments.random, rollout, dtype or CONFIGS[arguments.random].dtype, places[0], places[1]
    )


def measure(
    backend: TorchBackend, chunk: int, steps: int, chunks: int, *, live: bool, decode: bool
) -> Figures:
    """All figures of one rollout.

    Args:
      chunks: that are measured.
      live: with the delays that only live sound has.
      decode: with the VAE.

    Raises:
      OutOfMemory: a device has no room for it.
    """
    rollout = dataclasses.replace(backend.rollout, chunk=chunk, steps=steps)
    backend = backend.with_rollout(rollout)
    copies = _Copies(backend if decode else WithoutVae(backend))
    engine = StreamEngine(copies)
    picture = np.random.default_rng(0).integers(0, 256, (*backend.size, 3)).astype(np.uint8)
    sound = speech()
    for place in _gpus(backend):
        torch.cuda.reset_peak_memory_stats(place)
    first_cold = first_frame(engine, picture, sound)
    engine.warm_up()
    first_warm = first_frame(engine, picture, sound)
    copies.seconds.clear()
    timings = sustained(engine, picture, sound, UNMEASURED + chunks)
    first_live = speech_live = None
    if live:
        first_live, speech_live = live_delays(engine, picture, sound)
    ends = np.array([timing.elapsed for timing in timings])[UNMEASURED - 1 :]
    intervals, measured = np.diff(ends), timings[UNMEASURED:]
    dit, vae = (float(np.median([getattr(t, name) for t in measured])) for name in ("dit", "vae"))
    frames = 4 * chunk
    interval = float(np.mean(intervals))
    model, grid = backend.config.student, backend.latent_shape[:2]
    of_dit = steps * chunk_flops(model, chunk=chunk, height=grid[0], width=grid[1]).forward
    of_vae = vae_decode_flops(backend.config.vae, latents=chunk, height=grid[0], width=grid[1]) * decode
    rate = (of_dit + of_vae) / interval
    return Figures(
        dtype=backend.dit.dtype,
        chunk=chunk,
        steps=steps,
        dit_device=str(backend.dit.device),
        vae_device=str(backend.vae.device) if decode else "left out",
        size=backend.size,
        threads=torch.get_num_threads(),
        chunks=len(measured),
        dit_ms=1e3 * dit,
        copy_ms=1e3 * float(np.median(copies.seconds or [0.0])),
        vae_ms=1e3 * vae,
        overlap=float(np.clip((dit + vae - interval) / max(min(dit, vae), 1e-9), 0, 1)),
        interval_ms=tuple(1e3 * float(np.percentile(intervals, p)) for p in (50, 95, 99)),
        fps=frames / interval,
        real_time=frames / interval / FRAMES_PER_SECOND,
        first_cold=first_cold,
        first_warm=first_warm,
        first_live=first_live,
        speech_live=speech_live,
        memory_gb=memory(backend),
        tflop_dit=of_dit / 1e12,
        tflop_vae=of_vae / 1e12,
        tflops=rate / 1e12,
        peak_share=peak_share(backend, rate),
        spans=tuple(_span(timing) for timing in timings[: UNMEASURED + 6]),
    )


def _span(timing) -> ChunkSpan:
    start = timing.elapsed - timing.total
    return ChunkSpan(start, start + timing.dit, timing.elapsed - timing.vae, timing.elapsed)


def speech() -> np.ndarray:
    """Speech that comes with the package, 16 kHz mono."""
    path = WEIGHTS.parent / "assets" / "speech.wav"
    return np.concatenate(list(read_audio(path).blocks)).astype(np.float32)


def first_frame(engine: StreamEngine, picture: np.ndarray, sound: np.ndarray) -> float:
    """Seconds from the picture to the first frame, all sound at hand."""
    begun = time.perf_counter()
    with engine.session(picture, mode="speak") as session:
        session.push(np.resize(sound, SAMPLE_RATE * 4 * engine.rollout.chunk // FRAMES_PER_SECOND))
        session.finish()
        next(session.pieces())
        return time.perf_counter() - begun


def sustained(engine: StreamEngine, picture: np.ndarray, sound: np.ndarray, chunks: int) -> list:
    """The times of so many chunks, all sound at hand."""
    seconds = 4 * engine.rollout.chunk * (chunks + 1) / FRAMES_PER_SECOND
    timings = []
    with engine.session(picture, mode="speak", backlog=seconds + 1) as session:
        session.push(np.resize(sound, int(SAMPLE_RATE * seconds)))
        for piece in session.pieces():
            if piece.last:
                timings.append(piece.timing)
            if len(timings) == chunks:
                break
    return timings


def seconds_a_chunk(engine: StreamEngine, picture: np.ndarray, chunks: int) -> float:
    """The mean time of so many chunks, after those that are not measured."""
    timings = sustained(engine, picture, speech(), UNMEASURED + chunks)
    return (timings[-1].elapsed - timings[UNMEASURED - 1].elapsed) / chunks


def live_delays(engine: StreamEngine, picture: np.ndarray, sound: np.ndarray) -> tuple[float, float]:
    """Seconds from the first block to the first frame, and from speech after silence to frames that speak."""
    quiet = 3.0
    silence = np.zeros(int(SAMPLE_RATE * quiet), np.float32)
    begins = np.flatnonzero(np.abs(sound) > 0.02)[0]
    sound_in = np.concatenate([silence, sound[begins : begins + 5 * SAMPLE_RATE]])
    pushed: dict[str, float] = {}
    with engine.session(picture, mode="auto") as session:

        def feed() -> None:
            begun = time.perf_counter()
            for start in range(0, len(sound_in), BLOCK):
                wait = begun + (start + BLOCK) / SAMPLE_RATE - time.perf_counter()
                time.sleep(max(0.0, wait))
                now = time.perf_counter()
                pushed.setdefault("first", now)
                if start + BLOCK > len(silence):
                    pushed.setdefault("speech", now)
                session.push(sound_in[start : start + BLOCK])
            session.finish()

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        first = speaks = float("nan")
        for piece in session.pieces():
            now = time.perf_counter()
            if np.isnan(first):
                first = now - pushed["first"]
            if np.isnan(speaks) and "speech" in pushed and (piece.mode == SPEAKING).any():
                speaks = now - pushed["speech"]
        feeder.join()
    return first, speaks


def memory(backend: TorchBackend) -> dict[str, float]:
    """The most that was allocated, in GB."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {str(place): torch.cuda.max_memory_allocated(place) / 1e9 for place in _gpus(backend)} | {
        "host": host
    }


def peak_share(backend: TorchBackend, rate: float) -> float | None:
    """Share of the peak rate of a known device that runs both stages."""
    if backend.dit.device.type != "cuda" or backend.dit.device != backend.vae.device:
        return None
    name = torch.cuda.get_device_name(backend.dit.device)
    peak = next((peaks.get(backend.dit.dtype) for known, peaks in PEAKS.items() if known in name), None)
    return None if peak is None else rate / peak


def _gpus(backend: TorchBackend) -> list[torch.device]:
    both = dict.fromkeys((backend.dit.device, backend.vae.device))
    return [place for place in both if place.type == "cuda"]
