"""One token's way in plain torch, rounded where models round: the specification of the kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import linear, silu


def norm_one(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`weight * x / rms(x)`, the quotient rounded to the type of `x` before the product."""
    wide = x.float()
    rms = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return weight * (wide * rms).to(x.dtype)


def rotate_one(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Value i of a head turns with value i + R / 2, for i < R / 2; those from R on stay."""
    return _rotate(query, cos, sin), _rotate(key, cos, sin)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    num_turned = cos.shape[-1]
    turned, rest = x[..., :num_turned], x[..., num_turned:]
    first, second = turned.chunk(2, dim=-1)
    across = torch.cat([-second, first], dim=-1)
    return torch.cat([turned * cos + across * sin, rest], dim=-1)


def linear_one(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`weight @ x + bias`."""
    return linear(x, weight, bias)


def projections_one(
    x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor, ...]:
    """`linear_one` by each of several matrices."""
    return tuple(linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))


def gated_one(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """`silu(gate @ x) * (up @ x)`, every part rounded to the type of `x`."""
    return silu(linear(x, gate)) * linear(x, up)
