"""What one forward needs besides weights and cache: what lives for a moment, in bytes.

Knows how attention, the second reading and coding are written, and names their largest tensors.
Must not know how long anything is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig

from nexusquant.cache import (
    BLOCK_BYTES,
    CODED_AT_ONCE,
    REBUILT_BYTES,
    REREAD_BYTES,
    LayerShape,
    have_kernels,
    needs_masks,
)
from nexusquant.config import PAGE_SIZE
from nexusquant.engine.rereading import LEAD, STRETCH
from nexusquant.engine.weights import Precision

_FLOAT32 = 4
_LARGEST_IN_FLASH = 256
# a pair's score, its copy in one tensor for all layers, the sorted copy, and masks
_BYTES_PER_SCORE = 4 + 4 + 4 + 4
# where each pair of a layer was in the text: three tensors of 64 bits on the way there
_BYTES_PER_POSITION = 3 * 8
# exact vectors, the same bare of their rotation and the products for that, in float32
_COPIES_WHEN_CODING = 4
# what becomes of them goes in smaller slices still
_CODING_SLICE_BYTES = 14 * 2**20


@dataclass(frozen=True)
class ChunkShape:
    """The sizes that decide what a forward needs.

    Args:
        shapes: The kinds of layers that there are.
        num_heads_coded: Heads of keys and values in all layers that can be coded.
        hidden_size: Numbers that describe a token between layers.
        mlp_width: Numbers inside a layer's MLP, over the experts that a token takes.
        vocabulary: Possible tokens.
        value_bytes: Bytes of one number.
        block_bytes: Bound on what attention decodes of pages at a time.
        unpacked_weight_bytes: The largest layer's weights as numbers to compute with, where they
            are held in fewer bits.
        has_kernels: Whether kernels read pages and code vectors: they decode few at a time, or
            none, and make no copies in float32.
        has_flash: Whether attention over exact vectors takes no mask.
    """

    shapes: tuple[LayerShape, ...]
    num_heads_coded: int
    hidden_size: int
    mlp_width: int
    vocabulary: int
    value_bytes: int
    block_bytes: int
    unpacked_weight_bytes: int = 0
    has_kernels: bool = False
    has_flash: bool = False

    def forward_bytes(self, num_coded: int, num_exact: int, num_new: int) -> int:
        """The largest layer's tensors over `num_new` tokens, and the logits of the last one."""
        attention = max(self._attention(s, num_coded, num_exact, num_new) for s in self.shapes)
        return self._forward(attention, num_new)

    def _forward(self, attention: int, num_new: int) -> int:
        # gate, up and their product, or two of them and the weights that make the next
        inner = num_new * self.mlp_width * self.value_bytes
        mlp = max(3 * inner, 2 * inner + self.unpacked_weight_bytes)
        # the residual and its norm; before attention and MLP, the norm in float32
        width = num_new * self.hidden_size
        norm = 2 * width * _FLOAT32
        return 2 * width * self.value_bytes + max(mlp, attention, norm) + self.logits_bytes

    @property
    def logits_bytes(self) -> int:
        """One token's logits, as the model makes them and in float32."""
        return self.vocabulary * (self.value_bytes + _FLOAT32)

    def rereading_bytes(self, num_tokens: int, chunk_size: int) -> int:
        """Stretches read again: a forward over as many as a chunk has; a score for every pair."""
        stretch = min(num_tokens, STRETCH + LEAD)
        at_once = max(1, min(num_tokens, chunk_size) // STRETCH)
        attention = max(self._reread_attention(shape, stretch, at_once) for shape in self.shapes)
        return self._forward(attention, at_once * stretch) + _FLOAT32 * self._pairs(num_tokens)

    def choosing_bytes(self, num_tokens: int) -> int:
        """The scores of all pairs while the best of them are found."""
        return _BYTES_PER_SCORE * self._pairs(num_tokens)

    def coding_bytes(self, num_exact: int, *, is_thinned: bool) -> int:
        """One layer's exact vectors on their way into pages; beside those that go, copies."""
        largest = num_exact * max(shape.num_kv_heads * shape.head_dim for shape in self.shapes)
        copies = 2 * largest * self.value_bytes * is_thinned
        if self.has_kernels:
            heads = max(shape.num_kv_heads for shape in self.shapes)
            return copies + num_exact * heads * _BYTES_PER_POSITION
        in_float32 = min(largest, CODED_AT_ONCE) * _FLOAT32 * _COPIES_WHEN_CODING
        return copies + max(in_float32, _CODING_SLICE_BYTES)

    def decoding_bytes(self, num_tokens: int) -> int:
        """One token's forward: without kernels, blocks of pages are decoded, up to a bound."""
        block = max(self._block(shape, num_tokens, 1) for shape in self.shapes)
        block = 0 if self.has_kernels else block
        heads = max(shape.num_kv_heads for shape in self.shapes)
        return block + num_tokens * heads * _BYTES_PER_POSITION + self.forward_bytes(0, 1, 1)

    def _attention(self, shape: LayerShape, num_coded: int, num_exact: int, num_new: int) -> int:
        if shape.sliding_window is not None:
            num_coded, num_exact = 0, min(num_exact, shape.sliding_window + num_new)
        one_head = 2 * num_exact * shape.head_dim * self.value_bytes
        query = num_new * shape.num_heads * shape.head_dim * self.value_bytes
        # the layer's vectors joined to new ones, before they are attended to
        joining = shape.num_kv_heads * one_head
        if num_coded:
            positions = num_coded * shape.num_kv_heads * _BYTES_PER_POSITION
            packed = self._packed_attention(shape, num_coded, num_exact, num_new)
            return 3 * query + max(joining, positions, packed)
        if self.has_flash and shape.sliding_window is None:
            # what comes out of each of two parts, and of both
            return 5 * query
        mask = num_new * num_exact * (1 + self.value_bytes)
        # heads of queries that share keys get copies of them where there is a mask
        is_shared = shape.num_heads != shape.num_kv_heads
        # the queries, their rotation and what comes out
        return 3 * query + max(joining, mask + is_shared * shape.num_heads * one_head)

    def _packed_attention(
        self, shape: LayerShape, num_coded: int, num_exact: int, num_new: int
    ) -> int:
        numbers = num_exact * shape.num_kv_heads * shape.head_dim
        # the layer's vectors joined to sinks, whose keys are float32
        joined = numbers * (_FLOAT32 + self.value_bytes)
        # queries and their weighted sums, in float32
        rows = 2 * num_new * shape.num_heads * shape.head_dim * _FLOAT32
        if self.has_kernels:
            # keys once more in 16 bits
            joined += numbers * self.value_bytes
            of_token = 2 * shape.num_kv_heads * shape.head_dim * self.value_bytes
            return rows + joined + min(num_coded * of_token, REBUILT_BYTES)
        return rows + joined + self._block(shape, max(num_coded, num_exact), num_new)

    def _reread_attention(self, shape: LayerShape, num_new: int, num_texts: int) -> int:
        """Of one layer, in float32: queries, keys and values, products and their softmax."""
        of_head = 2 * _FLOAT32 * num_new * 2 * num_new * (shape.num_heads // shape.num_kv_heads)
        at_once = min(num_texts * shape.num_kv_heads, max(1, REREAD_BYTES // of_head))
        # queries and what comes out; keys and values of the stretch and of the tokens themselves
        query = num_new * shape.num_heads * shape.head_dim
        own = num_new * shape.num_kv_heads * shape.head_dim * 2
        share = at_once / shape.num_kv_heads
        wide = round(share * (2 * query + 2 * own)) * _FLOAT32
        return at_once * of_head + wide + num_texts * (3 * query + 2 * own) * self.value_bytes

    def _block(self, shape: LayerShape, num_tokens: int, num_new: int) -> int:
        """A block of decoded pages: keys, values, and every query's logits, raised and weights."""
        rows = shape.num_heads // shape.num_kv_heads * num_new
        numbers = _FLOAT32 * shape.num_kv_heads
        most = max(PAGE_SIZE, self.block_bytes // (numbers * (4 * shape.head_dim + 2 * rows)))
        return min(num_tokens, most) * numbers * (2 * shape.head_dim + 3 * rows)

    def _pairs(self, num_tokens: int) -> int:
        return num_tokens * self.num_heads_coded


def chunk_shape(
    config: PreTrainedConfig, shapes: Sequence[LayerShape], precision: Precision, *, on_gpu: bool
) -> ChunkShape:
    """Read the sizes off a config.

    Args:
        config: Of the model.
        shapes: Its layers.
        precision: What the weights are held in.
        on_gpu: Whether a GPU does it.
    """
    config = config.get_text_config(decoder=True)
    width, value_bytes = _mlp_width(config), precision.value_bytes
    # prompts of a model that squashes logits are left to torch
    is_capped = bool(getattr(config, "attn_logit_softcapping", None))
    largest = max(shape.head_dim for shape in shapes)
    return ChunkShape(
        tuple(set(shapes)),
        sum(shape.num_kv_heads for shape in shapes if shape.can_be_coded),
        config.hidden_size,
        width,
        config.vocab_size,
        value_bytes,
        BLOCK_BYTES["cuda" if on_gpu else "cpu"],
        width * config.hidden_size * value_bytes * precision.is_quantized,
        has_kernels=on_gpu and not is_capped and have_kernels(shapes, value_bytes),
        has_flash=on_gpu
        and not is_capped
        and value_bytes == 2
        and largest <= _LARGEST_IN_FLASH
        and not needs_masks(),
    )


def _mlp_width(config: PreTrainedConfig) -> int:
    def of(name: str) -> int:
        width = getattr(config, name, None)
        return width if isinstance(width, int) else 0

    width = of("intermediate_size") or of("n_inner") or 4 * config.hidden_size
    experts = of("num_experts_per_tok")
    if not experts:
        return width
    routed = experts * (of("moe_intermediate_size") or width)
    return max(width, routed + of("shared_expert_intermediate_size"))
