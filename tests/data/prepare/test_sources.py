"""Which videos are found, and how they are shared out."""

import json

import pytest

from tm_jax.data.prepare.settings import Filters, PrepareConfig
from tm_jax.data.prepare.sources import Source, find_videos, groups, held_out, list_digest
from tm_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a.MOV", "sub/c.webm", "notes.pdf", ".hidden.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "videos"


def test_folders_files_and_lists_give_each_video_once(folder):
    paths = folder.parent / "paths.txt"
    paths.write_text("videos/b.mp4\n\nvideos/sub/c.webm\n")
    found = find_videos((folder, folder / "b.mp4", paths))
    assert [source.path.name for source in found] == ["a.MOV", "b.mp4", "c.webm"]


def test_a_list_of_objects_brings_prompts_and_boxes(folder):
    listed = folder.parent / "list.jsonl"
    listed.write_text(
        json.dumps({"video": "videos/b.mp4", "prompt": "Somebody sings.", "face_box": [1, 2, 30, 40]})
    )
    assert find_videos((listed,)) == [Source(folder / "b.mp4", "Somebody sings.", (1, 2, 30, 40))]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "\n", "There is no video in .*empty.txt"),
        ("lost.txt", "gone.mp4", r"no video .*gone.mp4 \(line 1 of"),
        ("no.jsonl", "{}", "line 1 of .*no.jsonl: write one JSON object a line"),
        ("odd.jsonl", '{"video": "videos/b.mp4", "face": 1}', 'is to hold "video", "prompt" and "face_box"'),
        ("box.jsonl", '{"video": "videos/b.mp4", "face_box": [5, 5, 1, 9]}', "encloses nothing|is no box"),
    ],
)
def test_faults_of_a_list_are_told(folder, name, content, message):
    (folder.parent / name).write_text(content)
    with pytest.raises(InputError, match=message):
        find_videos((folder.parent / name,))


def test_missing_and_empty_folders_are_told(tmp_path):
    with pytest.raises(InputError, match=r"no video, list or folder .*nowhere: check the path"):
        find_videos((tmp_path / "nowhere",))
    with pytest.raises(InputError, match=r"no video in .*: known endings are \.mp4"):
        find_videos((tmp_path,))


def test_groups_do_not_depend_on_processes_and_few_videos_are_held_out(tmp_path):
    sources = [Source(tmp_path / f"{number:02d}.mp4") for number in range(25)]
    assert [len(group) for group in groups(sources, 10)] == [10, 10, 5]
    assert len(held_out(sources, 0.02)) == 1 and len(held_out(sources, 0.2)) == 5
    assert not held_out(sources[:9], 0.02) and not held_out(sources, 0.0)
    assert held_out(sources, 0.2) == held_out(sources[::-1], 0.2)
    assert list_digest(sources) != list_digest(sources[1:])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"process_index": 2, "process_count": 2}, "from 0 to the count less one"),
        ({"held_out": 1.5}, "is no share"),
        ({"face_box": (5, 5, 5, 9)}, "--face-box .* is no box"),
        ({"videos_per_shard": 0}, "must be 1 or more"),
    ],
)
def test_senseless_flags_are_told(tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        PrepareConfig((tmp_path,), tmp_path, "vae", **fields)


def test_senseless_filters_are_told():
    with pytest.raises(InputError, match="make no sense"):
        Filters(min_seconds=9.0, max_seconds=5.0)
