"""One call: a voice that hears and speaks, a character whose face follows, and the clock between them.

Knows nothing of WebRTC: it takes the user's sound in blocks and gives a tick 25 times a second, and messages
for the page (state, captions, delays).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import numpy as np

from tm_jax.errors import InputError
from tm_jax.rates import FRAMES_PER_SECOND
from tm_jax.serve.live import LiveSession, Tick
from tm_jax.serve.voices.protocol import (
    Said,
    Speech,
    SpeechEnd,
    Thinking,
    Trouble,
    UserSaid,
    UserStarted,
    Voice,
)

State = Literal["listening", "thinking", "speaking"]
"""What the user sees and hears: ``speaking`` from an answer's first sound to its last."""
Message = dict[str, Any]
PATIENCE = 20.0
"""Seconds of thinking after which the user is told that no answer comes."""


class Call:
    """Runs from `run` until `hang_up`, the end of the voice, or a fault."""

    def __init__(self, live: LiveSession, voice: Voice, tell: Callable[[Message], None]):
        """Takes over the session and the voice: both are closed when the call ends.

        Args:
          tell: is given the messages for the page, in the event loop's thread.
        """
        self.live, self.voice, self._tell = live, voice, tell
        self.state: State = "listening"
        self._ready = False  # whether the voice can hear
        self._thinking = self._answering = False
        self._heard = False  # whether any of this answer has left
        self._turn_ended: float | None = None
        self.delays: dict[str, float] = {}
        """Seconds from the end of the user's speech to the answer's first sound from the voice, and on the
        way to the peer: ``voice`` and ``answer``."""
        self._over = asyncio.Event()

    async def hear(self, samples: np.ndarray) -> None:
        """The user's next 16 kHz mono sound."""
        if self._ready and not self._over.is_set():
            await self.voice.hear(samples)

    def hang_up(self) -> None:
        """End the call; `run` returns."""
        self._over.set()

    async def run(self, send: Callable[[Tick, int], None]) -> None:
        """The whole call; the picture does not wait for the voice.

        Args:
          send: is given tick after tick with its number, 25 a second.

        Raises:
          InputError: the voice cannot be had.
        """
        work = [asyncio.create_task(self._converse()), asyncio.create_task(self._pace(send))]
        try:
            over = asyncio.create_task(self._over.wait())
            done, _ = await asyncio.wait([*work, over], return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            for task in done:
                if task is not over:
                    task.result()
        finally:
            self._over.set()
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            await self._close()

    async def _close(self) -> None:
        closing: list[Awaitable] = [self.voice.close(), asyncio.to_thread(self.live.close)]
        await asyncio.gather(*closing, return_exceptions=True)

    async def _converse(self) -> None:
        await self.voice.start()
        self._ready = True
        async for event in self.voice.events():
            match event:
                case UserStarted():
                    await self._interrupt()
                case Thinking():
                    self._thinking, self._turn_ended = True, time.monotonic()
                case UserSaid(text):
                    self._tell({"caption": "user", "text": text})
                case Said(text):
                    self._tell({"caption": "character", "text": text})
                case Speech(samples):
                    self._speak(samples)
                case SpeechEnd():
                    self._answering = self._thinking = False
                case Trouble(text):
                    self._tell({"trouble": text})

    def _speak(self, samples: np.ndarray) -> None:
        if not self._answering:
            self._answering, self._thinking, self._heard = True, False, False
            self.live.begin_answer()
            if self._turn_ended is not None:
                self.delays["voice"] = time.monotonic() - self._turn_ended
        try:
            self.live.say(samples)
        except InputError as error:
            self._tell({"trouble": f"The voice gave sound that cannot be played ({error})"})

    async def _interrupt(self) -> None:
        self._thinking = False
        if self._answering or self.live.speaking:
            self._answering = False
            await self.voice.interrupted(self.live.interrupt())
            self._tell({"interrupted": True})

    async def _pace(self, send: Callable[[Tick, int], None]) -> None:
        """25 ticks a second; after a pause of the whole program it goes on from now and does not catch up."""
        loop = asyncio.get_running_loop()
        start, number = loop.time(), 0
        while True:
            if self.live.failure is not None:
                raise self.live.failure
            tick = self.live.tick()
            send(tick, number)
            self._note(tick)
            number += 1
            behind = loop.time() - (start + number / FRAMES_PER_SECOND)
            if behind > 0.5:
                number += int(behind * FRAMES_PER_SECOND)
            await asyncio.sleep(max(0.0, -behind))

    def _note(self, tick: Tick) -> None:
        """Tells the page what this tick changes."""
        if tick.speech:
            self._heard = True
            if self._turn_ended is not None:
                self.delays["answer"] = time.monotonic() - self._turn_ended
                self._turn_ended = None
                self._tell({"delays": self.delays})
        elif self._thinking and time.monotonic() - self._turn_ended > PATIENCE:
            self._thinking = False
            self._tell({"trouble": f"No answer came within {PATIENCE:.0f} s: say it once more."})
        state = self._state_now()
        if state != self.state:
            self.state = state
            self._tell({"state": state})

    def _state_now(self) -> State:
        answering = self._answering or self.live.speaking
        if answering and self._heard:
            return "speaking"
        return "thinking" if answering or self._thinking else "listening"
