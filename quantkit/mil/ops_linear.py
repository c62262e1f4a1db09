"""Products of matrices, and attention. Products are summed in float32 whatever the stored type."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from quantkit.mil.table import Tensors, op


@op()
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x [..., in] times the transpose of weight [out, in], plus bias [out]."""
    return F.linear(x, weight, bias)


@op()
def matmul(x: Tensor, y: Tensor, transpose_x: bool, transpose_y: bool) -> Tensor:
    return torch.matmul(x.mT if transpose_x else x, y.mT if transpose_y else y)


@op()
def einsum(values: Tensors, equation: str) -> Tensor:
    """Multiply two tensors; axes of size 1 broadcast, in MIL as in torch."""
    return torch.einsum(equation, *values)


@op()
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Return softmax(query key^T / sqrt(width) + mask) value, all in float32; a boolean mask keeps where it is True."""
    scores = torch.matmul(query, key.mT) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)
