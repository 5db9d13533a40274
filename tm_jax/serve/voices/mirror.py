"""The character says what the user says, with the user's own voice: the simplest proof that all works."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
from jaxtyping import Float32

from tm_jax.serve.voices.protocol import Event, Speech, SpeechEnd, Thinking, UserStarted
from tm_jax.serve.voices.turns import Ended, Turns


class Mirror:
    """A `Voice` that gives every utterance back."""

    def __init__(self):
        self._turns = Turns()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()

    async def start(self) -> None:
        """Nothing to do."""

    async def hear(self, samples: Float32[np.ndarray, "s"]) -> None:
        """Take the user's next sound."""
        for turn in self._turns.push(samples):
            if isinstance(turn, Ended):
                for event in (Thinking(), Speech(self.answer(turn.utterance)), SpeechEnd()):
                    self._events.put_nowait(event)
            else:
                self._events.put_nowait(UserStarted())

    def answer(self, utterance: Float32[np.ndarray, "s"]) -> Float32[np.ndarray, "a"]:
        """What is said back."""
        return utterance

    async def events(self) -> AsyncIterator[Event]:
        """What happens, until the voice is closed."""
        while (event := await self._events.get()) is not None:
            yield event

    async def interrupted(self, played: float) -> None:
        """An utterance is given at once and whole: there is no more of it to hold back."""

    async def close(self) -> None:
        """End the events."""
        self._events.put_nowait(None)
