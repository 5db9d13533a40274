"""Compiling is what these tests would spend their time on: without optimisation it takes half as long."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compiling():
    """XLA without its optimisations."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
