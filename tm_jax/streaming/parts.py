"""The JAX engine of a student, whose parts are found in one folder, on this machine or on the Hub.

    weights/student.safetensors     the student (ours)
    weights/vae.safetensors         its VAE, if it is ours
    weights/visemes.safetensors     the small speech encoder, if it hears through ours
    weights/prompt.safetensors      the prompt's embedding, by ``python -m tm_jax.pretrained embed-prompt``
    weights/{vae,image_encoder,speech_encoder}/    public models, if they are kept here

What a student born from Wan needs beyond the folder comes from Wan's pipeline and wav2vec2's.  A small
student, whose image tokens are latents and which hears through our own front ends, needs these files alone.
"""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from tm_jax.errors import InputError
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.wav2vec2_front_end import Wav2Vec2FrontEnd
from tm_jax.pretrained.front_ends import own_front_end
from tm_jax.pretrained.layouts import FOLDERS, load_public
from tm_jax.pretrained.prompts import embed_prompts, load_prompt
from tm_jax.pretrained.sources import kernels_in, load_any, load_by_slices
from tm_jax.pretrained.weights import load_model, read_config
from tm_jax.streaming.engine import StreamEngine
from tm_jax.streaming.jax_engine import JaxBackend, fitting_size, read_rollout

SPEECH = "facebook/wav2vec2-base-960h"


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) from ``512`` or ``480x832`` (height first).

    Raises:
      InputError: anything else.
    """
    edges = text.lower().split("x")
    if len(edges) > 2 or not all(edge.strip().isdigit() and int(edge) > 0 for edge in edges):
        raise InputError(
            f"--size {text!r} is no size: give the side in pixels, or HEIGHTxWIDTH like 480x832."
        )
    return int(edges[0]), int(edges[-1])


def find_devices(name: str, flag: str) -> tuple[jax.Device, ...]:
    """Devices by kind and numbers: ``gpu:1``, ``gpu:0-3``; ``0-3`` of the default kind, ``gpu`` the first.

    Raises:
      InputError: there are none; those that there are are listed.
    """
    known = [*jax.local_devices(), *jax.local_devices(backend="cpu")]
    there = {f"{device.platform}:{device.id}": device for device in known}
    kind, _, numbers = name.replace("cuda", "gpu").rpartition(":")
    if not kind and not numbers[:1].isdigit():
        kind, numbers = numbers, "0"
    first, _, last = numbers.partition("-")
    last = last or first
    if first.isdigit() and last.isdigit() and int(first) <= int(last):
        wanted = [f"{kind or known[0].platform}:{n}" for n in range(int(first), int(last) + 1)]
        if all(one in there for one in wanted):
            return tuple(there[one] for one in wanted)
    raise InputError(f"{flag} {name}: JAX has no such device here; there are {', '.join(there)}.")


def load_engine(
    weights: str | os.PathLike,
    *,
    wan: str = "",
    speech: str = SPEECH,
    prompt: str = "",
    size: tuple[int, int] | None = None,
    steps: int | None = None,
    dit_device: str | None = None,
    vae_device: str | None = None,
) -> StreamEngine:
    """The JAX engine of a student and everything that it needs.

    The kernels of a model that computes in bfloat16 are stored so, and are read from the file slice by slice.

    Args:
      weights: folder of student.safetensors, whose file says with which chunk size, steps and schedule it was
        distilled, and of what else lies beside it.
      wan: folder or Hub id of Wan's pipeline, for whatever the weights' folder lacks.
      speech: folder or Hub id of wav2vec2.
      prompt: a text, or a file with an embedding; empty takes the folder's own.
      size: (height, width) of the video; None as `JaxBackend` takes it.
      steps: denoising steps of a chunk; None takes those that the student was distilled for.
      dit_device, vae_device: as ``find_devices`` takes them; several share a model.  None: where there are
        two devices, the VAE of a student born from Wan has the second for itself; all others share the first.

    Raises:
      InputError: a part is missing or damaged, the parts do not fit each other, or there is no such device.
    """
    weights = Path(weights)
    dit = find_devices(dit_device, "--dit-devices") if dit_device else None
    vae_place = find_devices(vae_device, "--vae-devices") if vae_device else None
    own_vae, student_path = weights / "vae.safetensors", weights / "student.safetensors"
    config = read_config(student_path, DiTConfig)
    front_end = own_front_end(config.audio_width, weights / "visemes.safetensors")
    small = config.image_patch is not None and front_end is not None
    rollout = read_rollout(student_path).in_steps(steps)
    # What is asked of a person comes before what takes minutes.
    text = _text_tokens(weights, wan, prompt, config)
    shipped = own_vae.exists() or (small and not wan)
    vae = load_any(own_vae if shipped else _public(weights, wan, "vae"), "vae")
    encoder = None
    if config.image_patch is None:
        encoder = load_public(_public(weights, wan, "image"), "image")[0]
    if front_end is None:
        front_end = Wav2Vec2FrontEnd(load_public(_public(weights, speech, "speech"), "speech")[0])
    size = fitting_size(config, vae.config, front_end, encoder, size)
    if small or config.dtype == "float32":
        student = load_model(student_path, DiT, DiTConfig)
    else:
        # Trained elsewhere, perhaps: a fused kernel is one machine's, and the same but for rounding.
        config = dataclasses.replace(config, attention="auto")
        student = load_by_slices(student_path, DiT, DiTConfig, config=config, adapt=kernels_in(config.dtype))
    local = jax.local_devices()
    if dit is None and vae_place is None:
        devices = (local[0], local[1]) if len(local) > 1 and not small else None
    else:
        dit = tuple(dit or local[:1])
        devices = tuple(place if len(place) > 1 else place[0] for place in (dit, vae_place or dit[:1]))
    return StreamEngine(
        JaxBackend(
            vae,
            student,
            rollout=rollout,
            front_end=front_end,
            picture_encoder=encoder,
            text_tokens=text,
            size=size,
            devices=devices,
        )
    )


def _public(weights: Path, source: str, kind: str) -> str | Path:
    """Where a public model is: in the weights' folder, or where the user says."""
    if (weights / FOLDERS[kind]).is_dir():
        return weights / FOLDERS[kind]
    if not source:
        raise InputError(
            f"The student in {weights} needs {FOLDERS[kind]}/ of Wan's pipeline: give its folder or Hub id "
            "by --wan, such as Wan-AI/Wan2.1-I2V-14B-480P-Diffusers."
        )
    return source


def _text_tokens(
    weights: Path, wan: str, prompt: str, config: DiTConfig
) -> Float[np.ndarray, "text text_width"] | None:
    """The prompt's embedding: from a file wherever there is one, by the text encoder otherwise."""
    own = weights / "prompt.safetensors"
    if prompt.endswith(".safetensors"):
        embedded = load_prompt(prompt)
    elif own.exists() and ((embedded := load_prompt(own)).text == prompt or not prompt):
        pass
    elif prompt:
        (embedded,) = embed_prompts(_public(weights, wan, "text"), [prompt])
    elif config.image_patch is not None:
        return None
    else:
        raise InputError(
            f"There is no {own}: make it with python -m tm_jax.pretrained embed-prompt "
            f"{wan or 'WAN'} --out {own}, or give --prompt."
        )
    tokens, width = embedded.embedding.shape
    if width != config.text_width or tokens > config.text_length:
        raise InputError(
            f"The prompt {embedded.text!r} has {tokens} tokens of width {width}, the student reads up to "
            f"{config.text_length} of width {config.text_width}: embed it with the student's text encoder."
        )
    return embedded.tokens(config.text_length)
