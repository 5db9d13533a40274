"""Voices: turns from sound, the mirror, the script, and the Realtime protocol over a real socket."""

import asyncio
import contextlib

import numpy as np
import pytest
from aiohttp import web
from openai.types import realtime as realtime_types
from pydantic import TypeAdapter

from tests.audio.test_voice_activity import voice as speech
from tests.serve.realtime_server import KEY, RealtimeServer, scripted
from tm_jax.errors import InputError
from tm_jax.rates import SAMPLE_RATE
from tm_jax.serve.voices import realtime
from tm_jax.serve.voices.mirror import Mirror
from tm_jax.serve.voices.offline import Offline, OfflineConfig
from tm_jax.serve.voices.protocol import Said, Speech, SpeechEnd, Thinking, Trouble, UserSaid, UserStarted
from tm_jax.serve.voices.realtime import Realtime, RealtimeConfig
from tm_jax.serve.voices.script import Script
from tm_jax.serve.voices.turns import Ended, Started, Turns

silence = lambda seconds: np.zeros(int(seconds * SAMPLE_RATE), np.float32)


def blocks(sound: np.ndarray, length: int = 320):
    """A sound in blocks."""
    return [sound[start : start + length] for start in range(0, len(sound), length)]


async def collect(voice, wanted: type, seconds: float = 20.0) -> list:
    """Events up to the first of a kind."""
    found = []

    async def read():
        async for event in voice.events():
            found.append(event)
            if isinstance(event, wanted):
                return

    await asyncio.wait_for(read(), seconds)
    return found


def test_an_utterance_begins_and_ends_once():
    turns, said = Turns(), speech(1.5)
    found = []
    for block in blocks(np.concatenate([silence(1), said, silence(1), said, silence(1)]), 441):
        found += turns.push(block)
    assert [type(turn) for turn in found] == [Started, Ended, Started, Ended]
    assert 1.5 < len(found[1].utterance) / SAMPLE_RATE < 2.6


def test_a_cough_is_no_utterance_and_a_monologue_is_cut():
    turns = Turns()
    assert turns.push(np.concatenate([silence(1), speech(0.08), silence(1)])) == []
    found = Turns().push(speech(40.0))
    assert sum(isinstance(turn, Ended) for turn in found) == 1


def test_the_mirror_gives_back_what_it_hears():
    async def run():
        mirror, said = Mirror(), speech(1.0)
        await mirror.start()
        for block in blocks(np.concatenate([silence(1), said, silence(1)])):
            await mirror.hear(block)
        found = await collect(mirror, SpeechEnd)
        assert [type(event) for event in found] == [UserStarted, Thinking, Speech, SpeechEnd]
        given = found[2].samples
        inside = np.lib.stride_tricks.sliding_window_view(given, len(said))[::1]
        assert np.isclose(np.abs(inside - said).max(1).min(), 0)
        await mirror.close()
        assert [event async for event in mirror.events()] == []

    asyncio.run(run())


def test_the_script_answers_by_the_most_words_and_takes_turns(tmp_path):
    path = tmp_path / "script.txt"
    path.write_text(
        "# mine\ngreeting: Hi.\nname / who are you -> Pia. | Still Pia.\nyou -> Me?\n* -> What?\n"
    )
    script = Script(path)
    assert script.greeting == "Hi."
    assert [script.answer("who are you then") for _ in range(3)] == ["Pia.", "Still Pia.", "Pia."]
    assert script.answer("You!") == "Me?" and script.answer("") == "What?"
    assert Script().answer("hello") != Script().answer("tell me a story")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hello there\n* -> x", "Line 1"),
        ("a -> \n* -> x", "Line 1"),
        (" / b -> c\n* -> x", "Line 1"),
        ("a -> b", "add \\* ->"),
    ],
)
def test_a_broken_script_is_one_sentence(tmp_path, text, sentence):
    (tmp_path / "script.txt").write_text(text)
    with pytest.raises(InputError, match=sentence):
        Script(tmp_path / "script.txt")
    with pytest.raises(InputError, match="cannot be read"):
        Script(tmp_path / "nothing.txt")


