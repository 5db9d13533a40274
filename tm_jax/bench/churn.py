"""Calls that end in every way at random moments, and what they leave behind: nothing, if all is well.

A server runs in a process of its own; its voice is the mirror.  Peers call it and hang up, vanish without a
word, never connect, or send broken offers; a browser reloads its page and is killed in the middle of calls.
Meanwhile one call goes on from the first to the last moment and must not notice.
"""

import asyncio
import dataclasses
import random
import tempfile
from pathlib import Path

import numpy as np

from tm_jax.bench.browser import Browser
from tm_jax.bench.call_server import CallServer, Left, Settings
from tm_jax.bench.live import IMAGE, conversation
from tm_jax.bench.live import Arguments as LiveArguments
from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS, ShippedPath

UNCONNECTED = 12
"""Lines beside those in use: a caller who never connects holds one until he counts as gone."""
BATCH = 50
"""Calls after which it is looked at what is held."""
MOST_GROWTH = 16.0
"""MiB by which the process may grow after two batches, in which pools fill: runs differ by as much."""
WAYS = ("hang up", "vanish", "never connect", "broken offer")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Open and drop calls and count what is left."""

    calls: int = 200
    """Calls of peers."""
    reloads: int = 6
    """Times that a browser reloads its page or is killed in a call; 0 needs no browser."""
    at_once: int = 2
    """Calls at the same time, beside the one that goes on."""
    seed: int = 0
    """Of the moments and the ways."""
    weights: ShippedPath = WEIGHTS
    """Folder of the models."""
    image: ShippedPath = IMAGE
    """The character."""

    def __post_init__(self):
        if self.calls < 1 or self.at_once < 1 or self.reloads < 0:
            raise InputError("--calls and --at-once must be at least 1, --reloads at least 0.")


class Peer:
    """A caller without a browser."""

    def __init__(self, address: str, http):
        from aiortc import RTCConfiguration, RTCPeerConnection
        from aiortc.mediastreams import AudioStreamTrack

        self._address, self._http = address, http
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.connection.addTrack(AudioStreamTrack())
        self.connection.addTransceiver("video", direction="recvonly")
        self.tracks: dict = {}
        self.connection.on("track", lambda track: self.tracks.update({track.kind: track}))

    async def offer(self, broken: bool = False) -> tuple[int, dict]:
        """Offers; the status and the answer."""
        await self.connection.setLocalDescription(await self.connection.createOffer())
        sdp = self.connection.localDescription.sdp
        body = {"sdp": sdp[: len(sdp) // 3] if broken else sdp, "type": "offer"}
        async with self._http.post(self._address + "offer", json=body) as response:
            return response.status, await response.json() if response.status == 200 else {}

    async def connect(self, answer: dict) -> None:
        """Takes the answer."""
        from aiortc import RTCSessionDescription

        await self.connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))


async def one_call(address: str, http, way: str, seconds: float) -> int:
    """One call that ends in some way after so many seconds; its status."""
    peer = Peer(address, http)
    try:
        status, answer = await peer.offer(broken=way == "broken offer")
        if status != 200 or way == "never connect":
            return status
        await peer.connect(answer)
        await asyncio.sleep(seconds)
        if way == "hang up":
            async with http.post(address + "hangup", data=answer["call"]):
                pass
        return status
    finally:
        await peer.connection.close()


async def steady(address: str, http, over: asyncio.Event, gaps: list[float]) -> None:
    """A call that goes on; the time between its frames is kept."""
    peer, loop = Peer(address, http), asyncio.get_running_loop()
    status, answer = await peer.offer()
    assert status == 200, status
    await peer.connect(answer)
    last = None
    deaf = asyncio.create_task(drop(peer.tracks["audio"]))
    while not over.is_set():
        await asyncio.wait_for(peer.tracks["video"].recv(), 30.0)
        now = loop.time()
        if last is not None:
            gaps.append(now - last)
        last = now
    deaf.cancel()
    await peer.connection.close()


async def drop(track) -> None:
    """Takes what comes, which would be kept otherwise."""
    while True:
        await track.recv()


async def browsers(address: str, count: int, draw: random.Random, microphone: Path) -> None:
    """Pages that are reloaded, and tabs that are killed, in the middle of a call."""
    for turn in range(count):
        async with Browser(address, microphone) as browser:
            await browser.press("call")
            await asyncio.sleep(draw.uniform(0.5, 4.0))
            if turn % 2:
                await browser.run("location.reload()")
                await asyncio.sleep(1.0)


@dataclasses.dataclass(frozen=True)
class Report:
    """What was left, and what the call beside noticed."""

    held: dict[str, Left]
    """By when it was looked at."""
    statuses: list[int]
    reloads: int
    gaps: list[float]
    """Between the frames of the call that went on."""

    @property
    def within_bound(self) -> bool:
        """Whether nothing is left and memory is flat after the first calls."""
        before, *_, after = self.held.values()
        same = all(getattr(before, name) == getattr(after, name) for name in ("threads", "tasks", "sockets"))
        return same and not self.growth > MOST_GROWTH

    @property
    def growth(self) -> float:
        """MiB from the end of the second batch to the end of the last; nan with fewer than three."""
        batches = [left.mebibytes for when, left in self.held.items() if when.endswith("calls")]
        return batches[-1] - batches[1] if len(batches) > 2 else float("nan")

    def __str__(self) -> str:
        rows = [" " * 12 + "".join(f"{when:>12}" for when in self.held)]
        for field in dataclasses.fields(Left):
            values = (getattr(left, field.name) for left in self.held.values())
            rows.append(f"{field.name:12}" + "".join(f"{value:12.0f}" for value in values))
        answers = ", ".join(f"{self.statuses.count(s)} × {s}" for s in sorted(set(self.statuses)))
        rows.append(f"{len(self.statuses)} calls: {answers}; {self.reloads} pages reloaded or killed")
        rows.append(f"memory from the first {2 * BATCH} calls to the last: {self.growth:+.1f} MiB")
        rows.append(
            f"the call beside them: {len(self.gaps)} frames, longest gap {max(self.gaps):.2f} s, "
            f"p99 {np.percentile(self.gaps, 99):.3f} s"
        )
        return "\n".join(rows)


async def churn(arguments: Arguments) -> Report:
    """All calls; what was left before, in between and after."""
    import aiohttp

    capacity = arguments.at_once + UNCONNECTED
    draw, statuses, gaps, held = random.Random(arguments.seed), [], [], {}
    # Connections that are kept for later requests would be counted as left behind.
    connector = aiohttp.TCPConnector(force_close=True)
    settings = Settings(str(arguments.weights), str(arguments.image), capacity)
    async with CallServer(settings) as server, aiohttp.ClientSession(connector=connector) as http:

        async def look(when: str, calls: int) -> None:
            await server.emptied(calls)
            await asyncio.sleep(1.0)
            held[when] = Left(**(await server.report())["left"])

        for way in WAYS:
            await one_call(server.address, http, way, 1.0)
        await look("before", 0)
        over = asyncio.Event()
        going_on = asyncio.create_task(steady(server.address, http, over, gaps))
        room = asyncio.Semaphore(arguments.at_once)

        async def bounded() -> None:
            async with room:
                statuses.append(
                    await one_call(server.address, http, draw.choice(WAYS), draw.uniform(0.0, 2.0))
                )

        while len(statuses) < arguments.calls:
            await asyncio.gather(*(bounded() for _ in range(min(BATCH, arguments.calls - len(statuses)))))
            await look(f"{len(statuses)} calls", 1)
        with tempfile.TemporaryDirectory() as folder:
            microphone = Path(folder) / "microphone.wav"
            conversation(LiveArguments(minutes=0.5), microphone)
            await browsers(server.address, arguments.reloads, draw, microphone)
        over.set()
        await going_on
        await look("after", 0)
    return Report(held, statuses, arguments.reloads, gaps)


def run(arguments: Arguments) -> Report:
    """The report."""
    return asyncio.run(churn(arguments))
