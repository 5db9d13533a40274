"""The face of one picture, photographed or drawn: slower than a frame's search, and surer.

Two of OpenCV's cascades look at three views of the picture's brightness.  A face is where two of the six
agree: drawn faces seldom look like one to all of them, and walls seldom to two.
"""

import functools

import cv2
import numpy as np
from jaxtyping import UInt8

from tm_jax.media.framing import Box

AREAS = (400**2, 800**2)
"""Pixels to which a picture is brought down: first these, then, where no face was found, those."""
SMALLEST = 32
AGREE = 2
"""Of the six searches, those that must find a face."""
OVERLAP = 0.35
"""Intersection over union of boxes that are of one face."""


@functools.cache
def _cascades() -> tuple[cv2.CascadeClassifier, ...]:
    names = ("haarcascade_frontalface_alt2.xml", "haarcascade_frontalface_alt.xml")
    return tuple(cv2.CascadeClassifier(cv2.data.haarcascades + name) for name in names)


def search_face(rgb: UInt8[np.ndarray, "y x 3"]) -> Box | None:
    """The largest face, (y0, x0, y1, x1) in pixels; None where there seems to be none."""
    for area in AREAS:
        scale = min(1.0, (area / (rgb.shape[0] * rgb.shape[1])) ** 0.5)
        small = rgb if scale == 1 else cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if faces := _agreed(small):
            y0, x0, y1, x1 = (side / scale for side in max(faces, key=lambda box: box[2] - box[0]))
            return y0, x0, min(y1, rgb.shape[0]), min(x1, rgb.shape[1])
        if scale == 1:
            break
    return None


def _agreed(rgb: np.ndarray) -> list[Box]:
    """The median box of every face that enough searches have found, and half as many as the surest one."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    # Skin is bright in red whatever its colour, and drawn outlines are not.
    views = (
        cv2.equalizeHist(grey),
        np.ascontiguousarray(rgb[..., 0]),
        cv2.createCLAHE(2.0, (8, 8)).apply(grey),
    )
    groups: list[list[tuple[int, np.ndarray]]] = []
    votes: list[int] = []
    for number, cascade in enumerate(_cascades()):
        # The second cascade is asked where the first one is in doubt.
        if max(votes, default=0) >= AGREE:
            break
        for view in range(len(views)):
            found = cascade.detectMultiScale(views[view], 1.05, 2, minSize=(SMALLEST, SMALLEST))
            for x, y, width, height in found:
                box = np.array([y, x, y + height, x + width], np.float64)
                near = next((group for group in groups if _overlap(group[0][1], box) > OVERLAP), None)
                if near is None:
                    groups.append(near := [])
                near.append((len(views) * number + view, box))
        votes = [len({search for search, _ in group}) for group in groups]
    enough = max(AGREE, max(votes, default=0) / 2)
    return [
        tuple(np.median([box for _, box in group], axis=0))
        for group, count in zip(groups, votes, strict=True)
        if count >= enough
    ]


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    both = float(np.prod(np.maximum(sides, 0)))
    return both / (float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - both)
