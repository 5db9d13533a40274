"""The engine over any backend: streams of a source that ends, what it refuses, and the documented example."""

import contextlib
import gc
import os
import threading
import time

import numpy as np
import pytest

from tests.audio.test_voice_activity import voice
from tests.streaming.embedding import talk
from tests.streaming.fake import PICTURE, FakeBackend
from tests.streaming.threads import eventually, settled, stages
from tm_jax.errors import InputError
from tm_jax.media.sound import read_audio
from tm_jax.streaming.backend import Backend
from tm_jax.streaming.engine import StreamEngine

CHUNK = 12 * 640


def test_a_source_that_blocks_does_not_keep_a_stream_from_closing(engine, backend):
    """Its thread cannot be woken; it holds nothing of the stream, and ends when the source goes on."""
    states, goes_on = backend.follow(), threading.Event()

    def blocked():
        yield np.zeros(9 * 640, np.float32)
        goes_on.wait(20)
        yield np.zeros(9 * 640, np.float32)

    for _ in range(3):
        stream = engine.stream(PICTURE, blocked())
        assert len(next(stream).frames) == 9
        begun = time.perf_counter()
        stream.close()
        assert time.perf_counter() - begun < 2
    del stream
    gc.collect()
    assert all(state() is None for state in states) and set(stages()) == {"tm_jax-feed"}
    goes_on.set()
    eventually(lambda: not stages())


def test_standard_input_that_blocks_is_woken(engine):
    """12 streams of it, closed, leave no thread."""
    for _ in range(12):
        reading, writing = os.pipe()
        with open(reading, "rb") as stdin, open(writing, "wb", buffering=0) as pipe:
            pipe.write(bytes(18_000))
            stream = engine.stream(PICTURE, read_audio("-", stdin=stdin))
            assert len(next(stream).frames) == 9
            stream.close()
            eventually(lambda: not stages())


def test_a_source_is_read_about_a_chunk_ahead(engine):
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield np.zeros(CHUNK, np.float32)

    with contextlib.closing(engine.stream(PICTURE, endless())) as stream:
        next(stream)
        assert settled(lambda: read) <= 8
    assert not stages()


@pytest.mark.parametrize("fault", [InputError("a.wav is damaged."), OSError("gone")])
def test_a_source_that_fails_does_so_after_its_chunks(engine, fault):
    def broken():
        yield np.zeros(22 * 640, np.float32)
        raise fault

    frames = 0
    with pytest.raises(type(fault), match=str(fault)):
        for chunk in engine.stream(PICTURE, broken()):
            frames += len(chunk.frames)
    assert frames == 21


def test_a_bad_block_ends_a_stream_after_the_chunks_before_it(engine):
    frames = 0
    with pytest.raises(InputError, match="holds int32"):
        for chunk in engine.stream(PICTURE, [np.zeros(22 * 640, np.float32), np.zeros(5, np.int32)]):
            frames += len(chunk.frames)
    assert frames == 21


def test_sessions_share_a_reference_and_nothing_else(engine):
    reference = engine.reference(PICTURE, (0, 0, 2, 3))
    sounds = [voice(1.0), 0 * voice(1.0), voice(1.7)]
    alone = [np.concatenate([c.frames for c in engine.stream(reference, [sound])]) for sound in sounds]
    sessions = [engine.session(reference) for _ in sounds]
    for start in range(0, 30_000, 500):
        for session, sound in zip(sessions, sounds, strict=True):
            session.push(sound[start : start + 500])
    for session, frames in zip(sessions, alone, strict=True):
        session.finish()
        np.testing.assert_array_equal(np.concatenate([chunk.frames for chunk in session]), frames)


@pytest.mark.parametrize(
    "options,sentence",
    [
        ({"mode": "talk"}, "mode 'talk' is unknown"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**64}, "seed 18446744073709551616"),
        ({"listen": ((2.0, 1.0),)}, "does not begin before it ends"),
        ({"listen": [5]}, "stretch 5 does not begin"),
        ({"listen": [("a", "b")]}, "does not begin before it ends"),
        ({"face_box": (3, 0, 1, 2)}, "reversed or leaves the picture"),
        ({"face_box": (0, 0, 5, 6)}, "reversed or leaves the picture"),
        ({"face_box": (0, 0, np.nan, 6)}, "no box of four numbers"),
        ({"face_box": (0, 1)}, "no box of four numbers"),
        ({"face_box": "none"}, "no box of four numbers"),
        ({"picture": PICTURE / 255.0}, "holds float64"),
        ({"picture": PICTURE[:, :-1]}, r"has the shape \(4, 5, 3\): give a uint8 array \[4 6 3\]"),
        ({"picture": PICTURE[..., :1]}, "has the shape"),
        ({"picture": "me.png"}, "is a str"),
    ],
)
@pytest.mark.parametrize("way", ["session", "stream"])
def test_what_a_stream_cannot_begin_with_is_one_sentence(engine, way, options, sentence):
    given = {"picture": PICTURE, **options}
    picture = given.pop("picture")
    with pytest.raises(InputError, match=sentence) as told:
        engine.session(picture, **given) if way == "session" else engine.stream(picture, [], **given)
    assert str(told.value).count("\n") == 0


@pytest.mark.parametrize("sound", [None, 5, 0.5])
def test_what_is_no_source_of_sound_is_one_sentence(engine, sound):
    with pytest.raises(InputError, match=f"The sound {sound} is no source of blocks"):
        engine.stream(PICTURE, sound)


def test_a_reference_is_good_for_its_own_engine_alone(engine):
    reference = engine.reference(PICTURE)
    with pytest.raises(InputError, match="made by another engine"):
        StreamEngine(FakeBackend()).session(reference)
    with pytest.raises(InputError, match="has its face box already"):
        engine.session(reference, face_box=(0, 0, 1, 1))


def test_no_backlog_is_refused(engine):
    with pytest.raises(InputError, match="leaves no room"):
        engine.session(PICTURE, backlog=0)


def test_the_example_of_the_documentation(engine, capsys):
    shown, sound = [], voice(2.0)
    talk(engine, PICTURE, [sound[:9000], np.zeros((2, 2)), sound[9000:]], lambda *piece: shown.append(piece))
    assert sum(len(frames) for frames, _ in shown) == 50
    np.testing.assert_array_equal(np.concatenate([heard for _, heard in shown]), sound)
    assert "has the shape (2, 2)" in capsys.readouterr().out


def test_the_fake_is_a_backend(backend):
    assert isinstance(backend, Backend)
