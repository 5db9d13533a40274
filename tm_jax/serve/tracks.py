"""A call's sound and picture as WebRTC tracks: both leave with the same clock, tick by tick."""

import asyncio
import fractions

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from tm_jax.rates import FRAMES_PER_SECOND, SAMPLE_RATE
from tm_jax.serve.live import Tick

VIDEO_CLOCK, AUDIO_CLOCK = 90_000, 48_000
"""Steps a second of the time in packets of VP8 and of Opus."""
PACKET = SAMPLE_RATE // 50
"""Samples of an Opus packet of 20 ms: two in every tick."""
MOST_WAITING = 50
"""Packets that wait for a peer that does not take them; older ones are dropped."""

STALE = 0.2
"""Seconds after which a packet is left out: until the peer is connected, or when the machine stood still."""


class _Queued(MediaStreamTrack):
    """A track that gives what was put into it."""

    def __init__(self):
        super().__init__()
        self._waiting: asyncio.Queue = asyncio.Queue()

    def put(self, frame, after: float = 0.0) -> None:
        """Give a frame that leaves so many seconds from now."""
        while self._waiting.qsize() >= MOST_WAITING:
            self._waiting.get_nowait()
        self._waiting.put_nowait((frame, asyncio.get_running_loop().time() + after))

    async def recv(self):
        """The next frame, as aiortc asks for it."""
        now = asyncio.get_running_loop().time
        while True:
            if self.readyState != "live":
                raise MediaStreamError
            waiting = await self._waiting.get()
            if waiting is None:
                raise MediaStreamError
            frame, due = waiting
            if now() - due < STALE or self._waiting.empty():
                await asyncio.sleep(due - now())
                return frame

    def stop(self) -> None:
        """End the track and wake whoever waits for it."""
        super().stop()
        self._waiting.put_nowait(None)


class Picture(_Queued):
    """The character's face."""

    kind = "video"


class Sound(_Queued):
    """The character's voice."""

    kind = "audio"


def send(tick: Tick, number: int, picture: Picture, sound: Sound) -> None:
    """Put tick ``number`` on both tracks, with its time.

    Each packet leaves when its own sound begins: by when packets left the browser keeps sound and picture in
    step (`reports`).
    """
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(tick.frame), format="rgb24").reformat(
        format="yuv420p"
    )
    frame.pts, frame.time_base = number * VIDEO_CLOCK // FRAMES_PER_SECOND, fractions.Fraction(1, VIDEO_CLOCK)
    picture.put(frame)
    pcm = (np.clip(tick.samples, -1, 1) * 32767).astype(np.int16)
    for index in range(0, len(pcm), PACKET):
        packet = av.AudioFrame.from_ndarray(pcm[None, index : index + PACKET], format="s16", layout="mono")
        packet.sample_rate = SAMPLE_RATE
        packet.pts, packet.time_base = number * len(pcm) + index, fractions.Fraction(1, SAMPLE_RATE)
        sound.put(packet, index / SAMPLE_RATE)
