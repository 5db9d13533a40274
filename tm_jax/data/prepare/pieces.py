"""What of a video is kept: it is divided at its cuts, and every piece is kept or dropped for one reason."""

import dataclasses
import itertools

import numpy as np

from tm_jax.data.prepare.settings import Filters
from tm_jax.data.prepare.survey import Survey
from tm_jax.media.face_finder import FaceTrack, track
from tm_jax.media.framing import Box, crop_window
from tm_jax.rates import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME

REASONS = {
    "unreadable": "no media file, damaged or cut off",
    "too_short": "the whole video is shorter than a clip",
    "cuts": "shorter than a clip between two cuts, jumps of the clock or changes of size",
    "no_face": "no face, or too often none",
    "several_faces": "another face beside the main one",
    "small_face": "the face is too small to enlarge",
    "moving_face": "the face leaves the crop",
    "no_sound": "no sound, or a hole in it",
    "no_speech": "too little speech",
}
"""Why a piece is dropped; of several reasons the first one counts."""

MOST_MISSING = 0.2
"""Seconds of a piece's sound that may be missing."""

NEIGHBOURS = 12
"""Frames to either side with which a cut is compared."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of a video, kept or dropped."""

    start: int
    """Its first frame."""
    frames: int
    """Its length; 1 + 4k where it is kept."""
    reason: str | None = None
    """Why it was dropped: a key of REASONS; None where it is kept."""
    detail: str = ""
    """The number or the sentence behind the reason."""
    crop: Box = (0, 0, 0, 0)
    """The part of the picture that becomes the clip, (y0, x0, y1, x1) in pixels."""
    face: Box = (0, 0, 0, 0)
    """Where the face is, over the whole piece, in the same pixels."""
    speech: float = 0.0
    """Share of the time in which somebody speaks."""


def find_cuts(change: np.ndarray, filters: Filters) -> list[int]:
    """Frames that begin a new shot: they change much, and much more than the frames around them."""
    cuts = []
    for index in np.flatnonzero(change >= filters.cut_level):
        around = np.r_[change[max(1, index - NEIGHBOURS) : index], change[index + 1 : index + 1 + NEIGHBOURS]]
        if change[index] >= filters.cut_ratio * max(0.5, float(np.median(around)) if len(around) else 0.0):
            cuts.append(int(index))
    return cuts


def pieces(
    seen: Survey, filters: Filters, target: tuple[int, int], face_box: tuple[int, int, int, int] | None = None
) -> list[Piece]:
    """All pieces of a video in order, with what became of each.

    Args:
      target: height and width of the clips.
      face_box: where the face is throughout, if that is known.
    """
    least = int(np.ceil(filters.min_seconds * FRAMES_PER_SECOND - 1e-6))
    if seen.frames < least:
        return [Piece(0, seen.frames, "too_short", f"{seen.seconds:.1f} s")]
    cuts = {*find_cuts(seen.change, filters), *seen.borders} - {0}
    borders = [0, *sorted(cuts), seen.frames]
    found = []
    for start, stop in itertools.pairwise(borders):
        if stop - start < least:
            why = "; ".join(f"there {seen.borders[edge]}" for edge in (start, stop) if edge in seen.borders)
            detail = f"{(stop - start) / FRAMES_PER_SECOND:.1f} s" + (f"; {why}" if why else "")
            found.append(Piece(start, stop - start, "cuts", detail))
            continue
        longest = max(least, int(filters.max_seconds * FRAMES_PER_SECOND))
        parts = -(-(stop - start) // longest)
        # A shot a little longer than a clip may be must not become two that are too short.
        parts = max(1, min(parts, (stop - start) // least))
        edges = np.linspace(start, stop, parts + 1).round().astype(int)
        found += [
            _judge(seen, int(first), int(last), filters, target, face_box)
            for first, last in itertools.pairwise(edges)
        ]
    return found


def _judge(
    seen: Survey, start: int, stop: int, filters: Filters, target: tuple[int, int], given: tuple | None
) -> Piece:
    """One stretch without a cut, long enough to be a clip."""
    frames = 1 + 4 * ((stop - start - 1) // 4)
    speech = float(seen.speaking[2 * start : 2 * (start + frames)].mean())
    faces = _given(given) if given else _tracked(seen, start, stop)
    size = seen.size_at(start)
    crop = crop_window(size, target, faces.box) if faces.share else (0, 0, *size)
    piece = Piece(start, frames, crop=crop, face=faces.reach, speech=speech)
    if given and size != seen.size_at(0):
        (height, width), (tall, wide) = size, seen.size_at(0)
        detail = f"the given box is one of {wide}×{tall}, and the picture changes to {width}×{height}"
        return dataclasses.replace(piece, reason="no_face", detail=detail)
    reason, detail = _reason(seen, piece, faces, filters, target)
    return dataclasses.replace(piece, reason=reason, detail=detail)


def _given(box: tuple) -> FaceTrack:
    return FaceTrack(share=1.0, others=0.0, box=tuple(map(float, box)), reach=tuple(map(float, box)))


def _tracked(seen: Survey, start: int, stop: int) -> FaceTrack:
    inside = np.flatnonzero((seen.looked >= start) & (seen.looked < stop))
    return track([seen.faces[index] for index in inside])


def _reason(
    seen: Survey, piece: Piece, faces: FaceTrack, filters: Filters, target: tuple[int, int]
) -> tuple[str | None, str]:
    """Why a piece is dropped, and the number behind it; None where it is kept."""
    y0, x0, y1, x1 = piece.crop
    height, width = seen.size_at(piece.start)
    upscale = target[0] / max(y1 - y0, 1e-6)
    if faces.share < filters.min_face:
        return "no_face", f"found in {faces.share:.0%} of the frames"
    if faces.box[2] > height or faces.box[3] > width:
        return "no_face", f"the given box lies outside the picture of {width}×{height}"
    if faces.others > filters.max_other_faces:
        return "several_faces", f"in {faces.others:.0%} of the frames"
    if upscale > filters.max_upscale:
        return "small_face", f"{upscale:.1f} times too small"
    # The chin may be cut by the picture's own edge, not by the crop's.
    reach = (faces.reach[0], faces.reach[1], min(faces.reach[2], height), faces.reach[3])
    outside = max(y0 - reach[0], x0 - reach[1], reach[2] - y1, reach[3] - x1)
    if outside > 1:
        return "moving_face", f"by {outside:.0f} pixels"
    if not len(seen.sound):
        return "no_sound", ""
    begin, end = (SAMPLES_PER_FRAME * frame for frame in (piece.start, piece.start + piece.frames))
    lost = sum(max(0, min(end, last) - max(begin, first)) for first, last in seen.missing) / SAMPLE_RATE
    if lost > MOST_MISSING:
        return "no_sound", f"{lost:.1f} s of it are missing"
    if piece.speech < filters.min_speech:
        return "no_speech", f"{piece.speech:.0%} of the time"
    return None, ""
