import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusquant.eviction import per_byte, select_kept


def random_scores(num_layers, num_kv_heads, num_tokens, seed=0):
    """Positive scores whose heads differ in how unevenly they spread."""
    generator = torch.Generator().manual_seed(seed)
    spread = 4 * torch.rand(num_layers, num_kv_heads, 1, generator=generator)
    noise = torch.randn(num_layers, num_kv_heads, num_tokens, generator=generator)
    return list((spread * noise).exp())


def count(kept):
    return sum(int(layer.sum()) for layer in kept)


@settings(max_examples=150, deadline=None)
@given(
    num_layers=st.integers(1, 5),
    num_kv_heads=st.integers(1, 4),
    num_tokens=st.integers(0, 60),
    keep_ratio=st.floats(0.001, 1),
    head_floor=st.floats(0, 1),
    num_levels=st.sampled_from([1, 3, 1000]),
)
def test_budget_is_met_exactly_and_every_head_keeps_its_floor(
    num_layers, num_kv_heads, num_tokens, keep_ratio, head_floor, num_levels
):
    scores = random_scores(num_layers, num_kv_heads, num_tokens)
    # few levels make many ties
    scores = [(layer * num_levels).floor().clamp(max=num_levels) for layer in scores]
    kept = select_kept(scores, keep_ratio, head_floor)
    num_pairs = num_layers * num_kv_heads * num_tokens
    budget = round(keep_ratio * num_pairs)
    assert count(kept) == budget
    equal_share = budget // (num_layers * num_kv_heads)
    floor = min(round(head_floor * keep_ratio * num_tokens), equal_share)
    for layer_scores, layer_kept in zip(scores, kept, strict=True):
        assert layer_kept.dtype == torch.bool
        assert layer_kept.shape == layer_scores.shape
        assert (layer_kept.sum(dim=1) >= floor).all()


@pytest.mark.parametrize("head_floor", [0.0, 0.3, 1.0])
def test_each_head_keeps_its_own_best(head_floor):
    scores = random_scores(4, 3, 50)
    for layer_scores, layer_kept in zip(scores, select_kept(scores, 0.4, head_floor), strict=True):
        for head_scores, head_kept in zip(layer_scores, layer_kept, strict=True):
            ranking = head_scores.argsort(descending=True)
            assert head_kept[ranking[: int(head_kept.sum())]].all()


def test_without_a_floor_the_globally_best_pairs_are_kept():
    scores = random_scores(3, 2, 40)
    kept = torch.stack(select_kept(scores, 0.25, 0.0))
    best = torch.stack(scores).flatten().topk(60).values
    assert torch.equal(torch.stack(scores)[kept].sort(descending=True).values, best)


def test_a_floor_guarantees_heads_that_would_get_nothing():
    scores = random_scores(2, 2, 100)
    scores[1][0] *= 1e-6
    assert select_kept(scores, 0.2, 0.0)[1][0].sum() == 0
    assert select_kept(scores, 0.2, 0.5)[1][0].sum() == 10


def test_full_floor_gives_every_head_the_same_count():
    for layer in select_kept(random_scores(3, 4, 80), 0.35, 1.0):
        assert layer.sum(dim=1).tolist() == [28] * 4


@settings(max_examples=150, deadline=None)
@given(
    num_layers=st.integers(1, 4),
    num_kv_heads=st.integers(1, 4),
    num_tokens=st.integers(0, 60),
    keep_ratio=st.floats(0.001, 1),
    head_floor=st.floats(0, 1),
    newest_share=st.floats(0, 1),
    num_levels=st.sampled_from([1, 3, 1000]),
)
def test_every_head_keeps_its_newest_and_then_its_floor_within_the_exact_budget(
    num_layers, num_kv_heads, num_tokens, keep_ratio, head_floor, newest_share, num_levels
):
    scores = random_scores(num_layers, num_kv_heads, num_tokens)
    scores = [(layer * num_levels).floor().clamp(max=num_levels) for layer in scores]
    kept = select_kept(scores, keep_ratio, head_floor, newest_share)
    budget = round(keep_ratio * num_layers * num_kv_heads * num_tokens)
    assert count(kept) == budget
    equal_share = budget // (num_layers * num_kv_heads)
    newest = min(round(newest_share * keep_ratio * num_tokens), equal_share)
    floor = min(round(head_floor * (keep_ratio * num_tokens - newest)), equal_share - newest)
    for layer_scores, layer_kept in zip(scores, kept, strict=True):
        assert layer_kept[:, num_tokens - newest :].all()
        older, older_kept = layer_scores[:, : num_tokens - newest], layer_kept[:, : -newest or None]
        assert (older_kept.sum(dim=1) >= floor).all()
        for head_scores, head_kept in zip(older, older_kept, strict=True):
            # of the older ones no one is kept before a better one
            lost = head_scores[~head_kept].max() if not head_kept.all() else -1
            assert not head_kept.any() or head_scores[head_kept].min() >= lost


def test_the_newest_are_kept_however_little_they_score():
    scores = [torch.arange(100.0, 0, -1).expand(2, 100) for _ in range(3)]
    for layer in select_kept(scores, 0.4, 0.0, 0.25):
        assert layer.nonzero()[:, 1].view(2, 40).tolist() == [[*range(30), *range(90, 100)]] * 2


@pytest.mark.parametrize("head_floor", [0.0, 0.5, 1.0])
def test_a_full_newest_share_keeps_the_newest_only(head_floor):
    for layer in select_kept(random_scores(3, 2, 50), 0.4, head_floor, 1.0):
        assert layer.nonzero()[:, 1].view(2, 20).tolist() == [[*range(30, 50)]] * 2


