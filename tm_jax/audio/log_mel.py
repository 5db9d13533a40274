"""Sound to tokens without weights: log-mel, 16 kHz mono in, 50 tokens a second out (METHOD §4).

One token is 20 ms: two 10 ms hops of 40 mel bands each.
It is causal to the sample, so that it adds no latency of its own:

    samples  … 240 before │ 320 i ───────────────── 320 (i+1) │
    hop 2i          └──── 400 samples ────┘                   │      tokens[i] = [hop 2i | hop 2i+1]
    hop 2i+1                     └──── 400 samples ───────────┘

The paper uses wav2vec2 features; mel bands are this project's choice for models trained from nothing.
Everything runs in NumPy: preparing data and streaming use the same code and give the same bits.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, Float32, Float64

from tm_jax.rates import SAMPLE_RATE, SAMPLES_PER_TOKEN

HOP = 160
WINDOW = 400
FFT_SIZE = 512
CONTEXT = WINDOW - HOP
BLOCK_TOKENS = 1024


@dataclasses.dataclass(frozen=True)
class LogMelConfig:
    """The numbers of the log-mel front end."""

    bands: int = 40
    """Mel bands of a hop; a token holds twice as many numbers."""
    lowest: float = 60.0
    """Hz, where the first band starts."""
    highest: float = 7600.0
    """Hz, where the last band ends."""
    floor: float = 1e-5
    """Power density (white noise of variance 1 has 1) below which a band counts as silent."""
    scale: float = 5.0
    """Divides the logarithm: speech at -20 dBFS then lies between 0 and about 2."""

    def __post_init__(self):
        if not (0 <= self.lowest < self.highest <= SAMPLE_RATE / 2):
            raise ValueError(
                f"mel bands need 0 <= lowest < highest <= 8000, got {self.lowest}, {self.highest}"
            )
        if not (self.bands > 0 and self.floor > 0 and self.scale > 0):
            raise ValueError("bands, floor and scale must be positive")


@functools.lru_cache(maxsize=8)
def mel_filters(bands: int, lowest: float, highest: float) -> Float64[np.ndarray, "257 bands"]:
    """Triangles, evenly spaced in mel, each summing to 1, so that a band holds a mean power density."""
    to_mel = lambda hertz: 2595.0 * np.log10(1.0 + hertz / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(to_mel(lowest), to_mel(highest), bands + 2) / 2595.0) - 1.0)
    bins = np.linspace(0.0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1)[:, None]
    left, centre, right = edges[None, :-2], edges[None, 1:-1], edges[None, 2:]
    triangles = np.maximum(
        0.0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    )
    sums = triangles.sum(axis=0)
    if not (sums > 0).all():
        raise ValueError(f"{bands} mel bands are too narrow for a {FFT_SIZE}-point transform")
    return triangles / sums[None, :]


@dataclasses.dataclass(frozen=True)
class LogMel:
    """Log-mel tokens: log(1 + mel / floor) / scale, so digital silence is exactly 0 and gain a mere shift."""

    config: LogMelConfig = LogMelConfig()

    @property
    def token_width(self) -> int:
        """Numbers in one token: two hops of mel bands."""
        return 2 * self.config.bands

    @property
    def lookahead(self) -> int:
        """No token waits for later sound."""
        return 0

    def tokens(self, audio: Float[np.ndarray, "s"]) -> Float32[np.ndarray, "l d"]:
        """All tokens of a recording at 16 kHz, ceil(s / 320) of them, silence assumed past its end."""
        missing = -len(audio) % SAMPLES_PER_TOKEN
        padded = np.concatenate([audio, np.zeros(missing, audio.dtype)]) if missing else audio
        return self.push(self.start(), padded)[0]

    def start(self) -> Float32[np.ndarray, "kept"]:
        """Silence before the first sample, as far as the first window reaches back."""
        return np.zeros(CONTEXT, np.float32)

    def push(
        self, state: Float32[np.ndarray, "kept"], samples: Float[np.ndarray, "s"]
    ) -> tuple[Float32[np.ndarray, "l d"], Float32[np.ndarray, "left"]]:
        """The tokens that these samples complete; the state holds the samples that a later window needs."""
        sound = np.concatenate([state, samples.astype(np.float32, copy=False)])
        count = (len(sound) - CONTEXT) // SAMPLES_PER_TOKEN
        out = np.empty((count, self.token_width), np.float32)
        for start in range(0, count, BLOCK_TOKENS):
            stop = min(count, start + BLOCK_TOKENS)
            out[start:stop] = self._block(
                sound[start * SAMPLES_PER_TOKEN : stop * SAMPLES_PER_TOKEN + CONTEXT]
            )
        return out, sound[count * SAMPLES_PER_TOKEN :].copy()

    def _block(self, sound: Float32[np.ndarray, "s"]) -> Float64[np.ndarray, "l d"]:
        config = self.config
        window = np.hanning(WINDOW + 1)[:-1]
        frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP]
        spectrum = np.fft.rfft(frames * window[None, :], FFT_SIZE)
        power = (spectrum.real**2 + spectrum.imag**2) / np.square(window).sum()
        # One small product per hop: a product over all hops would round differently with their number.
        mel = (power[:, None, :] @ mel_filters(config.bands, config.lowest, config.highest)[None])[:, 0]
        return (np.log1p(mel / config.floor) / config.scale).reshape(-1, self.token_width)
