"""Faces in single frames, and the one face of a stretch of frames.

The detector is OpenCV's frontal Haar cascade, whose model ships inside its package: quick, and made for
photographed faces looking ahead.  Drawn characters and profiles need a face box from the user.
"""

import dataclasses
import functools
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

LONG_SIDE = 400
SMALLEST = 32
"""Pixels of a face in a picture whose long side was brought down to LONG_SIDE."""

NEIGHBOURS = 3
"""Searched frames before and after one that tell where its main face is to be expected."""

Faces = Float[np.ndarray, "_ 4"]


@functools.cache
def _cascade() -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")


class FaceFinder:
    """Finds faces in frames, one frame at a time."""

    def __call__(self, rgb: UInt8[np.ndarray, "y x 3"]) -> Faces:
        """Boxes (y0, x0, y1, x1) in pixels, the largest first."""
        height, width = rgb.shape[:2]
        scale = min(1.0, LONG_SIDE / max(height, width))
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        if scale < 1:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        found = _cascade().detectMultiScale(cv2.equalizeHist(grey), 1.1, 4, minSize=(SMALLEST, SMALLEST))
        boxes = np.array([(y, x, y + h, x + w) for x, y, w, h in found], np.float64).reshape(-1, 4)
        return boxes[np.argsort(boxes[:, 0] - boxes[:, 2], kind="stable")] / scale


@dataclasses.dataclass(frozen=True)
class FaceTrack:
    """The main face of a stretch of frames."""

    share: float
    """Of the searched frames, those in which it was found."""
    others: float
    """Of the searched frames, those with another face at least a third as tall."""
    box: tuple[float, float, float, float]
    """Its median box; zeros where there is no face."""
    reach: tuple[float, float, float, float]
    """The box that holds it in nearly all frames, with room for the chin of an open mouth."""


def track(looks: Sequence[Faces]) -> FaceTrack:
    """The main face over the searched frames.

    Where it is at a time is the median of the largest faces found around that time; in each frame the
    face nearest to there is the main one, if it is near at all, and the rest are others.
    """
    found = [faces for faces in looks if len(faces)]
    if not found:
        return FaceTrack(0.0, 0.0, (0.0,) * 4, (0.0,) * 4)
    largest = np.array([faces[0] for faces in found])
    height = float(np.median(largest[:, 2] - largest[:, 0]))
    main, others = [], 0
    for index, faces in enumerate(found):
        around = largest[max(0, index - NEIGHBOURS) : index + NEIGHBOURS + 1]
        expected = np.median(_centres(around), 0)
        distance = np.abs(_centres(faces) - expected[None]).max(1)
        nearest = int(distance.argmin())
        box = faces[nearest]
        if distance[nearest] < height and abs(box[2] - box[0] - height) < 0.5 * height:
            main.append(box)
        beside = np.abs(_centres(faces) - _centres(box[None])).max(1) > height / 2
        others += bool((beside & (faces[:, 2] - faces[:, 0] > height / 3)).any())
    boxes = np.array(main or [largest[0]])
    low, high = np.percentile(boxes, 5, axis=0), np.percentile(boxes, 95, axis=0)
    return FaceTrack(
        share=len(main) / len(looks),
        others=others / len(looks),
        box=tuple(map(float, np.median(boxes, 0))),
        reach=(float(low[0]), float(low[1]), float(high[2] + 0.1 * height), float(high[3])),
    )


def _centres(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, :2] + boxes[:, 2:]) / 2
