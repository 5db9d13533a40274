"""The two stages of a stream, each the work of one thread: the same for every backend."""

import time
from collections.abc import Callable
from typing import Any

from tm_jax.audio.chunking import AudioChunker, ChunkAudio
from tm_jax.diffusion.noise import chunk_noises
from tm_jax.rates import SAMPLES_PER_FRAME
from tm_jax.streaming.backend import Backend
from tm_jax.streaming.channel import Channel, Closed
from tm_jax.streaming.inbox import End, Fault, Inbox, Sound
from tm_jax.streaming.statistics import ChunkTiming, StreamChunk


def run_stage(stage: Callable[[], None], inbox: Inbox, output: Channel) -> None:
    """Run a stage to its end; what it raises goes on to whoever takes the chunks, and ends the stream."""
    try:
        stage()
        last: End | Fault = End()
    except Closed:
        return
    except BaseException as error:
        inbox.close()
        last = Fault(error, fatal=True)
    try:
        output.put(last)
    except Closed:
        pass


def denoise_stage(
    backend: Backend, reference: Any, chunker: AudioChunker, seed: int, inbox: Inbox, output: Channel
) -> None:
    """Latents of chunk after chunk, each with what the chunk hears and its times.

    The noise of a chunk is drawn while the chunk before it is computed.
    """
    rollout = backend.rollout
    shape = (1, rollout.chunk, *backend.latent_shape)
    draw = lambda chunk: chunk_noises(seed, chunk, shape, rollout)
    state, noises, pushed = backend.begin(reference), draw(0), time.perf_counter()
    while True:
        chunk, pushed = _next_chunk(chunker, inbox, output, pushed)
        if chunk is None:
            return
        taken = time.perf_counter()
        latents, state = backend.denoise(reference, state, noises, chunk.windows[None], chunk.mode[None])
        noises = draw(chunk.index + 1)
        backend.wait(latents)
        output.put((chunk, latents, pushed, taken, time.perf_counter() - taken))


def _next_chunk(
    chunker: AudioChunker, inbox: Inbox, output: Channel, pushed: float
) -> tuple[ChunkAudio | None, float]:
    """What the next chunk hears and when the last of it was pushed, as soon as it is there and has room.

    None is the end.  Faults are handed on in their place.
    """
    while True:
        output.wait_for_room()
        chunker.mode = inbox.mode
        if inbox.interrupted():
            chunker.interrupt()
            pushed = time.perf_counter()
        if chunker.ready():
            return chunker.take(), pushed
        if chunker.over:
            return None, pushed
        item = inbox.get()
        if isinstance(item, Sound):
            chunker.push(item.samples)
            pushed = item.pushed
        elif isinstance(item, End):
            chunker.finish()
        elif isinstance(item, Fault) and item.fatal:
            raise item.error
        elif isinstance(item, Fault):
            output.put(item)


def decode_stage(backend: Backend, inputs: Channel, output: Channel, started: float) -> None:
    """Frames of chunk after chunk with their sound, piece by piece."""
    state = None
    while True:
        output.wait_for_room()
        item = inputs.get()
        if isinstance(item, End):
            return
        if isinstance(item, Fault):
            if item.fatal:
                raise item.error
            output.put(item)
            continue
        chunk, latents, pushed, taken, dit = item
        done, vae, first, begun = 0, 0.0, None, time.perf_counter()
        for frames, following in backend.decode(latents, state, first=chunk.index == 0):
            state = following
            now = time.perf_counter()
            vae, first = vae + now - begun, first or now - taken
            timing = ChunkTiming(taken - pushed, dit, vae, first, now - taken, now - started)
            frames = frames[: chunk.frames - done]
            sound = slice(done * SAMPLES_PER_FRAME, (done + len(frames)) * SAMPLES_PER_FRAME)
            done += len(frames)
            last = done == chunk.frames
            output.put(StreamChunk(chunk.index, frames, chunk.samples[sound], chunk.mode, timing, last))
            if last:
                break
            begun = time.perf_counter()
