"""What `tm_jax.data.prepare` is told on the command line."""

import dataclasses
from pathlib import Path

from tm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which stretches of a video become clips."""

    min_seconds: float = 4.0
    """Shortest clip.  A full-size training clip of 21 latents lasts 3.24 s; gaps in time need more."""
    max_seconds: float = 20.0
    """Longest clip; longer stretches are divided evenly."""
    cut_level: float = 10.0
    """A cut changes the picture by at least this mean difference per pixel (of 255) …"""
    cut_ratio: float = 4.0
    """… and by so many times what the frames around it change."""
    look_every: int = 5
    """Frames (of 25 a second) from one search for faces to the next."""
    min_face: float = 0.8
    """Share of the searched frames in which the face must be found."""
    max_other_faces: float = 0.2
    """Share of the searched frames that may show another face, at least a third as tall."""
    max_upscale: float = 2.0
    """How far the crop round the face may be enlarged to the clip's size."""
    min_speech: float = 0.3
    """Share of the time in which somebody must speak."""

    def __post_init__(self):
        if not 0.2 <= self.min_seconds <= self.max_seconds:
            raise InputError(
                f"Clips of {self.min_seconds:g} to {self.max_seconds:g} s make no sense: let "
                "--filters.min-seconds be at least 0.2 and not above --filters.max-seconds."
            )
        if self.look_every < 1:
            raise InputError(f"--filters.look-every {self.look_every} is too small: give 1 or more.")


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """Turn real talking videos into training shards."""

    videos: tuple[Path, ...]
    """Folders (searched through), video files, or lists: .txt with a path a line, or .jsonl with objects like
    {"video": "a.mp4", "prompt": "…", "face_box": [y0, x0, y1, x1]} a line (paths from the list's folder)."""
    out: Path
    """Folder for the shards and the report.  The same command again goes on where it stopped."""
    vae: str
    """The VAE: our weights file, or a public folder or Hub id."""
    image: str | None = None
    """CLIP for the reference picture: folder, file or Hub id.  Without it training takes the picture's own
    latent."""
    text: str | None = None
    """UMT5 for the prompts: folder or Hub id of a pipeline with its tokenizer; or the file of one prompt by
    ``python -m tm_jax.pretrained embed-prompt``.  Without it the text is zeros."""
    prompt: str = "A person is talking."
    """Prompt of the videos that bring none in a .jsonl list."""
    speech: str | None = None
    """wav2vec2 for the sound: folder, file or Hub id.  Without it the sound becomes log-mel tokens."""
    speech_lookahead: int = 4
    """Audio tokens (20 ms) of later sound that wav2vec2 may hear; a stream then waits as long."""
    size: tuple[int, int] = (512, 512)
    """Height and width of the clips in pixels; multiples of the VAE's stride."""
    face_box: tuple[int, int, int, int] | None = None
    """y0 x0 y1 x1 in pixels of the upright video: where the face is in every video; no face is searched."""
    filters: Filters = Filters()
    reference_frames: int = 21
    """Latent frames of the reference condition: the most that a training clip can have."""
    held_out: float = 0.02
    """Share of the videos (at least one of ten or more) that previews use and training does not."""
    videos_per_shard: int = 16
    """Videos whose clips make one shard, the unit that one process works on."""
    process_index: int = 0
    """Number of this process, from 0.  Start one on each host or accelerator, with a common --out."""
    process_count: int = 1
    """Number of processes that share the work."""

    def __post_init__(self):
        if not 0 <= self.process_index < self.process_count:
            raise InputError(
                f"--process-index {self.process_index} of --process-count {self.process_count}: "
                "the index runs from 0 to the count less one."
            )
        if self.videos_per_shard < 1 or self.reference_frames < 1 or min(self.size) < 8:
            raise InputError(
                "--videos-per-shard and --reference-frames must be 1 or more, and --size at least 8 8."
            )
        if not 0 <= self.held_out < 1:
            raise InputError(f"--held-out {self.held_out:g} is no share: give 0 or more, and less than 1.")
        if self.face_box is not None:
            check_box(self.face_box, "--face-box")


def check_box(box: tuple[int, ...], what: str) -> None:
    """Refuse a face box that encloses nothing.

    Raises:
      InputError: not four numbers y0 < y1, x0 < x1 from 0 on.
    """
    numbers = len(box) == 4 and all(isinstance(side, int) and side >= 0 for side in box)
    if not numbers or box[0] >= box[2] or box[1] >= box[3]:
        raise InputError(
            f"{what} {list(box)} is no box: give y0 x0 y1 x1 in pixels with y0 < y1 and x0 < x1."
        )
