"""A recipe does each of its parts once, in order, and goes on where it was interrupted."""

import dataclasses
import os
from pathlib import Path

import pytest

from tests.training.tiny import CLIP, CONFIG
from tm_jax.data.latent_clips import ClipConfig
from tm_jax.errors import InputError
from tm_jax.evaluation import evaluate
from tm_jax.pretrained import runs
from tm_jax.training import interpolate, loop, recipe, release
from tm_jax.training.ablation import VARIANTS, Ablation
from tm_jax.training.decoder_phase import DecoderExperiment
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.student_experiment import StudentExperiment
from tm_jax.training.teacher_phase import TeacherExperiment


@pytest.fixture
def small(tmp_path):
    at = lambda name: LoopConfig(name=name, steps=2, run_dir=tmp_path / name)
    (tmp_path / "vae").write_text("")
    shared = {"model": CONFIG, "vae": tmp_path / "vae", "visemes": Path("visemes"), "clip": CLIP}
    teacher = TeacherExperiment(loop=at("teacher"), **shared)
    student = StudentExperiment(
        loop=at("student"), teacher=tmp_path / "teacher" / "weights.safetensors", **shared
    )
    made = tmp_path / "student" / "weights.safetensors"
    decoder = DecoderExperiment(loop=at("decoder"), vae=shared["vae"], student=made)
    return recipe.Recipe(teacher, student, decoder, clips=3, out=tmp_path / "out")


@pytest.fixture
def parts(monkeypatch):
    """What was done, in order; the recipe's parts are replaced by notes of theirs."""
    done, saved = [], {}

    def train(phase, config, experiment):
        done.append(config.name)
        saved[config.folder / "checkpoints"] = [done.count("interrupt") or config.steps]
        config.folder.mkdir(exist_ok=True)
        (config.folder / "weights.safetensors").write_text("")

    def measure(arguments):
        done.append(f"figures by {arguments.vae.parent.name}")
        assert arguments.student.name == "weights.safetensors" and arguments.clips == 3
        arguments.out.mkdir(parents=True)
        (arguments.out / "report.json").write_text("{}")

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(runs, "saved_steps", lambda folder: saved.get(folder, []))
    monkeypatch.setattr(evaluate, "evaluate", measure)
    monkeypatch.setattr(release, "release", lambda arguments: done.append(f"ship {arguments.out.name}"))
    monkeypatch.setattr(TeacherExperiment, "build", lambda self: None)
    monkeypatch.setattr(StudentExperiment, "build", lambda self: None)
    monkeypatch.setattr(DecoderExperiment, "build", lambda self: None)
    return done


def test_every_part_is_done_once(small, parts):
    small.run()
    assert parts == ["teacher", "student", "decoder", "figures by decoder", "ship weights"]
    small.run()
    assert parts[5:] == ["ship weights"]


def test_a_part_of_the_way_is_shipped(small, parts, monkeypatch):
    part = small.student.loop.folder / "0.3_of_the_way.safetensors"
    with pytest.raises(ValueError, match=r"the recipe's student is .*0.3_of_the_way"):
        dataclasses.replace(small, share=0.3)
    with pytest.raises(ValueError, match="share 0"):
        dataclasses.replace(small, share=0.0)
    decoder = dataclasses.replace(small.decoder, student=part)
    small = dataclasses.replace(small, share=0.3, decoder=decoder)

    def write(told):
        assert (told.start.name, told.end.name, told.share) == ("warmup.safetensors", made, 0.3)
        told.out.write_text("")
        parts.append("between")

    made = "weights.safetensors"
    monkeypatch.setattr(interpolate, "interpolate", write)
    monkeypatch.setattr(evaluate, "evaluate", lambda told: parts.append(f"figures of {told.student.name}"))
    small.run()
    assert parts == ["teacher", "student", "between", "decoder", f"figures of {part.name}", "ship weights"]
    small.run()
    assert parts[6:] == [f"figures of {part.name}", "ship weights"]
    end = small.student.loop.folder / made
    os.utime(end, (end.stat().st_atime, part.stat().st_mtime + 5))
    small.run()
    assert parts[8] == "between"


def test_an_interrupted_training_ends_the_recipe_and_is_gone_on_with(small, parts):
    parts.append("interrupt")
    with pytest.raises(InputError, match="teacher is not done"):
        small.run()
    parts.remove("interrupt")
    small.run()
    assert parts == ["teacher", "teacher", "student", "decoder", "figures by decoder", "ship weights"]


def test_parts_that_do_not_fit_each_other_are_refused(small):
    with pytest.raises(ValueError, match="differ in vae"):
        dataclasses.replace(small, student=dataclasses.replace(small.student, vae=Path("other")))
    with pytest.raises(ValueError, match="the recipe's teacher"):
        dataclasses.replace(small, student=dataclasses.replace(small.student, teacher=Path("other")))
    with pytest.raises(ValueError, match="the recipe's student"):
        dataclasses.replace(small, decoder=dataclasses.replace(small.decoder, student=Path("other")))


def test_variants_of_an_ablation_differ_as_told_and_take_the_same_steps(small):
    fit = dataclasses.replace(small.student, clip=ClipConfig(chunks=4, text_length=3, text_width=8))
    whole = Ablation(fit, warmup=3, dmd_steps=4)
    steps = {name: whole.experiment(name) for name in VARIANTS}
    assert {experiment.loop.steps - experiment.critic_lead for experiment in steps.values()} == {7}
    turns = [index for index in range(80) if steps["critic first"].turn(index) is not None]
    assert turns[:2] == [index + 60 for index in range(20) if steps["both"].turn(index) is not None][:2]
    trained = [name for name, changes in VARIANTS.items() if "of" not in changes]
    assert len({steps[name].loop.folder for name in trained}) == len(trained)
    assert steps["both, 0.3 of the way"] == steps["both"]
    assert steps["warm-up alone"].warmup == 7 and steps["DMD alone"].warmup == 0
    assert steps["both"].warmup == 3 and steps["both"].rollout == fit.rollout
    assert steps["ρ 0.9"].rollout.correlation == 0.9
    assert steps["chunk 4"].clip.chunk == steps["chunk 4"].rollout.chunk == 4
    with pytest.raises(ValueError, match="the variants are"):
        Ablation(fit, only=("both", "neither"))
