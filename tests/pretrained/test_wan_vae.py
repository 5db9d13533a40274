"""The VAE against diffusers' AutoencoderKLWan on random weights, and its full-size name map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.models.vae_cases import SHORT, WAN21, WAN22, abstract, build, config, jit, reference
from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.names import dump, expected, load
from tm_jax.pretrained.wan_vae import wan_vae_names

WAN22_FULL = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "temporal_downsample": (False, True, True),
    "patch_size": 2,
    "residual": True,
    "latents_mean": (0.0,) * 48,
    "latents_std": (1.0,) * 48,
}


def pair(config, rng):
    """Our model and diffusers' with the same random weights."""
    ours = build(config, rng)
    theirs = reference(config)
    tensors = {key: torch.tensor(value) for key, value in dump(ours, wan_vae_names(config)).items()}
    theirs.load_state_dict(tensors, strict=True)
    return ours, theirs


def channels_first(x) -> torch.Tensor:
    return torch.tensor(np.asarray(x)).permute(0, 4, 1, 2, 3)


def channels_last(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 4, 1).numpy()


CASES = {
    "wan21-1": (WAN21, {}, 1, 3, False),
    "wan21-5": (WAN21, {"blocks": 2}, 5, 1, True),
    "wan21-81": (WAN21, {"base": 4}, 81, 1, True),
    "wan21-short-9": (SHORT, {}, 9, 3, True),
    "wan22-9": (WAN22 | {"decoder_base_dim": 6}, {}, 9, 3, True),
    "wan22-17": (WAN22 | {"patch_size": 4}, {}, 17, 1, False),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_equals_diffusers(case, rng, relative_error):
    form, sizes, frames, batch, odd = CASES[case]
    ours, theirs = pair(config(rng, form, **sizes), rng)
    stride = ours.config.spatial_stride
    height, width = (int(n) for n in 2 * rng.integers(0, 2, 2) + (1 if odd else 2))
    video = rng.uniform(-1, 1, (batch, frames, height * stride, width * stride, 3)).astype(np.float32)
    mean, log_variance = jit(lambda model, video: model.encode_moments(video))(ours, jnp.asarray(video))
    posterior = theirs.encode(channels_first(video)).latent_dist
    assert relative_error(mean, channels_last(posterior.mean)) <= 1e-5
    assert relative_error(log_variance, channels_last(posterior.logvar)) <= 1e-5
    raw = rng.normal(size=mean.shape).astype(np.float32)
    decoded = jit(lambda model, z: model.decode(model.normalise(z)))(ours, jnp.asarray(raw))
    # diffusers clamps its pictures, ours does not: compare where neither touches the border's far side.
    assert (
        relative_error(jnp.clip(decoded, -1, 1), channels_last(theirs.decode(channels_first(raw)).sample))
        <= 1e-5
    )
    assert np.mean(np.abs(decoded) < 1) > 0.2


@pytest.mark.parametrize(("sizes", "count"), [({}, 194), (WAN22_FULL, None)], ids=["wan21", "wan22"])
def test_full_size_maps_one_to_one(sizes, count):
    full = VAEConfig(**sizes)
    with torch.device("meta"):
        theirs = {key: tuple(value.shape) for key, value in reference(full).state_dict().items()}
    names = wan_vae_names(full)
    model = abstract(full)
    assert expected(model, names) == theirs
    assert count is None or len(theirs) == count
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model))
    assert parameters == sum(int(np.prod(shape)) for shape in theirs.values())
    assert len({names.to_ours(key) for key in theirs}) == len(theirs)


@pytest.mark.parametrize("form", [WAN21, WAN22], ids=["wan21", "wan22"])
def test_dump_and_load_are_inverse(form, rng):
    model = build(config(rng, form), rng)
    names = wan_vae_names(model.config)
    again = load(abstract(model.config), dump(model, names), names)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, model, again))
