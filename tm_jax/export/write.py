"""Our checkpoint → an export: everything that a host without JAX needs, in one folder.

What lies where is said in ``torch_runtime.export_format``.  The student is never held whole: each of its
tensors is a slice of the memory-mapped weights file, read, turned to the public layout and written when its
turn comes.  The name maps are those of import, read backwards.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from flax import nnx
from safetensors import SafetensorError

from tm_jax.config import to_json
from tm_jax.errors import InputError
from tm_jax.export.shards import Tensor, of_array, write_file, write_shards
from tm_jax.export.source import Source
from tm_jax.models.clip import PIXEL_MEAN, PIXEL_STD, CLIPConfig
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae_config import VAEConfig
from tm_jax.models.wav2vec2 import Wav2Vec2Config
from tm_jax.pretrained.clip import clip_names
from tm_jax.pretrained.files import MappedFiles, open_checkpoint
from tm_jax.pretrained.names import dump, paths
from tm_jax.pretrained.visemes import VISEMES
from tm_jax.pretrained.wan_dit import RELEASE
from tm_jax.pretrained.wan_vae import wan_vae_names
from tm_jax.pretrained.wav2vec2 import wav2vec2_names
from tm_jax.torch_runtime import export_format as form
from tm_jax.torch_runtime.fp8 import LARGEST, LINEARS
from tm_jax.torch_runtime.loading import BLOCK_LINEARS

SHARD_BYTES = 4 * 2**30

EXACT = ("norm", "modulation", "time_", "head.", "position", "mode_emb", "img_emb.proj.0.", "img_emb.proj.4.")
"""Marks in the names of what computes in float32 and is stored so, whatever the export's precision."""


def matrices(config: DiTConfig) -> list[str]:
    """Every matrix that may be in FP8, as ``blocks.3.outer``: those that run in every step."""
    return [f"blocks.{layer}.{kind}" for layer in range(config.layers) for kind in LINEARS]


def eighth_keys(config: DiTConfig, keep: frozenset[str]) -> set[str]:
    """The stored names of all matrices that are put into FP8."""
    chosen = [name for name in matrices(config) if name not in keep]
    return {
        f"{block}.{theirs}.weight"
        for block, kind in (name.rsplit(".", 1) for name in chosen)
        for theirs in BLOCK_LINEARS[kind]
    }


def student_tensors(
    path: Path, config: DiTConfig, dtype: form.Dtype, keep: frozenset[str], mapped: MappedFiles
) -> Iterator[Tensor]:
    """The student's tensors in the release's names, block after block.

    Args:
      path: our weights file.
      keep: matrices (as ``matrices`` names them) that stay in bf16 where the rest is FP8.
    """
    stored = open_checkpoint(path)
    abstract = jax.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0)))
    small, whole = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)
    eighth = eighth_keys(config, keep) if dtype == "fp8" else set()
    found = []
    for name, variable in paths(abstract).items():
        for layer, key, transform in RELEASE.places(name, variable.shape):
            found.append((layer if layer is not None else -1, key, name, variable.shape, transform))
    for layer, key, name, ours, transform in sorted(found, key=lambda entry: (entry[0], entry[1])):
        shape = transform.shape_to_theirs(ours if layer < 0 else ours[1:])

        def read(layer=layer, name=name, transform=transform) -> np.ndarray:
            view = mapped.view(stored.tensors[name])
            value = np.array(transform.to_theirs(view if layer < 0 else view[layer]), np.float32)
            mapped.release(stored.tensors[name])
            return value

        exact = any(mark in key for mark in EXACT)
        if key in eighth:
            scaled = lambda read=read: _row_scale(read())
            yield Tensor(
                key,
                np.dtype(ml_dtypes.float8_e4m3fn),
                shape,
                lambda read=read: _quantised(read()),
            )
            yield Tensor(key.removesuffix("weight") + form.SCALE, whole, (shape[0], 1), scaled)
        elif exact or dtype == "f32":
            yield Tensor(key, whole, shape, read)
        else:
            yield Tensor(key, small, shape, lambda read=read: read().astype(small))


def _row_scale(matrix: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(matrix).max(1, keepdims=True), 1e-12).astype(np.float32) / np.float32(LARGEST)


def _quantised(matrix: np.ndarray) -> np.ndarray:
    return np.clip(matrix / _row_scale(matrix), -LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)


