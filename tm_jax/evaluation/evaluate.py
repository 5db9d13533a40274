"""The evaluation itself: held-out clips through every system, measures, figures, pictures."""

import dataclasses
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from tm_jax.audio.log_mel import LogMel
from tm_jax.config import from_json, to_json
from tm_jax.data.puppets.identity import STYLES
from tm_jax.data.puppets.world import PuppetWorld, frame_count
from tm_jax.diffusion.sampler import Guidance, SamplerConfig
from tm_jax.diffusion.schedule import RolloutConfig, Schedule
from tm_jax.errors import InputError
from tm_jax.evaluation import comparison, oracle, pictures
from tm_jax.evaluation.comparison import Asked
from tm_jax.evaluation.drift import by_minute, drift, flatness
from tm_jax.evaluation.generators import (
    Encoder,
    Generator,
    HeldOut,
    Reconstruction,
    Streamer,
    TeacherSampler,
    clip_frames,
    with_shuffled_sound,
)
from tm_jax.evaluation.lip_sync import lip_sync
from tm_jax.evaluation.measures import Measured, join, measure
from tm_jax.evaluation.reader import TRACKS, Reader, ReaderConfig
from tm_jax.evaluation.report import Figure, output_directory, table, write_json
from tm_jax.evaluation.statistics import pearson
from tm_jax.evaluation.streams import StreamReport, run_stream, vae_identity_error
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.front_ends import own_front_end
from tm_jax.pretrained.weights import load_model, read_config, read_header

SHOWN = 3
"""Clips whose frames are kept for the strips: one of each style."""
LANGUAGE_CLIPS = 0.5
"""Clips of new languages for each held-out clip."""


@dataclasses.dataclass
class Results:
    """What a set of clips gave."""

    asked: Asked
    measured: dict[str, Measured]
    """By system; "real" is the true clips."""
    frames: dict[str, list[np.ndarray]]
    """The first few clips of each system, to look at."""


class Systems:
    """Models and generators, built once and only as far as they are wanted."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.reader = load_model(arguments.reader, Reader, ReaderConfig)
        self.vae = load_model(arguments.vae, VAE, VAEConfig) if arguments.what != "reader" else None
        self.encoder = None if self.vae is None else self._encoder()
        schedule = Schedule(shift=arguments.shift)
        self.sampler = SamplerConfig(arguments.steps, schedule, Guidance(audio=arguments.guidance))
        self.rollout = RolloutConfig(arguments.chunk, arguments.student_steps, schedule)
        if arguments.what in ("student", "drift", "all"):
            shipped = read_header(arguments.student).meta.get("rollout")
            self.rollout = self.rollout if shipped is None else from_json(RolloutConfig, shipped)

    def _encoder(self) -> Encoder:
        """Makes what the models that are measured are told; no sound is heard where only the VAE is.

        Raises:
            InputError: they do not agree, or what they listen through is missing.
        """
        arguments, what = self.arguments, self.arguments.what
        paths = [] if what == "vae" else [arguments.student]
        if what == "teacher":
            paths = [arguments.teacher]
        elif what != "drift":
            paths += [path for path in (arguments.teacher, arguments.warmup) if paths and path.exists()]
        kinds = {
            path: (config.audio_width, config.still_condition)
            for path, config in ((path, read_config(path, DiTConfig)) for path in paths)
        }
        if len(set(kinds.values())) > 1:
            told = ", ".join(f"{path} {width} and {still}" for path, (width, still) in kinds.items())
            raise InputError(
                f"The models differ in audio_width and still_condition ({told}): give models of one kind."
            )
        if not kinds:
            return Encoder(self.vae, LogMel())
        ((width, still),) = set(kinds.values())
        found = own_front_end(width, arguments.visemes)
        if found is None:
            raise InputError(
                f"{paths[0]} reads audio tokens of {width} numbers, which {arguments.visemes} does not "
                "give: say by --visemes which viseme encoder it was trained with."
            )
        return Encoder(self.vae, found, still=still)

    def model(self, path: Path) -> DiT:
        """A transformer's weights."""
        return load_model(path, DiT, DiTConfig)

    def streamer(self, path: Path) -> Streamer:
        """A causal model from these weights."""
        return Streamer(self.model(path), self.vae, self.rollout)

    def generators(self) -> dict[str, Generator]:
        """The systems that this evaluation compares, by name."""
        arguments, what = self.arguments, self.arguments.what
        if what == "reader":
            return {}
        found: dict[str, Generator] = {"vae": Reconstruction(self.vae)}
        has_teacher = arguments.teacher.exists()
        if what == "teacher" or (what in ("student", "all") and has_teacher):
            teacher = self.model(arguments.teacher)
            found["teacher"] = TeacherSampler(teacher, self.vae, self.sampler, self.rollout.chunk)
            if what != "teacher":
                found["untrained"] = Streamer(teacher, self.vae, self.rollout)
        if what in ("student", "all"):
            if arguments.warmup.exists():
                found["warm-up"] = self.streamer(arguments.warmup)
            found["student"] = self.streamer(arguments.student)
            found["random weights"] = self.random_network(found["student"])
            found["shuffled sound"] = _Shuffled(found["student"])
        return found

    def random_network(self, student: Streamer) -> Streamer:
        """A network of the student's size that nobody trained: the control of the whole chain."""
        config = student.model.config
        return Streamer(DiT(config, rngs=nnx.Rngs(self.arguments.seed)), self.vae, self.rollout)


