"""A distillation by two processes of four devices is one process's of eight; one goes on where two were."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.training import tiny_distillation as tiny
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.pretrained.sliced import index_of, is_sliced
from tm_jax.pretrained.weights import load_model
from tm_jax.training.loop import train

PORT = 20000 + os.getpid() % 20000
STEPS = 2


@pytest.fixture(autouse=True)
def quick_compiling():
    """XLA without its optimisations, as in the processes."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def run_two(world: Path, run: Path) -> list[str]:
    """What the processes wrote to standard error."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4", "XLA_FLAGS": ""}
    processes = []
    for process in range(2):
        flags = {
            "loop.run-dir": run, "loop.steps": STEPS, "loop.checkpoint-every": 1, "rollout.steps": 1,
            "loop.cluster.coordinator": f"127.0.0.1:{PORT}", "loop.cluster.processes": 2,
            "loop.cluster.process": process,
        }  # fmt: skip
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "tests.training.tiny_distillation", str(world), *words]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    told = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    return told


def test_two_processes_are_one_and_one_goes_on_where_two_were(tmp_path):
    world, two, one = tmp_path / "world", tmp_path / "two", tmp_path / "one"
    tiny.prepare(world)
    run_two(world, two)
    # Each wrote what it held, and the first one alone the log.
    assert is_sliced(two / "weights.safetensors") and len(list(two.glob("weights.step-2.*"))) == 2
    assert set(json.loads(index_of(two / "weights.safetensors").read_text())["weight_map"].values()) == {
        path.name for path in two.glob("weights.step-2.*")
    }
    log = [json.loads(line) for line in (two / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2] and len(list(two.glob("events.*"))) == 1

    shutil.copytree(two, one)
    shutil.rmtree(one / "checkpoints" / "2")
    config = tiny.student(world, run_dir=one, steps=STEPS)
    config = tiny.dataclasses.replace(config, rollout=tiny.RolloutConfig(chunk=1, steps=1))
    train(config.build(), config.loop, config)
    alone = [json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in alone] == [1, 2]
    for name in ("critic_loss", "dmd_loss", "regression_loss", "student_grad_norm", "critic_grad_norm"):
        assert alone[1][name] == pytest.approx(log[1][name], rel=1e-5), name
    ours, theirs = (load_model(run / "weights.safetensors", DiT, DiTConfig) for run in (one, two))
    for first, second in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)
    assert not is_sliced(one / "weights.safetensors") and not list(one.glob("weights.step-2.*"))
