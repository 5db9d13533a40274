"""wav2vec2's names: complete at full size, the same back and forth, in every spelling."""

import numpy as np
import torch
import transformers

from tests.models.encoder_cases import abstract, generator, tensors, wav2vec2_pair
from tm_jax.models.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from tm_jax.pretrained.load import matches
from tm_jax.pretrained.names import dump, expected, load
from tm_jax.pretrained.wav2vec2 import WAV2VEC2_IGNORED, WAV2VEC2_NEW, wav2vec2_names


def test_every_key_of_base_has_its_place():
    with torch.device("meta"):
        reference = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config())
    stored = {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    assert len(stored) == 211
    assert expected(abstract(Wav2Vec2, Wav2Vec2Config()), wav2vec2_names()) == stored
    assert reference.num_parameters() == sum(np.prod(shape) for shape in stored.values()) == 94_371_712


def test_there_and_back_is_bit_equal_in_every_spelling(seed):
    reference, _, config = wav2vec2_pair(generator(seed, 0))
    new = tensors(reference)
    old = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in new.items()
    }
    assert sum(key.endswith(("weight_g", "weight_v")) for key in old) == 2
    for spelling in (new, old):
        for prefix in ("", "wav2vec2."):
            stored = {prefix + key: value for key, value in spelling.items()}
            names = wav2vec2_names(stored)
            back = dump(load(abstract(Wav2Vec2, config), stored, names), names)
            assert back.keys() == stored.keys()
            for key, value in stored.items():
                np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_heads_are_passed_over():
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 1}
    for model_class in (transformers.Wav2Vec2ForCTC, transformers.Wav2Vec2ForPreTraining):
        with torch.device("meta"):
            whole = model_class(transformers.Wav2Vec2Config(**sizes))
        keys = list(whole.state_dict())
        names = wav2vec2_names(keys)
        placed = [key for key in keys if names.to_ours(key)]
        ignored = [key for key in keys if matches(key, WAV2VEC2_IGNORED)]
        assert sorted(placed + ignored) == sorted(keys) and not set(placed) & set(ignored)


def test_the_masking_vector_alone_may_be_lacking():
    with torch.device("meta"):
        reference = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(mask_time_prob=0.0))
    wanted = expected(abstract(Wav2Vec2, Wav2Vec2Config()), wav2vec2_names())
    assert wanted.keys() - set(reference.state_dict()) == {"masked_spec_embed"}
    place = wav2vec2_names().to_ours("masked_spec_embed")
    assert matches(place.path, WAV2VEC2_NEW)
