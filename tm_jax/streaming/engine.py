"""The engine: pictures and sound in, video out, for any number of characters at a time (paper: serving).

engine = load_engine(FOLDER)    # of streaming.parts for JAX, of torch_runtime.engine for PyTorch
with engine.session(picture) as session:
    ...                         # in another thread: session.push(block), and session.finish() in the end
    for chunk in session:
        ...                     # chunk.frames, chunk.audio
"""

import threading
import time
from collections.abc import Generator, Iterable
from typing import Any

import numpy as np

from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.errors import InputError
from tm_jax.media.framing import whole_pixels
from tm_jax.rates import FRAMES_PER_SECOND, SAMPLE_RATE
from tm_jax.streaming.backend import Backend
from tm_jax.streaming.inbox import Inbox, SessionClosed
from tm_jax.streaming.reference import Reference, check_face_box, check_picture
from tm_jax.streaming.session import BACKLOG, Session, check_options
from tm_jax.streaming.statistics import StreamChunk


class StreamEngine:
    """Makes streams of video with one set of weights, of whichever framework."""

    def __init__(self, backend: Backend):
        self.backend = backend

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of picture and video."""
        return self.backend.size

    @property
    def rollout(self) -> RolloutConfig:
        """Latent frames and steps of a chunk."""
        return self.backend.rollout

    @property
    def has_picture_encoder(self) -> bool:
        """Whether the student sees through a picture encoder, as those born from Wan do."""
        return self.backend.has_picture_encoder

    def warm_up(self) -> None:
        """Compile everything that a stream runs, so that the first one starts at once."""
        grey = np.full((*self.size, 3), 128, np.uint8)
        for _ in self.stream(grey, [np.zeros(2 * SAMPLE_RATE, np.float32)]):
            pass

    def reference(self, picture: Any, face_box: Any = None) -> Reference:
        """What streams need of a picture; may be kept and used for any number of them.

        Args:
          picture: uint8 [y x 3] of the model's size.
          face_box: (y0, x0, y1, x1) in pixels, outside of which sound moves nothing; None is everywhere.

        Raises:
          InputError: a picture of another form or size, or a box that is none.
        """
        check_picture(picture, self.size)
        check_face_box(face_box, self.size)
        box = None if face_box is None else whole_pixels(face_box)
        return Reference(self.backend.reference(picture, box), self.backend)

    def session(
        self,
        picture: Any,
        *,
        seed: int = 0,
        mode: str = "auto",
        listen: Iterable[Any] = (),
        face_box: Any = None,
        backlog: float | int = BACKLOG,
    ) -> Session:
        """Begin a stream whose sound is pushed and whose chunks are taken by different threads.

        Args:
          picture: uint8 [y x 3] of the model's size, or what ``reference`` made of one.
          seed: of the noise; the same seed, picture and sound give the same video.
          mode: auto follows voice activity; speak and listen hold one mode.
          listen: stretches (from, to) in seconds of the video in which the character listens.
          face_box: of a picture, as ``reference`` takes it.
          backlog: seconds of sound that may wait.

        Raises:
          InputError: anything given is not usable.
        """
        return self._begin(picture, face_box, backlog, seed=seed, mode=mode, listen=listen)

    def stream(
        self,
        picture: Any,
        audio: Any,
        *,
        seed: int = 0,
        mode: str = "auto",
        listen: Iterable[Any] = (),
        face_box: Any = None,
    ) -> Generator[StreamChunk]:
        """Video for as long as there is sound, chunk by chunk: a session for a source that ends.

        Whatever the source raises, and a bad block, is raised after the chunks before it and ends the stream.

        The source is read in a thread, about a chunk ahead.  Closing the generator stops all.  A source that
        blocks must be woken for that: by its ``close()``, which is called where it has one (standard input
        as ``read_audio`` opens it does).  Nothing can wake an ordinary generator: one thread for each that
        blocks stays until it yields or ends, holding the source and nothing of the stream.  For a live
        source use `session`, which needs no such thread.

        Args:
          audio: yields blocks as `Session.push` takes them.
          picture, seed, mode, listen, face_box: as `session` takes them.

        Raises:
          InputError: anything given is not usable.
        """
        if not isinstance(audio, Iterable):
            raise InputError(
                f"The sound {audio!r} is no source of blocks: give arrays of samples one after another, as "
                "media.sound.read_audio does."
            )
        ahead = 4 * self.rollout.chunk / FRAMES_PER_SECOND
        return _chunks(self._begin(picture, face_box, ahead, seed=seed, mode=mode, listen=listen), audio)

    def _begin(
        self, picture: Any, face_box: Any, backlog: Any, listen: Iterable[Any], **options: Any
    ) -> Session:
        started = time.perf_counter()
        options |= {
            "backlog": backlog,
            "listen": tuple(listen) if isinstance(listen, Iterable) else (listen,),
        }
        check_options(**options)
        return Session(self.backend, self._known(picture, face_box).content, started=started, **options)

    def _known(self, picture: Any, face_box: Any) -> Reference:
        if not isinstance(picture, Reference):
            return self.reference(picture, face_box)
        if picture.owner is not self.backend:
            raise InputError(
                "The reference was made by another engine: make it by this engine's reference()."
            )
        if face_box is not None:
            raise InputError("A reference has its face box already: give the box when you make it.")
        return picture


def _chunks(session: Session, audio: Iterable[Any]) -> Generator[StreamChunk]:
    """A session's chunks, its sound read from a source; the end of either ends both."""
    feeder = threading.Thread(target=_feed, args=(audio, session.inbox), name="tm_jax-feed", daemon=True)
    # A generator cannot be closed while it runs.
    wake = None if isinstance(audio, Generator) else getattr(audio, "close", None)
    del audio
    feeder.start()
    try:
        yield from session
    finally:
        session.close()
        if wake is not None:
            wake()
        feeder.join(timeout=0.1)


def _feed(audio: Iterable[Any], inbox: Inbox) -> None:
    try:
        for block in audio:
            inbox.push(block, timeout=None)
        inbox.finish()
    except SessionClosed:
        pass
    except BaseException as error:
        inbox.fail(error)