class _Shuffled:
    """A generator whose characters hear each other's sound."""

    def __init__(self, generator: Generator):
        self.generator = generator

    def __call__(self, held_out: HeldOut) -> np.ndarray:
        return self.generator(with_shuffled_sound(held_out))


def held_out_batches(arguments, systems: Systems, split: str, count: int) -> Iterator[HeldOut]:
    """Held-out clips, encoded (unless only the reader is measured), a few at a time, with a progress bar."""
    world = PuppetWorld(seed=arguments.seed, split=split, size=arguments.size)
    seconds = clip_frames(arguments.seconds, systems.rollout.chunk) / 25
    with tqdm(total=count, desc=f"{split} clips", unit="clip", leave=False) as bar:
        for start in range(0, count, arguments.batch):
            indices = list(range(start, min(count, start + arguments.batch)))
            clips = [world.clip(index, seconds) for index in indices]
            yield systems.encoder(clips, indices) if systems.encoder else HeldOut(clips, (), indices)
            bar.update(len(indices))


def run(batches: Iterator[HeldOut], generators: dict[str, Generator], reader: Reader, chunk: int) -> Results:
    """Every system on every batch; frames are dropped as soon as they are measured."""
    parts: dict[str, list[Measured]] = {}
    shown: dict[str, list[np.ndarray]] = {}
    asked = []
    for held_out in batches:
        truth = held_out.frames
        cuts = _seams(generators, truth.shape[1])
        for name, generator in {"real": lambda batch: batch.frames, **generators}.items():
            frames = generator(held_out)
            parts.setdefault(name, []).append(measure(reader, frames, truth, chunk=chunk, cuts=cuts))
            kept = shown.setdefault(name, [])
            kept.extend(frames[: max(0, SHOWN - len(kept))])
        asked += [(clip.audio, clip.opening, clip.mode, clip.meta["language"]) for clip in held_out.clips]
    audio, opening, mode, language = zip(*asked, strict=True)
    told = Asked(np.stack(audio), np.stack(opening).astype(np.float64), np.stack(mode), tuple(language))
    return Results(told, {name: join(pieces) for name, pieces in parts.items()}, shown)


def _seams(generators: dict[str, Generator], frames: int) -> list[int]:
    """Where a teacher's windows meet: no system's motion is measured there, so that all count alike."""
    teachers = [one for one in generators.values() if isinstance(one, TeacherSampler)]
    return sorted({seam for teacher in teachers for seam in teacher.seams(frames)})


