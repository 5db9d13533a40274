"""The puppets' world: clips of talking and listening faces whose true mouth opening is known.

Everything is decided by (seed, split, index): identities, voices, sentences and, in the language split, the
languages are kept apart between the splits.  A clip is the beginning of every longer clip of the same index.
"""

import collections
import dataclasses
import itertools
import threading

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.signal import lfilter

from tm_jax.audio import speech
from tm_jax.data.puppets import motion
from tm_jax.data.puppets.draw import MOTION, render
from tm_jax.data.puppets.identity import SPLITS, STYLES, Identity
from tm_jax.data.puppets.sentences import LANGUAGES, sentence
from tm_jax.data.puppets.variety import PLAIN, Appearance, Variety, appearance
from tm_jax.errors import InputError

FPS = motion.FPS
SAMPLES_PER_FRAME = speech.SAMPLE_RATE // FPS
VOICES = {
    "train": tuple("f1 f2 f4 m1 m2 m3 m4 m6 m7 croak linda steph adam edward".split()),
    "heldout": tuple("f3 f5 m5 m8 belinda michael".split()),
    "language": tuple("f3 f5 m5 m8 belinda michael".split()),
}
"""Speaker variants of espeak; held-out ones are heard in neither training nor its noise."""

_NOISY = {"train": 0.3, "heldout": 0.0, "language": 0.0}
_TALKATIVE = 0.12
"""Share of clips that never listen."""
_LISTEN = 0.85
"""Probability that a sentence is followed by a listening stretch, in the other clips."""


@dataclasses.dataclass(frozen=True)
class Spoken:
    """How clips are spoken where that differs from a split's own way; the faces stay as they are."""

    english: str | None = None
    """All speak English, as espeak's variety of this name."""
    rate: int | None = None
    """Words a minute."""
    snr: float | None = None
    """Decibels by which the voice exceeds a steady noise."""


@dataclasses.dataclass(frozen=True)
class Track:
    """A clip without its picture."""

    audio: Float[np.ndarray, " s"]
    """16 kHz mono, 640 samples a frame."""
    opening: Float[np.ndarray, " t"]
    """True mouth opening, 0 … 1."""
    mode: Int[np.ndarray, " t"]
    """0 listening, 1 speaking."""
    motion: Float[np.ndarray, "t motion"]
    """What the renderer is told; columns `draw.MOTION`."""
    phonemes: tuple[motion.Phoneme, ...]
    """On the clip's clock, seconds."""
    meta: dict
    """Voice, language, texts, level and noise."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames with everything that is true about them."""

    frames: UInt8[np.ndarray, "t y x 3"]
    audio: Float[np.ndarray, " s"]
    """16 kHz mono, 640 samples a frame."""
    opening: Float[np.ndarray, " t"]
    """True mouth opening, 0 … 1."""
    mode: Int[np.ndarray, " t"]
    """0 listening, 1 speaking."""
    face_box: tuple[int, int, int, int]
    """y0, x0, y1, x1 of the face in pixels, wide enough for its motion."""
    style: str
    """One of `identity.STYLES`."""
    meta: dict
    """Identity, voice, language, texts; per frame: motion (columns `draw.MOTION`, before the camera), head_x,
    head_y (pixels), head_angle (radians), yaw, pitch, blink, gaze_x, gaze_y, brow, mouth_width,
    mouth_rounding."""


