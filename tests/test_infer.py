"""infer.py from end to end with tiny random models: files in, video out, one sentence for every fault."""

import subprocess
import sys
import types
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import infer
from tests.audio.test_voice_activity import voice
from tests.media.sounds import write
from tests.media.test_video import read_all, write_sound
from tests.streaming.tiny import models
from tm_jax.media.video import read_frames
from tm_jax.pretrained.weights import save_model
from tm_jax.streaming import make_video as video
from tm_jax.streaming import parts
from tm_jax.streaming.statistics import Statistics

ROLLOUT = {"rollout": {"chunk": 3, "steps": 2, "schedule": {"shift": 3.0}}}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    vae, student = models()
    save_model(folder / "vae.safetensors", vae, vae.config)
    save_model(folder / "student.safetensors", student, student.config, ROLLOUT)
    return folder


@pytest.fixture
def files(tmp_path, weights, monkeypatch, capsys):
    """A runner of infer.py's main in a folder with a picture and a voice of 1.2 s."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "me.png")
    write_sound(tmp_path / "hi.wav", voice(1.2)[None], 16_000, "pcm_s16le", "mono")

    def run(*flags: str, image="me.png", audio="hi.wav", out="out.mp4") -> tuple[int, str, str]:
        argv = ["infer.py", "--image", str(tmp_path / image), "--out", str(tmp_path / out)]
        argv += [
            "--audio",
            audio if audio == "-" else str(tmp_path / audio),
            "--weights",
            str(weights),
            *flags,
        ]
        monkeypatch.setattr(sys, "argv", argv)
        capsys.readouterr()
        status = infer.main()
        printed = capsys.readouterr()
        return status, printed.out, printed.err.split("\r")[-1]

    run.folder = tmp_path
    return run


def test_a_video_comes_out(files):
    status, out, _ = files("--frames-out", str(files.folder / "sheet.png"))
    assert status == 0
    for figure in ("1.20 s of video", " fps", "× real time", "first frame after", "chunk p50", "p95"):
        assert figure in out
    frames = np.stack(list(read_frames(files.folder / "out.mp4")))
    assert frames.shape == (30, 16, 16, 3)
    heard = read_all(files.folder / "out.mp4")
    assert np.corrcoef(heard[:19_200], voice(1.2))[0, 1] > 0.99
    assert Image.open(files.folder / "sheet.png").size == (6 * 16, 4 * 16)


def test_one_sample_silence_and_stereo_48k(files):
    one = np.ones((1, 1), np.float32)
    write_sound(files.folder / "one.wav", one, 16_000, "pcm_f32le", "mono")
    assert files(audio="one.wav")[0] == 0
    assert len(list(read_frames(files.folder / "out.mp4"))) == 1
    write_sound(files.folder / "s.m4a", np.zeros((2, 48_000), np.float32), 48_000, "aac", "stereo")
    assert files("--mode", "auto", audio="s.m4a")[0] == 0
    assert abs(len(list(read_frames(files.folder / "out.mp4"))) - 25) <= 1
    with av.open(str(files.folder / "out.mp4")) as made:
        assert [stream.type for stream in made.streams] == ["video", "audio"]


def test_raw_sound_on_standard_input(files, monkeypatch):
    (files.folder / "raw").write_bytes((voice(0.5) * 32767).astype("<i2").tobytes())
    with (files.folder / "raw").open("rb") as raw:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": raw}))
        assert files(audio="-")[0] == 0
    assert len(list(read_frames(files.folder / "out.mp4"))) == 13


def test_seed_modes_and_steps_matter(files):
    made = {}
    cases = {"a": ["--seed", "1"], "b": ["--seed", "1"], "c": ["--seed", "2"]}
    cases |= {"d": ["--seed", "1", "--listen", "0-"], "e": ["--seed", "1", "--mode", "listen"]}
    cases |= {"f": ["--seed", "1", "--steps", "2"], "g": ["--seed", "1", "--steps", "3"]}
    for name, flags in cases.items():
        assert files(*flags, out=f"{name}.mp4")[0] == 0
        made[name] = np.stack(list(read_frames(files.folder / f"{name}.mp4")))
    np.testing.assert_array_equal(made["a"], made["b"])
    np.testing.assert_array_equal(made["d"], made["e"])
    np.testing.assert_array_equal(made["a"], made["f"], "the student was distilled for 2 steps")
    assert (made["a"] != made["c"]).any() and (made["a"] != made["d"]).any()
    assert (made["a"] != made["g"]).any()


def interrupt_at_third(monkeypatch):
    real = Statistics.add

    def add(self, chunk):
        if chunk.index == 2:
            raise KeyboardInterrupt
        real(self, chunk)

    monkeypatch.setattr(video.Statistics, "add", add)


def test_ctrl_c_leaves_a_video_that_plays(files, monkeypatch):
    write_sound(files.folder / "long.wav", voice(4.0)[None], 16_000, "pcm_s16le", "mono")
    interrupt_at_third(monkeypatch)
    status, _, err = files("--frames-out", str(files.folder / "sheet.png"), audio="long.wav")
    assert status == 130 and "what was made so far" in err
    assert len(list(read_frames(files.folder / "out.mp4"))) == 33
    assert 0 <= len(read_all(files.folder / "out.mp4")) - 33 * 640 < 1024, "to the end of an AAC frame"
    assert (files.folder / "sheet.png").exists()


def test_fault_far_into_the_sound_loses_nothing(files):
    samples = voice(2.0)
    samples[30_000] = np.nan
    write_sound(files.folder / "late.wav", samples[None], 16_000, "pcm_f32le", "mono")
    status, _, err = files(audio="late.wav")
    assert status == 2 and "near 1.9 s" in err
    assert len(list(read_frames(files.folder / "out.mp4"))) == 45


def test_sound_that_was_lost_is_told_and_the_rest_plays(files):
    content = bytearray(write(files.folder / "a.opus", "opus").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 10] = bytes(10)
    (files.folder / "a.opus").write_bytes(content)
    status, out, err = files(audio="a.opus")
    assert status == 0 and "1.5" in out and "about 1.0 s of its 2.5 s of sound are missing" in err
    assert 36 <= len(list(read_frames(files.folder / "out.mp4"))) <= 39


BAD = {
    "missing picture": ({"image": "you.png"}, (), "There is no picture"),
    "sound as picture": ({"image": "hi.wav"}, (), "is no image"),
    "missing sound": ({"audio": "no.wav"}, (), "There is no audio file"),
    "picture as sound": ({"audio": "me.png"}, (), "no audio stream"),
    "no such folder": ({"out": "no/out.mp4"}, (), "does not exist"),
    "not an mp4": ({"out": "out.gif"}, (), "ends in .mp4"),
    "replaces its input": ({"audio": "in.mp4", "out": "in.mp4"}, (), "would replace the input"),
    "bad listen": ({}, ("--listen", "5-3"), "ends before it begins"),
    "bad seed": ({}, ("--seed", "-1"), "is no seed"),
    "too large a seed": ({}, ("--seed", str(2**64)), "is no seed"),
    "no steps": ({}, ("--steps", "0"), "0 denoising steps a chunk: give 1 to 50"),
    "no weights": ({}, ("--weights", "/nowhere"), "student.safetensors"),
    "bad sheet": ({}, ("--frames-out", "/nowhere/a.png"), "does not exist"),
    "sheet of no kind": ({}, ("--frames-out", "a.xyz"), "end its name in .png"),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_get_one_line_and_touch_nothing(files, name):
    where, flags, sentence = BAD[name]
    (files.folder / "out.mp4").write_bytes(b"old")
    (files.folder / "in.mp4").write_bytes(b"old")
    status, out, err = files(*flags, **where)
    assert status == 2 and sentence in err and out == ""
    assert err.startswith("infer.py: ") and err.count("\n") == 1
    assert (files.folder / "out.mp4").read_bytes() == b"old", "an old video is kept until a new one begins"


def test_nan_at_the_start_is_refused_before_computing(files, monkeypatch):
    monkeypatch.setattr(parts, "load_engine", lambda *_, **__: 1 / 0)
    samples = np.full((1, 100), np.nan, np.float32)
    write_sound(files.folder / "nan.wav", samples, 16_000, "pcm_f32le", "mono")
    status, _, err = files(audio="nan.wav")
    assert status == 2 and "NaN" in err


def test_flags_with_a_typo_are_answered_at_once():
    command = [sys.executable, "infer.py", "--image", "a.png", "--audio", "a.wav", "--outt", "a.mp4"]
    made = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(infer.__file__).parent, timeout=120
    )
    assert made.returncode == 2
    sentence = "infer.py: there is no flag --outt (did you mean --out?); --help lists all flags\n"
    assert (made.stdout, made.stderr) == ("", sentence)


def torch_engine(monkeypatch, **members):
    """A stand-in for the PyTorch runtime, which need not be installed."""
    package, module = (
        types.ModuleType("tm_jax.torch_runtime"),
        types.ModuleType("tm_jax.torch_runtime.engine"),
    )
    vars(module).update(members)
    package.engine = module
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_the_torch_backend_makes_the_same_video_by_its_own_engine(files, monkeypatch):
    asked = []

    def load_engine(folder, *, dit_device, vae_device, steps):
        asked.append((dit_device, vae_device, steps))
        return parts.load_engine(folder)

    torch_engine(monkeypatch, load_engine=load_engine)
    flags = ("--backend", "torch", "--dit-devices", "cuda:0", "--vae-devices", "cuda:1", "--steps", "2")
    assert files(out="jax.mp4")[0] == files(*flags, out="torch.mp4")[0] == 0
    assert asked == [("cuda:0", "cuda:1", 2)]
    one, other = (list(read_frames(files.folder / f"{name}.mp4")) for name in ("jax", "torch"))
    np.testing.assert_array_equal(np.stack(one), np.stack(other))


def test_flags_of_the_other_backend_and_missing_devices_and_frameworks_are_told(files, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    torch_engine(monkeypatch, __getattr__=missing)
    for flags, sentence in [
        (("--backend", "torch", "--prompt", "A cat"), "--prompt is for the JAX backend"),
        (("--backend", "torch", "--size", "128"), "--size is for the JAX backend"),
        (("--backend", "torch", "--speech", "x"), "--speech is for the JAX backend"),
        (("--backend", "torch"), 'this needs torch, which is not installed: pip install ".[serving]"'),
        (("--backend", "tensorflow"), "jax, torch"),
        (("--dit-devices", "tpu:0"), "there are cpu:0"),
        (("--vae-devices", "cpu:8"), "there are cpu:0"),
    ]:
        status, out, err = files(*flags)
        assert status == 2 and sentence in err and out == "" and err.count("\n") == 1
