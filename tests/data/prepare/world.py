"""Short videos of a real face that talks, the ways they can be bad, and tiny networks to prepare them with.

The face is matplotlib's sample photograph of Grace Hopper (public domain), the voice the shipped speech.
"""

from fractions import Fraction
from pathlib import Path

import av
import matplotlib
import numpy as np
from PIL import Image

from tests.models.vae_cases import build
from tm_jax.media.sound import read_audio
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig

VAE_SMALL = VAEConfig(
    base_dim=4,
    z_dim=3,
    dim_mult=(1, 2, 2),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    latents_mean=(0.0,) * 3,
    latents_std=(1.0,) * 3,
)
SIZE = (32, 32)
_CODING = {"preset": "ultrafast", "crf": "18"}


def face(height: int = 160) -> np.ndarray:
    """The photograph, cut to head and shoulders."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    picture = Image.open(path).convert("RGB").crop((40, 20, 490, 470))
    return np.asarray(picture.resize((height, height), Image.Resampling.LANCZOS))


def scene(height: int = 160) -> np.ndarray:
    """A picture without a face."""
    y, x = np.mgrid[:height, :height] / height
    return (np.stack([y, x, 1 - y], -1) * 200).astype(np.uint8)


def talking(seconds: float, picture: np.ndarray, rate: int = 25) -> list[np.ndarray]:
    """The picture, swaying by a pixel."""
    return [np.roll(picture, index % 2, axis=1) for index in range(round(seconds * rate))]


def voice(seconds: float) -> np.ndarray:
    """The first seconds of the shipped speech, 16 kHz."""
    sound = np.concatenate(list(read_audio(Path(__file__).parents[3] / "tm_jax" / "assets" / "speech.wav")))
    return np.tile(sound, 1 + int(seconds * 16_000 / len(sound)))[: round(seconds * 16_000)]


def write(
    path: Path,
    frames: list[np.ndarray],
    sound: np.ndarray | None,
    *,
    rate: int = 25,
    sample_rate: int = 16_000,
    sound_from: float = 0.0,
    times: list[float] | None = None,
    reordered: int = 0,
) -> Path:
    """A video of these frames, with the sound beginning so many seconds after the first picture.

    Args:
      reordered: pictures in a row that lie behind a later one that they are made from (B-frames).
    """
    options, raw = {"movflags": "faststart"} if path.suffix == ".mp4" else {}, path.suffix != ".mp4"
    with av.open(str(path), "w", options=options) as file:
        video = file.add_stream("libx264", rate=rate, options=_CODING | {"bf": str(reordered)})
        video.height, video.width, video.pix_fmt = *frames[0].shape[:2], "yuv420p"
        ticks = 1000 if times else rate
        video.codec_context.time_base = Fraction(1, ticks)
        if sound is not None:
            audio = file.add_stream("pcm_s16le" if raw else "aac", rate=sample_rate)
            audio.layout = "mono"
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.time_base = Fraction(1, ticks)
            frame.pts = round(1000 * times[index]) if times else index
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if sound is not None:
            form = "s16" if raw else "fltp"
            for start in range(0, len(sound), 1024):
                block = sound[None, start : start + 1024]
                block = (block * 32767).astype(np.int16) if form == "s16" else block.astype(np.float32)
                frame = av.AudioFrame.from_ndarray(block, format=form, layout="mono")
                frame.sample_rate, frame.time_base = sample_rate, Fraction(1, sample_rate)
                frame.pts = start + round(sound_from * sample_rate)
                file.mux(audio.encode(frame))
            file.mux(audio.encode(None))
    return path


def bad_videos(folder: Path) -> dict[str, Path]:
    """One video for every reason to drop one, of 2 s each unless it is too short."""
    sound, small = voice(2.0), face(120)
    two = np.concatenate([small, small], axis=1)
    cuts = [picture for turn in range(4) for picture in [small, scene(120)][turn % 2][None].repeat(12, 0)]
    cases = {
        "too_short": (talking(0.4, small), sound[:6400]),
        "cuts": (cuts, sound),
        "no_face": (talking(2, scene(120)), sound),
        "several_faces": (talking(2, two), sound),
        "small_face": (talking(2, face(60)), sound),
        "moving_face": (
            [np.roll(np.pad(small, ((0, 0), (0, 240), (0, 0))), 3 * i, 1) for i in range(50)],
            sound,
        ),
        "no_sound": (talking(2, small), None),
        "no_speech": (talking(2, small), 0 * sound),
    }
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: write(folder / f"{name}.mp4", *case) for name, case in cases.items()}
    whole = write(folder / "whole.mp4", talking(2, small), sound)
    made["unreadable"] = folder / "unreadable.mp4"
    made["unreadable"].write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    whole.unlink()
    return made


def tiny_vae() -> VAE:
    """A random VAE."""
    return build(VAE_SMALL, np.random.default_rng(0))
