import numpy as np
import pytest

from tm_jax.evaluation import drift as module
from tm_jax.evaluation.drift import DriftMeter, by_minute, drift, flatness
from tm_jax.evaluation.reader import TRACKS, Reading


def fake_read(reader, frames):
    """Reads the opening, the head and the identity from single pixels, so that tests know the truth."""
    corner = frames[:, :, 0, 0].astype(float) / 255
    tracks = np.zeros((*frames.shape[:2], len(TRACKS)))
    tracks[..., TRACKS.index("opening")] = corner[..., 0]
    tracks[..., TRACKS.index("x")] = corner[..., 1]
    identity = corner[..., 2:]
    return Reading(tracks, identity, identity, (1.0,) * len(TRACKS))


@pytest.fixture
def meter(monkeypatch, tiny_reader):
    monkeypatch.setattr(module, "read", fake_read)
    return lambda reference: DriftMeter(tiny_reader, reference, seconds=2.0)


@pytest.fixture
def stream(rng):
    frames = rng.integers(100, 110, (100, 8, 8, 3)).astype(np.uint8)
    frames[:, 0, 0, 0] = rng.integers(0, 255, 100)
    frames[:, 0, 0, 1] = (127 + 100 * np.sin(np.arange(100) / 4)).astype(np.uint8)
    frames[:, 0, 0, 2] = 50
    return frames


def test_pieces_give_what_the_whole_gives(meter, stream):
    opening = stream[:, 0, 0, 0] / 255
    whole, pieces = meter(stream[0]), meter(stream[0])
    whole.update(stream, opening)
    for start, stop in ((0, 3), (3, 10), (10, 12), (12, 61), (61, 100)):
        pieces.update(stream[start:stop], opening[start:stop])
    assert [m.frames for m in whole.minutes()] == [50, 50]
    for a, b in zip(whole.minutes(), pieces.minutes(), strict=True):
        assert a.colour == pytest.approx(b.colour)
        assert (a.identity, a.sharpness, a.lip_sync) == pytest.approx((b.identity, b.sharpness, b.lip_sync))
        assert (a.head, a.eyes) == pytest.approx((b.head, b.eyes))
    assert whole.minutes()[0].lip_sync == pytest.approx(1)


def test_a_stream_that_stays_the_same_does_not_drift(meter, stream):
    steady = meter(stream[0])
    steady.update(np.concatenate([stream[:50], stream[:50]]))
    result = drift(steady.minutes())
    assert result.colour == pytest.approx(0, abs=1e-6)
    assert result.sharpness == pytest.approx(1)
    assert result.head == pytest.approx(1, rel=0.2)
    assert result.identity_last == result.identity_first == 0


def test_every_kind_of_drift_is_seen(meter, stream):
    late = stream[:50].copy()
    late[..., 1:, 1:, :] = 200
    late[:, 0, 0, 2] = 100
    late[:, 0, 0, 1] = 127
    drifting = meter(stream[0])
    drifting.update(np.concatenate([stream[:50], late]), np.tile(stream[:50, 0, 0, 0] / 255, 2))
    result = drift(drifting.minutes())
    assert result.colour > 50
    assert result.sharpness > 2
    assert result.head < 0.3
    assert result.identity_last > 0.15
    assert result.lip_sync == pytest.approx(0, abs=1e-6)


def test_a_mouth_that_loses_its_sound_is_seen(meter, stream, rng):
    opening = stream[:, 0, 0, 0] / 255
    opening[50:] = rng.permutation(opening[50:])
    lost = meter(stream[0])
    lost.update(stream, opening, np.ones(100, int))
    assert drift(lost.minutes()).lip_sync < -0.5


def test_listening_frames_do_not_count_for_lip_sync(meter, stream):
    opening = stream[:, 0, 0, 0] / 255
    mode = np.ones(100, int)
    mode[10:20] = 0
    opening[10:20] = 0.5
    watched = meter(stream[0])
    watched.update(stream, opening, mode)
    assert watched.minutes()[0].lip_sync == pytest.approx(1)


def test_one_minute_cannot_drift(meter, stream):
    short = meter(stream[0])
    short.update(stream[:50])
    with pytest.raises(ValueError, match="two minutes"):
        drift(short.minutes())


def test_flatness_of_time_and_memory():
    stamps = 0.48 * np.arange(1, 1251)
    times = np.where(stamps < 5, 9.0, 0.2)
    assert flatness(times, stamps) == 1
    assert flatness(times * np.linspace(1, 1.5, 1250), stamps) > 1.3


def test_minutes_hold_the_chunks_that_end_in_them():
    stamps = np.array([20.0, 60.0, 61.0, 90.0, 120.0, 130.0])
    assert by_minute(np.array([1.0, 3.0, 5.0, 7.0, 9.0, 4.0]), stamps) == [2.0, 7.0, 4.0]