def test_the_offline_voice_greets_hears_answers_and_stops(tmp_path):
    """Its parts are the real ones; only what it shall say is short."""
    (tmp_path / "script.txt").write_text("greeting: Hi.\n* -> Yes. No.\n")

    async def run():
        offline = Offline(OfflineConfig(tmp_path / "script.txt"))
        await offline.start()
        greeting = await collect(offline, SpeechEnd)
        assert greeting[0] == Said("Hi.") and isinstance(greeting[1], Speech)
        for block in blocks(np.concatenate([silence(1), speech(1.0), silence(1)])):
            await offline.hear(block)
        found = await collect(offline, SpeechEnd)
        kinds = [UserStarted, Thinking, UserSaid, Said, Speech, Speech, SpeechEnd]
        assert [type(event) for event in found] == kinds
        await offline.hear(np.concatenate([speech(1.0), silence(1)]))
        await offline.interrupted(0.0)
        await offline.close()
        assert not any(isinstance(event, Speech) for event in await collect_all(offline))

    asyncio.run(run())


async def collect_all(voice) -> list:
    """Events of a voice that is closed."""
    return [event async for event in voice.events()]


@contextlib.asynccontextmanager
async def served(make_voice, monkeypatch, key=KEY):
    """A `Realtime` that is connected to a server on loopback, and the server."""
    server = RealtimeServer(make_voice)
    runner = web.AppRunner(server.application(), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    monkeypatch.setenv(realtime.KEY, key)
    port = runner.addresses[0][1]
    voice = Realtime(
        RealtimeConfig(f"ws://127.0.0.1:{port}/v1/realtime", "a-model", "a-speaker", "Be brief.")
    )
    try:
        yield voice, server
    finally:
        await voice.close()
        await runner.cleanup()


def test_realtime_carries_sound_there_and_back(monkeypatch):
    async def run():
        async with served(Mirror, monkeypatch) as (voice, server):
            await voice.start()
            said = speech(1.0)
            for block in blocks(np.concatenate([silence(1), said, silence(1)])):
                await voice.hear(block)
            found = await collect(voice, SpeechEnd)
            kinds = [type(event) for event in found if not isinstance(event, Speech)]
            assert kinds == [UserStarted, Thinking, SpeechEnd]
            back = np.concatenate([event.samples for event in found if isinstance(event, Speech)])
            assert np.isfinite(back).all() and np.abs(back).max() <= 1
            best = np.correlate(back, said, "valid").max() / (np.linalg.norm(said) ** 2)
            assert best > 0.9, "the sound that came back is not the one that was said"
            session = server.received[0]["session"]
            assert session["type"] == "realtime" and session["audio"]["output"]["voice"] == "a-speaker"
            assert session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}

    asyncio.run(run())


def test_realtime_cancels_and_truncates_at_barge_in(monkeypatch):
    async def run():
        async with served(Mirror, monkeypatch) as (voice, server):
            await voice.start()
            for block in blocks(np.concatenate([silence(1), speech(3.0), silence(1)])):
                await voice.hear(block)
            for _ in range(8):
                await collect(voice, Speech)
            await voice.interrupted(0.5)
            await asyncio.sleep(0.1)
            cancel, cut = server.received[-2:]
            assert cancel == {"type": "response.cancel", "response_id": "r1"}
            assert cut["type"] == "conversation.item.truncate" and cut["audio_end_ms"] == 500
            assert cut["item_id"] == "i1"
            await voice.hear(np.concatenate([speech(0.6), silence(1)]))
            later = await collect(voice, SpeechEnd)
            assert isinstance(later[0], UserStarted), "nothing more of the cancelled answer comes"

    asyncio.run(run())


