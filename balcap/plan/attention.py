"""Attention as the fused kernels keep it: query, key, value, result, one number per row, and the mask as numbers
[B, 1, T, T] (for every layer anew); never the T x T scores of every head.

Registered under a name of its own, because tensors without content would choose the unfused kernel. Keys and values of
grouped heads are spread over the queries' heads, as transformers does when a mask hides padding.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

PLANNED = "balcap_plan"
WINDOWED = "balcap_plan_flash"
"""The same for towers that attend in windows: a kernel with "flash" in its name is told where they begin, every other
one gets them cut out of tensors, at places that are numbers."""


class Kept(torch.autograd.Function):
    """[B, H, T, D] x 3 -> [B, T, H, D]; shapes and lifetimes are right, numbers are not computed."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any) -> torch.Tensor:
        out = q.new_empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3])
        bias = None if mask is None else q.new_empty(mask.shape)
        ctx.save_for_backward(q, k, v, out, bias, q.new_empty(q.shape[:3], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None


def attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **_: Any
) -> tuple[torch.Tensor, None]:
    """As transformers calls it."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (one.to(torch.get_autocast_dtype("cpu")) for one in (query, key, value))
    return Kept.apply(query, key, value, attention_mask), None


for name in (PLANNED, WINDOWED):
    AttentionInterface.register(name, attention)
