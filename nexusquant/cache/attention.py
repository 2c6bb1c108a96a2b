"""The attention function that reads a compressed layer, and the handle that leads it there.

Knows the calling convention of transformers' attention interface. Must not know how a layer
stores its vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

import torch

from nexusquant.cache import hf_compat
from nexusquant.errors import CacheStateError, UnsupportedModelError

if TYPE_CHECKING:
    from nexusquant.cache.layer import CompressedLayer

ATTENTION_NAME = "nexusquant"


class CacheHandle:
    """What `CompressedCache.update` returns in place of keys and of values.

    It is no tensor on purpose: an attention function that does not know packed pages would
    otherwise attend to the newest tokens only, without a word.

    Args:
        layer: The layer whose vectors are meant.
    """

    __slots__ = ("layer",)

    def __init__(self, layer: CompressedLayer) -> None:
        self.layer = layer

    def __getattr__(self, name: str) -> NoReturn:
        raise CacheStateError(
            "A compressed cache met an attention function that cannot read it (it asked for "
            f"'{name}'). Call model.set_attn_implementation('{ATTENTION_NAME}') first."
        )


def nexusquant_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor | CacheHandle,
    value: torch.Tensor | CacheHandle,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """Attention over a compressed layer; plain tensors are attended to as transformers does.

    Args:
        module: The attention module that calls.
        query: [B, H, T, D].
        key: A handle, or [B, H_kv, kv_len, D] from a cache that is not ours.
        value: Like `key`.
        attention_mask: None for a handle: what is not there cannot be seen, and the rest is causal.
        scaling: Factor on the logits; None means 1 / sqrt(D).
        dropout: Must be 0 with a handle.
        options: Further options of transformers; those that change the result are refused.

    Returns:
        [B, T, H, D_v] and None in place of attention weights.

    Raises:
        ValueError: A mask or dropout together with a handle.
        UnsupportedModelError: The model wants something of attention that packed pages cannot give.
    """
    if not isinstance(key, CacheHandle):
        is_capped = options.get("softcap") is not None
        attend = hf_compat.plain_softcapped if is_capped else hf_compat.plain_sdpa
        return attend(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
        )
    # transformers before 5.23 makes a mask of ones for one token while a step is recorded
    has_mask = attention_mask is not None and getattr(key.layer, "steps", None) is None
    if has_mask or dropout:
        raise ValueError(
            "A compressed cache reads one unpadded text without dropout: pass no attention mask "
            "with zeros in it, and call model.eval()."
        )
    _check_options(options, key.layer.get_seq_length())
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return key.layer.attend(module, query, scaling, options.get("softcap")), None


def _check_options(options: Mapping[str, object], num_seen: int) -> None:
    for name in ("s_aux", "position_bias"):
        if options.get(name) is not None:
            raise UnsupportedModelError(
                f"This model's attention uses {name}, which packed pages do not have."
            )
    window = options.get("sliding_window")
    if isinstance(window, int) and num_seen > window:
        raise UnsupportedModelError(
            f"A layer with a sliding window of {window} tokens was asked to attend to {num_seen}."
        )
