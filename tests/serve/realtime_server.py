"""A server of the Realtime protocol on loopback that answers with a voice of ours: what `realtime` is tested
against, over a real socket."""

import asyncio
import base64
import contextlib
import json

import numpy as np
from aiohttp import WSMsgType, web

from tm_jax.rates import SAMPLE_RATE
from tm_jax.serve.voices.protocol import Said, Speech, SpeechEnd, Thinking, UserSaid, UserStarted
from tm_jax.serve.voices.realtime import WIRE_RATE, Realtime, RealtimeConfig
from tm_jax.serve.voices.resampling import Resampler, to_pcm

KEY = "a-key"


class RealtimeServer:
    """One conversation a socket; what clients sent is kept."""

    def __init__(self, make_voice):
        self._make_voice = make_voice
        self.received: list[dict] = []  # without sound
        self.everything: list[dict] = []
        self.told: list[dict] = []

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/realtime", self._serve)
        return app

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            raise web.HTTPUnauthorized
        if request.query.get("model") != "a-model":
            raise web.HTTPNotFound
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        voice = self._make_voice()
        await voice.start()
        await self._tell(socket, type="session.created", session={"type": "realtime"})
        speaking = asyncio.create_task(self._speak(voice, socket))
        up = Resampler(WIRE_RATE, SAMPLE_RATE)
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            fields = json.loads(message.data)
            self.everything.append(fields)
            if fields["type"] == "input_audio_buffer.append":
                await voice.hear(up.push(np.frombuffer(base64.b64decode(fields["audio"]), "<i2")))
            else:
                self.received.append(fields)
                if fields["type"] == "response.cancel":
                    await voice.interrupted(0.0)
        await voice.close()
        await speaking
        return socket

    async def _tell(self, socket, **message) -> None:
        message["event_id"] = f"e{len(self.told)}"
        self.told.append(message)
        await socket.send_json(message)

    async def _speak(self, voice, socket) -> None:
        tell = lambda kind, **more: self._tell(socket, type=kind, **more)
        down, number, open_response = Resampler(SAMPLE_RATE, WIRE_RATE), 0, False
        async for event in voice.events():
            if isinstance(event, Said | Speech) and not open_response:
                number, open_response = number + 1, True
                await tell("response.created", response={"id": f"r{number}"})
            part = {"item_id": f"i{number}", "content_index": 0}
            here = part | {"response_id": f"r{number}", "output_index": 0}
            match event:
                case UserStarted():
                    await tell("input_audio_buffer.speech_started", item_id=f"u{number}", audio_start_ms=0)
                case Thinking():
                    await tell("input_audio_buffer.speech_stopped", item_id=f"u{number}", audio_end_ms=0)
                case UserSaid(text):
                    kind = "conversation.item.input_audio_transcription.completed"
                    usage = {"type": "duration", "seconds": 1.0}
                    await tell(kind, transcript=text, usage=usage, **part)
                case Said(text):
                    await tell("response.output_audio_transcript.delta", delta=text, **here)
                case Speech(samples):
                    for start in range(0, len(samples), 1600):
                        pcm = to_pcm(down.push(samples[start : start + 1600]))
                        await tell(
                            "response.output_audio.delta", delta=base64.b64encode(pcm).decode(), **here
                        )
                case SpeechEnd():
                    open_response = False
                    await tell("response.done", response={"id": f"r{number}"})


@contextlib.asynccontextmanager
async def scripted(*conversations):
    """A `Realtime`, and a server that says the next list of messages each time that it is called, or refuses
    by a status; after all but the last it hangs up with code 4000."""
    waiting = list(conversations)

    async def serve(request):
        messages = waiting.pop(0)
        if isinstance(messages, int):
            return web.Response(status=messages)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for message in messages:
            await socket.send_str(message)
        if waiting:
            await socket.close(code=4000)
        else:
            async for _ in socket:
                pass
        return socket

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    voice = Realtime(RealtimeConfig(f"ws://127.0.0.1:{runner.addresses[0][1]}/"))
    try:
        yield voice
    finally:
        await voice.close()
        await runner.cleanup()
