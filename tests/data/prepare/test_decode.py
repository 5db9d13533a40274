"""Frames and sound of files of every rate, in step; damaged files are told."""

import struct

import av
import numpy as np
import pytest

from tests.data.prepare.world import face, talking, voice, write
from tm_jax.data.prepare.decode import Part, Picture, header_seconds, pictures, sound
from tm_jax.errors import InputError


def shades(count):
    """Frames that tell their number by their brightness."""
    return [np.full((32, 32, 3), 4 * index + 4, np.uint8) for index in range(count)]


def heard(path):
    """The sound beside the pictures of a video with one part."""
    seen = list(pictures(path))
    return sound(path, [Part(len(seen), seen[0].began)])[0]


def numbers(path):
    return [round((float(picture.rgb().mean()) - 4) / 4) for picture in pictures(path)]


def test_frames_at_25_a_second_are_all_taken(tmp_path):
    path = write(tmp_path / "a.mkv", shades(30), None)
    assert numbers(path) == list(range(30))


@pytest.mark.parametrize("rate", [50, 30, 12])
def test_other_rates_give_the_frame_nearest_in_time(rate, tmp_path):
    path = write(tmp_path / "a.mkv", shades(24 if rate < 30 else rate), None, rate=rate)
    seen = numbers(path)
    times = np.arange(len(seen)) / 25
    assert len(seen) == (50 if rate < 30 else 25)
    # Files hold milliseconds.
    assert np.abs(np.array(seen) / rate - times).max() <= 0.5 / rate + 0.002


def test_varying_rates_keep_their_time(tmp_path):
    times = [0.0, 0.04, 0.08, 0.5, 0.54, 1.0]
    seen = numbers(write(tmp_path / "a.mkv", shades(6), None, times=times))
    assert seen[0] == 0 and seen[3] == 2 and seen[12] == 3 and seen[25] == 5


@pytest.mark.parametrize(
    ("name", "rate", "late"), [("a.mkv", 16_000, 0.3), ("a.mkv", 48_000, 0.0), ("a.mp4", 44_100, 0.0)]
)
def test_sound_is_in_step_with_the_pictures(name, rate, late, tmp_path):
    clap = np.zeros(rate, np.float32)
    clap[rate // 2 : rate // 2 + rate // 100] = 0.8
    path = write(tmp_path / name, shades(50), clap, sample_rate=rate, sound_from=late)
    loud = np.flatnonzero(np.abs(heard(path)) > 8000)
    assert abs(loud[0] / 16_000 - (0.5 + late)) < 0.003


def test_a_gap_in_the_sound_becomes_silence(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mkv", shades(50), voice(1.0), sound_from=0.5)
    whole = heard(path)
    assert len(whole) == 32_000 and not whole[:7900].any() and not whole[24_000:].any()
    np.testing.assert_allclose(whole[8000:24_000] / 32768, voice(1.0), atol=2e-4)


def test_no_sound_is_no_fault(tmp_path):
    assert len(heard(write(tmp_path / "a.mkv", shades(3), None))) == 0


def test_turned_pictures_are_set_upright(tmp_path):
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :32] = 250
    path = write(tmp_path / "a.mp4", [picture] * 3, None)
    content = bytearray(path.read_bytes())
    # The matrix in the track header, as a telephone held upright writes it: show it turned clockwise.
    matrix = content.index(b"tkhd") + 4 + 40
    content[matrix : matrix + 20] = struct.pack(">5i", 0, 0x10000, 0, -0x10000, 0)
    path.write_bytes(content)
    upright = next(iter(pictures(path))).rgb()
    assert upright.shape == (64, 32, 3) and upright[:30].min() > 200 and upright[34:].max() < 50


def test_pixels_that_are_not_square_are_stretched():
    frame = av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8), format="rgb24")
    assert Picture(frame, 1.5).rgb().shape == (16, 48, 3)


def test_each_fault_is_one_sentence(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("This is not a video. " * 50)
    whole = write(tmp_path / "whole.mp4", talking(2, face(64)), voice(2.0))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError, match=r"text.mp4 is no media file, or it is damaged"):
        list(pictures(text))
    with pytest.raises(InputError, match=r"cut.mp4 is (cut off: its header promises 2.0 s|damaged after)"):
        list(pictures(cut))
    gap = write(tmp_path / "gap.mkv", shades(3), None, times=[0.0, 0.04, 12.0])
    with pytest.raises(InputError, match=r"no picture from 0.1 s to 12.0 s: cut it there"):
        list(pictures(gap))
    assert abs(header_seconds(whole) - 2) < 0.1
