"""From measures to figures: what each system must reach, beside ceilings, controls and baselines."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from tm_jax.evaluation import movement
from tm_jax.evaluation.drift import Drift
from tm_jax.evaluation.features import RealClips
from tm_jax.evaluation.lip_sync import LipSync, audio_envelope, lip_sync
from tm_jax.evaluation.measures import Measured
from tm_jax.evaluation.quality import geometric_ratio, mean_ratio
from tm_jax.evaluation.report import Figure, within
from tm_jax.evaluation.statistics import bootstrap

NAN = float("nan")


@dataclasses.dataclass(frozen=True)
class Truth:
    """What the held-out clips asked for, without their pictures."""

    audio: Float[np.ndarray, "n s"]
    opening: Float[np.ndarray, "n t"]
    mode: Int[np.ndarray, "n t"]
    language: tuple[str, ...]
    tracks: Float[np.ndarray, "n t tracks"]
    """What the reader should read."""


def sync_of(measured: Measured, truth: Truth) -> LipSync:
    """Lip-sync of what was read against what was asked."""
    return lip_sync(measured.opening, truth.opening, truth.mode)


def sync_figures(
    name: str, sync: LipSync, *, least: float | None = None, controls: bool = False
) -> list[Figure]:
    """Correlation, offset and the shuffled control of one system."""
    mean = sync.correlation
    figures = [
        Figure(
            f"{name}: lip-sync",
            mean.mean,
            least=least,
            low=mean.low,
            high=mean.high,
            note=f"{mean.count} clips, speaking frames",
        )
    ]
    if controls:
        figures += [
            Figure(f"{name}: |offset|", abs(sync.offset), most=1.0, note=f"frames; {sync.offset:+.2f}"),
            Figure(f"{name}: |shuffled|", abs(sync.shuffled), most=0.1, note="other clips' truth"),
        ]
    return figures


def control_figures(truth: Truth, oracle: Float[np.ndarray, "n t"] | None) -> list[Figure]:
    """The audio's envelope and the oracle."""
    envelope = audio_envelope(truth.audio, truth.opening.shape[1])
    figures = sync_figures("audio envelope", lip_sync(envelope, truth.opening, truth.mode))
    if oracle is not None:
        figures += sync_figures("oracle", lip_sync(oracle, truth.opening, truth.mode))
    return figures


def picture_ratios(measured: Measured, real: Measured) -> dict[str, float]:
    """Everything beside the lips against real: pictures clip by clip, movements by their means."""
    paired = {
        name: geometric_ratio(measured.pictures[name], real.pictures[name])
        for name in ("sharpness", "motion", "flicker")
    }
    steps = lambda m, at, of: m.pictures[at].mean() / max(m.pictures[of].mean(), 1e-12)
    jumps = lambda m: steps(m, "at_border", "inside")
    latents = lambda m: steps(m, "at_latent", "within")
    return {
        **paired,
        "head motion": mean_ratio(measured.head, real.head),
        "eye motion": mean_ratio(measured.eyes, real.eyes),
        "blink rate": mean_ratio(measured.blinks_a_minute(), real.blinks_a_minute()),
        "head spread": mean_ratio(measured.head_spread(), real.head_spread()),
        "chunk borders": float(jumps(measured) / jumps(real)),
        "latent borders": float(latents(measured) / latents(real)),
    }


def movement_ratios(measured: Measured, real: Measured, truth: Truth) -> dict[str, float]:
    """Head, lids and gaze by band against real, less the reader's error but above 2 Hz; half-shut lids."""
    ours, theirs, error = measured.band_energies(), real.band_energies(), real.reading_errors(truth.tracks)
    shakes = "head above 2 Hz"
    ratios = {
        name: movement.less_error(ours[name], theirs[name], error[name]) for name in ours if name != shakes
    }
    return {
        **ratios,
        shakes: mean_ratio(ours[shakes], theirs[shakes]),
        "half-shut lids": measured.half_lids(),
    }


