"""What kernels need beside a cache, told from its sizes: no GPU is asked.

Knows which vectors kernels read from pages and what they keep of a coder. Must not know texts.
"""

from __future__ import annotations

from collections.abc import Iterable

from nexusquant.cache.stored_size import LayerShape, StoredSize
from nexusquant.kernels.decode_attention import LARGEST_DIM
from nexusquant.kernels.prefill_attention import WORKSPACE_BYTES
from nexusquant.kernels.tiles.coder_tables import table_bytes

REBUILT_BYTES = WORKSPACE_BYTES
"""Bound on the packed vectors that are rebuilt at a time for a prompt's queries."""


def have_kernels(shapes: Iterable[LayerShape], value_bytes: int) -> bool:
    """Whether a GPU reads pages by kernels, if it is not too old for them.

    Args:
        shapes: The layers.
        value_bytes: Of a query's number.
    """
    coded = [shape for shape in shapes if shape.can_be_coded]
    return value_bytes == 2 and all(shape.head_dim <= LARGEST_DIM for shape in coded)


def kernel_table_bytes(size: StoredSize) -> int:
    """What kernels keep of the coders of all layers, as long as the cache lives."""
    return sum(
        table_bytes(coder.widths, shape.num_kv_heads)
        for shape, coder in size.key_coders
        if shape.head_dim <= LARGEST_DIM
    )
