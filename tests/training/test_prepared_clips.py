"""The teacher trains on prepared clips: from their shards to a batch's element, or one sentence."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.tiny import CONFIG, videos
from tm_jax.data.encoded_videos import EncodedConfig
from tm_jax.data.latent_clips import ClipConfig
from tm_jax.data.prepare.shards import to_bytes, write_records
from tm_jax.errors import InputError
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.teacher_phase import TeacherExperiment

IMAGE_WIDTH = 20
MODEL = dataclasses.replace(CONFIG, image_width=IMAGE_WIDTH, image_length=5)
CLIP = ClipConfig(chunk=1, chunks=3, text_length=3, text_width=8)


@pytest.fixture
def folder(tmp_path, rng) -> Path:
    """Three clips with CLIP's features and a prompt, as they are prepared; the third one held out."""
    made = [
        dataclasses.replace(
            video,
            image_tokens=rng.normal(size=(5, IMAGE_WIDTH)).astype(np.float16),
            text_tokens=rng.normal(size=(2, 8)).astype(np.float16),
        )
        for video in videos(3, frames=9)
    ]
    facts = {
        "reference_frames": 21, "latent_channels": 4, "audio_width": 6, "image_width": IMAGE_WIDTH,
        "text_width": 8,
    }  # fmt: skip
    (tmp_path / "reports").mkdir()
    (tmp_path / "prepare.json").write_text(json.dumps({"facts": facts}))
    entries = [
        {"split": split, "clips": [{"reason": None, "latents": 9}]} for split in ("train", "train", "heldout")
    ]
    (tmp_path / "reports" / "00000-of-00001.json").write_text(json.dumps({"videos": entries}))
    write_records(tmp_path / "shards" / "00000-of-00001.array_record", [to_bytes(video) for video in made])
    return tmp_path


def experiment(folder: Path, **changes) -> TeacherExperiment:
    loop = LoopConfig("t", run_dir=folder / "run")
    made = TeacherExperiment(loop, MODEL, folder / "no.safetensors", clip=CLIP, prepared=folder)
    return dataclasses.replace(made, **changes)


def test_clips_come_with_their_prompt_and_picture(folder):
    data = experiment(folder).build().dataset()
    assert len(data) == 2
    clip = data[0]
    told = clip["conditioning"]
    assert clip["latents"].shape == (3, 2, 2, 4) and told["condition"].shape == (3, 2, 2, 8)
    assert told["image_tokens"].shape == (5, IMAGE_WIDTH) and told["audio_tokens"].shape == (3, 16, 6)
    assert told["text_tokens"][:2].all() and not told["text_tokens"][2:].any()


def test_clips_of_other_encoders_are_refused(folder):
    other = dataclasses.replace(MODEL, audio_width=80, text_width=16)
    with pytest.raises(InputError, match=r"audio_width 6 in the clips, 80 in the model; text_width 8 .* 16"):
        experiment(folder, model=other, clip=dataclasses.replace(CLIP, text_width=16)).build().dataset()
    with pytest.raises(ValueError, match=r"clip\.text_width 8: the model reads 16"):
        experiment(folder, model=other)
    with pytest.raises(InputError, match="prepare"):
        experiment(folder, prepared=folder / "nothing").build().dataset()


def test_clips_of_another_size_are_refused(folder):
    about = folder / "prepare.json"
    facts = json.loads(about.read_text())["facts"] | {"size": [16, 32], "spatial_stride": 8}
    about.write_text(json.dumps({"facts": facts}))
    with pytest.raises(InputError, match=r"are of 2×4 latents and training is set to 2×2: .*--size 16 16"):
        experiment(folder, videos=EncodedConfig(size=16)).build().dataset()


def test_missing_and_damaged_shards_are_counted_up_to_a_share(folder, capsys):
    """Ten more shards like the first: one is lost, one cut off, and a record of a third is damaged."""
    report, shard = (
        folder / "reports" / "00000-of-00001.json",
        folder / "shards" / "00000-of-00001.array_record",
    )
    for number in range(10):
        name = f"{number:05d}-of-00010"
        (folder / "reports" / f"{name}.json").write_bytes(report.read_bytes())
        (folder / "shards" / f"{name}.array_record").write_bytes(shard.read_bytes())
    report.unlink()
    shard.unlink()
    content = (folder / "shards" / "00003-of-00010.array_record").read_bytes()
    (folder / "shards" / "00003-of-00010.array_record").unlink()
    (folder / "shards" / "00005-of-00010.array_record").write_bytes(content[: len(content) // 2])
    lenient = experiment(folder, loop=LoopConfig("t", run_dir=folder / "run", skip=0.2))
    assert len(lenient.build().dataset()) == 16
    assert "4 of the 20 elements" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"4 of the 20 elements .* more than the 1\.0% of --loop\.skip"):
        experiment(folder).build().dataset()
