"""CLIP's names: complete at full size, the same back and forth, with and without the old prefix."""

import numpy as np
import torch
import transformers

from tests.models.encoder_cases import abstract, clip_pair, generator, tensors
from tm_jax.models.clip import CLIPConfig, CLIPVision
from tm_jax.pretrained.clip import CLIP_IGNORED, clip_names
from tm_jax.pretrained.load import matches
from tm_jax.pretrained.names import dump, expected, load


def test_every_key_of_vit_h_has_its_place():
    sizes = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
    config = transformers.CLIPVisionConfig(**sizes, num_attention_heads=16, patch_size=14, hidden_act="gelu")
    with torch.device("meta"):
        reference = transformers.CLIPVisionModel(config)
    stored = {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    assert len(stored) == 519
    assert expected(abstract(CLIPVision, CLIPConfig()), clip_names()) == stored
    assert reference.num_parameters() == sum(np.prod(shape) for shape in stored.values()) == 630_766_080


def test_there_and_back_is_bit_equal_in_both_spellings(seed):
    reference, _, config = clip_pair(generator(seed, 0))
    new = tensors(reference)
    for stored in (new, {f"vision_model.{key}": value for key, value in new.items()}):
        names = clip_names(stored)
        back = dump(load(abstract(CLIPVision, config), stored, names), names)
        assert back.keys() == stored.keys()
        for key, value in stored.items():
            np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_what_a_whole_clip_holds_besides_is_passed_over():
    text = transformers.CLIPTextConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=1)
    vision = transformers.CLIPVisionConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=1)
    with torch.device("meta"):
        whole = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))
    keys = [*whole.state_dict(), "vision_model.embeddings.position_ids"]
    names = clip_names(keys)
    placed = [key for key in keys if names.to_ours(key)]
    ignored = [key for key in keys if matches(key, CLIP_IGNORED)]
    assert sorted(placed + ignored) == sorted(keys) and not set(placed) & set(ignored)
