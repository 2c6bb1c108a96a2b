"""One layer of a compressed cache: sinks, packed pages and the newest tokens.

Knows which tokens are where and when they move. Must not know why a token is evicted (the cache
asks `eviction`), nor the format of a code (`lattice`) or of a page (`pages`).

A token's way: it arrives at full precision and stays so while its span (a prompt, a turn) is
open, so that attention, scoring and coding see exact vectors. `commit` closes the span: the first
tokens of the text become 16-bit sinks, the newest stay as the 16-bit recent window, the rest is
coded into pages, without those that were not kept. A generated token enters the recent window
and is coded when a page's worth has left it. While no span is open, the window is narrow (see
`LayerCodec.narrow`); sinks always are.
"""

from __future__ import annotations

import torch

from nexusquant.cache.attention import CacheHandle
from nexusquant.cache.codec import FIT_QUERIES, NO_TOOLS, CodingTools, LayerCodec
from nexusquant.cache.coding import code_tokens, join, vectors_of, view_of
from nexusquant.cache.hf_compat import CacheLayerMixin, causal_sdpa
from nexusquant.cache.kept import KeptTokens
from nexusquant.cache.layer_mark import LayerMark
from nexusquant.cache.layer_steps import LayerSteps
from nexusquant.cache.pages import PackedPages
from nexusquant.cache.room import Room
from nexusquant.config import PAGE_SIZE, CompressionConfig
from nexusquant.eviction import ToCome
from nexusquant.kernels import packed_attention


