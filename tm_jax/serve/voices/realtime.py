"""A client of the OpenAI Realtime protocol (WebSocket, the events of its general availability).

Hosted audio LLMs speak it, and so do self-hosted servers (speech-to-speech, vLLM-omni, speaches).  The server
hears, decides whose turn it is, thinks and speaks; this voice carries sound there and back at 24 kHz.  When
the user talks over the character, the answer is cancelled, and cut on the server, too, to what was heard.
"""

import asyncio
import base64
import binascii
import dataclasses
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


class Realtime:
    """A `Voice` behind a service."""

    def __init__(self, config: RealtimeConfig = RealtimeConfig()):
        self.config = config
        self._http: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._up, self._down = Resampler(SAMPLE_RATE, WIRE_RATE), Resampler(WIRE_RATE, SAMPLE_RATE)
        self._item, self._content, self._response = "", 0, ""  # of the answer that is being given
        self._cancelled = ""  # the response of which no more is taken

    async def start(self) -> None:
        """Connects and says what sound is sent and wanted.

        Raises:
          InputError: the address is none, nobody answers there, or the key is refused.
        """
        config = self.config
        if not config.url.startswith(("ws://", "wss://")):
            raise InputError(
                f"--voice-url {config.url} is no WebSocket address: begin it with ws:// or wss://."
            )
        key = os.environ.get(KEY) or os.environ.get("OPENAI_API_KEY", "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = aiohttp.ClientSession()
        try:
            self._socket = await asyncio.wait_for(
                self._http.ws_connect(
                    config.url,
                    params={"model": config.model},
                    headers=headers,
                    heartbeat=20.0,
                    max_msg_size=_MOST_BYTES,
                ),
                _TIMEOUT,
            )
            await self._send(type="session.update", session=self._session())
        except aiohttp.WSServerHandshakeError as error:
            await self.close()
            refused = error.status in (401, 403)
            remedy = f"set {KEY} to a valid key" if refused else "check the address and the model"
            raise InputError(f"The voice at {config.url} refused (HTTP {error.status}): {remedy}.") from None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            await self.close()
            reason = str(error) or "no answer"
            raise InputError(
                f"No voice answers at {config.url} ({reason}): is the service running?"
            ) from None

    def _session(self) -> dict[str, Any]:
        form = {"type": "audio/pcm", "rate": WIRE_RATE}
        output: dict[str, Any] = {"format": form}
        if self.config.speaker:
            output["voice"] = self.config.speaker
        return {
            "type": "realtime",
            "output_modalities": ["audio"],
            "instructions": self.config.instructions,
            "audio": {"input": {"format": form, "turn_detection": {"type": "server_vad"}}, "output": output},
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
        """What the service says, until it or we end the conversation."""
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            try:
                fields = json.loads(message.data)
                found = self._event(fields)
            except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
                yield Trouble("The voice service sent a message that is not of its protocol.")
                continue
            for event in found:
                yield event
        if self._socket.close_code not in (None, 1000, 1001):
            yield Trouble(f"The voice service ended the call (code {self._socket.close_code}).")

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
                return []
            case "response.audio.delta":
                self._response = response or self._response
                self._item, self._content = fields.get("item_id", ""), fields.get("content_index", 0)
                pcm = np.frombuffer(base64.b64decode(fields["delta"], validate=True), "<i2")
                return [Speech(self._down.push(pcm))]
            case "response.audio_transcript.delta":
                return [Said(fields["delta"])]
            case "response.done":
                self._response = ""
                return [SpeechEnd()]
            case "error":
                return [Trouble(str(fields["error"].get("message", "The voice service reports an error.")))]
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
                audio_end_ms=max(0, int(1000 * played)),
            )
            self._item = ""

    async def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            await self._socket.close()
        if self._http is not None:
            await self._http.close()
            self._http = None
