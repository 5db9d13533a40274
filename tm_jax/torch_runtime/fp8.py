"""Matrices in FP8 (E4M3): a scale per output for the weights, one per token for what goes in.

On a GPU the product is the tensor cores' own (``torch._scaled_mm``); elsewhere the same numbers are
multiplied in float32, so that what quantising costs in quality can be measured on a CPU.
"""

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

E4M3, LARGEST = torch.float8_e4m3fn, 448.0

LINEARS = ("qkv", "out", "cross_query", "cross_out", "inner", "outer")
"""The matrices of a block that may be quantised: those that run in every step."""


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [r c] → (FP8 of the same shape, float32 scale [r 1]), so that their product is about x."""
    scale = x.float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (x.float() / scale).clamp(-LARGEST, LARGEST).to(E4M3), scale


def linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x [l i] times a matrix in FP8 [o i] with its scale [1 o]; in the dtype of x."""
    given, given_scale = quantise_rows(x)
    if x.is_cuda:
        return torch._scaled_mm(
            given,
            weight.t(),
            scale_a=given_scale,
            scale_b=scale,
            bias=bias,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
    y = (given.float() @ weight.float().t()) * given_scale * scale
    return (y if bias is None else y + bias.float()).to(x.dtype)


def quantise(student: nn.Module) -> None:
    """Put the blocks' matrices into FP8, one at a time."""
    for block in student.blocks:
        for kind in LINEARS:
            linear = getattr(block, kind)
            if linear.scale is None:
                weight, scale = quantise_rows(linear.weight)
                linear.quantise(weight, scale.flatten())


@contextlib.contextmanager
def output_errors(student: nn.Module) -> Iterator[dict[str, float]]:
    """What FP8 would do to what every matrix gives while this lasts, by name: ``blocks.3.outer``.

    The student's matrices are in bf16.  The worst call counts, relative to what the matrix adds to its bias:
    outliers of a token spoil its other inputs and outliers of an output its other weights, and both matter
    only as far as the spoilt ones were used.
    """
    errors: dict[str, float] = {}

    def measure(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        whole = x.float() @ module.weight.float().t()
        weight, scale = quantise_rows(module.weight)
        spoilt = linear(x.float(), weight, scale.t(), None)
        error = ((spoilt - whole).norm() / whole.norm().clamp(min=1e-12)).item()
        errors[name] = max(error, errors.get(name, 0.0))

    handles = []
    for index, block in enumerate(student.blocks):
        for kind in LINEARS:
            hook = functools.partial(measure, f"blocks.{index}.{kind}")
            handles.append(getattr(block, kind).register_forward_pre_hook(hook))
    try:
        yield errors
    finally:
        for handle in handles:
            handle.remove()
