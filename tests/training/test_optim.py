"""Optimizers on module pytrees: schedules, what decays, what Muon takes, the moving average."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tm_jax.sharding import shardings_like
from tm_jax.training.optim import OptimConfig, ema_decay, ema_update, learning_rate, make_optimizer
from tm_jax.training.state import TrainState


class Block(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.dense = nnx.Linear(8, 4, rngs=rngs, kernel_metadata={"axes": ("embed", "mlp")})
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.modulation = nnx.Param(jax.random.normal(rngs.params(), (6, 4)), axes=(None, "embed"))


class Net(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        build = lambda key: Block(rngs=nnx.Rngs(key))
        self.blocks = jax.vmap(build)(jax.random.split(rngs.params(), 3))
        self.conv = nnx.Conv(4, 6, (3, 3), rngs=rngs)


@pytest.fixture(scope="module")
def net():
    return jax.jit(lambda: Net(rngs=nnx.Rngs(0)))()


def updates_of(config, net, gradients):
    tx = make_optimizer(config)
    return jax.jit(lambda gradients, net: tx.update(gradients, tx.init(net), net)[0])(gradients, net)


def zeros(net):
    return jax.tree.map(jnp.zeros_like, net)


@jax.jit
def noise(net, key):
    return jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), net)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 0.25, 3: 1.0, 4: 1.0, 100: 1.0}),
        ("linear", {0: 0.25, 3: 1.0, 4: 1.0, 9: 0.6, 14: 0.2, 100: 0.2}),
        ("cosine", {0: 0.25, 3: 1.0, 4: 1.0, 9: 0.6, 14: 0.2, 100: 0.2}),
    ],
)
def test_the_learning_rate_warms_up_then_decays_to_its_end(schedule, expected):
    config = OptimConfig(lr=1.0, warmup_steps=4, schedule=schedule, lr_end=0.2, decay_steps=10)
    rate = learning_rate(config)
    for count, value in expected.items():
        assert float(rate(count)) == pytest.approx(value), f"after {count} updates"


@pytest.mark.parametrize("bad", [{"schedule": "cosine"}, {"betas": (0.9, 1.0)}, {"lr": -1.0}])
def test_impossible_configs_are_refused(bad):
    with pytest.raises(ValueError, match="optim"):
        OptimConfig(**bad)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_only_kernels_decay(net, name):
    """With no gradient at all, only decay moves; stacked norms and tables must not."""
    moved = updates_of(OptimConfig(name=name, lr=0.1, weight_decay=0.5), net, zeros(net))
    for kernel, update in (
        (net.blocks.dense.kernel, moved.blocks.dense.kernel),
        (net.conv.kernel, moved.conv.kernel),
    ):
        np.testing.assert_allclose(update[...], -0.05 * kernel[...], rtol=1e-6)
    for still in (moved.blocks.dense.bias, moved.blocks.norm.scale, moved.blocks.modulation, moved.conv.bias):
        assert not np.any(still[...])


def test_adamw_equals_optax_on_plain_arrays(net, getkey):
    gradients = noise(net, getkey())
    ours = updates_of(OptimConfig(lr=0.1, betas=(0.8, 0.9), eps=1e-6), net, gradients)
    tx = optax.adamw(0.1, b1=0.8, b2=0.9, eps=1e-6, weight_decay=0.0)
    update = lambda gradients, leaves: tx.update(gradients, tx.init(leaves), leaves)[0]
    theirs = jax.jit(update)(jax.tree.leaves(gradients), jax.tree.leaves(net))
    for a, b in zip(jax.tree.leaves(ours), theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_clipping_bounds_the_whole_gradient(net, getkey):
    big = jax.tree.map(lambda leaf: 100 * leaf, noise(net, getkey()))
    tx = make_optimizer(OptimConfig(clip=1.0, betas=(0.0, 0.999)))
    _, state = jax.jit(lambda big, net: tx.update(big, tx.init(net), net))(big, net)
    assert float(optax.tree.norm(state[1][0].mu)) == pytest.approx(1.0, rel=1e-5)


def test_muon_orthogonalises_every_layer_by_itself_and_convolutions_as_matrices(net, getkey):
    moved = updates_of(OptimConfig(name="muon", lr=1.0), net, noise(net, getkey()))
    for layer in np.asarray(moved.blocks.dense.kernel[...]):
        values = np.linalg.svd(layer, compute_uv=False)
        assert values.max() / values.min() < 2.5, "one layer's update is not near-orthogonal"
    values = np.linalg.svd(np.asarray(moved.conv.kernel[...]).reshape(-1, 6), compute_uv=False)
    assert values.max() / values.min() < 2.5
    # The same size as Adam's usual update: root mean square 0.2 of the learning rate.
    assert np.sqrt(np.mean(np.square(moved.conv.kernel[...]))) == pytest.approx(0.2, rel=0.3)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_moments_keep_the_parameters_shardings(mesh8, name):
    tx = make_optimizer(OptimConfig(name=name, clip=1.0))
    make = lambda: TrainState.create(Net(rngs=nnx.Rngs(0)), tx, jax.random.key(0))
    shardings = shardings_like(jax.eval_shape(make), mesh8)
    state = jax.jit(make, out_shardings=shardings)()
    inner = (
        state.opt_state[1][0] if name == "adamw" else state.opt_state[1].inner_states["muon"].inner_state[0]
    )
    assert isinstance(inner.mu, Net)
    assert tuple(inner.mu.blocks.dense.kernel[...].sharding.spec) == (None, ("fsdp", "context"), "tensor")
    stepped = jax.jit(lambda s: s.apply(s.model, tx, 0.9), out_shardings=shardings)(state)
    assert jax.tree.structure(stepped) == jax.tree.structure(state)
    assert int(stepped.step) == 1


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_slow_parameters_learn_at_their_share_of_the_rate(net, getkey, name):
    gradients, settings = noise(net, getkey()), {"name": name, "lr": 0.1, "weight_decay": 0.5}
    plain = updates_of(OptimConfig(**settings), net, gradients)
    slow = updates_of(OptimConfig(**settings, slow=("conv", "dense.bias"), slow_factor=0.25), net, gradients)
    for part in (lambda net: net.conv.kernel, lambda net: net.conv.bias, lambda net: net.blocks.dense.bias):
        np.testing.assert_allclose(part(slow)[...], 0.25 * part(plain)[...], rtol=1e-6)
    for part in (lambda net: net.blocks.dense.kernel, lambda net: net.blocks.modulation):
        np.testing.assert_array_equal(part(slow)[...], part(plain)[...])


def test_young_averages_forget_faster():
    assert float(ema_decay(0.999, jnp.array(0))) == pytest.approx(0.1)
    assert float(ema_decay(0.999, jnp.array(10**6))) == pytest.approx(0.999)


def test_the_average_moves_towards_the_model(net):
    moved = ema_update(zeros(net), net, 0.5, jnp.array(10**6))
    np.testing.assert_allclose(moved.conv.kernel[...], 0.5 * net.conv.kernel[...], rtol=1e-6)


def test_draws_differ_from_step_to_step(net):
    state = TrainState.create(net, optax.sgd(0.1), jax.random.key(1))
    draws = {tuple(jax.random.key_data(state.replace(step=jnp.array(n)).draw()).tolist()) for n in range(5)}
    assert len(draws) == 5


def test_only_what_is_named_learns_and_has_moments(net):
    tx = make_optimizer(OptimConfig(lr=1.0, clip=1.0), only=("blocks.dense.",))
    state = jax.eval_shape(tx.init, net)
    moments = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert moments == {(), (3, 8, 4), (3, 4)}
    updates = jax.jit(lambda g, n: tx.update(g, tx.init(n), n)[0])(noise(net, jax.random.key(0)), net)
    assert jnp.abs(updates.blocks.dense.kernel[...]).min() > 0
    assert not jnp.any(updates.conv.kernel[...]) and not jnp.any(updates.blocks.modulation[...])


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_first_moment_may_be_bfloat16(net, name):
    tx = make_optimizer(OptimConfig(name=name, moments="bfloat16"))
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(tx.init, net))]
    assert jnp.bfloat16 in dtypes and jnp.float32 in dtypes
