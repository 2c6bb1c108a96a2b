"""What a model and a text will take of a device's memory, told before anything is loaded.

Knows the phases of a turn and what is alive in each of them. What a cache holds, `cache` knows;
what weights take, `weights`. Works from a config alone.

A text is read in blocks of what may stay exact at once. Three phases compete for the peak: reading
(what earlier blocks left, the last block exact, one chunk's activations), choosing and coding (the
same, scores of the block's pairs, one layer's vectors in float32), and answering (what is stored,
and blocks of it decoded).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from transformers import PreTrainedConfig

from nexusquant.cache import StoredSize, kernel_table_bytes, layer_shapes
from nexusquant.config import PAGE_SIZE, CompressionConfig
from nexusquant.engine.activations import ChunkShape, chunk_shape
from nexusquant.engine.blocks import last_block
from nexusquant.engine.memory import CUDA_CONTEXT_BYTES
from nexusquant.engine.prefill import CHUNK_SIZE, LARGE_CHUNK_SIZE, ReadingSizes
from nexusquant.engine.weights import Precision, WeightCount, count_weights

LEAST_EXACT_SPAN = 1024
"""Shorter blocks would be decided on before a scorer has seen enough of them."""

MOST_BLOCK_BYTES = 2**30
"""Bound on the exact keys and values of one block, where a text takes more than one anyway."""

# What torch's allocator keeps between its tensors, as shares. On an H100 with a cap, the 8B shape
# in 4 bits: where blocks of 2048 tokens found no room, 111 MB (`balanced`), 226 MB (`high`) lay
# idle, and 400 to 500 MB came and went beside what stays; in blocks of 8192, which found it, 500 MB
# beside 1,050: half is enough. Pages stay, but what thins them out leaves gaps: where those of
# every layer grew block by block, to 2.3 GB, 190 MB lay idle in the end and a 32nd was not enough.
_IDLE_OF_PASSING, _IDLE_OF_STORED = 1 / 2, 1 / 16

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
        chunk_size: Tokens of one forward while a text is read.
    """

    compression: CompressionConfig
    precision: Precision
    num_parameters: int
    weight_bytes: int
    context_bytes: int
    size: StoredSize = field(repr=False)
    chunk: ChunkShape = field(repr=False)
    chunk_size: int = CHUNK_SIZE

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

    def block_span(self, num_tokens: int) -> int:
        """Tokens that are exact at once while so long a text is read, if the device has room."""
        span, per_token = self.compression.exact_prefill_tokens, self.size.exact_bytes_per_token
        if num_tokens > span:
            while span // 2 >= LEAST_EXACT_SPAN and span * per_token > MOST_BLOCK_BYTES:
                span //= 2
        return span

    def reading_bytes(self, num_tokens: int) -> int:
        """Most bytes of cache, activations and logits while the text is read."""
        if num_tokens == 0:
            return 0
        end = self._end(num_tokens)
        before = end.num_exact - end.num_new
        if before < self.chunk_size:
            return self._reading_bytes_at(end)
        # a shorter rest may take less than the full chunk before it did
        full = _Moment(end.num_coded, before, self.chunk_size)
        return max(map(self._reading_bytes_at, (end, full)))

    def _reading_bytes_at(self, moment: _Moment) -> int:
        tables = self._table_bytes if moment.num_coded else 0
        held = self.size.while_reading(*moment).total + tables
        return held + self.chunk.forward_bytes(*moment)

    def coding_bytes(self, num_tokens: int) -> int:
        """Most bytes while what stays is chosen and coded; the cache is still as it was read."""
        if self.compression.is_off or num_tokens == 0:
            return 0
        end = self._end(num_tokens)
        parts, block = self.size.while_reading(*end), end.num_exact
        held = parts.total + (self._table_bytes if end.num_coded else 0)
        choosing = self.chunk.choosing_bytes(block) if self.compression.eviction else 0
        if self.compression.reads_twice(num_tokens):
            choosing = max(choosing, self.chunk.rereading_bytes(block, self.chunk_size))
        # of one layer's keys or values, pages as they were beside those with room for more
        growing = parts.codes // (2 * max(1, len(self.size.key_coders)))
        coding = self.chunk.coding_bytes(block, is_thinned=self.compression.eviction is not None)
        return held + max(choosing, growing + coding)

    def answering_bytes(self, num_tokens: int) -> int:
        """Most bytes of cache and activations while one token after another is answered."""
        held = self.stored_bytes(num_tokens) + self._table_bytes
        return held + self.chunk.decoding_bytes(num_tokens)

    def cache_peak_bytes(self, num_tokens: int) -> int:
        """The largest of the three phases."""
        phases = (self.reading_bytes, self.coding_bytes, self.answering_bytes)
        return max(phase(num_tokens) for phase in phases)

    def idle_bytes(self, num_tokens: int) -> int:
        """What torch's allocator keeps between tensors when they take most; 0 on a CPU."""
        return self._idle_beside(self.cache_peak_bytes(num_tokens), num_tokens)

    def needed_bytes(self, num_tokens: int) -> int:
        """All that the device must have free before the model is loaded, to read it as planned.

        With shorter blocks and chunks it takes less; see `sizes_that_fit`.
        """
        peak = self.cache_peak_bytes(num_tokens)
        idle = self._idle_beside(peak, num_tokens)
        return self.context_bytes + self.weight_bytes + peak + idle

    def tokens_that_fit(self, free_bytes: int) -> int:
        """Most tokens of one text, answer included, for a device with `free_bytes` free.

        Args:
            free_bytes: Free before the model is loaded.

        Returns:
            Tokens, whatever the model was trained for, in the shortest blocks and chunks that are
            read: every shorter text fits too. 0 where not even the weights fit.
        """
        fitting, too_many = 0, _LONGEST
        plan = self.in_smallest_sizes()
        if plan.needed_bytes(PAGE_SIZE) > free_bytes:
            return 0
        while too_many - fitting > 1:
            middle = (fitting + too_many) // 2
            if max(map(plan.needed_bytes, plan._hardest_up_to(middle))) <= free_bytes:
                fitting = middle
            else:
                too_many = middle
        return fitting

    def with_sizes(self, exact_span: int, chunk_size: int) -> MemoryPlan:
        """The same plan for a text that is read in other sizes; see `ReadingSizes`."""
        compression = replace(self.compression, exact_prefill_tokens=exact_span)
        size = replace(self.size, compression=compression)
        return replace(self, compression=compression, size=size, chunk_size=chunk_size)

    def in_smallest_sizes(self) -> MemoryPlan:
        """The same plan with the fewest tokens exact at once and in one forward."""
        span = min(LEAST_EXACT_SPAN, self.compression.exact_prefill_tokens)
        return self.with_sizes(span, CHUNK_SIZE)

    def sizes_that_fit(self, num_tokens: int, free_bytes: int) -> ReadingSizes | None:
        """Most tokens that can be exact at once, in halves of the most, then the largest chunks.

        A later block sees earlier ones as they are stored: fewer blocks are a little more exact,
        shorter ones make room for a longer text. Larger chunks are only read faster.

        Args:
            num_tokens: Tokens of the text, answer included.
            free_bytes: Free before the model is loaded.

        Returns:
            Blocks of `LEAST_EXACT_SPAN` tokens or more unless the config says less; None where the
            text does not fit at all.
        """

        def fits(*sizes: int) -> bool:
            return self.with_sizes(*sizes).needed_bytes(num_tokens) <= free_bytes

        span = self.block_span(num_tokens)
        least = self.in_smallest_sizes().compression.exact_prefill_tokens
        while not fits(span, CHUNK_SIZE):
            if span // 2 < least:
                return None
            span //= 2
        is_roomy = fits(span, self.chunk_size)
        return ReadingSizes(span, self.chunk_size if is_roomy else CHUNK_SIZE)

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
            ("Allocator, between tensors", self.idle_bytes(num_tokens)),
        )

    def _idle_beside(self, peak: int, num_tokens: int) -> int:
        if not self.context_bytes:
            return 0
        stored = self.stored_bytes(num_tokens)
        return round(_IDLE_OF_PASSING * (peak - stored) + _IDLE_OF_STORED * stored)

    @cached_property
    def _table_bytes(self) -> int:
        return kernel_table_bytes(self.size) if self.chunk.has_kernels else 0

    def _end(self, num_tokens: int) -> _Moment:
        """The last chunk of the last block: it is exact, and all before it is coded."""
        block_tokens, num_coded = num_tokens, 0
        if not self.compression.is_off:
            left = self.compression.recent_window
            block = last_block(num_tokens, self.block_span(num_tokens), left)
            block_tokens = len(block)
            num_coded = max(0, block.start - left)
        rest = block_tokens % self.chunk_size or self.chunk_size
        return _Moment(num_coded, num_tokens - num_coded, min(rest, block_tokens))

    def _hardest_up_to(self, num_tokens: int) -> tuple[int, int]:
        """This length and a shorter one, of as many full blocks as there can be."""
        span, left = self.block_span(num_tokens), self.compression.recent_window
        if self.compression.is_off or num_tokens <= span:
            return num_tokens, num_tokens
        num_full = (num_tokens - 1) // (span - left)
        return num_tokens, span if num_full == 1 else num_full * (span - left)


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
        chunk=chunk_shape(config, shapes, precision, on_gpu=on_gpu),
        chunk_size=LARGE_CHUNK_SIZE if on_gpu else CHUNK_SIZE,
    )
