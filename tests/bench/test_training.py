"""The comparison of a training step with PyTorch: the same loss and gradients on both sides."""

import re

from tm_jax.bench.__main__ import main


def test_the_command_compares_equal_gradients(capsys):
    assert main(["training", "--size", "tiny", "--blocks", "1"]) == 0
    told = capsys.readouterr().out
    ours, theirs, ratio = map(
        float, re.search(r"ours (\d+) ms, PyTorch (\d+) ms: ([\d.]+) times", told).groups()
    )
    assert ours > 0 and theirs > 0 and ratio > 0
    loss, gradients = map(float, re.search(r"loss ([\d.e-]+), of all gradients ([\d.e-]+)", told).groups())
    assert loss < 1e-5 and gradients < 1e-4


def test_no_steps_at_all_are_refused(capsys):
    assert main(["training", "--blocks", "0"]) == 2
    assert "give at least 1" in capsys.readouterr().err
