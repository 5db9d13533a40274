"""Prompt → token ids, as Wan's text encoder reads them.

A prompt is cleaned (HTML entities resolved, runs of white space made one space), tokenised by the
checkpoint's own ``tokenizer.json``, cut to 512 tokens of which the last is the end mark, and padded.

Wan also repairs mis-decoded characters (ftfy); here the prompt is taken to be sound Unicode.
"""

import dataclasses
import html
import re
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32

from tm_jax.errors import InputError

PAD = "<pad>"
END = "</s>"


def clean(text: str) -> str:
    """The prompt without HTML entities (twice escaped ones too) and without needless white space."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A checkpoint's tokenizer; made by `load_tokenizer`."""

    backend: object
    """The `tokenizers.Tokenizer`, set to neither cut nor pad."""
    pad: int
    """Id that fills up short prompts."""
    end: int
    """Id that closes every prompt."""

    def __call__(
        self, texts: list[str], length: int = 512
    ) -> tuple[Int32[np.ndarray, "b l"], Bool[np.ndarray, "b l"]]:
        """Ids of the prompts, padded to ``length``, and the mask that is true on their tokens."""
        ids = np.full((len(texts), length), self.pad, np.int32)
        mask = np.zeros((len(texts), length), bool)
        for row, text in enumerate(texts):
            tokens = self.backend.encode(clean(text), add_special_tokens=False).ids[: length - 1]
            ids[row, : len(tokens) + 1] = [*tokens, self.end]
            mask[row, : len(tokens) + 1] = True
        return ids, mask


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer in a folder (or in its ``tokenizer`` folder, as pipelines keep it).

    Raises:
        InputError: no readable ``tokenizer.json``, or one without the pad and end marks.
    """
    import tokenizers

    folder = Path(folder)
    candidates = (folder / "tokenizer.json", folder / "tokenizer" / "tokenizer.json")
    file = next((path for path in candidates if path.is_file()), None)
    if file is None:
        remedy = "download the checkpoint's tokenizer folder"
        if any(path.with_name("spiece.model").is_file() for path in candidates):
            remedy = "spiece.model alone is not read, download tokenizer.json from the same place"
        raise InputError(f"{folder} has no tokenizer.json: {remedy}")
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:
        raise InputError(
            f"{file} is not a tokenizer that can be read ({error}): download it again"
        ) from error
    backend.no_padding()
    backend.no_truncation()
    pad, end = backend.token_to_id(PAD), backend.token_to_id(END)
    if pad is None or end is None:
        raise InputError(f"{file} lacks {PAD} or {END}: give the tokenizer of the UMT5 encoder")
    return Tokenizer(backend, pad, end)