def frame_count(seconds: float) -> int:
    """The largest 1 + 4k frames that fit in `seconds`."""
    if not seconds * FPS >= 1:
        raise InputError(f"seconds is {seconds}, less than one frame; give at least {1 / FPS}.")
    return 1 + 4 * ((round(seconds * FPS * 1e6) // 1_000_000 - 1) // 4)


class PuppetWorld:
    """An endless, repeatable supply of clips.

    `split` is "train", "heldout" (identities, voices and sentences that training never sees) or "language"
    (the same, in languages that training never hears).  `size` is the side of the square picture in pixels.
    `variety` changes who is seen and how, and nothing of what is said or moved.
    Raises `InputError` for an unknown split or an impossible size.
    """

    def __init__(
        self,
        seed: int = 0,
        split: str = "train",
        size: int = 128,
        spoken: Spoken = Spoken(),
        variety: Variety = PLAIN,
    ):
        if split not in SPLITS:
            raise InputError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}.")
        if size < 16:
            raise InputError(f"size is {size} pixels, too small for a face; give 16 or more.")
        self.seed, self.split, self.size, self.spoken, self.variety = seed, split, size, spoken, variety
        self._tracks: collections.OrderedDict[tuple[int, int], Track] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self):
        return {name: getattr(self, name) for name in ("seed", "split", "size", "spoken", "variety")}

    def __setstate__(self, state):
        self.__init__(**state)

    def _rng(self, *path: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, SPLITS[self.split], *path])

    def _appearance(self, number: int) -> Appearance:
        return appearance(self.variety, self.seed, self.split, number)

    def identity(self, number: int) -> Identity:
        """Who appears in clip `number`."""
        return self._appearance(number).identity

    def frames(self, identity: int, motion: Float[np.ndarray, "t motion"]) -> UInt8[np.ndarray, "t y x 3"]:
        """One identity moving so; columns of `motion` as `draw.MOTION`."""
        shown = self._appearance(identity)
        return render(shown.identity.vector(), motion, self.size, shown.look(self.size))

    def portrait(self, identity: int) -> UInt8[np.ndarray, "y x 3"]:
        """A still of one identity: looking ahead, eyes open, mouth closed."""
        return self.frames(identity, np.zeros((1, len(MOTION)), np.float32))[0]

    def face_box(self, identity: int) -> tuple[int, int, int, int]:
        """y0, x0, y1, x1 in pixels: the face of the portrait with room for its motion."""
        shown = self._appearance(identity)
        v = shown.identity.values
        top, bottom = v["head_y"] - v["head_h"] * 0.85, v["head_y"] + v["head_h"] + 0.16
        left, right = v["head_x"] - v["head_w"] - 0.06, v["head_x"] + v["head_w"] + 0.06
        x, y = shown.camera.seen(np.array([left, right, left, right]), np.array([top, top, bottom, bottom]))
        edges = (y.min(), x.min(), y.max(), x.max())
        pixels = np.clip(np.round((np.array(edges) + 1) * self.size / 2), 0, self.size)
        return tuple(int(x) for x in pixels)

    def truth(self, index: int, seconds: float = 10.0) -> Track:
        """Sound, mouth, mode and motion of a clip without drawing it."""
        key = (index, frame_count(seconds))
        with self._lock:
            if key in self._tracks:
                self._tracks.move_to_end(key)
                return self._tracks[key]
        track = self._make_track(*key)
        with self._lock:
            self._tracks[key] = track
            while len(self._tracks) > 16:
                self._tracks.popitem(last=False)
        return track

    def clip(self, index: int, seconds: float = 10.0) -> Clip:
        """A whole clip of 1 + 4k frames at 25 fps, the largest that fits in `seconds`."""
        return self.window(index, 0, frame_count(seconds), seconds=seconds)

    def window(self, index: int, start: int, frames: int, seconds: float = 10.0) -> Clip:
        """Frames start … start+frames-1 of ``clip(index, seconds)``; only these are drawn.

        Raises `InputError` where the window reaches outside the clip.
        """
        total = frame_count(seconds)
        if frames < 1 or start < 0 or start + frames > total:
            raise InputError(
                f"window {start}+{frames} reaches outside the clip's {total} frames; choose one inside."
            )
        track, shown = self.truth(index, seconds), self._appearance(index)
        who = shown.identity
        part = slice(start, start + frames)
        moves = dict(zip(MOTION, track.motion[part].T, strict=True))
        half = self.size / 2
        head_x, head_y = shown.camera.seen(
            who.values["head_x"] + moves["x"], who.values["head_y"] + moves["y"]
        )
        return Clip(
            frames=self.frames(index, track.motion[part]),
            audio=track.audio[start * SAMPLES_PER_FRAME : (start + frames) * SAMPLES_PER_FRAME],
            opening=track.opening[part],
            mode=track.mode[part],
            face_box=self.face_box(index),
            style=who.style,
            meta=track.meta
            | {
                "identity": index,
                "motion": track.motion[part],
                "parameters": who.values,
                "head_x": (1 + head_x) * half,
                "head_y": (1 + head_y) * half,
                "head_angle": moves["angle"] + shown.camera.roll,
                "mouth_width": moves["width"],
                "mouth_rounding": moves["rounding"],
                **{name: moves[name] for name in ("yaw", "pitch", "blink", "gaze_x", "gaze_y", "brow")},
            },
        )

    def _make_track(self, index: int, frames: int) -> Track:
        length = frames / FPS
        plan = self._rng(2, index)
        languages, voices = LANGUAGES[self.split], VOICES[self.split]
        language = languages[plan.integers(len(languages))]
        language = "en-us" if self.spoken.english else language
        voice = f"{self.spoken.english or language}+{voices[plan.integers(len(voices))]}"
        rate, pitch = int(plan.integers(130, 211)), int(plan.integers(30, 76))
        rate = self.spoken.rate or rate
        level = plan.uniform(-26, -15)
        snr = plan.uniform(10, 30) if plan.random() < _NOISY[self.split] else None
        snr = snr if self.spoken.snr is None else self.spoken.snr
        talkative, listens_first = plan.random() < _TALKATIVE, plan.random() < 0.3
        audio = np.zeros(frames * SAMPLES_PER_FRAME, np.float32)
        mode = np.ones(frames, np.int32)
        phonemes, texts, listening = [], [], []
        now = plan.uniform(0.12, 0.35)
        if listens_first and not talkative:
            now = plan.uniform(1.0, 2.5)
            listening.append((0.0, now))
        for number in itertools.count():
            if now >= length:
                break
            rng = self._rng(3, index, number)
            text = sentence(rng, language, self.split)
            said = speech.speak(speech.Request(text=text, voice=voice, rate=rate, pitch=pitch))
            sound = _levelled(said.audio, level + rng.uniform(-1.5, 1.5))
            begin = round(now * speech.SAMPLE_RATE)
            stop = min(begin + len(sound), len(audio))
            audio[begin:stop] += sound[: stop - begin]
            texts.append(text)
            spoken = zip(said.phonemes, said.starts, said.ends, strict=True)
            phonemes += [motion.Phoneme(s, now + float(a), now + float(b)) for s, a, b in spoken]
            now += len(sound) / speech.SAMPLE_RATE
            pause = rng.uniform(0.1, 0.4)
            if not talkative and rng.random() < _LISTEN:
                # The mouth needs a moment to close before the puppet only listens.
                end = now + 0.2 + rng.uniform(1.0, 3.0)
                listening.append((now + 0.2, end))
                pause = end - now
            now += pause
        for start, end in listening:
            mode[int(np.ceil(start * FPS)) : int(end * FPS)] = 0
        if snr is not None:
            audio = audio + self._noise(index, frames, 10 ** ((level - snr) / 20))
        parts = motion.mouth(phonemes, frames) | motion.head(self._rng(5, index), frames, listening)
        return Track(
            audio=np.clip(audio, -1, 1).astype(np.float32),
            opening=parts["opening"].astype(np.float32),
            mode=mode,
            motion=motion.columns(parts),
            phonemes=tuple(p for p in phonemes if p.start < length),
            meta={
                "voice": voice,
                "language": language,
                "text": tuple(texts),
                "rate": rate,
                "pitch": pitch,
                "level": level,
                "snr": snr,
            },
        )

    def _noise(self, index: int, frames: int, level: float) -> np.ndarray:
        """Steady background sound of root mean square `level`: white to brown, by the clip."""
        seconds = -(-frames // FPS)
        white = np.concatenate(
            [self._rng(4, index, i).standard_normal(speech.SAMPLE_RATE) for i in range(seconds)]
        )[: frames * SAMPLES_PER_FRAME]
        colour = self._rng(6, index).uniform(0.0, 0.97)
        # A one-pole filter of unit output power keeps the level whatever the colour.
        return level * lfilter([np.sqrt(1 - colour**2)], [1, -colour], white)


def _levelled(audio: np.ndarray, decibels: float) -> np.ndarray:
    """Scale speech so that the root mean square of its sounding parts is `decibels` below full scale."""
    blocks = audio[: len(audio) // 160 * 160].reshape(-1, 160)
    power = np.mean(np.square(blocks, dtype=np.float64), axis=1)
    sounding = power > 1e-3 * power.max(initial=1e-12)
    return (audio * (10 ** (decibels / 20) / np.sqrt(np.mean(power[sounding])))).astype(np.float32)


__all__ = ["FPS", "SAMPLES_PER_FRAME", "STYLES", "VOICES", "Clip", "PuppetWorld", "Track", "frame_count"]
