"""Packed keys and values of one layer: a pool of fixed-size pages and a page table per KV head.

Knows codes as bytes. Must not know what they mean, which token they were, or why one goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from nexusquant.config import PAGE_SIZE
from nexusquant.lattice import PackedVectors

ROOM_MARGIN = 33 / 32
"""Room for what is to come, beside what a layer would need that went on as it began: layers share
one budget, and some keep a little more of later blocks of a text than of the first."""


class PackedPages:
    """Append-only storage of packed vectors, with a length of its own for every KV head.

    Args:
        num_kv_heads: Heads, each with its own list of pages.
        key_bytes: Bytes of one packed key, its scale not counted.
        value_bytes: Bytes of one packed value, its scale not counted.
        device: Where the pages live.
    """

    def __init__(
        self, num_kv_heads: int, key_bytes: int, value_bytes: int, device: torch.device
    ) -> None:
        self.lengths = [0] * num_kv_heads
        self.page_table = torch.zeros((num_kv_heads, 0), dtype=torch.int32, device=device)
        self.keys = _empty_pool(key_bytes, device)
        self.values = _empty_pool(value_bytes, device)

    @property
    def pools(self) -> tuple[PackedVectors, PackedVectors]:
        """Storage of keys and of values."""
        return self.keys, self.values

    @property
    def num_vectors(self) -> int:
        """Keys (or values) held, over all heads."""
        return sum(self.lengths)

    def append(
        self, keys: PackedVectors, values: PackedVectors, kept: torch.Tensor | None = None
    ) -> None:
        """Add vectors to the end of every head.

        Args:
            keys: Codes [H_kv, N, key_bytes] and scales [H_kv, N], uint8.
            values: The same for values.
            kept: Which vectors to take. [H_kv, N], bool; None takes all.
        """
        with self.slots_for(keys.scales.shape[1], kept) as slots:
            _write(self.keys, slots, keys)
            _write(self.values, slots, values)

    @contextmanager
    def slots_for(self, num_new: int, kept: torch.Tensor | None = None) -> Iterator[torch.Tensor]:
        """Make room at the end of every head; what is written there counts when the block ends.

        Args:
            num_new: Vectors of each head, N.
            kept: Which vectors to take. [H_kv, N], bool; None takes all.

        Yields:
            The place of each vector, counted over all pages; -1 for those not taken. [H_kv, N],
            int64.
        """
        device, num_kv_heads = self.page_table.device, len(self.lengths)
        # the device is asked only where the answer is not known
        counts = [num_new] * num_kv_heads if kept is None else kept.sum(dim=1).tolist()
        lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        self._reserve(lengths)
        starts = on_device(self.lengths, device)[:, None]
        if kept is None:
            yield self.slots_of(starts + torch.arange(num_new, device=device))
        else:
            # one that is not taken gets the index of the one before it, if there is any
            index = (starts + kept.cumsum(dim=1) - 1).clamp(min=0)
            slots = self.slots_of(index) if any(lengths) else index
            yield slots.masked_fill(~kept, -1)
        self.lengths = lengths

    def reserve(self, num_vectors: int) -> None:
        """Give every head the pages of so many vectors to come: until then none moves."""
        self._reserve([length + num_vectors for length in self.lengths])

    def make_room(self, num_vectors: int) -> None:
        """Hold pages that no head has yet, so that what comes grows nothing.

        Growing a little again and again leaves gaps in a GPU's memory that nothing fits into.

        Args:
            num_vectors: To come, over all heads; looked at when no such page is left. 0 gives back
                those that are.
        """
        num_owned, num_heads = sum(_owned_pages(self.page_table)), len(self.lengths)
        num_spare = self.keys.scales.shape[0] - num_owned
        # the last page of every head is a part of one; after a truncation heads own more than that
        num_lacking = pages_for(self.num_vectors + num_vectors) + num_heads - num_owned
        if num_vectors and not num_spare and num_lacking > 0:
            self.keys = _grow(self.keys, num_lacking)
            self.values = _grow(self.values, num_lacking)
        elif num_spare and not num_vectors:
            self.keys = _first_pages(self.keys, num_owned)
            self.values = _first_pages(self.values, num_owned)

    def count(self, num_vectors: int) -> None:
        """Hold vectors that were written to places of pages in reserve; the same in every head."""
        self.lengths = [length + num_vectors for length in self.lengths]

    def read(self, starts: Sequence[int], num_vectors: int) -> tuple[PackedVectors, PackedVectors]:
        """Copy out `num_vectors` keys and values of each head from its index in `starts` on."""
        device = self.page_table.device
        index = on_device(starts, device)[:, None] + torch.arange(num_vectors, device=device)
        slots = self.slots_of(index)
        return _take(self.keys, slots), _take(self.values, slots)

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget what each head holds past its length; the pages stay for later use."""
        self.lengths = list(lengths)

    def keep(self, num_newest: int, kept: torch.Tensor) -> None:
        """Let go of some of every head's newest vectors, and give back the pages they held.

        Args:
            num_newest: How many to choose from, N.
            kept: Which of them stay. [H_kv, N], bool.
        """
        starts = [length - num_newest for length in self.lengths]
        vectors = self.read(starts, num_newest)
        self.truncate(starts)
        self.append(*vectors, kept)
        self.compact()

    def shrink(self) -> None:
        """Give back pages that no head needs, if there are any."""
        if self.keys.scales.shape[0] > sum(map(pages_for, self.lengths)):
            self.compact()

    def compact(self) -> None:
        """Give back pages that no head needs and clear free slots, in one copy of the rest."""
        counts = [pages_for(length) for length in self.lengths]
        shape, device = (len(counts), max(counts)), self.page_table.device
        rows = [self.page_table[head, :count] for head, count in enumerate(counts)]
        order = torch.cat(rows).long()
        slots = torch.arange(shape[1] * PAGE_SIZE, device=device).view(-1, PAGE_SIZE)
        is_free = torch.cat(
            [slots[:count] >= length for count, length in zip(counts, self.lengths, strict=True)]
        )
        self.keys = _reorder(self.keys, order, is_free)
        self.values = _reorder(self.values, order, is_free)
        table = torch.full(shape, -1, dtype=torch.int32, device=device)
        first = 0
        for head, count in enumerate(counts):
            table[head, :count] = torch.arange(
                first, first + count, dtype=torch.int32, device=device
            )
            first += count
        self.page_table = table

    def load(
        self,
        keys: PackedVectors,
        values: PackedVectors,
        page_table: torch.Tensor,
        lengths: Sequence[int],
    ) -> None:
        """Take over pages from a file, which may say anything.

        Args:
            keys: Codes [P, page_size, key_bytes] and scales [P, page_size], uint8.
            values: The same for values.
            page_table: Pages of each head. [H_kv, M], int32; -1 after the last.
            lengths: Vectors of each head.

        Raises:
            ValueError: Something does not fit; nothing was taken over.
        """
        num_pages = keys.scales.shape[0]
        for pool, own in ((keys, self.keys), (values, self.values)):
            expected = (num_pages, *own.codes.shape[1:])
            if pool.codes.shape != expected or pool.scales.shape != expected[:2]:
                raise ValueError("its pages have the wrong shape")
            if pool.codes.dtype != torch.uint8 or pool.scales.dtype != torch.uint8:
                raise ValueError("its pages are not bytes")
        _check_table(page_table, num_pages, len(self.lengths))
        owned = _owned_pages(page_table)
        if len(lengths) != len(owned) or any(n < 0 for n in lengths):
            raise ValueError("its lengths are not one for each head")
        if any(pages_for(n) > have for n, have in zip(lengths, owned, strict=True)):
            raise ValueError("its page table is too short")
        self.keys, self.values = keys, values
        self.page_table, self.lengths = page_table, list(lengths)

    def slots_of(self, index: torch.Tensor) -> torch.Tensor:
        """Places of each head's vectors by their indices. [H_kv, N]."""
        page = self.page_table.long().gather(1, index // PAGE_SIZE)
        return page * PAGE_SIZE + index % PAGE_SIZE

    def _reserve(self, lengths: Sequence[int]) -> None:
        """Give every head the pages that `lengths` vectors need, in one growth of the pool."""
        wanted = [pages_for(length) for length in lengths]
        owned = _owned_pages(self.page_table)
        missing = [max(0, want - have) for want, have in zip(wanted, owned, strict=True)]
        if not any(missing):
            return
        first_new = sum(owned)
        num_lacking = first_new + sum(missing) - self.keys.scales.shape[0]
        if num_lacking > 0:
            # one after the other: of the larger pool, the old one is there too
            self.keys = _grow(self.keys, num_lacking)
            self.values = _grow(self.values, num_lacking)
        width = max(*wanted, self.page_table.shape[1])
        table = torch.nn.functional.pad(
            self.page_table, (0, width - self.page_table.shape[1]), value=-1
        )
        for head, (have, count) in enumerate(zip(owned, missing, strict=True)):
            new = torch.arange(first_new, first_new + count, dtype=torch.int32, device=table.device)
            table[head, have : have + count] = new
            first_new += count
        self.page_table = table


def _owned_pages(page_table: torch.Tensor) -> list[int]:
    # unowned entries of the table are -1; heads own pages from the left without gaps
    return (page_table >= 0).sum(dim=1).tolist()


def _check_table(page_table: torch.Tensor, num_pages: int, num_kv_heads: int) -> None:
    if page_table.dtype != torch.int32 or page_table.shape != (num_kv_heads, page_table[0].numel()):
        raise ValueError("its page table has the wrong shape")
    is_owned = page_table >= 0
    pages = page_table[is_owned]
    if pages.numel() and int(pages.max()) >= num_pages:
        raise ValueError("its page table points past its pages")
    if pages.unique().numel() != pages.numel() or bool((is_owned[:, 1:] & ~is_owned[:, :-1]).any()):
        raise ValueError("its page table gives a page to two heads, or leaves a gap")


def on_device(numbers: Sequence[int], device: torch.device) -> torch.Tensor:
    """Numbers as a tensor, int64. Nobody waits for what a GPU is still doing."""
    return torch.tensor(list(numbers), pin_memory=device.type == "cuda").to(
        device, non_blocking=True
    )


def pages_for(num_vectors: int) -> int:
    """Pages that hold so many vectors of one head."""
    return -(-num_vectors // PAGE_SIZE)


# pages are written in place for as long as the cache lives, so they must not be tensors of one
# inference-mode block
@torch.inference_mode(False)
def _empty_pool(num_bytes: int, device: torch.device) -> PackedVectors:
    codes = torch.empty((0, PAGE_SIZE, num_bytes), dtype=torch.uint8, device=device)
    return PackedVectors(codes, codes.new_empty((0, PAGE_SIZE)))


@torch.inference_mode(False)
def _grow(pool: PackedVectors, num_pages: int) -> PackedVectors:
    # zeros: pages are saved to disk whole, and memory of other programs must not get there
    codes = pool.codes.new_zeros((num_pages, *pool.codes.shape[1:]))
    scales = pool.scales.new_zeros((num_pages, PAGE_SIZE))
    return PackedVectors(torch.cat([pool.codes, codes]), torch.cat([pool.scales, scales]))


@torch.inference_mode(False)
def _first_pages(pool: PackedVectors, count: int) -> PackedVectors:
    return PackedVectors(pool.codes[:count].clone(), pool.scales[:count].clone())


@torch.inference_mode(False)
def _reorder(pool: PackedVectors, order: torch.Tensor, is_free: torch.Tensor) -> PackedVectors:
    codes = pool.codes[order].masked_fill_(is_free.unsqueeze(-1), 0)
    return PackedVectors(codes, pool.scales[order].masked_fill_(is_free, 0))


def _write(pool: PackedVectors, slots: torch.Tensor, vectors: PackedVectors) -> None:
    is_taken = slots >= 0
    pool.codes.flatten(0, 1)[slots[is_taken]] = vectors.codes[is_taken]
    pool.scales.flatten(0, 1)[slots[is_taken]] = vectors.scales[is_taken]


def _take(pool: PackedVectors, slots: torch.Tensor) -> PackedVectors:
    return PackedVectors(pool.codes.flatten(0, 1)[slots], pool.scales.flatten(0, 1)[slots])
