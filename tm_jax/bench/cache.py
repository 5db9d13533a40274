"""What the cache is worth: python -m tm_jax.bench cache

The DiT stage of one chunk, twice: through the K/V cache, and without it, by sparse causal passes over the
window of chunks that a clip in training has ([C₀ | the last ones]).  Both make the same chunk from the same
conditions in the same number of steps, in turn, and the table ends with their ratio.
"""

import dataclasses

from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS, ShippedPath


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Time the DiT stage of a chunk with its cache and by the masked window, in turn."""

    student: ShippedPath = WEIGHTS / "student.safetensors"
    """Weights of the student; its file says with which steps and chunks it streams."""
    chunks: int = 7
    """Chunks of the masked window."""
    size: int = 128
    """Side of the pictures."""
    stride: int = 8
    """Pixels a latent cell."""
    rounds: int = 30
    """Times that each is measured."""

    def __post_init__(self):
        if min(self.chunks, self.size, self.stride, self.rounds) < 1:
            raise InputError("--chunks, --size, --stride and --rounds must be at least 1.")


def run(arguments: Arguments) -> str:
    """Median and 95th percentile of both, and the ratio of the medians."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from tm_jax.bench.timing import in_turn
    from tm_jax.diffusion.rollout import clip_steps, generate_chunk, init_stream, make_reference
    from tm_jax.models.dit import DiT
    from tm_jax.models.dit_config import DiTConfig
    from tm_jax.pretrained.weights import load_model
    from tm_jax.streaming.jax_engine import read_rollout
    from tm_jax.types import Conditioning

    student = load_model(arguments.student, DiT, DiTConfig)
    rollout = read_rollout(arguments.student)
    config, chunk, side = student.config, rollout.chunk, arguments.size // arguments.stride
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape).astype(np.float32))

    def conditions(frames: int) -> Conditioning:
        return Conditioning(
            text_tokens=normal(1, config.text_length, config.text_width),
            image_tokens=normal(1, config.image_length, config.image_width),
            condition=normal(1, frames, side, side, config.in_channels - config.out_channels),
            audio_tokens=normal(1, frames, config.audio_slots, config.audio_width),
            audio_keep=jnp.ones((1, frames)),
            face_mask=jnp.ones((1, side, side)),
            mode=jnp.ones((1, frames), jnp.int32),
        )

    noise = lambda frames: normal(rollout.steps, 1, frames, side, side, config.out_channels)
    step = jax.jit(generate_chunk, static_argnums=1)
    window = jax.jit(lambda model, given, noises: clip_steps(model, rollout, given, noises)[1][-1])
    begin = jax.jit(make_reference)
    reference = begin(student, conditions(config.trained_frames))
    state = jax.jit(init_stream, static_argnums=1)(student, rollout, reference)
    here, chunk_noise = conditions(chunk), noise(chunk)
    for _ in range(3):
        _, state = step(student, rollout, reference, state, chunk_noise, here)
    frames = chunk * arguments.chunks
    whole, whole_noise = conditions(frames), noise(frames)
    cached = lambda: step(student, rollout, reference, state, chunk_noise, here)[0]
    masked = lambda: window(student, whole, whole_noise)
    calls = [lambda run=run: jax.block_until_ready(run()) for run in (cached, masked)]
    taken = 1e3 * np.array(in_turn(calls, blocks=arguments.rounds))
    medians = np.median(taken, axis=1)
    names = ("with its cache", f"masked window of {arguments.chunks} chunks")
    lines = [
        f"{name:<28}{median:8.1f} ms  p95 {slow:8.1f} ms"
        for name, median, slow in zip(names, medians, np.percentile(taken, 95, axis=1), strict=True)
    ]
    about = f"one chunk of {chunk} latents of {side}×{side}, {rollout.steps} steps, {jax.devices()[0]}"
    return "\n".join([about, *lines, f"the cache is faster by        {medians[1] / medians[0]:.2f}"])
