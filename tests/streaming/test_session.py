"""Sessions: what is pushed comes out as video, whoever waits, fails, interrupts or goes away."""

import gc
import threading
import time

import numpy as np
import pytest

from tests.audio.test_voice_activity import voice
from tests.streaming.fake import PICTURE, FakeBackend
from tests.streaming.threads import eventually, settled, stages
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.errors import InputError
from tm_jax.streaming.engine import StreamEngine
from tm_jax.streaming.inbox import BacklogFull, SessionClosed

CHUNK = 12 * 640


def all_at_once(session, sound) -> list:
    session.push(sound)
    session.finish()
    return list(session)


class Steps:
    """A gate that lets through as many as it was told to."""

    def __init__(self):
        self._permits = threading.Semaphore(0)

    def wait(self, timeout):
        assert self._permits.acquire(timeout=timeout)

    def let(self, count: int):
        self._permits.release(count)


@pytest.mark.parametrize("size", [333, 7681, 160_000])
@pytest.mark.parametrize("kind", [np.int16, np.float32, np.float64])
def test_what_is_pushed_comes_out_whatever_the_blocks(engine, size, kind):
    sound = voice(1.5)
    given = (sound * 32768).astype(np.int16) if kind is np.int16 else sound.astype(kind)
    heard = given / np.float32(32768) if kind is np.int16 else sound

    def speak():
        for start in range(0, len(given), size):
            session.push(given[start : start + size])
        session.finish()

    with engine.session(PICTURE) as session:
        speaker = threading.Thread(target=speak)
        speaker.start()
        chunks = list(session)
        speaker.join()
    lengths = [len(chunk.frames) for chunk in chunks]
    assert lengths[:2] == [9, 12]
    assert sum(lengths) == -(-len(sound) // 640)
    np.testing.assert_array_equal(np.concatenate([chunk.audio for chunk in chunks]), heard)
    for index, chunk in enumerate(chunks):
        assert chunk.index == index and set(chunk.frames[:, 0, 0, 0]) == {index} and chunk.last
        latents = chunk.frames[:, 0, 0, 1]
        assert (
            list(latents)
            == ([0] + [1] * 4 + [2] * 4 if not index else [0] * 4 + [1] * 4 + [2] * 4)[: len(latents)]
        )


def test_blocks_may_be_of_one_sample():
    sound = voice(0.12)
    with StreamEngine(FakeBackend(RolloutConfig(chunk=1))).session(PICTURE) as session:
        for sample in range(len(sound)):
            session.push(sound[sample : sample + 1])
        session.finish()
        np.testing.assert_array_equal(np.concatenate([chunk.audio for chunk in session]), sound)


@pytest.mark.parametrize(
    "rollout", [RolloutConfig(), RolloutConfig(chunk=7, steps=1), RolloutConfig(chunk=1)]
)
def test_pieces_make_up_the_chunks(rollout):
    engine, sound = StreamEngine(FakeBackend(rollout)), voice(1.3)
    with engine.session(PICTURE) as session:
        chunks = all_at_once(session, sound)
    with engine.session(PICTURE) as session:
        session.push(sound)
        session.finish()
        pieces = list(session.pieces())
    for part in ("frames", "audio"):
        whole = [np.concatenate([getattr(one, part) for one in made]) for made in (chunks, pieces)]
        np.testing.assert_array_equal(*whole)
    assert all(len(piece.audio) == 640 * len(piece.frames) for piece in pieces[:-1])
    assert [piece.index for piece in pieces if piece.last] == [chunk.index for chunk in chunks]
    timing = chunks[-1].timing
    assert 0 <= timing.dit <= timing.first <= timing.total <= timing.elapsed and timing.queued > 0


def test_first_frames_come_before_the_chunk_is_decoded(engine, backend):
    backend.may_decode = Steps()
    with engine.session(PICTURE) as session:
        session.push(np.zeros(9 * 640, np.float32))
        pieces = session.pieces()
        for count in (1, 4, 4):
            backend.may_decode.let(1)
            assert len(next(pieces).frames) == count
        assert backend.decoded == 3


def test_the_next_chunk_is_denoised_while_one_is_decoded_and_no_more(engine, backend):
    backend.may_decode.clear()
    with engine.session(PICTURE) as session:
        session.push(np.zeros(5 * CHUNK, np.float32))
        eventually(lambda: backend.denoised == 2)
        assert settled(lambda: backend.denoised) == 2 and backend.decoded == 0
        backend.may_decode.set()


def test_sound_that_stutters_is_waited_for(engine):
    with engine.session(PICTURE) as session:
        for count in (9, 12, 12):
            session.push(np.zeros(640 * count - 1, np.float32))
            time.sleep(0.02)
            session.push(np.zeros(1, np.float32))
            assert len(next(session).frames) == count
        session.finish()
        assert list(session) == []


def test_a_consumer_who_takes_nothing_costs_bounded_work_and_memory(engine, backend):
    with engine.session(PICTURE, backlog=2.0) as session:
        taken = 0
        with pytest.raises(BacklogFull, match=r"2.0 s of sound wait already"):
            for _ in range(100):
                session.push(np.zeros(1600, np.float32), timeout=0.3)
                taken += 1
        assert settled(lambda: backend.denoised) <= 4 and session.waiting == 2.0
        assert taken <= (4 * 12 + 12) * 0.4 + 21
        assert len(next(session).frames) == 9, "he comes back"
        next(session)
        session.push(np.zeros(1600, np.float32))
        session.finish()
        assert sum(len(chunk.audio) for chunk in session) == 1600 * (taken + 1) - 21 * 640


def test_a_push_waits_for_room_and_a_closed_session_wakes_it(engine, backend):
    backend.may_denoise.clear()
    outcome = []

    def speak():
        try:
            for _ in range(50):
                session.push(np.zeros(1600, np.float32), timeout=None)
        except SessionClosed as error:
            outcome.append(error)

    session = engine.session(PICTURE, backlog=0.5)
    speaker = threading.Thread(target=speak)
    speaker.start()
    eventually(lambda: session.waiting >= 0.5)
    assert speaker.is_alive()
    backend.may_denoise.set()
    assert len(next(session).frames) == 9
    session.close()
    speaker.join(10)
    assert len(outcome) == 1 and "closed" in str(outcome[0])
    with pytest.raises(SessionClosed, match="closed"):
        session.push(np.zeros(1, np.float32))


def test_nothing_is_taken_after_the_end(engine):
    with engine.session(PICTURE) as session:
        session.finish()
        session.finish()
        with pytest.raises(SessionClosed, match="finished"):
            session.push(np.zeros(1, np.float32))
        assert list(session) == [] and list(session) == []


BAD = [np.zeros((1, 160), np.float32), b"\0\0", np.full(10, np.nan, np.float32), np.zeros(9, np.int32), [0.0]]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: type(bad).__name__)
def test_a_bad_block_comes_after_the_chunks_before_it_and_the_session_lives_on(engine, bad):
    sound = voice(45 / 25)
    with engine.session(PICTURE) as session:
        session.push(sound[: 22 * 640])
        session.push(bad)
        session.push(sound[22 * 640 :])
        session.finish()
        before = []
        with pytest.raises(InputError, match="A block of sound"):
            for chunk in session:
                before.append(chunk)
        assert [len(chunk.frames) for chunk in before] == [9, 12]
        after = list(session)
    np.testing.assert_array_equal(np.concatenate([chunk.audio for chunk in before + after]), sound)


