"""Weights of an export into the modules of this room: which stored tensor goes where, read one at a time.

A parameter of ours names the stored tensors that make it: one, or several that are stacked along their
outputs (queries, keys and values of a block become one matrix).  A tensor goes from the memory map straight
to its place on the device, so that the host never holds more than one.
"""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tm_jax.errors import InputError
from tm_jax.torch_runtime.dit import Block, DiT
from tm_jax.torch_runtime.encoders import VisemeEncoder
from tm_jax.torch_runtime.export_format import SCALE
from tm_jax.torch_runtime.layers import Linear, halves
from tm_jax.torch_runtime.vae import VAE, patch_order
from tm_jax.torch_runtime.vae_blocks import CausalConv3d, Conv2d, RMSNorm

# Module of ours → stored names; a block's are behind blocks.N.
BLOCK_LINEARS = {
    "qkv": ("self_attn.q", "self_attn.k", "self_attn.v"),
    "out": ("self_attn.o",),
    "cross_query": ("cross_attn.q",),
    "cross_out": ("cross_attn.o",),
    "text": ("cross_attn.k", "cross_attn.v"),
    "image": ("cross_attn.k_img", "cross_attn.v_img"),
    "audio": ("cross_attn.k_audio", "cross_attn.v_audio"),
    "inner": ("ffn.0",),
    "outer": ("ffn.2",),
}
BLOCK_OTHERS = {
    "modulation": "modulation",
    "query_norm.weight": "self_attn.norm_q.weight",
    "key_norm.weight": "self_attn.norm_k.weight",
    "cross_norm.weight": "norm3.weight",
    "cross_norm.bias": "norm3.bias",
    "cross_query_norm.weight": "cross_attn.norm_q.weight",
    "text_key_norm.weight": "cross_attn.norm_k.weight",
    "image_key_norm.weight": "cross_attn.norm_k_img.weight",
}
LINEARS = {
    "time_embedding.inner": "time_embedding.0",
    "time_embedding.outer": "time_embedding.2",
    "time_projection": "time_projection.1",
    "text_embedding.inner": "text_embedding.0",
    "text_embedding.outer": "text_embedding.2",
    "image_embedding.inner": "img_emb.proj.1",
    "image_embedding.outer": "img_emb.proj.3",
    "audio_projection": "audio_emb.proj.0",
    "head": "head.head",
}
OTHERS = {
    "image_norm_in.weight": "img_emb.proj.0.weight",
    "image_norm_in.bias": "img_emb.proj.0.bias",
    "image_norm_out.weight": "img_emb.proj.4.weight",
    "image_norm_out.bias": "img_emb.proj.4.bias",
    "audio_norm.weight": "audio_emb.proj.1.weight",
    "audio_norm.bias": "audio_emb.proj.1.bias",
    "audio_position": "audio_emb.position",
    "mode_embedding": "mode_emb",
    "head_modulation": "head.modulation",
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A stored tensor, as its file's header tells it."""

    file: Path
    shape: tuple[int, ...]
    nbytes: int


class Stored:
    """The tensors of a safetensors file, or of a folder of indexed shards; values are read when asked for."""

    def __init__(self, path: Path):
        if path.is_dir():
            indexes = sorted(path.glob("*.safetensors.index.json"))
            files = (
                sorted(
                    {path / name for name in json.loads(indexes[0].read_text("utf-8"))["weight_map"].values()}
                )
                if indexes
                else sorted(path.glob("*.safetensors"))
            )
        else:
            files = [path]
        missing = [str(file) for file in files if not file.is_file()]
        if missing or not files:
            raise InputError(f"The export lacks {', '.join(missing) or path}: copy it again.")
        self.path, self.used, self.entries = path, set(), {}
        self._open = {}
        for file in files:
            try:
                self._open[file] = safe_open(file, framework="pt")
                with open(file, "rb") as raw:
                    header = json.loads(raw.read(int.from_bytes(raw.read(8), "little")))
            except (SafetensorError, OSError, ValueError) as error:
                raise InputError(f"{file} is truncated or damaged ({error}): copy it again.") from None
            for name, entry in header.items():
                if name != "__metadata__":
                    first, last = entry["data_offsets"]
                    self.entries[name] = Entry(file, tuple(entry["shape"]), last - first)

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.entries:
            raise InputError(f"{self.path} lacks the tensor {name}, export again with this version.")
        self.used.add(name)
        return self._open[self.entries[name].file].get_tensor(name)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in self.entries.values())

    def finish(self) -> None:
        """Every tensor must have been used: a stray one means that the config is of another model."""
        if strays := sorted(set(self.entries) - self.used):
            raise InputError(
                f"{self.path} holds {len(strays)} tensors that its config has no place for "
                f"({', '.join(strays[:3])}): export again."
            )


