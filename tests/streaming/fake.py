"""A backend of NumPy alone, whose frames tell what they were made of: threads are tested with it at once."""

import threading
import weakref

import numpy as np

from tm_jax.audio.log_mel import LogMel
from tm_jax.diffusion.schedule import RolloutConfig

SIZE = (4, 6)
PICTURE = np.full((*SIZE, 3), 7, np.uint8)


class State:
    """Something whose life can be followed."""


class FakeBackend:
    """Pixel [0 0] of a frame is (chunk, latent in the chunk, loudness of what it heard)."""

    size, latent_shape = SIZE, (2, 3, 4)
    audio_left, has_picture_encoder = 8, False

    def __init__(self, rollout: RolloutConfig = RolloutConfig(), audio_lookahead: int = 0):
        self.rollout, self.audio_lookahead, self.front_end = rollout, audio_lookahead, LogMel()
        self.begun, self.denoised, self.decoded = 0, 0, 0
        self.may_denoise, self.may_decode = threading.Event(), threading.Event()
        self.may_denoise.set()
        self.may_decode.set()
        self.noises: list[np.ndarray] = []

    def follow(self) -> list[weakref.ref]:
        """References to every state that is made from now on, to see whether it is still alive."""
        seen = []

        def begin(reference):
            state = State()
            seen.append(weakref.ref(state))
            return state, 0

        self.begin = begin
        return seen

    def reference(self, picture, face_box):
        return {"picture": picture.copy(), "face_box": face_box}

    def begin(self, reference):
        return State(), 0

    def denoise(self, reference, state, noises, windows, mode):
        assert noises.shape == (self.rollout.steps, 1, self.rollout.chunk, *self.latent_shape)
        assert windows.shape[:2] == mode.shape == (1, self.rollout.chunk)
        self.begun += 1
        self.may_denoise.wait(20)
        self.noises.append(noises)
        self.denoised += 1
        return (state[1], windows[0]), (state[0], state[1] + 1)

    def wait(self, latents):
        pass

    def decode(self, latents, state, *, first):
        assert first == (state is None)
        chunk, windows = latents
        for index, window in enumerate(windows):
            self.may_decode.wait(20)
            self.decoded += 1
            frames = np.zeros((1 if first and index == 0 else 4, *self.size, 3), np.uint8)
            frames[:, 0, 0] = chunk, index, min(255, 20 * window[-8:].max())
            yield frames, chunk
