"""A server of calls in a process of its own, and what that process holds: `live` and `churn` call it.

It prints its address; then each line on its standard input is answered with a line of JSON.  Its voice hears
by the same voice activity as the mirror and answers at once with sound that is known beforehand.
"""

import asyncio
import contextlib
import dataclasses
import gc
import json
import sys
import threading
import wave
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from tm_jax.errors import InputError
from tm_jax.rates import SAMPLE_RATE
from tm_jax.serve.voices.mirror import Mirror


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is served."""

    weights: str
    """Folder of the models."""
    image: str
    """The character."""
    capacity: int = 1
    """Calls at once."""
    answers: tuple[str, ...] = ()
    """16 kHz mono wavs that the character says in turn; none for the mirror."""


@dataclasses.dataclass(frozen=True)
class Left:
    """What a process holds."""

    threads: int
    tasks: int
    sockets: int
    mebibytes: float

    @classmethod
    def now(cls) -> "Left":
        """Of this process, without what only waits to be collected; threads are ours."""
        gc.collect()
        sockets = 0
        for file in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets += "socket:" in str(file.readlink())
        status = Path("/proc/self/status").read_text().splitlines()
        resident = next(line for line in status if line.startswith("VmRSS"))
        own = [thread for thread in threading.enumerate() if thread.name.startswith("tm_jax")]
        return cls(len(own), len(asyncio.all_tasks()), sockets, int(resident.split()[1]) / 1024)


def read_wav(path: Path) -> np.ndarray:
    """The samples of a 16-bit 16 kHz mono wav.

    Raises:
      InputError: it is none.
    """
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (SAMPLE_RATE, 1, 2):
            raise InputError(f"{path} is no 16 kHz mono 16-bit wav: convert it.")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def write_wav(path: Path, samples: np.ndarray) -> None:
    """16-bit samples as a 16 kHz mono wav."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(samples.tobytes())


class Reciter(Mirror):
    """Hears as the mirror does, and answers with one of its sounds after the other."""

    def __init__(self, sounds: list[np.ndarray]):
        super().__init__()
        self._sounds, self._turn = sounds, 0

    def answer(self, utterance: Float32[np.ndarray, "s"]) -> Float32[np.ndarray, "a"]:
        """The next sound, whatever was said."""
        self._turn += 1
        return self._sounds[(self._turn - 1) % len(self._sounds)]


class CallServer:
    """The process, seen from the one that started it; use it as an async context."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self.address = ""

    async def __aenter__(self) -> "CallServer":
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tm_jax.bench.call_server",
            json.dumps(dataclasses.asdict(self._settings)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self.address = (await self._line())["address"]
        return self

    async def _line(self) -> dict:
        line = await asyncio.wait_for(self._process.stdout.readline(), 300.0)
        if not line:
            raise InputError("The server of this benchmark ended; what it said stands above.")
        return json.loads(line)

    async def report(self) -> dict:
        """``left``, as `Left`; ``calls`` in progress; ``counts`` of each, as `LiveCounts`; and the
        fields of `Capacity`."""
        self._process.stdin.write(b"\n")
        return await self._line()

    async def emptied(self, most: int) -> None:
        """Waits until no more calls than that are left.

        Raises:
          RuntimeError: they stay.
        """
        for _ in range(200):
            if (calls := (await self.report())["calls"]) <= most:
                return
            await asyncio.sleep(0.1)
        raise RuntimeError(f"{calls} calls are left")

    async def __aexit__(self, *_) -> None:
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 30.0)
        except TimeoutError:
            self._process.kill()


async def serve(settings: Settings) -> None:
    """Serves until the standard input ends."""
    from aiohttp import web

    from tm_jax.serve import limits
    from tm_jax.serve.capacity import measure
    from tm_jax.serve.limits import Gate
    from tm_jax.serve.memory import give_back_freed_blocks
    from tm_jax.serve.pictures import portrait
    from tm_jax.serve.server import Server
    from tm_jax.streaming.parts import load_engine

    give_back_freed_blocks()
    limits.MOST_REQUESTS_A_SECOND = 10**6
    engine = load_engine(Path(settings.weights))
    picture = portrait(Path(settings.image), engine)[:2]
    capacity = measure(engine, picture[0])
    sounds = [read_wav(Path(path)).astype(np.float32) / 32768 for path in settings.answers]
    voice = (lambda: Reciter(sounds)) if sounds else Mirror
    server = Server(engine, picture, voice, gate=Gate.made_for("127.0.0.1"), capacity=settings.capacity)
    runner = server.runner()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"address": f"http://127.0.0.1:{runner.addresses[0][1]}/"}), flush=True)
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        peers = [peer.call.live.counts for peer in server.peers.values() if peer.call is not None]
        found = {
            "left": dataclasses.asdict(Left.now()),
            "calls": len(server.peers),
            "counts": [dataclasses.asdict(counts) for counts in peers],
            **dataclasses.asdict(capacity),
        }
        print(json.dumps(found), flush=True)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(Settings(**json.loads(sys.argv[1]))))
