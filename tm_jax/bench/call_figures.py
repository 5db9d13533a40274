"""A recorded call in numbers: turns, delays, states, lip-sync, skew, rate.

user      ████▁▁▁▁▁▁▁▁▁▁▁▁▁▁████▁▁▁▁▁▁▁▁▁▁
heard     ▁▁▁▁▁▁▁▁████▁▁▁▁▁▁▁▁▁▁▁▁▁▁████▁▁      answer: from the one's end to the other's start
mouth     ▁▁▁▁▁▁▁▁████▁▁▁▁▁▁▁▁▁▁▁▁▁▁████▁▁      open, as the reader reads it
state     listening|think|speak|listening|…
"""

import dataclasses
import itertools

import numpy as np

from tm_jax.bench.call_recording import Recording, Sound
from tm_jax.evaluation.statistics import pearson
from tm_jax.rates import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME

SOON = 4.0
"""Seconds within which an answer must begin to be one."""
SETTLING = 10.0
"""Seconds until the browser has enough of the sender's reports to relate the two clocks."""
SHIFTS = np.arange(-0.04, 0.0401, 0.01)
"""Seconds by which the picture may be behind its sound where lip-sync is read: a frame at most.

Browsers leave skews of less than 30 ms alone, and hand sound to a script with a latency of its own."""
ORDER = ("thinking", "speaking", "listening")


@dataclasses.dataclass(frozen=True)
class Answer:
    """Sound that the character says, and the true opening of its mouth."""

    samples: np.ndarray
    """Float32, 16 kHz."""
    opening: np.ndarray
    """At 25 frames a second."""
    mode: np.ndarray
    """1 where it speaks."""


@dataclasses.dataclass(frozen=True)
class Heard:
    """An answer that the browser got whole."""

    which: int
    """Of the answers."""
    start: float
    """When its first sample was heard."""
    shown: np.ndarray
    """Openings of the mouth that was shown: a row for each of ``SHIFTS``, 25 frames a second."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """One sentence of the user and what followed; seconds, nan where it did not."""

    start: float
    end: float
    to_sound: float
    """End of the sentence to the answer's first sound."""
    to_mouth: float
    """End of the sentence to the mouth's first movement."""
    silenced: float
    """Start of the sentence to the end of the answer that it interrupts."""
    closed: float
    """Start of the sentence to the closed mouth."""
    states: tuple[str, ...]
    """What the page showed from this sentence's end to the next one's."""


def stretches(samples: np.ndarray, gap: float = 0.5, most: float | None = None) -> list[tuple[float, float]]:
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


def mouth_moves(recording: Recording, opening: np.ndarray) -> list[tuple[float, float]]:
    """When the mouth is open or opens, as read from the frames."""
    rest, wide = np.percentile(opening, [20, 95])
    return stretches(np.stack([recording.frame_times, opening], 1), most=rest + 0.3 * (wide - rest))


def turns(recording: Recording, opening: np.ndarray) -> list[Turn]:
    """All sentences of the user but the last, whose answer may be missing."""
    said = stretches(recording.microphone.levels())
    answers, moves = stretches(recording.heard.levels()), mouth_moves(recording, opening)
    found = []
    for (start, end), (_, until) in itertools.pairwise(said):
        states = tuple(state for time, state in recording.states if end < time <= until)
        to_sound, to_mouth = (
            min((begin - end for begin, _ in after if 0 < begin - end < SOON), default=np.nan)
            for after in (answers, moves)
        )
        silenced, closed = (_cut(start, during) for during in (answers, moves))
        closed = closed if np.isfinite(silenced) else np.nan
        found.append(Turn(start, end, to_sound, to_mouth, silenced, closed, states))
    return found


def _cut(start: float, stretches_: list[tuple[float, float]]) -> float:
    """Seconds from ``start`` to the end of the stretch that it interrupts."""
    return next((end - start for begin, end in stretches_ if begin + 0.2 < start < end), np.nan)


def right(turn: Turn) -> bool:
    """Whether the page showed thinking, speaking and listening, in this order and once each."""
    return turn.states == ORDER


def whole_answers(recording: Recording, opening: np.ndarray, answers: list[Answer]) -> list[Heard]:
    """Where an answer was heard without a word of the user in it, and the mouth that went with it."""
    said = [start for start, _ in stretches(recording.microphone.levels())]
    found = []
    for begin, _ in stretches(recording.heard.levels(), gap=1.0):
        for which, answer in enumerate(answers):
            start, likeness = _place(recording.heard, answer.samples, begin)
            end = start + len(answer.samples) / SAMPLE_RATE
            if likeness > 0.8 and not any(start < word < end for word in said):
                middles = start + (np.arange(len(answer.opening)) + 0.5) / FRAMES_PER_SECOND
                at = middles + SHIFTS[:, None]
                shown = np.searchsorted(recording.frame_times, at, side="right") - 1
                if shown.min() >= 0 and at.max() < recording.frame_times[-1]:
                    found.append(Heard(which, start, opening[shown]))
    return found


def _place(heard: Sound, samples: np.ndarray, near: float) -> tuple[float, float]:
    """When a sound that begins about ``near`` begins, and how like it what was heard is there."""
    first = max(0, int((near - heard.start) * heard.rate) - SAMPLE_RATE)
    piece = heard.samples[first : first + len(samples) + 2 * SAMPLE_RATE]
    if len(piece) < len(samples):
        return 0.0, 0.0
    size = 1 << (len(piece) + len(samples)).bit_length()
    product = np.fft.rfft(piece, size) * np.conj(np.fft.rfft(samples, size))
    match = np.fft.irfft(product, size)[: len(piece) - len(samples) + 1]
    at = int(match.argmax())
    # A jitter buffer may stretch sound by a few milliseconds: loudness tells whether it is whole.
    likeness = pearson(_loudness(piece[at : at + len(samples)]), _loudness(samples))
    return heard.start + (first + at) / heard.rate, float(likeness)


