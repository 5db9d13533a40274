"""espeak-ng in a process of its own: requests come in as JSON lines, sound and phonemes go out.

Run as a script, by path, so that it imports neither JAX nor this package.  espeak keeps state between
utterances, so that repeats inside one process differ.  Each utterance is therefore spoken by a fork of a
process that has loaded espeak and never spoken: the same request always gives the same samples.

Reply to each request: one JSON line (``samples``, ``rate``, ``events`` as [sample, IPA] pairs, or
``error``), then the samples as little-endian 16-bit integers.
"""

import ctypes
import json
import os
import signal
import sys

import espeakng_loader

# Synchronous retrieval: the other modes speak from a thread, which a fork would not have.
_SYNCHRONOUS, _PHONEME_EVENTS, _PHONEME_IPA, _DONT_EXIT = 2, 1, 2, 0x8000
_EVENT_PHONEME, _PARAMETER_RATE, _PARAMETER_PITCH, _UTF8 = 7, 1, 3, 1


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Espeak:
    """The library, loaded and initialised; `say` may be called once per process to be repeatable."""

    def __init__(self):
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        self.library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        self.library.espeak_Synth.argtypes = [
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        data = espeakng_loader.get_data_path().encode()
        options = _PHONEME_EVENTS | _PHONEME_IPA | _DONT_EXIT
        self.rate = self.library.espeak_Initialize(_SYNCHRONOUS, 200, data, options)
        self._pcm, self._events = [], []
        self._callback = _Callback(self._receive)  # kept: ctypes does not hold a reference
        self.library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count, events):
        if samples and count > 0:
            self._pcm.append(ctypes.string_at(samples, 2 * count))
        i = 0
        while events[i].type != 0:
            if events[i].type == _EVENT_PHONEME:
                self._events.append((events[i].sample, events[i].id.string.decode("utf8", "ignore")))
            i += 1
        return 0

    def say(self, text, voice, rate, pitch):
        """Speak `text`; returns (little-endian 16-bit PCM, [(sample, IPA)], sample rate)."""
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        self.library.espeak_SetParameter(_PARAMETER_RATE, int(rate), 0)
        self.library.espeak_SetParameter(_PARAMETER_PITCH, int(pitch), 0)
        encoded = text.encode() + b"\0"
        if self.library.espeak_Synth(encoded, len(encoded), 0, 1, 0, _UTF8, None, None) != 0:
            raise ValueError(f"espeak-ng could not speak {text!r}")
        self.library.espeak_Synchronize()
        return b"".join(self._pcm), self._events, self.rate


def _answer(espeak, request):
    try:
        pcm, events, rate = espeak.say(**request)
        header = {"samples": len(pcm) // 2, "rate": rate, "events": events}
    except ValueError as error:
        pcm, header = b"", {"error": str(error)}
    return json.dumps(header).encode() + b"\n" + pcm


def main():
    """Serve requests from standard input until it closes."""
    # Ctrl-C goes to every process of a terminal; this one ends when the one that asks does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    espeak = Espeak()
    out = sys.stdout.buffer
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(_answer(espeak, json.loads(line)))
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        try:
            out.write(answer)
            out.flush()
        except BrokenPipeError:
            # Nobody asks any more; os._exit spares the interpreter's own flush, which would fail again.
            os._exit(0)


if __name__ == "__main__":
    main()
