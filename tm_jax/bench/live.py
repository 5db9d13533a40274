"""What a caller gets of a live call, measured in a browser: delays, states, lip-sync, skew, rate, stalls.

A server runs beside this process.  Its voice thinks for no time and answers with sound that is known, so that
the mouth that the browser shows can be compared with the truth, as can that of infer.py for the same sound.
A headless Chromium calls it with a recording for its microphone, records what it sees and hears with its own
clock, and interrupts some of the answers.
"""

import asyncio
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from tm_jax.bench.browser import Browser
from tm_jax.bench.call_figures import (
    Answer,
    call_figures,
    lip_sync_figures,
    lip_sync_of,
    whole_answers,
)
from tm_jax.bench.call_recording import Recorder, Recording
from tm_jax.bench.call_server import CallServer, Settings, read_wav, write_wav
from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS, ShippedPath
from tm_jax.rates import SAMPLE_RATE, SAMPLES_PER_FRAME

ASSETS = Path(__file__).parents[1] / "assets"
SPEECH, TRUTH, IMAGE = ASSETS / "speech.wav", ASSETS / "speech.json", ASSETS / "shaded.png"
ANSWERS = (slice(8, 84), slice(160, 225))
"""Frames of the shipped speech's two sentences, from their first sound to their last."""
PAUSE, SHORT_PAUSE = 7.2, 2.2
"""Seconds from the end of the user's sentence to the next: after the answer, or in the middle of it."""
TAKE = 15.0
"""Seconds between two fetches of what the browser recorded."""
BOUNDS = {
    "turns with wrong states": ("≤", 0),
    "end of speech to moving mouth, median": ("≤", 1.2),
    "voice to speech in the picture, chunks, median": ("≤", 2),
    "interruption to closed mouth, median": ("≤", 1),
    "lip-sync, browser less infer.py": ("≥", -0.03),
    "skew in frames, p95": ("≤", 1),
    "drift of the skew, frames": ("≤", 1),
    "frames a second, p5": ("≥", 24),
    "stalls over 0.5 s": ("≤", 0),
    "memory after the second minute, MiB more": ("≤", 10),
}
"""What is asked."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Call a server on this machine and measure the call in the browser."""

    minutes: float = 1.0
    """Length of the call."""
    sentence: float = 2.0
    """Seconds of the shipped speech that the user says in a turn."""
    interrupt_every: int = 4
    """The user talks over one answer in so many; 0 over none."""
    weights: ShippedPath = WEIGHTS
    """Folder of the models."""
    image: ShippedPath = IMAGE
    """The character."""
    out: Path | None = None
    """Folder for the figures (JSON), a plot, and a screenshot."""

    def __post_init__(self):
        if not (self.minutes >= 0.5 and 1 <= self.sentence <= 9 and self.interrupt_every >= 0):
            raise InputError(
                "--minutes must be at least 0.5, --sentence 1 to 9 seconds, --interrupt-every 0 or more."
            )


@dataclasses.dataclass(frozen=True)
class Report:
    """The figures, each beside what is asked of it."""

    figures: dict[str, float]
    minutes: list[dict[str, float]]
    """The same few figures of every minute."""

    @property
    def within_bound(self) -> bool:
        """Whether all is as asked."""
        return all(map(self._met, BOUNDS))

    def _met(self, name: str) -> bool:
        value, (sign, bound) = self.figures[name], BOUNDS[name]
        return value <= bound if sign == "≤" else value >= bound

    def __str__(self) -> str:
        width = max(map(len, self.figures))
        rows = []
        for name, value in self.figures.items():
            asked = ""
            if name in BOUNDS:
                sign, bound = BOUNDS[name]
                asked = f"   asked: {sign} {bound}{'' if self._met(name) else '   MISSED'}"
            rows.append(f"{name:{width}}  {value:8.2f}{asked}")
        if self.minutes:
            rows += ["", " ".join(f"{name:>16}" for name in self.minutes[0])]
            rows += [" ".join(f"{value:16.2f}" for value in minute.values()) for minute in self.minutes]
        return "\n".join(rows)


def conversation(arguments: Arguments, path: Path) -> None:
    """The microphone's sound: a sentence, time for the answer, and so on."""
    sentence = read_wav(SPEECH)[: int(arguments.sentence * SAMPLE_RATE)]
    parts, length, turn = [np.zeros(4 * SAMPLE_RATE, "<i2")], 4.0, 0
    while length < 60 * arguments.minutes:
        turn += 1
        cut = arguments.interrupt_every and turn % arguments.interrupt_every == 0
        pause = SHORT_PAUSE if cut else PAUSE
        parts += [sentence, np.zeros(int(pause * SAMPLE_RATE), "<i2")]
        length += arguments.sentence + pause
    write_wav(path, np.concatenate(parts))


