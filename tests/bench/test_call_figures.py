"""The figures of a call, from a recording whose delays, states and lip-sync are known."""

import numpy as np
import pytest

from tm_jax.bench.call_figures import (
    Answer,
    call_figures,
    lip_sync_figures,
    stretches,
    turns,
    whole_answers,
)
from tm_jax.bench.call_recording import Recording, Sound
from tm_jax.rates import SAMPLE_RATE

SENTENCE, PERIOD, LENGTH, DELAY = 2.0, 10.0, 4.0, 0.8
"""Seconds: what the user says, from one turn to the next, an answer, and from the one to the other."""


def noise(seconds: float, seed: int) -> np.ndarray:
    """Sound whose loudness goes up and down as speech does."""
    draw = np.random.default_rng(seed)
    count = int(seconds * SAMPLE_RATE)
    loudness = np.interp(np.arange(count), np.arange(0, count, 1600), draw.uniform(0.2, 1, -(-count // 1600)))
    return (0.2 * loudness * draw.normal(size=count)).clip(-1, 1).astype(np.float32)


@pytest.fixture
def answers():
    draw = np.random.default_rng(3)
    opening = [np.convolve(draw.uniform(0, 1, 100), np.ones(4) / 4, "same") for _ in range(2)]
    return [Answer(noise(LENGTH, n), opening[n], np.ones(100, int)) for n in range(2)]


def recorded(answers, *, late: float = 0.0, cut: int | None = None, turns_: int = 5, states=None):
    """A call of so many turns that began at second 100 of the browser's clock, and the openings seen in it.

    Args:
      late: seconds by which the picture is behind its sound.
      cut: the turn in whose answer the user begins the next sentence, a second after it begins.
    """
    begin, microphone, heard = 100.0, [], []
    times = begin + np.arange(int(25 * PERIOD * (turns_ + 1))) / 25
    opening = np.full(len(times), 0.02)
    told, at = [], begin + 3.0
    for turn in range(turns_):
        end = at + SENTENCE
        start = end + DELAY
        answer = answers[turn % 2]
        length = 1.0 + 0.3 if turn == cut else LENGTH
        microphone.append((at, noise(SENTENCE, 9)))
        heard.append((start, answer.samples[: int(length * SAMPLE_RATE)]))
        shown = (times > start + late - 1e-6) & (times < start + late + length - 1e-6)
        frames = np.round((times[shown] - start - late) * 25).astype(int)
        opening[shown] = answer.opening[frames]
        told += [(end + 0.4, "thinking"), (start, "speaking"), (start + length, "listening")]
        at = start + 1.0 if turn == cut else at + PERIOD

    def sound(pieces):
        samples = np.zeros(int(PERIOD * (turns_ + 1) * SAMPLE_RATE), np.float32)
        for start, piece in pieces:
            first = round((start - begin) * SAMPLE_RATE)
            samples[first : first + len(piece)] = piece
        return Sound(samples, begin, float(SAMPLE_RATE))

    skew = np.stack([times[::12], np.full(len(times[::12]), 0.02)], 1)
    messages = [(begin, {"delays": {"voice": 0.0, "answer": 0.48}})]
    frames = np.zeros((len(times), 1, 1, 3), np.uint8)
    return Recording(times, frames, sound(microphone), sound(heard), skew, states or told, messages), opening


def test_delays_states_rate_and_skew_of_a_known_call(answers):
    found = call_figures(*recorded(answers), 0.48)
    assert found["turns"] == found["turns answered"] == 4, "the last turn has no end"
    assert found["turns with wrong states"] == 0
    assert found["end of speech to sound, median"] == pytest.approx(DELAY, abs=0.06)
    assert found["end of speech to moving mouth, median"] == pytest.approx(DELAY, abs=0.2)
    assert found["voice to speech in the picture, chunks, median"] == pytest.approx(1.0)
    assert found["skew in frames, p95"] == pytest.approx(0.5)
    assert found["drift of the skew, frames"] == pytest.approx(0, abs=1e-6)
    assert found["frames a second, p5"] == 25 and found["stalls over 0.5 s"] == 0


def test_an_interruption_is_timed_to_silence_and_to_the_closed_mouth(answers):
    recording, opening = recorded(answers, cut=1)
    (cut,) = [turn for turn in turns(recording, opening) if np.isfinite(turn.silenced)]
    assert cut.silenced == pytest.approx(0.3, abs=0.06) and cut.closed == pytest.approx(0.3, abs=0.2)


def test_states_out_of_order_are_found(answers):
    recording, _ = recorded(answers)
    wrong = [state for state in recording.states if state != recording.states[4]]
    assert call_figures(*recorded(answers, states=wrong), 0.48)["turns with wrong states"] == 1


@pytest.mark.parametrize(("frames", "found_late"), [(0, 0.0), (1, 1.0), (3, 1.0)])
def test_lip_sync_in_the_browser_is_that_of_the_frames_that_were_shown_with_the_sound(
    answers, frames, found_late
):
    recording, opening = recorded(answers, late=frames / 25, cut=2)
    heard = whole_answers(recording, opening, answers)
    assert [one.which for one in heard] == [0, 1, 1, 0], "not the one that was cut"
    files = [answer.opening for answer in answers]
    found = lip_sync_figures(heard, answers, files)
    assert found["lip-sync of infer.py"] == pytest.approx(1)
    assert found["picture behind its sound, frames, median"] == pytest.approx(found_late, abs=0.51)
    assert (found["lip-sync, browser less infer.py"] > -0.02) == (frames <= 1), "a frame is forgiven, no more"
    assert found["second half of the call behind the first, frames"] == pytest.approx(0, abs=0.5)


def test_stretches_close_short_gaps_and_drop_clicks():
    times = np.arange(0, 10, 0.02)
    loud = ((times > 1) & (times < 2)) | ((times > 2.3) & (times < 3)) | (np.abs(times - 7) < 0.03)
    found = stretches(np.stack([times, loud.astype(float)], 1), most=0.5)
    assert found == [pytest.approx((1.02, 2.98), abs=0.03)]


def test_a_sounds_clock_is_told_from_its_marks():
    until = np.arange(0, 160_000, 1600) + 1920
    marks = np.stack([50 + until / SAMPLE_RATE, until - 1600, until], 1)
    sound = Sound.of(np.zeros(170_000, np.float32), marks)
    assert sound.start == pytest.approx(50 + 320 / SAMPLE_RATE, abs=1e-6)
    assert sound.rate == pytest.approx(SAMPLE_RATE)
