"""The call between a voice and a picture: what the page is told, and that the picture waits for nothing."""

import asyncio
import base64
import json

import numpy as np
import pytest

from tests.serve.realtime_server import scripted
from tests.streaming.fake import PICTURE, FakeBackend
from tm_jax.errors import InputError
from tm_jax.rates import SAMPLE_RATE
from tm_jax.serve import call as call_module
from tm_jax.serve.call import Call
from tm_jax.serve.live import LiveSession
from tm_jax.serve.voices import realtime
from tm_jax.serve.voices.protocol import Speech, SpeechEnd, Thinking, UserStarted
from tm_jax.streaming.engine import StreamEngine

SOUND = np.full(SAMPLE_RATE // 4, 0.1, np.float32)


class Scripted:
    """A voice that gives events when it is told to."""

    def __init__(self, wait: float = 0.0, failure: str = ""):
        self._wait, self._failure = wait, failure
        self.waiting: asyncio.Queue = asyncio.Queue()
        self.heard, self.played = [], []

    async def start(self):
        await asyncio.sleep(self._wait)
        if self._failure:
            raise InputError(self._failure)

    async def hear(self, samples):
        self.heard.append(samples)

    async def events(self):
        while (event := await self.waiting.get()) is not None:
            yield event

    async def interrupted(self, played):
        self.played.append(played)

    async def close(self):
        self.waiting.put_nowait(None)


class Running:
    """A call whose ticks and messages are kept."""

    def __init__(self, voice):
        engine = StreamEngine(FakeBackend())
        live = LiveSession(engine, engine.reference(PICTURE), PICTURE)
        self.voice, self.told, self.ticks = voice, [], []
        self.call = Call(live, voice, self.told.append)

    async def __aenter__(self):
        self._task = asyncio.create_task(self.call.run(lambda tick, number: self.ticks.append(tick)))
        return self

    async def __aexit__(self, *_):
        self.call.hang_up()
        await self._task

    def states(self) -> list[str]:
        return [message["state"] for message in self.told if "state" in message]

    async def until(self, reached) -> None:
        for _ in range(400):
            if reached():
                return
            await asyncio.sleep(0.02)
        raise AssertionError(self.told)


def test_every_turn_is_thinking_then_speaking_while_it_sounds_then_listening():
    async def run():
        async with Running(Scripted()) as running:
            for turn in range(3):
                for event in (UserStarted(), Thinking(), Speech(SOUND), Speech(SOUND)):
                    running.voice.waiting.put_nowait(event)
                await running.until(
                    lambda turn=turn: running.states()[3 * turn :] == ["thinking", "speaking"]
                )
                assert running.ticks[-1].speech, "speaking begins with the first sound"
                # All that was given is played, but more may come: the character has not finished.
                await running.until(lambda: not running.call.live.speaking)
                await asyncio.sleep(0.1)
                assert running.states()[-1] == "speaking"
                running.voice.waiting.put_nowait(SpeechEnd())
                await running.until(lambda: running.states()[-1] == "listening")
            assert running.states() == 3 * ["thinking", "speaking", "listening"]

    asyncio.run(run())


def test_an_interruption_listens_at_once_and_tells_what_was_heard():
    async def run():
        async with Running(Scripted()) as running:
            for event in (Thinking(), Speech(np.tile(SOUND, 40))):
                running.voice.waiting.put_nowait(event)
            await running.until(lambda: sum(tick.speech for tick in running.ticks) > SAMPLE_RATE // 5)
            running.voice.waiting.put_nowait(UserStarted())
            await running.until(lambda: running.states()[-1] == "listening")
            assert {"interrupted": True} in running.told
            heard = sum(tick.speech for tick in running.ticks) / SAMPLE_RATE
            assert running.voice.played == [pytest.approx(heard, abs=0.001)]

    asyncio.run(run())


def test_the_picture_does_not_wait_for_a_slow_voice_and_its_failure_is_told():
    async def run():
        running = Running(Scripted(wait=0.5, failure="No voice answers."))
        task = asyncio.create_task(running.call.run(lambda tick, number: running.ticks.append(tick)))
        await asyncio.sleep(0.4)
        await running.call.hear(SOUND)
        assert len(running.ticks) > 5 and not running.voice.heard
        with pytest.raises(InputError, match="No voice answers"):
            await task

    asyncio.run(run())


def test_an_answer_that_never_comes_is_told_once(monkeypatch):
    monkeypatch.setattr(call_module, "PATIENCE", 0.2)

    async def run():
        async with Running(Scripted()) as running:
            running.voice.waiting.put_nowait(Thinking())
            await running.until(lambda: running.states() == ["thinking", "listening"])
            await asyncio.sleep(0.3)
            assert [message for message in running.told if "trouble" in message] == [
                {"trouble": "No answer came within 0 s: say it once more."}
            ]

    asyncio.run(run())


def test_a_call_lives_on_when_its_voice_hangs_up_and_refuses(monkeypatch):
    monkeypatch.setattr(realtime, "_WAITS", (0.05,))
    answer = base64.b64encode(np.ones(2400, "<i2").tobytes()).decode()
    begun = {"type": "response.output_audio.delta", "response_id": "r", "item_id": "i", "delta": answer}

    async def run():
        async with scripted([json.dumps(begun)], 401, [json.dumps(begun)]) as voice:
            async with Running(voice) as running:
                troubles = lambda: [message["trouble"] for message in running.told if "trouble" in message]
                await running.until(lambda: len(troubles()) == 2)
                assert "hung up" in troubles()[0] and "set TM_JAX_VOICE_KEY" in troubles()[1]
                heard = lambda: sum(tick.speech for tick in running.ticks) / SAMPLE_RATE
                await running.until(lambda: heard() > 0.15)
                assert running.states()[:2] == ["thinking", "speaking"]

    asyncio.run(run())
