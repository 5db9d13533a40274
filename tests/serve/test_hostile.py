"""A hundred hostile requests, one by one and as floods, while a call goes on."""

import asyncio
import contextlib

import pytest

from tests.serve.hostile import png, post, request, requests
from tm_jax.serve import limits
from tm_jax.serve.limits import Gate


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Nobody waits long for what never comes."""
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.4)
    monkeypatch.setattr(limits, "IDLE_SECONDS", 0.6)
    monkeypatch.setattr(limits, "MOST_REQUESTS_A_SECOND", 10**6)


async def sent(port: int, data: bytes) -> tuple[int, bytes]:
    """The status that answers, 0 where the connection is closed without one; and all that came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        answer = b""
        with contextlib.suppress(ConnectionError):
            while piece := await asyncio.wait_for(reader.read(65536), 5.0):
                answer += piece
        return (int(answer.split()[1]) if answer else 0), answer
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def frames_go_on(peer):
    """Checks that a call has had its frames meanwhile; takes them all the time."""
    count = 0

    async def take():
        nonlocal count
        while True:
            await peer.frames("video", 1)
            count += 1

    taking, loop = asyncio.create_task(take()), asyncio.get_running_loop()
    await asyncio.sleep(0.5)
    before, start = count, loop.time()
    yield
    await asyncio.sleep(0.2)
    seconds, got = loop.time() - start, count - before
    taking.cancel()
    assert got > 12 * seconds, f"{got} frames in {seconds:.1f} s"


def test_a_hundred_hostile_requests_are_refused_and_the_call_goes_on(make_server, make_peer):
    every = requests()
    assert len(every) >= 100 and len({one.data for one in every}) == len(every)

    async def run():
        async with make_server() as (server, client):
            peer = make_peer()
            await peer.call(client)
            await peer.frames("video", 2)
            async with frames_go_on(peer):
                for one in every:
                    status, answer = await sent(client.port, one.data)
                    assert status in one.statuses, (one.name, status, answer[:300])
                    assert b"Traceback" not in answer and b"/tmp" not in answer, one.name
            assert len(server.peers) == 1, "only the call that was there"
            await peer.close()

    asyncio.run(run())


def test_tokens_of_every_wrong_kind_are_refused(make_server):
    async def run():
        gate = Gate.made_for("0.0.0.0")
        right = gate.token
        wrong = (
            "",
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            right[:-1],
            f"Bearer {right}x",
            f"Bearer {right.swapcase()}",
            f"Basic {right}",
            f"Bearer {right}, Bearer {right}",
            "Bearer " + "x" * 4000,
        )
        async with make_server(gate=gate) as (_, client):
            for given in wrong:
                status, _ = await sent(client.port, request("GET", "/metrics", Authorization=given))
                assert status == 401, given
            for path in (f"/metrics?token={right}", f"/metrics#{right}"):
                assert (await sent(client.port, request("GET", path)))[0] in (400, 401)
            assert (await sent(client.port, request("GET", "/metrics", Cookie=f"token={right}")))[0] == 401
            assert (await sent(client.port, post("/offer", b"{}")))[0] == 401
            for path in ("/", "/app.js", "/style.css", "/healthz", "/portrait.png"):
                assert (await sent(client.port, request("GET", path)))[0] == 200, path
            allowed = request("GET", "/metrics", Authorization=f"Bearer {right}")
            assert (await sent(client.port, allowed))[0] == 200

    asyncio.run(run())


def test_floods_are_bounded_and_the_call_goes_on(make_server, make_peer, monkeypatch):
    async def run():
        async with make_server(capacity=2) as (server, client):
            peer, other = make_peer(), make_peer()
            await peer.call(client)
            await peer.frames("video", 2)
            while peer.channel.readyState != "open":
                await asyncio.sleep(0.02)
            async with frames_go_on(peer):
                for _ in range(300):
                    peer.channel.send("x" * 3000)
                pictures = (post("/picture", png(900, 900 + n)) for n in range(12))
                statuses = [
                    status for status, _ in await asyncio.gather(*(sent(client.port, p) for p in pictures))
                ]
                assert set(statuses) == {200, 503}, "only a few pictures wait to be decoded"
                # Whoever never finishes a request loses the connection.
                idle = (sent(client.port, request("GET", "/")[:-2]) for _ in range(100))
                assert {status for status, _ in await asyncio.gather(*idle)} == {0}
                await other.call(client)
                for _ in range(5):
                    async with client.post("/offer", json=await make_peer().offer()) as response:
                        assert response.status == 503
                monkeypatch.setattr(limits, "MOST_REQUESTS_A_SECOND", 20)
                server._requests.clear()
                floods = await asyncio.gather(*(sent(client.port, post("/hangup", b"no")) for _ in range(90)))
                assert [status for status, _ in floods].count(429) > 20
            await peer.close()
            await other.close()

    asyncio.run(run())
