"""The transformer against diffusers' WanTransformer3DModel, through the name maps."""

import dataclasses
from functools import partial

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from tests.models.dit_cases import SMALL, abstract, build, initialised, inputs, plain
from tm_jax.bench.pytorch import transformer
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.nn.masks import Bidirectional
from tm_jax.nn.self_attention import Tables, read_all, share
from tm_jax.pretrained.load import matches
from tm_jax.pretrained.names import dump, expected, load, paths, with_values
from tm_jax.pretrained.wan_dit import DIFFUSERS, NEW, RELEASE

FULL = plain(DiTConfig())


def paired(config: DiTConfig, seed: int) -> tuple[DiT, diffusers.WanTransformer3DModel]:
    """The same random weights in both, carried over by the name map."""
    torch.manual_seed(seed)
    theirs = transformer(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            # Scales, biases and tables too: what starts at 1 or 0 would hide a fault.
            if parameter.ndim < 2 or "table" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    tensors = {name: tensor.detach().numpy() for name, tensor in theirs.state_dict().items()}
    return load(abstract(config), tensors, DIFFUSERS), theirs


def torch_inputs(config: DiTConfig, noisy, sigma, conditioning) -> dict:
    first = jnp.concatenate([noisy, conditioning.condition], axis=-1) if config.has_image else noisy
    tensor = lambda array: torch.from_numpy(np.array(array))
    return {
        "hidden_states": tensor(first).permute(0, 4, 1, 2, 3),
        "timestep": tensor(sigma * 1000.0),
        "encoder_hidden_states": tensor(conditioning.text_tokens),
        "encoder_hidden_states_image": tensor(conditioning.image_tokens) if config.has_image else None,
        "return_dict": False,
    }


def drawn(case: int, seed: int) -> tuple[DiTConfig, dict]:
    """Case number → a random config and shape: I2V at even cases, T2V at odd ones, batch 1 and 3."""
    rng = np.random.default_rng((seed, case))
    heads, head_dim = int(rng.integers(1, 5)), int(rng.choice([6, 12, 16, 20]))
    image, patch = case % 2 == 0, [(1, 2, 2), (1, 1, 1), (1, 2, 1)][case % 3]
    channels = int(rng.integers(2, 7))
    config = DiTConfig(
        width=heads * head_dim,
        ffn=int(rng.integers(20, 70)),
        heads=heads,
        layers=int(rng.integers(1, 4)),
        patch=patch,
        in_channels=2 * channels + 4 if image else channels,
        out_channels=channels,
        text_width=int(rng.integers(5, 20)),
        # diffusers finds the image tokens by counting 512 text tokens from the end.
        text_length=512 if image else int(rng.integers(1, 9)),
        image_width=int(rng.integers(5, 20)),
        image_length=int(rng.integers(1, 9)),
        has_image=image,
        audio_dim=0,
        time_frequencies=2 * int(rng.integers(4, 20)),
        dtype="float32",
        remat="products",
    )
    shape = {
        "batch": (1, 3)[case // 2 % 2],
        "frames": int(rng.integers(1, 6)),
        "height": patch[1] * int(rng.integers(1, 6)),
        "width": patch[2] * int(rng.integers(1, 6)),
    }
    return config, shape


@pytest.mark.parametrize("case", range(6))
def test_forward_equals_diffusers(case, seed, relative_error):
    config, shape = drawn(case, seed)
    ours, theirs = paired(config, seed + case)
    noisy, sigma, conditioning = inputs(config, np.random.default_rng((seed, case, 1)), **shape)
    with torch.no_grad():
        reference = theirs(**torch_inputs(config, noisy, sigma, conditioning))[0]
    v = jax.jit(lambda model, *args: model(*args, pattern=Bidirectional()))(ours, noisy, sigma, conditioning)
    assert relative_error(v, reference.permute(0, 2, 3, 4, 1)) < 1e-5, (config, shape)


@pytest.mark.parametrize("image", [True, False])
def test_each_block_equals_diffusers(image, seed, relative_error):
    config = dataclasses.replace(
        plain(SMALL),
        has_image=image,
        in_channels=14 if image else 5,
        layers=4,
        text_length=512,
        patch=(1, 2, 2),
    )
    ours, theirs = paired(config, seed)
    noisy, sigma, conditioning = inputs(
        config, np.random.default_rng(seed), batch=2, frames=3, height=4, width=6
    )
    outputs = []
    for block in theirs.blocks:
        block.register_forward_hook(lambda _, __, output: outputs.append(output.detach().numpy()))
    with torch.no_grad():
        theirs(**torch_inputs(config, noisy, sigma, conditioning))
    x, heard, modulation, _ = ours._embed(noisy, sigma, conditioning)
    text, image = ours._embed_condition(conditioning)
    tables = ours._tables(np.arange(3), 2, 3, 3)
    attend = lambda q, k, v, _: share(partial(read_all, backend="xla"), q, k, v, Tables(tables), None)
    for layer, reference in enumerate(outputs):
        block = jax.tree.map(lambda stacked, layer=layer: stacked[layer], ours.blocks)
        x, _ = block(x, modulation, block.cross_keys_values(text, image), heard, attend)
        assert relative_error(x.reshape(reference.shape), reference) < 1e-5, f"block {layer}"


@pytest.mark.parametrize("image", [True, False])
def test_gradients_equal_torch(image, seed, relative_error):
    config = dataclasses.replace(
        plain(SMALL),
        has_image=image,
        in_channels=14 if image else 5,
        text_length=512 if image else 4,
        remat="full" if image else "none",
    )
    ours, theirs = paired(config, seed)
    noisy, sigma, conditioning = inputs(
        config, np.random.default_rng(seed), batch=2, frames=2, height=3, width=4
    )
    target = np.random.default_rng(seed + 1).normal(size=noisy.shape).astype(np.float32)
    predicted = theirs(**torch_inputs(config, noisy, sigma, conditioning))[0].permute(0, 2, 3, 4, 1)
    ((predicted - torch.from_numpy(target)) ** 2).mean().backward()

    def loss(model):
        return jnp.mean((model(noisy, sigma, conditioning, pattern=Bidirectional()) - target) ** 2)

    gradients = dump(jax.jit(jax.grad(loss))(ours), DIFFUSERS)
    largest = max(np.linalg.norm(parameter.grad) for parameter in theirs.parameters())
    for name, parameter in theirs.named_parameters():
        reference = parameter.grad.numpy()
        if np.linalg.norm(reference) < 1e-6 * largest:
            # A key's bias moves all logits of a query alike: its gradient is zero but for rounding.
            assert np.linalg.norm(gradients[name]) < 1e-5 * largest, name
        else:
            assert relative_error(gradients[name], reference) < 1e-4, name


def test_every_key_of_the_full_model_maps_one_to_one():
    with torch.device("meta"):
        theirs = {name: tuple(tensor.shape) for name, tensor in transformer(FULL).state_dict().items()}
    assert expected(abstract(FULL), DIFFUSERS) == theirs
    assert len(theirs) == 1303
    for key in theirs:
        place = DIFFUSERS.to_ours(key)
        assert DIFFUSERS.to_theirs(place.path, place.layer)[0] == key


def test_the_full_model_counts_wans_parameters_and_the_papers():
    count = lambda config: sum(np.prod(v.shape, dtype=int) for v in paths(abstract(config)).values())
    with torch.device("meta"):
        wan = sum(parameter.numel() for parameter in transformer(FULL).parameters())
    assert count(FULL) == wan == 16_394_878_784
    assert 17.5e9 < count(DiTConfig()) < 18.5e9


def test_the_release_layout_converts_to_diffusers_own():
    release = expected(abstract(FULL), RELEASE)
    assert len(release) == 1303
    for key in (
        "blocks.0.self_attn.q.weight",
        "blocks.39.cross_attn.k_img.bias",
        "time_embedding.0.weight",
        "text_embedding.2.bias",
        "time_projection.1.weight",
        "img_emb.proj.4.weight",
        "head.head.weight",
        "head.modulation",
        "blocks.7.modulation",
        "patch_embedding.weight",
    ):
        assert key in release
    for key in release:
        place = RELEASE.to_ours(key)
        assert RELEASE.to_theirs(place.path, place.layer)[0] == key
    tagged = {key: torch.empty(shape, device="meta") for key, shape in release.items()}
    converted = {
        key: tuple(tensor.shape) for key, tensor in convert_wan_transformer_to_diffusers(tagged).items()
    }
    assert converted == expected(abstract(FULL), DIFFUSERS)


def test_release_weights_mean_the_same_through_diffusers_conversion():
    model = build(plain(SMALL))
    release = {key: torch.from_numpy(value.copy()) for key, value in dump(model, RELEASE).items()}
    converted = convert_wan_transformer_to_diffusers(release)
    ours = dump(model, DIFFUSERS)
    assert converted.keys() == ours.keys()
    assert all(np.array_equal(converted[key].numpy(), ours[key]) for key in ours)


@pytest.mark.parametrize("names", [DIFFUSERS, RELEASE])
def test_a_hearing_model_survives_the_round_trip(names):
    model = build(SMALL)
    again = load(abstract(SMALL), dump(model, names), names)
    assert all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(again), strict=True)
    )


def test_a_converted_checkpoint_is_the_step_0_teacher(seed):
    public, fresh = build(plain(SMALL), seed), initialised(SMALL, seed)
    new = {path: value[...] for path, value in paths(fresh).items() if matches(path, NEW)}
    shared = {path: value[...] for path, value in paths(public).items()}
    assert new.keys() | shared.keys() == paths(fresh).keys() and not new.keys() & shared.keys()
    teacher = with_values(fresh, {**new, **shared})
    args = inputs(SMALL, np.random.default_rng(seed), batch=2, frames=3, height=2, width=3)
    run = jax.jit(lambda model: model(*args, pattern=Bidirectional()))
    np.testing.assert_array_equal(run(teacher), run(public))
