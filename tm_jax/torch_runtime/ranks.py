"""The engine over several GPUs, started by torchrun: R ranks denoise together, one more decodes and serves.

    torchrun --nproc-per-node 5 talk.py        ranks 0 … 3 share the DiT (Ulysses), rank 4 has VAE and session

    engine = serve_ranks("export")      # ranks 0 … R-1 return None, when the last rank has closed the engine
    if engine is not None:
        …                               # the last rank: an engine like any other
        engine.backend.close()

The last rank sends every chunk's inputs to all others and gets the latents from rank 0.  What a rank is told
goes over a group of its own on the CPUs, so that waiting for the next chunk keeps no GPU busy; where there is
nothing to tell, it is told so.  A rank that dies or hangs ends the others: their next exchange fails, and
each says in one sentence which one it was.
"""

import collections
import contextlib
import datetime
import itertools
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float32, Int32, UInt8

from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.errors import InputError
from tm_jax.streaming.engine import StreamEngine
from tm_jax.torch_runtime import devices
from tm_jax.torch_runtime import export_format as form
from tm_jax.torch_runtime.attendance import Attendance
from tm_jax.torch_runtime.backend import PLACES, ExportBackend, Latents
from tm_jax.torch_runtime.decoding import VaeStage
from tm_jax.torch_runtime.denoising import DitStage, FaceBox
from tm_jax.torch_runtime.parallel import Ulysses
from tm_jax.torch_runtime.parts import load_dit_stage, load_front_end, load_vae_stage

PATIENCE = 120.0
"""Seconds that an exchange waits for a rank that neither answers nor dies; compiling counts."""
LOADING = datetime.timedelta(minutes=30)
"""How long ranks wait for each other's weights."""

REFERENCE, BEGIN, CHUNK, NOTHING, STOP = range(5)


class RankLost(InputError):
    """Another rank has died, or no longer answers."""


def rank_and_world() -> tuple[int, int]:
    """This process's rank and how many there are, as torchrun tells them.

    Raises:
      InputError: torchrun did not start it, or too few ranks.
    """
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        raise InputError("Several GPUs need torchrun: torchrun --nproc-per-node N PROGRAM.") from None
    if world < 2:
        raise InputError(f"{world} rank is too few: one for the VAE and at least one for the DiT.")
    return rank, world


def serve_ranks(
    folder: str | os.PathLike, *, dtype: form.Dtype | None = None, patience: float = PATIENCE
) -> StreamEngine | None:
    """On the last rank the engine, on all others None, once the last rank has closed it.

    Args:
      dtype: of the student; None is the export's own.
      patience: seconds that an exchange waits for a rank that neither answers nor dies.

    Raises:
      InputError: no export, heads or tokens that don't divide among the ranks, or a rank that is lost.
    """
    rank, world = rank_and_world()
    local = int(os.environ.get("LOCAL_RANK", rank))
    names = devices.known_devices()
    device = f"cuda:{local}" if len(names) > 1 else "cpu"
    place = devices.device(device, f"rank {rank} needs")
    config = form.read_config(Path(folder))
    check_division(config, world - 1)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    wait = datetime.timedelta(seconds=patience)
    try:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=wait)
        control = dist.new_group(backend="gloo", timeout=wait)
        loading = dist.new_group(backend="gloo", timeout=LOADING)
        sharing = dist.new_group(list(range(world - 1)), timeout=wait)
    except (RuntimeError, OSError) as error:
        raise RankLost(
            f"Rank {rank} did not meet the {world - 1} others within {patience:.0f} s "
            f"({str(error).splitlines()[0][:120]}): start all of them, by one torchrun."
        ) from error
    attendance = Attendance(rank, world)
    precision = dtype or config.dtype
    if rank == world - 1:
        vae = load_vae_stage(Path(folder), config, precision, place)
        front_end = load_front_end(Path(folder), config, place)
        with lost_ranks(attendance):
            dist.barrier(group=loading)
        return StreamEngine(DrivenBackend(config, vae, front_end, control, attendance, patience / 4))
    stage = load_dit_stage(Path(folder), config, precision, place, Ulysses(sharing))
    with lost_ranks(attendance):
        dist.barrier(group=loading)
    obey(stage, control, attendance)
    return None


def check_division(config: form.ExportConfig, ranks: int) -> None:
    """Refuse a student whose heads or tokens do not divide among so many ranks.

    Raises:
      InputError: they don't.
    """
    stride = config.vae.spatial_stride
    tokens = 1
    for edge, patch in zip(config.size, config.student.patch[1:], strict=True):
        tokens *= edge // stride // patch
    if config.student.heads % ranks or tokens % ranks:
        raise InputError(
            f"{config.student.heads} heads and {tokens} tokens of a frame do not divide among {ranks} ranks: "
            "start another number of processes, one more than the ranks of the DiT."
        )


class RemoteState:
    """A stream that the ranks hold, and the places of its latents here."""

    def __init__(self, number: int, shape: tuple[int, ...], device: torch.device):
        self.number, self.chunk = number, 0
        self.places = [torch.empty(shape, device=device) for _ in range(PLACES)]


