"""One look at a whole video before anything is kept: its cuts, its faces, its speech."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Int16, UInt8

from tm_jax.audio.voice_activity import VoiceActivity
from tm_jax.data.prepare.decode import Part, pictures, sound
from tm_jax.data.prepare.sources import Source
from tm_jax.media.face_finder import FaceFinder, Faces
from tm_jax.rates import FRAMES_PER_SECOND

SMALL = (48, 27)
THUMBNAIL_HEIGHT = 90
THUMBNAIL_EVERY = 2 * FRAMES_PER_SECOND
_BLOCK = 16_000


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was seen and heard of a video."""

    frames: int
    """Frames at 25 a second."""
    sizes: dict[int, tuple[int, int]]
    """Frame → height and width in pixels, upright, from that frame on."""
    borders: dict[int, str]
    """Frame at which other pictures begin than those before, cut or not → why."""
    change: Float[np.ndarray, " frames"]
    """Mean difference per pixel (of 255) of each frame from the one before it."""
    looked: Int[np.ndarray, " looks"]
    """Frames in which faces were searched; none where the box was given."""
    faces: list[Faces]
    """The faces of those frames."""
    sound: Int16[np.ndarray, " s"]
    """16 kHz mono, from the first frame on; none where the video has no sound."""
    missing: list[tuple[int, int]]
    """Samples, from and to, where the sound has a hole."""
    speaking: Bool[np.ndarray, " tokens"]
    """Whether somebody speaks, for every 20 ms; as long as the pictures."""
    thumbnails: dict[int, UInt8[np.ndarray, "y x 3"]]
    """Small pictures of some of the frames."""

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return self.frames / FRAMES_PER_SECOND

    def size_at(self, frame: int) -> tuple[int, int]:
        """Height and width of a frame."""
        return self.sizes[max((first for first in self.sizes if first <= frame), default=0)]


def survey(source: Source, look_every: int, *, search: bool = True) -> Survey:
    """Decode a video once and note what decides about its clips.

    Args:
      look_every: frames from one search for faces to the next.
      search: whether to search for faces at all.

    Raises:
      InputError: the file is no video, damaged or cut off.
    """
    finder = FaceFinder()
    change, looked, faces, thumbnails = [], [], [], {}
    before, size, sizes, borders, began, part = None, None, {}, {}, [], -1
    for index, picture in enumerate(pictures(source.path)):
        rgb = picture.rgb()
        if picture.part != part:
            part = picture.part
            began.append((index, picture.began))
            if index:
                borders[index] = "the file's clock jumps"
        if rgb.shape[:2] != size:
            if size is not None:
                borders[index] = (
                    f"the picture changes from {size[1]}×{size[0]} to {rgb.shape[1]}×{rgb.shape[0]}"
                )
            sizes[index] = size = rgb.shape[:2]
        small = cv2.resize(rgb, SMALL, interpolation=cv2.INTER_AREA).astype(np.float32)
        change.append(0.0 if before is None else float(np.abs(small - before).mean()))
        before = small
        if search and index % look_every == 0:
            looked.append(index)
            faces.append(finder(rgb))
        if index % THUMBNAIL_EVERY == 0:
            thumbnails[index] = thumbnail(rgb)
    ends = [index for index, _ in began[1:]] + [len(change)]
    parts = [Part(end - first, time) for (first, time), end in zip(began, ends, strict=True)]
    samples, missing = sound(source.path, parts)
    return Survey(
        frames=len(change),
        sizes=sizes,
        borders=borders,
        change=np.array(change),
        looked=np.array(looked, np.int64),
        faces=faces,
        sound=samples,
        missing=missing,
        speaking=_speaking(samples, 2 * len(change)),
        thumbnails=thumbnails,
    )


def thumbnail(rgb: UInt8[np.ndarray, "y x 3"]) -> UInt8[np.ndarray, "y2 x2 3"]:
    """A small copy of a picture."""
    width = max(1, round(rgb.shape[1] * THUMBNAIL_HEIGHT / rgb.shape[0]))
    return cv2.resize(rgb, (width, THUMBNAIL_HEIGHT), interpolation=cv2.INTER_AREA)


def _speaking(samples: Int16[np.ndarray, " s"], tokens: int) -> Bool[np.ndarray, " tokens"]:
    """Voice activity on every token of the pictures; silence where the sound ends earlier."""
    detector, parts = VoiceActivity(), [np.zeros(0, bool)]
    for start in range(0, len(samples), _BLOCK):
        parts.append(detector.push(samples[start : start + _BLOCK].astype(np.float32) / 32768))
    found = np.concatenate(parts)[:tokens]
    return np.pad(found, (0, tokens - len(found)))
