"""What the tests of several front ends do."""

from collections.abc import Iterator

import numpy as np

from tm_jax.audio.front_end import AudioFrontEnd


def push_in_pieces(
    front_end: AudioFrontEnd, audio: np.ndarray, longest: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, object]]:
    """Tokens and state after each piece of the audio, pieces of 0 … longest samples."""
    state, at = front_end.start(), 0
    while at < len(audio):
        step = int(rng.integers(0, longest + 1))
        tokens, state = front_end.push(state, audio[at : at + step])
        yield tokens, state
        at += step
