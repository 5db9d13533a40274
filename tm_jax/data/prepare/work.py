"""The run: every video of this process once, its clips into shards, and resumption where it stopped.

A video is done when its JSON lies in staging, a group of videos when its JSON lies in reports.  Either is
written after the records that it speaks of, and every file gets its name when it is whole, so a run may be
killed anywhere: what has a name is whole, what has none is made again.
"""

import base64
import concurrent.futures
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from tm_jax.config import differences, to_json
from tm_jax.data.prepare.clips import clips, sound_of
from tm_jax.data.prepare.decode import header_seconds
from tm_jax.data.prepare.encode import ClipEncoder
from tm_jax.data.prepare.models import Encoders, load_encoders
from tm_jax.data.prepare.pieces import Piece, pieces
from tm_jax.data.prepare.report import Report, make_report
from tm_jax.data.prepare.settings import PrepareConfig
from tm_jax.data.prepare.shards import (
    one_sentence,
    read_json,
    read_records,
    to_bytes,
    write_json,
    write_records,
)
from tm_jax.data.prepare.sources import Source, find_videos, groups, held_out, list_digest, one_video
from tm_jax.data.prepare.survey import Survey, survey
from tm_jax.data.prepare.texts import embeddings
from tm_jax.errors import InputError
from tm_jax.media.files import alone, shown
from tm_jax.media.framing import in_crop
from tm_jax.rates import FRAMES_PER_SECOND

NOT_SETTINGS = ("videos", "out", "process_index", "process_count")
MOST_TRIES = 3
"""Deaths of the process in one video after which it is dropped."""
PICTURED = 2
"""Thumbnails that a video gives for each reason."""


@dataclasses.dataclass(frozen=True)
class Group:
    """The videos of one shard."""

    name: str
    """Its number and that of all groups."""
    first: int
    """Number of its first video in the whole list."""
    sources: list[Source]
    """Its videos."""


def prepare(config: PrepareConfig) -> Report:
    """Do what is left of this process's share, then report on all that is done by any process.

    Raises:
      InputError: bad input of any kind, or another run writes the folder; a single bad video is dropped and
        reported instead.
    """
    sources = find_videos(config.videos)
    with alone(config.out, f"process-{config.process_index}"):
        return _prepare(config, sources)


def _prepare(config: PrepareConfig, sources: list[Source]) -> Report:
    """The same for videos that were found, in a folder where no other run does this process's share."""
    made = groups(sources, config.videos_per_shard)
    everything = [
        Group(f"{number:05d}-of-{len(made):05d}", number * config.videos_per_shard, group)
        for number, group in enumerate(made)
    ]
    settings = {"settings": _settings(config), "videos": list_digest(sources)}
    _compare(config.out, settings)
    mine = everything[config.process_index :: config.process_count]
    left = [group for group in mine if not _report_of(config.out, group).exists()]
    if left:
        prompts = [source.prompt or config.prompt for source in sources]
        texts = embeddings(config, prompts)
        encoders = load_encoders(config)
        facts = _facts(config, encoders, texts)
        settings = {**settings, "fingerprints": encoders.fingerprints(), "facts": facts}
        _compare(config.out, settings)
        write_json(config.out / "prepare.json", settings)
        _Run(config, encoders, texts, held_out(sources, config.held_out)).work(left)
    done = [read_json(path) for group in everything if (path := _report_of(config.out, group)).exists()]
    if len(done) == len(everything):
        shutil.rmtree(config.out / "staging", ignore_errors=True)
    return make_report(config.out, done, len(everything))


def _settings(config: PrepareConfig) -> dict[str, Any]:
    return {name: value for name, value in to_json(config).items() if name not in NOT_SETTINGS}


