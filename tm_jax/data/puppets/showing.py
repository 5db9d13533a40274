"""The puppets shown: a sheet of characters and mouth shapes, clips with their sound, one clip's speech."""

import fractions
import json
import wave
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tm_jax.data.puppets.draw import MOTION
from tm_jax.data.puppets.world import FPS, Clip, PuppetWorld
from tm_jax.media.files import written_whole
from tm_jax.rates import SAMPLE_RATE

_SHAPES = (
    {},
    {"opening": 1.0, "width": 0.15},
    {"opening": 0.5, "width": 0.65},
    {"opening": 0.27, "width": 0.95, "gaze_x": 0.8, "yaw": 0.9},
    {"opening": 0.25, "width": -1.0, "rounding": 1.0, "blink": 1.0},
    {"opening": 0.6, "width": -0.75, "rounding": 0.8, "angle": 0.07, "yaw": -0.9},
    {"opening": 0.07, "x": 0.05, "y": 0.03, "pitch": 1.0, "brow": 1.0, "gaze_y": 0.6},
)


def contact_sheet(world: PuppetWorld, identities: int) -> Image.Image:
    """One row per identity, one column per mouth shape; the styles take turns."""
    motion = np.array([[shape.get(name, 0.0) for name in MOTION] for shape in _SHAPES], np.float32)
    rows = [np.concatenate(world.frames(i, motion), axis=1) for i in range(identities)]
    return Image.fromarray(np.concatenate(rows, axis=0))


def portraits(worlds: Sequence[PuppetWorld], identities: int, columns: int = 4) -> Image.Image:
    """Stills of the same identities in several worlds, side by side."""

    def block(world: PuppetWorld) -> np.ndarray:
        faces = [world.portrait(i) for i in range(identities)]
        faces += [np.zeros_like(faces[0])] * (-identities % columns)
        rows = [np.concatenate(faces[i : i + columns], axis=1) for i in range(0, len(faces), columns)]
        return np.concatenate(rows, axis=0)

    return Image.fromarray(np.concatenate([block(world) for world in worlds], axis=1))


def write_clip(path: Path, clip: Clip) -> None:
    """An mp4 of a clip, h264 and aac, in sync."""
    with written_whole(path) as place, av.open(str(place), "w") as container:
        video = container.add_stream("h264", rate=FPS, options={"crf": "16"})
        video.height, video.width = clip.frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for picture in clip.frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        for start in range(0, len(clip.audio), 1024):
            block = av.AudioFrame.from_ndarray(
                clip.audio[None, start : start + 1024], format="fltp", layout="mono"
            )
            block.rate, block.pts, block.time_base = SAMPLE_RATE, start, fractions.Fraction(1, SAMPLE_RATE)
            container.mux(sound.encode(block))
        container.mux(sound.encode(None))


def write_speech(name: Path, world: PuppetWorld, index: int, seconds: float) -> None:
    """The sound of a clip as 16-bit wav, and its truth for every frame as JSON."""
    track = world.truth(index, seconds)
    with written_whole(name.with_suffix(".wav")) as place, wave.open(str(place), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(np.clip(track.audio, -1, 1) * 32767).astype("<i2").tobytes())
    truth = {"opening": [round(float(x), 4) for x in track.opening], "mode": track.mode.tolist()}
    with written_whole(name.with_suffix(".json")) as place:
        place.write_text(json.dumps(truth) + "\n", encoding="utf-8")
