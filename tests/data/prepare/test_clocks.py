"""Videos whose clock, size or sound changes on the way: parts never mix, and one odd video harms no other."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.data.prepare.world import face, talking, voice, write
from tm_jax.data.prepare.decode import Part, pictures, sound
from tm_jax.data.prepare.pieces import pieces
from tm_jax.data.prepare.settings import Filters
from tm_jax.data.prepare.sources import Source, find_videos
from tm_jax.data.prepare.survey import survey
from tm_jax.errors import InputError

FILTERS = Filters(min_seconds=1.0, look_every=12)
TONE = (0.4 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)).astype(np.float32)


def flat(shade: int, seconds: float, size: int = 32) -> list[np.ndarray]:
    return [np.full((size, size, 3), shade, np.uint8)] * round(25 * seconds)


def ts(path, frames, heard, rate=16_000, codec="aac", offset=0.0, layout="mono"):
    """A transport stream that begins at a time of its own."""
    with av.open(str(path), "w", format="mpegts") as file:
        video = file.add_stream("libx264", rate=25, options={"preset": "ultrafast", "bf": "0"})
        video.height, video.width, video.pix_fmt = *frames[0].shape[:2], "yuv420p"
        audio = file.add_stream(codec, rate=rate, layout=layout)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = index + round(25 * offset), Fraction(1, 25)
            file.mux(video.encode(frame))
            block = heard[None, index * rate // 25 : (index + 1) * rate // 25]
            block = np.repeat(block, 2 if layout == "stereo" else 1, 0)
            if codec != "aac":
                block = (block.T.reshape(1, -1) * 32767).astype(np.int16)
            sounded = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(block), format="fltp" if codec == "aac" else "s16", layout=layout
            )
            sounded.sample_rate, sounded.time_base = rate, Fraction(1, rate)
            sounded.pts = index * rate // 25 + round(rate * offset)
            file.mux(audio.encode(sounded))
        file.mux(video.encode(None))
        file.mux(audio.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("offset", [0.0, 60.0], ids=["back", "ahead"])
def test_parts_with_clocks_of_their_own_are_not_mixed(tmp_path, offset):
    """First a dark and silent part, then a bright one with a tone."""
    path = tmp_path / "a.ts"
    first = ts(path, flat(40, 1.6), np.zeros(40_000, np.float32))
    path.write_bytes(first + ts(path, flat(200, 2.0), TONE, offset=offset))
    shades, parts = [], []
    for picture in pictures(path):
        shades.append(picture.rgb().mean())
        if picture.part == len(parts):
            parts.append([0, picture.began])
        parts[picture.part][0] += 1
    assert [count for count, _ in parts] == [40, 50]
    assert max(shades[:40]) < 60 and min(shades[40:]) > 180
    heard, missing = sound(path, [Part(*part) for part in parts])
    assert len(heard) == 90 * 640 and not missing
    loud = np.abs(heard.astype(float)).reshape(90, 640).max(1) > 4000
    assert not loud[:39].any() and loud[43:88].all()
    (dark, bright) = pieces(survey(Source(path), 12), FILTERS, (32, 32), (4, 4, 28, 28))
    assert (dark.start, bright.start) == (0, 40) and dark.speech < 0.1 and dark.frames <= 40


def test_pictures_and_sound_that_do_not_jump_together_are_dropped(tmp_path):
    """The second part has no sound, so that nobody knows which pictures go with what was heard."""
    path = tmp_path / "a.ts"
    first = ts(path, flat(40, 1.6), TONE[:25_600])
    second = ts(path, flat(200, 2.0), TONE)
    packets = [second[at : at + 188] for at in range(0, len(second), 188)]
    mute = b"".join(packet for packet in packets if (packet[1] << 8 | packet[2]) & 0x1FFF != 0x101)
    path.write_bytes(first + mute)
    with pytest.raises(InputError, match="clocks do not restart together: cut it there"):
        list(pictures(path))


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
def test_pictures_out_of_order_are_no_jump_of_the_clock(tmp_path, name):
    """Matroska tells no times of decoding, and FFmpeg none of its first pictures."""
    path = write(tmp_path / name, talking(1.6, face(64)), voice(1.6), reordered=3)
    assert len([picture for picture in pictures(path) if picture.part == 0]) == 40
    (tmp_path / "b.mkv").write_bytes(path.read_bytes() * 2)
    if name != "a.mp4":
        assert [picture.part for picture in pictures(tmp_path / "b.mkv")] == [0] * 40 + [1] * 40


@pytest.mark.parametrize("flags", ["faststart", "frag_keyframe+empty_moov+default_base_moof"])
def test_an_mp4_behind_another_is_told(tmp_path, monkeypatch, flags):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": flags}) as file:
        video = file.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 32, 32, "yuv420p"
        for pixels in flat(90, 1.0):
            file.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(video.encode(None))
    assert len(list(pictures(path))) == 25
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(InputError, match=r"several recordings in one file, and .* \(50% of it\) is not"):
        list(pictures(path))


def test_an_avi_that_lost_pictures_or_sound_is_dropped(tmp_path):
    """It has no clock: all that follows a loss would be heard or seen too early."""
    path = write(tmp_path / "a.avi", talking(1.6, face(64)), voice(1.6))
    whole = path.read_bytes()
    seen = list(pictures(path))
    assert len(seen) == 40 and len(sound(path, [Part(40, seen[0].began)])[0]) == 25_600
    for kind, read in (
        (b"00dc", lambda: list(pictures(path))),
        (b"01wb", lambda: sound(path, [Part(40, 0.0)])),
    ):
        content = bytearray(whole)
        for _ in range(8):
            place = content.index(kind, len(content) // 3)
            content[place : place + 4] = b"JUNK"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"lacks 0.\d of the 1.6 s of its .* AVI does not tell where"):
            read()


def test_sound_that_is_no_number_drops_the_video(tmp_path):
    path = write(tmp_path / "a.mkv", flat(90, 1.0), np.zeros(16_000, np.float32))
    with av.open(str(path)) as made, av.open(str(tmp_path / "b.mkv"), "w") as file:
        copied = file.add_stream_from_template(made.streams.video[0])
        heard = file.add_stream("pcm_f32le", rate=16_000, layout="mono")
        for packet in made.demux(video=0):
            if packet.dts is not None:
                packet.stream = copied
                file.mux(packet)
        bad = np.full((1, 16_000), 0.1, np.float32)
        bad[0, 9000] = np.nan
        frame = av.AudioFrame.from_ndarray(bad, format="flt", layout="mono")
        frame.sample_rate = 16_000
        file.mux(heard.encode(frame))
        file.mux(heard.encode(None))
    with pytest.raises(InputError, match=r"b.mkv holds samples that are not numbers"):
        sound(tmp_path / "b.mkv", [Part(25, 0.0)])


def test_a_change_of_size_begins_a_piece(tmp_path):
    path = tmp_path / "a.ts"
    speech = voice(2.0)
    small = ts(path, talking(0.8, face(96)), speech[:12_800])
    path.write_bytes(small + ts(path, talking(1.6, face(192)), speech, offset=0.8))
    seen = survey(Source(path), 12)
    # The second part begins at the file's own time, 0.78 s.
    assert seen.sizes == {0: (96, 96), 19: (192, 192)}
    short, kept = pieces(seen, FILTERS, (64, 64))
    assert short.reason == "cuts" and "changes from 96×96 to 192×192" in short.detail
    assert kept.start == 19 and max(kept.crop) > 100
    late = pieces(seen, Filters(min_seconds=0.5, look_every=12), (64, 64), (10, 10, 80, 80))[1]
    assert (
        late.reason == "no_face" and "box is one of 96×96, and the picture changes to 192×192" in late.detail
    )


@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_a_change_of_rate_or_layout_in_the_sound_is_followed(tmp_path, layout):
    path = tmp_path / "a.ts"
    wave = np.sin(2 * np.pi * 440 * np.arange(96_000) / 48_000).astype(np.float32) * 0.4
    slow = np.sin(2 * np.pi * 440 * np.arange(88_200) / 44_100).astype(np.float32) * 0.4
    first = ts(path, flat(90, 1.6), slow, rate=44_100, codec="mp2")
    path.write_bytes(
        first + ts(path, flat(90, 1.6), wave, rate=48_000, codec="mp2", offset=1.6, layout=layout)
    )
    seen = survey(Source(path), 12)
    assert seen.frames == 80 and not seen.borders
    for part in (seen.sound[4000:20_000], seen.sound[30_000:46_000]):
        assert abs(np.abs(np.fft.rfft(part)).argmax() - 440) <= 1


def test_a_hole_in_the_sound_drops_what_it_is_in(tmp_path):
    whole = ts(tmp_path / "b.ts", talking(4.0, face(120)), np.tile(voice(2.0), 2))
    packets = [whole[at : at + 188] for at in range(0, len(whole), 188)]
    audio = [n for n, packet in enumerate(packets) if (packet[1] << 8 | packet[2]) & 0x1FFF == 0x101]
    gone = set(audio[len(audio) // 2 : len(audio) * 5 // 8])
    (tmp_path / "b.ts").write_bytes(b"".join(p for n, p in enumerate(packets) if n not in gone))
    seen = survey(Source(tmp_path / "b.ts"), 12)
    (hole,) = seen.missing
    assert 0.3 < (hole[1] - hole[0]) / 16_000 < 0.8
    found = pieces(seen, Filters(min_seconds=1.0, max_seconds=1.3, look_every=12), (64, 64))
    assert [piece.reason for piece in found].count("no_sound") in (1, 2) and found[0].reason is None
    assert any("s of it are missing" in piece.detail for piece in found)


def test_a_cut_off_matroska_is_told(tmp_path):
    path = write(tmp_path / "a.mkv", talking(4, face(64)), voice(4.0))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(InputError, match=r"is cut off: its header promises 4.0 s and [12].\d s are there"):
        list(pictures(path))


def test_links_spellings_and_names_of_any_bytes(tmp_path, monkeypatch):
    folder, other = tmp_path / "videos", tmp_path / "elsewhere"
    folder.mkdir(), other.mkdir()
    odd = os.fsdecode(b"r\xe9sum\xe9.mp4")
    for name in ("a.mp4", odd, "12:30.mp4"):
        (folder / name).touch()
    (other / "far.mts").touch()
    (folder / "linked").symlink_to(other)
    (other / "round").symlink_to(folder)
    (folder / "same.mp4").symlink_to("a.mp4")
    os.link(folder / "a.mp4", folder / "z.mp4")
    (folder / "lost.mp4").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "LIST.TXT").write_bytes(b"\xef\xbb\xbfvideos/a.mp4\r\nvideos/r\xe9sum\xe9.mp4\r\n")
    (tmp_path / "wide.txt").write_text("videos/../videos/a.mp4\n", encoding="utf-16")
    every = (folder, folder / ".." / "videos" / "a.mp4", tmp_path / "LIST.TXT", tmp_path / "wide.txt")
    found = find_videos(every)
    assert sorted(source.path.name for source in found) == sorted(
        ["a.mp4", odd, "12:30.mp4", "far.mts", "lost.mp4"]
    )
    assert [s.path.name for s in find_videos((tmp_path / "LIST.TXT",))] == ["a.mp4", odd]
