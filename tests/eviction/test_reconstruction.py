import pytest
import torch
from tolerances import SAME_SUM, assert_at_most_twice_the_error

from nexusquant.eviction import attend_and_score, select_kept

HEADS = [(4, 4), (6, 3), (8, 1)]
LENGTHS = [(40, 9), (1, 1), (17, 64), (5, 1)]
SCALING = 0.3


def case(heads=(6, 3), lengths=(40, 9), dtype=torch.float32, seed=0):
    """Queries, past and own keys and values; head_dim 16, values of 8."""
    generator = torch.Generator().manual_seed(seed)
    (num_heads, num_kv_heads), (num_past, num_own) = heads, lengths

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    past, own = (
        (2 * normal(num_kv_heads, n, 16), normal(num_kv_heads, n, 8)) for n in (num_past, num_own)
    )
    return 2 * normal(num_heads, num_own, 16), past, own


def query_by_query(query, past, own, softcap=None):
    """The definition, in float64: output, and the weights [H, T, P] of past keys."""
    num_groups = query.shape[0] // past[0].shape[0]
    output, weights = [], []
    for head, queries in enumerate(query.double()):
        keys, values = (
            torch.cat([old[head // num_groups], new[head // num_groups]]).double()
            for old, new in zip(past, own, strict=True)
        )
        num_past = past[0].shape[1]
        for index, row in enumerate(queries):
            logits = keys[: num_past + index + 1] @ row * SCALING
            if softcap is not None:
                logits = softcap * (logits / softcap).tanh()
            share = logits.softmax(dim=0)
            weights.append(share[:num_past])
            output.append(share @ values[: len(share)])
    size = query.shape[:2]
    return torch.stack(output).view(*size, -1), torch.stack(weights).view(*size, -1)


def sdpa(query, past, own):
    """PyTorch's own attention with the mask written out."""
    num_own, num_past = query.shape[1], past[0].shape[1]
    keys, values = (torch.cat(pair, dim=1)[None] for pair in zip(past, own, strict=True))
    mask = torch.ones(num_own, num_past + num_own, dtype=torch.bool).tril(num_past)
    return torch.nn.functional.scaled_dot_product_attention(
        query[None], keys, values, mask, scale=SCALING, enable_gqa=True
    )[0]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("heads", HEADS)
def test_output_is_plain_attention(heads, lengths):
    inputs = case(heads, lengths)
    output, _ = attend_and_score(*inputs, SCALING)
    torch.testing.assert_close(output, sdpa(*inputs), **SAME_SUM)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("heads", HEADS)
def test_output_in_16_bits_is_as_near_as_plain_attention_in_16_bits(heads, dtype):
    inputs = case(heads, dtype=dtype)
    output, scores = attend_and_score(*inputs, SCALING)
    exact, weights = query_by_query(*inputs)
    assert_at_most_twice_the_error(output, sdpa(*inputs), exact)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), most(weights, heads[1]), **SAME_SUM)


def most(weights, num_kv_heads):
    """The largest weight over queries and the heads that share a KV head, one by one."""
    best = torch.zeros(num_kv_heads, weights.shape[-1], dtype=torch.float64)
    for head, rows in enumerate(weights):
        for row in rows:
            shared = head * num_kv_heads // len(weights)
            best[shared] = torch.maximum(best[shared], row)
    return best


@pytest.mark.parametrize("softcap", [None, 1.5, 30.0])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("heads", HEADS)
def test_output_and_scores_equal_their_definition(heads, lengths, softcap):
    inputs = case(heads, lengths, seed=3)
    output, scores = attend_and_score(*inputs, SCALING, softcap)
    exact, weights = query_by_query(*inputs, softcap)
    torch.testing.assert_close(output.double(), exact, **SAME_SUM)
    torch.testing.assert_close(scores.double(), most(weights, heads[1]), **SAME_SUM)


@pytest.mark.parametrize("index", [0, 4, 8])
def test_a_token_is_seen_by_itself_and_later_ones_only(index):
    query, past, own = case()
    before, _ = attend_and_score(query, past, own, SCALING)
    keys, values = own[0].clone(), own[1].clone()
    keys[:, index], values[:, index] = 0.0, 100.0
    after, _ = attend_and_score(query, past, (keys, values), SCALING)
    assert torch.equal(after[:, :index], before[:, :index])
    assert bool((after[:, index:] != before[:, index:]).all())


@pytest.mark.parametrize("size", [0.0, 1.0, 1e3])
def test_scores_are_shares_and_finite_whatever_the_keys(size):
    query, (keys, values), own = case()
    output, scores = attend_and_score(query, (keys * size, values), own, SCALING)
    assert 0 <= float(scores.min()) <= float(scores.max()) <= 1
    assert bool(output.isfinite().all())


def test_one_key_that_all_look_at_gets_nearly_all_and_the_others_share_the_rest():
    query, (keys, values), own = case(heads=(4, 2))
    query[:] = 0
    query[..., 0] = 10
    keys[:, 7, 0] = 20
    _, scores = attend_and_score(query, (keys, values), own, SCALING)
    assert bool((scores[:, 7] > 0.99).all())
    assert float(scores.sum(dim=1).max()) < 1.01


def test_without_past_keys_there_are_no_scores_and_attention_is_causal():
    inputs = case(lengths=(0, 9))
    output, scores = attend_and_score(*inputs, SCALING)
    assert scores.shape == (3, 0)
    torch.testing.assert_close(output, sdpa(*inputs), **SAME_SUM)


def test_inputs_are_left_as_they_were():
    (query, past, own), (same_query, *same) = case(), case()
    attend_and_score(query, past, own, SCALING, softcap=2.0)
    assert torch.equal(query, same_query)
    for pair, untouched in zip((past, own), same, strict=True):
        assert all(torch.equal(*both) for both in zip(pair, untouched, strict=True))


@pytest.mark.parametrize("head_floor", [0.0, 0.2, 1.0])
def test_what_a_single_query_looks_for_is_kept_by_every_head_above_all_else(head_floor):
    planted, scores = 23, []
    for seed in range(3):
        query, (keys, values), own = case(heads=(6, 3), lengths=(60, 30), seed=seed)
        # one token of the second reading, in one of the two heads that share each KV head; no
        # other one looks for anything in particular
        query = query / 8
        keys[:, planted] = 0
        keys[:, planted, 5] = 9
        query[::2, 11] = 0
        query[::2, 11, 5] = 9
        scores.append(attend_and_score(query, (keys, values), own, SCALING)[1])
    for keep_ratio in (1 / 60, 0.1):
        kept = torch.stack(select_kept(scores, keep_ratio, head_floor))
        assert bool(kept[:, :, planted].all())
    only = torch.stack(select_kept(scores, 1 / 60, head_floor)).nonzero()[:, 2]
    assert only.tolist() == [planted] * 9
