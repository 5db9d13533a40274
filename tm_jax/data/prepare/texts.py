"""Embeddings of the prompts, computed once each and kept beside the shards.

The full-size text encoder has 5.7 billion parameters, so it is loaded only while a prompt lacks its
embedding, and is gone before the other networks come.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Float16
from safetensors import SafetensorError

from tm_jax.data.prepare.models import load
from tm_jax.data.prepare.settings import PrepareConfig
from tm_jax.pretrained.hub import resolve
from tm_jax.pretrained.tokenizer import load_tokenizer
from tm_jax.types import InputError

READY = "text_tokens"
"""Name of the tensor in a file that holds one embedding."""

Tokens = Float16[np.ndarray, "text d"]


def embeddings(config: PrepareConfig, prompts: Iterable[str]) -> dict[str, Tokens] | None:
    """Prompt → its tokens without padding; None where the config names no text encoder.

    Raises:
      InputError: a ready embedding for several prompts, or files that cannot be read.
    """
    wanted = sorted(set(prompts))
    if config.text is None:
        return None
    if config.text.endswith(".safetensors"):
        if len(wanted) > 1:
            raise InputError(
                f"{config.text} holds one embedding but the videos have {len(wanted)} prompts: "
                "give the text encoder itself, or take the prompts out of the list."
            )
        return dict.fromkeys(wanted, _read(Path(config.text)))
    # The place of an embedding is told by the encoder's name too: another encoder, another folder.
    name = lambda prompt: hashlib.sha256(f"{config.text}\n{prompt}".encode()).hexdigest()[:16]
    files = {prompt: config.out / "texts" / f"{name(prompt)}.safetensors" for prompt in wanted}
    missing = [prompt for prompt, file in files.items() if not file.exists()]
    if missing:
        for prompt, tokens in _embed(config.text, missing):
            _write(files[prompt], tokens)
    return {prompt: _read(file) for prompt, file in files.items()}


def _embed(source: str, prompts: list[str]) -> Iterable[tuple[str, Tokens]]:
    folder = resolve(source)
    inside = folder if folder.is_dir() else folder.parent
    # A pipeline keeps the tokenizer beside the text encoder's folder.
    tokenizer = load_tokenizer(inside.parent if (inside.parent / "tokenizer").is_dir() else inside)
    encoder = load(source, "text")
    run = jax.jit(lambda encoder, ids, mask: encoder(ids, mask))
    for prompt in prompts:
        ids, mask = tokenizer([prompt], encoder.config.text_length)
        # One compilation serves all prompts of up to 64 tokens, and the next all of up to 128.
        length = int(mask.sum())
        padded = min(encoder.config.text_length, -(-length // 64) * 64)
        tokens = run(encoder, jnp.asarray(ids[:, :padded]), jnp.asarray(mask[:, :padded]))
        yield prompt, np.asarray(tokens[0, :length].astype(jnp.float32)).astype(np.float16)


def _write(path: Path, tokens: Tokens) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    safetensors.numpy.save_file({READY: np.ascontiguousarray(tokens)}, partial)
    os.replace(partial, path)


def _read(path: Path) -> Tokens:
    if not path.is_file():
        raise InputError(f"There is no text embedding {path}: check the path, or give the text encoder.")
    try:
        tokens = safetensors.numpy.load_file(path)[READY]
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(
            f"{path} is no safetensors file with a tensor {READY}: give the text encoder's folder instead."
        ) from error
    if tokens.ndim != 2:
        raise InputError(f"{READY} in {path} has shape {tokens.shape}: it is to be tokens × width.")
    return tokens.astype(np.float16)
