"""The whole command on real clips with tiny random networks: complete, resumable, shared out, and honest."""

import contextlib
import dataclasses
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from tests.data.prepare.world import SIZE, VAE_SMALL, face, scene, talking, tiny_vae, voice, write
from tests.pretrained.test_load import CONFIG_JSON, tensors_of
from tests.pretrained.test_load import write as write_public
from tm_jax.audio.log_mel import LogMel
from tm_jax.data.latent_clips import ClipConfig
from tm_jax.data.prepare import clips, shards, texts, work
from tm_jax.data.prepare.__main__ import main
from tm_jax.data.prepare.settings import Filters, PrepareConfig
from tm_jax.data.prepare.shards import PreparedVideos, read_json, read_records
from tm_jax.errors import InputError
from tm_jax.media.files import alone
from tm_jax.pretrained.prompts import DEFAULT_PROMPT, Prompt, save_prompt
from tm_jax.pretrained.weights import save_model

PIECES = ["<pad>", "</s>", "<unk>", "▁", "▁A", "▁person", "▁sings", "s", "."]
FLAGS = ["--size", "32", "32", "--filters.min-seconds", "1", "--filters.look-every", "12"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Four videos (one without a face, one that is none) and networks of every kind."""
    root = tmp_path_factory.mktemp("prepare")
    (root / "videos").mkdir()
    write(root / "videos" / "a.mp4", talking(1.2, face(120)), voice(1.2))
    write(root / "videos" / "b.mp4", talking(1.2, scene(120)), voice(1.2))
    (root / "videos" / "c.mp4").write_text("no media")
    write(root / "videos" / "d.mkv", talking(1.2, face(120), 30), voice(1.2), rate=30)
    save_model(root / "vae.safetensors", tiny_vae(), VAE_SMALL)
    rng = np.random.default_rng(0)
    for case, folder in (("clip", "image_encoder"), ("umt5", "text_encoder"), ("speech", "speech")):
        write_public(root / "wan" / folder, tensors_of(case, rng)[0], CONFIG_JSON[case])
    vocabulary = [(piece, -float(i)) for i, piece in enumerate(PIECES)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    (root / "wan" / "tokenizer").mkdir()
    tokenizer.save(str(root / "wan" / "tokenizer" / "tokenizer.json"))
    return root


def config(world, out, **fields):
    settings = {"size": SIZE, "videos_per_shard": 2, "reference_frames": 3}
    filters = Filters(min_seconds=1.0, look_every=12)
    return PrepareConfig(
        (world / "videos",), out, str(world / "vae.safetensors"), filters=filters, **settings | fields
    )


@pytest.fixture(scope="module")
def simple(world):
    """One plain run to its end: log-mel, no prompt, no CLIP."""
    report = work.prepare(config(world, world / "simple"))
    assert report.complete and report.kept == 2 and report.videos == 4
    return world / "simple"


@pytest.fixture
def looked(world, simple, monkeypatch):
    """Names of the videos that were looked at; the networks of several runs are loaded once."""
    loaded = work.load_encoders(config(world, simple))
    monkeypatch.setattr(work, "load_encoders", lambda config: loaded)
    names, survey = [], work.survey

    def noted(source, *args, **settings):
        names.append(source.path.name)
        return survey(source, *args, **settings)

    monkeypatch.setattr(work, "survey", noted)
    return names


def records(out):
    return [record for path in sorted((out / "shards").iterdir()) for record in read_records(path)]


def test_every_member_comes_from_its_network(world, monkeypatch, capsys):
    listed = world / "list.jsonl"
    lines = [{"video": "videos/a.mp4", "prompt": "A person sings."}, {"video": "videos/d.mkv"}]
    listed.write_text("\n".join(map(json.dumps, lines)))
    networks = [
        *("--vae", str(world / "vae.safetensors"), "--speech", str(world / "wan" / "speech")),
        *("--image", str(world / "wan"), "--text", str(world / "wan")),
    ]
    out = ["--videos", str(listed), "--out", str(world / "full"), "--reference-frames", "3"]
    monkeypatch.setattr(sys, "argv", ["prepare", *out, *networks, *FLAGS])
    assert main() == 0
    assert "2 videos, 1 of 1 shards done" in capsys.readouterr().out
    videos = PreparedVideos(world / "full", clip=ClipConfig(chunk=1, chunks=2))
    sizes = {"latent_channels": 3, "audio_width": 16, "image_width": 16, "text_width": 16}
    videos.check(**sizes)
    # ▁A ▁person ▁sings . </s>, and the usual prompt, most of it unknown to this tokenizer.
    assert [len(video.text_tokens) for video in videos] == [5, 9]
    for video in videos:
        assert video.latents.shape == (8, 8, 8, 3) and video.reference.shape == (2, 8, 8, 3)
        assert video.audio_tokens.shape == (58, 16) and video.image_tokens.shape == (5, 16)
        assert video.mode[-1] == 1 and 4 < video.face_mask.sum() < 64
        for name in ("latents", "audio_tokens", "image_tokens", "text_tokens"):
            values = getattr(video, name).astype(np.float32)
            assert np.isfinite(values).all() and values.std() > 0
    # The prompts' embeddings are kept: a run in the same folder needs no text encoder.
    monkeypatch.setattr(texts, "embed_prompts", None)
    (world / "full" / "reports" / "00000-of-00001.json").unlink()
    assert main() == 0


def test_the_sound_of_a_clip_is_the_video_s_own(simple):
    for video in PreparedVideos(simple):
        expected = LogMel().tokens(voice(1.2))[: len(video.audio_tokens)]
        kept = slice(3, 55)
        assert np.corrcoef(video.audio_tokens[kept].ravel(), expected[kept].ravel())[0, 1] > 0.97


def test_the_report_tells_what_became_of_every_video(simple):
    report = read_json(simple / "report.json")
    fates = {video["source"][-5:]: [c["reason"] for c in video["clips"]] for video in report["videos"]}
    assert fates == {"a.mp4": [None], "b.mp4": ["no_face"], "c.mp4": ["unreadable"], "d.mkv": [None]}
    table = (simple / "report.txt").read_text()
    assert "kept                        2" in table and "c.mp4 is no media file" in table
    assert "thumbnail" not in json.dumps(report) and (simple / "report.png").stat().st_size > 10_000
    assert not (simple / "staging").exists()


def test_a_run_that_is_killed_goes_on_and_ends_the_same(world, simple, tmp_path, looked, monkeypatch):
    out, publish = tmp_path / "out", shards.publish
    deaths = 0
    for allowed in (0, 2, 4, 1, 6):
        left = iter(range(allowed))

        def dying(partial, path, left=left):
            if next(left, None) is None:
                partial.write_bytes(partial.read_bytes()[:20])
                raise KeyboardInterrupt
            publish(partial, path)

        done = [read_json(path) for path in out.glob("staging/*.json")]
        done += [video for path in out.glob("reports/*.json") for video in read_json(path)["videos"]]
        looked.clear()
        monkeypatch.setattr(shards, "publish", dying)
        try:
            work.prepare(config(world, out))
        except KeyboardInterrupt:
            deaths += 1
        assert not set(looked) & {video["source"].rsplit("/", 1)[1] for video in done}
        whole = len(list(out.glob("reports/*.json"))) == 2
        with contextlib.nullcontext() if whole else pytest.raises(InputError):
            PreparedVideos(out)
        monkeypatch.setattr(shards, "publish", publish)
    report = work.prepare(config(world, out))
    assert deaths == 5 and report.complete and records(out) == records(simple)


def test_processes_share_the_work_and_make_what_one_makes(world, simple, tmp_path, looked):
    out = tmp_path / "out"
    first = work.prepare(config(world, out, process_index=0, process_count=2))
    assert looked == ["a.mp4", "b.mp4"] and (first.shards, first.shards_wanted) == (1, 2)
    last = work.prepare(config(world, out, process_index=1, process_count=2))
    assert (
        looked[2:] == ["c.mp4", "d.mkv"]
        and last.complete
        and last.text.split(":")[1:] == ((simple / "report.txt").read_text().rstrip("\n").split(":")[1:])
    )
    assert records(out) == records(simple)
    work.prepare(config(world, out, process_index=2, process_count=3))
    assert len(looked) == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vae": "nowhere/vae.safetensors"}, "no weights file"),
        ({"vae": "{world}/wan/speech"}, "holds a speech and not a vae"),
        ({"speech": "{world}/wan/image_encoder"}, "holds a image and not a speech"),
        ({"text": "{world}/wan/speech"}, "has no tokenizer.json|holds a speech"),
        ({"text": "{world}/vae.safetensors"}, "is no prompt file"),
        ({"size": (30, 32)}, "--size 30 32 does not fit the VAE: give multiples of 4"),
        ({"videos": "{world}/nowhere"}, "no video, list or folder"),
        ({"out": "{world}/list.txt/out"}, "cannot be written"),
    ],
)
def test_bad_input_is_told_in_one_sentence(world, tmp_path, monkeypatch, capsys, fields, message):
    (world / "list.txt").write_text("videos/a.mp4")
    given = {"videos": "{world}/list.txt", "out": str(tmp_path / "out"), "vae": "{world}/vae.safetensors"}
    flags = FLAGS
    for name, value in (given | fields).items():
        value = [str(side) for side in value] if isinstance(value, tuple) else [value.format(world=world)]
        flags = [*flags, f"--{name}", *value]
    monkeypatch.setattr(sys, "argv", ["prepare", *flags])
    assert main() == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("tm_jax.data.prepare: ") and re.search(message, told)


def test_two_runs_with_one_out_are_not_both_begun(world, tmp_path):
    given = config(world, tmp_path / "out")
    with alone(given.out, "process-0"), pytest.raises(InputError, match="is being written by another run"):
        work.prepare(given)


def test_a_ready_embedding_serves_its_own_prompt_alone(world, tmp_path):
    file = tmp_path / "prompt.safetensors"
    save_prompt(file, Prompt(DEFAULT_PROMPT, np.ones((3, 8), np.float32)))
    given = config(world, tmp_path / "out", text=str(file))
    assert texts.embeddings(given, [given.prompt] * 2)[DEFAULT_PROMPT].shape == (3, 8)
    with pytest.raises(InputError, match=r"of 'A person is talking.' but a video's prompt is 'Sing.'"):
        texts.embeddings(given, ["Sing."])


def test_a_folder_of_other_settings_or_videos_is_refused(world, simple):
    with pytest.raises(InputError, match=r"prepared with other settings .*settings.prompt: "):
        work.prepare(config(world, simple, prompt="Nobody."))
    with pytest.raises(InputError, match="begun with another list of videos: give another --out"):
        work.prepare(PrepareConfig((world / "videos" / "a.mp4",), simple, "any"))


def test_nothing_kept_is_an_error_with_the_report(world, tmp_path, monkeypatch, capsys):
    vae = str(world / "vae.safetensors")
    videos = ["--videos", str(world / "videos" / "b.mp4"), "--out", str(tmp_path / "out"), "--vae", vae]
    monkeypatch.setattr(sys, "argv", ["prepare", *videos, *FLAGS])
    assert main() == 2
    told = capsys.readouterr()
    assert "None of the 1 videos gave a clip" in told.err and "dropped: no_face" in told.out
    with pytest.raises(InputError, match="holds no clip: see"):
        PreparedVideos(tmp_path / "out")


def test_whatever_one_video_raises_drops_that_video_alone(world, simple, tmp_path, looked, monkeypatch):
    """Once while it is looked at, once while its clips are cut; and a name that is not UTF-8."""
    odd = os.fsdecode(b"r\xe9sum\xe9.mp4")
    (tmp_path / "videos").mkdir()
    for name, original in (("a.mp4", "a.mp4"), ("b.mp4", "a.mp4"), ("d.mkv", "d.mkv"), (odd, "a.mp4")):
        (tmp_path / "videos" / name).write_bytes((world / "videos" / original).read_bytes())
    survey, frames_of = work.survey, clips.pictures

    def failing(source, *args, **settings):
        if source.path.name == "a.mp4":
            raise OverflowError("Python int too large\nto convert")
        return survey(source, *args, **settings)

    def breaking(path):
        for index, picture in enumerate(frames_of(path)):
            if path.name == "b.mp4" and index == 9:
                raise AssertionError("no such plane")
            yield picture

    monkeypatch.setattr(work, "survey", failing)
    monkeypatch.setattr(clips, "pictures", breaking)
    given = dataclasses.replace(config(world, tmp_path / "out"), videos=(tmp_path / "videos",))
    report = work.prepare(given)
    assert report.complete and report.kept == 2 and report.videos == 4
    assert re.search(
        r"a.mp4 cannot be decoded \(OverflowError: Python int too large to convert\)", report.text
    )
    assert "b.mp4 cannot be decoded (AssertionError: no such plane)" in report.text and report.text.encode()
    sources = [video["source"] for video in read_json(tmp_path / "out" / "report.json")["videos"]]
    assert any(source.endswith("r\\xe9sum\\xe9.mp4") for source in sources)
    looked.clear()
    assert work.prepare(given).kept == 2 and not looked, "a rerun tries nothing again"


def test_a_video_that_kills_the_process_is_dropped_in_the_end(world, simple, tmp_path, looked, monkeypatch):
    class Killed(BaseException):
        """The death of the process, after which nothing is tidied."""

    survey, unlink = work.survey, Path.unlink

    def deadly(source, *args, **settings):
        if source.path.name == "b.mp4":
            raise Killed
        return survey(source, *args, **settings)

    def dead(path, **settings):
        if path.suffix != ".tries" or dying == [False]:
            unlink(path, **settings)

    monkeypatch.setattr(work, "survey", deadly)
    monkeypatch.setattr(Path, "unlink", dead)
    dying = [True]
    for _ in range(work.MOST_TRIES):
        with pytest.raises(Killed):
            work.prepare(config(world, tmp_path / "out"))
    dying = [False]
    report = work.prepare(config(world, tmp_path / "out"))
    assert report.complete and report.kept == 2
    assert "b.mp4 was being read each of 3 times that the process was killed" in report.text
    assert not list((tmp_path / "out").rglob("*.tries"))
