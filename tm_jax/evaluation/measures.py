"""Everything that is measured on a set of videos, kept as small arrays once the frames are gone."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from tm_jax.evaluation import movement, quality
from tm_jax.evaluation.reader import EYES, GAZE, HEAD, Reader, Reading, read

PICTURE_MEASURES = ("psnr", "sharpness", "motion", "flicker", "at_border", "at_latent", "within", "inside")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was read and measured in n videos of t frames."""

    reading: Reading
    pictures: dict[str, Float[np.ndarray, " n"]]
    """Per clip: psnr, sharpness, motion, flicker, and frame differences at borders (`quality.Border`)."""
    cuts: tuple[int, ...]
    """Frames at which a new piece begins; nothing that compares frames reaches across."""

    @property
    def opening(self) -> Float[np.ndarray, "n t"]:
        """The mouth's opening as read."""
        return self.reading.track("opening")

    def energy(self, names: tuple[str, ...]) -> Float[np.ndarray, " n"]:
        """Motion energy of some tracks in each clip: ``HEAD`` or ``EYES``."""
        tracks = self.reading.standard(names)
        return np.array([_over_pieces(quality.velocity_energy, clip, self.cuts) for clip in tracks])

    def band_energies(self) -> dict[str, Float[np.ndarray, " n"]]:
        """Energy of each clip's head below and above 2 Hz, of its lids and of its gaze."""
        return self._band_energies(self.reading)

    def reading_errors(self, true: Float[np.ndarray, "n t tracks"]) -> dict[str, Float[np.ndarray, " n"]]:
        """The same of the reader's error, where these are readings of true frames and their true tracks."""
        gap = dataclasses.replace(self.reading, tracks=self.reading.tracks - true)
        return self._band_energies(gap)

    def _band_energies(self, tracks: Reading) -> dict[str, Float[np.ndarray, " n"]]:
        eyes = self.reading.track("eyes")
        held = [movement.held_over_blinks(*clip) for clip in zip(tracks.standard(GAZE), eyes, strict=True)]
        bands = {
            "head below 2 Hz": (tracks.standard(HEAD), movement.SLOW),
            "head above 2 Hz": (tracks.standard(HEAD), movement.FAST),
            "lids": (tracks.standard(("eyes",)), movement.LIDS),
            "gaze": (np.stack(held), movement.GAZE),
        }
        return {
            name: np.array([movement.band_energy(clip, band, self.cuts) for clip in clips])
            for name, (clips, band) in bands.items()
        }

    def half_lids(self) -> float:
        """Share of the lids' closings that never shut the eye."""
        return movement.half_lids(self.reading.track("eyes"))

    @property
    def head(self) -> Float[np.ndarray, " n"]:
        """Motion energy of the head."""
        return self.energy(HEAD)

    @property
    def eyes(self) -> Float[np.ndarray, " n"]:
        """Motion energy of eyes and gaze."""
        return self.energy(EYES)

    def blinks_a_minute(self) -> Float[np.ndarray, " n"]:
        """Blink rate of each clip."""
        eyes = self.reading.track("eyes")
        minutes = eyes.shape[1] / quality.FRAMES_PER_SECOND / 60
        return np.array([quality.blinks(clip) / minutes for clip in eyes])

    def head_spread(self) -> Float[np.ndarray, " n"]:
        """Root mean square spread of the head's place and angle in each clip, in the reader's units."""
        tracks = self.reading.standard(HEAD)
        return np.array(
            [np.sqrt(_over_pieces(lambda x: np.square(x.std(0)).mean(), clip, self.cuts)) for clip in tracks]
        )

    def mouth(self, mode: np.ndarray) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Movement of the mouth of each clip while listening and while speaking."""
        both = [quality.mouth_movement(*clip) for clip in zip(self.opening, mode, strict=True)]
        return np.array([each[0] for each in both]), np.array([each[1] for each in both])

    def features(self) -> list[Float[np.ndarray, "n piece d"]]:
        """The reader's features of each piece."""
        return np.split(self.reading.features, self.cuts, axis=1)

    def identity_error(self, reference: "Measured") -> Float[np.ndarray, " n"]:
        """Mean distance of each clip's embedding from that of the reference's first frame."""
        gap = self.reading.identity - reference.reading.identity[:, :1]
        return np.sqrt(np.square(gap).mean(-1)).mean(1)


def _over_pieces(function, clip: np.ndarray, cuts: Sequence[int]) -> float:
    """The mean of a measure over the pieces of a clip, weighted by their length."""
    pieces = np.split(clip, list(cuts))
    lengths = [len(piece) for piece in pieces]
    return float(np.average([function(piece) for piece in pieces], weights=lengths))


def measure(
    reader: Reader,
    frames: UInt8[np.ndarray, "n t y x 3"],
    truth: UInt8[np.ndarray, "n t y x 3"],
    *,
    chunk: int = 3,
    cuts: Sequence[int] = (),
) -> Measured:
    """Measure videos beside the true ones; ``cuts`` are the teacher's seams, the same for all systems."""
    rows = []
    for ours, true in zip(frames, truth, strict=True):
        border = quality.border(ours, chunk, skip=cuts)
        rows.append(
            (
                quality.psnr(ours, true),
                quality.sharpness(ours),
                _over_pieces(quality.motion, ours, cuts),
                _over_pieces(quality.flicker, ours, cuts),
                border.at_border,
                border.at_latent,
                border.within,
                border.inside,
            )
        )
    columns = np.array(rows).T
    pictures = dict(zip(PICTURE_MEASURES, columns, strict=True))
    return Measured(read(reader, frames), pictures, tuple(cuts))


def join(parts: Sequence[Measured]) -> Measured:
    """One set out of several batches."""
    readings = [part.reading for part in parts]
    reading = Reading(
        tracks=np.concatenate([r.tracks for r in readings]),
        identity=np.concatenate([r.identity for r in readings]),
        features=np.concatenate([r.features for r in readings]),
        track_std=readings[0].track_std,
    )
    pictures = {name: np.concatenate([part.pictures[name] for part in parts]) for name in parts[0].pictures}
    return Measured(reading, pictures, parts[0].cuts)
