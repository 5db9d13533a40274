"""What a folder of public weights holds and whether it is complete, told from headers alone."""

import dataclasses
from pathlib import Path
from typing import Any

from tm_jax.errors import InputError
from tm_jax.pretrained.files import holds_safetensors, open_checkpoint, read_json, refuse_scaled
from tm_jax.pretrained.layouts import FOLDERS, fits_itself, recognise

SIZES = {
    ("transformer", 5120, 40, True): "Wan2.1 I2V-14B",
    ("transformer", 5120, 40, False): "Wan2.1 T2V-14B",
    ("transformer", 1536, 30, True): "Wan2.1 I2V-1.3B",
    ("transformer", 1536, 30, False): "Wan2.1 T2V-1.3B",
    ("vae", 96, 16): "Wan2.1 VAE",
    ("vae", 160, 48): "Wan2.2 VAE",
    ("text", 4096, 24): "UMT5-XXL encoder",
    ("image", 1280, 32): "CLIP ViT-H/14 vision",
    ("speech", 768, 12): "wav2vec2-base",
}
"""What the published sizes are called."""


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

    def __str__(self) -> str:
        dtypes = ", ".join(
            name if len(self.dtypes) == 1 else f"{count} × {name}" for name, count in self.dtypes.items()
        )
        files = "1 file" if self.files == 1 else f"{self.files} files"
        return (
            f"{self.path}: {self.kind}, {self.title}, {self.layout} layout, {dtypes}, {files}, "
            f"{self.tensors:,} tensors, {_short(self.parameters)} parameters, "
            f"{_short(self.nbytes)}B, complete"
        )


def _short(number: int | float) -> str:
    """A number with three digits and the letter of its size."""
    for unit in ("", "k", "M", "G"):
        if number < 1000 or unit == "G":
            return f"{number:.3g} {unit}"
        number /= 1000
    raise AssertionError


def title(kind: str, config: Any) -> str:
    """What a model of this config is called."""
    if kind == "transformer":
        key = (kind, config.width, config.layers, config.has_image)
    elif kind == "vae":
        key = (kind, config.base_dim, config.z_dim)
    else:
        key = (kind, config.width, config.layers)
    if key in SIZES:
        return SIZES[key]
    sizes = (
        f"base {config.base_dim}, {config.z_dim} latent channels"
        if kind == "vae"
        else f"width {config.width}, {config.layers} layers"
    )
    return f"no published size ({sizes})"


def check_part(path: Path) -> Part:
    """One model; raises InputError with one sentence where it is incomplete or unreadable."""
    checkpoint = open_checkpoint(path)
    refuse_scaled(checkpoint)
    layout, respelled = recognise(checkpoint)
    config = fits_itself(layout, respelled)
    return Part(
        path,
        layout.kind,
        title(layout.kind, config),
        layout.name,
        checkpoint.dtypes,
        len(checkpoint.files),
        len(checkpoint.tensors),
        checkpoint.parameters,
        checkpoint.nbytes,
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
