"""What a folder of public weights holds and whether it is complete, told from headers alone."""

import dataclasses
from pathlib import Path
from typing import Any

from tm_jax.errors import InputError
from tm_jax.pretrained.fantasytalking import open_fantasytalking, open_headers
from tm_jax.pretrained.files import Checkpoint, holds_safetensors, open_checkpoint, read_json
from tm_jax.pretrained.layouts import FOLDERS, fits_itself, recognise
from tm_jax.pretrained.other_kinds import fantasytalking
from tm_jax.pretrained.wan_family import member, refuse_relatives
from tm_jax.pretrained.weights import is_own, read_header

SIZES = {
    ("vae", 96, 16): "Wan2.1 VAE",
    ("vae", 160, 48): "Wan2.2 VAE",
    ("text", 4096, 24): "UMT5-XXL encoder",
    ("image", 1280, 32): "CLIP ViT-H/14 vision",
    ("speech", 768, 12): "wav2vec2-base",
}
"""What the published sizes are called; Wan's transformers have a table of their own."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One model of a folder."""

    path: Path
    """Where it lies."""
    kind: str
    """What it does: transformer, vae, text, image or speech."""
    title: str
    """The name of its size, or its sizes."""
    layout: str
    """Whose key names it has."""
    dtypes: dict[str, int]
    """Storage type → tensors."""
    files: int
    """Safetensors files."""
    tensors: int
    """Stored tensors."""
    parameters: int
    """Stored values."""
    nbytes: int
    """Bytes of values."""
    remark: str = ""
    """What else there is to say."""

    def __str__(self) -> str:
        dtypes = ", ".join(
            name if len(self.dtypes) == 1 else f"{count} × {name}" for name, count in self.dtypes.items()
        )
        files = "1 file" if self.files == 1 else f"{self.files} files"
        return (
            f"{self.path}: {self.kind}, {self.title}, {self.layout}, {dtypes}, {files}, "
            f"{self.tensors:,} tensors, {_short(self.parameters)} parameters, "
            f"{_short(self.nbytes)}B, complete{self.remark and ', '}{self.remark}"
        )


def _short(number: int | float) -> str:
    """A number with three digits and the letter of its size."""
    for unit in ("", "k", "M", "G"):
        if number < 1000 or unit == "G":
            return f"{number:.3g} {unit}"
        number /= 1000
    raise AssertionError


def title(kind: str, config: Any) -> str:
    """What a model of this config is called; of transformers, one without modules that Wan2.1 lacks."""
    if kind == "transformer":
        return member({}, config).title
    size = (config.base_dim, config.z_dim) if kind == "vae" else (config.width, config.layers)
    if (kind, *size) in SIZES:
        return SIZES[kind, *size]
    sizes = (
        f"base {size[0]}, {size[1]} latent channels"
        if kind == "vae"
        else f"width {size[0]}, {size[1]} layers"
    )
    return f"no published size ({sizes})"


def check_part(path: Path) -> Part:
    """One model; raises InputError with one sentence where it is incomplete, unreadable or none of ours."""
    checkpoint = open_checkpoint(path)
    if path.is_file() and is_own(path):
        return _own_part(checkpoint)
    if fantasytalking(checkpoint.tensors):
        return _audio_part(checkpoint)
    layout, respelled = recognise(checkpoint)
    remark = ""
    if layout.kind == "transformer":
        found = member(respelled.shapes, layout.sized(respelled))
        if found.extras:
            refuse_relatives(path, found)
        remark = "" if found.runs else f"but a form that is not run here ({found.form})"
    config = fits_itself(layout, respelled)
    return _part(checkpoint, layout.kind, title(layout.kind, config), f"{layout.name} layout", remark)


def _own_part(checkpoint: Checkpoint) -> Part:
    """A weights file of ours: what its header says it is."""
    header = read_header(checkpoint.path)
    commit = header.meta.get("commit") or "unknown"
    return _part(checkpoint, header.model_class, f"made here (commit {commit})", "tm_jax layout", "")


def _audio_part(checkpoint: Checkpoint) -> Part:
    """FantasyTalking's audio weights, compared with a transformer of their own sizes."""
    config = open_headers(checkpoint.path).config
    open_fantasytalking(checkpoint.path, config)
    title = f"FantasyTalking ({config.audio_dim} channels for {config.layers} layers of width {config.width})"
    return _part(checkpoint, "audio", title, "original layout", "a start for train.py --init-audio")


def _part(checkpoint: Checkpoint, kind: str, title: str, layout: str, remark: str) -> Part:
    return Part(
        checkpoint.path,
        kind,
        title,
        layout,
        checkpoint.dtypes,
        len(checkpoint.files),
        len(checkpoint.tensors),
        checkpoint.parameters,
        checkpoint.nbytes,
        remark,
    )


def check(path: Path) -> tuple[list[Part], list[str]]:
    """Every model that a file, a folder or a pipeline's folder holds, and a sentence for each fault."""
    if not path.is_dir() or holds_safetensors(path):
        return [check_part(path)], []
    announced = read_json(path / "model_index.json")
    folders = [
        folder
        for folder in FOLDERS.values()
        if (path / folder).is_dir() or announced.get(folder, [None])[0] is not None
    ]
    if not folders:
        return [check_part(path)], []
    parts, faults = [], []
    for folder in folders:
        try:
            parts.append(check_part(path / folder))
        except InputError as error:
            faults.append(str(error))
    return parts, faults
