"""The page and its calls: aiohttp answers, aiortc carries sound and picture.

GET  /           the page            POST /picture    a caller's own picture → its name
GET  /healthz    is it alive         POST /offer      a browser's WebRTC offer → the answer; a call begins
GET  /metrics    figures             POST /hangup     a call ends at once
"""

import asyncio
import collections
import dataclasses
import hashlib
import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from tm_jax.errors import InputError
from tm_jax.rates import SAMPLE_RATE
from tm_jax.serve import limits, pictures
from tm_jax.serve.call import Call
from tm_jax.serve.limits import Gate, Rate, read_bounded
from tm_jax.serve.live import LiveSession, Tick
from tm_jax.serve.metrics import Metrics
from tm_jax.serve.reports import steady_reports
from tm_jax.serve.tracks import AUDIO_CLOCK, VIDEO_CLOCK, Picture, Sound, send
from tm_jax.serve.voices.protocol import Voice
from tm_jax.streaming.engine import StreamEngine
from tm_jax.streaming.reference import Reference

PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/app.js": "app.js", "/style.css": "style.css"}
OPEN = {*FILES, "/healthz", "/portrait.png"}
"""What is shown without a token: the page itself, its character, and that the server is alive."""
POLICY = (
    "default-src 'self'; img-src 'self' blob:; media-src 'self' blob: mediastream:; frame-ancestors 'none'"
)
GONE_AFTER = 5.0
"""Seconds after which a peer is gone from whom nothing comes; a muted microphone still sends."""
MOST_PICTURES = 32


@dataclasses.dataclass(frozen=True)
class Character:
    """A picture that is ready to talk."""

    picture: np.ndarray
    reference: Reference
    note: str = ""
    """What its caller should know of it."""


@dataclasses.dataclass
class Peer:
    """One browser and its call."""

    connection: RTCPeerConnection
    call: Call | None = None
    task: asyncio.Task | None = None
    channel: object = None
    waiting: collections.deque[str] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=64))
    messages: Rate = dataclasses.field(default_factory=lambda: Rate(limits.MOST_MESSAGES_A_SECOND))


