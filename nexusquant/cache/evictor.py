"""Which tokens of a cache wait for a decision, and the decision.

Knows spans, scorers and the one budget of all layers. Must not know how a layer keeps its vectors
or lets go of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from nexusquant.cache.hf_compat import CacheLayerMixin
from nexusquant.cache.layer import CompressedLayer
from nexusquant.cache.measure import num_stored_pairs
from nexusquant.cache.pages import ROOM_MARGIN
from nexusquant.cache.rereading import Rereading
from nexusquant.config import CompressionConfig, ScorerName
from nexusquant.eviction import (
    ONE_PASS_SCORERS,
    Observation,
    ToCome,
    block_shares,
    kept_to_come,
    make_scorer,
    per_byte,
    select_kept,
)

STAND_IN = ScorerName.SNAPKV
"""Chooses where the config wants a second reading and nobody did it: in a plain `generate()`."""


class Evictor:
    """Decides about every token once.

    Args:
        config: What to do.
        layers: All layers of the cache.
    """

    def __init__(self, config: CompressionConfig, layers: Sequence[CacheLayerMixin]) -> None:
        self._config, self._all_layers = config, layers
        self._layers = [
            layer for layer in layers if isinstance(layer, CompressedLayer) and layer.codec
        ]
        self.is_rereading = False
        self.pinned: tuple[range, ...] = ()
        self.reset(0)

    def reset(self, num_decided: int) -> None:
        """Tokens before `num_decided` were decided on, no other one; no scores are known."""
        self.num_decided = num_decided
        # where the open text begins, of which earlier blocks were decided on
        self._text_start: int | None = None
        self.forget_scores()

    def forget_scores(self) -> None:
        """Tokens came that the scores do not know of."""
        self.reread: Rereading | None = None

    @property
    def has_scores(self) -> bool:
        """True when every waiting token was read again."""
        return self.reread is not None and self.reread.is_complete

    def waiting_tokens(
        self, first_free: int, least: int | None = None, num_to_come: int = 0
    ) -> range:
        """Indices of the tokens to decide on; empty while they are too few or all may stay.

        Args:
            first_free: With no span open, tokens before it must stay as they are.
            least: Fewer are too few; None: the config's `min_span`.
            num_to_come: Tokens that will be read before these are asked for again.
        """
        eviction, layers = self._config.eviction, self._layers
        # a layer may turn out to have vectors that cannot be coded
        if eviction is None or not layers or layers[0].codec is None:
            return range(0)
        # a text that is decided on in blocks is so to its end
        is_free = self._text_start is None
        if is_free and self._num_stored() + num_to_come <= eviction.keeps_up_to:
            return range(0)
        start = layers[0].span_start
        start = first_free if start is None else start
        start = max(start, self.num_decided, self._config.num_sink_tokens)
        tokens = range(start, max(start, layers[0].num_seen - self._config.recent_window))
        return tokens if len(tokens) >= (least or eviction.min_span) else range(0)

    def _num_stored(self) -> float:
        """Tokens that are held, in the mean over heads."""
        layers = [layer for layer in self._layers if layer.is_initialized]
        num_heads = sum(layer.sinks[0].shape[0] for layer in layers)
        return num_stored_pairs(layers) / max(1, num_heads)

    @contextmanager
    def rereading(self, stretches: Sequence[range], waiting: range) -> Iterator[None]:
        """Score `stretches` by what a forward inside this attends to; see `CompressedCache`."""
        reread = self.reread
        if reread is None or stretches[0].start == waiting.start:
            reread = Rereading(self._all_layers, waiting)
        reread.begin(stretches)
        self.reread, self.is_rereading = reread, True
        try:
            yield
            reread.end(stretches)
        finally:
            self.is_rereading = False

    def decide(self, waiting: range, num_to_come: int = 0) -> dict[CompressedLayer, torch.Tensor]:
        """Choose what every layer keeps of the waiting tokens; [H_kv, waiting], bool.

        Pinned tokens are kept besides the budget.

        Args:
            waiting: Indices of the tokens.
            num_to_come: Tokens that the text goes on with: what waits is a block of it.
        """
        if self.has_scores:
            # not those that a mark protected when the rest was read again, and that is gone since
            waiting = self.reread.tokens
        if not waiting:
            self._text_start = self._text_start if num_to_come else None
            return {}
        if self.has_scores:
            scores = per_byte(self.reread.scores(), self._pair_bytes())
        else:
            scores = self._one_pass_scores(waiting)
        kept = self._choose(scores, waiting, num_to_come)
        for mask in kept:
            for tokens in self.pinned:
                mask[:, _overlap(tokens, waiting)] = True
        return dict(zip(self._layers, kept, strict=True))

    def to_come(self, num_tokens: int) -> ToCome:
        """What layers will keep of the `num_tokens` that the text goes on with; after `decide`."""
        eviction, start = self._config.eviction, self._text_start
        if eviction is None or start is None:
            return ToCome(num_tokens, 0.0)
        rule = (eviction.share_of(start, self.num_decided + num_tokens), eviction.newest_share)
        told = kept_to_come(*rule, start, self.num_decided - start, num_tokens)
        return told._replace(per_kept=ROOM_MARGIN * told.per_kept)

    def _choose(
        self, scores: list[torch.Tensor], waiting: range, num_to_come: int
    ) -> list[torch.Tensor]:
        eviction = self._config.eviction
        start = waiting.start if self._text_start is None else self._text_start
        keep_ratio, newest_share = block_shares(
            eviction.share_of(start, waiting.stop + num_to_come),
            eviction.newest_share,
            num_before=waiting.start - start,
            num_waiting=len(waiting),
            num_to_come=num_to_come,
        )
        self.reset(waiting.stop)
        if num_to_come:
            self._text_start = start
        # one budget for all layers, and layers may be on several devices
        devices = [of_layer.device for of_layer in scores]
        scores = [of_layer.to(devices[0]) for of_layer in scores]
        shares = (keep_ratio, eviction.head_floor, newest_share)
        kept = select_kept(scores, *shares, self._pair_bytes())
        return [mask.to(device) for mask, device in zip(kept, devices, strict=True)]

    def _pair_bytes(self) -> list[float]:
        return [layer.codec.pair_bytes for layer in self._layers]

    def _one_pass_scores(self, waiting: range) -> list[torch.Tensor]:
        name = self._config.eviction.scorer
        if name not in ONE_PASS_SCORERS:
            warnings.warn(
                f"The text was not read again, as {name} needs: {STAND_IN} chose what is kept. "
                "nexusquant.prefill() reads it again.",
                stacklevel=5,
            )
            name = STAND_IN
        scorer = make_scorer(name)
        return [scorer.score(self._observe(layer, waiting)) for layer in self._layers]

    def _observe(self, layer: CompressedLayer, waiting: range) -> Observation:
        # queries of sinks come before every candidate
        window = min(layer.num_seen - waiting.start, self._config.eviction.observation_window)
        queries = layer.queries[:, -window:]
        offset = layer.num_seen - queries.shape[1] - waiting.start
        return Observation(queries, *layer.vectors(waiting), offset, layer.scaling)


def _overlap(tokens: range, waiting: range) -> slice:
    first, last = (
        min(max(end - waiting.start, 0), len(waiting)) for end in (tokens.start, tokens.stop)
    )
    return slice(first, last)
