"""How much of a file's sound was lost: what its header and its bytes say against what was heard."""

import re
from pathlib import Path

import av

from tm_jax.errors import InputError
from tm_jax.media.decoding import BARE, FIGURES, Tally
from tm_jax.media.joined import joined_at
from tm_jax.media.structure import Structure, structure

# Containers whose header gives the length of each track …
_OF_A_TRACK = ("flac", "aiff", "mov,mp4,m4a,3gp,3g2,mj2", "w64", "caf", "au", "ogg")
# In these nearly all of the file is one chunk of sound.
_OF_ONE_CHUNK = ("caf", "w64", "avi", "voc")
# … and those that give it of the whole file.
_OF_THE_FILE = ("matroska,webm", "avi", "asf", "flv")
_TAG = re.compile(rb"ID3[\x02-\x04][\x00-\x09].([\x00-\x7f]{4})", re.DOTALL)
_APE = re.compile(rb"APETAGEX.{4}(.{4})", re.DOTALL)


def tolerance(seconds: float) -> float:
    """What may be missing of a sound without a word: padding and rounding."""
    return 0.02 + 0.03 * min(seconds, 6.0)


class Expectation:
    """What a file says of its sound before any of it is decoded."""

    def __init__(self, path: Path | None, container: av.container.InputContainer, stream: av.stream.Stream):
        self._path, self._format = path, container.format.name
        self._kind = {"video": "pictures", "audio": "sound"}.get(stream.type, stream.type)
        self.track = self.whole = None
        # Opus counts 48,000 samples a second whatever the sound's own rate.
        context = stream.codec_context
        opus = stream.type != "audio" or context.name.endswith("opus")
        self._rate = 48_000 if opus else context.sample_rate
        self._start = float((stream.start_time or 0) * stream.time_base)
        if stream.duration and stream.time_base:
            self.track = float(stream.duration * stream.time_base)
        elif self._format == "avi" and stream.frames and stream.time_base:
            self.track = float(stream.frames * stream.time_base)
        if container.duration and container.duration > 0:
            self.whole = container.duration / av.time_base

    @property
    def seconds(self) -> float | None:
        """Length of the sound, as well as it is known."""
        return self.track or self.whole

    def check(self, name: str, played: float, silence: float, tally: Tally) -> str | None:
        """Compare with what was there; a loss within the sound is returned as a sentence.

        Args:
          heard: seconds that were decoded.
          silence: seconds for which packets were missing by their time stamps.

        Raises:
          InputError: the end is missing.
        """
        found = tally.lost + silence
        parts = Structure() if self._path is None else structure(self._path, self._format)
        promised, there = self._promise(played, tally, parts)
        missing = 0.0 if promised is None else promised - there
        # The header of a whole file counts the padding of its longest track.
        padding = 0.08 if self._format in _OF_THE_FILE else 0.0
        if promised and missing > max(tolerance(promised) + padding, 2 * found) and self._format != "ogg":
            raise InputError(
                f"{name} is cut off: its header promises {promised:.1f} s of sound and {there:.1f} s are "
                "there; copy it again."
            )
        found = max(found, missing - padding, self._skipped(played, tally))
        whole = played + found
        if found > tolerance(whole):
            return (
                f"{name} is damaged: about {found:.1f} s of its {whole:.1f} s of sound are missing; "
                "copy it again if you can."
            )
        if joined := self._joined(name, tally):
            return joined
        if parts.broken is not None:
            return (
                f"{name} is damaged at byte {parts.broken}: what lies behind may be missing; "
                "copy it again if you can."
            )
        if tally.refused > tally.last_broken and self._format in BARE:
            return (
                f"{name} is damaged in {tally.refused} places, where some of its sound may be missing; "
                "copy it again if you can."
            )
        # An mp3 may hold anything behind its sound.
        rest = self._format != "mp3" and self._strange(tally)
        if parts.unended or parts.lacking or tally.last_broken or rest:
            return f"{name} does not end as it should: it may be cut off after these {played:.1f} s."
        return None

    def check_end(self, name: str, seen: float, tally: Tally) -> None:
        """Compare the length of a video's pictures, in seconds, with what the header promises.

        Raises:
          InputError: the end is missing, or a part of an AVI, or a recording behind the first.
        """
        promised, there = self.track if self._format in _OF_A_TRACK else None, seen
        if self._format in _OF_THE_FILE:
            promised, there = self.whole, tally.end
            if self._path is not None and (lacking := structure(self._path, self._format).lacking) > 0:
                promised = there * (1 + lacking / max(1, tally.every_byte))
        if promised and promised - there > 0.5 + 0.05 * promised:
            raise InputError(
                f"{name} is cut off: its header promises {promised:.1f} s and {there:.1f} s are there; "
                "copy it again."
            )
        self.check_count(name, seen)
        if joined := self._joined(name, tally):
            raise InputError(joined)

    def _joined(self, name: str, tally: Tally) -> str | None:
        at = None if self._path is None else joined_at(self._path, self._format, tally.every_byte)
        if at is None:
            return None
        share = 1 - at / self._path.stat().st_size
        return (
            f"{name} is several recordings in one file, and what lies behind byte {at} ({share:.0%} of it) "
            "is not played, or wrongly: join them with a program for sound or video."
        )

    def check_count(self, name: str, seen: float) -> None:
        """Refuse an AVI of whose track a part is missing: without a clock, all behind that is early.

        Args:
          seen: seconds of the track that were decoded.

        Raises:
          InputError: not as many as its header counts.
        """
        if self._format == "avi" and self.track and self.track - seen > 0.1 + 0.01 * self.track:
            raise InputError(
                f"{name} lacks {self.track - seen:.1f} of the {self.track:.1f} s of its {self._kind}, "
                "and AVI does not tell where: convert it again."
            )

    def _promise(self, played: float, tally: Tally, parts: Structure) -> tuple[float | None, float]:
        """The length that a header states, and what is there of it; None where it states none."""
        if self._format == "mp3" and (frames := self._frames(tally)):
            lacking = frames - tally.packets
            return played + lacking * played / max(1, tally.packets - tally.refused), played
        if parts.lacking and self._format in _OF_ONE_CHUNK:
            return played + played * parts.lacking / tally.bytes, played
        if self._format == "ogg" and parts.granule is not None:
            return max(parts.granule / self._rate - self._start, self.track or 0.0), played
        if self._format in _OF_A_TRACK:
            return self.track, played
        if self._format in _OF_THE_FILE and self.whole:
            return self.whole, tally.end
        return None, played

    def _frames(self, tally: Tally) -> int | None:
        """How many frames an mp3 counts in the figures before its first one."""
        if self._path is None or not tally.first_byte:
            return None
        with self._path.open("rb") as file:
            file.seek(max(0, tally.first_byte - 4096))
            head = file.read(min(4096, tally.first_byte))
        for mark in FIGURES:
            at = head.rfind(mark)
            if at >= 0 and mark == b"VBRI":
                return int.from_bytes(head[at + 14 : at + 18])
            if at >= 0 and head[at + 7] & 1:
                return int.from_bytes(head[at + 8 : at + 12])
        return None

    def _skipped(self, played: float, tally: Tally) -> float:
        """Seconds of sound in the bytes that belong to no frame and no tag."""
        return self._strange(tally) / max(1, tally.bytes) * played

    def _strange(self, tally: Tally) -> int:
        """Bytes of a bare file that belong to no frame and no tag."""
        if self._path is None or not tally.bytes or self._format not in BARE:
            return 0
        strange = self._path.stat().st_size - tally.bytes - (tally.first_byte or 0)
        if strange > 0.02 * tally.bytes or (strange > 0 and self._format != "mp3"):
            strange -= _tags(self._path.read_bytes()[tally.first_byte or 0 :])
        return max(0, strange)


def _tags(content: bytes) -> int:
    """Bytes of the tags in the sound of a bare file."""
    total = 128 * (content[-128:-125] == b"TAG")
    for tag in _TAG.finditer(content):
        high, upper, lower, low = tag[1]
        total += 10 + (high << 21 | upper << 14 | lower << 7 | low)
    # An APE tag's size leaves out its header; head and foot both carry it.
    sizes = [int.from_bytes(tag[1], "little") for tag in _APE.finditer(content)]
    return total + sum(sizes) // max(1, min(2, len(sizes))) + 64 * bool(sizes)
