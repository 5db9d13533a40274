"""What a voice is: it hears the user and speaks for the character.

A voice knows nothing of pictures.  It is given the user's sound as it comes and gives events back; the call
turns speech into video and tells the voice how much of it was played when it is cut short.

    user's sound ─► hear ─► │ voice │ ─► events ─► UserStarted, UserSaid, Thinking, Speech …, SpeechEnd
                            └───────┘ ◄─ interrupted(seconds that were played)
"""

import dataclasses
from collections.abc import AsyncIterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32


@dataclasses.dataclass(frozen=True)
class UserStarted:
    """The user begins to talk: what the character is saying is cut short."""


@dataclasses.dataclass(frozen=True)
class UserSaid:
    """What the user said, once it is known; for captions."""

    text: str


@dataclasses.dataclass(frozen=True)
class Thinking:
    """The user has finished; an answer is being made."""


@dataclasses.dataclass(frozen=True)
class Speech:
    """The next piece of the character's answer."""

    samples: Float32[np.ndarray, "s"]
    """16 kHz mono."""


@dataclasses.dataclass(frozen=True)
class Said:
    """What the character says, as it becomes known; for captions."""

    text: str


@dataclasses.dataclass(frozen=True)
class SpeechEnd:
    """The answer is complete."""


@dataclasses.dataclass(frozen=True)
class Trouble:
    """Something went wrong that the user should read; the call goes on."""

    text: str


Event = UserStarted | UserSaid | Thinking | Speech | Said | SpeechEnd | Trouble


@runtime_checkable
class Voice(Protocol):
    """One conversation; made by a `VoiceFactory` for each call."""

    async def start(self) -> None:
        """Connect, load, or greet.

        Raises:
          InputError: the voice cannot be had: a service that does not answer, a key that is refused.
        """

    async def hear(self, samples: Float32[np.ndarray, "s"]) -> None:
        """Take the user's next 16 kHz mono sound; returns at once."""

    def events(self) -> AsyncIterator[Event]:
        """What happens, in order; ends when the voice is closed or has ended the conversation."""

    async def interrupted(self, played: float) -> None:
        """The answer was cut short after so many seconds of it had been played; give no more of it."""

    async def close(self) -> None:
        """End the conversation; leaves no task and no connection."""
