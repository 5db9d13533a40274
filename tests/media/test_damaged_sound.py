"""Sound files as people have them: joined, cut off, damaged, oddly named, with headers that lie."""

import os
import re

import numpy as np
import pytest

from tests.media.sounds import FORMATS, SECONDS, wav, write
from tm_jax.errors import InputError
from tm_jax.media.bare_frames import frame_size
from tm_jax.media.sound import read_audio


def heard(path) -> tuple[float, list[str], str]:
    """Seconds that were delivered, the notes, and the fault at the end."""
    samples, notes, fault = 0, [], ""
    try:
        sound = read_audio(path)
        notes = sound.notes
        for block in sound:
            samples += len(block)
    except InputError as error:
        fault = str(error)
    assert "\n" not in " ".join([*notes, fault])
    return samples / 16_000, notes, fault


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_give_no_alarm(tmp_path, name):
    for seconds in (0.3, SECONDS):
        got, notes, fault = heard(write(tmp_path / "a", name, seconds))
        assert abs(got - seconds) < 0.13 and not notes and not fault


def test_joined_parts_play_to_their_end(tmp_path):
    for name in ("mp3", "aac", "opus", "ts"):
        part = write(tmp_path / "a", name).read_bytes()
        (tmp_path / "b").write_bytes(part * 3)
        got, notes, fault = heard(tmp_path / "b")
        assert abs(got - 3 * SECONDS) < 0.3 and not notes and not fault, name


@pytest.mark.parametrize("name", ["wav", "float wav", "m4a", "mov", "quick mp4", "flv", "aiff", "au"])
def test_joined_parts_that_do_not_play_are_told(tmp_path, name):
    path = write(tmp_path / "a", name, 1.0)
    path.write_bytes(path.read_bytes() * 2)
    _, (note, *_), fault = heard(path)
    assert re.search(r"several recordings in one file, and .*\((49|50|51)% of it\) is not played", note)
    assert not fault


def test_joined_wavs_of_open_length_are_told(tmp_path):
    """As services for speech stream them: the second header is heard as a click."""
    (tmp_path / "a.wav").write_bytes(2 * wav(16_000, riff=0xFFFFFFFF, data=0xFFFFFFFF))
    got, (note,), _ = heard(tmp_path / "a.wav")
    assert got > 2 and "several recordings in one file" in note


def test_floats_that_nobody_divided_are_refused(tmp_path):
    path = write(tmp_path / "a", "float wav", 1.0)
    content = bytearray(path.read_bytes())
    start = content.index(b"data") + 8
    loud = np.frombuffer(content[start:], "<f4") * 32768
    path.write_bytes(content[:start] + loud.astype("<f4").tobytes())
    got, _, fault = heard(path)
    assert not got and re.search(r"a holds samples up to \d+(e\+\d+)?, where 1 is full scale", fault)


def test_rates_and_layouts_may_change_on_the_way(tmp_path):
    FORMATS["mono aac"] = ("adts", "aac", 32_000, "mono")
    try:
        parts = [write(tmp_path / "a", name).read_bytes() for name in ("aac", "mono aac", "aac")]
    finally:
        del FORMATS["mono aac"]
    (tmp_path / "b").write_bytes(b"".join(parts))
    got, notes, fault = heard(tmp_path / "b")
    assert abs(got - 3 * SECONDS) < 0.3 and not notes and not fault


@pytest.mark.parametrize(
    "sizes",
    [
        {"riff": 0x7FFFF024, "data": 0x7FFFF000},  # SoX, espeak
        {"riff": 0xFFFFFFFF, "data": 0xFFFFFFFF},  # ffmpeg
        {"riff": 0x7FFFFFFF, "data": 0x7FFFFFFF - 36},
        {"riff": 0x80000024, "data": 0x80000000},  # arecord
        {"riff": 0, "data": 0},  # GStreamer, Python
        {"riff": 50 + 36 + 36_800},  # too long over a data chunk that is whole
        {"riff": 4},
        {"data": 36_800 + 44},  # the header counted among the data
    ],
    ids=str,
)
def test_wav_sizes_that_mean_until_the_end(tmp_path, sizes):
    (tmp_path / "a.wav").write_bytes(wav(18_400, **sizes))
    assert heard(tmp_path / "a.wav") == (1.15, [], "")


