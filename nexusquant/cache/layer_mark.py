"""A compressed layer at one moment, as a value. Knows which tensors belong to it, not their use."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nexusquant.cache.codec import LayerCodec
from nexusquant.cache.kept import KeptTokens


@dataclass(frozen=True)
class LayerMark:
    """A layer at one moment. Tensors are shared with the layer, which never writes into them."""

    num_seen: int
    sinks: tuple[torch.Tensor, torch.Tensor]
    recent: tuple[torch.Tensor, torch.Tensor]
    kept: KeptTokens
    page_lengths: tuple[int, ...]
    codec: LayerCodec | None
