"""Calls over real WebRTC on loopback, and what the outside may not do."""

import asyncio
import io
import json
import struct
import threading
import zlib

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError
from PIL import Image

from tests.audio.test_voice_activity import voice as speech
from tm_jax.rates import SAMPLE_RATE
from tm_jax.serve import limits
from tm_jax.serve import server as server_module
from tm_jax.serve.limits import Rate, is_loopback
from tm_jax.serve.live import Tick
from tm_jax.serve.server import _listen
from tm_jax.serve.tracks import Picture, Sound, send


def png(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(data, "PNG")
    return data.getvalue()


async def gone(server, seconds: float = 5.0) -> None:
    """Waits until no call is left."""
    for _ in range(int(seconds * 50)):
        if not server.peers:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{len(server.peers)} calls are left")


async def closed(before: set[threading.Thread], seconds: float = 20.0) -> None:
    """Waits until no thread of a session is left; a call is forgotten before its session has ended."""
    ours = lambda: {thread for thread in threading.enumerate() if thread.name.startswith("tm_jax")}
    names = lambda: [thread.name for thread in ours() - before]
    for _ in range(int(seconds * 50)):
        if not names():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{names()} are left")


def test_a_call_has_picture_sound_states_and_captions(make_server, make_peer):
    """The user speaks, the mirror answers with the same sound, and the picture hears it."""

    async def run():
        async with make_server() as (server, client):
            microphone = Sound()
            peer = make_peer(microphone)
            await peer.call(client)
            answered = peer.connection.remoteDescription.sdp
            assert "a=sendonly" in answered.split("m=video")[1], "nothing is taken but the microphone"
            said = np.concatenate([np.zeros(SAMPLE_RATE // 2, np.float32), speech(0.8)])

            async def talk():
                ticks = -(-len(said) // 640) + 100
                padded = np.pad(said, (0, 640 * ticks - len(said)))
                for number in range(ticks):
                    block = padded[640 * number : 640 * number + 640]
                    send(Tick(np.zeros((2, 2, 3), np.uint8), block, 0, True), number, Picture(), microphone)
                    await asyncio.sleep(0.04)

            talking = asyncio.create_task(talk())
            heard = []
            for _ in range(250):
                (packet,) = await peer.frames("audio", 1)
                heard.append(np.abs(packet.to_ndarray().astype(np.float32)).mean())
                if sum(level > 300 for level in heard) > 25:
                    break
            else:
                raise AssertionError("the answer never came")
            (frame,) = await peer.frames("video", 1)
            assert (frame.width, frame.height) == (6, 4)
            talking.cancel()
            states = [json.loads(m)["state"] for m in peer.messages if "state" in json.loads(m)]
            assert states[:2] == ["thinking", "speaking"]
            delays = next(json.loads(m)["delays"] for m in peer.messages if "delays" in m)
            assert 0 <= delays["voice"] <= delays["answer"] < 3
            async with client.get("/metrics") as response:
                figures = await response.text()
            assert "tm_sessions 1.0" in figures and "tm_answer_seconds_count 1.0" in figures
            await peer.close()
            await gone(server, 8.0)

    asyncio.run(run())


@pytest.mark.parametrize(
    "forms",
    [
        [(8000, "mono")],
        [(16000, "mono")],
        [(44100, "stereo")],
        [(48000, "stereo")],
        [(48000, "mono"), (8000, "mono"), (44100, "stereo")],
    ],
)
def test_a_microphone_may_have_any_rate_and_channels_and_change_them(forms):
    """A second of 200 Hz in each form arrives as such."""
    frames = []
    for rate, layout in forms:
        tone = (9000 * np.sin(2 * np.pi * 200 * np.arange(rate) / rate)).astype(np.int16)
        for start in range(0, rate, rate // 50):
            piece = np.repeat(tone[start : start + rate // 50], 2 if layout == "stereo" else 1)
            frame = av.AudioFrame.from_ndarray(piece[None], format="s16", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            frames.append(frame)

    class Microphone:
        async def recv(self):
            if not frames:
                raise MediaStreamError
            return frames.pop(0)

    class Ears:
        async def hear(self, samples):
            given.append(samples)

    given = []
    asyncio.run(_listen(Microphone(), Ears()))
    heard = np.concatenate(given)
    assert len(heard) == pytest.approx(SAMPLE_RATE * len(forms), rel=0.01)
    for start in range(0, SAMPLE_RATE * len(forms), SAMPLE_RATE):
        middle = heard[start + SAMPLE_RATE // 4 : start + 3 * SAMPLE_RATE // 4]
        assert 2 * np.abs(np.fft.rfft(middle)).argmax() == pytest.approx(200, abs=4)
        assert np.abs(middle).max() == pytest.approx(9000 / 32768, rel=0.15)


def test_calls_that_end_in_any_way_leave_nothing_behind(make_server, make_peer):
    async def run():
        async with make_server(capacity=4) as (server, client):
            before = set(threading.enumerate())
            for how in ("hangup", "close", "message", "never connected", "hangup"):
                peer = make_peer()
                if how == "never connected":
                    async with client.post("/offer", json=await peer.offer()) as response:
                        assert response.status == 200
                    await peer.close()
                    await gone(server, 8.0)
                    continue
                name = await peer.call(client)
                await peer.frames("video", 2)
                if how == "hangup":
                    async with client.post("/hangup", data=name) as response:
                        assert response.status == 200
                elif how == "message":
                    while peer.channel.readyState != "open":
                        await asyncio.sleep(0.02)
                    peer.channel.send("hang up")
                await gone(server) if how != "close" else None
                await peer.close()
                await gone(server, 8.0)
            await closed(before)
            assert threading.active_count() <= len(before) + 4, "pool threads aside, nothing stays"
            own = [task for task in asyncio.all_tasks() if "tm_jax/serve" in repr(task)]
            assert own == []

    asyncio.run(run())


def test_a_peer_from_whom_nothing_comes_is_gone_though_it_seems_connected(
    make_server, make_peer, monkeypatch
):
    monkeypatch.setattr(server_module, "GONE_AFTER", 1.0)

    async def run():
        async with make_server() as (server, client):
            peer = make_peer()
            await peer.call(client)
            await peer.frames("video", 2)
            await asyncio.sleep(2.0)
            assert len(server.peers) == 1, "silence is sound, too"

            async def lost(*_):
                pass

            for line in peer.connection.getTransceivers():
                line.sender.transport._send_rtp = lost
            await gone(server, 4.0)
            await peer.close()

    asyncio.run(run())


def test_the_next_caller_beyond_capacity_is_told_at_once_and_nobody_is_disturbed(make_server, make_peer):
    async def run():
        async with make_server(capacity=1) as (_, client):
            first, second = make_peer(), make_peer()
            name = await first.call(client)
            await first.frames("video", 2)
            async with client.post("/offer", json=await second.offer()) as response:
                assert response.status == 503 and "busy" in await response.text()
            await first.frames("video", 5)
            async with client.post("/hangup", data=name) as response:
                assert response.status == 200
            await second.call(client)
            await second.frames("video", 2)
            await first.close()
            await second.close()

    asyncio.run(run())


def hdr(picture):
    """A PNG that states PQ's curve."""
    field = b"cICP" + bytes((9, 16, 0, 1))
    return picture[:33] + struct.pack(">I", 4) + field + struct.pack(">I", zlib.crc32(field)) + picture[33:]


def test_a_callers_own_picture(make_server, make_peer):
    async def run():
        async with make_server() as (server, client):
            async with client.post("/picture", data=png(300, 200)) as response:
                assert response.status == 200
                answer = await response.json()
            name = answer["picture"]
            assert "No face was found" in answer["note"] and "colours" not in answer["note"]
            async with client.post("/picture", data=hdr(png(300, 200))) as response:
                note = (await response.json())["note"]
            assert note.startswith("The picture states colours of the kind PQ (HDR): its colours are taken")
            peer = make_peer()
            await peer.call(client, picture=name)
            assert next(iter(server.peers.values())).call.live.tick().frame.shape == (4, 6, 3)
            await peer.close()

    asyncio.run(run())


def test_which_hosts_are_this_machine():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.8.8", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.0.2", "example.com", "::")))


def test_a_rate_counts_by_the_second(monkeypatch):
    now = 100.0
    monkeypatch.setattr(limits.time, "monotonic", lambda: now)
    rate = Rate(2)
    assert [rate.allow() for _ in range(3)] == [True, True, False]
    now = 101.5
    assert rate.allow()


@pytest.mark.parametrize("path", ["index.html", "app.js", "style.css"])
def test_the_page_fetches_nothing_from_elsewhere(path):
    from tm_jax.serve.server import PAGE

    text = (PAGE / path).read_text()
    assert "http://" not in text and "https://" not in text and "//cdn" not in text
