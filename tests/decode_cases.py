"""Packed layers as kernels find them on a GPU: keys with a basis a head, turned by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from encode_cases import key_coder, rotary_of
from packed_cases import fill_pages, place_pages

from nexusquant.kernels import PackedView
from nexusquant.kernels.decode_attention import reference
from nexusquant.lattice import E8Quantizer, Pairing

FIRST = 17
"""Position of every head's first vector where none is missing."""


@dataclass(frozen=True, kw_only=True)
class DecodeCase:
    """One layer and one token's queries.

    Args:
        lengths: Vectors of each KV head.
        dim: Values of a vector.
        bits: Of keys and of values; or the values' widths.
        groups: Query heads that share a KV head.
        pairing: How keys turn.
        rotary_dim: Coordinates that turn.
        is_whole: No token is missing.
        softcap: As in `packed_attention`.
    """

    lengths: Sequence[int]
    dim: int = 64
    bits: tuple[float, float | tuple[int, ...]] = (2, 2)
    groups: int = 3
    pairing: Pairing = Pairing.HALVES
    rotary_dim: int = 64
    is_whole: bool = True
    softcap: float | None = None

    def view(self) -> PackedView:
        """The packed part, on the CPU."""
        generator = torch.Generator().manual_seed(sum(self.lengths) + self.dim)
        num_heads, longest = len(self.lengths), max(self.lengths)
        positions = (FIRST + torch.arange(longest)).expand(num_heads, -1)
        if not self.is_whole:
            draws = (torch.randperm(3 * longest, generator=generator) for _ in self.lengths)
            positions = torch.stack([FIRST + d[:longest].sort().values for d in draws])
        key_bits, value_bits = self.bits
        coders = (
            key_coder(num_heads, self.dim, key_bits),
            E8Quantizer.create(self.dim, value_bits, 0, "cpu"),
        )
        table = place_pages(self.lengths, generator)
        pools = []
        for coder in coders:
            codes = []
            for head, length in enumerate(self.lengths):
                vectors = torch.randn(length, self.dim, generator=generator)
                codes.append(_of_head(coder, head).encode(vectors, positions[head, :length]))
            pools.append(fill_pages(codes, table))
        rotary = rotary_of(self.rotary_dim, scaling=1.2)
        first = FIRST if self.is_whole else None
        held = (*pools, table, torch.tensor(self.lengths), positions)
        return PackedView(*held, *coders, rotary, self.pairing, first)

    def query(self) -> torch.Tensor:
        """[H, D], float32."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(len(self.lengths) * self.groups, self.dim, generator=generator)

    def scaling(self, view: PackedView) -> float:
        """A factor that leaves logits of about 1: float16 holds them to a thousandth."""
        keys = reference._rebuild_keys(
            view, view.page_table[:, :1].long(), view.positions[:, :1], view.key_quantizer.decoder
        )
        largest = float(keys[:, :1].norm(dim=-1).max() * self.query().norm(dim=-1).max())
        return self.dim**0.5 / largest / 2


CASES = (
    DecodeCase(lengths=(130, 70)),
    DecodeCase(lengths=(64, 1), is_whole=False, groups=1),
    DecodeCase(lengths=(65, 129), bits=(3, 3), is_whole=False),
    DecodeCase(lengths=(130,), bits=(1, 1.5), groups=16),
    DecodeCase(lengths=(70,), bits=(4, 4), groups=4, softcap=3.0),
    DecodeCase(lengths=(140,), bits=(3.5, (4, 4, 4, 4, 3, 3, 3, 3)), is_whole=False),
    DecodeCase(lengths=(1, 63), dim=80, rotary_dim=40, pairing=Pairing.NEIGHBOURS),
    DecodeCase(lengths=(70, 65), dim=80, bits=(2, 2.5), rotary_dim=80),
    DecodeCase(lengths=(66, 1), dim=72, rotary_dim=72),
    DecodeCase(lengths=(100,), dim=96, rotary_dim=96, groups=5, is_whole=False),
    DecodeCase(lengths=(129,), dim=128, rotary_dim=128, groups=4),
    DecodeCase(lengths=(90, 90), dim=128, rotary_dim=64, pairing=Pairing.NONE),
)
"""Odd lengths, every kind of turning, every size and number of queries a head."""


def _of_head(coder: E8Quantizer, head: int) -> E8Quantizer:
    if coder.basis.dim() == 2:
        return coder
    mean = None if coder.mean is None else coder.mean[head]
    own = (coder.basis[head], coder.column_units[head], coder.gains[head])
    return replace(coder, basis=own[0], column_units=own[1], gains=own[2], mean=mean)