WANTED = {
    "lids": (0.7, 1.3),
    "gaze": (0.8, 1.2),
    "head below 2 Hz": (0.8, 1.2),
    "head above 2 Hz": (None, 1.3),
}
"""Least and most of a student's movement ratios."""


def movement_figures(
    name: str, measured: Measured, real: Measured, truth: Truth, *, targets: bool = False
) -> list[Figure]:
    """The movement ratios of one system."""
    error = real.reading_errors(truth.tracks)["head above 2 Hz"].mean()
    share = error / max(real.band_energies()["head above 2 Hz"].mean(), 1e-12)
    notes = {
        "head above 2 Hz": f"against real, of which {share:.0%} is the reader's error",
        "half-shut lids": f"share of the lids' closings; real as read {real.half_lids():.2f}",
    }
    figures = []
    for key, value in movement_ratios(measured, real, truth).items():
        least, most = WANTED.get(key, (None, None)) if targets else (None, None)
        note = notes.get(key, "against real, less the reader's error")
        figures.append(Figure(f"{name}: {key}", value, least=least, most=most, note=note))
    return figures


def movement_controls(measured: dict[str, Measured], real: Measured, truth: Truth) -> list[Figure]:
    """A picture held still must have no movement, and latents in the wrong order must jump and shake."""
    still = movement_ratios(measured["held still"], real, truth)
    shuffled = movement_ratios(measured["latents shuffled"], real, truth)
    jumps = picture_ratios(measured["latents shuffled"], real)
    most = lambda key: Figure(f"held still: {key}", still[key], most=0.2, note="control")
    return [
        *(most(key) for key in ("lids", "gaze", "head below 2 Hz")),
        Figure("latents shuffled: head above 2 Hz", shuffled["head above 2 Hz"], least=1.5, note="control"),
        *(
            Figure(f"latents shuffled: {key}", jumps[key], least=1.5, note="control")
            for key in ("chunk borders", "latent borders")
        ),
    ]


def vae_figures(measured: Measured, real: Measured, truth: Truth) -> list[Figure]:
    """The gates of the VAE."""
    sync, psnr = sync_of(measured, truth), bootstrap(measured.pictures["psnr"])
    ratios = picture_ratios(measured, real)
    speaking = truth.mode == 1
    spreads = [
        ours[keep].std() / max(true[keep].std(), 1e-6)
        for ours, true, keep in zip(measured.opening, real.opening, speaking, strict=True)
        if keep.sum() > 50
    ]
    spread = bootstrap(np.array(spreads)).mean
    return [
        Figure("vae: PSNR", psnr.mean, least=32.0, low=psnr.low, high=psnr.high, note="dB, held-out clips"),
        *sync_figures("vae: opening,", sync, least=0.98),
        Figure("vae: spread of the opening", spread, least=0.9, note="against real"),
        within("vae: motion", ratios["motion"], 0.1),
        within("vae: sharpness", ratios["sharpness"], 0.1),
        Figure("vae: flicker", ratios["flicker"], note="against real"),
        Figure("vae: blink rate", ratios["blink rate"], note="against real"),
        Figure("vae: chunk borders", ratios["chunk borders"], note="of the true clip's ratio"),
        Figure("vae: latent borders", ratios["latent borders"], note="of the true clip's ratio"),
        *movement_figures("vae", measured, real, truth),
    ]


def mouth_share(measured: Measured, truth: Truth) -> tuple[float, int]:
    """Movement of the mouth while listening as a share of that while speaking, and over how many clips."""
    listening, speaking = measured.mouth(truth.mode)
    both = np.isfinite(listening) & np.isfinite(speaking)
    return (float(listening[both].mean() / speaking[both].mean()) if both.any() else NAN), int(both.sum())


def listening_figures(name: str, measured: Measured, real: Measured, truth: Truth) -> list[Figure]:
    """Mouth at rest while listening; head and eyes alive."""
    share, count = mouth_share(measured, truth)
    own, _ = mouth_share(real, truth)
    ratios = picture_ratios(measured, real)
    return [
        Figure(
            f"{name}: mouth listening / speaking",
            share,
            most=0.15,
            note=f"{count} clips; true frames as read {own:.3f}",
        ),
        within(f"{name}: head motion", ratios["head motion"], 0.2),
        within(f"{name}: eye motion", ratios["eye motion"], 0.2),
    ]


