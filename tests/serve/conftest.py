"""Servers and peers on loopback, with an engine that is quick and tells what it heard."""

import asyncio
import contextlib

import aioice.ice
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack

from tests.streaming.fake import PICTURE, FakeBackend
from tm_jax.serve.limits import Gate
from tm_jax.serve.server import Server
from tm_jax.serve.tracks import Sound
from tm_jax.serve.voices.mirror import Mirror
from tm_jax.streaming.engine import StreamEngine


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    """WebRTC by loopback, so that no network is needed."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda **_: ["127.0.0.1"])


class Served(TestServer):
    """With the limits of connections that the command has."""

    def __init__(self, server: Server):
        super().__init__(server.application())
        self._served = server

    async def _make_runner(self, **_) -> web.AppRunner:
        return self._served.runner()


@pytest.fixture
def make_server():
    """An async context that gives a server and a client of it."""

    @contextlib.asynccontextmanager
    async def make(gate: Gate | None = None, capacity: int = 3, voice=Mirror, **options):
        server = Server(
            StreamEngine(FakeBackend()),
            (PICTURE, None),
            voice,
            gate=Gate.made_for("127.0.0.1") if gate is None else gate,
            capacity=capacity,
            **options,
        )
        async with TestClient(Served(server)) as client:
            yield server, client

    return make


class Peer:
    """A browser's part of a call."""

    def __init__(self, microphone: AudioStreamTrack | Sound | None = None):
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.connection.addTrack(microphone or AudioStreamTrack())
        self.connection.addTransceiver("video", direction="recvonly")
        self.channel = self.connection.createDataChannel("call")
        self.messages: list[str] = []
        self.channel.on("message", self.messages.append)
        self.tracks = {}
        self.connection.on("track", lambda track: self.tracks.update({track.kind: track}))

    async def offer(self) -> dict:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return {"sdp": self.connection.localDescription.sdp, "type": "offer"}

    async def call(self, client, **more) -> str:
        """Calls; returns the call's name."""
        async with client.post("/offer", json=await self.offer() | more) as response:
            assert response.status == 200, await response.text()
            answer = await response.json()
        await self.connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
        return answer["call"]

    async def frames(self, kind: str, count: int) -> list[np.ndarray]:
        """The next frames of a track."""
        take = lambda: asyncio.wait_for(self.tracks[kind].recv(), 10.0)
        return [(await take()) for _ in range(count)]

    async def close(self) -> None:
        await self.connection.close()


@pytest.fixture
def make_peer():
    """Makes peers."""
    return Peer
