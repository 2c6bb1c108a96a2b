"""What a model and a text will take of a device's memory, told before anything is loaded.

Knows the phases of a turn and what is alive in each of them. What a cache holds, `cache` knows;
what weights take, `weights`. Works from a config alone.

A text goes through three phases, and the largest decides: reading (the text exact, up to
`exact_prefill_tokens`, and one chunk's activations), choosing and coding (the same text, scores of
every pair, one layer's vectors in float32), and answering (what is stored, and blocks of it
decoded).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from transformers import PreTrainedConfig

from nexusquant.cache import StoredSize, layer_shapes
from nexusquant.config import PAGE_SIZE, CompressionConfig
from nexusquant.engine.activations import ChunkShape, chunk_shape
from nexusquant.engine.memory import CUDA_CONTEXT_BYTES
from nexusquant.engine.prefill import CHUNK_SIZE
from nexusquant.engine.weights import Precision, WeightCount, count_weights

LEAST_EXACT_SPAN = 512
"""Shorter spans would be coded before a scorer has seen enough of them."""

_TYPICAL_TOKENS = 16_384
_LONGEST = 2**24


class _Moment(NamedTuple):
    num_coded: int
    num_exact: int
    num_new: int


@dataclass(frozen=True)
class MemoryPlan:
    """The memory of one model with one text, in bytes, by the tokens of the text.

    Args:
        compression: What happens to keys and values.
        precision: What the weights are held in.
        num_parameters: Weights, shared ones counted once.
        weight_bytes: Their bytes.
        context_bytes: What the device takes besides tensors; 0 on a CPU.
        size: Bytes of the cache.
        chunk: What one forward needs.
    """

    compression: CompressionConfig
    precision: Precision
    num_parameters: int
    weight_bytes: int
    context_bytes: int
    size: StoredSize = field(repr=False)
    chunk: ChunkShape = field(repr=False)

    def stored_bytes(self, num_tokens: int) -> int:
        """The cache of a text that was read."""
        return self.size.after(num_tokens).total

    @cached_property
    def bytes_per_token(self) -> float:
        """What one more token of a long text adds to the cache."""
        longer = self.stored_bytes(2 * _TYPICAL_TOKENS) - self.stored_bytes(_TYPICAL_TOKENS)
        return longer / _TYPICAL_TOKENS

    def compression_factor(self, num_tokens: int) -> float:
        """Bytes of a 16-bit cache over those of this one; 1.0 without tokens."""
        stored = self.stored_bytes(num_tokens)
        return self.size.uncompressed(num_tokens) / stored if stored else 1.0

    def reading_bytes(self, num_tokens: int) -> int:
        """Most bytes of cache, activations and logits while the text is read."""
        return max(map(self._forward_at, self._moments(num_tokens))) if num_tokens else 0

    def coding_bytes(self, num_tokens: int) -> int:
        """Most bytes while what stays is chosen and coded; the cache is still as it was read."""
        if self.compression.is_off or num_tokens == 0:
            return 0
        end = self._moments(num_tokens)[1]
        held = self.size.while_reading(*end).total
        choosing = self.chunk.choosing_bytes(num_tokens) if self.compression.eviction else 0
        if self.compression.reads_twice(num_tokens):
            choosing = max(choosing, self.chunk.rereading_bytes(num_tokens))
        return held + max(choosing, self.chunk.coding_bytes(end.num_exact))

    def answering_bytes(self, num_tokens: int) -> int:
        """Most bytes of cache and activations while one token after another is answered."""
        return self.stored_bytes(num_tokens) + self.chunk.decoding_bytes(num_tokens)

    def cache_peak_bytes(self, num_tokens: int) -> int:
        """The largest of the three phases."""
        phases = (self.reading_bytes, self.coding_bytes, self.answering_bytes)
        return max(phase(num_tokens) for phase in phases)

    def needed_bytes(self, num_tokens: int) -> int:
        """All that the device must have free before the model is loaded."""
        return self.context_bytes + self.weight_bytes + self.cache_peak_bytes(num_tokens)

    def tokens_that_fit(self, free_bytes: int) -> int:
        """Most tokens of one text, answer included, for a device with `free_bytes` free.

        Args:
            free_bytes: Free before the model is loaded.

        Returns:
            Tokens, whatever the model was trained for: every shorter text fits too. 0 where not
            even the weights fit.
        """
        fitting, too_many = 0, _LONGEST
        if self.needed_bytes(PAGE_SIZE) > free_bytes:
            return 0
        while too_many - fitting > 1:
            middle = (fitting + too_many) // 2
            if max(map(self.needed_bytes, self._hardest_up_to(middle))) <= free_bytes:
                fitting = middle
            else:
                too_many = middle
        return fitting

    def with_exact_span(self, exact_prefill_tokens: int) -> MemoryPlan:
        """The same plan with another number of tokens that stay exact while a text is read."""
        compression = replace(self.compression, exact_prefill_tokens=exact_prefill_tokens)
        size = replace(self.size, compression=compression)
        return replace(self, compression=compression, size=size)

    def exact_span_that_fits(self, num_tokens: int, free_bytes: int) -> int | None:
        """Most tokens that can stay exact while so long a text is read; halves of the config's.

        What is scored and coded is exact then; a shorter span costs a little of that and makes
        room for a longer text.

        Args:
            num_tokens: Tokens of the text, answer included.
            free_bytes: Free before the model is loaded.

        Returns:
            Tokens, `LEAST_EXACT_SPAN` or more; None where the text does not fit at all.
        """
        span = self.compression.exact_prefill_tokens
        while span >= LEAST_EXACT_SPAN:
            if self.with_exact_span(span).needed_bytes(num_tokens) <= free_bytes:
                return span
            span //= 2
        return None

    def terms(self, num_tokens: int) -> tuple[tuple[str, int], ...]:
        """Every part of `needed_bytes` at the moment of the peak, with its name, in order."""
        phases = {
            "Reading": self.reading_bytes(num_tokens),
            "Choosing and coding": self.coding_bytes(num_tokens),
            "Answering": self.answering_bytes(num_tokens),
        }
        peak = max(phases, key=phases.__getitem__)
        stored = self.stored_bytes(num_tokens)
        return (
            ("Device, before any tensor", self.context_bytes),
            (f"Weights in {self.precision}", self.weight_bytes),
            ("Cache, once the text is read", stored),
            (f"{peak}: exact text, activations, logits", phases[peak] - stored),
        )

    def _moments(self, num_tokens: int) -> tuple[_Moment, _Moment]:
        """The fullest moment of reading, and its end: exact tokens pile up, then all are coded."""
        num_chunks = -(-num_tokens // CHUNK_SIZE)
        num_new = -(-num_tokens // num_chunks)
        limit, left = self.compression.exact_prefill_tokens, self.compression.recent_window
        first, later = limit // num_new + 1, max(0, limit - left) // num_new + 1
        if self.compression.is_off or num_chunks < first:
            return _Moment(0, num_tokens, num_new), _Moment(0, num_tokens, num_new)
        num_rounds = (num_chunks - first) // later
        coded_first, coded_later = first * num_new - left, later * num_new
        fullest = _Moment(0, first * num_new, num_new)
        if num_rounds:
            coded = coded_first + (num_rounds - 1) * coded_later
            fullest = _Moment(coded, coded_later + left, num_new)
        num_coded = min(num_tokens, coded_first + num_rounds * coded_later)
        return fullest, _Moment(num_coded, num_tokens - num_coded, num_new)

    def _hardest_up_to(self, num_tokens: int) -> tuple[int, int]:
        """This length and a shorter one, which ends as exact tokens have piled up the most."""
        num_coded = self._moments(num_tokens)[1].num_coded
        return num_tokens, max(num_coded - CHUNK_SIZE, 1)

    def _forward_at(self, moment: _Moment) -> int:
        return self.size.while_reading(*moment).total + self.chunk.forward_bytes(*moment)


def plan_memory(
    config: PreTrainedConfig,
    compression: CompressionConfig,
    precision: Precision = Precision.BFLOAT16,
    *,
    on_gpu: bool = True,
    weights: WeightCount | None = None,
) -> MemoryPlan:
    """Plan the memory of a model from its config; nothing is loaded.

    Args:
        config: As `AutoConfig.from_pretrained` gives it.
        compression: What happens to keys and values.
        precision: What the weights are to be held in.
        on_gpu: False leaves out what a GPU's driver takes.
        weights: Counted already; None counts them, which takes a second.

    Raises:
        UnsupportedModelError: The model cannot work with a compressed cache.
    """
    shapes = layer_shapes(config)
    weights = weights or count_weights(config)
    return MemoryPlan(
        compression=compression,
        precision=precision,
        num_parameters=weights.num_parameters,
        weight_bytes=weights.num_bytes(precision),
        context_bytes=CUDA_CONTEXT_BYTES if on_gpu else 0,
        size=StoredSize(shapes, compression, precision.value_bytes),
        chunk=chunk_shape(config, shapes, precision.value_bytes, on_gpu=on_gpu),
    )


def as_table(plan: MemoryPlan, num_tokens: int) -> str:
    """The terms of a plan in lines that can be read, the sum last.

    Args:
        plan: The plan.
        num_tokens: Tokens of the text.
    """
    rows = [*plan.terms(num_tokens), ("Sum", plan.needed_bytes(num_tokens))]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {num_bytes / 1e9:8.3f} GB" for name, num_bytes in rows]
    head = f"{num_tokens:,} tokens, {plan.bytes_per_token:,.0f} bytes for each one more"
    return "\n".join([head, *lines])
