"""The clock: frames come when they are asked for, speech is cut in, slowness is survived."""

import threading
import time

import numpy as np
import pytest

from tests.streaming.fake import PICTURE, FakeBackend
from tm_jax.errors import InputError
from tm_jax.rates import SAMPLES_PER_FRAME
from tm_jax.serve.live import LiveSession
from tm_jax.streaming.engine import StreamEngine


def speech(frames: int) -> np.ndarray:
    """So many frames of a loud sound."""
    return np.random.default_rng(0).normal(0, 0.3, frames * SAMPLES_PER_FRAME).astype(np.float32)


@pytest.fixture
def backend():
    return FakeBackend()


@pytest.fixture
def live(backend):
    engine = StreamEngine(backend)
    session = LiveSession(engine, engine.reference(PICTURE), PICTURE)
    yield session
    backend.may_denoise.set()
    session.close()


def fresh(live, count: int, patience: float = 5.0) -> list:
    """The next ``count`` ticks that bring something, as fast as they come."""
    found, until = [], time.monotonic() + patience
    while len(found) < count and time.monotonic() < until:
        tick = live.tick()
        if tick.fresh or tick.speech:
            found.append(tick)
        else:
            time.sleep(0.001)
    assert len(found) == count, f"{len(found)} of {count} ticks came"
    return found


def test_video_never_waits_for_sound(live):
    ticks = fresh(live, 60)
    assert all(tick.speech == 0 and not tick.samples.any() for tick in ticks)
    assert not live.speaking


def test_a_tick_without_a_frame_shows_the_picture_and_then_the_last_frame(live, backend):
    backend.may_denoise.clear()
    assert live.tick().frame.shape == PICTURE.shape
    backend.may_denoise.set()
    last = fresh(live, 9)[-1]
    backend.may_denoise.clear()
    while (tick := live.tick()).fresh:
        last = tick
    assert np.array_equal(tick.frame, last.frame) and live.counts.stalls > 0


def test_speech_leaves_whole_in_order_and_with_its_frames(live):
    fresh(live, 10)
    sound = speech(30)
    live.say(sound[:5000])
    live.say(sound[5000:])
    assert live.speaking
    heard, spoken = [], []
    while live.speaking:
        tick = fresh(live, 1)[0]
        if tick.speech:
            heard.append(tick.samples[: tick.speech])
            spoken.append(tick.frame[0, 0, 2])
    np.testing.assert_allclose(np.concatenate(heard), sound)
    # The fake frame tells how loud the sound was that its latent heard.
    assert np.mean(np.array(spoken) > 0) > 0.9


def test_speech_is_cut_in_within_two_chunks(live):
    fresh(live, 30)
    live.say(speech(12))
    ticks = fresh(live, 24)
    assert any(tick.speech for tick in ticks)


def test_an_interruption_is_silent_at_once_and_says_what_was_played(live):
    fresh(live, 10)
    live.begin_answer()
    live.say(speech(100))
    played = 0
    while played < 20 * SAMPLES_PER_FRAME:
        played += fresh(live, 1)[0].speech
    assert live.interrupt() == pytest.approx(played / 16000)
    assert not live.speaking
    ticks = fresh(live, 40)
    assert not any(tick.speech or tick.samples.any() for tick in ticks)
    assert not any(tick.frame[0, 0, 2] for tick in ticks[24:]), "the mouth is to close within two chunks"
    live.begin_answer()
    live.say(speech(5))
    assert any(tick.speech for tick in fresh(live, 40))


def test_a_slow_machine_skips_and_does_not_build_delay(live, backend):
    """At half the speed that is needed, speech takes hardly longer than it is."""
    fresh(live, 10)
    frames, ticks = 100, 0
    backend.may_denoise.clear()
    live.say(speech(frames))
    while live.speaking and ticks < 3 * frames:
        if ticks % 24 == 23:
            made = live.counts.chunks
            backend.may_denoise.set()
            until = time.monotonic() + 5.0
            while live.counts.chunks == made and time.monotonic() < until:
                time.sleep(0.001)
            backend.may_denoise.clear()
        live.tick()
        ticks += 1
        time.sleep(0.002)
    assert live.counts.skipped_chunks >= 2
    assert ticks < 1.8 * frames, "twice as long it would take without skipping"


def test_sound_that_is_no_sound_is_refused_where_it_enters(live):
    with pytest.raises(InputError):
        live.say(np.array([0.0, np.nan], np.float32))
    live.say((speech(2) * 3000).astype(np.int16))
    assert sum(tick.speech for tick in fresh(live, 30)) == 2 * SAMPLES_PER_FRAME


def test_closing_leaves_no_thread(backend):
    engine = StreamEngine(backend)
    before = set(threading.enumerate())
    for _ in range(5):
        session = LiveSession(engine, engine.reference(PICTURE), PICTURE)
        session.say(speech(50))
        session.tick()
        session.close()
    assert not set(threading.enumerate()) - before
