"""Held-out clips through every system: measures, figures and pictures."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tm_jax.data.puppets.world import Clip, PuppetWorld
from tm_jax.evaluation import comparison, oracle, pictures
from tm_jax.evaluation.comparison import Truth
from tm_jax.evaluation.generators import (
    Generator,
    HeldOut,
    TeacherSampler,
)
from tm_jax.evaluation.lip_sync import lip_sync
from tm_jax.evaluation.measures import Measured, join, measure
from tm_jax.evaluation.reader import Reader, true_tracks
from tm_jax.evaluation.report import Figure
from tm_jax.evaluation.statistics import pearson
from tm_jax.evaluation.systems import Systems, held_out_batches

CONTROLS = ("held still", "latents shuffled")
"""Systems that show whether the measures of movement tell good from bad."""
HIDDEN = ("random weights", "shuffled sound", *CONTROLS)
"""Systems left out of the pictures."""
SHOWN = 3
"""Clips whose frames are kept for the strips: one of each style."""
LANGUAGE_CLIPS = 0.5
"""Clips of new languages for each held-out clip."""


@dataclasses.dataclass
class Results:
    """What a set of clips gave."""

    truth: Truth
    measured: dict[str, Measured]
    """By system; "real" is the true clips."""
    frames: dict[str, list[np.ndarray]]
    """The first few clips of each system, to look at."""


def clip_report(arguments, systems: Systems, out: Path) -> tuple[list[Figure], dict]:
    """Figures and details of everything but long streams."""
    generators = systems.generators()
    batches = held_out_batches(arguments, systems, "heldout", arguments.clips)
    results = run(batches, generators, systems.reader, systems.rollout.chunk)
    measured, truth = dict(results.measured), results.truth
    real = measured.pop("real")
    figures = reader_figures(results)
    if "vae" in measured:
        figures += comparison.vae_figures(measured["vae"], real, truth)
        figures += comparison.movement_controls(measured, real, truth)
    if "teacher" in measured or "student" in measured:
        regressor = train_oracle(arguments)
        read = None if regressor is None else oracle.predict(regressor, truth.audio, truth.opening.shape[1])
        figures += comparison.control_figures(truth, read)
        distances = comparison.distances_to_real(measured, real)
        figures += [
            Figure(f"{name}: Fréchet", value)
            for name, value in distances.items()
            if name not in ("student", *CONTROLS)
        ]
        for name in ("teacher", "untrained", "warm-up"):
            if name in measured:
                figures += comparison.system_figures(name, measured[name], real, truth)
        if "teacher" in measured:
            figures += comparison.listening_figures("teacher", measured["teacher"], real, truth)[:1]
        if "student" in measured:
            figures += _controls(measured, truth)
            figures += comparison.student_figures(measured, real, truth, distances)
            if regressor is not None:
                figures += language_figures(arguments, systems, generators, regressor)
        _draw_bars(out / "metrics.png", measured, real, truth, distances)
    _draw_clips(out, results)
    details = {
        name: {"lip_sync": dataclasses.asdict(comparison.sync_of(one, truth))}
        for name, one in results.measured.items()
    }
    return figures, details


def run(batches: Iterator[HeldOut], generators: dict[str, Generator], reader: Reader, chunk: int) -> Results:
    """Every system on every batch; frames are dropped as soon as they are measured."""
    parts: dict[str, list[Measured]] = {}
    shown: dict[str, list[np.ndarray]] = {}
    truths = []
    for held_out in batches:
        real = held_out.frames
        cuts = _seams(generators, real.shape[1])
        for name, generator in {"real": lambda batch: batch.frames, **generators}.items():
            frames = generator(held_out)
            parts.setdefault(name, []).append(measure(reader, frames, real, chunk=chunk, cuts=cuts))
            kept = shown.setdefault(name, [])
            kept.extend(frames[: max(0, SHOWN - len(kept))])
        truths += [_truth_of(clip) for clip in held_out.clips]
    audio, opening, mode, language, tracks = zip(*truths, strict=True)
    truth = Truth(
        np.stack(audio),
        np.stack(opening).astype(np.float64),
        np.stack(mode),
        tuple(language),
        np.stack(tracks),
    )
    return Results(truth, {name: join(pieces) for name, pieces in parts.items()}, shown)


def _truth_of(clip: Clip) -> tuple:
    tracks = true_tracks(clip.meta["motion"], clip.meta["parameters"])
    return clip.audio, clip.opening, clip.mode, clip.meta["language"], tracks


def _seams(generators: dict[str, Generator], frames: int) -> list[int]:
    """Where a teacher's windows meet: no system's motion is measured there, so that all count alike."""
    teachers = [one for one in generators.values() if isinstance(one, TeacherSampler)]
    return sorted({seam for teacher in teachers for seam in teacher.seams(frames)})


def reader_figures(results: Results) -> list[Figure]:
    """How well the reader reads true frames: lip-sync's own ceiling."""
    real, truth = results.measured["real"], results.truth
    speaking = truth.mode == 1
    pooled = pearson(real.opening[speaking], truth.opening[speaking])
    sync = comparison.sync_of(real, truth)
    figures = comparison.sync_figures("reader: opening,", sync, least=0.98)
    figures.append(Figure("reader: opening, all clips pooled", pooled, note="speaking frames"))
    share, count = comparison.mouth_share(real, truth)
    figures.append(Figure("reader: mouth listening / speaking", share, note=f"true frames of {count} clips"))
    return figures


