"""Attention over packed pages and exact vectors in one softmax."""

from nexusquant.kernels.decode_attention.reference import PackedView, packed_attention

__all__ = ["PackedView", "packed_attention"]
