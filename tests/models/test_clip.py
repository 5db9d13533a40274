"""CLIP's picture encoder against transformers, and the preparation of pictures against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.models.encoder_cases import CASES, batch, clip_pair, generator, layer_outputs
from tm_jax.errors import InputError
from tm_jax.models.clip import PIXEL_MEAN, PIXEL_STD, CLIPConfig, CLIPVision, preprocess


def channels_first(x):
    return torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("case", CASES)
def test_every_layer_equals_transformers(seed, case, relative_error):
    rng = generator(seed, case)
    reference, model, config = clip_pair(rng)
    pixels = rng.normal(size=(batch(case), config.image_size, config.image_size, 3)).astype(np.float32)
    states = np.asarray(jax.jit(CLIPVision.hidden_states)(model, pixels))
    layers, _ = layer_outputs(reference, reference.encoder.layers, channels_first(pixels))
    errors = [relative_error(a, b) for a, b in zip(states, layers, strict=True)]
    print(f"case {case}: worst layer {max(errors):.1e}")
    assert max(errors) <= 1e-5, f"relative error by layer: {errors}"


def test_the_output_is_the_penultimate_hidden_state(seed, relative_error):
    rng = generator(seed, 0)
    reference, model, config = clip_pair(rng)
    pixels = rng.normal(size=(2, config.image_size, config.image_size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = reference(channels_first(pixels), output_hidden_states=True).hidden_states[-2].numpy()
    assert expected.shape == (2, config.tokens, config.width)
    assert relative_error(jax.jit(CLIPVision.__call__)(model, pixels), expected) <= 1e-5


@pytest.mark.parametrize("size", [(17, 31), (300, 260), (1, 1)])
def test_preprocessing_equals_torch_bicubic(rng, size, relative_error):
    image = rng.uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    # In double, because in float PyTorch rounds the positions, which moves a large picture by 1e-5.
    resized = torch.nn.functional.interpolate(
        channels_first(image).double(), (224, 224), mode="bicubic", align_corners=False
    ).permute(0, 2, 3, 1)
    expected = (resized.numpy() * 0.5 + 0.5 - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)
    assert relative_error(preprocess(image), expected) <= 1e-5


def test_wrong_pictures_are_refused(seed):
    _, model, config = clip_pair(generator(seed, 0))
    with pytest.raises(InputError, match="preprocess"):
        model(jnp.zeros((1, config.image_size + config.patch, config.image_size, 3)))
    with pytest.raises(InputError, match="empty"):
        preprocess(jnp.zeros((1, 0, 5, 3)))


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="heads"):
        CLIPConfig(width=10, heads=4)
    with pytest.raises(ValueError, match="patch"):
        CLIPConfig(image_size=225)
    with pytest.raises(ValueError, match="output_layer"):
        CLIPConfig(layers=3, output_layer=4)