def test_faults_come_out_of_pieces_too(engine):
    with engine.session(PICTURE) as session:
        session.push(np.zeros(9 * 640, np.float32))
        session.push(None)
        pieces, count = session.pieces(), 0
        with pytest.raises(InputError):
            for _ in pieces:
                count += 1
        assert count == 3
        session.finish()
        assert list(session.pieces()) == []


def test_the_mode_can_be_changed_in_mid_stream(engine, backend):
    with engine.session(PICTURE, mode="speak") as session:
        assert session.mode == "speak"
        modes = ["listen", "speak", "auto", "listen"]
        for count, mode in zip((9, 12, 12, 12), modes, strict=True):
            previous, session_mode = session.mode, mode
            session.push(voice(count / 25))
            chunk = next(session)
            assert set(chunk.mode) == {previous != "listen"}
            session.mode = session_mode
        with pytest.raises(InputError, match=r"mode 'talk' is unknown: give auto, speak, listen"):
            session.mode = "talk"
        assert session.mode == "listen"


def test_an_interruption_drops_what_is_queued_and_listens(engine, backend):
    with engine.session(PICTURE, mode="speak") as session:
        backend.may_decode.clear()
        for block in np.split(voice(10.0), 100):
            session.push(block)
        eventually(lambda: backend.denoised == 2)
        session.push(b"bad")
        assert session.waiting > 8
        session.interrupt()
        assert session.waiting == 0
        backend.may_decode.set()
        assert [next(session).mode.all() for _ in range(2)] == [True, True]
        with pytest.raises(InputError):  # what was told is not forgotten
            while not (chunk := next(session)).mode.any():
                quiet = chunk
        assert not quiet.mode.any() and not quiet.audio.any() and len(quiet.frames) == 12
        session.push(voice(0.48))
        spoken = next(session)
        assert spoken.index == 3 and spoken.mode.all() and spoken.audio.any()


