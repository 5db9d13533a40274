"""Prompts and their embeddings, kept in a small file so that the text encoder never runs in a stream.

    python -m tm_jax.pretrained embed-prompt DIR_OR_HUB_ID --out weights/prompt.safetensors

The encoder has 5.7 B parameters, its output for one prompt some tens of rows; the zeros that Wan pads them
with to 512 are not stored.
"""

import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tm_jax.errors import InputError
from tm_jax.pretrained.hub import resolve
from tm_jax.pretrained.layouts import FOLDERS, open_public
from tm_jax.pretrained.tokenizer import load_tokenizer
from tm_jax.pretrained.weights import open_to_others

DEFAULT_PROMPT = "A person is talking."
"""What a model is told where nobody says anything else, in training and in streams."""

TENSOR = "text_tokens"
"""Name of the embedding in its file; preparing clips reads the same file."""
_FORMAT = "tm_jax prompt"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A text and what the encoder makes of it."""

    text: str
    """As it was given."""
    embedding: Float[np.ndarray, "l d"]
    """One row for each of its tokens, the end mark included."""

    def tokens(self, length: int) -> Float[np.ndarray, "length d"]:
        """The embedding as the transformer reads it: zeros up to its text length."""
        return np.pad(self.embedding, ((0, length - len(self.embedding)), (0, 0))).astype(np.float32)


def embed_prompts(source: str | Path, texts: list[str], *, progress: bool = True) -> list[Prompt]:
    """The embeddings of some prompts, by the text encoder of a pipeline (a folder or a Hub id).

    Loads the encoder (23 GB of float32 for UMT5-XXL) and lets it go again.

    Raises:
      InputError: no text encoder or no tokenizer there, or they do not fit.
    """
    others = tuple(folder for kind, folder in FOLDERS.items() if kind != "text")
    folder = resolve(source, skip=others)
    tokenizer = load_tokenizer(folder if folder.is_dir() else folder.parent)
    ids, mask = tokenizer(texts)
    public = open_public(folder, "text")
    if (largest := int(ids.max())) >= public.config.vocab_size:
        raise InputError(
            f"The tokenizer in {folder} gives token {largest}, the text encoder knows "
            f"{public.config.vocab_size}: take both from one download."
        )
    longest = int(mask.sum(1).max())
    encoder = public.load(progress=progress)
    embed = jax.jit(lambda encoder, ids, mask: encoder.embed_prompt(ids, mask))
    made = np.asarray(embed(encoder, ids[:, :longest], mask[:, :longest]), np.float32)
    return [
        Prompt(text, rows[: int(count)]) for text, rows, count in zip(texts, made, mask.sum(1), strict=True)
    ]


def save_prompt(path: str | os.PathLike, prompt: Prompt) -> None:
    """Write a prompt and its embedding.

    Raises:
      InputError: the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        save_file(
            {TENSOR: np.ascontiguousarray(prompt.embedding, np.float32)},
            partial,
            metadata={"format": _FORMAT, "prompt": json.dumps(prompt.text)},
        )
        open_to_others(partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"The prompt could not be written to {path}: {error}.") from error


def load_prompt(path: str | os.PathLike) -> Prompt:
    """A prompt from its file.

    Raises:
      InputError: the file is missing, damaged, or holds something else.
    """
    remedy = "make it with python -m tm_jax.pretrained embed-prompt"
    if not Path(path).is_file():
        raise InputError(f"There is no prompt file {path}: {remedy}.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise InputError(f"{path} is no prompt file: {remedy}.")
            return Prompt(json.loads(metadata["prompt"]), file.get_tensor(TENSOR))
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"The prompt file {path} is damaged ({error}): {remedy}.") from error
