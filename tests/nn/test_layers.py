"""Norms and time features against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from tm_jax.nn.layers import LayerNorm, PatchEmbedding, RMSNorm, dense, layer_norm, time_features


def test_norms_equal_torch_and_return_float32_from_bfloat16(getkey, relative_error):
    x = 3.0 + jax.random.normal(getkey(), (2, 5, 24))
    reference = torch.nn.functional.layer_norm(torch.from_numpy(np.array(x)), (24,), eps=1e-6)
    assert relative_error(layer_norm(x, 1e-6), reference) < 1e-6
    assert relative_error(LayerNorm(24, eps=1e-6)(x), reference) < 1e-6
    reference = torch.nn.functional.rms_norm(torch.from_numpy(np.array(x)), (24,), eps=1e-6)
    assert relative_error(RMSNorm(24, eps=1e-6)(x), reference) < 1e-6
    assert RMSNorm(24, eps=1e-6)(x.astype(jnp.bfloat16)).dtype == jnp.float32


def test_time_features_are_cosines_then_sines_of_a_thousand_sigma():
    features = time_features(jnp.array([0.0, 0.5]), 8)
    np.testing.assert_array_equal(features[0], [1, 1, 1, 1, 0, 0, 0, 0])
    angles = 500.0 * 10000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(features[1], np.concatenate([np.cos(angles), np.sin(angles)]), atol=1e-5)


def test_kernels_carry_their_logical_axes():
    layer = dense(4, 6, ("embed", "mlp"), rngs=nnx.Rngs(0), dtype="bfloat16")
    assert layer.kernel.get_metadata()["axes"] == ("embed", "mlp")
    assert layer.kernel[...].dtype == jnp.float32 and layer(jnp.ones((2, 4))).dtype == jnp.bfloat16
    patch = PatchEmbedding((1, 2, 2), 3, 8, rngs=nnx.Rngs(0), dtype="float32")
    assert patch.kernel.shape == (1, 2, 2, 3, 8) and patch(jnp.ones((1, 2, 3, 12))).shape == (1, 2, 3, 8)