class DrivenBackend(ExportBackend):
    """The last rank: VAE, sound and session here, the student on all the others."""

    def __init__(
        self,
        config: form.ExportConfig,
        vae: VaeStage,
        front_end: AudioFrontEnd,
        control: Any,
        attendance: Attendance,
        silence: float,
    ):
        """Takes what this rank has.

        Args:
          control: the group over which the others are told what to do.
          silence: seconds after which they are told that there is nothing to do.
        """
        super().__init__(config, vae, front_end)
        self._control, self._attendance = control, attendance
        self._last, self._lock = dist.get_world_size() - 1, threading.Lock()
        self._numbers, self._forgotten = itertools.count(), collections.deque()
        self._silence, self._told, self._over = silence, time.monotonic(), threading.Event()
        threading.Thread(target=self._break_silence, name="tm_jax-silence", daemon=True).start()

    def reference(self, picture: UInt8[np.ndarray, "y x 3"], face_box: FaceBox = None) -> "Remote":
        """Every rank makes what it needs of the picture and its latents."""
        pixels, latents, done = self.encoded(picture)
        if done is not None:
            done.synchronize()
        known = Remote(next(self._numbers))
        weakref.finalize(known, self._forgotten.append, known.number)
        self._tell(REFERENCE, known.number, pixels.numpy(), latents.cpu().numpy(), face_box)
        return known

    def begin(self, reference: "Remote") -> RemoteState:
        """Every rank begins a stream."""
        state = RemoteState(next(self._numbers), (self.rollout.chunk, *self.latent_shape), self.vae.device)
        weakref.finalize(state, self._forgotten.append, state.number)
        self._tell(BEGIN, state.number, reference.number)
        return state

    def denoise(
        self,
        reference: "Remote",
        state: RemoteState,
        noises: Float32[np.ndarray, "steps 1 g h w c"],
        windows: Float32[np.ndarray, "1 g a d"],
        mode: Int32[np.ndarray, "1 g"],
    ) -> tuple[Latents, RemoteState]:
        """Every rank denoises the chunk; the first one sends the latents."""
        place = state.places[state.chunk % PLACES]
        state.chunk += 1
        with self._lock:
            self._send(CHUNK, state.number, noises, windows, mode)
            with lost_ranks(self._attendance):
                coming = dist.irecv(place, 0)
        return Latents(place, coming, None), state

    def wait(self, latents: Latents) -> None:
        """Return when these latents have come."""
        with lost_ranks(self._attendance):
            latents.denoised.wait()
            if latents.tensor.is_cuda:
                torch.cuda.current_stream(latents.tensor.device).synchronize()

    def close(self) -> None:
        """The other ranks return from ``serve_ranks``."""
        self._over.set()
        self._tell(STOP)
        self._attendance.close()
        dist.destroy_process_group()

    def _break_silence(self) -> None:
        # Whoever uses the engine next meets the same fault, and tells it.
        with contextlib.suppress(RankLost):
            while not self._over.wait(self._silence / 4):
                with self._lock:
                    if not self._over.is_set() and time.monotonic() - self._told > self._silence:
                        self._send(NOTHING)

    def _tell(self, *message: Any) -> None:
        with self._lock:
            self._send(*message)

    def _send(self, *message: Any) -> None:
        forgotten = [self._forgotten.popleft() for _ in range(len(self._forgotten))]
        with lost_ranks(self._attendance):
            dist.broadcast_object_list([(forgotten, message)], self._last, group=self._control)
        self._told = time.monotonic()


class Remote:
    """A reference that the ranks hold."""

    def __init__(self, number: int):
        self.number = number


def obey(stage: DitStage, control: Any, attendance: Attendance) -> None:
    """What a rank of the student does: whatever the last rank says, until it says stop."""
    last, held, message = dist.get_world_size() - 1, {}, [None]
    while True:
        with lost_ranks(attendance):
            dist.broadcast_object_list(message, last, group=control)
            forgotten, (kind, *given) = message[0]
            for number in forgotten:
                held.pop(number, None)
            if kind == STOP:
                attendance.close()
                dist.destroy_process_group()
                return
            if kind == REFERENCE:
                number, pixels, latents, face_box = given
                both = torch.from_numpy(pixels), torch.from_numpy(latents)
                held[number] = stage.reference(*both, None, face_box)
            elif kind == BEGIN:
                number, reference = given
                held[number] = stage.begin(held[reference])
            elif kind == CHUNK:
                _denoise(stage, held[given[0]], given[1:], last)


@torch.inference_mode()
def _denoise(stage: DitStage, state: Any, inputs: list[np.ndarray], last: int) -> None:
    with stage.lane():
        stage.launch(state, *inputs)
        if dist.get_rank() == 0:
            dist.send(state.content.latents.contiguous(), last)


@contextlib.contextmanager
def lost_ranks(attendance: Attendance) -> Iterator[None]:
    """What the libraries say in many lines, that a rank is gone, in one sentence that names it."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        gone = " and ".join(f"rank {rank}" for rank in attendance.missing())
        gone = gone or f"another rank ({str(error).splitlines()[0][:120]})"
        raise RankLost(
            f"Rank {dist.get_rank()} lost {gone}: see its last words, and start all of them again."
        ) from error
