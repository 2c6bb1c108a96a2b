"""The layers of one model over several cards, so that the longest text fits; told from its config.

Knows the memory plan of one card, and gives every card the plan of its own layers. Must not know
how weights get there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from transformers import PreTrainedConfig

from nexusquant.cache import LayerShape, StoredSize, layer_shapes
from nexusquant.config import PAGE_SIZE, CompressionConfig
from nexusquant.engine.activations import chunk_shape
from nexusquant.engine.memory_plan import MemoryPlan, plan_memory
from nexusquant.engine.weights import Precision, WeightCount, WeightParts

_LONGEST = 2**24


@dataclass(frozen=True)
class Split:
    """Which layers each card holds.

    Args:
        num_tokens: Most tokens of one text that fit beside the weights, answer included.
        layers: Layers of each card, in order; a card may have none.
        waiting: The last layers, where no card has room for their weights: they wait in the
            computer's memory, and are computed on the first card.
    """

    num_tokens: int
    layers: tuple[range, ...]
    waiting: range = range(0)


@dataclass(frozen=True)
class SplitPlan:
    """The memory of one model over several cards.

    Args:
        config: Of the model.
        compression: What happens to keys and values.
        precision: What weights are held in.
        parts: The weights.
        free_bytes: Free on each card before the model is loaded.
    """

    config: PreTrainedConfig
    compression: CompressionConfig
    precision: Precision
    parts: WeightParts
    free_bytes: tuple[int, ...]

    def best(self) -> Split | None:
        """The split with room for the longest text; None where not even the weights fit."""
        fitting, too_many = PAGE_SIZE, _LONGEST
        layers = self._fill(fitting)
        while layers is not None and too_many - fitting > PAGE_SIZE:
            middle = (fitting + too_many) // 2
            filled = self._fill(middle)
            if filled is None:
                too_many = middle
            else:
                fitting, layers = middle, filled
        return None if layers is None else Split(fitting, layers)

    def with_waiting(self, num_tokens: int) -> Split | None:
        """As many layers on the cards as leave room for a text; the others wait outside.

        Args:
            num_tokens: Of the text, answer included.

        Returns:
            None where the first card has no room for what every layer needs of it.
        """
        num_layers = len(self.parts.layers)
        for num_held in range(num_layers, -1, -1):
            layers = self._fill(num_tokens, range(num_held, num_layers))
            if layers is not None:
                return Split(num_tokens, layers, range(num_held, num_layers))
        return None

    def needed_bytes(
        self, card: int, layers: range, num_tokens: int, waiting: range = range(0)
    ) -> int:
        """What a card must have free for its layers, and for those that wait outside.

        Args:
            card: Its number; the first one also chooses what is evicted, of all layers.
            layers: Those whose weights it holds.
            num_tokens: Of the text, answer included.
            waiting: Layers that are computed on it, with their weights elsewhere.
        """
        return self.plan_of(card, layers, waiting).needed_bytes(num_tokens)

    def plan_of(self, card: int, layers: range, waiting: range = range(0)) -> MemoryPlan:
        """The memory of one card; see `needed_bytes`."""
        key = (card, layers, waiting)
        if key not in self._plans:
            self._plans[key] = self._make_plan(*key)
        return self._plans[key]

    def _fill(self, num_tokens: int, waiting: range = range(0)) -> tuple[range, ...] | None:
        """Give each card in turn as many layers as it has room for; None where some are left."""
        num_held = len(self.parts.layers) - len(waiting)
        layers, first = [], 0
        for card, free in enumerate(self.free_bytes):
            outside = waiting if card == 0 else range(0)
            fitting, too_many = first - 1, num_held + 1
            while too_many - fitting > 1:
                end = (fitting + too_many) // 2
                if self.needed_bytes(card, range(first, end), num_tokens, outside) <= free:
                    fitting = end
                else:
                    too_many = end
            if fitting < first and card == 0:
                return None
            layers.append(range(first, max(fitting, first)))
            first = layers[-1].stop
        return tuple(layers) if first == num_held else None

    def _make_plan(self, card: int, layers: range, waiting: range) -> MemoryPlan:
        parts, precision, whole = self.parts, self.precision, self._whole
        shapes = [self._shapes[i] for i in (*layers, *waiting)]
        counts = [parts.num_layers[i] for i in layers]
        # the last layer's card makes the logits
        if layers.stop == len(parts.layers) - len(waiting):
            counts.append(parts.num_after)
        if card == 0:
            counts.append(parts.num_before)
        if waiting:
            counts.append(max((parts.num_layers[i] for i in waiting), key=_num_parameters))
        kinds = shapes or self._shapes
        chunk = chunk_shape(self.config, kinds, precision, on_gpu=True)
        if card == 0:
            chunk = replace(chunk, num_heads_coded=whole.chunk.num_heads_coded)
        return replace(
            whole,
            weight_bytes=sum(count.num_bytes(precision) for count in counts),
            size=StoredSize(tuple(shapes), self.compression, precision.value_bytes),
            chunk=chunk,
        )

    @cached_property
    def _plans(self) -> dict[tuple[int, range, range], MemoryPlan]:
        return {}

    @cached_property
    def _shapes(self) -> tuple[LayerShape, ...]:
        return layer_shapes(self.config)

    @cached_property
    def _whole(self) -> MemoryPlan:
        total = self.parts.total
        return plan_memory(self.config, self.compression, self.precision, weights=total)


def _num_parameters(count: WeightCount) -> int:
    return count.num_parameters
