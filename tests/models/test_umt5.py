"""UMT5 against transformers, and what Wan makes of its output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.umt5.modeling_umt5 import UMT5Attention

from tests.models.encoder_cases import CASES, batch, generator, layer_outputs, umt5_pair
from tm_jax.errors import InputError
from tm_jax.models.umt5 import UMT5, UMT5Config, position_buckets


def prompts(rng, config, rows, length):
    """Random ids with texts of different lengths, the first of them full."""
    ids = rng.integers(0, config.vocab_size, (rows, length)).astype(np.int32)
    lengths = np.concatenate([[length], rng.integers(1, length + 1, rows - 1)])
    mask = np.arange(length)[None] < lengths[:, None]
    return jnp.asarray(np.where(mask, ids, 0), jnp.int32), jnp.asarray(mask)


@pytest.mark.parametrize("case", CASES)
def test_every_layer_equals_transformers(seed, case, relative_error):
    rng = generator(seed, case)
    reference, model, config = umt5_pair(rng)
    ids, mask = prompts(rng, config, batch(case), int(rng.integers(3, 24)))
    states, normed = jax.jit(UMT5.hidden_states)(model, ids, mask)
    layers, result = layer_outputs(
        reference,
        reference.encoder.block,
        input_ids=torch.tensor(np.asarray(ids), dtype=torch.long),
        attention_mask=torch.tensor(np.asarray(mask), dtype=torch.long),
    )
    assert len(states) == len(layers)
    # Only tokens of the text: what stands on pads is thrown away by both.
    errors = [relative_error(a[mask], b[mask]) for a, b in zip(np.asarray(states), layers, strict=True)]
    errors.append(relative_error(np.asarray(normed)[mask], result[mask]))
    print(f"case {case}: worst layer {max(errors):.1e}")
    assert max(errors) <= 1e-5, f"relative error by layer, the final norm last: {errors}"


@pytest.mark.parametrize("buckets, max_distance", [(32, 128), (8, 20), (16, 64), (32, 100)])
def test_position_buckets_equal_transformers(buckets, max_distance):
    length = 300
    attention = object.__new__(UMT5Attention)
    torch.nn.Module.__init__(attention)
    attention.relative_attention_num_buckets = buckets
    attention.relative_attention_max_distance = max_distance
    attention.is_decoder = False
    offset = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    expected = attention._relative_position_bucket(offset).numpy()
    np.testing.assert_array_equal(position_buckets(length, buckets, max_distance), expected)


def test_embed_prompt_is_zero_beyond_the_text_whatever_the_padding(seed, relative_error):
    rng = generator(seed, 0)
    reference, model, config = umt5_pair(rng)
    ids, mask = prompts(rng, config, 3, 9)
    embed = jax.jit(UMT5.embed_prompt)
    short = np.asarray(embed(model, ids, mask))
    assert short.shape == (3, config.text_length, config.width)
    more = ((0, 0), (0, config.text_length - 9))
    padded_ids, padded_mask = jnp.pad(ids, more), jnp.pad(mask, more)
    assert (short[~padded_mask] == 0).all()
    assert relative_error(embed(model, padded_ids, padded_mask), short) <= 1e-6
    with torch.no_grad():
        expected = reference(
            torch.tensor(np.asarray(padded_ids), dtype=torch.long),
            torch.tensor(np.asarray(padded_mask), dtype=torch.long),
        ).last_hidden_state.numpy()
    assert relative_error(short, np.where(padded_mask[..., None], expected, 0)) <= 1e-5


def test_too_many_tokens_are_refused(seed):
    _, model, config = umt5_pair(generator(seed, 0))
    ids = jnp.zeros((1, config.text_length + 1), jnp.int32)
    with pytest.raises(InputError, match="25 tokens"):
        model.embed_prompt(ids, ids == 0)


def test_bfloat16_stays_near_float32(seed, relative_error):
    rng = generator(seed, 1)
    reference, model, config = umt5_pair(rng, dtype="bfloat16")
    ids, mask = prompts(rng, config, 1, 7)
    result = jax.jit(UMT5.__call__)(model, ids, mask)
    assert result.dtype == jnp.bfloat16
    with torch.no_grad():
        expected = reference(torch.tensor(np.asarray(ids), dtype=torch.long)).last_hidden_state
    assert relative_error(result.astype(jnp.float32), expected) < 0.05


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="buckets"):
        UMT5Config(buckets=6)
    with pytest.raises(ValueError, match="max_distance"):
        UMT5Config(max_distance=8)