def test_a_wav_whose_data_are_short_is_told_before_anything(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(16_000)[:-8000])
    got, _, fault = heard(tmp_path / "a.wav")
    assert got == 0 and re.search(r"promises 1.0 s of sound \(32000 bytes\) and 0.8 s", fault)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"data": 9000}, "holds 27800 bytes after its sound"), ({"rate": 48_000}, "contradicts itself")],
)
def test_a_wav_that_contradicts_itself_plays_with_a_note(tmp_path, fields, message):
    (tmp_path / "a.wav").write_bytes(wav(18_400, **fields))
    got, (note, *_), fault = heard(tmp_path / "a.wav")
    assert got > 0.2 and message in note and not fault


def test_a_rate_that_no_sound_has_is_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(16_000, rate=1, pace=2))
    got, _, fault = heard(tmp_path / "a.wav")
    assert got == 0 and "a.wav states 1 samples a second" in fault


def test_tags_that_are_not_utf8_do_no_harm(tmp_path):
    tag = b"INAM" + (6).to_bytes(4, "little") + b"Caf\xe9\0\0"
    content = wav(16_000) + b"LIST" + (4 + len(tag)).to_bytes(4, "little") + b"INFO" + tag
    (tmp_path / "a.wav").write_bytes(content)
    assert heard(tmp_path / "a.wav") == (1.0, [], "")


@pytest.mark.parametrize("name", ["12:30:05.wav", "http:a.wav", b"r\xe9sum\xe9.wav", "-a.wav", "a b%d?.wav"])
def test_names_are_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(name)
    with open(name, "wb") as file:
        file.write(wav(16_000))
    assert heard(name) == (1.0, [], "")
    with open(name, "wb") as file:
        file.write(wav(16_000)[:9000])
    assert heard(name)[2].encode(), "the sentence can be printed"


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("ac3", "ts", "aac")])
def test_a_file_that_is_cut_off_is_told(tmp_path, name):
    """Frames without a container and transport streams cannot tell what is missing, the others can."""
    path = write(tmp_path / "a", name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    got, notes, fault = heard(path)
    assert got < 1.9 and (fault or notes)
    if name in ("flac", "mp3", "quick mp4", "mkv", "webm", "avi", "caf", "w64", "au", "aiff", "wav"):
        assert re.search(r"promises 2.[56] s .*[01].\d s", fault), fault or notes


def test_bad_bytes_in_the_middle_are_passed_over_and_told(tmp_path, rng):
    for name in ("opus", "mp3", "flac", "aac", "mkv"):
        path = write(tmp_path / "a", name)
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + len(content) // 6] = rng.bytes(len(content) // 6)
        path.write_bytes(content)
        got, notes, fault = heard(path)
        assert got > 1.2, name
        assert re.search(
            r"about [01]\.\d s of its 2\.\d s of sound are missing|cut off|damaged in \d places",
            fault or notes[0],
        ), name


def test_ten_bad_bytes_take_a_page_of_opus(tmp_path):
    path = write(tmp_path / "a", "opus")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 10] = bytes(10)
    path.write_bytes(content)
    got, (note,), fault = heard(path)
    assert 1.4 < got < 1.6 and "about 1.0 s of its 2.5 s of sound are missing" in note and not fault


def whole_frames(name: str, content: bytes) -> bool:
    """Whether every byte belongs to a frame, so that nothing can tell of others that were there."""
    place = 0
    while name in ("aac", "ac3") and place < len(content) and (size := frame_size(content[place:][:7])):
        place += size
    return place == len(content)


def test_fuzz(tmp_path):
    """Damage of every kind ends in sound, a note or a sentence; what is lost without a word is little.

    A cut between two frames of a bare AAC or AC-3 file, or two packets of a transport stream, leaves a whole
    file, of which nothing is lost.  Nobody can tell that a rate is wrong.
    """
    rng, silent = np.random.default_rng(1), []
    whole = {name: write(tmp_path / "a", name).read_bytes() for name in FORMATS}
    for case in range(4 * len(whole)):
        name = list(whole)[case % len(whole)]
        content = bytearray(whole[name])
        size, kind = len(content), case // len(whole)
        if kind == 0:
            del content[int(size * rng.uniform(0.1, 0.9)) :]
        elif kind == 1:
            for place in rng.integers(0, min(size, 500), 3):
                content[place] = rng.integers(256)
        elif kind == 2:
            start, length = size // 3, int(size * rng.uniform(0.02, 0.2))
            content[start : start + length] = rng.bytes(length)
        else:
            content = rng.bytes(3000)
        (tmp_path / "b").write_bytes(content)
        got, notes, fault = heard(tmp_path / "b")
        assert got < 60
        if got < 0.95 * SECONDS and not notes and not fault and not whole_frames(name, content):
            silent.append((name, kind, got))
    untold = [("ts", 0), ("caf", 1), ("au", 1), ("w64", 1), ("aiff", 1)]
    assert [case for case in silent if case[:2] not in untold] == []
