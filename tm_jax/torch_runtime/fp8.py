"""Matrices in FP8 (E4M3): a scale per output for the weights, one per token for what goes in.

On a GPU the product is the tensor cores' own (``torch._scaled_mm``); elsewhere the same numbers are
multiplied in float32, so that what quantising costs in quality can be measured on a CPU.
"""

import torch
from torch import Tensor

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


def quantise(student: "torch.nn.Module", keep: tuple[str, ...] = ()) -> None:
    """Put the blocks' matrices into FP8, but for the kinds in ``keep``; a block at a time."""
    for block in student.blocks:
        for kind in LINEARS:
            linear = getattr(block, kind)
            if kind not in keep and linear.scale is None:
                weight, scale = quantise_rows(linear.weight)
                linear.quantise(weight, scale.flatten())