def test_an_interruption_at_the_end_ends_with_a_chunk_of_silence(engine, backend):
    backend.may_denoise.clear()
    with engine.session(PICTURE, mode="speak") as session:
        session.push(voice(10.0))
        session.finish()
        session.interrupt()
        backend.may_denoise.set()
        chunks = list(session)
        assert not chunks[-1].mode.any() and not chunks[-1].audio.any() and len(chunks) <= 2


def test_closing_wakes_whoever_takes_and_leaves_nothing(engine, backend):
    for _ in range(12):
        session, taken = engine.session(PICTURE), []
        taker = threading.Thread(target=taken.extend, args=(session,))
        taker.start()
        session.push(np.zeros(9 * 640, np.float32))
        eventually(taken.copy)
        session.close()
        session.close()
        taker.join(10)
        assert not taker.is_alive() and len(taken) == 1 and not stages()


def test_closing_waits_for_the_chunk_in_hand_and_no_longer(engine, backend):
    backend.may_denoise.clear()
    session = engine.session(PICTURE)
    session.push(np.zeros(100 * CHUNK, np.float32))
    eventually(lambda: backend.begun)
    closer = threading.Thread(target=session.close)
    closer.start()
    time.sleep(0.05)
    assert closer.is_alive()
    backend.may_denoise.set()
    closer.join(10)
    assert backend.denoised == 1 and backend.decoded == 0 and not stages()


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_session_that_ends_keeps_no_state(engine, backend, forgotten):
    states = backend.follow()
    session = engine.session(PICTURE)
    session.push(np.zeros(3 * CHUNK, np.float32))
    next(session)
    assert states[0]() is not None
    if forgotten:
        del session
    else:
        session.close()
    gc.collect()
    eventually(lambda: states[0]() is None and not stages())


def test_a_stage_that_fails_ends_its_stream_alone(engine, backend):
    with engine.session(PICTURE) as other, engine.session(PICTURE) as session:
        session.push(np.zeros(9 * 640, np.float32))
        next(session)
        real, backend.decode = backend.decode, lambda *_, **__: 1 / 0
        session.push(np.zeros(CHUNK, np.float32))
        with pytest.raises(SessionClosed):  # whether or not somebody takes what it says
            for _ in range(2000):
                session.push(np.zeros(1, np.float32))
                time.sleep(0.005)
        with pytest.raises(ZeroDivisionError):
            next(session)
        assert list(session) == []
        backend.decode = real
        other.push(np.zeros(9 * 640, np.float32))
        assert len(next(other).frames) == 9


def test_noise_is_that_of_the_seed_the_chunk_and_the_step(engine, backend):
    drawn = []
    for seed in (3, 3, 4):
        backend.noises = []
        with engine.session(PICTURE, seed=seed) as session:
            all_at_once(session, np.zeros(3 * CHUNK, np.float32))
        drawn.append(np.stack(backend.noises))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    assert len(np.unique(drawn[0])) > 0.99 * drawn[0].size
