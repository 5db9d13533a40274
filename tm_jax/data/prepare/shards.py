"""Prepared clips on disk: ArrayRecord shards, written whole or not at all, and the data source over them.

    prepare.json                        what the clips were made with
    shards/00000-of-00004.array_record  the clips of one group of videos, one record each
    reports/00000-of-00004.json         what became of these videos; its presence says that the shard is done
    staging/000017.{array_record,json}  single videos of groups that are not complete yet
    texts/                              embeddings of the prompts

A record is the bytes of a safetensors file with the members of an `EncodedVideo`.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import grain
import numpy as np
import safetensors.numpy
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from tm_jax.data.latent_clips import ClipConfig, EncodedVideo
from tm_jax.errors import InputError

FIELDS = tuple(field.name for field in dataclasses.fields(EncodedVideo))
_OPTIONS = "group_size:1,zstd:1"


def to_bytes(video: EncodedVideo) -> bytes:
    """A clip as one record; members that are None are left out."""
    members = {name: getattr(video, name) for name in FIELDS}
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(value) for name, value in members.items() if value is not None}
    )


def from_bytes(record: bytes) -> EncodedVideo:
    """The inverse of ``to_bytes``."""
    return EncodedVideo(**safetensors.numpy.load(record))


@contextlib.contextmanager
def one_sentence(path: Path) -> Iterator[None]:
    """Turns what goes wrong while a file is written into one sentence."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"Writing {path} failed ({reason}): give a folder with room and rights.") from error


def publish(partial: Path, path: Path) -> None:
    """Give a finished file its name: whoever sees the name sees the whole file."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def partial_of(path: Path) -> Path:
    """Where a file is written until it is whole; of its own for every process."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def write_json(path: Path, content: Any) -> None:
    """JSON, whole or not at all."""
    with one_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(path)
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        publish(partial, path)


def write_records(path: Path, records: Sequence[bytes]) -> None:
    """An ArrayRecord file, whole or not at all; no file where there are no records."""
    if not records:
        path.unlink(missing_ok=True)
        return
    with one_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(path)
        writer = ArrayRecordWriter(str(partial), _OPTIONS)
        for record in records:
            writer.write(record)
        writer.close()
        publish(partial, path)


def read_records(path: Path) -> list[bytes]:
    """All records of a file."""
    reader = ArrayRecordReader(str(path))
    try:
        return reader.read_all()
    finally:
        reader.close()


def _records_in(path: Path) -> int:
    """Number of a file's records; −1 where it is missing or damaged."""
    if not path.is_file():
        return -1
    try:
        reader = ArrayRecordReader(str(path))
        count = reader.num_records()
        reader.close()
    except (OSError, RuntimeError, ValueError):
        return -1
    return count


def read_json(path: Path) -> Any:
    """The content of one of our JSON files.

    Raises:
      InputError: missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"There is no {path}: give a folder that python -m tm_jax.data.prepare has made."
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} is damaged ({error}): prepare the clips again in another folder."
        ) from error


class PreparedVideos:
    """Random access to prepared clips, for ``grain.MapDataset.source``: `EncodedVideo`s like the puppets'."""

    def __init__(
        self,
        folder: Path,
        *,
        split: Literal["train", "heldout"] = "train",
        clip: ClipConfig | None = None,
        lenient: bool = False,
    ):
        """Reads the reports, and no clip.

        Args:
          folder: what ``--out`` named.
          split: the clips for training, or those of the videos that were held out.
          clip: the training clips to cut; prepared clips that are shorter are left out, and the reference is
            cut to their length (the VAE is causal, so a shorter reference is the beginning of a longer one).
          lenient: shards that are missing or cut off are left out, and their clips counted in ``missing``.

        Raises:
          InputError: no prepared clips, an unfinished or damaged folder, or clips that are all too short.
        """
        self.folder, self.split = Path(folder), split
        self._reference = None if clip is None else clip.frames
        self.facts: dict[str, Any] = read_json(self.folder / "prepare.json")["facts"]
        if clip is not None and clip.frames > self.facts["reference_frames"]:
            raise InputError(
                f"The clips in {folder} have references of {self.facts['reference_frames']} latent frames "
                f"and training asks for {clip.frames}: prepare them with --reference-frames {clip.frames}."
            )
        paths, self._indices, first, short = [], [], 0, 0
        self.missing = 0
        """Clips of the split whose shards cannot be read."""
        for path, entries in self._shards():
            if lenient and _records_in(path) != len(entries):
                self.missing += sum(entry["split"] == split for entry in entries)
                continue
            if not path.is_file():
                raise InputError(f"{self.folder} lacks the shard {path.name}: copy the folder again.")
            paths.append(str(path))
            for index, entry in enumerate(entries):
                if entry["split"] == split:
                    if clip is None or entry["latents"] >= clip.frames:
                        self._indices.append(first + index)
                    else:
                        short += 1
            first += len(entries)
        if not self._indices and split == "train":
            fault = f"only {short} clips too short for training" if short else "no clip"
            raise InputError(
                f"{folder} holds {fault}: see {self.folder / 'report.txt'} for what was dropped."
            )
        self._records = grain.sources.ArrayRecordDataSource(paths) if paths else []
        if len(self._records) != first:
            raise InputError(f"The shards in {folder} are not those of its reports: copy the folder again.")

    def _shards(self) -> list[tuple[Path, list[dict]]]:
        """Every shard with the entries of its records, in order."""
        reports = sorted((self.folder / "reports").glob("*.json"))
        wanted = int(reports[0].stem.split("-of-")[1]) if reports else 0
        if len(reports) < max(wanted, 1):
            raise InputError(
                f"Only {len(reports)} of {wanted or 'the'} shards in {self.folder} are done: "
                "run the same prepare command again to finish them."
            )
        found = []
        for report in reports:
            entries = [
                {"split": video["split"], **clip}
                for video in read_json(report)["videos"]
                for clip in video["clips"]
                if clip["reason"] is None
            ]
            path = self.folder / "shards" / f"{report.stem}.array_record"
            if entries:
                found.append((path, entries))
        return found

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> EncodedVideo:
        video = from_bytes(self._records[self._indices[index]])
        return dataclasses.replace(video, reference=video.reference[: self._reference])

    def __repr__(self) -> str:
        return f"PreparedVideos({str(self.folder)!r}, split={self.split!r}, clips={len(self)})"

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of a latent frame; None where the clips do not say."""
        size, stride = self.facts.get("size"), self.facts.get("spatial_stride")
        return None if size is None or stride is None else (size[0] // stride, size[1] // stride)

    def check(self, **sizes: int) -> None:
        """Compare the clips with what a model reads.

        Args:
          sizes: by name: latent_channels, audio_width, image_width, text_width.  A member that the clips do
            not have is not compared.

        Raises:
          InputError: naming every size that differs.
        """
        differing = [
            f"{name} {self.facts[name]} in the clips, {size} in the model"
            for name, size in sizes.items()
            if self.facts.get(name) not in (None, size)
        ]
        if differing:
            raise InputError(
                f"The clips in {self.folder} do not fit the model ({'; '.join(differing)}): "
                "prepare them with the encoders that the model is made for."
            )
