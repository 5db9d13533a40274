"""Outputs are written beside their names and get them when they are whole."""

import errno
import os
import threading

import numpy as np
import pytest

from tests.media.test_video import colour_frames, tone
from tm_jax.errors import InputError
from tm_jax.media.files import Beside, alone, shown, written_whole
from tm_jax.media.picture import ContactSheet
from tm_jax.media.sound import read_audio
from tm_jax.media.video import VideoWriter, read_frames


def test_two_runs_with_one_output_leave_a_whole_file(tmp_path):
    path, both = tmp_path / "a.mp4", threading.Barrier(2)

    def run(count: int):
        with VideoWriter(path) as writer:
            for _ in range(count):
                both.wait(60)
                writer.write(colour_frames(10), tone(0.4))

    threads = [threading.Thread(target=run, args=(3,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(read_frames(path))) == 30 and len(np.concatenate(list(read_audio(path)))) >= 19_200
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Beside, "publish", full)
    for frames, left in ((10, 1), (50, 2)):
        with pytest.raises(InputError, match=r"No space left on device.*is the disk full") as told:
            with VideoWriter(path) as writer:
                writer.write(colour_frames(frames), tone(frames / 25))
        assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == left
    (beside,) = set(tmp_path.iterdir()) - {path}
    assert str(beside) in str(told.value) and len(list(read_frames(beside))) == 50
    with pytest.raises(InputError, match="No space left"), written_whole(path) as place:
        place.write_bytes(b"new")
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2


def test_links_and_rights_are_kept(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "real").chmod(0o604)
    (tmp_path / "link").symlink_to("real")
    with written_whole(tmp_path / "link") as place:
        place.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o604
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "link") as place:
        raise KeyboardInterrupt
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.parametrize("name", ["12:30.mp4", b"r\xe9sum\xe9.mp4", "http:a.mp4"])
def test_names_are_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(name)
    with VideoWriter(name) as writer:
        writer.write(colour_frames(3), tone(0.12))
    assert len(list(read_frames(name))) == 3 and os.listdir(".") == [name]
    assert shown(name).encode()
    assert shown(os.fsdecode(b"a\n\x1b\xe9.mp4")) == r"a\x0a\x1b\xe9.mp4"


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.psd", "a.fits", "a.xbm", "a.mpg", "a.h5"])
def test_a_sheet_that_could_not_be_saved_is_refused_at_once(tmp_path, name):
    with pytest.raises(InputError, match=r"end its name in .png"):
        ContactSheet(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_one_run_s_until_it_ends(tmp_path):
    with alone(tmp_path / "new"), alone(tmp_path / "new", "another"):
        with pytest.raises(InputError, match=r"new is being written by another run: wait for its end"):
            with alone(tmp_path / "new"):
                pass
    with alone(tmp_path / "new"):
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"cannot be written \(Not a directory\)"),
        alone(tmp_path / "file/x"),
    ):
        pass
