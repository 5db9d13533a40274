"""One video from files: the engine between a sound and an mp4, with progress and figures."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tm_jax.audio.chunking import Mode
from tm_jax.audio.listening import parse_listen
from tm_jax.errors import InputError
from tm_jax.media.face import framed, parse_face
from tm_jax.media.files import shown
from tm_jax.media.picture import ContactSheet, fit, read_picture
from tm_jax.media.sound import read_audio
from tm_jax.media.video import VideoWriter
from tm_jax.rates import FRAMES_PER_SECOND
from tm_jax.streaming.engine import StreamEngine
from tm_jax.streaming.statistics import Statistics


def make_video(
    image: Path,
    audio: str | os.PathLike,
    out: Path,
    *,
    load_engine: Callable[[], StreamEngine],
    mode: Mode = "auto",
    listen: str = "",
    seed: int = 0,
    frames_out: Path | None = None,
    face: str = "",
) -> Statistics:
    """Write the video of a picture that talks with a sound; returns its figures.

    Everything that is given is checked before anything is computed or an old file is replaced.  Whatever
    ends the stream early, a fault of the sound or Ctrl-C, what was made until then is finished and plays.

    Args:
      audio: as `read_audio` takes it: any file with sound, or ``-`` for standard input.
      load_engine: makes the engine, of whichever framework; called once all else is known to be usable.
      listen: stretches in which the character listens, as `parse_listen` takes them.
      frames_out: a contact sheet of the video.
      face: as ``face.framed`` takes it.

    Raises:
      InputError: anything given is not usable.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"--seed {seed} is no seed: give a whole number from 0 to 2⁶⁴ - 1.")
    for written in filter(None, (out, frames_out)):
        for read in (Path(image), Path(audio)):
            if os.path.exists(written) and os.path.exists(read) and os.path.samefile(written, read):
                raise InputError(f"The output {written} would replace the input {read}: choose another name.")
    stretches = parse_listen(listen) if listen else ()
    sheet = ContactSheet(frames_out) if frames_out else None
    writer, statistics = VideoWriter(out), Statistics()
    sound = read_audio(audio)
    photo = read_picture(image, notes := [])
    for note in notes:
        print(note, file=sys.stderr)
    if face not in ("", "auto", "none"):
        parse_face(face, (photo.height, photo.width))
    engine = load_engine()
    # Small students draw the whole picture anew: where the face is, is but a matter of the crop to them.
    framing = framed(np.asarray(photo), face, engine.size, all_moves=not engine.has_picture_encoder)
    if framing.note:
        print(f"{shown(image)}: {framing.note}", file=sys.stderr)
    picture = fit(photo, engine.size, framing.crop)
    engine.warm_up()
    stream = engine.stream(picture, sound, seed=seed, mode=mode, listen=stretches, face_box=framing.moving)
    bar = tqdm(total=sound.seconds, unit="s", leave=False, bar_format=_BAR if sound.seconds else _OPEN_BAR)
    try:
        with writer, bar:
            for chunk in stream:
                writer.write(chunk.frames, chunk.audio)
                statistics.add(chunk)
                if sheet is not None:
                    sheet.add(chunk.frames)
                seconds = len(chunk.frames) / FRAMES_PER_SECOND
                bar.update(min(seconds, (bar.total or float("inf")) - bar.n))
    finally:
        stream.close()
        for note in sound.notes:
            print(note, file=sys.stderr)
        if sheet is not None:
            sheet.save()
    return statistics


_BAR = "{percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}]"
_OPEN_BAR = "{n:.1f} s [{elapsed}]"
"""Of sound whose length is not known."""
