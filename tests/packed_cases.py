"""Packed layers to try attention on, with what their codes mean. Knows the layout of pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from nexusquant.config import PAGE_SIZE
from nexusquant.kernels import PackedView
from nexusquant.lattice import E8Quantizer, PackedVectors

POISON = 0xFF
"""Fills every slot that holds no vector: the largest scale there is, so that a leak is seen."""


class Case(NamedTuple):
    """A packed layer, what each head's codes decode to, and exact vectors: past, then queries'."""

    view: PackedView
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    query: torch.Tensor
    exact_keys: torch.Tensor
    exact_values: torch.Tensor


def make_case(
    lengths: Sequence[int],
    *,
    groups: int = 2,
    q_len: int = 1,
    dim: int = 16,
    bits: tuple[int, int] = (2, 2),
    has_mean: bool = False,
    num_exact: int = 9,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Random vectors, `lengths[h]` of them coded for KV head h, `num_exact` of them not."""
    generator = torch.Generator().manual_seed(sum(lengths) + dim + q_len)
    num_heads = len(lengths)

    def gaussian(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    coders = [E8Quantizer.create(dim, width, seed, "cpu") for seed, width in enumerate(bits)]
    if has_mean:
        coders[0] = replace(coders[0], mean=3 * gaussian(num_heads, 1, dim))
    pools, decoded = [], []
    table = place_pages(lengths, generator)
    for coder in coders:
        heads = [_of_head(coder, head) for head in range(num_heads)]
        codes = [
            head.encode(gaussian(n, dim), torch.arange(n))
            for head, n in zip(heads, lengths, strict=True)
        ]
        decoded.append(
            [
                head.decode(packed, torch.float32, torch.arange(n))
                for head, packed, n in zip(heads, codes, lengths, strict=True)
            ]
        )
        pools.append(fill_pages(codes, table))
    query = gaussian(num_heads * groups, q_len, dim).to(dtype)
    exact = [gaussian(num_heads, max(num_exact, q_len), dim).to(dtype) for _ in coders]
    positions = torch.arange(max(lengths)).expand(num_heads, -1)
    view = PackedView(*pools, table, torch.tensor(lengths), positions, *coders)
    return Case(view, *decoded, query, *exact)


def place_pages(lengths: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """A page table in no order, with unowned pages in the pool and unused columns."""
    counts = [-(-length // PAGE_SIZE) for length in lengths]
    pages = torch.randperm(sum(counts) + 2, generator=generator, dtype=torch.int32)
    table = torch.full((len(lengths), max(counts) + 1), -1, dtype=torch.int32)
    for head, count in enumerate(counts):
        table[head, :count] = pages[sum(counts[:head]) :][:count]
    return table


def fill_pages(codes: Sequence[PackedVectors], table: torch.Tensor) -> PackedVectors:
    """Each head's vectors in its pages, poison everywhere else."""
    num_pages = int((table >= 0).sum()) + 2
    shape = (num_pages, PAGE_SIZE, codes[0].codes.shape[-1])
    pool = PackedVectors(
        torch.full(shape, POISON, dtype=torch.uint8),
        torch.full(shape[:2], POISON, dtype=torch.uint8),
    )
    for head, packed in enumerate(codes):
        for first in range(0, packed.scales.shape[0], PAGE_SIZE):
            page, part = int(table[head, first // PAGE_SIZE]), slice(first, first + PAGE_SIZE)
            count = packed.scales[part].shape[0]
            pool.codes[page, :count] = packed.codes[part]
            pool.scales[page, :count] = packed.scales[part]
    return pool


def _of_head(coder: E8Quantizer, head: int) -> E8Quantizer:
    return coder if coder.mean is None else replace(coder, mean=coder.mean[head])
