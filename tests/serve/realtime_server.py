"""A server of the Realtime protocol on loopback that answers with a voice of ours: what `realtime` is tested
against, over a real socket."""

import asyncio
import base64
import json

import numpy as np
from aiohttp import WSMsgType, web

from tm_jax.rates import SAMPLE_RATE
from tm_jax.serve.voices.protocol import Said, Speech, SpeechEnd, Thinking, UserSaid, UserStarted
from tm_jax.serve.voices.realtime import WIRE_RATE
from tm_jax.serve.voices.resampling import Resampler, to_pcm

KEY = "a-key"


class RealtimeServer:
    """One conversation a socket; what clients sent is kept."""

    def __init__(self, make_voice):
        self._make_voice = make_voice
        self.received: list[dict] = []

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
        await socket.send_json({"type": "session.created", "session": {"type": "realtime"}})
        speaking = asyncio.create_task(self._speak(voice, socket))
        up = Resampler(WIRE_RATE, SAMPLE_RATE)
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            fields = json.loads(message.data)
            if fields["type"] == "input_audio_buffer.append":
                await voice.hear(up.push(np.frombuffer(base64.b64decode(fields["audio"]), "<i2")))
            else:
                self.received.append(fields)
                if fields["type"] == "response.cancel":
                    await voice.interrupted(0.0)
        await voice.close()
        await speaking
        return socket

    async def _speak(self, voice, socket) -> None:
        down, number, open_response = Resampler(SAMPLE_RATE, WIRE_RATE), 0, False
        async for event in voice.events():
            here = {"response_id": f"r{number}", "item_id": f"i{number}", "content_index": 0}
            if isinstance(event, Said | Speech) and not open_response:
                number, open_response = number + 1, True
                here = {"response_id": f"r{number}", "item_id": f"i{number}", "content_index": 0}
                await socket.send_json({"type": "response.created", "response": {"id": f"r{number}"}})
            match event:
                case UserStarted():
                    await socket.send_json({"type": "input_audio_buffer.speech_started"})
                case Thinking():
                    await socket.send_json({"type": "input_audio_buffer.speech_stopped"})
                case UserSaid(text):
                    kind = "conversation.item.input_audio_transcription.completed"
                    await socket.send_json({"type": kind, "transcript": text})
                case Said(text):
                    kind = "response.output_audio_transcript.delta"
                    await socket.send_json({"type": kind, "delta": text} | here)
                case Speech(samples):
                    for start in range(0, len(samples), 1600):
                        delta = base64.b64encode(to_pcm(down.push(samples[start : start + 1600]))).decode()
                        await socket.send_json({"type": "response.output_audio.delta", "delta": delta} | here)
                case SpeechEnd():
                    open_response = False
                    await socket.send_json({"type": "response.done", "response": {"id": f"r{number}"}})