def _compare(out: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder whose clips were made otherwise."""
    if not (out / "prepare.json").exists():
        return
    there = read_json(out / "prepare.json")
    if there.get("videos") != settings["videos"]:
        raise InputError(
            f"{out} was begun with another list of videos: give another --out for the new ones "
            "(training takes one folder, so prepare all of them there), or the same list."
        )
    parts = [part for part in ("settings", "fingerprints") if part in settings]
    if found := differences(*({part: whole.get(part) for part in parts} for whole in (there, settings))):
        raise InputError(
            f"{out} was prepared with other settings (there against now): {'; '.join(found)}; "
            "give another --out, or the same settings."
        )


def _facts(config: PrepareConfig, encoders: Encoders, texts: dict[str, np.ndarray] | None) -> dict[str, Any]:
    """What a user of the clips has to know of them."""
    return {
        "frames_per_second": FRAMES_PER_SECOND,
        "size": list(config.size),
        "latent_channels": encoders.vae.config.z_dim,
        "spatial_stride": encoders.vae.config.spatial_stride,
        "reference_frames": config.reference_frames,
        "audio_width": encoders.front_end.token_width,
        "audio": "log-mel" if config.speech is None else "wav2vec2",
        "image_width": None if encoders.image is None else encoders.image.config.width,
        "text_width": None if texts is None else next(iter(texts.values())).shape[1],
    }


def _stated_seconds(source: Source) -> float:
    """What a video's header says of its length, 0 where it is not to be had."""
    try:
        with one_video(source):
            return header_seconds(source.path)
    except InputError:
        return 0.0


def _report_of(out: Path, group: Group) -> Path:
    return out / "reports" / f"{group.name}.json"


class _Run:
    """One process at work."""

    def __init__(
        self,
        config: PrepareConfig,
        encoders: Encoders,
        texts: dict[str, np.ndarray] | None,
        heldout: set[Path],
    ):
        self.config, self.texts, self.heldout = config, texts, heldout
        self.encoder = ClipEncoder(encoders, config.reference_frames)
        self.kept = self.dropped = 0

    def work(self, left: list[Group]) -> None:
        """All groups in turn; the next video is looked at while the accelerator encodes this one."""
        todo = [
            (number, source)
            for group in left
            for number, source in enumerate(group.sources, group.first)
            if not self._staged(number).exists()
        ]
        lengths = {source.path: _stated_seconds(source) for _, source in todo}
        form = "{l_bar}{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
        try:
            with tqdm(total=sum(lengths.values()), unit=" s", desc="preparing", bar_format=form) as bar:
                seen = self._surveyed(todo)
                for group in left:
                    for number, source in enumerate(group.sources, group.first):
                        if not self._staged(number).exists():
                            self._video(number, source, next(seen), bar, lengths[source.path])
                    self._finish(group)
        except BaseException:
            # What Python can tell of is no video's fault.
            for number, _ in todo:
                self._tries(number).unlink(missing_ok=True)
            raise

    def _tries(self, number: int) -> Path:
        """Counts how often the process has begun a video and died without a word."""
        return self.config.out / "staging" / f"{number:06d}.tries"

    def _begin(self, number: int, source: Source) -> None:
        """Count this try.

        Raises:
          InputError: the video has ended the process too often.
        """
        file = self._tries(number)
        before = int(file.read_text("utf-8") or 0) if file.exists() else 0
        if before >= MOST_TRIES:
            raise InputError(
                f"{shown(source.path)} was being read each of {before} times that the process was killed: "
                "convert it again."
            )
        with one_sentence(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(str(before + 1), encoding="utf-8")

    def _staged(self, number: int) -> Path:
        return self.config.out / "staging" / f"{number:06d}.json"

    def _surveyed(self, todo: list[tuple[int, Source]]) -> Iterator[Survey | InputError]:
        """What is seen of each video, one video ahead of its use."""

        def look(number: int, source: Source) -> Survey | InputError:
            try:
                self._begin(number, source)
                search = (source.face_box or self.config.face_box) is None
                with one_video(source):
                    return survey(source, self.config.filters.look_every, search=search)
            except InputError as error:
                return error

        # A video that may have killed an earlier process is looked at by itself, so that no other is blamed.
        alone = {number for number, _ in todo if self._tries(number).exists()}
        with concurrent.futures.ThreadPoolExecutor(1) as ahead:
            pending = None
            for index, video in enumerate(todo):
                result = (pending or ahead.submit(look, *video)).result()
                following, pending = todo[index + 1 : index + 2], None
                if following and following[0][0] not in alone:
                    pending = ahead.submit(look, *following[0])
                yield result

    def _video(
        self, number: int, source: Source, seen: Survey | InputError, bar: tqdm, expected: float
    ) -> None:
        """One video: its clips into staging, then what became of it."""
        before, records = bar.n, []
        try:
            if isinstance(seen, InputError):
                raise seen
            bar.total += seen.seconds - expected
            expected = seen.seconds
            box = source.face_box or self.config.face_box
            with one_video(source):
                found = pieces(seen, self.config.filters, self.config.size, box)
            tick = lambda frames: bar.update(min(frames / FRAMES_PER_SECOND, bar.total - bar.n))
            records = self._encoded(source, seen, found, tick)
            listed = _entries(seen, found)
        except InputError as error:
            records = []
            listed = [{"start": 0.0, "seconds": expected, "reason": "unreadable", "detail": str(error)}]
        self.kept += len(records)
        self.dropped += len(listed) - len(records)
        staged = self._staged(number)
        write_records(staged.with_suffix(".array_record"), records)
        split = "heldout" if source.path in self.heldout else "train"
        write_json(
            staged, {"source": shown(source.path), "split": split, "seconds": expected, "clips": listed}
        )
        self._tries(number).unlink(missing_ok=True)
        bar.update(min(before + expected, bar.total) - bar.n)
        bar.set_postfix_str(f"{self.kept} clips kept, {self.dropped} dropped")

    def _encoded(self, source: Source, seen: Survey, found: list[Piece], tick) -> list[bytes]:
        """The records of the kept pieces."""
        kept, config = [piece for piece in found if piece.reason is None], self.config
        text = None if self.texts is None else self.texts[source.prompt or config.prompt]
        return [
            to_bytes(
                self.encoder(
                    frames,
                    piece.frames,
                    sound_of(seen, piece),
                    seen.speaking[2 * piece.start : 2 * (piece.start + piece.frames)],
                    in_crop(piece.face, piece.crop, config.size),
                    text,
                    tick,
                )
            )
            for piece, frames in clips(source, kept, config.size)
        ]

    def _finish(self, group: Group) -> None:
        """The staged videos of a group as one shard, then its report, which makes it count."""
        staged = [self._staged(group.first + index) for index in range(len(group.sources))]
        records = [path.with_suffix(".array_record") for path in staged]
        write_records(
            self.config.out / "shards" / f"{group.name}.array_record",
            [record for path in records if path.exists() for record in read_records(path)],
        )
        write_json(_report_of(self.config.out, group), {"videos": [read_json(path) for path in staged]})
        for path in (*staged, *records):
            path.unlink(missing_ok=True)


def _entries(seen: Survey, found: list[Piece]) -> list[dict[str, Any]]:
    """What became of every piece, as JSON; the first of each reason with a picture."""
    clips, pictured = [], {}
    for piece in found:
        entry = {
            "start": piece.start / FRAMES_PER_SECOND,
            "seconds": piece.frames / FRAMES_PER_SECOND,
            "reason": piece.reason,
            "detail": piece.detail,
            "latents": 1 + (piece.frames - 1) // 4,
            "speech": round(piece.speech, 3),
            "face": [round(side, 1) for side in piece.face],
            "crop": [round(side, 1) for side in piece.crop],
        }
        pictured[piece.reason] = pictured.get(piece.reason, 0) + 1
        if pictured[piece.reason] <= PICTURED and seen.thumbnails:
            entry["thumbnail"] = _thumbnail(seen, piece)
        clips.append(entry)
    return clips


def _thumbnail(seen: Survey, piece: Piece) -> str:
    """A JPEG from the middle of a piece with its crop in white and its face in yellow, in base 64."""
    middle = piece.start + piece.frames // 2
    picture = seen.thumbnails[min(seen.thumbnails, key=lambda index: abs(index - middle))].copy()
    scale = picture.shape[0] / seen.size_at(piece.start)[0]
    for box, colour in ((piece.crop, (255, 255, 255)), (piece.face, (255, 220, 0))):
        y0, x0, y1, x1 = (round(side * scale) for side in box)
        if y1 > y0:
            cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), colour, 1)
    jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return base64.b64encode(jpeg).decode()
