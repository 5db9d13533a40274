"""Ulysses over processes gives one process's video; a rank that dies ends the others with a sentence."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_imports import JAX, ROOT
from tests.torch_runtime import exports
from tm_jax.errors import InputError
from tm_jax.export.write import write_export
from tm_jax.torch_runtime.engine import load_engine
from tm_jax.torch_runtime.export_format import read_config
from tm_jax.torch_runtime.parallel import Ulysses
from tm_jax.torch_runtime.ranks import check_division, rank_and_world

PROGRAM = Path(__file__).parent / "rank_program.py"


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    write_export(exports.many_headed_checkpoint(folder / "checkpoint"), folder / "export", "f32")
    picture, sound = exports.inputs((16, 16))
    np.savez(folder / "inputs.npz", picture=picture, sound=sound)
    return folder


def start(world: int, *arguments: str) -> list[subprocess.Popen]:
    """The processes as torchrun starts them, on CPUs and without JAX."""
    port = str(29_500 + os.getpid() % 1000)
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    without = f"import sys; [sys.modules.__setitem__(name, None) for name in {sorted(JAX)!r}]"
    run = (
        f"{without}; sys.argv = sys.argv[1:]; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return [
        subprocess.Popen(
            [sys.executable, "-c", run, str(PROGRAM), *arguments],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def finish(processes: list[subprocess.Popen], seconds: float) -> list[tuple[int, str]]:
    """Exit status and last words of each; none is left running."""
    try:
        deadline = time.monotonic() + seconds
        said = [process.communicate(timeout=max(1, deadline - time.monotonic()))[1] for process in processes]
        return [(process.returncode, words) for process, words in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()


def test_four_ranks_and_one_for_the_vae_give_the_same_video(export):
    out = export / "frames.npy"
    done = finish(start(5, str(export / "export"), str(export / "inputs.npz"), str(out)), 300)
    assert [code for code, _ in done] == [0] * 5, done
    engine = load_engine(export / "export", dit_device="cpu")
    with np.load(export / "inputs.npz") as given:
        expected = [c.frames for c in engine.stream(given["picture"], [given["sound"]], seed=3)]
    made, expected = np.load(out).astype(int), np.concatenate(expected).astype(int)
    assert made.shape == expected.shape and np.ptp(made) > 40
    assert np.abs(made - expected).max() <= 1


def test_a_rank_that_dies_ends_the_others_with_one_sentence(export):
    arguments = (str(export / "export"), str(export / "inputs.npz"), str(export / "none.npy"), "1")
    done = finish(start(3, *arguments), 300)
    assert done[1][0] == 9
    for rank in (0, 2):
        code, words = done[rank]
        assert code == 2 and f"rank {rank}: Rank {rank} lost rank 1: see its last words" in words
        assert "Traceback" not in words


def test_four_ranks_exchange_and_return(monkeypatch):
    """The exchanges of four ranks, played by one process over plain tensors."""
    tensors, ranks = torch.arange(2 * 12 * 8 * 2.0).reshape(2, 12, 8, 2), 4
    parts = [tensors.chunk(ranks, 1)[rank].flatten(0, 1) for rank in range(ranks)]  # each frame's r-th part
    split = [part.unflatten(1, (ranks, -1)) for part in parts]
    # What rank 2 gets of all: everyone's tokens, its two heads.
    heads = torch.cat([part[:, 2] for part in split])
    one = Ulysses.__new__(Ulysses)
    one.ranks, one.rank = ranks, 2
    order = one.gathered_order(tensors, 1).flatten(0, 1)
    torch.testing.assert_close(order[:, 4:6], heads)
    torch.testing.assert_close(one.mine(tensors, 1).flatten(0, 1), parts[2])


def test_what_does_not_divide_or_was_not_started_is_told(export, monkeypatch):
    config = read_config(export / "export")
    check_division(config, 2)
    with pytest.raises(InputError, match="4 heads and 4 tokens of a frame do not divide among 3 ranks"):
        check_division(config, 3)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="torchrun"):
        rank_and_world()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(InputError, match="1 rank is too few"):
        rank_and_world()
