"""What a caller gets: delays, skew, frame rate and stalls of a live call, measured in a browser.

A server runs here with the mirror as its voice, which thinks for no time: the character says what it heard.
A headless Chromium calls it with a recording for its microphone, and its own clock times everything: when the
recording's sentences end, when the answer is heard, when the picture's mouth begins to move.

    microphone   ▁▁████▁▁▁▁▁▁▁▁▁▁▁▁▁▁████▁▁▁▁
    heard        ▁▁▁▁▁▁▁▁▁████▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁      answer: end of the one to the start of the other
    mouth moves  ▁▁▁▁▁▁▁▁▁████▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁
"""

import asyncio
import dataclasses
import json
import tempfile
import wave
from pathlib import Path

import numpy as np

from tm_jax.bench.browser import Browser
from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS, ShippedPath
from tm_jax.rates import SAMPLE_RATE

SPEECH = Path(__file__).parents[1] / "assets" / "speech.wav"
IMAGE = Path(__file__).parents[1] / "assets" / "anime.png"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Call a server on this machine and measure the call in the browser."""

    minutes: float = 1.0
    """Length of the call."""
    speech: ShippedPath = SPEECH
    """A 16 kHz mono wav: its first seconds are the user's sentence."""
    sentence: float = 2.0
    """Seconds of it that the user says in a turn."""
    pause: float = 5.0
    """Seconds in which the user listens."""
    interrupt: bool = False
    """The user talks over every second answer."""
    weights: ShippedPath = WEIGHTS
    """Folder of the models."""
    image: ShippedPath = IMAGE
    """The character."""
    out: Path | None = None
    """Folder for the figures (JSON), all samples, and a screenshot."""

    def __post_init__(self):
        if min(self.minutes, self.sentence, self.pause) <= 0:
            raise InputError("--minutes, --sentence and --pause must be more than 0.")


INSTRUMENTS = """
(() => {
  const m = window.measured = { microphone: [], heard: [], frames: [], skew: [], states: [] };
  const level = (stream, into) => {
    const context = new AudioContext();
    const analyser = context.createAnalyser();
    analyser.fftSize = 1024;
    context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(1024);
    setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      let sum = 0;
      for (const x of samples) sum += x * x;
      into.push([performance.now() / 1000, Math.sqrt(sum / samples.length)]);
    }, 20);
  };
  const video = document.getElementById("video");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 64;
  const paint = canvas.getContext("2d", { willReadFrequently: true });
  let before = null;
  const each = (now, data) => {
    paint.drawImage(video, 0, 0, 64, 64);
    const pixels = paint.getImageData(BOX).data;
    let moved = 0;
    if (before) for (let i = 0; i < pixels.length; i += 4) moved += Math.abs(pixels[i + 1] - before[i + 1]);
    before = pixels;
    m.frames.push([now / 1000, (4 * moved) / pixels.length]);
    video.requestVideoFrameCallback(each);
  };
  video.requestVideoFrameCallback(each);
  level(call.stream, m.microphone);
  level(video.srcObject, m.heard);
  setInterval(async () => {
    const at = {};
    for (const r of (await call.connection.getStats()).values())
      if (r.type === "inbound-rtp") at[r.kind] = r.estimatedPlayoutTimestamp;
    if (at.audio && at.video) m.skew.push((at.audio - at.video) / 1000);
  }, 500);
  const stage = document.getElementById("stage");
  new MutationObserver(() => m.states.push([performance.now() / 1000, stage.dataset.state]))
    .observe(stage, { attributes: true });
})()
"""
MOUTH = "22, 38, 20, 12"
"""The mouth of a portrait in a picture of 64×64: x, y, width, height."""


