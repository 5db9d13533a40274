"""Fixtures that every test shares.  Eight virtual CPU devices are made before JAX is imported.

Tests compile far more than they compute: XLA optimises less than it would.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1"
)

import itertools

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=0, help="seed of the shapes and weights that tests draw")


@pytest.fixture
def seed(request) -> int:
    """The seed given on the command line."""
    return request.config.getoption("--seed")


@pytest.fixture
def getkey(seed):
    """A function that returns a fresh JAX key at every call."""
    counter = itertools.count()
    return lambda: jax.random.fold_in(jax.random.key(seed), next(counter))


@pytest.fixture
def rng(seed) -> np.random.Generator:
    """A NumPy generator from the seed."""
    return np.random.default_rng(seed)


@pytest.fixture
def mesh8():
    """A mesh of eight virtual devices: data 2, fsdp 2, tensor 2."""
    from tm_jax.sharding import MeshConfig, make_mesh

    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def relative_error(ours, reference) -> float:
    """‖ours − reference‖ / ‖reference‖ in float64."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape, f"shape {ours.shape} against {reference.shape}"
    assert np.isfinite(ours).all(), "ours is not finite"
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


@pytest.fixture(name="relative_error")
def _relative_error():
    return relative_error