def train_oracle(arguments) -> oracle.Oracle | None:
    """The oracle, from training voices alone."""
    if not arguments.oracle_clips:
        return None
    world = PuppetWorld(seed=arguments.seed, split="train", size=arguments.size)
    indices = tqdm(range(arguments.oracle_clips), desc="sounds for the oracle", unit="clip", leave=False)
    tracks = [world.truth(index, 8.0) for index in indices]
    return oracle.train_oracle([track.audio for track in tracks], [track.opening for track in tracks])


def reader_figures(results: Results) -> list[Figure]:
    """How well the reader reads true frames: lip-sync's own ceiling."""
    real, asked = results.measured["real"], results.asked
    speaking = asked.mode == 1
    pooled = pearson(real.opening[speaking], asked.opening[speaking])
    sync = comparison.sync_of(real, asked)
    figures = comparison.sync_figures("reader: opening,", sync, least=0.98)
    figures.append(Figure("reader: opening, all clips pooled", pooled, note="speaking frames"))
    share, count = comparison.mouth_share(real, asked)
    figures.append(Figure("reader: mouth listening / speaking", share, note=f"true frames of {count} clips"))
    return figures


def language_figures(arguments, systems: Systems, generators: dict, heard: oracle.Oracle) -> list[Figure]:
    """The student on languages that training never heard, beside the oracle."""
    count = max(arguments.batch, int(LANGUAGE_CLIPS * arguments.clips))
    batches = held_out_batches(arguments, systems, "language", count)
    results = run(batches, {"student": generators["student"]}, systems.reader, systems.rollout.chunk)
    asked = results.asked
    ceiling = oracle.hear(heard, asked.audio, asked.opening.shape[1])
    return comparison.language_figures(
        comparison.sync_of(results.measured["student"], asked),
        lip_sync(ceiling, asked.opening, asked.mode),
        asked.language,
    )


def clip_report(arguments, systems: Systems, out: Path) -> tuple[list[Figure], dict]:
    """Figures and details of everything but long streams."""
    generators = systems.generators()
    batches = held_out_batches(arguments, systems, "heldout", arguments.clips)
    results = run(batches, generators, systems.reader, systems.rollout.chunk)
    measured, asked = dict(results.measured), results.asked
    real = measured.pop("real")
    figures = reader_figures(results)
    if "vae" in measured:
        figures += comparison.vae_figures(measured["vae"], real, asked)
    if "teacher" in measured or "student" in measured:
        heard = train_oracle(arguments)
        read = None if heard is None else oracle.hear(heard, asked.audio, asked.opening.shape[1])
        figures += comparison.control_figures(asked, read)
        distances = comparison.distances_to_real(measured, real)
        figures += [
            Figure(f"{name}: Fréchet", value) for name, value in distances.items() if name != "student"
        ]
        for name in ("teacher", "untrained", "warm-up"):
            if name in measured:
                figures += comparison.system_figures(name, measured[name], real, asked)
        if "teacher" in measured:
            figures += comparison.listening_figures("teacher", measured["teacher"], real, asked)[:1]
        if "student" in measured:
            figures += _controls(measured, asked)
            figures += comparison.student_figures(measured, real, asked, distances)
            if heard is not None:
                figures += language_figures(arguments, systems, generators, heard)
        _draw_bars(out / "metrics.png", measured, real, asked, distances)
    _draw_clips(out, results)
    details = {
        name: {"lip_sync": dataclasses.asdict(comparison.sync_of(one, asked))}
        for name, one in results.measured.items()
    }
    return figures, details


def _controls(measured: dict[str, Measured], asked: Asked) -> list[Figure]:
    figures = []
    for name in ("random weights", "shuffled sound"):
        sync = comparison.sync_of(measured[name], asked).correlation
        most = 0.1 if name == "shuffled sound" else None
        figures.append(
            Figure(
                f"{name}: |lip-sync|", abs(sync.mean), most=most, low=sync.low, high=sync.high, note="control"
            )
        )
    return figures


