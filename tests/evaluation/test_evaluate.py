"""The whole command on tiny untrained models, and the parts between generators and figures."""

import json

import numpy as np
import pytest

from tests.evaluation.conftest import DIT, READER, SIZE, VAE_CONFIG
from tm_jax.data.puppets import world
from tm_jax.diffusion.sampler import SamplerConfig
from tm_jax.evaluation import conditions, generators, oracle
from tm_jax.evaluation.__main__ import Arguments
from tm_jax.evaluation.evaluate import evaluate
from tm_jax.evaluation.measures import join, measure
from tm_jax.pretrained.weights import save_model


def test_lengths_fill_windows_and_chunks():
    assert generators.clip_frames(6.0) == 153
    assert generators.clip_frames(3.0) == 81


def test_windows_of_the_teacher_meet_at_its_seams(tiny_dit, tiny_vae):
    teacher = generators.TeacherSampler(tiny_dit, tiny_vae, SamplerConfig(steps=1))
    assert teacher.seams(153) == [81]
    assert teacher.seams(81) == []


def test_seams_do_not_count_as_motion(tiny_reader, rng):
    still = np.repeat(rng.integers(0, 255, (1, 1, SIZE, SIZE, 3)), 153, axis=1).astype(np.uint8)
    jump = still.copy()
    jump[:, 81:] = 255 - jump[:, 81:]
    cut = measure(tiny_reader, jump, still, cuts=[81])
    assert cut.pictures["motion"][0] == cut.pictures["flicker"][0] == cut.pictures["at_border"][0] == 0
    assert cut.head[0] == pytest.approx(0, abs=1e-10)
    whole = measure(tiny_reader, jump, still)
    assert whole.pictures["motion"][0] > 0 and whole.pictures["at_border"][0] > 0
    both = join([cut, cut])
    assert both.opening.shape == (2, 153) and both.pictures["motion"].shape == (2,)


@pytest.fixture
def weights(tmp_path, tiny_reader, tiny_vae, tiny_dit):
    save_model(tmp_path / "reader.safetensors", tiny_reader, READER)
    save_model(tmp_path / "vae.safetensors", tiny_vae, VAE_CONFIG)
    save_model(tmp_path / "dit.safetensors", tiny_dit, DIT)
    return tmp_path


def test_the_whole_evaluation_runs(weights, capsys, monkeypatch):
    grey = lambda who, motion, size, look: np.random.default_rng(0).integers(
        0, 255, (len(motion), size, size, 3), np.uint8
    )
    monkeypatch.setattr(world, "render", grey)
    train = oracle.train_oracle
    quick = oracle.OracleConfig(steps=5, batch_size=16)
    monkeypatch.setattr(oracle, "train_oracle", lambda sounds, openings: train(sounds, openings, quick))
    dit = weights / "dit.safetensors"
    arguments = Arguments(
        what="student",
        clips=2,
        seconds=3.0,
        out=weights / "report",
        vae=weights / "vae.safetensors",
        reader=weights / "reader.safetensors",
        teacher=dit,
        warmup=dit,
        student=dit,
        steps=2,
        batch=2,
        size=SIZE,
        oracle_clips=2,
    )
    figures = {figure.name: figure for figure in evaluate(arguments)}
    assert figures["student: Fréchet against baselines"].value == pytest.approx(1)
    assert np.isfinite(figures["vae: PSNR"].value)
    report = json.loads((weights / "report" / "report.json").read_text())
    assert len(report["figures"]) == len(figures)
    for name in ("openings", "metrics", "frames"):
        assert (weights / "report" / f"{name}.png").exists()
    assert "targets missed" in capsys.readouterr().out


def test_conditions_are_reported_by_name(weights, monkeypatch):
    monkeypatch.setattr(conditions, "CONDITIONS", {"as it is": {}, "noise at 10 dB": {"snr": 10.0}})
    paths = {name: weights / f"{name}.safetensors" for name in ("reader", "vae")}
    arguments = conditions.Arguments(
        clips=1, seconds=3.0, size=SIZE, student=weights / "dit.safetensors", out=weights / "c", **paths
    )
    text = conditions.report(arguments)
    assert "student: as it is" in text and "≥ 0.85" in text and "teacher" not in text
    assert json.loads((weights / "c" / "report.json").read_text())["about"]["weights"]["student"] is not None
