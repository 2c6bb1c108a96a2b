"""Attention of a prompt's chunk over exact vectors, by the kernel that torch prefers on a card.

Knows torch's own kernels. Those that see all that is older and, of the chunk itself, what is not
newer, need no mask. cuDNN's has no such form: there the two are attended to apart, and put together
by what each softmax summed up to. It plans every new shape, which takes longer than a chunk: it is
for shapes that come again.
"""

from __future__ import annotations

import functools

import torch
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn.attention import SDPBackend
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

_LEAST_PLANNED = 1024
"""Shorter chunks are as quick without a plan."""

_LEAST_CAPABILITY = (8, 0)


def needs_masks() -> bool:
    """Whether a GPU of this machine lacks flash attention; without a GPU, no."""
    if not torch.cuda.is_available():
        return False
    cards = map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
    return min(cards) < _LEAST_CAPABILITY or not torch.backends.cuda.is_flash_attention_available()


def attend_exactly(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> torch.Tensor | None:
    """Attend causally with the newest tokens' queries.

    Args:
        query: [1, H, T, D].
        key: [1, H_kv, E, D], E > T.
        value: [1, H_kv, E, D].
        scaling: Factor on the products of queries and keys.

    Returns:
        [1, H, T, D]; None where no kernel does it without a mask.
    """
    if not can_use_flash_attention(SDPAParams(query, key, value, None, 0.0, False, True)):
        return None
    num_new, num_past = query.shape[2], key.shape[2] - query.shape[2]
    comes_again = num_new >= _LEAST_PLANNED and num_past % num_new == 0
    sizes = (query.shape[1], key.shape[1], query.shape[3])
    if comes_again and _prefers_cudnn(query.device, query.dtype, *sizes):
        older = (key[:, :, :num_past], value[:, :, :num_past])
        own = (key[:, :, num_past:], value[:, :, num_past:])
        return _by_parts(query, older, own, scaling)
    bias = causal_lower_right(num_new, key.shape[2])
    options = {"attn_mask": bias, "scale": scaling, "enable_gqa": True}
    return scaled_dot_product_attention(query, key, value, **options)


@functools.cache
def _prefers_cudnn(
    device: torch.device, dtype: torch.dtype, num_heads: int, num_kv_heads: int, dim: int
) -> bool:
    # asked of vectors without gaps: with the gaps that there are between heads, cuDNN reads them
    # as well, but torch would not choose it
    query, key = (
        torch.empty(1, count, _LEAST_PLANNED, dim, dtype=dtype, device=device)
        for count in (num_heads, num_kv_heads)
    )
    choice = torch._fused_sdp_choice(query, key, key, None, 0.0, False, enable_gqa=True)
    return SDPBackend(choice) == SDPBackend.CUDNN_ATTENTION


def _by_parts(
    query: torch.Tensor,
    older: tuple[torch.Tensor, torch.Tensor],
    own: tuple[torch.Tensor, torch.Tensor],
    scaling: float,
) -> torch.Tensor:
    of_own, own_log_sum = _by_cudnn(query, own, scaling, is_causal=True)
    of_older, older_log_sum = _by_cudnn(query, older, scaling, is_causal=False)
    share = torch.sigmoid(older_log_sum - own_log_sum).view(*query.shape[:3], 1)
    return torch.lerp(of_own, of_older, share.to(of_own.dtype))


def _by_cudnn(
    query: torch.Tensor, held: tuple[torch.Tensor, torch.Tensor], scaling: float, is_causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is attended to, and the logarithm of the sum that each softmax was divided by."""
    attend = torch.ops.aten._scaled_dot_product_cudnn_attention
    out, log_sum, *_ = attend(*(query, *held, None, True), is_causal=is_causal, scale=scaling)
    return out, log_sum
