"""Which member of Wan's family a transformer is, told from all that tells them apart.

Width, layers, channels in and out, picture tokens or none, and the modules that some have beside Wan's own.
Names and numbers are those of the published checkpoints; a combination that nobody published is called so.
Some members share every shape (both halves of Wan2.2's A14B, 480P and 720P): no header tells them apart.
"""

import dataclasses
import re
from collections.abc import Mapping

from tm_jax.errors import InputError
from tm_jax.models.dit_config import DiTConfig

SIZES = {(5120, 13824, 40): "14B", (1536, 8960, 30): "1.3B", (3072, 14336, 30): "5B"}
"""Width, hidden units of the feed-forward layers and layers of the published sizes."""

EXTRAS = {
    "VACE blocks": r"vace_blocks\.|vace_patch_embedding\.",
    "speech-to-video modules": r"casual_audio_encoder\.|audio_injector\.|frame_packer\.",
    "animation modules": r"face_adapter\.|motion_encoder\.|face_encoder\.|pose_patch_embedding\.",
    "camera adapter": r"control_adapter\.",
    "reference convolution": r"ref_conv\.",
    "position embedding of two pictures": r"img_emb\.emb_pos|condition_embedder\.image_embedder\.pos_embed",
    "MultiTalk audio attention": r"blocks\.\d+\.audio_cross_attn\.|audio_proj\.proj1",
    "HuMo audio attention": r"blocks\.\d+\.audio_cross_attn_wrapper\.|audio_proj\.audio_proj_glob",
    "FantasyTalking audio attention": r"blocks\.\d+\.cross_attn\.processor\.",
    "camera encoder": r"blocks\.\d+\.(cam_encoder|projector)\.",
    "frame-rate embedding": r"fps_embedding\.|fps_projection\.",
}
"""Modules that Wan2.1's T2V and I2V lack, with the keys that show them."""

_ANIMATION, _SPEECH = "animation modules", "speech-to-video modules"
_CAMERA, _REFERENCE = "camera adapter", "reference convolution"

TITLES = {
    ("14B", 16, 16, False): "Wan2.1 T2V-14B or Wan2.2 T2V-A14B",
    ("14B", 36, 16, True): "Wan2.1 I2V-14B",
    ("14B", 36, 16, False): "Wan2.2 I2V-A14B",
    ("14B", 48, 16, True): "Wan2.1-Fun 14B-Control",
    ("1.3B", 16, 16, False): "Wan2.1 T2V-1.3B",
    ("1.3B", 36, 16, True): "Wan2.1-Fun 1.3B-InP",
    ("1.3B", 48, 16, True): "Wan2.1-Fun 1.3B-Control",
    ("5B", 48, 48, False): "Wan2.2 TI2V-5B",
    ("5B", 100, 48, False): "Wan2.2-Fun 5B-InP",
    ("14B", 36, 16, True, "position embedding of two pictures"): "Wan2.1 FLF2V-14B",
    ("14B", 16, 16, False, "VACE blocks"): "Wan2.1 VACE-14B or Wan2.2-VACE-Fun A14B",
    ("1.3B", 16, 16, False, "VACE blocks"): "Wan2.1 VACE-1.3B",
    ("14B", 16, 16, False, _SPEECH): "Wan2.2 S2V-14B",
    ("14B", 36, 16, True, _ANIMATION): "Wan2.2 Animate-14B",
    ("14B", 48, 16, True, _REFERENCE): "Wan2.1-Fun-V1.1 14B-Control",
    ("1.3B", 48, 16, True, _REFERENCE): "Wan2.1-Fun-V1.1 1.3B-Control",
    ("14B", 52, 16, False, _REFERENCE): "Wan2.2-Fun A14B-Control",
    ("14B", 32, 16, True, _CAMERA): "Wan2.1-Fun-V1.1 14B-Control-Camera",
    ("1.3B", 32, 16, True, _CAMERA): "Wan2.1-Fun-V1.1 1.3B-Control-Camera",
    ("14B", 36, 16, False, _CAMERA): "Wan2.2-Fun A14B-Control-Camera",
    ("5B", 100, 48, False, _CAMERA): "Wan2.2-Fun 5B-Control-Camera",
    ("14B", 36, 16, True, "MultiTalk audio attention"): "MultiTalk or InfiniteTalk on Wan2.1 I2V-14B",
    ("14B", 36, 16, True, "FantasyTalking audio attention"): "FantasyTalking on Wan2.1 I2V-14B",
    ("14B", 36, 16, False, "HuMo audio attention"): "HuMo-17B",
}
"""Size, channels in and out, whether there are picture tokens, and the extra modules → what it is called."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A transformer of the family."""

    title: str
    """What it is called, or that nothing of its form was published."""
    form: str
    """Its channels, its picture tokens and its extra modules, in words."""
    extras: tuple[str, ...]
    """Its modules that have no place here."""
    runs: bool
    """Whether the transformer here runs it."""


def member(shapes: Mapping[str, tuple[int, ...]], config: DiTConfig) -> Member:
    """Which transformer these keys and this config belong to, in either layout.

    Args:
        shapes: stored keys, in their newest spelling.
        config: the config that those shapes gave.
    """
    extras = tuple(name for name, keys in EXTRAS.items() if any(re.match(keys, key) for key in shapes))
    size = SIZES.get((config.width, config.ffn, config.layers))
    key = (size, config.in_channels, config.out_channels, config.has_image, *extras)
    pictures = "a picture embedding" if config.has_image else "no picture embedding"
    with_extras = "".join(f", {extra}" for extra in extras)
    form = f"{config.in_channels} channels in, {config.out_channels} out, {pictures}{with_extras}"
    unknown = f"no published Wan transformer (width {config.width}, {config.layers} layers, {form})"
    expected = 2 * config.out_channels + 4 if config.has_image else config.out_channels
    runs = not extras and config.in_channels == expected
    return Member(TITLES.get(key, unknown), form, extras, runs)


def refuse_relatives(source: object, found: Member) -> None:
    """Raise InputError where a transformer is of a form that the one here does not run.

    Args:
        source: what to call it.
    """
    if found.runs:
        return
    title = found.title if found.form in found.title else f"{found.title} ({found.form})"
    what = f"its {' and '.join(found.extras)} is not read" if found.extras else "that form is not run"
    raise InputError(
        f"{source} is {title}, and {what} here; take Wan2.1's T2V, or an I2V with 36 channels in and a "
        "picture embedding"
    )
