"""Sound and video through PyAV: formats, levels, timing, unfinished files, and every bad input."""

import io
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tm_jax.errors import InputError
from tm_jax.media.files import check_writable
from tm_jax.media.sound import read_audio
from tm_jax.media.video import VideoWriter, read_frames, write_video


def tone(seconds: float, rate: int = 16_000, hertz: float = 300.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_sound(path, channels: np.ndarray, rate: int, codec: str, layout: str, container=None):
    """Encode [c s] float32 with PyAV."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def read_all(source, **options) -> np.ndarray:
    return np.concatenate(list(read_audio(source, **options)))


@pytest.mark.parametrize(
    "name,rate,codec,layout",
    [
        ("a.wav", 16_000, "pcm_s16le", "mono"),
        ("a.wav", 48_000, "pcm_s16le", "stereo"),
        ("a.wav", 44_100, "pcm_f32le", "stereo"),
        ("a.wav", 8_000, "pcm_u8", "mono"),
        ("a.wav", 48_000, "pcm_s24le", "5.1"),
        ("a.flac", 22_050, "flac", "mono"),
        ("a.mp3", 44_100, "libmp3lame", "stereo"),
        ("a.m4a", 48_000, "aac", "stereo"),
        ("a.webm", 48_000, "libopus", "mono"),
    ],
)
def test_any_format_becomes_16k_mono(tmp_path, name, rate, codec, layout):
    one = tone(1.5, rate)
    channels = np.stack([one] * {"mono": 1, "stereo": 2, "5.1": 6}[layout])
    if layout == "5.1":
        channels[2:] = 0
    sound = read_audio(write_sound(tmp_path / name, channels, rate, codec, layout))
    assert sound.seconds == pytest.approx(1.5, abs=0.1)
    blocks = list(sound)
    assert all(block.dtype == np.float32 and 0 < len(block) <= 1600 for block in blocks)
    heard = np.concatenate(blocks)
    assert abs(len(heard) - 24_000) <= 1600
    middle = heard[4000:20_000]
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.3, rel=0.06), "the level is kept"
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() == 300, "and so is the pitch"


def test_wav_is_read_exactly(tmp_path, rng):
    samples = (rng.integers(-32768, 32768, 5000) / 32768).astype(np.float32)
    path = write_sound(tmp_path / "a.wav", samples[None], 16_000, "pcm_f32le", "mono")
    np.testing.assert_array_equal(read_all(path), samples)


def test_one_sample_and_silence_are_sound(tmp_path):
    one = write_sound(tmp_path / "one.wav", np.ones((1, 1), np.float32), 16_000, "pcm_f32le", "mono")
    assert read_all(one).tolist() == [1.0]
    silent = write_sound(tmp_path / "s.wav", np.zeros((2, 4800), np.float32), 48_000, "pcm_s16le", "stereo")
    assert not read_all(silent).any()


def test_raw_sound_on_standard_input(tmp_path, rng):
    samples = rng.integers(-32768, 32768, 5000).astype("<i2")
    data = samples.tobytes()
    np.testing.assert_array_equal(read_all("-", stdin=io.BytesIO(data)), samples / np.float32(32768))
    np.testing.assert_array_equal(
        read_all("-", stdin=io.BytesIO(data + b"\x01")), samples / np.float32(32768)
    )
    (tmp_path / "raw").write_bytes(data)
    with (tmp_path / "raw").open("rb") as file:
        np.testing.assert_array_equal(read_all("-", stdin=file), samples / np.float32(32768))
    with pytest.raises(InputError, match="no sound in standard input"):
        read_audio("-", stdin=io.BytesIO(b""))


def colour_frames(count: int) -> np.ndarray:
    """Two colours side by side, and a grey corner that tells the frame's number."""
    frames = np.empty((count, 32, 48, 3), np.uint8)
    frames[:, :, :24], frames[:, :, 24:] = [30, 220, 40], [200, 50, 90]
    frames[:, :16, :16] = (np.arange(count) * 5 % 250)[:, None, None, None]
    return frames


def test_video_round_trip_in_sync(tmp_path, rng):
    path, frames = tmp_path / "a.mp4", colour_frames(30)
    audio = 0.2 * rng.standard_normal(19_200).astype(np.float32)
    audio[:9600] = 0  # the sound begins with frame 15
    with VideoWriter(path) as writer:
        for start in range(0, 30, 12):
            writer.write(frames[start : start + 12], audio[start * 640 : (start + 12) * 640])
    with av.open(str(path)) as file:
        video, sound = file.streams
        assert (video.codec.name, video.pix_fmt, sound.codec.name) == ("h264", "yuv420p", "aac")
        assert video.average_rate == 25 and video.frames == 30
        assert float(video.duration * video.time_base) == pytest.approx(1.2)
        assert float(sound.duration * sound.time_base) == pytest.approx(1.2, abs=0.07)
    back = np.stack(list(read_frames(path)))
    assert back.shape == frames.shape
    assert np.abs(back[:, 20:28, 4:20].astype(int) - frames[:, 20:28, 4:20]).max() <= 6
    assert np.abs(back[:, 4:12, 4:12].mean((1, 2, 3)) - frames[:, 4:12, 4:12].mean((1, 2, 3))).max() <= 4
    heard = read_all(path)
    lags = range(-1200, 1201)
    match = [np.dot(np.roll(heard, -lag)[2000:17_000], audio[2000:17_000]) for lag in lags]
    assert abs(list(lags)[int(np.argmax(match))]) <= 1
    loud = np.abs(heard) > 0.1
    assert abs(int(loud.argmax()) - 9600) < 400, "sound and picture start together"


def test_file_plays_while_it_is_being_written(tmp_path):
    path, cut = tmp_path / "a.mp4", tmp_path / "cut.mp4"
    frames, audio = colour_frames(100), tone(4.0)
    writer = VideoWriter(path)
    assert not list(tmp_path.iterdir()), "nothing is made before there is something to write"
    writer.write(frames, audio)
    (beside,) = tmp_path.iterdir()
    assert beside.name.startswith("a.part-") and beside.suffix == ".mp4"
    shutil.copy(beside, cut)  # what a killed process leaves behind
    writer.close()
    writer.close()
    assert len(list(read_frames(path))) == 100
    assert len(list(read_frames(cut))) >= 50
    assert len(read_all(cut)) >= 2 * 16_000


def test_interrupted_writer_finishes_the_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(colour_frames(9), tone(0.36))
        raise KeyboardInterrupt
    assert len(list(read_frames(tmp_path / "a.mp4"))) == 9


def test_write_video_without_sound(tmp_path):
    write_video(tmp_path / "a.mp4", colour_frames(3))
    assert len(list(read_frames(tmp_path / "a.mp4"))) == 3


def nan_wav(path):
    samples = tone(1.0)
    samples[8000] = np.nan
    return write_sound(path, samples[None], 16_000, "pcm_f32le", "mono")


def cut_wav(path):
    write_sound(path, tone(2.0)[None], 16_000, "pcm_s16le", "mono")
    path.write_bytes(path.read_bytes()[:20_000])
    return path


def cut_mp4(path):
    """An ordinary mp4 without its end, where its index is."""
    write_sound(path, tone(2.0)[None], 16_000, "aac", "mono", container="mp4")
    path.write_bytes(path.read_bytes()[:3000])
    return path


def silent_video(path):
    write_video(path, colour_frames(3))
    return path


def with_bytes(data: bytes):
    def make(path):
        path.write_bytes(data)
        return path

    return make


def folder(path):
    path.mkdir()
    return path


BAD_SOUND = {
    "missing.wav": (lambda path: path, "There is no audio file"),
    "folder.wav": (folder, "is a directory"),
    "empty.wav": (with_bytes(b""), "is empty"),
    "noise.wav": (with_bytes(bytes(range(256)) * 40), "is no media file"),
    "text.txt": (with_bytes(b"Dear reader, this is no sound.\n" * 50), "no audio stream|no media file"),
    "nan.wav": (nan_wav, r"NaN or infinity\) near 0.5 s"),
    "header.wav": (
        lambda path: with_bytes(cut_wav(path).read_bytes()[:44])(path),
        "no sound|no media|cut off",
    ),
    "cut.wav": (cut_wav, r"promises 2.0 s of sound .*0.6 s \(199.. bytes\) are there"),
    "cut.mp4": (cut_mp4, "is no media file"),
    "video.mp4": (silent_video, "no audio stream"),
}


@pytest.mark.parametrize("name", BAD_SOUND)
def test_bad_sound_gets_one_sentence(tmp_path, name):
    make, sentence = BAD_SOUND[name]
    path = make(tmp_path / name)
    with pytest.raises(InputError, match=sentence) as told:
        read_all(path)
    assert name in str(told.value) and "\n" not in str(told.value)


def test_sound_is_delivered_up_to_the_fault(tmp_path, rng):
    noise = rng.uniform(-0.5, 0.5, (1, 48_000)).astype(np.float32)
    path = write_sound(tmp_path / "a.flac", noise, 16_000, "flac", "mono")
    path.write_bytes(path.read_bytes()[:50_000])
    sound, heard = read_audio(path), 0
    with pytest.raises(InputError, match="cut off"):
        for block in sound:
            heard += len(block)
    assert 16_000 < heard < 40_000


def test_wav_of_open_length_is_read(tmp_path):
    path = write_sound(tmp_path / "a.wav", tone(1.0)[None], 16_000, "pcm_s16le", "mono")
    data = bytearray(path.read_bytes())
    data[4:8] = b"\xff" * 4
    path.write_bytes(data)
    assert len(read_all(path)) == 16_000


def test_a_playlist_opens_no_other_file(tmp_path):
    write_sound(tmp_path / "secret.wav", tone(1.0)[None], 16_000, "pcm_s16le", "mono")
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(InputError):
        read_all(playlist)


@pytest.mark.parametrize(
    "name,sentence",
    [
        ("folder.mp4", "is a directory"),
        ("nowhere/a.mp4", "does not exist"),
        ("a.wmv", r"ends in .mp4"),
        ("noname", r"ends in .mp4"),
    ],
)
def test_bad_output_is_refused_before_anything(tmp_path, name, sentence):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InputError, match=sentence):
        VideoWriter(tmp_path / name)


def test_output_check_touches_nothing(tmp_path):
    (tmp_path / "old.mp4").write_bytes(b"old")
    check_writable(tmp_path / "old.mp4")
    check_writable(tmp_path / "new.mp4")
    assert (tmp_path / "old.mp4").read_bytes() == b"old" and not (tmp_path / "new.mp4").exists()
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / ("x" * 300 + ".mp4"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_full_disk_is_told(tmp_path):
    (tmp_path / "a.mp4").symlink_to("/dev/full")
    with pytest.raises(InputError, match="is the disk full"):
        write_video(tmp_path / "a.mp4", colour_frames(60), tone(2.4))


def test_bad_video_gets_one_sentence(tmp_path):
    sound = write_sound(tmp_path / "a.wav", tone(0.1)[None], 16_000, "pcm_s16le", "mono")
    with pytest.raises(InputError, match="no video stream"):
        read_frames(sound)
    with pytest.raises(InputError, match="There is no video file"):
        read_frames(tmp_path / "b.mp4")