def _draw_bars(path: Path, measured: dict, real: Measured, asked: Asked, distances: dict) -> None:
    values = {
        name: {
            "lip-sync": comparison.sync_of(one, asked).correlation.mean,
            "Fréchet": distances[name],
            **comparison.picture_ratios(one, real),
        }
        for name, one in measured.items()
        if name not in ("random weights", "shuffled sound")
    }
    wanted = {"sharpness": (0.85, 1.15), "flicker": (0.85, 1.15), "head motion": (0.8, 1.2)}
    wanted |= {"eye motion": (0.8, 1.2), "chunk borders": (0.0, 1.25), "lip-sync": (0.9, 1.0)}
    pictures.bars(path, values, wanted)


def _draw_clips(out: Path, results: Results) -> None:
    hidden = ("random weights", "shuffled sound")
    measured = {name: one.opening for name, one in results.measured.items() if name not in hidden}
    pictures.openings(out / "openings.png", results.asked.opening, measured, results.asked.mode)
    length = results.asked.opening.shape[1]
    moments = np.linspace(4, length - 5, 12).astype(int)
    shown = {name: frames for name, frames in results.frames.items() if name not in hidden}
    pictures.strips(out / "frames.png", shown, moments)


def drift_report(arguments, systems: Systems, out: Path) -> tuple[list[Figure], dict]:
    """One long stream of each style."""
    world = PuppetWorld(seed=arguments.seed, split="heldout", size=arguments.size)
    seconds = frame_count(60 * arguments.minutes) / 25
    streamer = systems.streamer(arguments.student)
    figures, reports = [], {}
    for index, style in enumerate(STYLES):
        with tqdm(total=round(seconds), desc=f"stream: {style}", unit="s", leave=False) as bar:
            advance = lambda done, bar=bar: bar.update(round(done) - bar.n)
            report = run_stream(
                streamer, systems.reader, world, index, seconds, systems.encoder, progress=advance
            )
        reports[style] = report
        ceiling = vae_identity_error(systems.vae, systems.reader, world, index, systems.encoder)
        figures += comparison.drift_figures(f"{style} stream", drift(report.minutes), ceiling)
        figures += _flatness_figures(style, report)
    pictures.minutes(out / "minutes.png", {style: report.minutes for style, report in reports.items()})
    details = {style: [dataclasses.asdict(m) for m in report.minutes] for style, report in reports.items()}
    costs = {
        style: {
            "chunk_seconds": by_minute(report.chunk_seconds, report.stamps),
            "resident_mib": [resident / 2**20 for resident in by_minute(report.chunk_memory, report.stamps)],
        }
        for style, report in reports.items()
    }
    return figures, {"minutes": details, "costs": costs}


def _flatness_figures(style: str, report: StreamReport) -> list[Figure]:
    note = "last minute : first, median of chunks"
    return [
        Figure(
            f"{style} stream: time per chunk",
            flatness(report.chunk_seconds, report.stamps),
            most=1.05,
            note=note,
        ),
        Figure(f"{style} stream: memory", flatness(report.chunk_memory, report.stamps), most=1.02, note=note),
    ]


def evaluate(arguments) -> list[Figure]:
    """Measure what the arguments ask for, write the report, print the table."""
    out = output_directory(arguments.out)
    systems = Systems(arguments)
    figures, details = [], {}
    if arguments.what != "drift":
        figures, details = clip_report(arguments, systems, out)
    if arguments.what in ("drift", "all"):
        more, minutes = drift_report(arguments, systems, out)
        figures, details = figures + more, details | minutes
    about = {
        "command": shlex.join(["python", "-m", "tm_jax.evaluation", *sys.argv[1:]]),
        "arguments": to_json(arguments),
        "devices": [str(device) for device in jax.devices()],
        "weights": {
            name: read_header(path).meta
            for name in ("reader", "vae", "visemes", "teacher", "warmup", "student")
            if (path := getattr(arguments, name)).exists()
        },
        "tracks": list(TRACKS),
    }
    write_json(out / "report.json", figures, about, details)
    text = table(figures)
    (out / "report.txt").write_text(text + "\n")
    failed = [figure.name for figure in figures if figure.passed is False]
    print(text)
    print(f"\n{len(failed)} of {sum(f.passed is not None for f in figures)} targets missed; written to {out}")
    return figures
