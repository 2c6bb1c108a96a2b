"""`CompressedCache`: the layers of one text as a transformers cache, with a few verbs of ours.

Knows the order of things: spans, marks, what is scored against what. Must not know how a layer
keeps its vectors.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from nexusquant.cache import hf_compat, hf_rope, sliding, storage
from nexusquant.cache.attention import ATTENTION_NAME, CacheHandle, nexusquant_attention
from nexusquant.cache.codec import check_coded
from nexusquant.cache.coding import coding_tools
from nexusquant.cache.evictor import Evictor
from nexusquant.cache.hf_devices import layer_devices
from nexusquant.cache.layer import CompressedLayer
from nexusquant.cache.layer_choice import make_layers
from nexusquant.cache.layer_mark import LayerMark
from nexusquant.cache.measure import kept_shares, measure
from nexusquant.cache.profile import ModelProfile
from nexusquant.cache.scaled_rope import ScaledRope
from nexusquant.cache.usage import CacheUsage
from nexusquant.config import CompressionConfig, RopeScaling
from nexusquant.errors import CacheStateError


@dataclass(frozen=True, eq=False)
class CacheMark:
    """A moment of a cache to come back to. Holds the sinks and the recent window of that moment."""

    layers: tuple[LayerMark | sliding.SlidingMark, ...]
    num_seen: int
    num_decided: int


class CompressedCache(hf_compat.Cache):
    """Keys and values of one text, old ones as packed bytes; a model's `past_key_values`.

    A prompt stays exact until `finish_prefill`, which scores, evicts and codes it; under a plain
    `generate()` the first single-token step calls it.

    Args:
        model: The causal model that will fill the cache. Its attention implementation is set to
            "nexusquant", which serves any other cache with SDPA as before.
        config: What to compress; `PRESETS` has ready ones.
        profile: What is known of the model (`nexusquant.build_profile`); None fits the codes of
            keys to the text itself, which costs fidelity.
        scaling: How the text's positions are scaled, for one beyond the model's trained length;
            the model must then be called inside `scaled_positions()`.

    Raises:
        UnsupportedModelError: The model cannot work with a compressed cache, or be scaled.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: CompressionConfig,
        profile: ModelProfile | None = None,
        scaling: RopeScaling | None = None,
    ) -> None:
        self._rope, self._devices = ScaledRope(model, scaling), layer_devices(model)
        with self._rope.in_force():
            layers, self._rotary = make_layers(model, config, profile, self._devices)
        hf_compat.select_attention(model, ATTENTION_NAME, nexusquant_attention)
        self.config = config
        self._marks: weakref.WeakSet[CacheMark] = weakref.WeakSet()
        self._saved_for = storage.SavedFor.of(model, self._rope.label)
        self._model = weakref.ref(model)
        self._evictor = Evictor(config, layers)
        super().__init__(layers=layers)

    @property
    def num_seen_tokens(self) -> int:
        """Tokens the model has read or written."""
        return self.layers[0].get_seq_length()

    def scaled_positions(self) -> AbstractContextManager[None]:
        """Have the model rotate as this text needs it; changes nothing without a scaling."""
        return self._rope.in_force()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object
    ) -> tuple[CacheHandle, CacheHandle] | tuple[torch.Tensor, torch.Tensor]:
        """Take the keys and values of new tokens; called by the model.

        Args:
            key_states: [1, H_kv, T, D].
            value_states: [1, H_kv, T, D_v].
            layer_idx: Layer they belong to.
            args: Ignored; some models pass more.

        Returns:
            Handles for the attention function, or tensors from a sliding-window layer.

        Raises:
            ValueError: A batch of more than one text.
        """
        if self._evictor.is_rereading:
            return self._evictor.reread.update(key_states, value_states, layer_idx)
        if key_states.shape[0] != 1:
            raise ValueError(
                f"A compressed cache holds one text, but the batch has {key_states.shape[0]}. "
                "Use one cache for each text."
            )
        if layer_idx == 0:
            self._note_rotation()
            self._evictor.forget_scores()
            if key_states.shape[2] == 1:
                self.finish_prefill()
        return self.layers[layer_idx].update(key_states, value_states, *args)

    def _note_rotation(self) -> None:
        """Frequencies may change with the length of the text; keys remember their own."""
        self._rope.check()
        model = self._model()
        if self._rotary is not None and model is not None:
            self._rotary.observe(self.num_seen_tokens, hf_rope.rope_frequencies(model)[0])

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """What transformers must know to build a mask: keys and the first one's position.

        Raises:
            ValueError: No new tokens: `generate` took the ids it was given for those held already.
        """
        if query_length == 0:
            raise ValueError(
                "There is no new token to read. If generate() was given new ids only, give it an "
                "attention_mask of the full length too: ones of num_seen_tokens + new ids."
            )
        if self._evictor.is_rereading:
            return query_length, self.num_seen_tokens
        return super().get_mask_sizes(query_length, layer_idx)

    def expect(self, num_tokens: int) -> None:
        """Have memory for so many tokens that are about to come in chunks; 0: no more come."""
        for layer in self._compressed_layers():
            layer.expect(num_tokens)

    def waiting_tokens(self, least: int | None = None, num_to_come: int = 0) -> range:
        """Indices of tokens to decide on; empty while they are too few, or all may stay.

        Those of the open span; with none open, those of short spans and of generated text since
        the last decision. Never sinks, the recent window, or what a live mark may come back to.

        Args:
            least: Fewer than these are too few; None: the config's `min_span`.
            num_to_come: Tokens that will be read before these are asked for again.
        """
        first_free = max((mark.num_seen for mark in self._marks), default=0)
        return self._evictor.waiting_tokens(first_free, least, num_to_come)

    def pin(self, tokens: range) -> None:
        """Never evict these tokens, whatever their scores: a system prompt, for instance.

        Args:
            tokens: Indices in the text; those that were decided on already stay as decided.
        """
        self._evictor.pinned = (*self._evictor.pinned, tokens)

    @contextmanager
    def rereading(self, stretches: Sequence[range], waiting: range | None = None) -> Iterator[None]:
        """Let a forward score stretches by reading their tokens again; nothing is stored meanwhile.

        They must follow one another through `waiting_tokens()`. `finish_prefill` uses the
        scores once they are complete, unless new tokens came after them.

        Args:
            stretches: Indices of the tokens whose ids the model is then given, each a text of the
                batch; of one length.
            waiting: All that are to be read again; None: `waiting_tokens()`.

        Raises:
            CacheStateError: The stretches are not the next ones that wait.
        """
        with self._evictor.rereading(stretches, waiting or self.waiting_tokens()):
            yield

    def finish_prefill(self, num_to_come: int = 0) -> None:
        """Close the open span, if any: score, evict and code; or evict what was read again.

        Args:
            num_to_come: Tokens of the same text that will follow: the span then stays open, what
                was read of it so far is decided on and coded as one block.

        Raises:
            ValueError: Keys or values that cannot be coded; the cache must not be used any more.
        """
        layers = self._compressed_layers()
        if layers[0].span_start is None and not self._evictor.has_scores:
            return
        waiting, tools = self.waiting_tokens(None, num_to_come), coding_tools(layers)
        kept = self._evictor.decide(waiting, num_to_come)
        to_come = self._evictor.to_come(num_to_come) if num_to_come else None
        for layer in self.layers:
            if isinstance(layer, CompressedLayer):
                layer.commit(kept.get(layer), to_come=to_come, tools=tools[layer])
            else:
                sliding.trim_sliding(layer)
        check_coded(tools.values())

    def mark(self) -> CacheMark:
        """Remember this moment, closing the open span first; see `rewind`."""
        self.finish_prefill()
        layers = tuple(
            layer.mark() if isinstance(layer, CompressedLayer) else sliding.mark_sliding(layer)
            for layer in self.layers
        )
        mark = CacheMark(layers, self.num_seen_tokens, self._evictor.num_decided)
        self._marks.add(mark)
        return mark

    def rewind(self, mark: CacheMark) -> None:
        """Forget everything after `mark`, exactly: the same tokens will give the same logits.

        Raises:
            CacheStateError: The mark is of another cache, or of a later moment that is gone.
        """
        if mark not in self._marks:
            raise CacheStateError(
                "This mark is not one of this cache, or the cache was rewound to before it."
            )
        for layer, state in zip(self.layers, mark.layers, strict=True):
            if isinstance(layer, CompressedLayer):
                layer.rewind(state)
            else:
                sliding.rewind_sliding(layer, state)
        self._evictor.reset(mark.num_decided)
        self._marks -= {other for other in self._marks if other.num_seen > mark.num_seen}

    def reset(self) -> None:
        """Forget every token, every mark and what was pinned."""
        for layer in self.layers:
            if isinstance(layer, CompressedLayer):
                layer.reset()
            else:
                sliding.reset_sliding(layer)
        self._marks.clear()
        self._evictor.reset(0)
        self._evictor.pinned = ()

    def crop(self, tokens_to_remove: int) -> None:
        """Not supported, and raises `CacheStateError`: coded tokens do not go one by one."""
        raise CacheStateError("A compressed cache cannot be cropped; use mark() and rewind().")

    def usage(self) -> CacheUsage:
        """Measure what the cache holds now."""
        if self._rotary is not None:
            self._rotary.forget_runs()
        return measure(self.layers, list(self._marks))

    def kept_shares(self, token_ranges: Iterable[tuple[int, int]]) -> list[float]:
        """Share of pairs still held in each range of tokens, as the mean over layers and heads.

        Args:
            token_ranges: Starts and ends (not included), in tokens seen.

        Returns:
            Shares in [0, 1]; 1.0 for an empty range.
        """
        return kept_shares(self._compressed_layers(), token_ranges)

    def save(self, path: str | Path) -> None:
        """Write the cache, without its marks, to one safetensors file.

        Raises:
            OSError: The file cannot be written; nothing is left half-written.
        """
        self.finish_prefill()
        storage.save(self.layers, self.config, self._saved_for, self._rotary, Path(path))

    def restore(self, path: str | Path) -> None:
        """Become what `save` wrote.

        Raises:
            CacheStateError: Another model, config or format, or a damaged file; the cache is
                empty then.
        """
        self.reset()
        storage.restore(
            self.layers, self.config, self._saved_for, self._rotary, Path(path), self._devices
        )
        # the file does not say what waited
        self._evictor.reset(self.num_seen_tokens)
        model = self._model()
        if self._rotary is not None and model is not None:
            with self._rope.in_force():
                self._rotary.recognise(hf_rope.rope_frequencies(model)[0])

    def _compressed_layers(self) -> list[CompressedLayer]:
        return [layer for layer in self.layers if isinstance(layer, CompressedLayer)]