def student_figures(
    systems: dict[str, Measured], real: Measured, truth: Truth, distances: dict[str, float]
) -> list[Figure]:
    """The student against real, beside the teacher and the baselines that distillation must beat."""
    student = systems["student"]
    ratios = picture_ratios(student, real)
    baselines = [distances[name] for name in ("untrained", "warm-up") if name in distances]
    ceiling = 1.15 * distances["teacher"] if "teacher" in distances else None
    figures = [
        *sync_figures("student", sync_of(student, truth), least=0.90, controls=True),
        within("student: sharpness", ratios["sharpness"], 0.15),
        within("student: flicker", ratios["flicker"], 0.15),
        Figure("student: blink rate", ratios["blink rate"], note="against real"),
        Figure("student: head spread", ratios["head spread"], note="against real"),
        Figure("student: chunk borders", ratios["chunk borders"], most=1.25, note="of the true clip's ratio"),
        Figure("student: latent borders", ratios["latent borders"], note="of the true clip's ratio"),
        *movement_figures("student", student, real, truth, targets=True),
        *listening_figures("student", student, real, truth),
        Figure("student: Fréchet", distances["student"], most=ceiling, note="1.15 × teacher"),
    ]
    if baselines:
        figures.append(
            Figure(
                "student: Fréchet against baselines",
                distances["student"] / min(baselines),
                most=1.0,
                note="the better of warm-up alone and masked teacher, 2 steps",
            )
        )
    return figures


def system_figures(name: str, measured: Measured, real: Measured, truth: Truth) -> list[Figure]:
    """The same figures for a teacher or a baseline, without targets of their own."""
    ratios = picture_ratios(measured, real)
    least = 0.92 if name == "teacher" else None
    figures = sync_figures(name, sync_of(measured, truth), least=least, controls=name == "teacher")
    figures += [Figure(f"{name}: {key}", value, note="against real") for key, value in ratios.items()]
    return figures + movement_figures(name, measured, real, truth)


def language_figures(system: LipSync, oracle: LipSync, languages: tuple[str, ...]) -> list[Figure]:
    """Lip-sync on languages never heard, against the oracle's on the same clips."""
    figures = [
        *sync_figures("new languages: student", system),
        *sync_figures("new languages: oracle", oracle),
        Figure(
            "new languages: student / oracle",
            system.correlation.mean / oracle.correlation.mean,
            least=0.85,
        ),
    ]
    for language in sorted(set(languages)):
        chosen = [r for r, spoken in zip(system.per_clip, languages, strict=True) if spoken == language]
        figures.append(Figure(f"new languages: {language}", bootstrap(np.array(chosen)).mean, note="student"))
    return figures


def distances_to_real(systems: dict[str, Measured], real: Measured) -> dict[str, float]:
    """Fréchet distance of each system's clips from the real ones."""
    yardstick = RealClips.of(real.features())
    return {name: yardstick.distance(measured.features()) for name, measured in systems.items()}


def drift_figures(name: str, drift: Drift, ceiling: float) -> list[Figure]:
    """Last minute against first; ``ceiling`` is the identity error of the true stream through the VAE."""
    allowed = max(1.15 * drift.identity_first, 1.05 * ceiling)
    return [
        Figure(
            f"{name}: identity, last minute",
            drift.identity_last,
            most=allowed,
            note=f"first {drift.identity_first:.3f}, VAE {ceiling:.3f}",
        ),
        Figure(f"{name}: colour shift", drift.colour, most=3.0, note="of 255"),
        within(f"{name}: sharpness", drift.sharpness, 0.1, "last minute : first"),
        within(f"{name}: head motion", drift.head, 0.2, "last minute : first"),
        within(f"{name}: eye motion", drift.eyes, 0.2, "last minute : first"),
        Figure(f"{name}: lip-sync change", drift.lip_sync, least=-0.05, note="last minute − first"),
    ]
