from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from nexusquant.cache.pages import PackedPages
from nexusquant.config import PAGE_SIZE
from nexusquant.lattice import PackedVectors

CPU = torch.device("cpu")
KEY_BYTES, VALUE_BYTES = 3, 2


def random_vectors(num_heads, count, num_bytes, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (num_heads, count, num_bytes + 1)
    both = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return PackedVectors(both[..., :-1].contiguous(), both[..., -1].contiguous())


def as_lists(vectors):
    """One list a head of (code bytes, scale)."""
    return [
        list(zip(map(tuple, codes.tolist()), scales.tolist(), strict=True))
        for codes, scales in zip(vectors.codes, vectors.scales, strict=True)
    ]


def read_head(pages, pool, head):
    """What `head` holds, found by following its page table alone."""
    slots = [
        (int(pages.page_table[head, index // PAGE_SIZE]), index % PAGE_SIZE)
        for index in range(pages.lengths[head])
    ]
    return [(tuple(pool.codes[slot].tolist()), int(pool.scales[slot])) for slot in slots]


class PagesAgainstLists(RuleBasedStateMachine):
    """Any order of operations leaves every head with the vectors that plain lists would have."""

    @initialize(num_heads=st.integers(1, 3))
    def start(self, num_heads):
        self.num_heads = num_heads
        self.pages = PackedPages(num_heads, KEY_BYTES, VALUE_BYTES, CPU)
        self.keys = [[] for _ in range(num_heads)]
        self.values = [[] for _ in range(num_heads)]

    @rule(
        count=st.sampled_from([0, 1, 5, 63, 64, 65, 130]),
        seed=st.integers(0, 99),
        share=st.sampled_from([None, 0.0, 0.3, 0.9]),
    )
    def append(self, count, seed, share):
        keys = random_vectors(self.num_heads, count, KEY_BYTES, seed)
        values = random_vectors(self.num_heads, count, VALUE_BYTES, seed + 100)
        kept = None
        if share is not None:
            generator = torch.Generator().manual_seed(seed)
            kept = torch.rand(self.num_heads, count, generator=generator) < share
        self.pages.append(keys, values, kept)
        for held, new in ((self.keys, as_lists(keys)), (self.values, as_lists(values))):
            for head in range(self.num_heads):
                mask = [True] * count if kept is None else kept[head].tolist()
                held[head] += [item for item, stays in zip(new[head], mask, strict=True) if stays]

    @rule(share=st.floats(0, 1))
    def truncate(self, share):
        lengths = [int(len(held) * share) for held in self.keys]
        self.pages.truncate(lengths)
        self.keys = [held[:length] for held, length in zip(self.keys, lengths, strict=True)]
        self.values = [held[:length] for held, length in zip(self.values, lengths, strict=True)]

    @rule(num_vectors=st.integers(0, 500))
    def make_room(self, num_vectors):
        self.pages.make_room(num_vectors)

    @rule()
    def compact(self):
        self.pages.compact()
        needed = sum(-(-len(held) // PAGE_SIZE) for held in self.keys)
        for pool in (self.pages.keys, self.pages.values):
            assert pool.codes.shape[0] == pool.scales.shape[0] == needed
            # slots without a vector are cleared
            total = sum(
                scale
                for head in range(self.num_heads)
                for _, scale in read_head(self.pages, pool, head)
            )
            assert int(pool.scales.sum()) == total

    @rule(share=st.floats(0, 1))
    def read(self, share):
        count = int(min(map(len, self.keys)) * share)
        starts = [len(held) - count for held in self.keys]
        keys, values = self.pages.read(starts, count)
        assert as_lists(keys) == [held[len(held) - count :] for held in self.keys]
        assert as_lists(values) == [held[len(held) - count :] for held in self.values]

    @invariant()
    def every_head_holds_its_vectors(self):
        assert self.pages.lengths == [len(held) for held in self.keys]
        assert self.pages.num_vectors == sum(map(len, self.keys))
        for head in range(self.num_heads):
            assert read_head(self.pages, self.pages.keys, head) == self.keys[head]
            assert read_head(self.pages, self.pages.values, head) == self.values[head]

    @invariant()
    def no_page_has_two_owners(self):
        owned = self.pages.page_table[self.pages.page_table >= 0].tolist()
        assert sorted(owned) == list(range(len(owned)))
        assert len(owned) <= self.pages.keys.scales.shape[0] == self.pages.values.scales.shape[0]


TestPagesAgainstLists = PagesAgainstLists.TestCase
TestPagesAgainstLists.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)


def test_slots_never_written_are_zero():
    pages = PackedPages(2, KEY_BYTES, VALUE_BYTES, CPU)
    pages.append(random_vectors(2, 5, KEY_BYTES, 0), random_vectors(2, 5, VALUE_BYTES, 1))
    assert not pages.keys.codes[:, 5:].any()
    assert not pages.values.scales[:, 5:].any()


def test_pages_freed_by_truncation_are_used_again():
    pages = PackedPages(2, KEY_BYTES, VALUE_BYTES, CPU)
    vectors = random_vectors(2, 200, KEY_BYTES, 0), random_vectors(2, 200, VALUE_BYTES, 1)
    pages.append(*vectors)
    num_pages = pages.keys.scales.shape[0]
    for _ in range(3):
        pages.truncate([0, 0])
        pages.append(*vectors)
    assert pages.keys.scales.shape[0] == num_pages == 8


def test_in_room_that_was_made_nothing_grows_and_the_rest_of_it_is_given_back():
    pages = PackedPages(2, KEY_BYTES, VALUE_BYTES, CPU)
    vectors = random_vectors(2, 100, KEY_BYTES, 0), random_vectors(2, 100, VALUE_BYTES, 1)
    pages.append(*vectors)
    pages.make_room(200)
    pool = pages.keys.codes
    # 400 in seven pages, and a part of one for every head
    assert pool.shape[0] == 7 + 2
    pages.append(*vectors)
    pages.make_room(50)
    assert pages.keys.codes is pool
    pages.make_room(0)
    assert pages.keys.codes.shape[0] == pages.values.scales.shape[0] == 8
    held = as_lists(vectors[0])
    assert [read_head(pages, pages.keys, head) for head in (0, 1)] == [2 * one for one in held]


def test_pages_that_heads_own_already_are_room_enough():
    pages = PackedPages(2, KEY_BYTES, VALUE_BYTES, CPU)
    vectors = random_vectors(2, 1000, KEY_BYTES, 0), random_vectors(2, 1000, VALUE_BYTES, 1)
    pages.append(*vectors)
    num_pages = pages.keys.scales.shape[0]
    pages.truncate([0, 0])
    pages.make_room(1)
    assert pages.keys.scales.shape[0] == pages.values.scales.shape[0] == num_pages


@pytest.mark.parametrize("count", [1, 64, 65])
def test_appending_leaves_older_slots_byte_for_byte(count):
    pages = PackedPages(2, KEY_BYTES, VALUE_BYTES, CPU)
    pages.append(random_vectors(2, 70, KEY_BYTES, 0), random_vectors(2, 70, VALUE_BYTES, 1))
    before = [read_head(pages, pages.keys, head) for head in (0, 1)]
    pages.append(random_vectors(2, count, KEY_BYTES, 2), random_vectors(2, count, VALUE_BYTES, 3))
    assert [read_head(pages, pages.keys, head)[:70] for head in (0, 1)] == before
