"""A small speech encoder: log-mel → tokens that tell what the mouth is doing (METHOD §4, in the small).

The paper's model hears through wav2vec2, which learnt what speech is from other data.  A transformer that
hears raw mel bands has to learn it from the few cells of a picture where a mouth moves.  This network
learns it from sound and mouth shapes alone, in minutes (``python train.py tiny_visemes``), and its last
hidden layer then takes wav2vec2's place.

It is causal and adds no latency: token i hears the log-mel tokens i - 32 … i.

    mel   … ┊ ┊ ┊ ┊ ┊ ┊ ┊ ┊ ┊ ┊ i      five layers of three taps, 1, 1, 2, 4 and 8 tokens apart
                                └──►  token i ──► (training only) the mouth at i - 7, i - 3 and i + 1
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32

from tm_jax.audio.log_mel import LogMel
from tm_jax.models.viseme_config import MOUTH, VisemeConfig
from tm_jax.nn.layers import LayerNorm, dense


class VisemeEncoder(nnx.Module):
    """Log-mel tokens → viseme tokens, without padding: ``past`` fewer come out than went in."""

    def __init__(self, config: VisemeConfig, *, rngs: nnx.Rngs):
        width, linear = config.width, lambda i, o: dense(i, o, (None, None), rngs=rngs, dtype="float32")
        self.first = linear(config.inputs, width)
        self.norms = nnx.List([LayerNorm(width, eps=1e-5) for _ in config.dilations])
        self.layers = nnx.List([linear(3 * width, width) for _ in config.dilations])
        self.middle = LayerNorm(width, eps=1e-5)
        self.last = linear(width, config.outputs)
        self.norm = LayerNorm(config.outputs, eps=1e-5)
        self.head = linear(config.outputs, len(config.offsets) * len(MOUTH))
        self.config = config

    def __call__(self, mel: Float[Array, "b l mel"]) -> Float[Array, "b l_out d"]:
        """Tokens ``past`` … l - 1."""
        x = self.first(mel)
        for distance, norm, layer in zip(self.config.dilations, self.norms, self.layers, strict=True):
            mel = norm(x)
            taps = (mel[:, : -2 * distance], mel[:, distance:-distance], mel[:, 2 * distance :])
            x = x[:, 2 * distance :] + layer(nnx.gelu(jnp.concatenate(taps, -1)))
        return self.norm(self.last(nnx.gelu(self.middle(x))))

    def mouths(self, tokens: Float[Array, "b l d"]) -> Float[Array, "b l offsets mouth"]:
        """The standardised mouth at each offset from each token."""
        return self.head(tokens).reshape(*tokens.shape[:2], len(self.config.offsets), len(MOUTH))


@flax.struct.dataclass
class VisemeStream:
    """What a stream keeps: the log-mel front end's state and the tokens that later ones still hear."""

    sound: Float32[np.ndarray, " kept"]
    mel: Float32[np.ndarray, "past mel"]


@jax.jit
def _encode(encoder: VisemeEncoder, mel: Float[Array, "1 l mel"]) -> Float[Array, "1 l_out d"]:
    return encoder(mel)


class VisemeFrontEnd:
    """The viseme encoder behind the interface of `log_mel.AudioFrontEnd`."""

    BLOCK = 24
    """Tokens computed at once, whatever is pushed, so that nothing compiles twice: a chunk of 3 latents."""

    def __init__(self, encoder: VisemeEncoder):
        self.encoder, self.mel = encoder, LogMel()
        if encoder.config.inputs != self.mel.token_width:
            raise ValueError(
                f"the viseme encoder reads tokens of {encoder.config.inputs} numbers where log-mel gives "
                f"{self.mel.token_width}"
            )

    @property
    def token_width(self) -> int:
        """Numbers in one token."""
        return self.encoder.config.outputs

    @property
    def lookahead(self) -> int:
        """No token waits for later sound."""
        return 0

    def tokens(self, audio: Float[np.ndarray, "s"]) -> Float32[np.ndarray, "l d"]:
        """All tokens of a recording at 16 kHz, ceil(s / 320) of them, silence assumed past its end."""
        silence = self.start()
        return self._tokens(np.concatenate([silence.mel, self.mel.tokens(audio)]))

    def start(self) -> VisemeStream:
        """Silence before the first sample, which is zeros to log-mel."""
        mel = np.zeros((self.encoder.config.past, self.mel.token_width), np.float32)
        return VisemeStream(sound=self.mel.start(), mel=mel)

    def push(
        self, state: VisemeStream, samples: Float[np.ndarray, "s"]
    ) -> tuple[Float32[np.ndarray, "l d"], VisemeStream]:
        """Take any number of samples (none too), return the tokens they complete and the next state."""
        mel, sound = self.mel.push(state.sound, samples)
        mel = np.concatenate([state.mel, mel])
        kept = mel[len(mel) - self.encoder.config.past :].copy()
        return self._tokens(mel), VisemeStream(sound=sound, mel=kept)

    def _tokens(self, mel: Float32[np.ndarray, "l mel"]) -> Float32[np.ndarray, "l_out d"]:
        past = self.encoder.config.past
        count = len(mel) - past
        padded = np.pad(mel, ((0, -count % self.BLOCK), (0, 0)))
        starts = range(0, count, self.BLOCK)
        parts = [
            _encode(self.encoder, padded[None, start : start + past + self.BLOCK])[0] for start in starts
        ]
        empty = np.zeros((0, self.token_width), np.float32)
        return np.concatenate([empty, *map(np.asarray, parts)])[:count]
