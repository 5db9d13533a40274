"""What every audio front end offers: 16 kHz mono in, 50 tokens a second out (METHOD §4).

`audio.log_mel` needs no weights; `models.visemes` and `models.wav2vec2_front_end` are trained ones.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32


@runtime_checkable
class AudioFrontEnd(Protocol):
    """What the streaming engine and data preparation ask of log-mel and of wav2vec2 alike.

    Token i stands for samples 320 i … 320 (i+1) - 1.  Streaming gives the tokens of `tokens`, in order;
    at the end of the sound push silence until as many have come as are wanted.
    """

    @property
    def token_width(self) -> int:
        """Numbers in one token."""
        ...

    @property
    def lookahead(self) -> int:
        """Tokens of later sound that a token waits for; `push` returns token i after token i + lookahead."""
        ...

    def tokens(self, audio: Float[np.ndarray, "s"]) -> Float32[np.ndarray, "l d"]:
        """All tokens of a whole recording, ceil(s / 320) of them; past its end there is silence."""
        ...

    def start(self) -> Any:
        """The state before the first sample."""
        ...

    def push(self, state: Any, samples: Float[np.ndarray, "s"]) -> tuple[Float32[np.ndarray, "l d"], Any]:
        """Take any number of samples (none too), return the tokens they complete and the next state."""
        ...
