"""UMT5's names: complete at full size, the same back and forth, in both spellings."""

import numpy as np
import pytest
import torch
import transformers

from tests.models.encoder_cases import abstract, generator, tensors, umt5_pair
from tm_jax.errors import InputError
from tm_jax.models.umt5 import UMT5, UMT5Config
from tm_jax.pretrained.load import matches
from tm_jax.pretrained.names import dump, expected, load
from tm_jax.pretrained.umt5 import UMT5_IGNORED, umt5_names


def test_every_key_of_xxl_has_its_place():
    sizes = {"vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24}
    with torch.device("meta"):
        reference = transformers.UMT5EncoderModel(transformers.UMT5Config(**sizes, num_heads=64))
    stored = {key: tuple(value.shape) for key, value in reference.named_parameters()}
    assert len(stored) == 242
    assert expected(abstract(UMT5, UMT5Config()), umt5_names()) == stored
    count = sum(np.prod(shape) for shape in stored.values())
    assert count == reference.num_parameters() == 5_680_910_336


def test_there_and_back_is_bit_equal(seed):
    reference, model, _ = umt5_pair(generator(seed, 0))
    back, stored = dump(model, umt5_names()), tensors(reference)
    assert back.keys() == stored.keys()
    for key, value in stored.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_the_token_table_is_found_by_either_name(seed):
    reference, _, config = umt5_pair(generator(seed, 0))
    stored = tensors(reference)
    table = stored.pop("shared.weight")
    stored["encoder.embed_tokens.weight"] = table
    model = load(abstract(UMT5, config), stored, umt5_names(stored))
    np.testing.assert_array_equal(model.embedding[...], table)
    both = umt5_names({"encoder.embed_tokens.weight", "shared.weight"})
    assert both.to_theirs("embedding")[0] == "shared.weight"
    assert matches("encoder.embed_tokens.weight", UMT5_IGNORED)
    assert not any(matches(key, UMT5_IGNORED) for key in tensors(reference))


def test_all_misfits_are_told_at_once(seed):
    reference, _, config = umt5_pair(generator(seed, 0))
    stored = tensors(reference)
    del stored["encoder.final_layer_norm.weight"]
    stored["stray"] = np.zeros(1)
    stored["shared.weight"] = stored["shared.weight"][1:]
    with pytest.raises(InputError) as error:
        load(abstract(UMT5, config), stored, umt5_names(stored))
    for fault in ("unknown stray", "missing encoder.final_layer_norm.weight", "shared.weight has shape"):
        assert fault in str(error.value)
