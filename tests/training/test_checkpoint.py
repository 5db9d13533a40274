"""Checkpoints: what comes back, what survives donation, and what a damaged one says."""

import dataclasses

import flax.struct
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tm_jax.data.loader import loader
from tm_jax.errors import InputError
from tm_jax.sharding import MeshConfig, make_mesh, shardings_like
from tm_jax.training.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Config:
    model: int = 1
    lr: float = 0.1


@flax.struct.dataclass
class State:
    weights: jax.Array
    key: jax.Array
    step: jax.Array


def init(key):
    return State(jnp.arange(2**18, dtype=jnp.float32), key, jnp.zeros((), jnp.int32))


@pytest.fixture
def placed():
    mesh = make_mesh(MeshConfig())
    abstract = jax.eval_shape(init, jax.random.key(3))
    shardings = shardings_like(abstract, mesh)
    return abstract, shardings, jax.jit(init, out_shardings=shardings)(jax.random.key(3))


def batches():
    return loader(grain.MapDataset.source(np.arange(10)), 2, 0, threads=1)


def open_checkpoints(folder, config=Config(), keep=2):
    return Checkpoints(folder, keep=keep, config=config, same=("model",))


def test_state_keys_and_the_place_in_the_data_come_back_although_the_state_was_donated(placed, tmp_path):
    abstract, shardings, state = placed
    data = batches()
    next(data)
    checkpoints = open_checkpoints(tmp_path)
    overwrite = jax.jit(lambda s: s.replace(weights=jnp.full_like(s.weights, -1)), donate_argnums=0)
    checkpoints.save(7, state, data)
    overwrite(state)
    expected = [next(data).tolist() for _ in range(3)]
    checkpoints.close()

    fresh, other = open_checkpoints(tmp_path, Config(lr=0.2)), batches()
    assert fresh.latest() == 7
    restored = fresh.restore(7, abstract, shardings, other)
    np.testing.assert_array_equal(restored.weights, np.arange(2**18))
    np.testing.assert_array_equal(jax.random.key_data(restored.key), jax.random.key_data(jax.random.key(3)))
    assert [next(other).tolist() for _ in range(3)] == expected
    fresh.close()


def test_only_the_newest_are_kept(placed, tmp_path):
    checkpoints = open_checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, placed[2], batches())
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["2", "3"]


@pytest.mark.parametrize("part", ["meta", "state", "data"])
def test_a_damaged_checkpoint_is_one_sentence(placed, tmp_path, part):
    abstract, shardings, state = placed
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(1, state, batches())
    checkpoints.close()
    for path in (tmp_path / "1" / part).rglob("*"):
        if path.is_file() and path.name not in ("commit_success.txt", "_METADATA"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fresh = open_checkpoints(tmp_path)
    with pytest.raises(InputError, match="1 cannot be read") as error:
        fresh.restore(1, abstract, shardings, batches())
    assert "\n" not in str(error.value)
    fresh.close()


def test_another_config_names_the_fields(placed, tmp_path):
    abstract, shardings, state = placed
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(1, state, batches())
    checkpoints.close()
    fresh = open_checkpoints(tmp_path, Config(model=2))
    with pytest.raises(InputError, match="model: 1 against 2"):
        fresh.restore(1, abstract, shardings, batches())
    fresh.close()
