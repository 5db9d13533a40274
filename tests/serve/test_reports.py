"""Sender reports: a steady clock from packets that leave late."""

import asyncio

import numpy as np
from aiortc import RTCRtpSender
from aiortc.rtp import RtcpSenderInfo, RtcpSrPacket

from tm_jax.serve.reports import SteadyClock, steady_reports

START, RATE = 3.9e9, 90_000


def test_lateness_does_not_move_the_clock_and_wrapping_time_does_not_break_it():
    clock, draw = SteadyClock(RATE), np.random.default_rng(0)
    errors = []
    for second in range(200):
        moment = (2**32 - 50 * RATE + second * RATE) % 2**32
        left = START + second + draw.exponential(0.05)
        errors.append(clock.wall(moment, int(left * 2**32)) / 2**32 - (START + second))
    assert max(errors[30:]) < 0.01 and min(errors) > -1e-5
    assert max(errors[30:]) - min(errors[30:]) < 0.01


def test_a_senders_reports_are_told_by_it():
    """aiortc gives no public place for this: the test fails when its next version has another."""
    sent = []

    class Transport:
        state = "new"

        async def _send_rtp(self, payload):
            sent.append(payload)

    async def run():
        sender = RTCRtpSender("audio", Transport())
        steady_reports(sender, RATE)
        for second, late in enumerate((0.0, 0.3)):
            ntp = int((START + second + late) * 2**32)
            info = RtcpSenderInfo(ntp, second * RATE, 0, 0)
            packet = RtcpSrPacket(ssrc=1, sender_info=info)
            await sender._send_rtcp([packet])
            assert abs(info.ntp_timestamp / 2**32 - START - second) < 1e-5
        assert len(sent) == 2

    asyncio.run(run())
