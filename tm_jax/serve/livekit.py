"""The engine as an avatar of LiveKit Agents: an agent's voice goes in, a talking face comes out.

    agent ─ its speech ─► FaceGenerator ─► LiveSession ─► frames with their sound ─► AvatarRunner ─► room

`Avatar` runs the face in the agent's own process; `run_avatar` runs it in a process of its own, which joins
the room beside the agent and gets its speech by LiveKit's data streams.  LiveKit's dispatch spreads either
kind of worker over machines; each serves as many rooms as its engine has time for (`serve.capacity`).
"""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
from livekit import rtc
from livekit.agents import AgentSession
from livekit.agents.voice.avatar import (
    AudioSegmentEnd,
    AvatarOptions,
    AvatarRunner,
    AvatarSession,
    DataStreamAudioReceiver,
    QueueAudioOutput,
    VideoGenerator,
)

from tm_jax.rates import FRAMES_PER_SECOND, SAMPLE_RATE
from tm_jax.serve.live import LiveSession
from tm_jax.serve.voices.resampling import Resampler, to_pcm
from tm_jax.streaming.engine import StreamEngine
from tm_jax.streaming.reference import Reference


class FaceGenerator(VideoGenerator):
    """A character that says what it is given and listens otherwise; 25 frames a second for ever."""

    def __init__(self, live: LiveSession):
        """Takes over the session; ``aclose`` closes it."""
        self._live = live
        self._resampler: tuple[int, Resampler] | None = None
        self._speaking = self._ending = False

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """Take the agent's next speech, of any rate; channels are averaged."""
        if isinstance(frame, AudioSegmentEnd):
            self._ending = True
            return
        samples = np.frombuffer(frame.data, np.int16).reshape(-1, frame.num_channels)
        mono = samples.astype(np.float32).mean(1) / 32768
        if self._resampler is None or self._resampler[0] != frame.sample_rate:
            self._resampler = (frame.sample_rate, Resampler(frame.sample_rate, SAMPLE_RATE))
        if not self._speaking:
            self._live.begin_answer()
        self._speaking, self._ending = True, False
        self._live.say(self._resampler[1].push(mono))

    def clear_buffer(self) -> None:
        """The agent was interrupted: nothing more of its speech is heard."""
        self._live.interrupt()
        self._speaking = self._ending = False

    async def __aiter__(self) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        """A frame every 40 ms, the sound of it while the character speaks, and the end of each answer."""
        loop = asyncio.get_running_loop()
        start, number = loop.time(), 0
        while True:
            if self._live.failure is not None:
                raise self._live.failure
            tick = self._live.tick()
            height, width = tick.frame.shape[:2]
            opaque = np.concatenate([tick.frame, np.full((height, width, 1), 255, np.uint8)], axis=2)
            yield rtc.VideoFrame(width, height, rtc.VideoBufferType.RGBA, opaque.tobytes())
            if tick.speech:
                yield rtc.AudioFrame(to_pcm(tick.samples), SAMPLE_RATE, 1, len(tick.samples))
            if self._ending and not self._live.speaking:
                self._speaking = self._ending = False
                yield AudioSegmentEnd()
            number += 1
            await asyncio.sleep(max(0.0, start + number / FRAMES_PER_SECOND - loop.time()))

    async def aclose(self) -> None:
        """End the stream; leaves no thread."""
        await asyncio.to_thread(self._live.close)


def options(engine: StreamEngine) -> AvatarOptions:
    """What the face gives: its size, 25 frames a second, 16 kHz mono."""
    height, width = engine.size
    return AvatarOptions(
        video_width=width,
        video_height=height,
        video_fps=FRAMES_PER_SECOND,
        audio_sample_rate=SAMPLE_RATE,
        audio_channels=1,
    )


class Avatar(AvatarSession):
    """Gives an agent a face in the agent's own process: ``await Avatar(…).start(session, room)``."""

    def __init__(self, engine: StreamEngine, reference: Reference, picture: np.ndarray):
        """One face for one agent session.

        Args:
          reference: what the engine made of the picture; it may serve many avatars.
        """
        super().__init__()
        self._engine, self._reference, self._picture = engine, reference, picture
        self._identity = ""
        self._runner: AvatarRunner | None = None
        self._face: FaceGenerator | None = None

    @property
    def avatar_identity(self) -> str:
        """The agent's own: the face speaks for it."""
        return self._identity

    @property
    def provider(self) -> str:
        """Who makes the picture."""
        return "tm_jax"

    async def start(self, agent_session: AgentSession, room: rtc.Room) -> None:
        """The agent's speech goes through the face from now on."""
        self._identity = room.local_participant.identity
        await super().start(agent_session, room)
        live = await asyncio.to_thread(LiveSession, self._engine, self._reference, self._picture)
        self._face, sound = FaceGenerator(live), QueueAudioOutput(sample_rate=SAMPLE_RATE)
        self._runner = AvatarRunner(
            room, audio_recv=sound, video_gen=self._face, options=options(self._engine), _lazy_publish=False
        )
        await self._runner.start()
        agent_session.output.audio = sound

    async def aclose(self) -> None:
        """End the face."""
        if self._runner is not None:
            await self._runner.aclose()
            await self._face.aclose()
            self._runner = self._face = None
        await super().aclose()


async def run_avatar(
    room: rtc.Room, engine: StreamEngine, reference: Reference, picture: np.ndarray, *, agent_identity: str
) -> None:
    """A face in a process of its own: speaks what the agent sends by data streams, until cancelled.

    Args:
      room: that this process has joined.
      agent_identity: whose speech it is.
    """
    face = FaceGenerator(await asyncio.to_thread(LiveSession, engine, reference, picture))
    sound = DataStreamAudioReceiver(room, sender_identity=agent_identity)
    runner = AvatarRunner(
        room, audio_recv=sound, video_gen=face, options=options(engine), _lazy_publish=False
    )
    try:
        await runner.start()
        await runner.wait_for_complete()
    finally:
        await runner.aclose()
        await face.aclose()