def recording(arguments: Arguments, path: Path) -> None:
    """The microphone's sound: a sentence, a pause, and so on; every second may be short."""
    with wave.open(str(arguments.speech)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (SAMPLE_RATE, 1, 2):
            raise InputError(f"{arguments.speech} is no 16 kHz mono 16-bit wav: convert it.")
        sentence = np.frombuffer(file.readframes(int(arguments.sentence * SAMPLE_RATE)), "<i2")
    pauses = [arguments.pause, 0.5 + 0.6 * arguments.sentence] if arguments.interrupt else [arguments.pause]
    parts, length, turn = [np.zeros(3 * SAMPLE_RATE, "<i2")], 3.0, 0
    while length < 60 * arguments.minutes:
        pause = pauses[turn % len(pauses)]
        parts += [sentence, np.zeros(int(pause * SAMPLE_RATE), "<i2")]
        length, turn = length + arguments.sentence + pause, turn + 1
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(np.concatenate(parts).tobytes())


def stretches(samples: np.ndarray, gap: float = 0.4, most: float | None = None) -> list[tuple[float, float]]:
    """When something sounds or moves: [time, level] samples to (from, to), gaps of less than ``gap`` closed.

    Args:
      most: the level above which it does; None is halfway, in decibels, between quiet and loud.
    """
    times, levels = samples[:, 0], samples[:, 1]
    if most is None:
        quiet, loud = np.percentile(levels, [10, 95])
        most = float(np.sqrt(max(quiet, 1e-4) * max(loud, 1e-3)))
    found: list[list[float]] = []
    for time in times[levels > most]:
        if found and time - found[-1][1] < gap:
            found[-1][1] = float(time)
        else:
            found.append([float(time), float(time)])
    return [(start, end) for start, end in found if end - start > 0.1]


def following(ends: list[float], starts: list[float], within: float = 4.0) -> list[float]:
    """For each end the time to the next start, where there is one soon."""
    gaps = [min((start - end for start in starts if start > end), default=np.inf) for end in ends]
    return [gap for gap in gaps if gap < within]


def figures(measured: dict) -> dict[str, float]:
    """The call in numbers; seconds, and frames a second."""
    microphone, received, frames = (np.array(measured[name]) for name in ("microphone", "heard", "frames"))
    said, answers, moves = (
        stretches(microphone),
        stretches(received),
        stretches(frames, most=mouth_moves(frames)),
    )
    ends = [end for _, end in said]
    to_sound, to_mouth = (following(ends, [start for start, _ in found]) for found in (answers, moves))
    # Where the user begins during an answer, the answer stops.
    cut = [
        end - start
        for start, _ in said
        for begin, end in answers
        if begin + 0.2 < start < end and end - start < 3.0
    ]
    gaps = np.diff(frames[:, 0])
    seconds = np.bincount((frames[:, 0] - frames[0, 0]).astype(int))[1:-1]
    skew = 25 * np.abs(np.array(measured["skew"][4:]))
    median = lambda values: float(np.median(values)) if len(values) else float("nan")
    return {
        "minutes": float(frames[-1, 0] - frames[0, 0]) / 60,
        "turns": len(said),
        "answered": len(to_sound),
        "end of speech to sound, median": median(to_sound),
        "end of speech to moving mouth, median": median(to_mouth),
        "end of speech to moving mouth, worst": max(to_mouth, default=float("nan")),
        "interruption to silence, median": median(cut),
        "skew in frames, p95": float(np.percentile(skew, 95)) if len(skew) else float("nan"),
        "frames a second, p5": float(np.percentile(seconds, 5)) if len(seconds) else float("nan"),
        "frames a second, mean": float(len(frames) / (frames[-1, 0] - frames[0, 0])),
        "stalls over 0.5 s": int((gaps > 0.5).sum()),
        "longest gap": float(gaps.max()),
    }


def mouth_moves(frames: np.ndarray) -> float:
    """The change of the mouth's pixels above which it moves: between rest and speech."""
    quiet, loud = np.percentile(frames[:, 1], [25, 95])
    return float(quiet + 0.35 * (loud - quiet))


async def measure(arguments: Arguments) -> dict[str, float]:
    """The whole call."""
    from aiohttp import web

    from tm_jax.serve.capacity import measure as measure_capacity
    from tm_jax.serve.limits import Gate
    from tm_jax.serve.pictures import portrait
    from tm_jax.serve.server import Server
    from tm_jax.serve.voices.mirror import Mirror
    from tm_jax.streaming.parts import load_engine

    engine = await asyncio.to_thread(load_engine, arguments.weights)
    picture = portrait(arguments.image, engine)
    capacity = await asyncio.to_thread(measure_capacity, engine, picture[0])
    server = Server(engine, picture, Mirror, gate=Gate.made_for("127.0.0.1"))
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        with tempfile.TemporaryDirectory() as folder:
            recording(arguments, Path(folder) / "microphone.wav")
            async with Browser(address, Path(folder) / "microphone.wav") as browser:
                await browser.until("Boolean(document.getElementById('call'))")
                await browser.run("document.getElementById('call').click()")
                await browser.until("document.getElementById('video').videoWidth > 0", 60.0)
                await browser.run(INSTRUMENTS.replace("BOX", MOUTH))
                await asyncio.sleep(60 * arguments.minutes)
                measured = json.loads(await browser.run("JSON.stringify(window.measured)"))
                (peer,) = server.peers.values()
                counts = dataclasses.asdict(peer.call.live.counts)
                if arguments.out is not None:
                    arguments.out.mkdir(parents=True, exist_ok=True)
                    await browser.screenshot(arguments.out / "call.png")
    finally:
        await runner.cleanup()
    found = figures(measured) | {"chunk, seconds": capacity.chunk_seconds} | counts
    if arguments.out is not None:
        (arguments.out / "figures.json").write_text(json.dumps(found, indent=1))
        (arguments.out / "samples.json").write_text(json.dumps(measured))
    return found


def run(arguments: Arguments) -> str:
    """The table."""
    found = asyncio.run(measure(arguments))
    width = max(map(len, found))
    return "\n".join(f"{name:{width}}  {value:8.2f}" for name, value in found.items())
