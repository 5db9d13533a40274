"""What the puppets say: a small grammar over our own word lists.

A sentence is a template whose capital letters are filled from the language's lists: S subject, V verb,
O object, A adverbial, T time, P polite opening, Q quality.  Training and held-out speech use different
templates *and* different halves of the subjects, so that no held-out sentence can occur in training.
"""

import functools

import numpy as np

from tm_jax.data.puppets.words import WORDS
from tm_jax.data.puppets.words_held_out import HELD_OUT_WORDS

TEMPLATES = {
    "train": (
        "S V O.",
        "S {is} Q.",
        "P, S V O.",
        "S V O A.",
        "T S V O.",
        "S V O, {and} S V O A.",
        "T, {and} A, S V O.",
        "S V O, {but} S {is} Q.",
        "S {is} Q {and} Q.",
        "P, S {is} Q T.",
    ),
    "heldout": (
        "S V O T.",
        "A S V O.",
        "T S {is} Q.",
        "P, T S V O.",
        "A S V O T.",
        "S {is} Q, {and} T S V O.",
        "T S {is} Q, P, S V O A.",
        "S V O A, {but} T S V O.",
        "P, T A S V O.",
    ),
}
LANGUAGES = {
    "train": ("en-us", "de", "es", "it", "pt", "fr", "nl"),
    "heldout": ("en-us", "de", "es", "it", "pt", "fr", "nl"),
    "language": ("pl", "tr", "fi", "sv"),
}


@functools.cache
def _lists(language: str, training: bool) -> dict[str, tuple[str, ...]]:
    lists = {}
    for key, text in (WORDS | HELD_OUT_WORDS)[language].items():
        lists[key] = tuple(entry.strip() for entry in text.split("|") if entry.strip())
    # Every third subject is kept for held-out speech.
    lists["S"] = tuple(s for i, s in enumerate(lists["S"]) if (i % 3 != 2) == training)
    return lists


def sentence(rng: np.random.Generator, language: str, split: str) -> str:
    """One sentence for a split: the held-out and the language split share templates and subjects' halves."""
    training = split == "train"
    lists = _lists(language, training)
    templates = TEMPLATES["train" if training else "heldout"]
    template = templates[rng.integers(len(templates))]
    out = []
    i = 0
    while i < len(template):
        char = template[i]
        if char == "{":
            stop = template.index("}", i)
            out.append(lists[template[i + 1 : stop]][0])
            i = stop
        elif char.isupper():
            choices = lists[char]
            out.append(choices[rng.integers(len(choices))])
        else:
            out.append(char)
        i += 1
    text = "".join(out)
    return text[0].upper() + text[1:]