class Server:
    """All calls of one process; they share one set of weights."""

    def __init__(
        self,
        engine: StreamEngine,
        portrait: tuple[np.ndarray, tuple | None],
        voice: Callable[[], Voice],
        *,
        gate: Gate = Gate(),
        capacity: int = 1,
        call_seconds: float = 1800.0,
        ice: RTCConfiguration | None = None,
    ):
        """Makes the default character ready.

        Args:
          portrait: the default picture and the box in which it moves.
          voice: makes a voice for each call.
          capacity: calls at once.
          call_seconds: after which a call is ended.
          ice: how peers find each other; None is without any server, for one machine or one network.
        """
        self.engine, self._voice, self.gate, self.capacity = engine, voice, gate, capacity
        self._call_seconds, self._ice = call_seconds, ice or RTCConfiguration(iceServers=[])
        self.metrics = Metrics()
        self.metrics.capacity.set(capacity)
        self.peers: dict[str, Peer] = {}
        self._default = Character(portrait[0], engine.reference(*portrait))
        self._png = pictures.png(portrait[0])
        self._characters: collections.OrderedDict[str, Character] = collections.OrderedDict()
        self._requests: dict[str, Rate] = {}
        self._decoding, self._pictures_waiting = asyncio.Lock(), 0
        self._stopping = False

    def application(self) -> web.Application:
        """The routes, with what every request must pass."""
        app = web.Application(middlewares=[self._guard], client_max_size=limits.MOST_PICTURE_BYTES)
        for path, name in FILES.items():
            app.router.add_get(path, _file(PAGE / name))
        app.router.add_get("/portrait.png", self._portrait)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/metrics", self._figures)
        app.router.add_post("/picture", self._picture)
        app.router.add_post("/offer", self._offer)
        app.router.add_post("/hangup", self._hangup)
        app.on_shutdown.append(lambda _: self.stop())
        return app

    def runner(self) -> web.AppRunner:
        """The application with the limits of its connections; nothing is logged of a request."""
        return web.AppRunner(
            self.application(),
            access_log=None,
            logger=limits.faults_of_ours(),
            keepalive_timeout=limits.IDLE_SECONDS,
            lingering_time=1.0,
        )

    async def stop(self) -> None:
        """End every call, and tell its page why."""
        self._stopping = True
        for peer in self.peers.values():
            self._tell(peer, {"ended": "The server is being stopped."})
        if self.peers:
            await asyncio.sleep(0.2)
        await asyncio.gather(*(self._end(name) for name in list(self.peers)))

    @web.middleware
    async def _guard(self, request: web.Request, handler) -> web.StreamResponse:
        try:
            rate = self._requests.setdefault(request.remote or "", Rate(limits.MOST_REQUESTS_A_SECOND))
            if len(self._requests) > 4096:
                self._requests.clear()
            if request.method == "POST" and not rate.allow():
                raise web.HTTPTooManyRequests(text="Too many requests: wait a second.")
            if request.headers.get("Upgrade", "").lower() == "websocket":
                raise web.HTTPBadRequest(text="There is no WebSocket here.")
            self.gate.check(request, token=request.path not in OPEN)
            response = await handler(request)
        except web.HTTPException as refusal:
            self.metrics.refused.labels(refusal.status).inc()
            response = web.Response(status=refusal.status, text=refusal.text or refusal.reason)
        except InputError as error:
            self.metrics.refused.labels(400).inc()
            response = web.Response(status=400, text=str(error))
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-store"
        return response

    async def _health(self, request: web.Request) -> web.Response:
        if self._stopping:
            raise web.HTTPServiceUnavailable(text="stopping")
        return web.json_response({"calls": len(self.peers), "capacity": self.capacity})

    async def _portrait(self, request: web.Request) -> web.Response:
        return web.Response(body=self._png, content_type="image/png")

    async def _figures(self, request: web.Request) -> web.Response:
        return web.Response(body=self.metrics.text(), content_type="text/plain")

    async def _picture(self, request: web.Request) -> web.Response:
        data = await read_bounded(request, limits.MOST_PICTURE_BYTES, "picture")
        name = hashlib.sha256(data).hexdigest()[:24]
        if name not in self._characters:
            self._characters[name] = await self._character(data)
            while len(self._characters) > MOST_PICTURES:
                self._characters.popitem(last=False)
        return web.json_response({"picture": name, "note": self._characters[name].note})

    async def _character(self, data: bytes) -> Character:
        """One picture at a time, since a decoded one may be large."""
        if self._pictures_waiting >= limits.MOST_PICTURES_WAITING:
            raise web.HTTPServiceUnavailable(text="Many pictures are being read: try again in a moment.")
        self._pictures_waiting += 1
        try:
            async with self._decoding:
                picture, box, notes = await asyncio.to_thread(pictures.uploaded, data, self.engine)
                reference = await asyncio.to_thread(self.engine.reference, picture, box)
                return Character(picture, reference, " ".join(notes))
        finally:
            self._pictures_waiting -= 1

    async def _offer(self, request: web.Request) -> web.Response:
        body = await read_bounded(request, limits.MOST_OFFER_BYTES, "offer")
        try:
            fields = json.loads(body)
            sdp, chosen = str(fields["sdp"]), str(fields.get("picture", ""))
            if fields["type"] != "offer":
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise web.HTTPBadRequest(text="That is no WebRTC offer.") from None
        limits.check_offer(sdp)
        if len(self.peers) >= self.capacity or self._stopping:
            raise web.HTTPServiceUnavailable(text="All lines are busy: try again in a moment.")
        character = self._characters.get(chosen) if chosen else self._default
        if character is None:
            raise web.HTTPNotFound(text="That picture is not here any more: choose it again.")
        name = secrets.token_urlsafe(16)
        peer = Peer(RTCPeerConnection(self._ice))
        self.peers[name] = peer
        self.metrics.sessions.set(len(self.peers))
        try:
            answer = await self._connect(name, peer, character, sdp)
        except BaseException:
            await self._end(name)
            raise
        self.metrics.calls.inc()
        return web.json_response({"sdp": answer.sdp, "type": answer.type, "call": name})

    async def _connect(self, name: str, peer: Peer, character: Character, sdp: str) -> RTCSessionDescription:
        connection = peer.connection
        picture, sound = Picture(), Sound()
        microphone = []

        @connection.on("track")
        def _(track):
            if track.kind == "audio":
                microphone.append(track)

        @connection.on("datachannel")
        def _(channel):
            peer.channel = channel
            channel.on("message", lambda message: self._message(name, peer, message))
            for message in peer.waiting:
                channel.send(message)
            peer.waiting.clear()

        @connection.on("connectionstatechange")
        async def _():
            if connection.connectionState in ("failed", "closed"):
                await self._end(name)

        try:
            await connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
            if not microphone:
                raise ValueError
            steady_reports(connection.addTrack(picture), VIDEO_CLOCK)
            steady_reports(connection.addTrack(sound), AUDIO_CLOCK)
            for line in connection.getTransceivers():
                # What the peer would send beside a microphone would be decoded and kept for nobody.
                line.direction = "sendrecv" if line.kind == "audio" else "sendonly"
            await connection.setLocalDescription(await connection.createAnswer())
        except Exception:
            raise web.HTTPBadRequest(text="That is no WebRTC offer with a microphone.") from None
        live = await asyncio.to_thread(LiveSession, self.engine, character.reference, character.picture)
        if name not in self.peers:
            await asyncio.to_thread(live.close)
            raise web.HTTPServiceUnavailable(text="The call ended before it began: try again.")
        peer.call = Call(live, self._voice(), lambda message: self._tell(peer, message))
        peer.task = asyncio.create_task(self._run(name, peer, microphone[0], picture, sound))
        return connection.localDescription

    async def _run(self, name: str, peer: Peer, microphone, picture: Picture, sound: Sound) -> None:
        """A call from its first tick to its end."""
        call, begun = peer.call, time.monotonic()
        listening = asyncio.create_task(_listen(microphone, call))
        listening.add_done_callback(lambda task: self._deaf(peer, task))
        watching = asyncio.create_task(self._watch(peer, begun))
        first = True

        def each(tick: Tick, number: int) -> None:
            nonlocal first
            if first and tick.fresh:
                first = False
                self.metrics.first_frame.observe(time.monotonic() - begun)
            send(tick, number, picture, sound)

        try:
            await call.run(each)
        except InputError as error:
            self._tell(peer, {"ended": str(error)})
            await asyncio.sleep(0.5)
        except asyncio.CancelledError:
            raise
        except Exception:
            limits.faults_of_ours().exception("A call ended by a fault.")
            self._tell(peer, {"ended": "The call ended by a fault of the server."})
            await asyncio.sleep(0.5)
        finally:
            for task in (listening, watching):
                task.cancel()
            self._count(call)
            asyncio.get_running_loop().create_task(self._end(name))

    def _deaf(self, peer: Peer, task: asyncio.Task) -> None:
        """The page is told when the user's sound is not taken any more."""
        if not task.cancelled() and task.exception() is not None:
            self._tell(peer, {"trouble": "The server cannot hear you any more: call again."})

    def _count(self, call: Call) -> None:
        counts = call.live.counts
        self.metrics.chunks.inc(counts.chunks)
        self.metrics.stalls.inc(counts.stalls)
        self.metrics.skipped.inc(counts.skipped_chunks)

    async def _watch(self, peer: Peer, begun: float) -> None:
        """Ends the call of a peer from whom nothing comes any more, and one that lasts too long."""
        seen, packets = time.monotonic(), 0
        while True:
            await asyncio.sleep(0.5)
            before, packets = packets, await _packets(peer.connection)
            now = time.monotonic()
            if packets > before:
                seen = now
            too_long = now - begun > self._call_seconds
            if too_long:
                self._tell(peer, {"ended": "The call has reached its longest time."})
            if too_long or now - seen > GONE_AFTER:
                peer.call.hang_up()
                return

    def _message(self, name: str, peer: Peer, message) -> None:
        """What the page says: it hangs up."""
        if (
            not isinstance(message, str)
            or len(message) > limits.MOST_MESSAGE_BYTES
            or not peer.messages.allow()
        ):
            return
        if message == "hang up" and peer.call is not None:
            peer.call.hang_up()

    def _tell(self, peer: Peer, message: dict) -> None:
        if "delays" in message and "answer" in message["delays"]:
            self.metrics.answer.observe(message["delays"]["answer"])
        text = json.dumps(message)
        if peer.channel is None:
            peer.waiting.append(text)
        elif peer.channel.readyState == "open":
            peer.channel.send(text)

    async def _hangup(self, request: web.Request) -> web.Response:
        name = (await read_bounded(request, limits.MOST_MESSAGE_BYTES, "message")).decode(errors="replace")
        if name not in self.peers:
            raise web.HTTPNotFound(text="There is no such call.")
        await self._end(name)
        return web.Response(text="ended")

    async def _end(self, name: str) -> None:
        """End a call and forget it; a second time does nothing."""
        peer = self.peers.pop(name, None)
        if peer is None:
            return
        self.metrics.sessions.set(len(self.peers))
        if peer.call is not None:
            peer.call.hang_up()
        if peer.task is not None and peer.task is not asyncio.current_task():
            await asyncio.wait([peer.task], timeout=10.0)
        await peer.connection.close()


async def _packets(connection: RTCPeerConnection) -> int:
    """How many a peer has sent."""
    report = await connection.getStats()
    return sum(one.packetsReceived for one in report.values() if one.type == "transport")


async def _listen(microphone, call: Call) -> None:
    """The user's sound, of whatever rate and channels, at 16 kHz into the call."""
    form, resampler = None, None
    while True:
        try:
            frame = await microphone.recv()
        except MediaStreamError:
            return
        if form != (form := (frame.sample_rate, frame.layout.name, frame.format.name)):
            resampler = av.AudioResampler("fltp", frame.layout, SAMPLE_RATE)
        for piece in resampler.resample(frame):
            # FFmpeg's own way from stereo to mono makes it louder by 3 dB.
            await call.hear(piece.to_ndarray().mean(0))


def _file(path: Path):
    async def handler(request: web.Request) -> web.FileResponse:
        return web.FileResponse(path)

    return handler
