"""One layer of a compressed cache: sinks, packed pages and the newest tokens.

Knows which tokens are where and when they move. Must not know why a token is evicted (the cache
asks `eviction`), nor the format of a code (`lattice`) or of a page (`pages`).

A token's way: it arrives at full precision and stays so while its span (a prompt, a turn) is
open, so that attention, scoring and coding see exact vectors. `commit` closes the span: the first
tokens of the text become 16-bit sinks, the newest stay as the 16-bit recent window, the rest is
coded into pages, without those that were not kept. A generated token enters the recent window
and is coded when a page's worth has left it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from nexusquant.cache.attention import CacheHandle
from nexusquant.cache.hf_compat import CacheLayerMixin, causal_sdpa
from nexusquant.cache.kept import KeptTokens
from nexusquant.cache.pages import PackedPages
from nexusquant.config import PAGE_SIZE, CompressionConfig
from nexusquant.eviction import Observation
from nexusquant.kernels import PackedView, packed_attention
from nexusquant.lattice import E8Quantizer


@dataclass(frozen=True)
class LayerMark:
    """A layer at one moment. Tensors are shared with the layer, which never writes into them."""

    num_seen: int
    sinks: tuple[torch.Tensor, torch.Tensor]
    recent: tuple[torch.Tensor, torch.Tensor]
    kept: KeptTokens
    page_lengths: tuple[int, ...]
    quantizers: tuple[E8Quantizer, E8Quantizer] | None


class CompressedLayer(CacheLayerMixin):
    """Keys and values of one attention layer.

    Args:
        config: What to do with them.
        quantizers: Coders of keys and of values for this layer, or None to keep everything exact.
    """

    is_sliding = False
    is_compileable = False
    supports_early_init = False

    def __init__(
        self, config: CompressionConfig, quantizers: tuple[E8Quantizer, E8Quantizer] | None
    ) -> None:
        super().__init__()
        self.config = config
        self.blank_quantizers = quantizers
        self.reset()

    def reset(self) -> None:
        """Forget every token."""
        self.num_seen = 0
        self.sinks = self.recent = (torch.empty(0), torch.empty(0))
        self.kept = KeptTokens()
        self.pages: PackedPages | None = None
        self.quantizers = self.blank_quantizers
        self.is_initialized = False
        self._close_span()

    def _close_span(self) -> None:
        # index of the open span's first token; generated tokens belong to no span
        self.span_start: int | None = None
        self.queries: torch.Tensor | None = None
        self.scaling = 1.0
        # page lengths at the span's first token, once some of the span had to be coded early
        self.span_page_lengths: list[int] | None = None

    @property
    def num_recent(self) -> int:
        """Newest tokens that are held exactly."""
        return self.recent[0].shape[-2] if self.is_initialized else 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take shapes, type and device from the first keys and values, [1, H_kv, T, D].

        Vectors of a size that the quantizers were not made for stay uncompressed.
        """
        empty = (key_states[0, :, :0].clone(), value_states[0, :, :0].clone())
        if [held.shape[-1] for held in empty] != [q.dim for q in self.quantizers or ()]:
            self.quantizers = None
        if self.quantizers is not None:
            sizes = [quantizer.bytes_per_vector - 1 for quantizer in self.quantizers]
            self.pages = PackedPages(key_states.shape[1], *sizes, device=key_states.device)
            empty = tuple(_to_16_bit(held) for held in empty)
        self.sinks = self.recent = empty
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object
    ) -> tuple[CacheHandle, CacheHandle]:
        """Hold new keys and values exactly, and return handles for the attention function."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if key_states.shape[2] > 1 and self.span_start is None:
            self.span_start = self.num_seen
        new = [key_states[0], value_states[0]]
        if self.span_start is None and self.pages is not None:
            new = [_to_16_bit(fresh) for fresh in new]
        self.recent = tuple(
            torch.cat([held, fresh], dim=1) for held, fresh in zip(self.recent, new, strict=True)
        )
        self.num_seen += key_states.shape[2]
        handle = CacheHandle(self)
        return handle, handle

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Ask for a mask over the new tokens only: they are causal, all older ones are visible."""
        return query_length, self.num_seen

    def get_seq_length(self) -> int:
        """Tokens seen; positions count these, evicted or not."""
        return self.num_seen

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def attend(
        self, module: torch.nn.Module, query: torch.Tensor, scaling: float, softcap: float | None
    ) -> torch.Tensor:
        """Attention of the newest tokens' queries [1, H, T, D] over all held: [1, T, H, D_v]."""
        self._observe(query[0], scaling)
        nothing_coded = self.pages is None or self.kept.num_tokens == 0
        if nothing_coded and self.sinks[0].shape[1] == 0 and softcap is None:
            exact = (held.unsqueeze(0).to(query.dtype) for held in self.recent)
            output = causal_sdpa(module, query, *exact, scaling)
        else:
            exact = (torch.cat(pair, dim=1) for pair in zip(self.sinks, self.recent, strict=True))
            view = None if nothing_coded else self._packed_view()
            output = packed_attention(query[0], view, *exact, scaling, softcap).transpose(0, 1)[
                None
            ]
        self._code_overflow()
        return output

    def _packed_view(self) -> PackedView:
        pages = self.pages
        lengths = torch.tensor(pages.lengths, device=pages.page_table.device)
        return PackedView(pages.keys, pages.values, pages.page_table, lengths, *self.quantizers)

    def _observe(self, query: torch.Tensor, scaling: float) -> None:
        """Remember the newest queries of the span for the scorer."""
        self.scaling = scaling
        eviction = self.config.eviction
        if eviction is not None and self.span_start is not None and self.pages is not None:
            queries = query if self.queries is None else torch.cat([self.queries, query], dim=1)
            self.queries = queries[:, -eviction.observation_window :].clone()

    def _code_overflow(self) -> None:
        """Code what no longer fits: a page's worth past the window, or too long a span."""
        if self.pages is None:
            return
        limit = self.config.recent_window + PAGE_SIZE - 1
        if self.span_start is not None:
            limit = max(limit, self.config.exact_prefill_tokens)
        if self.num_recent > limit:
            self._code_until(self.num_seen - self.config.recent_window)

    def num_candidates(self) -> int:
        """Tokens of the open span that may be evicted: not sinks, not the recent window."""
        if self.span_start is None or self.pages is None:
            return 0
        return max(0, self.num_seen - self.config.recent_window - self._first_candidate())

    def _first_candidate(self) -> int:
        return max(self.span_start, self.config.num_sink_tokens)

    def observe(self) -> Observation:
        """What a scorer may see of the open span: its candidates, and its newest queries."""
        count, start = self.num_candidates(), self._first_candidate()
        first_exact = self.num_seen - self.num_recent
        keys, values = (
            held[:, max(0, start - first_exact) : start + count - first_exact]
            for held in self.recent
        )
        num_coded = count - keys.shape[1]
        if num_coded:
            packed = self.pages.read(self.span_page_lengths, num_coded)
            coded = (q.decode(p, keys.dtype) for q, p in zip(self.quantizers, packed, strict=True))
            keys, values = (
                torch.cat(pair, dim=1) for pair in zip(coded, (keys, values), strict=True)
            )
        # queries of sinks come before every candidate
        queries = self.queries[:, -(self.num_seen - start) :]
        offset = self.num_seen - queries.shape[1] - start
        return Observation(queries, keys, values, offset, self.scaling)

    def commit(self, kept: torch.Tensor | None) -> None:
        """Close the span.

        Args:
            kept: Candidates that stay. [H_kv, num_candidates], bool; None keeps all.
        """
        if self.pages is not None and self.is_initialized:
            if kept is not None and self.span_page_lengths is not None:
                kept = self._evict_coded(kept)
            self._code_until(self.num_seen - self.config.recent_window, kept)
            self.recent = tuple(_to_16_bit(held) for held in self.recent)
        self._close_span()

    def _evict_coded(self, kept: torch.Tensor) -> torch.Tensor:
        """Evict among the span's tokens that were coded early; return the mask of the others."""
        starts, pages = self.span_page_lengths, self.pages
        num_coded = pages.lengths[0] - starts[0]
        vectors = pages.read(starts, num_coded)
        pages.truncate(starts)
        pages.append(*vectors, kept[:, :num_coded])
        pages.compact()
        self.kept = self.kept.drop_last(num_coded).append(num_coded, kept[:, :num_coded])
        return kept[:, num_coded:]

    def _code_until(self, token: int, kept: torch.Tensor | None = None) -> None:
        """Move exact tokens before index `token` to the sinks or into pages.

        Args:
            token: Index in the text; at most `num_seen`.
            kept: Which tokens of the span among them to keep, [H_kv, n], bool; None keeps all.
        """
        first = self.num_seen - self.num_recent
        num_sinks = min(max(token - first, 0), max(0, self.config.num_sink_tokens - first))
        if num_sinks:
            self.sinks = tuple(
                torch.cat([sink, _to_16_bit(held[:, :num_sinks])], dim=1)
                for sink, held in zip(self.sinks, self.recent, strict=True)
            )
        first += num_sinks
        # tokens older than the span were not scored with it: all of them stay
        num_old = (token if self.span_start is None else min(token, self.span_start)) - first
        if num_old > 0:
            self._code(first, num_old, None)
            first += num_old
        if token > first:
            if self.span_page_lengths is None:
                self.span_page_lengths = list(self.pages.lengths)
            self._code(first, token - first, kept)
            first = token
        num_coded = first - (self.num_seen - self.num_recent)
        self.recent = tuple(held[:, num_coded:].clone() for held in self.recent)

    def _code(self, token: int, count: int, kept: torch.Tensor | None) -> None:
        """Code `count` exact tokens from index `token` of the text on into pages."""
        start = token - (self.num_seen - self.num_recent)
        vectors = [held[:, start : start + count] for held in self.recent]
        if self.kept.num_tokens == 0:
            # keys of a head share a large constant part; taken once, from all keys at hand
            mean = self.recent[0].float().mean(dim=1, keepdim=True)
            self.quantizers = (replace(self.quantizers[0], mean=mean), self.quantizers[1])
        packed = (q.encode(v) for q, v in zip(self.quantizers, vectors, strict=True))
        self.pages.append(*packed, kept)
        self.kept = self.kept.append(count, kept)

    def kept_share_of_tokens(self) -> torch.Tensor:
        """Share of heads that still hold each coded token. [num_coded], float32."""
        num_kv_heads, device = self.sinks[0].shape[0], self.sinks[0].device
        return self.kept.mask(num_kv_heads, device).float().mean(dim=0)

    def mark(self) -> LayerMark:
        """Remember this moment; the span must be closed."""
        lengths = tuple(self.pages.lengths) if self.pages is not None else ()
        return LayerMark(
            self.num_seen, self.sinks, self.recent, self.kept, lengths, self.quantizers
        )

    def rewind(self, mark: LayerMark) -> None:
        """Be again what `mark` remembers, bit for bit."""
        if mark.num_seen == 0:
            self.reset()
            return
        self.num_seen, self.sinks, self.recent = mark.num_seen, mark.sinks, mark.recent
        self.kept, self.quantizers = mark.kept, mark.quantizers
        if self.pages is not None:
            self.pages.truncate(mark.page_lengths)
        self._close_span()


def _to_16_bit(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    # an infinite key would poison every later token: the largest float16 stands in for it
    largest = torch.finfo(torch.float16).max
    return tensor.clamp(-largest, largest).to(torch.float16)
