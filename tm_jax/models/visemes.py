"""A small speech encoder: log-mel → tokens that tell what the mouth is doing (METHOD §4, in the small).

The paper's model hears through wav2vec2, which learnt what speech is from other data.  A transformer that
hears raw mel bands has to learn it from the few cells of a picture where a mouth moves.  This network
learns it from sound and mouth shapes alone, in minutes (``python train.py tiny_visemes``), and its last
hidden layer then takes wav2vec2's place.

It is causal and adds no latency: token i hears the log-mel tokens i - 32 … i.

    mel   … ┊ ┊ ┊ ┊ ┊ ┊ ┊ ┊ ┊ ┊ i      five layers of three taps, 1, 1, 2, 4 and 8 tokens apart
                                └──►  token i ──► (training only) the mouth at i - 7, i - 3 and i + 1
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from tm_jax.audio.mel_network import MelNetwork
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


@jax.jit
def _encode(encoder: VisemeEncoder, mel: Float[Array, "1 l mel"]) -> Float[Array, "1 l_out d"]:
    return encoder(mel)


class VisemeFrontEnd(MelNetwork):
    """The viseme encoder behind the interface of ``audio.front_end.AudioFrontEnd``."""

    def __init__(self, encoder: VisemeEncoder):
        config = encoder.config
        encode = lambda mel: np.asarray(_encode(self.encoder, mel[None])[0])
        super().__init__(encode, inputs=config.inputs, past=config.past, token_width=config.outputs)
        self.encoder = encoder
