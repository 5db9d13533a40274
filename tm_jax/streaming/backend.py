"""What an engine asks of a framework: the models of one student in place, and four functions of them.

JAX's is `streaming.jax_engine`, PyTorch's `torch_runtime`.  Everything that touches no weights (cutting
sound, noise, threads, bounds, statistics) is done once, by `streaming.session`, for both.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.diffusion.schedule import RolloutConfig


@runtime_checkable
class Backend(Protocol):
    """One student and its VAE, serving any number of streams.

    Values called reference, state and latents are the backend's own: the session hands them on and looks
    into none.  Arrays that come in are NumPy's and may not be kept; ``decode`` gives NumPy's.

    Threads: of one stream ``begin``, ``denoise`` and ``wait`` are called by one thread, ``decode`` by
    another, and the two run at the same time, chunk n in ``decode`` while chunk n + 1 is in ``denoise``.
    Several streams do so at the same time as well; a backend that can't run two chunks at once takes turns by
    a lock of its own.  What raises ends its stream alone.
    """

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of picture and video."""
        ...

    @property
    def rollout(self) -> RolloutConfig:
        """Latent frames and steps of a chunk."""
        ...

    @property
    def front_end(self) -> AudioFrontEnd:
        """Makes audio tokens of sound; without state of its own, so that streams can share it."""
        ...

    @property
    def audio_left(self) -> int:
        """Tokens of past in a latent frame's window, beside its own eight."""
        ...

    @property
    def audio_lookahead(self) -> int:
        """Tokens of future in a latent frame's window."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of a latent frame."""
        ...

    @property
    def has_picture_encoder(self) -> bool:
        """Whether the student sees through a picture encoder, as those born from Wan do."""
        ...

    def reference(
        self, picture: UInt8[np.ndarray, "y x 3"], face_box: tuple[int, int, int, int] | None
    ) -> Any:
        """What streams need of a picture: computed once, read by any number of streams, changed by none.

        Args:
          picture: of the model's size; checked already.
          face_box: (y0, x0, y1, x1) in whole pixels, outside which sound moves nothing; None is everywhere.
        """
        ...

    def begin(self, reference: Any) -> Any:
        """The DiT's state before the first chunk; it belongs to one stream."""
        ...

    def denoise(
        self,
        reference: Any,
        state: Any,
        noises: Float32[np.ndarray, "steps 1 g h w c"],
        windows: Float32[np.ndarray, "1 g a d"],
        mode: Int32[np.ndarray, "1 g"],
    ) -> tuple[Any, Any]:
        """Start to denoise one chunk: its latents, and the state that the next call takes.

        It need not wait for its result, and the state that went in may be used up.
        """
        ...

    def wait(self, latents: Any) -> None:
        """Return when these latents are computed, which is when ``denoise`` counts as done."""
        ...

    def decode(
        self, latents: Any, state: Any, *, first: bool
    ) -> Iterator[tuple[UInt8[np.ndarray, "t y x 3"], Any]]:
        """The frames of a chunk, piece by piece, each with the decoder's state.

        A piece is complete when it is given.  The state that comes with a chunk's last piece goes into the
        call for the next chunk; earlier ones are not used.  The iterator may be left at any piece, when the
        stream ends there or is closed.

        Args:
          latents: of one chunk, after ``wait``.
          state: the decoder's; None for a stream's first chunk.
          first: whether this is a stream's first chunk, whose first latent is one frame; others are four.
        """
        ...
