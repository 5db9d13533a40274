"""Models from wherever they are: our own weights files, and public checkpoints in a folder or on the Hub.

A path that ends in ``.safetensors`` is ours, unless the file says otherwise, and so is the folder of a run;
everything else is public.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from tm_jax.errors import InputError
from tm_jax.models.clip import CLIPConfig, CLIPVision
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.models.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from tm_jax.pretrained.files import Checkpoint, open_checkpoint
from tm_jax.pretrained.layouts import Shardings, load_public
from tm_jax.pretrained.load import load_pretrained
from tm_jax.pretrained.names import NameMap, Rule, paths
from tm_jax.pretrained.run_checkpoint import open_run
from tm_jax.pretrained.runs import is_run
from tm_jax.pretrained.sliced import is_sliced, open_sliced
from tm_jax.pretrained.weights import is_own, load_model, read_config, read_header

CLASSES = {
    "vae": (VAE, VAEConfig),
    "image": (CLIPVision, CLIPConfig),
    "speech": (Wav2Vec2, Wav2Vec2Config),
}
"""What our own files of these kinds hold."""


def load_any(source: str | Path, kind: str) -> nnx.Module:
    """A model of a kind (a key of CLASSES): weights or a run of ours, a public folder, pipeline or Hub id.

    Raises:
        InputError: one sentence about whatever is wrong.
    """
    if is_own(source):
        return load_model(source, *CLASSES[kind])
    return load_public(source, kind)[0]


def open_own(path: Path) -> Checkpoint:
    """The headers of weights of ours, whether they lie in one file, in slices or in a run's checkpoint."""
    if is_run(path):
        return open_run(path)
    return open_sliced(path)[0] if is_sliced(path) else open_checkpoint(path)


def load_by_slices(
    path: Path,
    model_class: Callable[..., nnx.Module],
    config_class: type,
    shardings: Shardings = None,
    *,
    config: Any = None,
    adapt: Callable[[nnx.Module], nnx.Module] = lambda model: model,
    progress: bool = True,
) -> nnx.Module:
    """A module of our own weights file as a public checkpoint is read: slice by slice, onto its devices.

    For models that the host should not hold whole; unlike ``load_model`` it does not look for NaN.

    Args:
        shardings: from the abstract model, a tree like it; None puts all on the first device.
        config: to build the module with, of the same sizes; None is the file's own.
        adapt: from the module as built to the one that is wanted, such as one with other dtypes.

    Raises:
        InputError: a foreign file, another class, or parameters that do not fit, all in one sentence.
    """
    header = read_header(path)
    if header.model_class != model_class.__name__:
        raise InputError(f"{path} holds a {header.model_class}, not a {model_class.__name__}.")
    config = read_config(path, config_class) if config is None else config
    make = lambda: adapt(model_class(config, rngs=nnx.Rngs(0)))
    abstract = jax.eval_shape(make)
    same = NameMap(Rule(name, name) for name in paths(abstract))
    tree = None if shardings is None else shardings(abstract)
    return load_pretrained(open_own(path), make, same, tree, progress=progress)


def kernels_in(dtype: str) -> Callable[[nnx.Module], nnx.Module]:
    """An ``adapt`` that stores the kernels of the stacked blocks in their compute dtype.

    A block rounds its kernels to that dtype when it runs, so the output is the same, bit for bit.
    """

    def adapt(model: nnx.Module) -> nnx.Module:
        def one(path, leaf):
            name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
            stored = name.startswith("blocks.") and name.endswith(".kernel")
            return leaf.astype(dtype) if stored else leaf

        return jax.tree_util.tree_map_with_path(one, model)

    return adapt
