"""One stream of a media file, decoded past what is damaged in it, with an account of what was lost."""

import dataclasses
from collections.abc import Collection, Iterator

import av

from tm_jax.errors import InputError
from tm_jax.media.bare_frames import amr_frame, frame_size

FIGURES = (b"Xing", b"Info", b"VBRI")
"""Marks of the frame at the head of an mp3 that holds figures and no sound."""
BARE = ("mp3", "aac", "ac3", "eac3", "dts", "amr")
"""Frames one after another, without a container: FFmpeg skips what is no frame."""


@dataclasses.dataclass
class Tally:
    """What a pass through a file has met so far."""

    packets: int = 0
    """Packets of the stream."""
    refused: int = 0
    """Of these, those that its decoder refused."""
    last_broken: bool = False
    """Whether the last of its packets was, or is shorter than it says."""
    lost: float = 0.0
    """Their length in seconds."""
    bytes: int = 0
    """Bytes of the stream's packets."""
    every_byte: int = 0
    """Bytes of the packets of all streams that are to be shown."""
    first_byte: int | None = None
    """Where the stream's first packet lies in the file."""
    end: float = 0.0
    """Latest time of any stream, in seconds of the file's clock."""


def decoder(stream: av.stream.Stream, name: str) -> av.CodecContext:
    """The stream's decoder, not yet opened.

    Raises:
      InputError: there is none for its format.
    """
    context = stream.codec_context
    if context is None:
        raise InputError(f"The {stream.type} of {name} is in a format without a decoder: convert it.")
    if context.name in ("flac", "ac3", "eac3", "wavpack"):
        # Otherwise they play damaged frames as noise.
        context.options = {"err_detect": "crccheck+explode"}
    return context


def decoded(
    container: av.container.InputContainer,
    stream: av.stream.Stream,
    tally: Tally,
    restarts: Collection[int] = (),
) -> Iterator[tuple[int, av.VideoFrame | av.AudioFrame]]:
    """The stream's frames, each with the number of restarts before it.

    A packet that the decoder refuses is counted and passed over.

    Args:
      restarts: numbers of the stream's packets before which the decoder is emptied.

    Raises:
      av.FFmpegError, OSError: the file can be read no further, after all frames before.
    """
    part, usual = 0, 0.0
    bare = container.format.name in BARE
    packets = container.demux()
    while True:
        fault = None
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            packet, fault = None, error
        if packet is None or (
            packet.size == 0 and packet.stream_index == stream.index and packet.dts is None
        ):
            yield from ((part, frame) for frame in _emptied(stream))
            if fault is not None:
                raise fault
            return
        _account(packet, stream, tally)
        if packet.stream_index != stream.index:
            continue
        if tally.packets - 1 in restarts:
            yield from ((part, frame) for frame in _emptied(stream))
            stream.codec_context.flush_buffers()
            part += 1
        try:
            if container.format.name == "amr" and packet.size and not amr_frame(bytes(packet)[0]):
                # What lies behind a hole is cut into frames in the wrong places, and decoded as noise.
                raise av.InvalidDataError(0, "no frame begins here")
            frames = packet.decode()
            tally.last_broken = bare and frame_size(bytes(packet)[:7]) > packet.size
        except av.FFmpegError:
            # Joined mp3s have a frame of figures at the head of each part.
            if not any(mark in bytes(packet) for mark in FIGURES):
                tally.refused, tally.last_broken = tally.refused + 1, True
                seconds = packet.duration * packet.time_base if packet.duration else usual
                tally.lost += float(seconds)
            continue
        for frame in frames:
            if isinstance(frame, av.AudioFrame) and frame.sample_rate:
                usual = frame.samples / frame.sample_rate
            yield part, frame


def _emptied(stream: av.stream.Stream) -> list[av.VideoFrame | av.AudioFrame]:
    """The frames that a decoder still holds."""
    end = av.Packet()
    end.stream, end.time_base = stream, stream.time_base
    try:
        return end.decode()
    except av.FFmpegError:
        return []


def _account(packet: av.Packet, stream: av.stream.Stream, tally: Tally) -> None:
    # An mp4's packets outside of its edit list are read and not shown.
    tally.every_byte += 0 if packet.is_discard else packet.size
    if packet.pts is not None and packet.time_base:
        tally.end = max(tally.end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    if packet.stream_index == stream.index:
        tally.packets += 1
        tally.bytes += packet.size
        if tally.first_byte is None and packet.pos is not None and packet.pos >= 0:
            tally.first_byte = packet.pos
