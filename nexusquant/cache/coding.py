"""How exact tokens of one layer get into its pages, and what a kernel is told of those there.

Knows pages, coders and which tokens are kept. Must not know when tokens move, or why one goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from nexusquant.cache.codec import NO_TOOLS, CodingTools, LayerCodec, tools_for
from nexusquant.cache.kept import KeptTokens, indices_of
from nexusquant.cache.pages import PackedPages, on_device
from nexusquant.kernels import PackedView

if TYPE_CHECKING:
    from nexusquant.cache.layer import CompressedLayer


def code_tokens(
    pages: PackedPages,
    codec: LayerCodec,
    vectors: tuple[torch.Tensor, torch.Tensor],
    first: int,
    kept: torch.Tensor | None,
    tools: CodingTools,
) -> None:
    """Code tokens into pages.

    Args:
        pages: Where they go, after what is there.
        codec: What codes them.
        vectors: Exact keys [H_kv, T, D] and values [H_kv, T, D_v].
        first: Index of the first token in the text.
        kept: Which of them stay, [H_kv, T], bool; None keeps all.
        tools: Of the codec.
    """
    keys, values = vectors
    positions = torch.arange(first, first + keys.shape[1], device=keys.device)
    if kept is not None:
        # what goes is not coded: every head's own tokens, then filled up to the longest head's
        index, kept = indices_of(kept)
        keys, values = (
            held.gather(1, index.unsqueeze(-1).expand(-1, -1, held.shape[-1])) for held in vectors
        )
        positions = positions[index]
    with pages.slots_for(keys.shape[1], kept) as slots:
        codec.encode_into(pages.pools, slots, keys, values, positions, tools)


def coding_tools(layers: Sequence[CompressedLayer]) -> dict[CompressedLayer, CodingTools]:
    """What coding takes, for the layers that are about to code tokens; no tools for the others."""
    ready = [
        layer
        for layer in layers
        if layer.codec is not None
        and layer.codec.keys is not None
        and layer.num_recent > layer.config.recent_window
    ]
    found = tools_for([layer.codec for layer in ready])
    return dict.fromkeys(layers, NO_TOOLS) | dict(zip(ready, found, strict=True))


def vectors_of(
    tokens: range,
    pages: PackedPages | None,
    codec: LayerCodec | None,
    exact: tuple[torch.Tensor, torch.Tensor],
    first_exact: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of tokens, none of which was evicted. [H_kv, T, D].

    Args:
        tokens: Indices of the newest tokens in pages, of exact ones, or of both.
        pages: Where those before the exact ones are.
        codec: What they mean.
        exact: The newest tokens' vectors.
        first_exact: Index of the first of them.
    """
    border = min(max(tokens.start, first_exact), tokens.stop)
    part = slice(max(0, border - first_exact), max(0, tokens.stop - first_exact))
    keys, values = (held[:, part] for held in exact)
    num_coded = border - tokens.start
    if num_coded == 0:
        return keys, values
    starts = [length - (first_exact - tokens.start) for length in pages.lengths]
    packed = pages.read(starts, num_coded)
    positions = torch.arange(tokens.start, border, device=keys.device)
    return join(codec.decode(*packed, positions, keys.dtype), (keys, values))


def join(
    before: tuple[torch.Tensor, torch.Tensor], after: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """Keys and values of some tokens, and those of the next; of two types, the wider one."""
    return tuple(torch.cat(pair, dim=1) for pair in zip(before, after, strict=True))


def view_of(layer: CompressedLayer, num_more: int = 0) -> PackedView:
    """What a kernel is told of a layer's pages; see `PackedView`.

    Args:
        layer: With pages.
        num_more: Tokens to come, which there is to be room for among the positions.
    """
    pages, codec, first = layer.pages, layer.codec, layer.sinks[0].shape[1]
    device = pages.page_table.device
    positions = positions_of(layer.kept, first, pages.lengths, num_more, device)
    return PackedView(
        *(pages.keys, pages.values, pages.page_table),
        *(on_device(pages.lengths, device), positions),
        *(codec.keys, codec.values, codec.rotary, codec.pairing),
        first_position=first if layer.kept.is_whole else None,
    )


def positions_of(
    kept: KeptTokens, first: int, lengths: Sequence[int], num_more: int, device: torch.device
) -> torch.Tensor:
    """Token index of every coded vector, and room for those to come.

    Args:
        kept: The coded tokens.
        first: Index of the first of them.
        lengths: Vectors of each head.
        num_more: Tokens to come.
        device: Where the result goes.

    Returns:
        As in `KeptTokens.positions`, with `num_more` columns more. int64.
    """
    if kept.is_whole:
        width = kept.num_tokens + num_more
        return torch.arange(first, first + width, device=device).expand(len(lengths), -1)
    table = kept.positions(first, list(lengths), device)
    return torch.nn.functional.pad(table, (0, num_more))
