"""Formant speech with its phonemes: espeak-ng at 16 kHz, repeatable, and cached on disk.

The cache lies in ``$TM_JAX_CACHE/speech`` (``~/.cache/tm_jax/speech`` where the variable is not set); one
file per utterance, written aside and renamed, so that many loaders may share it.
"""

import atexit
import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.signal import resample_poly

from tm_jax.errors import InputError
from tm_jax.rates import SAMPLE_RATE

_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Request:
    """One utterance to be spoken."""

    text: str
    """What is said."""
    voice: str
    """Language and speaker variant as espeak writes them, "de+f3"."""
    rate: int = 165
    """Words a minute."""
    pitch: int = 50
    """0 … 99."""


@dataclasses.dataclass(frozen=True)
class Utterance:
    """Sound and phonemes of one request."""

    audio: Float[np.ndarray, " s"]
    """16 kHz mono, at espeak's own level."""
    phonemes: tuple[str, ...]
    """IPA symbols in order; "" is a pause."""
    starts: Float[np.ndarray, " p"]
    """Onset of each phoneme in seconds."""
    ends: Float[np.ndarray, " p"]
    """End of each phoneme in seconds: the onset of the next one."""


class _Server:
    """The espeak process of this Python process, started at the first use and again after a fork."""

    def __init__(self):
        self._lock = threading.Lock()
        self._process, self._owner = None, None
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.close)

    def _forget(self):
        # A forked loader must neither share the parent's pipe nor inherit a lock that is held.
        self._lock, self._process, self._owner = threading.Lock(), None, None

    def close(self):
        """End the espeak process, if this process has one."""
        if self._process is not None and self._owner == os.getpid():
            # Both ends: after an interrupted read it may be waiting for its answer to be taken.
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()
            self._process.wait()
            self._process = None

    def say(self, request: Request) -> tuple[np.ndarray, list, int]:
        with self._lock:
            if self._process is None:
                script = str(Path(__file__).with_name("espeak_server.py"))
                self._process = subprocess.Popen(
                    [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
                self._owner = os.getpid()
            self._process.stdin.write(json.dumps(dataclasses.asdict(request)).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError("the espeak-ng process ended unexpectedly")
            header = json.loads(line)
            if "error" in header:
                raise InputError(f"speech: {header['error']}; ask espeak-ng --voices for what it has.")
            pcm = np.frombuffer(self._process.stdout.read(2 * header["samples"]), "<i2")
        return pcm, header["events"], header["rate"]


_server = _Server()


def cache_folder() -> Path:
    """Where utterances are kept."""
    root = os.environ.get("TM_JAX_CACHE")
    if root:
        return Path(root) / "speech"
    try:
        home = Path.home()
    except RuntimeError:
        # Neither HOME nor an entry for this user: containers run so.
        home = Path(tempfile.gettempdir())
    return home / ".cache" / "tm_jax" / "speech"


def _keep(path: Path, packed: dict[str, np.ndarray]) -> None:
    """Write an utterance to the cache, if it can be written: without it speech is only slower."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            partial = Path(file.name)
            try:
                np.savez(file, **packed)
                file.flush()
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)


def _pack(request: Request) -> dict[str, np.ndarray]:
    pcm, events, rate = _server.say(request)
    if len(pcm) == 0:
        raise InputError(
            f"speech: {request.text!r} gave no sound in voice {request.voice!r}; use other words."
        )
    if rate != 22_050:
        raise RuntimeError(f"espeak-ng speaks at {rate} Hz; 22050 was expected")
    audio = resample_poly(pcm.astype(np.float64) / 32768, 320, 441)
    return {
        "audio": np.clip(np.round(audio * 32767), -32768, 32767).astype(np.int16),
        "starts": np.array([sample / rate for sample, _ in events], np.float32),
        "phonemes": np.array("\n".join(name for _, name in events)),
    }


def speak(request: Request) -> Utterance:
    """Speak one request: from the cache if it was spoken before, else by espeak-ng.

    Raises `InputError` for a voice that espeak does not have and for text without sound.
    """
    fields = json.dumps([_VERSION, dataclasses.astuple(request)]).encode()
    name = hashlib.sha256(fields).hexdigest()[:32]
    path = cache_folder() / name[:2] / f"{name}.npz"
    try:
        with np.load(path) as stored:
            packed = dict(stored)
    except (OSError, ValueError, EOFError, KeyError):
        packed = _pack(request)
        _keep(path, packed)
    starts = packed["starts"]
    audio = packed["audio"].astype(np.float32) / 32767
    ends = np.append(starts[1:], np.float32(len(audio) / SAMPLE_RATE)).astype(np.float32)
    phonemes = tuple(str(packed["phonemes"]).split("\n"))
    return Utterance(audio=audio, phonemes=phonemes, starts=starts, ends=ends)
