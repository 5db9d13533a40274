"""Pairs of a random reference model of transformers and our config of the same sizes."""

import jax
import numpy as np
import torch
import transformers
from flax import nnx

from tm_jax.models.clip import CLIPConfig, CLIPVision
from tm_jax.models.umt5 import UMT5, UMT5Config
from tm_jax.models.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from tm_jax.pretrained.clip import clip_names
from tm_jax.pretrained.names import NameMap, load
from tm_jax.pretrained.umt5 import umt5_names
from tm_jax.pretrained.wav2vec2 import wav2vec2_names

CASES = range(5)
"""Every model is compared in this many random configs; the even ones in batches of 3, the odd ones of 1."""


def generator(seed: int, case: int) -> np.random.Generator:
    """The generator of one case's sizes, weights and inputs."""
    return np.random.default_rng((seed, case))


def batch(case: int) -> int:
    """The batch size of one case."""
    return 1 if case % 2 else 3


def randomised(model: torch.nn.Module, rng: np.random.Generator) -> torch.nn.Module:
    """The model with every parameter drawn, the ones that start at zero or one included."""
    for name, parameter in model.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        drawn = rng.normal(size=parameter.shape) * (fan_in**-0.5 if parameter.ndim > 1 else 0.2)
        if "norm" in name and name.endswith("weight"):
            drawn = drawn + 1.0
        if "original0" in name:
            drawn = 1.0 + np.abs(drawn)
        parameter.data = torch.tensor(drawn, dtype=torch.float32)
    return model.eval()


def tensors(reference: torch.nn.Module) -> dict[str, np.ndarray]:
    """What a checkpoint of the reference holds; tied tensors once."""
    state = {key: value.detach().numpy() for key, value in reference.state_dict().items()}
    if "shared.weight" in state:
        del state["encoder.embed_tokens.weight"]
    return state


def abstract(model_class, config) -> nnx.Module:
    """Our model without numbers."""
    return jax.eval_shape(lambda: model_class(config, rngs=nnx.Rngs(0)))


def ours(model_class, config, reference: torch.nn.Module, names: NameMap) -> nnx.Module:
    """Our model with the reference's weights."""
    return load(abstract(model_class, config), tensors(reference), names)


def layer_outputs(reference: torch.nn.Module, layers, *args, **kwargs):
    """The first layer's input, every layer's output, and the model's own output."""
    seen = []
    hooks = [layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))]
    for layer in layers:
        store = lambda _, inputs, out: seen.append((out[0] if isinstance(out, tuple) else out).numpy())
        hooks.append(layer.register_forward_hook(store))
    with torch.no_grad():
        result = reference(*args, **kwargs).last_hidden_state.numpy()
    for hook in hooks:
        hook.remove()
    return seen, result


def umt5_pair(rng: np.random.Generator, dtype: str = "float32") -> tuple[torch.nn.Module, UMT5, UMT5Config]:
    """A tiny UMT5 encoder: the reference, ours with its weights, our config."""
    config = UMT5Config(
        vocab_size=int(rng.integers(40, 90)),
        width=int(8 * rng.integers(2, 6)),
        heads=int(rng.integers(1, 5)),
        head_dim=int(4 * rng.integers(1, 4)),
        ffn=int(rng.integers(20, 60)),
        layers=int(rng.integers(2, 4)),
        buckets=int(rng.choice([8, 16, 32])),
        max_distance=int(rng.choice([20, 64, 128])),
        text_length=24,
        dtype=dtype,
    )
    reference = transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=config.vocab_size,
            d_model=config.width,
            d_kv=config.head_dim,
            d_ff=config.ffn,
            num_layers=config.layers,
            num_heads=config.heads,
            relative_attention_num_buckets=config.buckets,
            relative_attention_max_distance=config.max_distance,
        )
    )
    randomised(reference, rng)
    return reference, ours(UMT5, config, reference, umt5_names()), config


def clip_pair(rng: np.random.Generator, dtype: str = "float32"):
    """A tiny CLIP picture encoder: the reference, ours with its weights, our config."""
    heads = int(rng.integers(1, 5))
    layers = int(rng.integers(2, 5))
    patch = int(rng.integers(3, 8))
    config = CLIPConfig(
        width=int(heads * 4 * rng.integers(2, 5)),
        heads=heads,
        ffn=int(rng.integers(20, 60)),
        layers=layers,
        output_layer=layers - 1,
        image_size=int(patch * rng.integers(2, 5)),
        patch=patch,
        dtype=dtype,
    )
    reference = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            hidden_size=config.width,
            intermediate_size=config.ffn,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch,
            hidden_act="gelu",
        )
    )
    randomised(reference, rng)
    return reference, ours(CLIPVision, config, reference, clip_names()), config


def wav2vec2_pair(rng: np.random.Generator, dtype: str = "float32"):
    """A tiny wav2vec2 with the real strides: the reference, ours with its weights, our config."""
    heads = int(rng.integers(1, 4))
    groups = int(rng.choice([1, 2, 4]))
    config = Wav2Vec2Config(
        conv_widths=tuple(int(width) for width in rng.integers(4, 12, 7)),
        width=int(heads * groups * 4 * rng.integers(1, 3)),
        heads=heads,
        ffn=int(rng.integers(20, 60)),
        layers=int(rng.integers(2, 4)),
        position_kernel=int(rng.integers(4, 12)),
        position_groups=groups,
        dtype=dtype,
    )
    reference = transformers.Wav2Vec2Model(
        transformers.Wav2Vec2Config(
            conv_dim=config.conv_widths,
            conv_kernel=config.conv_kernels,
            conv_stride=config.conv_strides,
            hidden_size=config.width,
            intermediate_size=config.ffn,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_conv_pos_embeddings=config.position_kernel,
            num_conv_pos_embedding_groups=config.position_groups,
        )
    )
    randomised(reference, rng)
    return reference, ours(Wav2Vec2, config, reference, wav2vec2_names()), config
