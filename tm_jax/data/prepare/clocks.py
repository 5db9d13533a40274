"""The clocks of a video file: where they jump, and so which pictures and which sound belong together.

Recordings that were joined, and pieces of a live stream, keep the times that each began with.  Pictures and
sound of one part share a clock; those of different parts do not.
"""

import dataclasses
from pathlib import Path

import av

from tm_jax.errors import InputError
from tm_jax.media.files import shown

BACK = 0.1
"""Seconds by which a clock may run back before it counts as another."""
AHEAD = 0.5
"""Seconds by which the clocks of pictures and sound must both leap to count as others."""


@dataclasses.dataclass(frozen=True)
class Jump:
    """A place where a stream's times do not go on."""

    packet: int
    """Number of the stream's packet that comes after it."""
    place: int
    """Number of that packet among those of both streams."""
    seconds: float
    """From where the stream would have gone on."""


@dataclasses.dataclass(frozen=True)
class Clocks:
    """Where the decoders of a file are to begin anew."""

    pictures: tuple[int, ...] = ()
    """Numbers of the video packets that begin a part."""
    sound: tuple[int, ...] = ()
    """Numbers of the audio packets that begin a part; as many."""


def read_clocks(path: Path, container: av.container.InputContainer) -> Clocks:
    """Find the parts of an open file, whose packets this reads to the end.

    Raises:
      InputError: the pictures' clock jumps where that of the sound does not, or the file is damaged.
    """
    video = container.streams.video[0]
    audio = next(iter(container.streams.audio), None)
    jumps = {video.index: [], **({} if audio is None else {audio.index: []})}
    counts, expected, usual, place = dict.fromkeys(jumps, 0), {}, {}, 0
    try:
        for packet in container.demux(*filter(None, (video, audio))):
            number = packet.stream_index
            # Times of decoding go on from packet to packet; those of showing do not where pictures are
            # reordered, and of its first pictures Matroska tells no others.
            ticks = packet.pts if packet.dts is None and packet.stream is audio else packet.dts
            if ticks is None:
                counts[number] += packet.size > 0
                continue
            time = float(ticks * packet.time_base)
            if number in expected:
                step = time - expected[number]
                if step < -BACK - usual[number] or step > AHEAD:
                    jumps[number].append(Jump(counts[number], place, step))
            length = float(packet.duration * packet.time_base) if packet.duration else 0.0
            expected[number], usual[number] = time + length, min(length, 0.1)
            counts[number] += 1
            place += 1
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"{shown(path)} is damaged after {counts[video.index]} pictures: copy or convert it again."
        ) from error
    return _matched(path, jumps[video.index], None if audio is None else jumps[audio.index])


def _matched(path: Path, video_side: list[Jump], audio_side: list[Jump] | None) -> Clocks:
    """The jumps that begin parts: those of pictures and sound that belong together, in order."""
    if audio_side is None:
        return Clocks(tuple(jump.packet for jump in video_side if jump.seconds < 0), ())
    pictures, sound = [], []
    video_side, audio_side = list(video_side), list(audio_side)
    while video_side or audio_side:
        if video_side and audio_side and _alike(video_side[0], audio_side[0]):
            pictures.append(video_side.pop(0).packet)
            sound.append(audio_side.pop(0).packet)
            continue
        # The earlier one has no counterpart: a mere gap is none of a clock.
        alone = min(filter(None, (video_side[:1], audio_side[:1])), key=lambda jumps: jumps[0].place)[0]
        (video_side if video_side and alone is video_side[0] else audio_side).pop(0)
        if alone.seconds < 0:
            raise InputError(
                f"{shown(path)} has pictures and sound whose clocks do not restart together: cut it there."
            )
    return Clocks(tuple(pictures), tuple(sound))


def _alike(video_side: Jump, audio_side: Jump) -> bool:
    """Whether pictures and sound jump together: both back, or both ahead by about as much."""
    if video_side.seconds < 0 or audio_side.seconds < 0:
        return video_side.seconds < 0 and audio_side.seconds < 0
    return abs(video_side.seconds - audio_side.seconds) < AHEAD + 0.2 * video_side.seconds
