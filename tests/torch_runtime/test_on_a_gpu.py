"""What can be known of the GPU's path without one: its operations, its graphs, its need of memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_imports import ROOT
from tm_jax.errors import InputError
from tm_jax.torch_runtime import devices
from tm_jax.torch_runtime.random_parts import CONFIGS, random_backend

PROGRAM = Path(__file__).parent / "gpu_program.py"


@pytest.fixture(scope="module")
def asked():
    """What the full width asks a GPU for."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, str(PROGRAM)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_what_a_graph_captures_stays_on_the_gpu(asked):
    """A tensor of the host, or a number asked for, would break the capture or be frozen into the graph."""
    for name in ("bf16", "fp8", "fp8, chunk 7", "vae"):
        assert asked[name]["on_host"] == [], name
        assert "aten._local_scalar_dense.default" not in asked[name]["kernels"]


def test_the_kernels_are_those_that_make_it_fast(asked):
    for name in ("bf16", "fp8", "fp8, chunk 7"):
        kernels = set(asked[name]["kernels"])
        assert "aten._scaled_dot_product_cudnn_attention.default" in kernels
        assert ("aten._scaled_mm.default" in kernels) == name.startswith("fp8")
    assert asked["vae"]["shape"] == [4, 512, 512, 3]


def test_blocks_compile_whole_and_once_for_all(asked):
    """Four functions of a block, none with a break, whichever slot is written."""
    assert asked["graphs"] == {"bf16": 4, "fp8": 4}


def test_what_does_not_fit_is_told_before_it_is_made(monkeypatch):
    config = CONFIGS["wan14b"]
    dit, vae = devices.device("cpu", "x"), devices.device("cpu", "x")
    monkeypatch.setattr(devices, "free_bytes", lambda where: 40 * 10**9)
    with pytest.raises(InputError, match=r"cpu has 40.0 GB free, the model needs 5\d.\d GB there in bf16"):
        random_backend("wan14b", config.rollout, "bf16", dit, vae)
    monkeypatch.setattr(devices, "free_bytes", lambda where: 80 * 10**9)
    devices.check_memory(config, "bf16", dit, vae)
    assert 10**8 < devices.host_free_bytes() < 10**13
