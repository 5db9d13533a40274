"""Sender reports by a steady clock, so that the browser keeps lips and voice together on a busy machine.

A report says at which wall time a moment of the stream was; the browser delays sound or picture until equal
wall times play together.  aiortc writes down when a packet happened to leave, which on a busy machine is late
by tens of milliseconds, now of the sound, now of the picture.  A stream's moments lie on a straight line of
wall time, and packets only ever leave late: the earliest of the last reports tells where the line is.
"""

import collections

from aiortc import RTCRtpSender
from aiortc.rtp import RtcpSrPacket

KEPT = 64
"""Reports, one a second or so; after as many a step of the wall clock is forgotten."""


class SteadyClock:
    """Wall time of a stream's moments."""

    def __init__(self, rate: int):
        """Of a stream whose time counts so many steps a second."""
        self._rate = rate
        self._offsets: collections.deque[float] = collections.deque(maxlen=KEPT)
        self._last, self._time = 0, 0

    def wall(self, moment: int, left: int) -> int:
        """The NTP time of a moment, of which a packet left at NTP time ``left``.

        Args:
          moment: 32 bits of the stream's time, which wrap.
          left: seconds times 2³².
        """
        self._time += (moment - self._last + 2**31) % 2**32 - 2**31
        self._last = moment
        seconds = self._time / self._rate
        self._offsets.append(left / 2**32 - seconds)
        return int((seconds + min(self._offsets)) * 2**32)


def steady_reports(sender: RTCRtpSender, rate: int) -> None:
    """A sender's reports tell the wall time of a steady clock from now on."""
    clock, send = SteadyClock(rate), sender._send_rtcp

    async def send_rtcp(packets: list) -> None:
        for packet in packets:
            if isinstance(packet, RtcpSrPacket):
                said = packet.sender_info
                said.ntp_timestamp = clock.wall(said.rtp_timestamp, said.ntp_timestamp)
        await send(packets)

    sender._send_rtcp = send_rtcp
