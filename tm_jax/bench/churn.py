"""Calls that end in every way at random moments, and what they leave behind: nothing, if all is well.

A server runs here with the mirror as its voice.  Peers call it and hang up, vanish without a word, never
connect, or send broken offers; a browser reloads its page and is killed in the middle of calls.  Meanwhile
one call goes on from the first to the last moment and must not notice.
"""

import asyncio
import contextlib
import dataclasses
import random
import tempfile
import threading
from pathlib import Path

import numpy as np

from tm_jax.bench.browser import Browser
from tm_jax.bench.live import IMAGE, SPEECH, recording
from tm_jax.bench.live import Arguments as LiveArguments
from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS, ShippedPath

UNCONNECTED = 12
"""Lines beside those in use: a caller who never connects holds one until he counts as gone."""
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


@dataclasses.dataclass(frozen=True)
class Left:
    """What a process holds."""

    threads: int
    tasks: int
    sockets: int
    mebibytes: float

    @classmethod
    def now(cls) -> "Left":
        """Of this process."""
        files = Path("/proc/self/fd").iterdir()
        sockets = 0
        for file in files:
            with contextlib.suppress(OSError):
                sockets += "socket:" in str(file.readlink())
        resident = next(
            line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")
        )
        own = [thread for thread in threading.enumerate() if thread.name.startswith("tm_jax")]
        return cls(len(own), len(asyncio.all_tasks()), sockets, int(resident.split()[1]) / 1024)


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
    while not over.is_set():
        await asyncio.wait_for(peer.tracks["video"].recv(), 30.0)
        now = loop.time()
        if last is not None:
            gaps.append(now - last)
        last = now
    await peer.connection.close()


async def browsers(address: str, count: int, draw: random.Random, microphone: Path) -> None:
    """Pages that are reloaded, and tabs that are killed, in the middle of a call."""
    for turn in range(count):
        async with Browser(address, microphone) as browser:
            await browser.until("Boolean(document.getElementById('call'))", 60.0)
            await browser.run("document.getElementById('call').click()")
            await asyncio.sleep(draw.uniform(0.5, 4.0))
            if turn % 2:
                await browser.run("location.reload()")
                await asyncio.sleep(1.0)


async def churn(arguments: Arguments) -> str:
    """All calls; a table of what was left before and after."""
    import aiohttp
    from aiohttp import web

    from tm_jax.serve import limits
    from tm_jax.serve.limits import Gate
    from tm_jax.serve.pictures import portrait
    from tm_jax.serve.server import Server
    from tm_jax.serve.voices.mirror import Mirror
    from tm_jax.streaming.parts import load_engine

    limits.MOST_REQUESTS_A_SECOND = 10**6
    engine = await asyncio.to_thread(load_engine, arguments.weights)
    await asyncio.to_thread(engine.warm_up)
    server = Server(
        engine,
        portrait(arguments.image, engine),
        Mirror,
        gate=Gate.made_for("127.0.0.1"),
        capacity=arguments.at_once + UNCONNECTED,
    )
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    draw, statuses, gaps = random.Random(arguments.seed), [], []
    # Connections that are kept for later requests would be counted as left behind.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
        for way in WAYS:
            await one_call(address, http, way, 1.0)
        await emptied(server, 0)
        before, over = Left.now(), asyncio.Event()
        going_on = asyncio.create_task(steady(address, http, over, gaps))
        room = asyncio.Semaphore(arguments.at_once)

        async def bounded() -> None:
            async with room:
                statuses.append(await one_call(address, http, draw.choice(WAYS), draw.uniform(0.0, 2.0)))

        await asyncio.gather(*(bounded() for _ in range(arguments.calls)))
        with tempfile.TemporaryDirectory() as folder:
            microphone = Path(folder) / "microphone.wav"
            recording(LiveArguments(minutes=0.2, speech=SPEECH), microphone)
            await browsers(address, arguments.reloads, draw, microphone)
        await emptied(server, 1)
        over.set()
        await going_on
        await emptied(server, 0)
        await asyncio.sleep(1.0)
        after = Left.now()
    await runner.cleanup()
    rows = [f"{'':12}{'before':>10}{'after':>10}"]
    for field in dataclasses.fields(Left):
        values = (getattr(left, field.name) for left in (before, after))
        rows.append(f"{field.name:12}" + "".join(f"{value:10.0f}" for value in values))
    answers = ", ".join(f"{statuses.count(status)} × {status}" for status in sorted(set(statuses)))
    rows.append(f"{arguments.calls} calls: {answers}; {arguments.reloads} pages reloaded or killed")
    rows.append(
        f"the call beside them: {len(gaps)} frames, longest gap {max(gaps):.2f} s, "
        f"p99 {np.percentile(gaps, 99):.3f} s"
    )
    return "\n".join(rows)


async def emptied(server, most: int) -> None:
    """Waits until no more calls than that are left.

    Raises:
      RuntimeError: they stay.
    """
    for _ in range(400):
        if len(server.peers) <= most:
            return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"{len(server.peers)} calls are left")


def run(arguments: Arguments) -> str:
    """The table."""
    return asyncio.run(churn(arguments))
