"""A voice that needs nothing but this machine: pocketsphinx hears, a script answers, espeak-ng speaks.

It is honest about what it is: the answers come from a text file (`script`).  Where faster-whisper or piper
are installed and their models' paths are given, they hear and speak in place of the small ones.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from tm_jax.errors import InputError
from tm_jax.rates import SAMPLE_RATE
from tm_jax.serve.voices.protocol import Event, Said, Speech, SpeechEnd, Thinking, UserSaid, UserStarted
from tm_jax.serve.voices.resampling import to_pcm
from tm_jax.serve.voices.script import SHIPPED, Script
from tm_jax.serve.voices.turns import Ended, Turns

Recognizer = Callable[[np.ndarray], str]
Synthesizer = Callable[[str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class OfflineConfig:
    """What hears, answers and speaks."""

    script: Path = SHIPPED
    """Text file of patterns and answers."""
    speaker: str = "en-us+f3"
    """Voice of espeak-ng."""
    whisper: Path | None = None
    """Folder of a faster-whisper model; None hears by pocketsphinx."""
    piper: Path | None = None
    """A piper voice (.onnx with its .json beside it); None speaks by espeak-ng."""


def pocketsphinx_recognizer() -> Recognizer:
    """Speech to text by the English model that ships with pocketsphinx.

    Raises:
      InputError: pocketsphinx is not installed.
    """
    try:
        import pocketsphinx
    except ImportError:
        raise InputError(
            "The offline voice hears by pocketsphinx, which is not installed: pip install 'tm_jax[live]'."
        ) from None
    decoder = pocketsphinx.Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")

    def recognize(utterance: np.ndarray) -> str:
        decoder.start_utt()
        decoder.process_raw(to_pcm(utterance), full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return hypothesis.hypstr if hypothesis is not None else ""

    return recognize


def whisper_recognizer(folder: Path) -> Recognizer:
    """Speech to text by faster-whisper.

    Raises:
      InputError: it is not installed, or the folder holds no model.
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        raise InputError("--whisper needs faster-whisper: pip install faster-whisper.") from None
    if not (folder / "model.bin").is_file():
        raise InputError(f"The folder {folder} holds no faster-whisper model: give one with model.bin in it.")
    model = WhisperModel(str(folder), device="auto", local_files_only=True)
    return lambda utterance: " ".join(part.text.strip() for part in model.transcribe(utterance)[0])


def espeak_synthesizer(speaker: str) -> Synthesizer:
    """Text to 16 kHz speech by espeak-ng, in a process of its own.

    Raises:
      InputError: espeak-ng is not installed or has no such voice.
    """
    try:
        from tm_jax.audio.speech import Request, speak
    except ImportError:
        raise InputError(
            "The offline voice speaks by espeak-ng, which is not installed: pip install 'tm_jax[live]'."
        ) from None
    speak(Request("hello", speaker))
    return lambda text: 0.8 * speak(Request(text, speaker)).audio


def piper_synthesizer(path: Path) -> Synthesizer:
    """Text to 16 kHz speech by piper.

    Raises:
      InputError: it is not installed, or the voice's files are missing.
    """
    try:
        from piper import PiperVoice
    except ImportError:
        raise InputError("--piper needs piper-tts: pip install piper-tts.") from None
    if not path.is_file() or not path.with_suffix(path.suffix + ".json").is_file():
        raise InputError(f"{path} is no piper voice: give an .onnx file that has its .onnx.json beside it.")
    from scipy.signal import resample_poly

    voice = PiperVoice.load(str(path))

    def synthesize(text: str) -> np.ndarray:
        parts = [chunk.audio_float_array for chunk in voice.synthesize(text)]
        sound = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        common = np.gcd(SAMPLE_RATE, voice.config.sample_rate)
        up, down = SAMPLE_RATE // common, voice.config.sample_rate // common
        return resample_poly(sound, up, down).astype(np.float32)

    return synthesize


def check_offline(config: OfflineConfig) -> None:
    """Refuse what no call could begin with, when the server starts.

    Raises:
      InputError: the script, a model, or a package is missing.
    """
    Script(config.script)
    if config.whisper:
        whisper_recognizer(config.whisper)
    else:
        pocketsphinx_recognizer()
    if config.piper:
        piper_synthesizer(config.piper)
    else:
        espeak_synthesizer(config.speaker)


class Offline:
    """A `Voice` that runs here; hearing and speaking happen in a thread of its own."""

    def __init__(self, config: OfflineConfig = OfflineConfig()):
        self.config = config
        self._turns = Turns()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="tm_jax-voice")
        self._answering: asyncio.Task | None = None

    async def start(self) -> None:
        """Loads what hears and speaks, then greets.

        Raises:
          InputError: a part is missing.
        """
        loop = asyncio.get_running_loop()
        self._script, self._recognize, self._synthesize = await loop.run_in_executor(self._worker, self._load)
        if self._script.greeting:
            self._answering = asyncio.create_task(self._say(self._script.greeting))

    def _load(self) -> tuple[Script, Recognizer, Synthesizer]:
        config = self.config
        recognizer = whisper_recognizer(config.whisper) if config.whisper else pocketsphinx_recognizer()
        synthesizer = piper_synthesizer(config.piper) if config.piper else espeak_synthesizer(config.speaker)
        return Script(config.script), recognizer, synthesizer

    async def hear(self, samples: Float32[np.ndarray, "s"]) -> None:
        """Take the user's next sound."""
        for turn in self._turns.push(samples):
            self._cancel()
            if isinstance(turn, Ended):
                self._events.put_nowait(Thinking())
                self._answering = asyncio.create_task(self._answer(turn.utterance))
            else:
                self._events.put_nowait(UserStarted())

    async def _answer(self, utterance: np.ndarray) -> None:
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(self._worker, self._recognize, utterance)
        self._events.put_nowait(UserSaid(text))
        await self._say(self._script.answer(text))

    async def _say(self, text: str) -> None:
        self._events.put_nowait(Said(text))
        loop = asyncio.get_running_loop()
        # Sentence by sentence: the first is heard while the next is still being made.
        for sentence in filter(None, (part.strip() for part in _sentences(text))):
            samples = await loop.run_in_executor(self._worker, self._synthesize, sentence)
            self._events.put_nowait(Speech(samples.astype(np.float32)))
        self._events.put_nowait(SpeechEnd())

    async def events(self) -> AsyncIterator[Event]:
        """What happens, until the voice is closed."""
        while (event := await self._events.get()) is not None:
            yield event

    async def interrupted(self, played: float) -> None:
        """Says no more of the answer."""
        self._cancel()

    def _cancel(self) -> None:
        if self._answering is not None:
            self._answering.cancel()
            self._answering = None

    async def close(self) -> None:
        """End the events and the thread."""
        self._cancel()
        self._events.put_nowait(None)
        self._worker.shutdown(wait=False, cancel_futures=True)


def _sentences(text: str) -> list[str]:
    parts, start = [], 0
    for index, letter in enumerate(text):
        if letter in ".!?" and index + 1 < len(text) and text[index + 1] == " ":
            parts.append(text[start : index + 1])
            start = index + 1
    return [*parts, text[start:]]
