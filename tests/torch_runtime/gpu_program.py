"""What a GPU would be asked for, played on tensors without numbers: python gpu_program.py

Tensors on PyTorch's ``meta`` device take themselves for a GPU's here, so that every operation is the one that
a GPU gets, is checked for shapes, types and layouts as there, and costs nothing.  The student and its VAE are
wan14b's, with two layers of the forty.  Prints, as JSON, what each part asked for.  A process of its own, for
the type checks of the tests would be compiled too.
"""

import dataclasses
import json

import torch
import torch.utils._pytree as pytree
from torch._dynamo.variables import ConstantVariable
from torch._dynamo.variables.tensor import TensorVariable
from torch.utils._python_dispatch import TorchDispatchMode

from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.torch_runtime import fp8
from tm_jax.torch_runtime.cache import place
from tm_jax.torch_runtime.dit import DiT
from tm_jax.torch_runtime.random_parts import CONFIGS
from tm_jax.torch_runtime.rollout import Reference, Rollout
from tm_jax.torch_runtime.vae import VAE

GPU, GRID, LAYERS = torch.device("meta"), (64, 64), 2


class Watch(TorchDispatchMode):
    """Notes every operation, and those that touch a tensor of the host."""

    def __init__(self):
        super().__init__()
        self.kernels: set[str] = set()
        self.on_host: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.kernels.add(str(function))
        tensors = [
            leaf for leaf in pytree.tree_leaves((args, kwargs, made)) if isinstance(leaf, torch.Tensor)
        ]
        if any(tensor.device != GPU for tensor in tensors):
            self.on_host.append(str(function))
        return made


def student(dtype: str) -> DiT:
    """wan14b's first layers in a precision."""
    config = dataclasses.replace(CONFIGS["wan14b"].student, layers=LAYERS)
    with GPU:
        made = DiT(config, torch.bfloat16)
    if dtype == "fp8":
        fp8.quantise(made)
    return made


def begun(model: DiT, rollout: RolloutConfig, wrap=None):
    """A rollout of the student and a stream."""
    config = model.config
    empty = lambda *shape, dtype=torch.bfloat16: torch.empty(shape, dtype=dtype, device=GPU)
    pairs = lambda count: [(empty(count, config.heads, config.head_dim),) * 2] * LAYERS
    condition = empty(config.trained_frames, *GRID, 20, dtype=torch.float32)
    face = empty(GRID[0] * GRID[1] // 4, 1, 1)
    known = Reference(condition, pairs(config.text_length), pairs(config.image_length), face)
    made = Rollout(model, rollout, GRID, wrap=wrap)
    return made, made.begin(known)


def captured(dtype: str, chunk: int, steps: int) -> dict:
    """What is captured as a CUDA graph of one chunk."""
    rollout, stream = begun(student(dtype), RolloutConfig(chunk=chunk, steps=steps))
    here = dataclasses.replace(place(9, chunk, 21), start=-1)
    with Watch() as watch:
        rollout._run(stream, here)
    return {"on_host": watch.on_host, "kernels": sorted(watch.kernels)}


def decoded() -> dict:
    """What is captured of one latent's decoding."""
    with GPU:
        vae = VAE(CONFIGS["wan14b"].vae)
    vae.half_precision()
    latent, pasts = torch.empty(1, *GRID, 16, device=GPU), []
    for first in (True, False):
        vae.decode(latent, pasts, first=first)
    with Watch() as watch:
        frames = vae.decode(latent, pasts, first=False)
    return {"on_host": watch.on_host, "kernels": sorted(watch.kernels), "shape": list(frames.shape)}


def compiled(dtype: str) -> int:
    """How many graphs the compiler is given for several chunks; a break in one would be an error."""
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    wrap = lambda function: torch.compile(function, fullgraph=True, dynamic=False, backend=counting)
    rollout, stream = begun(student(dtype), RolloutConfig(), wrap)
    for chunk in (2, 9, 10):
        rollout._run(stream, place(chunk, 3, 21))
    return len(graphs)


def main() -> None:
    torch.Tensor.is_cuda = property(lambda tensor: tensor.device == GPU)
    TensorVariable.method_attr_is_cuda = lambda variable, tx: ConstantVariable.create(True)
    with torch.inference_mode():
        found = {
            "bf16": captured("bf16", 3, 2),
            "fp8": captured("fp8", 3, 2),
            "fp8, chunk 7": captured("fp8", 7, 1),
            "vae": decoded(),
            "graphs": {dtype: compiled(dtype) for dtype in ("bf16", "fp8")},
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
