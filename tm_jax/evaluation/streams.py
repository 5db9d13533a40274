"""Ten-minute streams: the causal model driven by minutes of held-out speech, watched as it goes."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from tm_jax.data.encoded_videos import latent_mode
from tm_jax.data.latent_clips import EncodedVideo
from tm_jax.data.puppets.world import PuppetWorld, frame_count
from tm_jax.evaluation.drift import DriftMeter, Minute
from tm_jax.evaluation.generators import Decoder, Encoder, Streamer
from tm_jax.evaluation.reader import Reader
from tm_jax.models.vae import VAE
from tm_jax.streaming.statistics import resident_bytes


@dataclasses.dataclass(frozen=True)
class StreamReport:
    """A long stream, minute by minute and chunk by chunk."""

    minutes: list[Minute]
    chunk_seconds: np.ndarray
    """Time to make each chunk, measuring left out."""
    chunk_memory: np.ndarray
    """Resident bytes after each chunk."""
    stamps: np.ndarray
    """Seconds of video at the end of each chunk."""


def long_video(world: PuppetWorld, index: int, seconds: float, encoder: Encoder) -> EncodedVideo:
    """What a stream of a held-out character is told: its first frame and minutes of sound; no later frame."""
    track = world.truth(index, seconds)
    first = encoder([world.window(index, 0, 5, seconds=seconds)], [0]).encoded[0]
    tokens = encoder.front_end.tokens(track.audio).astype(np.float16)
    mode = latent_mode(track.mode, 4)
    # Of the latents only the number counts.
    blank = np.broadcast_to(np.zeros((), np.float16), (len(mode), *first.latents.shape[1:]))
    return dataclasses.replace(first, latents=blank, audio_tokens=tokens, mode=mode, lids=None)


def run_stream(
    streamer: Streamer,
    reader: Reader,
    world: PuppetWorld,
    index: int,
    seconds: float,
    encoder: Encoder,
    *,
    minute: float = 60.0,
    progress: Callable[[float], None] = lambda seconds: None,
) -> StreamReport:
    """Stream one character for ``seconds`` and measure it on the way."""
    track, video = world.truth(index, seconds), long_video(world, index, seconds, encoder)
    chunks = (1 + (frame_count(seconds) - 1) // 4) // streamer.config.chunk
    meter = DriftMeter(reader, world.window(index, 0, 1, seconds=seconds).frames[0], minute)
    done, times, memory, stamps = 0, [], [], []
    started = time.perf_counter()
    for frames in streamer.frames([video], [index], chunks):
        times.append(time.perf_counter() - started)
        part = slice(done, done + frames.shape[1])
        meter.update(frames[0], track.opening[part], track.mode[part])
        done += frames.shape[1]
        memory.append(resident_bytes())
        stamps.append(done / 25)
        progress(done / 25)
        started = time.perf_counter()
    return StreamReport(meter.minutes(), np.array(times), np.array(memory), np.array(stamps))


def vae_identity_error(
    vae: VAE, reader: Reader, world: PuppetWorld, index: int, encoder: Encoder, seconds: float = 12.0
) -> float:
    """Identity error of a true clip of the same character through the VAE: the ceiling."""
    clip = world.clip(index, seconds)
    meter = DriftMeter(reader, clip.frames[0], seconds)
    latents = np.asarray(encoder([clip], [0]).encoded[0].latents, np.float32)[None]
    meter.update(Decoder(vae)(latents)[0])
    return meter.minutes()[0].identity
