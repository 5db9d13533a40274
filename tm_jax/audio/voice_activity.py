"""Voice activity: whether somebody speaks, for every audio token, causally.

Live streams and the preparation of clips ask the same detector, WebRTC's, on 20 ms frames, which are the
audio tokens' own grid.
"""

import numpy as np
import webrtcvad
from jaxtyping import Bool, Float32

from tm_jax.rates import SAMPLE_RATE, SAMPLES_PER_TOKEN

HANGOVER_TOKENS = 15
ONSET_TOKENS = 2
LISTENING, SPEAKING = 0, 1


class VoiceActivity:
    """Streaming voice activity: speech begins after 40 ms of it and ends 0.3 s after the last."""

    def __init__(self, aggressiveness: int = 2, hangover: int = HANGOVER_TOKENS):
        """Begins in silence.

        Args:
          aggressiveness: WebRTC's, 0 … 3: how much it takes for noise.
          hangover: tokens for which speech goes on after the last of it.
        """
        self._detector = webrtcvad.Vad(aggressiveness)
        self._rest = np.zeros(0, np.float32)
        self._hangover, self._run, self._since = hangover, 0, hangover

    def push(self, samples: Float32[np.ndarray, "s"]) -> Bool[np.ndarray, "l"]:
        """For every token that these samples complete, whether somebody is speaking."""
        sound = np.concatenate([self._rest, samples])
        count = len(sound) // SAMPLES_PER_TOKEN
        pcm = (np.clip(sound[: count * SAMPLES_PER_TOKEN], -1, 1) * 32767).astype("<i2").tobytes()
        self._rest = sound[count * SAMPLES_PER_TOKEN :]
        size = 2 * SAMPLES_PER_TOKEN
        return np.array([self._token(pcm[i * size : (i + 1) * size]) for i in range(count)], bool)

    def _token(self, pcm: bytes) -> bool:
        self._run = self._run + 1 if self._detector.is_speech(pcm, SAMPLE_RATE) else 0
        self._since = 0 if self._run >= ONSET_TOKENS else min(self._since + 1, self._hangover)
        return self._since < self._hangover
