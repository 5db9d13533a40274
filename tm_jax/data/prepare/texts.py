"""Embeddings of the prompts, computed once each and kept beside the shards.

The full-size text encoder has 5.7 billion parameters, so it is loaded only while a prompt lacks its
embedding, and is gone before the other networks come.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float16

from tm_jax.data.prepare.settings import PrepareConfig
from tm_jax.errors import InputError
from tm_jax.pretrained.prompts import embed_prompts, load_prompt, save_prompt

Tokens = Float16[np.ndarray, "_ d"]


def embeddings(config: PrepareConfig, prompts: Iterable[str]) -> dict[str, Tokens] | None:
    """Prompt → its tokens without padding; None where the config names no text encoder.

    Raises:
      InputError: files that cannot be read, or a file with the embedding of another prompt.
    """
    wanted = sorted(set(prompts))
    if config.text is None:
        return None
    if config.text.endswith(".safetensors"):
        ready = load_prompt(config.text)
        if others := [prompt for prompt in wanted if prompt != ready.text]:
            raise InputError(
                f"{config.text} holds the embedding of {ready.text!r} but a video's prompt is {others[0]!r}: "
                "give the text encoder instead, or the same --prompt."
            )
        return {ready.text: ready.embedding.astype(np.float16)}
    files = {prompt: _place(config, prompt) for prompt in wanted}
    if missing := [prompt for prompt in wanted if not files[prompt].exists()]:
        for made in embed_prompts(config.text, missing):
            save_prompt(files[made.text], made)
    return {prompt: load_prompt(file).embedding.astype(np.float16) for prompt, file in files.items()}


def _place(config: PrepareConfig, prompt: str) -> Path:
    """The file of an embedding; another encoder's is another file."""
    name = hashlib.sha256(f"{config.text}\n{prompt}".encode()).hexdigest()[:16]
    return config.out / "texts" / f"{name}.safetensors"
