"""Keeps what the model looks at when it writes the text again. Looks at queries and keys.

Unlike the one-pass scorers it needs the model: whoever drives it lets the model read a stretch of
the text a second time, and every attention module calls `attend_and_score` meanwhile. What the
questions will be does not matter, so one choice serves them all.

Reference:
    Kim et al., KVzip, arXiv 2505.23416, section 3. There the second reading attends to the whole
    text; here it attends to the sinks, the stretch itself and what it has read again so far:
    the cost of a long text grows with its length, not with the square of it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attend_and_score(
    query: Tensor,
    past: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    scaling: float,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention to all of `past`, causally to `own`, and the most that each past key ever got.

    Query head `h` reads KV head `h // (H / H_kv)`; a key's score is over all of their queries.

    Args:
        query: [H, T, D], any float type.
        past: Keys [H_kv, P, D] and values [H_kv, P, D_v].
        own: Keys and values of the queries' own tokens. [H_kv, T, D] and [H_kv, T, D_v].
        scaling: Factor on the products of queries and keys.
        softcap: Squashes logits to (-softcap, softcap) if the model does.

    Returns:
        The attention's output [H, T, D_v] in the type of the query, and scores [H_kv, P], float32,
        in [0, 1].
    """
    num_heads, q_len, _ = query.shape
    num_kv_heads, num_past, _ = past[0].shape
    is_narrow = _multiplies_narrow(query)
    dtype = query.dtype if is_narrow else torch.float32
    keys, values = (
        torch.cat([held.to(dtype), new.to(dtype)], dim=1)
        for held, new in zip(past, own, strict=True)
    )
    rows = query.to(dtype).reshape(num_kv_heads, -1, query.shape[-1])
    options = {"out_dtype": torch.float32} if is_narrow else {}
    logits = torch.bmm(rows, keys.mT, **options).mul_(scaling)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    is_future = torch.ones(q_len, q_len, dtype=torch.bool, device=query.device).triu(1)
    logits[..., num_past:].unflatten(1, (-1, q_len)).masked_fill_(is_future, float("-inf"))
    weights = logits.softmax(dim=-1)
    output = (weights.to(dtype) @ values).reshape(num_heads, q_len, -1)
    return output.to(query.dtype), weights[..., :num_past].amax(dim=1)


def _multiplies_narrow(query: Tensor) -> bool:
    """Whether a GPU multiplies 16-bit vectors many times faster, and sums up in float32 as well."""
    is_narrow = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
    return is_narrow and torch.cuda.get_device_capability(query.device) >= (8, 0)
