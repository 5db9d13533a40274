"""Look at the puppets: ``python -m tm_jax.data.puppets --out out/puppets``.

Writes ``puppets.png`` (characters of the three styles down, mouth shapes, blinks and head turns across) and
one sample with sound per style, ``puppet_shaded.mp4`` and so on.  With ``--speech NAME`` it draws nothing: it
writes the sound of one clip, ``NAME.wav``, and the mouth opening that its phonemes ask for, ``NAME.json``.
The shipped speech is ``--speech tm_jax/assets/speech --split heldout --clip 6 --seconds 9``.
"""

import fractions
import json
import sys
import wave
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tm_jax.command import run
from tm_jax.data.puppets.draw import MOTION, render
from tm_jax.data.puppets.world import FPS, Clip, PuppetWorld
from tm_jax.errors import InputError
from tm_jax.flags import Parser
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
    rows = [
        np.concatenate(render(world.identity(i).vector(), motion, world.size), axis=1)
        for i in range(identities)
    ]
    return Image.fromarray(np.concatenate(rows, axis=0))


def write_clip(path: Path, clip: Clip) -> None:
    """An mp4 of a clip, h264 and aac, in sync."""
    with av.open(str(path), "w") as container:
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
    with wave.open(str(name.with_suffix(".wav")), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(np.clip(track.audio, -1, 1) * 32767).astype("<i2").tobytes())
    truth = {"opening": [round(float(x), 4) for x in track.opening], "mode": track.mode.tolist()}
    name.with_suffix(".json").write_text(json.dumps(truth) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Show the world; returns the exit status."""
    return run("tm_jax.data.puppets", lambda: _show(argv))


def _show(argv: list[str] | None) -> None:
    """Write the contact sheet and the samples."""
    parser = Parser(prog="python -m tm_jax.data.puppets", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/puppets"), help="folder for the results")
    parser.add_argument("--split", default="train", help="train, heldout or language")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world")
    parser.add_argument("--size", type=int, default=128, help="side of the picture in pixels")
    parser.add_argument("--identities", type=int, default=9, help="rows of the contact sheet")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each sample")
    parser.add_argument("--speech", type=Path, help="write NAME.wav and NAME.json of one clip, nothing else")
    parser.add_argument("--clip", type=int, default=0, help="the clip of --speech")
    args = parser.parse_args(argv)
    if min(args.seed, args.clip) < 0 or args.identities < 1:
        raise InputError(
            f"--seed {args.seed} --clip {args.clip} --identities {args.identities}: "
            "give a seed and a clip of 0 or more, and at least one identity."
        )
    if args.size % 2:
        raise InputError(f"--size {args.size} is odd, which no video can be: give an even number.")
    world = PuppetWorld(seed=args.seed, split=args.split, size=args.size)
    if args.speech is not None:
        args.speech.parent.mkdir(parents=True, exist_ok=True)
        write_speech(args.speech, world, args.clip, args.seconds)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    contact_sheet(world, args.identities).save(args.out / "puppets.png")
    for index in range(3):
        clip = world.clip(index, args.seconds)
        write_clip(args.out / f"puppet_{clip.style}.mp4", clip)
        print(f"{clip.style}: {clip.meta['voice']}: {' '.join(clip.meta['text'])}")


if __name__ == "__main__":
    sys.exit(main())
