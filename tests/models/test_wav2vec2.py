"""wav2vec2 against transformers: features, every layer, normalisation, filler at the start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from tests.models.encoder_cases import CASES, batch, generator, layer_outputs, wav2vec2_pair
from tm_jax.errors import InputError
from tm_jax.models.wav2vec2 import Wav2Vec2, Wav2Vec2Config, normalise


@pytest.mark.parametrize("case", CASES)
def test_every_layer_equals_transformers(seed, case, relative_error):
    rng = generator(seed, case)
    reference, model, _ = wav2vec2_pair(rng)
    sound = rng.normal(size=(batch(case), int(rng.integers(1500, 6000)))).astype(np.float32)
    with torch.no_grad():
        features = reference.feature_extractor(torch.tensor(sound)).numpy().transpose(0, 2, 1)
    both = jax.jit(lambda model, sound: (model.features(sound), model.hidden_states(sound)))
    our_features, states = map(np.asarray, both(model, sound))
    assert relative_error(our_features, features) <= 1e-5
    layers, result = layer_outputs(reference, reference.encoder.layers, torch.tensor(sound))
    errors = [relative_error(a, b) for a, b in zip(states, layers, strict=True)]
    print(f"case {case}: worst layer {max(errors):.1e}")
    assert max(errors) <= 1e-5, f"relative error by layer: {errors}"
    assert relative_error(states[-1], result) <= 1e-5


def test_normalisation_equals_transformers(rng, relative_error):
    sound = (0.3 + 0.02 * rng.normal(size=(3, 5000))).astype(np.float32)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    expected = extractor(list(sound), sampling_rate=16_000, return_tensors="np").input_values
    prepared = np.asarray(jax.jit(normalise)(np.concatenate([sound, np.zeros_like(sound[:1])])))
    assert relative_error(prepared[:3], expected) <= 1e-5
    assert (prepared[3] == 0).all()


def test_a_padded_second_gives_fifty_tokens():
    config = Wav2Vec2Config()
    assert (config.samples_per_token, config.receptive_field, config.tail) == (320, 400, 80)
    model = jax.eval_shape(lambda: Wav2Vec2(config, rngs=nnx.Rngs(0)))
    for samples, tokens in ((16_000, 49), (16_000 + config.tail, 50)):
        sound = jax.ShapeDtypeStruct((1, samples), jnp.float32)
        assert jax.eval_shape(Wav2Vec2.__call__, model, sound).shape == (1, tokens, 768)


def test_filler_at_the_start_changes_nothing(seed, relative_error):
    rng = generator(seed, 0)
    reference, model, _ = wav2vec2_pair(rng)
    sound = rng.normal(0.5, 1, size=(3, 320 * 13 + 80)).astype(np.float32)
    skip = np.array([4, 0, 11], np.int32)
    run = jax.jit(lambda model, sound, skip: (normalise(sound, skip), model(normalise(sound, skip), skip)))
    prepared, tokens = map(np.asarray, run(model, sound, skip))
    for row, missing in enumerate(skip):
        alone = sound[row : row + 1, 320 * missing :]
        alone = (alone - alone.mean()) / np.sqrt(alone.var() + 1e-7)
        assert relative_error(prepared[row, 320 * missing :], alone[0]) <= 1e-6
        assert (prepared[row, : 320 * missing] == 0).all()
        with torch.no_grad():
            expected = reference(torch.tensor(alone)).last_hidden_state[0].numpy()
        assert relative_error(tokens[row, missing:], expected) <= 1e-5


def test_too_short_a_sound_is_refused(seed):
    _, model, _ = wav2vec2_pair(generator(seed, 0))
    with pytest.raises(InputError, match="399 samples"):
        model(jnp.zeros((1, 399)))


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="length"):
        Wav2Vec2Config(conv_kernels=(3,))
    with pytest.raises(ValueError, match="heads"):
        Wav2Vec2Config(heads=7)