def train_oracle(arguments) -> oracle.Oracle | None:
    """The oracle, from training voices alone."""
    if not arguments.oracle_clips:
        return None
    world = PuppetWorld(seed=arguments.seed, split="train", size=arguments.size)
    indices = tqdm(range(arguments.oracle_clips), desc="sounds for the oracle", unit="clip", leave=False)
    tracks = [world.truth(index, 8.0) for index in indices]
    return oracle.train_oracle([track.audio for track in tracks], [track.opening for track in tracks])


def language_figures(arguments, systems: Systems, generators: dict, regressor: oracle.Oracle) -> list[Figure]:
    """The student on languages that training never heard, beside the oracle."""
    count = max(arguments.batch, int(LANGUAGE_CLIPS * arguments.clips))
    batches = held_out_batches(arguments, systems, "language", count)
    results = run(batches, {"student": generators["student"]}, systems.reader, systems.rollout.chunk)
    truth = results.truth
    ceiling = oracle.predict(regressor, truth.audio, truth.opening.shape[1])
    return comparison.language_figures(
        comparison.sync_of(results.measured["student"], truth),
        lip_sync(ceiling, truth.opening, truth.mode),
        truth.language,
    )


def _controls(measured: dict[str, Measured], truth: Truth) -> list[Figure]:
    figures = []
    for name in ("random weights", "shuffled sound"):
        sync = comparison.sync_of(measured[name], truth).correlation
        most = 0.1 if name == "shuffled sound" else None
        figures.append(
            Figure(
                f"{name}: |lip-sync|", abs(sync.mean), most=most, low=sync.low, high=sync.high, note="control"
            )
        )
    return figures


def _draw_bars(path: Path, measured: dict, real: Measured, truth: Truth, distances: dict) -> None:
    values = {
        name: {
            "lip-sync": comparison.sync_of(one, truth).correlation.mean,
            "Fréchet": distances[name],
            **comparison.picture_ratios(one, real),
        }
        for name, one in measured.items()
        if name not in HIDDEN
    }
    wanted = {"sharpness": (0.85, 1.15), "flicker": (0.85, 1.15), "head motion": (0.8, 1.2)}
    wanted |= {"eye motion": (0.8, 1.2), "chunk borders": (0.0, 1.25), "lip-sync": (0.9, 1.0)}
    pictures.bars(path, values, wanted)


def _draw_clips(out: Path, results: Results) -> None:
    measured = {name: one.opening for name, one in results.measured.items() if name not in HIDDEN}
    pictures.openings(out / "openings.png", results.truth.opening, measured, results.truth.mode)
    length = results.truth.opening.shape[1]
    moments = np.linspace(4, length - 5, 12).astype(int)
    shown = {name: frames for name, frames in results.frames.items() if name not in HIDDEN}
    pictures.strips(out / "frames.png", shown, moments)