class CompressedLayer(CacheLayerMixin):
    """Keys and values of one attention layer.

    Args:
        config: What to do with them.
        codec: Coders for this layer, or None to keep everything exact.
    """

    is_sliding = False
    is_compileable = False
    supports_early_init = False

    def __init__(self, config: CompressionConfig, codec: LayerCodec | None) -> None:
        super().__init__()
        self.config = config
        self.blank_codec = codec
        self.reset()

    def reset(self) -> None:
        """Forget every token."""
        self.num_seen = 0
        self.sinks = self.recent = (torch.empty(0), torch.empty(0))
        self.kept = KeptTokens()
        self.pages: PackedPages | None = None
        self.codec = self.blank_codec
        self.is_initialized = False
        # what new tokens go to instead while they come one by one in buffers (`CacheSteps`)
        self.steps: LayerSteps | None = None
        self._close_span()

    def _close_span(self) -> None:
        # index of the open span's first token; generated tokens belong to no span
        self.span_start: int | None = None
        self.queries: torch.Tensor | None = None
        self.scaling = 1.0
        self.room, self.num_expected = None, 0

    @property
    def num_recent(self) -> int:
        """Newest tokens that are held exactly."""
        return self.recent[0].shape[-2] if self.is_initialized else 0

    @property
    def first_recent(self) -> int:
        """Index of the first of them."""
        return self.num_seen - self.num_recent

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take shapes, type and device from the first keys and values, [1, H_kv, T, D].

        Vectors of a size that the coders were not made for stay uncompressed.
        """
        empty = (key_states[0, :, :0].clone(), value_states[0, :, :0].clone())
        if self.codec is not None and not self.codec.fits(*empty):
            self.codec = None
        if self.codec is not None:
            empty = self.codec.narrow(*empty, first=0)
        self.sinks = self.recent = empty
        self.is_initialized = True
        if self.codec is not None and self.codec.keys is not None:
            self._open_pages()

    def _open_pages(self) -> None:
        sizes = [coder.bytes_per_vector - 1 for coder in (self.codec.keys, self.codec.values)]
        held = self.sinks[0]
        self.pages = PackedPages(held.shape[0], *sizes, device=held.device)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object
    ) -> tuple[CacheHandle, CacheHandle]:
        """Hold new keys and values exactly, and return handles for the attention function."""
        handle = CacheHandle(self)
        if self.steps is not None:
            self.steps.write(key_states[0], value_states[0])
            return handle, handle
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = (key_states[0], value_states[0])
        if key_states.shape[2] > 1 and self.span_start is None:
            self.span_start = self.num_seen
            if self.codec is not None:
                wide = self.codec.widen(*self.recent, first=self.first_recent)
                self.recent = tuple(held.to(key_states.dtype) for held in wide)
        if self.span_start is None and self.codec is not None:
            new = self.codec.narrow(*new, first=self.num_seen)
        if self.num_expected > key_states.shape[2]:
            self.room, self.num_expected = Room(self.recent, self.num_expected), 0
        if self.room is not None and not self.room.fits(new):
            self.room = None
        self.recent = join(self.recent, new) if self.room is None else self.room.append(new)
        self.num_seen += key_states.shape[2]
        return handle, handle

    def expect(self, num_tokens: int) -> None:
        """Have memory for a span at once, which else is copied for every chunk; 0: for no more."""
        self.num_expected = num_tokens
        if num_tokens == 0 and self.room is not None:
            self.room, self.recent = None, tuple(held.clone() for held in self.recent)

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
        if self.steps is not None:
            return self.steps.attend(query[0], scaling, softcap).transpose(0, 1)[None]
        self._observe(query[0], scaling)
        nothing_coded = self.kept.num_tokens == 0
        if nothing_coded and self.sinks[0].shape[1] == 0 and softcap is None:
            exact = (held.unsqueeze(0).to(query.dtype) for held in self._wide_recent())
            output = causal_sdpa(module, query, *exact, scaling)
        else:
            view = None if nothing_coded else view_of(self)
            output = packed_attention(query[0], view, *self._all_exact(), scaling, softcap)
            output = output.transpose(0, 1)[None]
        self.code_overflow()
        return output

    def _wide_recent(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self.codec is None or self.span_start is not None:
            return self.recent
        return self.codec.widen(*self.recent, first=self.first_recent)

    def _all_exact(self) -> tuple[torch.Tensor, ...]:
        sinks = self.sinks if self.codec is None else self.codec.widen(*self.sinks, first=0)
        return join(sinks, self._wide_recent())

    def _observe(self, query: torch.Tensor, scaling: float) -> None:
        """Remember the newest queries of the span for the scorer."""
        self.scaling = scaling
        window = 0 if self.codec is None or self.codec.keys is not None else FIT_QUERIES
        if self.config.eviction is not None and self.span_start is not None:
            window = max(window, self.config.eviction.observation_window)
        if window and self.codec is not None:
            queries = query if self.queries is None else torch.cat([self.queries, query], dim=1)
            self.queries = queries[:, -window:].clone()

    def code_overflow(self, tools: CodingTools = NO_TOOLS) -> None:
        """Code what no longer fits: a page's worth past the window, or too long a span."""
        limit = self.config.recent_window + PAGE_SIZE - 1
        if self.span_start is not None:
            limit = max(limit, self.config.exact_prefill_tokens)
        if self.codec is not None and self.num_recent > limit:
            self._code_until(self.num_seen - self.config.recent_window, tools=tools)

    def sink_vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the text's first tokens, wherever they are. [H_kv, sinks, D]."""
        held = self.sinks if self.codec is None else self.codec.widen(*self.sinks, first=0)
        missing = self.config.num_sink_tokens - held[0].shape[1]
        if missing <= 0 or self.first_recent > held[0].shape[1]:
            return held
        return join(held, tuple(exact[:, :missing] for exact in self._wide_recent()))

    def vectors(self, tokens: range) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of tokens past the sinks, none of which was evicted. [H_kv, T, D]."""
        return vectors_of(tokens, self.pages, self.codec, self._wide_recent(), self.first_recent)

    def commit(
        self,
        kept: torch.Tensor | None = None,
        *,
        to_come: ToCome | None = None,
        tools: CodingTools = NO_TOOLS,
    ) -> None:
        """Let go of what is not kept, code the rest, and close the span if it is at its end.

        Args:
            kept: Which of the newest tokens before the recent window stay; those before them
                all do. [H_kv, n], bool; None keeps all.
            to_come: Of the same span, which then stays open; there is room for it afterwards.
            tools: Of the layer's codec.
        """
        if self.codec is not None and self.is_initialized:
            end = self.num_seen - self.config.recent_window
            if kept is not None:
                kept = self._evict_coded(end - kept.shape[1], kept)
            self._code_until(end, kept, tools)
            if to_come is None and self.span_start is not None:
                self.recent = self.codec.narrow(*self.recent, first=self.first_recent)
        if self.pages is not None:
            self.pages.make_room(to_come.vectors(self.pages.lengths) if to_come else 0)
        if to_come is None:
            self._close_span()

    def _evict_coded(self, token: int, kept: torch.Tensor) -> torch.Tensor:
        """Evict among coded tokens from index `token` on; return the mask of the exact ones."""
        num_coded = self.first_recent - token
        if num_coded <= 0:
            return kept
        kept_coded = kept[:, :num_coded]
        self.pages.keep(num_coded, kept_coded)
        self.kept = self.kept.drop_last(num_coded).append(num_coded, kept_coded)
        return kept[:, num_coded:]

    def _code_until(
        self, token: int, kept: torch.Tensor | None = None, tools: CodingTools = NO_TOOLS
    ) -> None:
        """Move exact tokens before index `token` to the sinks or into pages.

        Args:
            token: Index in the text; at most `num_seen`.
            kept: Which of the newest of them stay, [H_kv, n], bool; None keeps all.
            tools: Of the layer's codec.
        """
        first = self.first_recent
        if token > first and self.codec.keys is None:
            self._fit()
        num_sinks = min(max(token - first, 0), max(0, self.config.num_sink_tokens - first))
        if num_sinks:
            leaving = (held[:, :num_sinks] for held in self._wide_recent())
            self.sinks = join(self.sinks, self.codec.narrow(*leaving, first=first))
        num_decided = 0 if kept is None else kept.shape[1]
        num_others = token - first - num_sinks - num_decided
        self._code(first + num_sinks, num_others, None, tools)
        self._code(token - num_decided, num_decided, kept, tools)
        self.room = None
        self.recent = tuple(held[:, max(token - first, 0) :].clone() for held in self.recent)

    def _code(self, token: int, count: int, kept: torch.Tensor | None, tools: CodingTools) -> None:
        """Code `count` exact tokens from index `token` of the text on into pages."""
        if count <= 0:
            return
        start = token - self.first_recent
        keys, values = (held[:, start : start + count] for held in self._wide_recent())
        self.kept = self.kept.append(count, kept)
        code_tokens(self.pages, self.codec, (keys, values), token, kept, tools)

    def _fit(self) -> None:
        """Fit the keys' basis to the exact tokens at hand: there is no profile of the model."""
        first, wide = self.first_recent, self._wide_recent()
        self.codec = self.codec.fitted(wide[0], first, self.queries, self.num_seen)
        self.sinks = self.codec.narrow(*self.sinks, first=0)
        if self.span_start is None:
            self.recent = self.codec.narrow(*wide, first=first)
            self.queries = None
        self._open_pages()

    def mark(self) -> LayerMark:
        """Remember this moment; the span must be closed."""
        lengths = tuple(self.pages.lengths) if self.pages is not None else ()
        return LayerMark(self.num_seen, self.sinks, self.recent, self.kept, lengths, self.codec)

    def rewind(self, mark: LayerMark) -> None:
        """Be again what `mark` remembers, bit for bit."""
        if mark.num_seen == 0:
            self.reset()
            return
        self.num_seen, self.sinks, self.recent = mark.num_seen, mark.sinks, mark.recent
        self.kept, self.codec, self.steps = mark.kept, mark.codec, None
        if not mark.page_lengths:
            self.pages = None
        elif self.pages is not None:
            self.pages.truncate(mark.page_lengths)
        self._close_span()
