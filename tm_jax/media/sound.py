"""Sound from any file that PyAV reads, as 16 kHz mono blocks in constant memory."""

import dataclasses
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

from tm_jax.errors import InputError
from tm_jax.media.decoding import Tally, decoded, decoder
from tm_jax.media.files import open_media, shown
from tm_jax.media.losses import Expectation
from tm_jax.media.mono import Mono
from tm_jax.media.standard_input import REFUSED, open_standard_input
from tm_jax.media.wav_header import check_wav
from tm_jax.rates import SAMPLE_RATE

BLOCK_SAMPLES = 1600
GAPS = (0.1, 10.0)
"""Seconds without a packet that become silence; a longer jump is that of a clock, and the sound goes on."""


@dataclasses.dataclass(frozen=True)
class Sound:
    """A sound that is opened but not read: iterate over it once, in constant memory."""

    blocks: Iterator[np.ndarray]
    """16 kHz mono float32 blocks."""
    seconds: float | None
    """Length as the file states it; None where it is unknown, as on standard input."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """What is to be told of a sound that plays, a sentence each: packets lost on the way, for instance.
    Complete when the blocks have ended."""
    close: Callable[[], None] = lambda: None
    """Ends standard input within a moment, for a thread that waits there; files need none."""

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.blocks


def read_audio(source: str | os.PathLike, stdin: io.IOBase | None = None) -> Sound:
    """Open a sound file, the sound of a video, or ``-`` for standard input.

    On standard input lie a file that can be played from its beginning, or raw s16le 16 kHz mono.  Stereo is
    averaged.  Whatever is wrong with the beginning is refused here, before anything is computed.  Packets
    that are damaged or lost are passed over and told in ``notes``; an end that is missing raises from the
    iteration, after all sound before it has been delivered.

    Raises:
      InputError: missing, empty, foreign, truncated or damaged file, no sound in it, or values that are no
        numbers.
    """
    if str(source) == "-":
        name, notes = "standard input", []
        content, end, begun = open_standard_input(stdin)
        if not isinstance(content, av.container.InputContainer):
            return Sound(_first_now(content, name), None, notes, end)
        sound = _opened(name, None, content, notes)
        blocks = _told_if_joined(sound.blocks, content.format.name, begun, notes)
        return dataclasses.replace(sound, blocks=blocks, close=end)
    path = Path(source)
    container = open_media(path, "audio file")
    note = check_wav(path)
    return _opened(shown(path), path, container, [] if note is None else [note])


def _opened(name: str, path: Path | None, container: av.container.InputContainer, notes: list[str]) -> Sound:
    if not container.streams.audio:
        container.close()
        raise InputError(f"{name} has no audio stream: give a file with sound.")
    stream = container.streams.audio[0]
    decoder(stream, name)
    expected = Expectation(path, container, stream)
    blocks = _decoded_blocks(name, path, container, expected, notes)
    return Sound(_first_now(blocks, name), expected.seconds, notes)


def _told_if_joined(
    blocks: Iterator[np.ndarray], form: str, begun: set[str], notes: list[str]
) -> Iterator[np.ndarray]:
    """The same blocks; then it is told where another recording has begun behind the one that was played."""
    yield from blocks
    if form in begun:
        notes.append(
            "Standard input holds several recordings, of which the first alone is played, or the others "
            "wrongly: join them with a program for sound."
        )


def _first_now(blocks: Iterator[np.ndarray], name: str) -> Iterator[np.ndarray]:
    """The same blocks with the first one read already, so that its faults show at once."""
    first = next(blocks, None)
    if first is None:
        raise InputError(f"There is no sound in {name}: give at least one sample.")

    def all_blocks():
        yield first
        yield from blocks

    return all_blocks()


def _decoded_blocks(
    name: str,
    path: Path | None,
    container: av.container.InputContainer,
    expected: Expectation,
    notes: list[str],
) -> Iterator[np.ndarray]:
    delivered, tally, silence = 0, Tally(), [0.0]
    with container:
        try:
            for block in _resampled(name, container, tally, silence):
                delivered += len(block)
                yield block
        except (av.FFmpegError, OSError) as error:
            if path is None and not delivered:
                raise InputError(REFUSED) from error
            raise InputError(
                f"{name} is damaged or cut off after {delivered / SAMPLE_RATE:.1f} s of sound: "
                "copy or convert it again."
            ) from error
    if note := expected.check(name, delivered / SAMPLE_RATE - silence[0], silence[0], tally):
        notes.append(note)


def _resampled(
    name: str, container: av.container.InputContainer, tally: Tally, silence: list[float]
) -> Iterator[np.ndarray]:
    """Blocks of bounded size, whatever the file's own frames; silence where packets are missing."""
    stream, expected = container.streams.audio[0], None
    mono = Mono(name, stream.codec_context.name)
    for _, frame in decoded(container, stream, tally):
        time = frame.time
        if None not in (time, expected) and GAPS[0] < time - expected < GAPS[1]:
            yield from _blocks(mono.flush())
            silence[0] += time - expected
            yield from _blocks([np.zeros(round((time - expected) * SAMPLE_RATE), np.float32)])
        expected = None if time is None else time + frame.samples / frame.sample_rate
        yield from _blocks(mono.push(frame))
    yield from _blocks(mono.flush())


def _blocks(pieces: list[np.ndarray]) -> Iterator[np.ndarray]:
    for piece in pieces:
        for start in range(0, len(piece), BLOCK_SAMPLES):
            yield piece[start : start + BLOCK_SAMPLES]
