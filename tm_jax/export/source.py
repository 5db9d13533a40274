"""What an export is made of: a folder of weights, or a training run, and where its parts are.

A weights file of ours, in a folder or in a run, holds the moving average (EMA): training writes nothing else
(``training.loop``), so it is what an export carries.
"""

import dataclasses
import math
from pathlib import Path

from tm_jax.audio.log_mel import LogMel
from tm_jax.audio.sliding_window import WindowConfig
from tm_jax.errors import InputError
from tm_jax.models.clip import CLIPVision
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.models.viseme_config import VisemeConfig
from tm_jax.models.visemes import VisemeEncoder
from tm_jax.models.wav2vec2 import Wav2Vec2
from tm_jax.pretrained.layouts import FOLDERS, load_public, open_public
from tm_jax.pretrained.prompts import Prompt, load_prompt
from tm_jax.pretrained.sources import load_any
from tm_jax.pretrained.weights import is_own, load_model, origin, read_config, read_header
from tm_jax.streaming.jax_engine import read_rollout
from tm_jax.torch_runtime.export_format import Dtype, ExportConfig


@dataclasses.dataclass(frozen=True)
class Source:
    """A student's weights file and what goes along; only headers are read until a part is asked for."""

    student_path: Path
    """Our weights file of the student."""
    student: DiTConfig
    """Its config."""
    vae_source: Path | str
    """Our weights file, a public folder or a Hub id."""
    visemes_path: Path | None
    speech_source: Path | str | None
    image_source: Path | str | None
    prompt: Prompt | None
    size: tuple[int, int]
    """Height and width of the video."""

    @property
    def front_end(self) -> str:
        """What the student hears through."""
        if self.visemes_path is not None:
            return "visemes"
        return "log_mel" if self.speech_source is None else "wav2vec2"

    @property
    def picture_encoder(self) -> bool:
        """Whether the student sees through CLIP."""
        return self.image_source is not None

    def load_vae(self) -> VAE:
        """The VAE."""
        return load_any(self.vae_source, "vae")

    def visemes(self) -> VisemeEncoder | None:
        """The viseme encoder, where the student hears through it."""
        return (
            None if self.visemes_path is None else load_model(self.visemes_path, VisemeEncoder, VisemeConfig)
        )

    def load_speech(self) -> Wav2Vec2:
        """wav2vec2."""
        return load_public(self.speech_source, "speech", progress=False)[0]

    def load_picture_encoder(self) -> CLIPVision:
        """CLIP."""
        return load_public(self.image_source, "image", progress=False)[0]

    def config(self, dtype: Dtype, vae: VAEConfig, visemes: VisemeConfig | None) -> ExportConfig:
        """The export's config."""
        return ExportConfig(
            student=self.student,
            vae=vae,
            rollout=read_rollout(self.student_path),
            front_end=self.front_end,
            size=self.size,
            dtype=dtype,
            visemes=visemes,
            window=WindowConfig() if self.front_end == "wav2vec2" else None,
            picture_encoder=self.picture_encoder,
            prompt=None if self.prompt is None else self.prompt.text,
            origin={"weights": read_header(self.student_path).meta, "export": origin()},
        )


def find_source(
    checkpoint: Path,
    *,
    parts: Path,
    wan: str = "",
    speech: str = "",
    prompt: Path | None = None,
    size: tuple[int, int] | None = None,
) -> Source:
    """The source of an export.

    Args:
      checkpoint: a folder with student.safetensors, a weights file, or the folder of a training run.
      parts: folder of what the checkpoint's own lacks: vae.safetensors, visemes.safetensors, public folders.
      wan: folder or Hub id of Wan's pipeline, for what neither has.
      speech: folder or Hub id of wav2vec2.
      prompt: file with an embedded prompt; None takes prompt.safetensors beside the weights.
      size: (height, width) of the video; None is the model's own, 512 for Wan's.

    Raises:
      InputError: a part is missing, or the parts do not fit each other.
    """
    path = student_file(checkpoint)
    student = read_config(path, DiTConfig)
    read_rollout(path)
    folders = (path.parent, parts)
    vae = _own(folders, "vae.safetensors") or _public(folders, wan, "vae", "--wan")
    image = None if student.image_patch is not None else _public(folders, wan, "image", "--wan")
    visemes = _own(folders, "visemes.safetensors")
    if visemes is not None and read_config(visemes, VisemeConfig).outputs != student.audio_width:
        visemes = None
    if visemes is not None or student.audio_width == LogMel().token_width:
        speech_source = None
    else:
        speech_source = _public(folders, speech, "speech", "--speech")
    own_prompt = prompt or _own((path.parent,), "prompt.safetensors")
    embedded = None if own_prompt is None else load_prompt(own_prompt)
    if embedded is None and image is not None:
        raise InputError(
            f"There is no {path.parent / 'prompt.safetensors'}: make it with python -m tm_jax.pretrained "
            "embed-prompt, or give the file by --prompt."
        )
    if size is None:
        edge = vae_config(vae).spatial_stride * (student.image_patch or 1)
        size = (512, 512) if image is not None else (math.isqrt(student.image_length) * edge,) * 2
    return Source(path, student, vae, visemes, speech_source, image, embedded, size)


def vae_config(source: Path | str) -> VAEConfig:
    """The config of a VAE of ours or of a public one."""
    return read_config(Path(source), VAEConfig) if is_own(source) else open_public(source, "vae").config


def student_file(checkpoint: Path) -> Path:
    """The weights file of a student in a folder of weights, in a training run, or the file itself.

    Raises:
      InputError: there is none.
    """
    for path in (checkpoint, checkpoint / "student.safetensors", checkpoint / "weights.safetensors"):
        if path.is_file():
            return path
    raise InputError(
        f"{checkpoint} holds no student: give a weights file, a folder with student.safetensors, or the "
        "folder of a training run, in which weights.safetensors is the average of its last checkpoint."
    )


def _own(folders: tuple[Path, ...], name: str) -> Path | None:
    """The first of the folders' files of this name."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _public(folders: tuple[Path, ...], given: str, kind: str, flag: str) -> Path | str:
    """A public model beside the weights, or where a flag says."""
    for folder in folders:
        if (folder / FOLDERS[kind]).is_dir():
            return folder / FOLDERS[kind]
    if not given:
        raise InputError(
            f"The student needs {FOLDERS[kind]}/, which is not in {folders[0]}: "
            f"put it there, or give its folder or Hub id by {flag}."
        )
    return given