def answers_of(folder: Path) -> tuple[list[Answer], list[Path]]:
    """The two sentences of the shipped speech with the truth of their mouths, and a file of each."""
    sound, truth = read_wav(SPEECH), json.loads(TRUTH.read_text("utf-8"))
    answers, paths = [], []
    for index, frames in enumerate(ANSWERS):
        samples = sound[frames.start * SAMPLES_PER_FRAME : frames.stop * SAMPLES_PER_FRAME]
        paths.append(folder / f"answer{index}.wav")
        write_wav(paths[-1], samples)
        opening, mode = (np.array(truth[name][frames]) for name in ("opening", "mode"))
        answers.append(Answer(samples.astype(np.float32) / 32768, opening, mode))
    return answers, paths


async def call(arguments: Arguments, folder: Path, sounds: list[Path]) -> tuple[Recording, list[dict], dict]:
    """The whole call: what was recorded, the server's memory every few seconds, its counts at the end."""
    settings = Settings(str(arguments.weights), str(arguments.image), answers=tuple(map(str, sounds)))
    memory = []
    async with CallServer(settings) as server, Browser(server.address, folder / "microphone.wav") as browser:
        await browser.press("call")
        await browser.until("document.getElementById('video').videoWidth > 0", 60.0)
        recorder = Recorder(browser, folder)
        await recorder.start()
        start = time.monotonic()
        while (elapsed := time.monotonic() - start) < 60 * arguments.minutes:
            memory.append({"seconds": elapsed, **(await server.report())["left"]})
            await asyncio.sleep(min(TAKE, 60 * arguments.minutes - elapsed))
            await recorder.take()
        report = await server.report()
        memory.append({"seconds": elapsed, **report["left"]})
        if arguments.out is not None:
            await browser.screenshot(arguments.out / "call.png")
        return recorder.recording(), memory, report


def openings(recording: Recording, arguments: Arguments, sounds: list[Path], folder: Path):
    """The opening of each mouth that the browser showed, and in infer.py's videos of the same sounds."""
    from tm_jax.evaluation.reader import Reader, ReaderConfig, read
    from tm_jax.evaluation.watch import read_frames
    from tm_jax.pretrained.weights import load_model
    from tm_jax.streaming.make_video import make_video
    from tm_jax.streaming.parts import load_engine

    reader = load_model(WEIGHTS / "reader.safetensors", Reader, ReaderConfig)
    shown = read(reader, recording.frames[None]).track("opening")[0]
    files = []
    for sound in sounds:
        out = folder / f"{sound.stem}.mp4"
        make_video(arguments.image, sound, out, load_engine=lambda: load_engine(arguments.weights))
        files.append(read(reader, read_frames(out)[None]).track("opening")[0])
    return shown, files


def by_minute(recording: Recording, heard: list, answers: list[Answer], memory: list[dict]) -> list[dict]:
    """Memory, rate, skew and lip-sync of every whole minute."""
    begin, rows = recording.frame_times[0], []
    inside = lambda times, minute: (times >= begin + 60 * minute) & (times < begin + 60 * (minute + 1))
    for minute in range(int((recording.frame_times[-1] - begin) // 60)):
        times = recording.frame_times[inside(recording.frame_times, minute)]
        skew = recording.skew[inside(recording.skew[:, 0], minute), 1]
        inside_it = [one for one in heard if inside(np.array([one.start]), minute)[0]]
        syncs = [lip_sync_of(one, answers) for one in inside_it]
        held = [m["mebibytes"] for m in memory if 60 * minute <= m["seconds"] < 60 * (minute + 1)]
        rows.append(
            {
                "minute": minute + 1,
                "memory, MiB": float(np.mean(held)) if held else np.nan,
                "frames a second": len(times) / 60,
                "longest gap": float(np.diff(times).max()),
                "skew, frames": 25 * float(np.median(skew)) if len(skew) else np.nan,
                "lip-sync": float(np.mean(syncs)) if syncs else np.nan,
            }
        )
    return rows


def run(arguments: Arguments) -> Report:
    """The report."""
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        conversation(arguments, folder / "microphone.wav")
        answers, sounds = answers_of(folder)
        recording, memory, served = asyncio.run(call(arguments, folder, sounds))
        opening, files = openings(recording, arguments, sounds, folder)
        heard = whole_answers(recording, opening, answers)
        (counts,) = served["counts"]
        figures = call_figures(recording, opening, served["video_seconds"])
        figures |= lip_sync_figures(heard, answers, files)
        figures |= {"chunk, seconds to make": served["chunk_seconds"], **counts}
        minutes = by_minute(recording, heard, answers, memory)
        held = [minute["memory, MiB"] for minute in minutes[1:]]
        figures["memory after the second minute, MiB more"] = held[-1] - held[0] if held else 0.0
        if arguments.out is not None:
            from tm_jax.bench.call_plot import plot

            plot(recording, opening, heard, answers, memory, arguments.out / "call_figures.png")
            told = {"figures": figures, "minutes": minutes, "memory": memory}
            (arguments.out / "figures.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    return Report(figures, minutes)
