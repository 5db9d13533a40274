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
def input_errors(student: nn.Module) -> Iterator[dict[str, float]]:
    """What quantising does to the inputs of every FP8 matrix while this lasts, by name: ``blocks.3.outer``.

    A scale per output leaves every weight matrix about equally exact, so that the inputs, whose outliers
    spoil their whole token, tell which matrices FP8 suits least.
    """
    errors: dict[str, float] = {}

    def measure(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        given, scale = quantise_rows(x)
        error = ((given.float() * scale - x.float()).norm() / x.float().norm()).item()
        errors[name] = max(error, errors.get(name, 0.0))

    handles = []
    for index, block in enumerate(student.blocks):
        for kind in LINEARS:
            linear = getattr(block, kind)
            if linear.scale is not None:
                name = f"blocks.{index}.{kind}"
                handles.append(linear.register_forward_pre_hook(functools.partial(measure, name)))
    try:
        yield errors
    finally:
        for handle in handles:
            handle.remove()
