"""Safetensors files that hold no model of ours, told by their keys, with what to do with each kind."""

import re
from collections.abc import Callable, Collection

from tm_jax.errors import InputError
from tm_jax.pretrained.files import Checkpoint

_LORA = re.compile(
    r"[._](lora_[AB]|lora_(up|down|mid)|lora\.(up|down)|lora_linear_layer|hada_w[12]_[ab]|lokr_w[12](_[ab])?"
    r"|dora_scale|lora_magnitude_vector|oft_(blocks|diag))(\.|$)|\.diff(_b)?$"
)
_PARTS = ("text_encoders.", "cond_stage_model.", "conditioner.", "first_stage_model.", "vae.")


def _any(pattern: str) -> Callable[[Collection[str]], bool]:
    compiled = re.compile(pattern)
    return lambda keys: any(compiled.search(key) for key in keys)


def _lora_naming(keys: Collection[str]) -> str:
    """Whose habit a LoRA's names follow."""
    if any(re.match(r"lora_(unet|te|transformer)", key) for key in keys):
        return "Kohya's"
    if any(key.startswith(("diffusion_model.", "model.diffusion_model.")) for key in keys):
        return "ComfyUI's"
    return "diffusers'"


def fantasytalking(keys: Collection[str]) -> bool:
    """Whether these are the keys of FantasyTalking's audio weights."""
    return "patch_embedding.weight" not in keys and _any(r"\.cross_attn\.processor\.[kv]_proj\.")(keys)


_ADAPTERS = (
    (
        _any(r"\.audio_cross_attn\.|(^|\.)audio_proj\.proj1(_vf)?\."),
        "MultiTalk's or InfiniteTalk's audio weights",
        "their audio attention has another form than ours; FantasyTalking's has ours and may be a start "
        "(train.py --init-audio)",
    ),
    (
        _any(r"\.audio_cross_attn_wrapper\.|audio_proj\.audio_proj_glob"),
        "HuMo's audio weights",
        "their audio attention has another form than ours; FantasyTalking's has ours and may be a start "
        "(train.py --init-audio)",
    ),
    (
        _any(r"(^|\.)vace_blocks\."),
        "the VACE blocks of a Wan transformer",
        "they are not read here; give Wan's plain T2V or I2V",
    ),
    (
        _any(r"(^|\.)(casual_audio_encoder|audio_injector)\."),
        "the speech modules of Wan2.2 S2V",
        "they are not read here; give Wan's plain T2V or I2V",
    ),
    (
        _any(r"^(encoder|decoder)\.\d+\.(weight|conv\.\d+\.weight)$|^taehv\."),
        "a small preview VAE (TAEHV)",
        "give Wan's own VAE, such as wan_2.1_vae.safetensors",
    ),
)
"""Parts of other systems: how each is recognised, what it is, and what to do."""


def refuse_others(checkpoint: Checkpoint) -> None:
    """Raise InputError where a checkpoint is plainly something else than one model."""
    keys, path = checkpoint.tensors.keys(), checkpoint.path
    if any(_LORA.search(key) for key in keys):
        raise InputError(
            f"{path} is a LoRA (in {_lora_naming(keys)} naming): a change to a model and not a model; "
            "merge it into its base model with the tool that made it, and give the merged transformer"
        )
    if any(key.startswith("model.diffusion_model.") for key in keys) and (
        parts := [part.rstrip(".") for part in _PARTS if any(key.startswith(part) for key in keys)]
    ):
        raise InputError(
            f"{path} holds several models in one file (model.diffusion_model, {', '.join(parts)}), "
            "which is not read here; take each of them as a file of its own"
        )
    if fantasytalking(keys):
        raise InputError(
            f"{path} holds FantasyTalking's audio weights and no whole model; "
            "give them to train.py as --init-audio, beside Wan's I2V-14B as --init-from"
        )
    if not any(key.endswith("patch_embedding.weight") and "vace" not in key for key in keys):
        for shows, what, remedy in _ADAPTERS:
            if shows(keys):
                raise InputError(f"{path} holds {what}: {remedy}")
