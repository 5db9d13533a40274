"""Which audio front end a model listens through."""

from pathlib import Path

from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.audio.log_mel import LogMel
from tm_jax.models.viseme_config import VisemeConfig
from tm_jax.models.visemes import VisemeEncoder, VisemeFrontEnd
from tm_jax.pretrained.weights import load_model, read_config


def load_front_end(path: Path | None) -> AudioFrontEnd:
    """The viseme encoder of a weights file; log-mel, which needs no weights, for None.

    Raises:
        InputError: the file is missing, damaged or of something else.
    """
    return LogMel() if path is None else VisemeFrontEnd(load_model(path, VisemeEncoder, VisemeConfig))


def own_front_end(width: int, visemes: Path) -> AudioFrontEnd | None:
    """The front end of ours whose tokens have this width: log-mel, or the viseme encoder in this file.

    None if neither fits: the model was born to another one then, such as wav2vec2.
    """
    if width == LogMel().token_width:
        return LogMel()
    if visemes.exists() and read_config(visemes, VisemeConfig).outputs == width:
        return load_front_end(visemes)
    return None