def test_a_refused_key_and_an_absent_service_are_one_sentence(monkeypatch):
    async def run():
        async with served(Mirror, monkeypatch, key="wrong") as (voice, _):
            with pytest.raises(InputError, match=f"refused.*set {realtime.KEY}"):
                await voice.start()
        with pytest.raises(InputError, match="is the service running"):
            await Realtime(RealtimeConfig("ws://127.0.0.1:9/v1/realtime")).start()
        with pytest.raises(InputError, match="begin it with ws://"):
            await Realtime(RealtimeConfig("http://127.0.0.1:9")).start()

    asyncio.run(run())


def test_what_is_sent_and_understood_is_of_the_protocol(monkeypatch):
    """OpenAI's own package describes both sides' messages of the protocol's general availability."""

    async def run():
        async with served(Mirror, monkeypatch) as (voice, server):
            await voice.start()
            for block in blocks(np.concatenate([silence(1), speech(2.0), silence(1)])):
                await voice.hear(block)
            await collect(voice, Speech)
            await voice.interrupted(0.05)
            await voice.hear(silence(0.1))
            await asyncio.sleep(0.1)
            kinds = {message["type"] for message in server.everything}
            assert kinds == {
                "session.update",
                "input_audio_buffer.append",
                "response.cancel",
                "conversation.item.truncate",
            }
            for messages, form in (
                (server.everything, realtime_types.RealtimeClientEvent),
                (server.told, realtime_types.RealtimeServerEvent),
            ):
                check = TypeAdapter(form)
                for message in messages:
                    check.validate_python(message, strict=True)
            session = server.received[0]["session"]
            asked = realtime_types.RealtimeSessionCreateRequest.model_validate(session)
            assert not asked.model_extra and not asked.audio.input.model_extra
            assert asked.audio.input.transcription is None
            assert asked.audio.output.format.rate == 24000

    asyncio.run(run())


@pytest.mark.parametrize(
    "message",
    ["nonsense", "[]", "{}", '{"type": 3}', '{"type": "response.output_audio.delta", "delta": "§"}', "null"],
)
def test_a_message_that_is_not_of_the_protocol_is_trouble_and_no_end(message):
    async def run():
        error = '{"type": "error", "error": {"message": "no money"}}'
        async with scripted([message, error]) as voice:
            await voice.start()
            (first,) = await collect(voice, Trouble)
            (second,) = await collect(voice, Trouble)
            assert "not of its protocol" in first.text and second.text == "no money"

    asyncio.run(run())


def test_a_service_that_hangs_up_is_called_again(monkeypatch):
    monkeypatch.setattr(realtime, "_WAITS", (0.01,))
    back = '{"type": "input_audio_buffer.speech_started"}'

    async def run():
        async with scripted([], 401, 503, [back]) as voice:
            await voice.start()
            found = await collect(voice, UserStarted)
            assert [type(event) for event in found] == [SpeechEnd, Trouble, Trouble, UserStarted]
            assert "hung up (code 4000)" in found[1].text and f"set {realtime.KEY}" in found[2].text
            await voice.hear(silence(0.1))

    asyncio.run(run())


def test_errors_that_mean_no_harm_are_kept_quiet_and_a_failed_answer_is_told():
    quiet = '{"type": "error", "error": {"code": "response_cancel_not_active", "message": "none to cancel"}}'
    limits = '{"type": "rate_limits.updated", "rate_limits": []}'
    details = '{"type": "failed", "error": {"code": "rate_limit_exceeded", "message": "too fast"}}'
    failed = f'{{"type": "response.done", "response": {{"id": "r", "status_details": {details}}}}}'

    async def run():
        async with scripted([quiet, limits, failed]) as voice:
            await voice.start()
            assert await collect(voice, Trouble) == [SpeechEnd(), Trouble("too fast")]

    asyncio.run(run())
