"""Phoneme to mouth: a table from IPA to opening, width and rounding.

The mouth follows what is said, never how loud it is: a shouted m is closed and a whispered a is open.
"""

import dataclasses
import functools


@dataclasses.dataclass(frozen=True)
class Viseme:
    """The mouth that a phoneme aims at."""

    opening: float
    """0 closed … 1 widest."""
    width: float = 0.0
    """−1 narrowest … 1 widest."""
    rounding: float = 0.0
    """0 … 1: lips pushed forward."""
    closure: bool = False
    """Lips meet completely, and quickly."""


CLOSED = Viseme(0.0)

_VOWELS = {
    Viseme(1.0, 0.15): "a ɑ ɐ",
    Viseme(0.85, 0.25): "æ ʌ aː ɶ",
    Viseme(0.62, 0.5): "ɛ ɜ ɝ",
    Viseme(0.45, 0.65): "e",
    Viseme(0.42, 0.15): "ə ɚ ɘ ɤ",
    Viseme(0.27, 0.95): "i",
    Viseme(0.33, 0.75): "ɪ ᵻ ɨ ɯ",
    Viseme(0.75, -0.55, 0.6): "ɔ ɒ",
    Viseme(0.52, -0.75, 0.8): "o ɵ",
    Viseme(0.25, -1.0, 1.0): "u ʉ",
    Viseme(0.33, -0.8, 0.8): "ʊ",
    Viseme(0.27, -0.85, 0.9): "y ʏ",
    Viseme(0.45, -0.65, 0.75): "ø œ",
}
_CONSONANTS = {
    Viseme(0.0, 0.0, 0.0, True): "m b p ɓ",
    Viseme(0.07, 0.15): "f v ɱ β ʋ",
    Viseme(0.12, -0.95, 1.0): "w ʍ ɥ",
    Viseme(0.16, 0.45): "s z",
    Viseme(0.2, -0.5, 0.6): "ʃ ʒ ʂ ʐ",
    Viseme(0.18, 0.1): "ɕ ʑ",
    Viseme(0.22, 0.2): "t d n ʈ ɖ ɳ θ ð ɾ",
    Viseme(0.3, 0.15): "l ɫ ʎ ɬ r",
    Viseme(0.22, -0.35, 0.4): "ɹ ɻ ʁ ʀ",
    Viseme(0.28, 0.1): "k ɡ g ŋ x ɣ q χ c ɟ ɲ ç ʝ",
    Viseme(0.22, 0.6): "j ʲ",
    Viseme(0.35, 0.05): "h ɦ ʔ ħ",
}
_TABLE = {
    symbol: viseme
    for group in (_VOWELS, _CONSONANTS)
    for viseme, symbols in group.items()
    for symbol in symbols.split()
}
VOWELS = frozenset(symbol for symbols in _VOWELS.values() for symbol in symbols.split())


@functools.cache
def visemes(phoneme: str) -> tuple[Viseme, ...]:
    """The mouths of one IPA phoneme in order: several for diphthongs and affricates, `CLOSED` for a pause.

    Stress lengthens and opens: a stressed vowel is a tenth wider open.  Unknown marks (length, nasality) are
    passed over.
    """
    found, factor = [], 1.0
    for symbol in phoneme:
        if symbol == "ˈ":
            factor = 1.1
        elif symbol in _TABLE:
            viseme = _TABLE[symbol]
            if symbol in VOWELS:
                viseme = dataclasses.replace(viseme, opening=min(1.0, viseme.opening * factor))
            if symbol != "ʲ" or not found:
                found.append(viseme)
    return tuple(found) or (CLOSED,)