def write_export(source: Source, folder: Path, dtype: form.Dtype, keep: frozenset[str] = frozenset()) -> None:
    """Write an export; an old one in the same place is replaced at the very end.

    Raises:
      InputError: the folder holds something else, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not folder.is_dir() or not (folder / "config.json").is_file():
            raise InputError(f"{folder} exists and is no export: give an empty or a new folder by --to.")
        form.read_config(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        _write(source, partial, dtype, keep)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    except (OSError, SafetensorError) as error:
        raise InputError(f"The export could not be written to {folder}: {error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(source: Source, folder: Path, dtype: form.Dtype, keep: frozenset[str]) -> None:
    for name in (form.TRANSFORMER, form.VAE):
        (folder / name).mkdir()
    with MappedFiles() as mapped:
        tensors = student_tensors(source.student_path, source.student, dtype, keep, mapped)
        write_shards(folder / form.TRANSFORMER, "diffusion_pytorch_model", tensors, SHARD_BYTES)
    _write_json(folder / form.TRANSFORMER / "config.json", dit_json(source.student))
    vae = source.load_vae()
    _write_module(
        folder / form.VAE,
        "diffusion_pytorch_model",
        dump(vae, wan_vae_names(vae.config)),
        vae_json(vae.config),
    )
    visemes = source.visemes()
    if visemes is not None:
        tensors = (of_array(name, array) for name, array in dump(visemes, VISEMES).items())
        write_file(folder / form.VISEMES, tensors)
    if source.front_end == "wav2vec2":
        speech = source.load_speech()
        (folder / form.SPEECH).mkdir()
        _write_module(
            folder / form.SPEECH, "model", dump(speech, wav2vec2_names()), wav2vec2_json(speech.config)
        )
    if source.picture_encoder:
        clip = source.load_picture_encoder()
        (folder / form.IMAGE).mkdir()
        _write_module(folder / form.IMAGE, "model", dump(clip, clip_names()), clip_json(clip.config))
        pixels = {"image_mean": PIXEL_MEAN, "image_std": PIXEL_STD}
        _write_json(folder / form.IMAGE / "preprocessor_config.json", pixels)
    prompt = source.prompt
    if prompt is not None:
        embedding = np.ascontiguousarray(prompt.embedding, np.float32)
        write_file(folder / form.PROMPT, [of_array(form.PROMPT_TENSOR, embedding)])
    config = source.config(dtype, vae.config, None if visemes is None else visemes.config)
    form.write_config(folder, config)


def _write_module(folder: Path, stem: str, arrays: dict[str, np.ndarray], config: dict) -> None:
    tensors = (of_array(name, np.asarray(array, np.float32)) for name, array in arrays.items())
    write_shards(folder, stem, tensors, SHARD_BYTES)
    _write_json(folder / "config.json", config)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(to_json(content), indent=1) + "\n", encoding="utf-8")


def dit_json(config: DiTConfig) -> dict:
    """The student's config as Wan's release writes it."""
    return {
        "_class_name": "WanModel",
        "model_type": "i2v" if config.has_image else "t2v",
        "patch_size": config.patch,
        "text_len": config.text_length,
        "in_dim": config.in_channels,
        "dim": config.width,
        "ffn_dim": config.ffn,
        "freq_dim": config.time_frequencies,
        "text_dim": config.text_width,
        "out_dim": config.out_channels,
        "num_heads": config.heads,
        "num_layers": config.layers,
        "eps": config.eps,
    }


def vae_json(config: VAEConfig) -> dict:
    """The VAE's config as diffusers writes it; what diffusers lacks bears our names."""
    names = {"temporal_downsample": "temperal_downsample", "residual": "is_residual"}
    fields = dataclasses.fields(config)
    return {"_class_name": "AutoencoderKLWan"} | {
        names.get(field.name, field.name): getattr(config, field.name)
        for field in fields
        if field.name != "dtype"
    }


def clip_json(config: CLIPConfig) -> dict:
    """CLIP's config as transformers writes it."""
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "image_size": config.image_size,
        "patch_size": config.patch,
        "hidden_act": "gelu",
        "layer_norm_eps": config.eps,
    }


def wav2vec2_json(config: Wav2Vec2Config) -> dict:
    """wav2vec2's config as transformers writes it."""
    return {
        "architectures": ["Wav2Vec2Model"],
        "model_type": "wav2vec2",
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "conv_dim": config.conv_widths,
        "conv_kernel": config.conv_kernels,
        "conv_stride": config.conv_strides,
        "num_feat_extract_layers": len(config.conv_widths),
        "num_conv_pos_embeddings": config.position_kernel,
        "num_conv_pos_embedding_groups": config.position_groups,
        "layer_norm_eps": config.eps,
        "feat_extract_norm": "group",
        "do_stable_layer_norm": False,
    }