def put(parameter: nn.Parameter, value: Tensor, name: str) -> None:
    """Copy a stored tensor to its place, in the place's precision."""
    if parameter.shape != value.shape:
        raise InputError(
            f"the stored {name} has shape {tuple(value.shape)} where the config asks for "
            f"{tuple(parameter.shape)}: config.json and weights are of different exports."
        )
    parameter.copy_(value)


def load_linear(linear: Linear, stored: Stored, names: tuple[str, ...], order: Tensor | None = None) -> None:
    """Fill a matrix from one or several stored ones, stacked along their outputs.

    Args:
      order: of the outputs of the first two, queries and keys, whose channels are rotated.
    """
    sort = lambda part, value: value if order is None or part > 1 else value[order]
    weights = [sort(part, stored[f"{name}.weight"]) for part, name in enumerate(names)]
    if f"{names[0]}.{SCALE}" in stored:
        scales = [sort(part, stored[f"{name}.{SCALE}"]) for part, name in enumerate(names)]
        device = linear.weight.device
        linear.quantise(torch.cat(weights).to(device), torch.cat(scales).flatten().to(device))
    else:
        put(linear.weight, torch.cat(weights).flatten(1), f"{names[0]}.weight")
    if linear.bias is not None:
        biases = [sort(part, stored[f"{name}.bias"]) for part, name in enumerate(names)]
        put(linear.bias, torch.cat(biases), f"{names[0]}.bias")


@torch.inference_mode()
def load_dit(student: DiT, stored: Stored) -> None:
    """Fill the student; a matrix that is stored in FP8 stays so."""
    config = student.config
    head = halves(config.head_dim)
    order = (torch.arange(config.heads)[:, None] * config.head_dim + head).flatten()
    patches = stored["patch_embedding.weight"].permute(0, 2, 3, 4, 1).flatten(1)
    put(student.patch_embedding.weight, patches, "patch_embedding.weight")
    put(student.patch_embedding.bias, stored["patch_embedding.bias"], "patch_embedding.bias")
    modules = dict(student.named_modules())
    for ours, theirs in LINEARS.items():
        if ours in modules:
            load_linear(modules[ours], stored, (theirs,))
    for ours, theirs in OTHERS.items():
        if (place := _parameter(student, ours)) is not None:
            put(place, stored[theirs].view(place.shape), theirs)
    for index, block in enumerate(student.blocks):
        _load_block(block, stored, f"blocks.{index}", order)
    stored.finish()
    for module in modules.values():
        if isinstance(module, Linear):
            module.pack()


def _load_block(block: Block, stored: Stored, prefix: str, order: Tensor) -> None:
    for ours, theirs in BLOCK_LINEARS.items():
        if hasattr(block, ours):
            names = tuple(f"{prefix}.{name}" for name in theirs)
            load_linear(getattr(block, ours), stored, names, order if ours == "qkv" else None)
    for ours, theirs in BLOCK_OTHERS.items():
        place = _parameter(block, ours)
        if place is not None:
            value = stored[f"{prefix}.{theirs}"].view(place.shape)
            put(place, value[order] if theirs.startswith("self_attn") else value, f"{prefix}.{theirs}")


def _parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    """A parameter by its dotted name, None where the module has none of that name."""
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


@torch.inference_mode()
def load_vae(vae: VAE, stored: Stored) -> None:
    """Fill the VAE, whose modules bear the stored names; convolutions in time come apart into their taps."""
    outer, inner = patch_order(vae.config.patch_size), patch_order(vae.config.refine_patch)
    reads = {"encoder.conv_in": outer, "refiner.conv_in": inner}
    writes = {"decoder.conv_out": outer, "refiner.conv_out": inner}
    for name, module in vae.named_modules():
        if isinstance(module, CausalConv3d | Conv2d):
            weight, bias = stored[f"{name}.weight"], stored[f"{name}.bias"]
            if name in reads:
                weight = weight[:, reads[name]]
            if name in writes:
                weight, bias = weight[writes[name]], bias[writes[name]]
            taps = weight.unbind(2) if weight.ndim == 5 else (weight,)
            for place, tap in zip(module.kernels, taps, strict=True):
                put(place, tap, f"{name}.weight")
            put(module.bias, bias, f"{name}.bias")
        elif isinstance(module, RMSNorm):
            gamma = stored[f"{name}.gamma"].flatten()
            put(module.gamma, gamma * gamma.shape[0] ** 0.5, f"{name}.gamma")
    stored.finish()
    vae.pack()


@torch.inference_mode()
def load_visemes(encoder: VisemeEncoder, stored: Stored) -> None:
    """Fill the viseme encoder, whose modules bear the stored names."""
    for name, parameter in encoder.named_parameters():
        put(parameter, stored[name], name)
    stored.finish()
