"""Records come back as they went in, and folders that are not whole are told."""

import json

import grain
import numpy as np
import pytest

from tm_jax.data.latent_clips import ClipConfig, EncodedVideo, LatentClips
from tm_jax.data.loader import loader
from tm_jax.data.prepare.shards import PreparedVideos, from_bytes, to_bytes, write_json, write_records
from tm_jax.errors import InputError

CLIP = ClipConfig(chunk=2, chunks=2, text_length=5, text_width=6)


def video(rng, frames=6, **members):
    return EncodedVideo(
        latents=rng.normal(size=(frames, 2, 2, 3)).astype(np.float16),
        reference=rng.normal(size=(6, 2, 2, 3)).astype(np.float16),
        audio_tokens=rng.normal(size=(8 * frames - 6, 4)).astype(np.float16),
        mode=rng.integers(0, 2, frames).astype(np.int32),
        face_mask=np.ones((2, 2), np.float32),
        **members,
    )


@pytest.fixture
def folder(tmp_path, rng):
    """Two shards: 2 clips of one video and 1 of a held-out one; then 1 long clip and 1 short one."""
    features = {"image_tokens": np.ones((3, 7), np.float16), "text_tokens": np.ones((2, 6), np.float16)}
    groups = [[("a", "train", [6, 8]), ("b", "heldout", [6])], [("c", "train", [9, 3])]]
    facts = {"reference_frames": 6, "latent_channels": 3, "audio_width": 4, "image_width": 7}
    write_json(tmp_path / "prepare.json", {"facts": {**facts, "text_width": 6}})
    for number, group in enumerate(groups):
        records = [to_bytes(video(rng, frames, **features)) for *_, clips in group for frames in clips]
        write_records(tmp_path / "shards" / f"{number:05d}-of-00002.array_record", records)
        told = [
            {"split": split, "clips": [{"reason": "cuts"}, *[{"reason": None, "latents": n} for n in clips]]}
            for _, split, clips in group
        ]
        write_json(tmp_path / "reports" / f"{number:05d}-of-00002.json", {"videos": told})
    return tmp_path


def test_a_record_comes_back_bit_for_bit(rng):
    for members in ({}, {"text_tokens": rng.normal(size=(2, 6)).astype(np.float16)}):
        there = video(rng, **members)
        back = from_bytes(to_bytes(there))
        for name, value in vars(there).items():
            np.testing.assert_array_equal(getattr(back, name), value)
    assert back.image_tokens is None


def test_the_source_gives_the_clips_of_its_split(folder):
    assert [len(v.latents) for v in PreparedVideos(folder)] == [6, 8, 9, 3]
    assert [len(v.latents) for v in PreparedVideos(folder, split="heldout")] == [6]
    cut = PreparedVideos(folder, clip=CLIP)
    assert [len(v.latents) for v in cut] == [6, 8, 9]
    assert {len(v.reference) for v in cut} == {CLIP.frames}


def test_grain_makes_the_batches_that_training_takes(folder):
    dataset = grain.MapDataset.source(PreparedVideos(folder, clip=CLIP)).seed(0).random_map(LatentClips(CLIP))
    batch = next(loader(dataset, 3, seed=0))
    assert batch["latents"].shape == (3, 4, 2, 2, 3)
    conditioning = batch["conditioning"]
    assert conditioning["condition"].shape == (3, 4, 2, 2, 7)
    assert conditioning["image_tokens"].shape == (3, 3, 7)
    np.testing.assert_array_equal(conditioning["text_tokens"][:, :, 0], [[1, 1, 0, 0, 0]] * 3)


def test_a_prompt_that_does_not_fit_is_told(folder):
    short = ClipConfig(chunk=2, chunks=2, text_length=1, text_width=6)
    with pytest.raises(ValueError, match="a prompt of 2 tokens × 6 does not fit text_length 1"):
        LatentClips(short).random_map(PreparedVideos(folder)[0], np.random.default_rng(0))


def test_models_of_other_sizes_are_told(folder):
    videos = PreparedVideos(folder)
    videos.check(latent_channels=3, audio_width=4)
    with pytest.raises(InputError, match="audio_width 4 in the clips, 768 in the model; text_width 6"):
        videos.check(audio_width=768, text_width=4096)
    with pytest.raises(InputError, match="prepare them with --reference-frames 8"):
        PreparedVideos(folder, clip=ClipConfig(chunk=2, chunks=4))


def test_a_folder_that_is_not_whole_is_told(folder, tmp_path):
    with pytest.raises(InputError, match=r"no .*nowhere/prepare.json: give a folder"):
        PreparedVideos(tmp_path / "nowhere")
    report = folder / "reports" / "00001-of-00002.json"
    told = report.read_text()
    report.unlink()
    with pytest.raises(InputError, match=r"Only 1 of 2 shards in .* are done: run the same prepare command"):
        PreparedVideos(folder)
    report.write_text(told[:40])
    with pytest.raises(InputError, match=r"00001-of-00002.json is damaged"):
        PreparedVideos(folder)
    emptied = json.loads(told)
    emptied["videos"][0]["clips"].pop()
    report.write_text(json.dumps(emptied))
    with pytest.raises(InputError, match="are not those of its reports: copy the folder again"):
        PreparedVideos(folder)
    report.write_text(told)
    (folder / "shards" / "00001-of-00002.array_record").unlink()
    with pytest.raises(InputError, match=r"lacks the shard 00001-of-00002.array_record"):
        PreparedVideos(folder)


def test_clips_that_are_all_too_short_are_told(folder):
    write_json(folder / "prepare.json", {"facts": {"reference_frames": 99}})
    with pytest.raises(InputError, match=r"only 4 clips too short for training: see .*report\.txt"):
        PreparedVideos(folder, clip=ClipConfig(chunk=10, chunks=3))


def test_writing_where_nothing_can_be_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"Writing .* failed .*: give a folder with room and rights"):
        write_json(tmp_path / "file" / "a.json", {})
    with pytest.raises(InputError, match=r"Writing .* failed"):
        write_records(tmp_path / "file" / "a.array_record", [b"1"])
