"""What an export holds: its config.json, and where its parts lie.

    config.json            ExportConfig: format, version, precision, sizes, rollout
    transformer/           the student in Wan's original names, audio parts beside them; shards with an index
    vae/                   the VAE in diffusers' names
    image_encoder/         CLIP in transformers' names, where the student sees through it
    speech_encoder/        wav2vec2 in transformers' names, where the student hears through it
    visemes.safetensors    our own small speech encoder, where it hears through that
    prompt.safetensors     the prompt's embedding, where the student reads one
    report.json, .txt      what the parity gate found (``--verify``)

``tm_jax.export`` writes it, this room reads it.  A matrix in FP8 is stored as F8_E4M3
with one float32 scale per output, ``NAME.weight_scale`` [out, 1]: the matrix times its scale is meant.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from tm_jax.audio.sliding_window import WindowConfig
from tm_jax.config import from_json, to_json
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.errors import InputError
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae_config import VAEConfig
from tm_jax.models.viseme_config import VisemeConfig

FORMAT, VERSION = "tm_jax export", 1

TRANSFORMER, VAE, IMAGE, SPEECH = "transformer", "vae", "image_encoder", "speech_encoder"
VISEMES, PROMPT = "visemes.safetensors", "prompt.safetensors"
PROMPT_TENSOR = "text_tokens"
SCALE = "weight_scale"

Dtype = Literal["f32", "bf16", "fp8"]


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """All that a runtime must know of an export before it reads a weight."""

    student: DiTConfig
    """Sizes of the student."""
    vae: VAEConfig
    """Sizes of the VAE."""
    rollout: RolloutConfig
    """Chunk, steps and noise levels that the student was distilled for."""
    front_end: Literal["log_mel", "visemes", "wav2vec2"]
    """What the student hears through."""
    size: tuple[int, int]
    """Height and width of the video."""
    dtype: Dtype = "f32"
    """Precision of the student's matrices; VAE, encoders, norms and biases are f32."""
    visemes: VisemeConfig | None = None
    """Sizes of the viseme encoder, where there is one."""
    window: WindowConfig | None = None
    """The sliding window of wav2vec2, where there is one."""
    picture_encoder: bool = False
    """Whether the student sees through CLIP."""
    prompt: str | None = None
    """The text whose embedding goes along; None without one, when the student reads zeros."""
    weights: str = "ema"
    """Which of a run's weights these are: the moving average, as in every weights file of ours."""
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Commit, command and date of the weights and of the export."""

    def __post_init__(self):
        if self.rollout.clean_kv:
            raise InputError(
                "This student reads clean keys and values (rollout.clean_kv), which the PyTorch runtime does "
                "not: stream it by infer.py without --backend torch, or distil one without."
            )


def write_config(folder: Path, config: ExportConfig) -> None:
    """Write config.json."""
    content = {"format": FORMAT, "version": VERSION, **to_json(config)}
    (folder / "config.json").write_text(
        json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def read_config(folder: Path) -> ExportConfig:
    """The config of an export.

    Raises:
      InputError: the folder is no export, or one of another version.
    """
    path = folder / "config.json"
    remedy = "make one with python -m tm_jax.export CHECKPOINT --to DIR"
    if not path.is_file():
        raise InputError(f"{folder} is no export, for it has no config.json: {remedy}.")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not readable JSON ({error}): copy the export again.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{folder} is no export of tm_jax: {remedy}.")
    if content.get("version") != VERSION:
        raise InputError(
            f"{folder} is an export of version {content.get('version')}, this program reads {VERSION}: "
            "export again with the program of this version."
        )
    fields = {name: value for name, value in content.items() if name not in ("format", "version")}
    try:
        return from_json(ExportConfig, fields)
    except (InputError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f"{path} does not describe an export ({error}): export again.") from None