def test_no_newest_share_is_as_if_it_was_not_given():
    scores = random_scores(3, 2, 50)
    pairs = zip(select_kept(scores, 0.3, 0.2), select_kept(scores, 0.3, 0.2, 0.0), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("head_floor", [0.0, 0.5, 1.0])
def test_keeping_all_keeps_all(head_floor):
    assert all(layer.all() for layer in select_kept(random_scores(2, 3, 30), 1.0, head_floor))


@pytest.mark.parametrize("head_floor", [0.0, 0.3, 1.0])
def test_order_of_layers_does_not_matter(head_floor):
    scores = random_scores(5, 2, 40)
    order = [3, 0, 4, 1, 2]
    kept = select_kept(scores, 0.3, head_floor)
    permuted = select_kept([scores[i] for i in order], 0.3, head_floor)
    assert all(torch.equal(permuted[j], kept[i]) for j, i in enumerate(order))


def bytes_of(kept, pair_bytes):
    return sum(int(layer.sum()) * size for layer, size in zip(kept, pair_bytes, strict=True))


@settings(max_examples=150, deadline=None)
@given(
    pair_bytes=st.lists(st.integers(9, 70), min_size=1, max_size=5),
    num_kv_heads=st.integers(1, 4),
    num_tokens=st.integers(1, 60),
    keep_ratio=st.floats(0.001, 1),
    shares=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    num_levels=st.sampled_from([1, 3, 1000]),
)
def test_where_layers_differ_in_bytes_these_are_the_budget(
    pair_bytes, num_kv_heads, num_tokens, keep_ratio, shares, num_levels
):
    scores = random_scores(len(pair_bytes), num_kv_heads, num_tokens)
    scores = [(layer * num_levels).floor().clamp(max=num_levels) for layer in scores]
    kept = select_kept(scores, keep_ratio, *shares, pair_bytes)
    most = keep_ratio * num_kv_heads * num_tokens * sum(pair_bytes)
    # heads are sure of a number of pairs, and the number of all is rounded
    assert most - max(pair_bytes) < bytes_of(kept, pair_bytes) + 1e-6
    assert bytes_of(kept, pair_bytes) <= most + max(pair_bytes)


def test_for_bytes_too_each_head_keeps_its_own_best():
    scores = random_scores(3, 2, 50)
    kept = torch.stack(select_kept(scores, 0.4, 0.3, 0.0, [12, 30, 20])).flatten(0, 1)
    for of_head, mask in zip(torch.stack(scores).flatten(0, 1), kept, strict=True):
        assert 0 < mask.sum() < 50
        assert of_head[mask].min() > of_head[~mask].max()


def test_a_byte_goes_where_it_keeps_most():
    generator = torch.Generator().manual_seed(0)
    even = list(torch.rand(2, 1, 400, generator=generator))
    cheap, dear = select_kept(per_byte(even, [10, 40]), 0.25, 0.0, 0.0, [10, 40])
    assert cheap.sum() > 3 * dear.sum()
    assert 5000 - 40 < bytes_of([cheap, dear], [10, 40]) <= 5000
    # where all are alike, the number of pairs is the budget
    assert count(select_kept(even, 0.25, 0.0, 0.0, [10, 10])) == 200


def test_of_equal_scores_the_first_that_have_room_are_kept():
    kept = select_kept([torch.ones(1, 4), torch.ones(1, 4)], 0.5, 0.0, 0.0, [10, 20])
    assert [layer.int().tolist() for layer in kept] == [[[1, 1, 1, 1]], [[1, 0, 0, 0]]]


def test_of_equal_scores_the_earlier_layer_head_and_token_win():
    kept = select_kept([torch.ones(2, 4), torch.ones(2, 4)], 0.375, 0.0)
    assert kept[0].int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert kept[1].int().tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]
    with_floor = select_kept([torch.ones(2, 4), torch.ones(2, 4)], 0.5, 0.5)
    assert with_floor[0].int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert with_floor[1].int().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0]]


def test_scores_are_left_as_they_were():
    scores = random_scores(2, 2, 20)
    select_kept(scores, 0.5, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(scores, random_scores(2, 2, 20), strict=True))


def test_one_layer_alone_is_left_as_it_was():
    scores = random_scores(1, 2, 20)
    select_kept(scores, 0.5, 0.5)
    assert torch.equal(scores[0], random_scores(1, 2, 20)[0])


def test_nothing_to_choose_from_gives_nothing():
    assert select_kept([], 0.5, 0.3) == []
    assert [layer.shape for layer in select_kept([torch.zeros(2, 0)] * 3, 0.5, 0.3)] == [(2, 0)] * 3


def test_wrong_input_is_refused():
    scores = random_scores(2, 2, 10)
    with pytest.raises(ValueError, match="keep_ratio is 0"):
        select_kept(scores, 0, 0.3)
    with pytest.raises(ValueError, match="head_floor is 2"):
        select_kept(scores, 0.5, 2)
    for share in (-0.1, 1.01, float("nan")):
        with pytest.raises(ValueError, match="newest_share is"):
            select_kept(scores, 0.5, 0.3, share)
    with pytest.raises(ValueError, match="every layer needs the same"):
        select_kept([scores[0], scores[1][:, :5]], 0.5, 0.3)
    scores[1][0, 0] = float("nan")
    with pytest.raises(ValueError, match="cannot be ranked"):
        select_kept(scores, 0.5, 0.3)