def _loudness(samples: np.ndarray) -> np.ndarray:
    frames = samples[: len(samples) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME].reshape(-1, SAMPLES_PER_FRAME)
    return np.sqrt(np.square(frames, dtype=np.float64).mean(1))


def best_shift(one: Heard, answers: list[Answer]) -> int:
    """Which of ``SHIFTS`` fits an answer best."""
    return int(np.argmax([_sync(shown, answers[one.which]) for shown in one.shown]))


def lip_sync_of(one: Heard, answers: list[Answer]) -> float:
    """Of one answer, over its speaking frames, where it fits best."""
    return _sync(one.shown[best_shift(one, answers)], answers[one.which])


def _sync(shown: np.ndarray, answer: Answer) -> float:
    speaking = answer.mode == 1
    return pearson(shown[speaking], answer.opening[speaking])


def lip_sync_figures(heard: list[Heard], answers: list[Answer], files: list[np.ndarray]) -> dict[str, float]:
    """Lip-sync in the browser, and less the lip-sync of the videos that infer.py made of the same sounds.

    Each answer is read at that of ``SHIFTS`` where it fits best, and so are the videos.

    Args:
      files: openings read from those videos.
    """
    if not heard:
        missing = "lip-sync in the browser", "lip-sync, browser less infer.py"
        return {"answers heard whole": 0.0, **dict.fromkeys(missing, float("nan"))}
    offline = np.array([_file_sync(file, answer) for file, answer in zip(files, answers, strict=True)])
    which = [one.which for one in heard]
    sync = np.array([lip_sync_of(one, answers) for one in heard])
    still = np.array([_sync(one.shown[len(SHIFTS) // 2], answers[one.which]) for one in heard])
    late = FRAMES_PER_SECOND * np.array([SHIFTS[best_shift(one, answers)] for one in heard])
    half = len(heard) // 2
    return {
        "answers heard whole": float(len(heard)),
        "lip-sync of infer.py": float(offline[which].mean()),
        "lip-sync in the browser": float(sync.mean()),
        "lip-sync, browser less infer.py": float((sync - offline[which]).mean()),
        "lip-sync, worst answer less infer.py": float((sync - offline[which]).min()),
        "lip-sync in the browser, unshifted": float(still.mean()),
        "picture behind its sound, frames, median": float(np.median(late)),
        "picture off its sound, frames, p95": float(np.percentile(np.abs(late), 95)),
        "second half of the call behind the first, frames": float(late[half:].mean() - late[:half].mean())
        if half
        else 0.0,
    }


def _file_sync(opening: np.ndarray, answer: Answer) -> float:
    """Of a video, at a shift of a frame at most."""
    count = len(answer.opening)
    frames = np.arange(count)[None] + np.array([[-1], [0], [1]])
    return max(_sync(opening[row.clip(0, len(opening) - 1)], answer) for row in frames)


def call_figures(recording: Recording, opening: np.ndarray, chunk_seconds: float) -> dict[str, float]:
    """Delays, states, rate, skew.

    Args:
      opening: of each frame's mouth.
      chunk_seconds: length of a chunk's video.
    """
    times = recording.frame_times
    said = turns(recording, opening)
    gaps = np.diff(times)
    seconds = np.bincount((times - times[0]).astype(int))[1:-1]
    skew = recording.skew[recording.skew[:, 0] > times[0] + SETTLING]
    drift = np.polyfit(skew[:, 0], skew[:, 1], 1)[0] if len(skew) > 20 else np.nan
    far = float(np.percentile(np.abs(skew[:, 1]), 95)) if len(skew) else float("nan")
    delays = [message["delays"] for _, message in recording.messages if "delays" in message]
    waits = [(one["answer"] - one["voice"]) / chunk_seconds for one in delays if "voice" in one]
    answered = np.array([(turn.to_sound, turn.to_mouth) for turn in said]).reshape(-1, 2)
    cut = np.array([(turn.silenced, turn.closed) for turn in said]).reshape(-1, 2)
    middle = lambda values: float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")
    most = lambda values: float(np.nanmax(values)) if np.isfinite(values).any() else float("nan")
    return {
        "minutes": float(times[-1] - times[0]) / 60,
        "turns": float(len(said)),
        "turns answered": float(np.isfinite(answered[:, 0]).sum()),
        "turns with wrong states": float(sum(not right(turn) for turn in said)),
        "end of speech to sound, median": middle(answered[:, 0]),
        "end of speech to moving mouth, median": middle(answered[:, 1]),
        "end of speech to moving mouth, worst": most(answered[:, 1]),
        "voice to speech in the picture, chunks, median": middle(np.array(waits)),
        "voice to speech in the picture, chunks, worst": most(np.array(waits)),
        "interruptions": float(np.isfinite(cut[:, 0]).sum()),
        "interruption to silence, median": middle(cut[:, 0]),
        "interruption to closed mouth, median": middle(cut[:, 1]),
        "interruption to closed mouth, worst": most(cut[:, 1]),
        "skew in frames, p95": FRAMES_PER_SECOND * far,
        "drift of the skew, frames": FRAMES_PER_SECOND * abs(drift) * float(times[-1] - times[0]),
        "frames a second, p5": float(np.percentile(seconds, 5)) if len(seconds) else float("nan"),
        "frames a second, mean": float((len(times) - 1) / (times[-1] - times[0])),
        "stalls over 0.5 s": float((gaps > 0.5).sum()),
        "longest gap": float(gaps.max()),
    }
