"""A client of the OpenAI Realtime protocol (WebSocket, the events of its general availability).

Hosted audio LLMs speak it, and so do self-hosted servers (speech-to-speech, vLLM-omni, speaches).  The server
hears, decides whose turn it is, thinks and speaks; this voice carries sound there and back at 24 kHz.  When
the user talks over the character, the answer is cancelled, and cut on the server, too, to what was heard.
When the server hangs up, it is called again: the call goes on, the conversation begins anew.
"""

import asyncio
import base64
import binascii
import dataclasses
import itertools
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
from jaxtyping import Float32

from tm_jax.errors import InputError
from tm_jax.rates import SAMPLE_RATE
from tm_jax.serve.voices.protocol import (
    Event,
    Said,
    Speech,
    SpeechEnd,
    Thinking,
    Trouble,
    UserSaid,
    UserStarted,
)
from tm_jax.serve.voices.resampling import Resampler, to_pcm

WIRE_RATE = 24_000
KEY = "TM_JAX_VOICE_KEY"
"""Environment variable with the service's key; OPENAI_API_KEY is read where it is not set."""
_MOST_BYTES = 2**22
_TIMEOUT = 10.0
_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds before the service is called again; the last one for ever."""
_BENIGN = ("response_cancel_not_active",)
"""Errors that mean no harm: the server has stopped by itself, as we were asking it to."""


@dataclasses.dataclass(frozen=True)
class RealtimeConfig:
    """Where the service is and what it shall be."""

    url: str = "wss://api.openai.com/v1/realtime"
    """WebSocket address, without the model."""
    model: str = "gpt-realtime"
    """Model of the service."""
    speaker: str = ""
    """The service's voice; empty leaves it to the service."""
    instructions: str = "You are a friendly character in a video call. Answer briefly."
    """What the model is told of itself."""
    transcription: str = ""
    """The service's model that writes down what the user says, for captions; empty for none."""

    def __post_init__(self):
        if not self.url.startswith(("ws://", "wss://")):
            raise InputError(
                f"--voice-url {self.url} is no WebSocket address: begin it with ws:// or wss://."
            )


