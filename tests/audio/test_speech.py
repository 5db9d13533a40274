"""Speech without a cache that can be written, without a home, and interrupted: slower, and the same."""

import os
from pathlib import Path

import numpy as np
import pytest

from tm_jax.audio import speech
from tm_jax.audio.speech import Request, cache_folder, speak


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path, monkeypatch):
    request = Request(text="hello", voice="en-us")
    monkeypatch.setenv("TM_JAX_CACHE", str(tmp_path / "cache"))
    kept = speak(request)
    stored = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path.suffix for path in stored] == [".npz"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("TM_JAX_CACHE", str(tmp_path / "file"))
    np.testing.assert_array_equal(speak(request).audio, kept.audio)


def test_a_full_disk_leaves_no_part_of_an_utterance(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    speech._keep(tmp_path / "ab" / "x.npz", {"audio": np.zeros(3)})
    assert not list((tmp_path / "ab").iterdir())


def test_a_user_without_a_home(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("TM_JAX_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert cache_folder().is_relative_to(os.environ.get("TMPDIR", "/tmp"))


def test_an_interrupted_request_does_not_block_the_end(monkeypatch):
    """The answer is longer than a pipe holds and nobody takes it: closing must not wait for that."""

    def interrupted(line):
        raise KeyboardInterrupt

    server = speech._Server()
    text = "a long sentence that is spoken for many seconds, " * 6
    with monkeypatch.context() as patch:
        patch.setattr(speech.json, "loads", interrupted)
        with pytest.raises(KeyboardInterrupt):
            server.say(Request(text=text, voice="en-us"))
    process = server._process
    server.close()
    assert process.returncode == 0
