"""The LiveKit avatar with the package's in-process queue and a room that is none: no server is needed."""

import asyncio

import numpy as np
import pytest
from livekit import rtc
from livekit.agents.voice.avatar import AudioSegmentEnd, AvatarRunner, QueueAudioOutput

from tests.streaming.fake import PICTURE, FakeBackend
from tm_jax.serve.live import LiveSession
from tm_jax.serve.livekit import Avatar, FaceGenerator, options
from tm_jax.streaming.engine import StreamEngine


def audio(seconds: float, rate: int = 24_000, channels: int = 1) -> rtc.AudioFrame:
    """A loud frame."""
    count = int(seconds * rate)
    samples = np.random.default_rng(0).integers(-9000, 9000, count).astype("<i2")
    return rtc.AudioFrame(np.repeat(samples, channels).tobytes(), rate, channels, count)


@pytest.fixture
def engine():
    return StreamEngine(FakeBackend())


def make_face(engine) -> FaceGenerator:
    return FaceGenerator(LiveSession(engine, engine.reference(PICTURE), PICTURE))


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (24_000, 1), (48_000, 2)])
def test_speech_goes_in_and_leaves_with_its_frames_and_its_end(engine, rate, channels):
    async def run():
        face = make_face(engine)
        kinds, heard = [], 0.0
        async for item in face:
            kinds.append(type(item))
            if len(kinds) == 12:
                for _ in range(4):
                    await face.push_audio(audio(0.1, rate, channels))
                await face.push_audio(AudioSegmentEnd())
            if isinstance(item, rtc.AudioFrame):
                assert (item.sample_rate, item.num_channels) == (16_000, 1)
                heard += item.duration
            if isinstance(item, AudioSegmentEnd):
                break
            assert len(kinds) < 200
        assert heard == pytest.approx(0.4, abs=0.05)
        assert kinds.count(rtc.VideoFrame) > 20
        await face.aclose()

    asyncio.run(run())


def test_clearing_the_buffer_silences_at_once(engine):
    async def run():
        face, frames = make_face(engine), 0
        await face.push_audio(audio(5.0))
        after = []
        async for item in face:
            if isinstance(item, rtc.AudioFrame) and not frames:
                face.clear_buffer()
                frames = 1
            elif frames:
                after.append(item)
            if len(after) > 20:
                break
        assert all(isinstance(item, rtc.VideoFrame) for item in after)
        await face.aclose()

    asyncio.run(run())


class Room(rtc.EventEmitter):
    """What the runner asks of a room."""

    def __init__(self):
        super().__init__()
        self.published = []
        self.local_participant = self
        self.identity = "agent"
        self.name = "room"

    def isconnected(self) -> bool:
        return True

    async def publish_track(self, track, options):
        self.published.append(track)
        return self

    async def wait_for_subscription(self):
        pass


def test_the_runner_plays_an_answer_to_its_end_and_says_so(engine):
    async def run():
        room, sound, face = Room(), QueueAudioOutput(sample_rate=16_000), make_face(engine)
        runner = AvatarRunner(room, audio_recv=sound, video_gen=face, options=options(engine))
        finished = asyncio.Event()
        position = []

        def done(event):
            position.append((event.playback_position, event.interrupted))
            finished.set()

        sound.on("playback_finished", done)
        await runner.start()
        for _ in range(5):
            await sound.capture_frame(audio(0.1, 16_000))
        sound.flush()
        await asyncio.wait_for(finished.wait(), 10.0)
        ((played, interrupted),) = position
        assert played == pytest.approx(0.5, abs=0.06) and not interrupted
        assert len(room.published) == 2
        await runner.aclose()
        await face.aclose()

    asyncio.run(run())


def test_an_interruption_tells_how_much_was_played_and_the_next_answer_begins_anew(engine):
    async def run():
        room, sound, face = Room(), QueueAudioOutput(sample_rate=16_000), make_face(engine)
        runner = AvatarRunner(room, audio_recv=sound, video_gen=face, options=options(engine))
        finished: asyncio.Queue = asyncio.Queue()
        begun = asyncio.Event()
        sound.on("playback_finished", finished.put_nowait)
        sound.on("playback_started", lambda *_: begun.set())
        await runner.start()
        for _ in range(40):
            await sound.capture_frame(audio(0.1, 16_000))
        sound.flush()
        await asyncio.wait_for(begun.wait(), 10.0)
        await asyncio.sleep(0.4)
        sound.clear_buffer()
        cut = await asyncio.wait_for(finished.get(), 10.0)
        assert cut.interrupted and 0 < cut.playback_position < 3
        for _ in range(5):
            await sound.capture_frame(audio(0.1, 16_000))
        sound.flush()
        whole = await asyncio.wait_for(finished.get(), 10.0)
        assert not whole.interrupted and whole.playback_position == pytest.approx(0.5, abs=0.06)
        await runner.aclose()
        await face.aclose()

    asyncio.run(run())


def test_an_avatar_takes_an_agents_voice_and_leaves_nothing(engine):
    class Session(rtc.EventEmitter):
        class output:
            audio = None

    async def run():
        room, session = Room(), Session()
        avatar = Avatar(engine, engine.reference(PICTURE), PICTURE)
        await avatar.start(session, room)
        assert isinstance(session.output.audio, QueueAudioOutput) and avatar.avatar_identity == "agent"
        await asyncio.sleep(0.3)
        room.isconnected = lambda: False
        await avatar.aclose()
        assert avatar._runner is None

    asyncio.run(run())