class Realtime:
    """A `Voice` behind a service."""

    def __init__(self, config: RealtimeConfig = RealtimeConfig()):
        self.config = config
        self._http: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._up, self._down = Resampler(SAMPLE_RATE, WIRE_RATE), Resampler(WIRE_RATE, SAMPLE_RATE)
        self._item, self._content, self._response = "", 0, ""  # of the answer that is being given
        self._before = self._given = 0.0  # seconds of the answer's earlier items, and of this one
        self._closed = False
        self._cancelled = ""  # the response of which no more is taken

    async def start(self) -> None:
        """Connects and says what sound is sent and wanted.

        Raises:
          InputError: nobody answers there, or the key is refused.
        """
        self._http = aiohttp.ClientSession()
        try:
            await self._connect()
        except InputError:
            await self.close()
            raise

    async def _connect(self) -> None:
        """A new conversation.

        Raises:
          InputError: nobody answers, or the key is refused.
        """
        config = self.config
        key = os.environ.get(KEY) or os.environ.get("OPENAI_API_KEY", "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._item = self._response = self._cancelled = ""
        try:
            connecting = self._http.ws_connect(
                config.url,
                params={"model": config.model},
                headers=headers,
                heartbeat=20.0,
                max_msg_size=_MOST_BYTES,
            )
            self._socket = await asyncio.wait_for(connecting, _TIMEOUT)
            await self._send(type="session.update", session=self._session())
        except aiohttp.WSServerHandshakeError as error:
            refused = error.status in (401, 403)
            remedy = f"set {KEY} to a valid key" if refused else "check the address and the model"
            raise InputError(f"The voice at {config.url} refused (HTTP {error.status}): {remedy}.") from None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            reason = str(error) or "no answer"
            raise InputError(
                f"No voice answers at {config.url} ({reason}): is the service running?"
            ) from None

    def _session(self) -> dict[str, Any]:
        form = {"type": "audio/pcm", "rate": WIRE_RATE}
        heard: dict[str, Any] = {"format": form, "turn_detection": {"type": "server_vad"}}
        if self.config.transcription:
            heard["transcription"] = {"model": self.config.transcription}
        output: dict[str, Any] = {"format": form}
        if self.config.speaker:
            output["voice"] = self.config.speaker
        return {
            "type": "realtime",
            "output_modalities": ["audio"],
            "instructions": self.config.instructions,
            "audio": {"input": heard, "output": output},
        }

    async def _send(self, **message: Any) -> None:
        if self._socket is not None and not self._socket.closed:
            await self._socket.send_str(json.dumps(message))

    async def hear(self, samples: Float32[np.ndarray, "s"]) -> None:
        """Send the user's next sound."""
        sound = self._up.push(np.asarray(samples, np.float32))
        if len(sound):
            try:
                await self._send(
                    type="input_audio_buffer.append", audio=base64.b64encode(to_pcm(sound)).decode()
                )
            except (aiohttp.ClientError, ConnectionError):
                pass  # the reading side tells it

    async def events(self) -> AsyncIterator[Event]:
        """What the service says, until we end the conversation."""
        while not self._closed:
            async for message in self._socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                try:
                    found = self._event(json.loads(message.data))
                except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
                    found = [Trouble("The voice service sent a message that is not of its protocol.")]
                for event in found:
                    yield event
            if self._closed:
                return
            code = self._socket.close_code
            yield SpeechEnd()
            yield Trouble(
                f"The voice service hung up (code {code}): it is called anew and has forgotten all."
            )
            async for trouble in self._again():
                yield trouble

    async def _again(self) -> AsyncIterator[Trouble]:
        """Calls the service until it answers, and tells once why it does not."""
        for attempt in itertools.count():
            await asyncio.sleep(_WAITS[min(attempt, len(_WAITS) - 1)])
            if self._closed:
                return
            try:
                await self._connect()
                return
            except InputError as error:
                if attempt == 0:
                    yield Trouble(str(error))

    def _event(self, fields: dict[str, Any]) -> list[Event]:
        """Our events of one of the service's; names of the beta are understood as well."""
        kind = fields["type"].replace("response.output_audio", "response.audio")
        response = fields.get("response_id") or fields.get("response", {}).get("id", "")
        if response and response == self._cancelled:
            return []
        match kind:
            case "input_audio_buffer.speech_started":
                return [UserStarted()]
            case "input_audio_buffer.speech_stopped":
                return [Thinking()]
            case "conversation.item.input_audio_transcription.completed":
                return [UserSaid(fields["transcript"])]
            case "response.created":
                self._response, self._item = response, ""
                self._before = self._given = 0.0
                return []
            case "response.audio.delta":
                self._response = response or self._response
                pcm = np.frombuffer(base64.b64decode(fields["delta"], validate=True), "<i2")
                item = fields.get("item_id", "")
                if item != self._item:
                    self._before, self._given = self._before + self._given, 0.0
                self._item, self._content = item, fields.get("content_index", 0)
                self._given += len(pcm) / WIRE_RATE
                return [Speech(self._down.push(pcm))]
            case "response.audio_transcript.delta":
                return [Said(fields["delta"])]
            case "response.done":
                self._response = ""
                failure = (fields["response"].get("status_details") or {}).get("error")
                return [SpeechEnd(), *([_trouble(failure)] if failure else [])]
            case "error":
                error = fields["error"]
                return [] if error.get("code") in _BENIGN else [_trouble(error)]
        return []

    async def interrupted(self, played: float) -> None:
        """Cancel the answer, and let the service forget what was not heard of it."""
        if self._response:
            self._cancelled, self._response = self._response, ""
            await self._send(type="response.cancel", response_id=self._cancelled)
        if self._item:
            await self._send(
                type="conversation.item.truncate",
                item_id=self._item,
                content_index=self._content,
                audio_end_ms=int(1000 * min(max(0.0, played - self._before), self._given)),
            )
            self._item = ""

    async def close(self) -> None:
        """Hang up."""
        self._closed = True
        if self._socket is not None:
            await self._socket.close()
        if self._http is not None:
            await self._http.close()
            self._http = None


def _trouble(error: dict[str, Any]) -> Trouble:
    """What the service says of an error: too many requests, no money, a model that is not there."""
    return Trouble(str(error.get("message") or "The voice service reports an error."))
