"""One video from files: the engine between a sound and an mp4, with progress and figures."""

import os
from pathlib import Path

from tqdm import tqdm

from tm_jax.streaming.engine import Engine, Statistics
from tm_jax.streaming.live_audio import Mode
from tm_jax.streaming.picture import ContactSheet, load_picture
from tm_jax.streaming.video import FRAMES_PER_SECOND, VideoWriter, read_audio
from tm_jax.streaming.voice_activity import parse_listen
from tm_jax.types import InputError


def make_video(
    image: Path,
    audio: str | os.PathLike,
    out: Path,
    *,
    weights: Path,
    mode: Mode = "auto",
    listen: str = "",
    seed: int = 0,
    frames_out: Path | None = None,
) -> Statistics:
    """Write the video of a picture that talks with a sound; returns its figures.

    Everything that is given is checked before anything is computed or an old file is replaced.  Whatever
    ends the stream early, a fault of the sound or Ctrl-C, what was made until then is finished and plays.

    Args:
      audio: any file with sound, or ``-`` for raw s16le 16 kHz mono on standard input.
      weights: folder of the models.
      listen: stretches in which the character listens, as `parse_listen` takes them.
      frames_out: a contact sheet of the video.

    Raises:
      InputError: anything given is not usable.
    """
    if seed < 0:
        raise InputError(f"--seed {seed} is negative: give 0 or more.")
    for written in filter(None, (out, frames_out)):
        for read in (Path(image), Path(audio)):
            if os.path.exists(written) and os.path.exists(read) and os.path.samefile(written, read):
                raise InputError(f"The output {written} would replace the input {read}: choose another name.")
    stretches = parse_listen(listen) if listen else ()
    sheet = ContactSheet(frames_out) if frames_out else None
    writer, statistics = VideoWriter(out), Statistics()
    sound = read_audio(audio)
    engine = Engine.load(weights)
    picture = load_picture(image, engine.size)
    engine.warm_up()
    stream = engine.stream(picture, sound, seed=seed, mode=mode, listen=stretches)
    bar = tqdm(total=sound.seconds, unit="s", leave=False, bar_format=_BAR if sound.seconds else None)
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
        if sheet is not None:
            sheet.save()
    return statistics


_BAR = "{percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}]"
