"""The comparison of speed with PyTorch: the same function on both sides, and one sentence without PyTorch."""

import re
import sys

import pytest

from tm_jax.bench import pytorch
from tm_jax.bench.__main__ import main


def test_the_command_compares_equal_results_and_prints_a_table(capsys, monkeypatch):
    monkeypatch.setattr(pytorch, "_PAUSE", 0.0)
    assert main(["pytorch", "--size", "tiny", "--repeats", "1", "--blocks", "2"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows[2:]] == ["VAE decode", "VAE encode", "DiT forward"]
    for row in rows[2:]:
        ours, theirs, ratio, error = map(float, row[2:])
        assert ours > 0 and theirs > 0 and ratio == pytest.approx(theirs / ours, rel=0.1)
        assert error < 1e-5, row


@pytest.mark.parametrize("package", ["torch", "diffusers"])
def test_a_missing_package_is_named(package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["pytorch", "--size", "tiny"]) == 2
    assert re.search(rf"needs {package}, which is not installed: pip install", capsys.readouterr().err)


def test_no_repeats_at_all_are_refused(capsys):
    assert main(["pytorch", "--repeats", "0"]) == 2
    assert "give at least 1" in capsys.readouterr().err
