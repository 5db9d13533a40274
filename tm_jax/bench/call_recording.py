"""What a browser sees and hears of a call, recorded there with the times of its own clock.

Every frame that the video element shows is drawn at the reader's size; the microphone and the character's
sound are taken at 16 kHz.  Both leave the browser in pieces while the call goes on, so that it keeps little.
"""

import asyncio
import base64
import dataclasses
import json
from pathlib import Path

import numpy as np

from tm_jax.bench.browser import Browser
from tm_jax.rates import SAMPLE_RATE

SIDE = 64
"""Of the frames that are kept: the reader's."""
_SOUNDS = ("microphone", "heard")
_LISTS = ("frames", "skew", "states", "messages", *_SOUNDS)

INSTRUMENTS = """
(() => {
  const m = window.measured = { parts: { frames: [], microphone: [], heard: [] } };
  for (const name of LISTS) m[name] = [];
  const now = () => performance.now() / 1000;
  const listen = (stream, name) => {
    const context = new AudioContext({ sampleRate: RATE });
    const analyser = context.createAnalyser();
    analyser.fftSize = 32768;
    context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    let taken = Math.round(context.currentTime * RATE);
    setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      const until = Math.round(context.currentTime * RATE);
      m[name].push([now(), taken, until]);
      const fresh = Math.min(until - taken, samples.length);
      m.parts[name].push(Int16Array.from(samples.subarray(samples.length - fresh), (x) => 32767 * x));
      taken = until;
    }, 100);
  };
  const video = document.getElementById("video");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  const paint = canvas.getContext("2d", { willReadFrequently: true });
  const each = (_, frame) => {
    paint.drawImage(video, 0, 0, SIDE, SIDE);
    m.parts.frames.push(new Uint8Array(paint.getImageData(0, 0, SIDE, SIDE).data));
    m.frames.push(frame.presentationTime / 1000);
    video.requestVideoFrameCallback(each);
  };
  video.requestVideoFrameCallback(each);
  listen(call.stream, "microphone");
  listen(video.srcObject, "heard");
  setInterval(async () => {
    const at = {};
    for (const r of (await call.connection.getStats()).values())
      if (r.type === "inbound-rtp") at[r.kind] = r.estimatedPlayoutTimestamp;
    if (at.audio && at.video) m.skew.push([now(), (at.audio - at.video) / 1000]);
  }, 500);
  call.channel.addEventListener("message", (event) => m.messages.push([now(), JSON.parse(event.data)]));
  const stage = document.getElementById("stage");
  new MutationObserver(() => m.states.push([now(), stage.dataset.state]))
    .observe(stage, { attributes: true, attributeFilter: ["data-state"] });
  m.take = (name) => new Promise((done) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.split(",")[1] || "");
    reader.readAsDataURL(new Blob(m.parts[name].splice(0)));
  });
  m.lists = () => JSON.stringify(Object.fromEntries(LISTS.map((name) => [name, m[name].splice(0)])));
})()
"""


@dataclasses.dataclass(frozen=True)
class Sound:
    """A sound and when it was heard."""

    samples: np.ndarray
    """Float32, 16 kHz."""
    start: float
    """Time of the first sample."""
    rate: float
    """Samples in a second of the browser's clock."""

    @classmethod
    def of(cls, samples: np.ndarray, marks: np.ndarray) -> "Sound":
        """Of marks [time, the context's samples before a piece, and with it]."""
        slope, offset = np.polyfit(marks[:, 2], marks[:, 0], 1)
        late = np.median(marks[:, 0] - (offset + slope * marks[:, 2]))
        first = marks[0, 1]
        return cls(samples, float(offset + late + slope * first), float(1 / slope))

    def levels(self, window: float = 0.02) -> np.ndarray:
        """[time of its middle, root mean square] of each window."""
        count = int(window * SAMPLE_RATE)
        whole = self.samples[: len(self.samples) // count * count].reshape(-1, count)
        times = self.start + (np.arange(len(whole)) + 0.5) * count / self.rate
        return np.stack([times, np.sqrt(np.square(whole, dtype=np.float64).mean(1))], 1)


@dataclasses.dataclass(frozen=True)
class Recording:
    """A call as the browser had it; times are seconds of its clock."""

    frame_times: np.ndarray
    """When each frame was shown."""
    frames: np.ndarray
    """uint8 [t 64 64 3]."""
    microphone: Sound
    """What the user said."""
    heard: Sound
    """What the character said."""
    skew: np.ndarray
    """[time, seconds by which the sound that plays is ahead of the picture], by the browser's own account."""
    states: list[tuple[float, str]]
    """What the page showed, and from when on."""
    messages: list[tuple[float, dict]]
    """What the server told the page."""


class Recorder:
    """Records a call that is in progress."""

    def __init__(self, browser: Browser, folder: Path):
        """Keeps frames and sounds in files of this folder until the end."""
        self._browser, self._folder = browser, folder
        self._lists: dict[str, list] = {name: [] for name in _LISTS}

    async def start(self) -> None:
        """From now on."""
        script = INSTRUMENTS.replace("LISTS", json.dumps(_LISTS))
        await self._browser.run(script.replace("RATE", str(SAMPLE_RATE)).replace("SIDE", str(SIDE)))

    async def take(self) -> None:
        """Fetches what there is."""
        for name, more in json.loads(await self._browser.run("measured.lists()")).items():
            self._lists[name] += more
        for name in ("frames", *_SOUNDS):
            piece = base64.b64decode(await self._browser.run(f"measured.take('{name}')"))
            with (self._folder / name).open("ab") as file:
                await asyncio.to_thread(file.write, piece)

    def recording(self) -> Recording:
        """All that was taken."""
        lists = self._lists
        pixels = np.memmap(self._folder / "frames", np.uint8, "r").reshape(-1, SIDE, SIDE, 4)
        sounds = []
        for name in _SOUNDS:
            samples = np.fromfile(self._folder / name, "<i2").astype(np.float32) / 32768
            sounds.append(Sound.of(samples, np.array(lists[name])))
        times = np.array(lists["frames"])
        count = min(len(times), len(pixels))
        return Recording(
            times[:count],
            pixels[:count, :, :, :3],
            *sounds,
            np.array(lists["skew"]).reshape(-1, 2),
            [tuple(state) for state in lists["states"]],
            [tuple(message) for message in lists["messages"]],
        )
