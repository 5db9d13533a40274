"""Our PyTorch student against public ones on one machine: diffusers' Wan without a cache, and a causal loop.

    python -m tm_jax.bench peers                                      # diffusers alone
    python -m tm_jax.bench peers --self-forcing DIR                   # a checkout of guandeh17/Self-Forcing

All denoise the same chunk: equal widths, tokens, text, steps and reach (first, previous and own chunk),
random weights, float32, in turn in one process, batch 1, text-to-video, for neither peer hears.  diffusers
computes the three chunks anew in every step.  Self-Forcing keeps a cache and, as its loop does, runs once
more for clean keys and values after the last step; the attention that its code has for CUDA alone is
PyTorch's here.
"""

import dataclasses
import importlib
import importlib.util
import math
import os
import statistics
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tm_jax.bench.timing import in_turn
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.errors import InputError
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae_config import VAEConfig
from tm_jax.torch_runtime.denoising import DitStage
from tm_jax.torch_runtime.dit import DiT
from tm_jax.torch_runtime.export_format import ExportConfig
from tm_jax.torch_runtime.layers import Linear
from tm_jax.torch_runtime.random_parts import draw
from tm_jax.torch_runtime.rollout import Reference

SIZES = {
    "tiny": {"width": 256, "ffn": 512, "heads": 2, "layers": 2, "side": 8},
    "small": {"width": 768, "ffn": 2048, "heads": 6, "layers": 6, "side": 24},
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Time one chunk of 3 latents by ours and by public implementations."""

    size: Literal["tiny", "small"] = "small"
    """tiny shows that the command works."""
    steps: int = 2
    """Denoising steps."""
    rounds: int = 5
    """Times that each is measured, in turn."""
    self_forcing: Path | None = None
    """A checkout of Self-Forcing's repository; without it diffusers is the only peer."""

    def __post_init__(self):
        if min(self.steps, self.rounds) < 1:
            raise InputError("--steps and --rounds must be at least 1.")


def run(arguments: Arguments) -> str:
    """A table with the median of each and how many times as fast ours is."""
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    size = SIZES[arguments.size]
    config = DiTConfig(
        width=size["width"],
        ffn=size["ffn"],
        heads=size["heads"],
        layers=size["layers"],
        in_channels=16,
        has_image=False,
        audio_dim=0,
        dtype="float32",
    )
    calls = {"ours": _ours(config, arguments.steps, size["side"])}
    calls["diffusers, no cache"] = _diffusers(config, arguments.steps, size["side"])
    if arguments.self_forcing is not None:
        calls["Self-Forcing"] = _self_forcing(config, arguments.steps, size["side"], arguments.self_forcing)
    with torch.inference_mode():
        taken = in_turn(list(calls.values()), blocks=arguments.rounds)
    medians = {name: statistics.median(times) for name, times in zip(calls, taken, strict=True)}
    lines = [
        f"one chunk of 3×{size['side']}×{size['side']} latents, {arguments.steps} steps, width "
        f"{size['width']}, {size['layers']} layers, float32, {len(os.sched_getaffinity(0))} cores",
        "",
        "| | ms a chunk | ours is faster by |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {1e3 * value:.0f} | {value / medians['ours']:.2f} |" for name, value in medians.items()
    ]
    return "\n".join(lines)


def _ours(config: DiTConfig, steps: int, side: int) -> Callable[[], object]:
    rollout = RolloutConfig(steps=steps)
    student = DiT(config, torch.float32)
    with torch.inference_mode():
        draw(student, 0)
    for module in student.modules():
        if isinstance(module, Linear):
            module.pack()
    export = ExportConfig(config, VAEConfig(), rollout, "log_mel", (8 * side, 8 * side))
    stage = DitStage(export, student)
    with torch.inference_mode():
        text = student.text_tokens(torch.randn(config.text_length, config.text_width))
        known = Reference(None, [block.text_keys_values(text) for block in student.blocks], None, None)
    state = stage.begin(known)
    noises = torch.randn(steps, 1, 3, side, side, 16).numpy()
    windows = np.zeros((1, 3, config.audio_slots, config.audio_width), np.float32)
    mode = np.zeros((1, 3), np.int32)

    def chunk() -> None:
        with torch.inference_mode():
            stage.launch(state, noises, windows, mode)

    for _ in range(8):  # past the pinning of positions: the steady state
        chunk()
    return chunk


def _diffusers(config: DiTConfig, steps: int, side: int) -> Callable[[], object]:
    import diffusers

    model = diffusers.WanTransformer3DModel(
        patch_size=config.patch,
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        text_dim=config.text_width,
        freq_dim=config.time_frequencies,
        ffn_dim=config.ffn,
        num_layers=config.layers,
    ).eval()
    latents = torch.randn(1, 16, 9, side, side)
    text, level = torch.randn(1, config.text_length, config.text_width), torch.tensor([700.0])

    def chunk() -> None:
        for _ in range(steps):
            model(latents, level, text, return_dict=False)

    return chunk


def _self_forcing(config: DiTConfig, steps: int, side: int, folder: Path) -> Callable[[], object]:
    if not (folder / "wan" / "modules" / "causal_model.py").is_file():
        raise InputError(f"--self-forcing {folder} holds no wan/modules/causal_model.py: give its checkout.")
    causal = _imported(folder)
    model = causal.CausalWanModel(
        model_type="t2v",
        patch_size=config.patch,
        text_len=config.text_length,
        in_dim=config.in_channels,
        dim=config.width,
        ffn_dim=config.ffn,
        freq_dim=config.time_frequencies,
        text_dim=config.text_width,
        out_dim=config.out_channels,
        num_heads=config.heads,
        num_layers=config.layers,
        local_attn_size=9,
        sink_size=3,
    ).eval()
    frame = math.prod(side // patch for patch in config.patch[1:])
    text = [torch.randn(config.text_length, config.text_width)]
    noisy = torch.randn(1, 16, 3, side, side)
    empty = lambda: torch.zeros(1, 9 * frame, config.heads, config.head_dim)
    index = lambda: torch.zeros(1, dtype=torch.long)
    caches = [
        {"k": empty(), "v": empty(), "global_end_index": index(), "local_end_index": index()}
        for _ in range(config.layers)
    ]
    cross = [{"is_init": False, "k": None, "v": None} for _ in range(config.layers)]
    done = 0

    def chunk() -> None:
        nonlocal done
        for level in [*([700] * steps), 0]:
            model(
                noisy,
                t=torch.full((1, 3), level),
                context=text,
                seq_len=3 * frame,
                kv_cache=caches,
                crossattn_cache=cross,
                current_start=done * frame,
            )
        done += 3

    with torch.inference_mode():
        for _ in range(8):
            chunk()
    return chunk


def _imported(folder: Path) -> types.ModuleType:
    """Its causal model, without what its packages import for other purposes."""
    for name in ("wan", "wan.modules"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules[name] = package
    if importlib.util.find_spec("einops") is None:  # only its GAN's classifier calls it
        sys.modules["einops"] = types.ModuleType("einops")
        sys.modules["einops"].repeat = None
    causal = importlib.import_module("wan.modules.causal_model")

    def attend(q, k, v, *_, **__):
        heads = [x.transpose(1, 2) for x in (q, k, v)]
        return torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2)

    causal.attention = attend
    importlib.import_module("wan.modules.model").flash_attention = attend
    return causal
