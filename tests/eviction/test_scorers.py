import math

import pytest
import torch
from all_scorers import ALL_SCORERS, HEADS, LENGTHS, observation

from nexusquant.config import ScorerName
from nexusquant.eviction import (
    ONE_PASS_SCORERS,
    ExpectedAttentionScorer,
    KeyNormScorer,
    SnapKVScorer,
    StreamingScorer,
    make_scorer,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("name", ALL_SCORERS)
def test_scores_are_non_negative_and_average_one_per_head(name, heads, lengths, dtype):
    seen = observation(heads, lengths, dtype=dtype)
    scores = make_scorer(name).score(seen)
    assert scores.dtype == torch.float32
    assert scores.shape == (heads[1], lengths[0])
    assert (scores >= 0).all()
    torch.testing.assert_close(scores.mean(dim=1), torch.ones(heads[1]))


@pytest.mark.parametrize("name", ALL_SCORERS)
def test_inputs_are_left_as_they_were(name):
    seen, untouched = observation(), observation()
    make_scorer(name).score(seen)
    for field in ("queries", "keys", "values"):
        assert torch.equal(getattr(seen, field), getattr(untouched, field))


@pytest.mark.parametrize("name", ALL_SCORERS)
def test_strided_input_scores_like_contiguous(name):
    seen = observation()
    strided = seen._replace(
        keys=seen.keys.transpose(0, 1).contiguous().transpose(0, 1),
        queries=seen.queries.transpose(0, 1).contiguous().transpose(0, 1),
    )
    scorer = make_scorer(name)
    torch.testing.assert_close(scorer.score(strided), scorer.score(seen))


@pytest.mark.parametrize("name", ALL_SCORERS)
@pytest.mark.parametrize("size", [0.0, 1e4])
def test_extreme_keys_give_finite_scores(name, size):
    seen = observation()
    scores = make_scorer(name).score(seen._replace(keys=seen.keys * size))
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.mean(dim=1), torch.ones(3))


@pytest.mark.parametrize("name", ALL_SCORERS)
def test_no_candidates_give_no_scores(name):
    assert make_scorer(name).score(observation(lengths=(0, 4, 0))).shape == (3, 0)


def test_values_of_zero_give_scores_of_zero():
    seen = observation()
    scores = ExpectedAttentionScorer().score(seen._replace(values=torch.zeros_like(seen.values)))
    assert (scores == 0).all()


@pytest.mark.parametrize("scorer", [SnapKVScorer(), ExpectedAttentionScorer()])
def test_a_key_along_the_queries_outranks_others_in_its_head_only(scorer):
    seen = observation(heads=(4, 2), lengths=(60, 8, 60))
    # query heads 2 and 3 read KV head 1
    direction = torch.zeros(16)
    direction[3] = 6.0
    queries, keys = seen.queries.clone(), seen.keys.clone()
    queries[2:] += direction
    keys[1, 20] = 2 * direction
    scores = scorer.score(seen._replace(queries=queries, keys=keys, values=torch.ones(2, 60, 8)))
    assert scores[1, 20] == scores[1].max()
    assert scores[1, 20] > 5
    changed_only_in_head_one = scorer.score(seen._replace(values=torch.ones(2, 60, 8)))
    torch.testing.assert_close(scores[0], changed_only_in_head_one[0])


def test_streaming_prefers_the_newest():
    scores = StreamingScorer().score(observation())
    assert (scores.diff(dim=1) > 0).all()


def test_key_norm_prefers_short_keys_and_the_earlier_of_equals():
    seen = observation(heads=(1, 1), lengths=(5, 1, 5))
    lengths = torch.tensor([3.0, 1.0, 2.0, 1.0, 9.0])
    keys = torch.nn.functional.normalize(torch.ones(1, 5, 16), dim=-1) * lengths.view(1, 5, 1)
    scores = KeyNormScorer().score(seen._replace(keys=keys))
    assert scores[0].argsort(descending=True).tolist() == [1, 3, 2, 0, 4]


def brute_force_snapkv(seen):
    num_heads, num_queries, _ = seen.queries.shape
    num_kv_heads, num_tokens, _ = seen.keys.shape
    groups = num_heads // num_kv_heads
    scores = torch.zeros(num_kv_heads, num_tokens)
    for head in range(num_heads):
        received = [0.0] * num_tokens
        for w in range(num_queries):
            visible = min(num_tokens, seen.query_offset + w + 1)
            products = [float(seen.queries[head, w] @ key) for key in seen.keys[head // groups]]
            weights = [math.exp(seen.scaling * product) for product in products[:visible]]
            for t, weight in enumerate(weights):
                received[t] += weight / sum(weights) / num_queries
        for t in range(num_tokens):
            scores[head // groups, t] += max(received[max(0, t - 3) : t + 4]) / groups
    return scores / scores.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("lengths", [(1, 1, 0), (12, 12, 0), (20, 6, 14), (20, 6, 17), (20, 6, 30)])
def test_snapkv_equals_its_definition(lengths):
    seen = observation(lengths=lengths)
    torch.testing.assert_close(SnapKVScorer().score(seen), brute_force_snapkv(seen))


def test_expected_attention_equals_its_definition():
    seen = observation(lengths=(25, 10, 25))
    expected = torch.zeros(3, 25)
    for head in range(6):
        queries, keys = seen.queries[head].double(), seen.keys[head // 2].double()
        mean, covariance = queries.mean(dim=0), torch.cov(queries.T, correction=0)
        quadratic = torch.einsum("ti,ij,tj->t", keys, covariance, keys)
        weights = torch.softmax(seen.scaling * keys @ mean + seen.scaling**2 / 2 * quadratic, dim=0)
        expected[head // 2] += weights.float() / 2
    expected *= seen.values.norm(dim=-1)
    expected /= expected.mean(dim=1, keepdim=True)
    torch.testing.assert_close(ExpectedAttentionScorer().score(seen), expected)


def test_expected_attention_is_the_mean_over_gaussian_queries():
    seen = observation(heads=(1, 1), lengths=(12, 64, 12), dim=8)
    seen = seen._replace(values=torch.ones(1, 12, 1))
    queries = seen.queries[0]
    root = torch.linalg.cholesky(torch.cov(queries.T, correction=0))
    noise = torch.randn(200_000, 8, generator=torch.Generator().manual_seed(1))
    drawn = queries.mean(dim=0) + noise @ root.T
    weights = (seen.scaling * drawn @ seen.keys[0].T).exp().mean(dim=0)
    scores = ExpectedAttentionScorer().score(seen)[0]
    torch.testing.assert_close(scores, weights / weights.mean(), rtol=0.05, atol=0)


@pytest.mark.parametrize("name", ALL_SCORERS)
def test_shapes_that_do_not_fit_are_refused(name):
    scorer, seen = make_scorer(name), observation()
    with pytest.raises(ValueError, match="W of 1 or more"):
        scorer.score(seen._replace(queries=seen.queries[:, :0]))
    with pytest.raises(ValueError, match="same heads and tokens"):
        scorer.score(seen._replace(values=seen.values[:, 1:]))
    with pytest.raises(ValueError, match="multiple of those of keys"):
        scorer.score(seen._replace(queries=seen.queries[:5]))
    with pytest.raises(ValueError, match="D must agree"):
        scorer.score(seen._replace(queries=seen.queries[..., :8]))
    with pytest.raises(ValueError, match="query_offset is -1"):
        scorer.score(seen._replace(query_offset=-1))


def test_every_name_makes_its_own_scorer_and_others_are_refused():
    assert {*ONE_PASS_SCORERS, ScorerName.RECONSTRUCTION} == set(ScorerName)
    assert len({type(make_scorer(name)) for name in ONE_PASS_SCORERS}) == len(ONE_PASS_SCORERS)
    assert isinstance(make_scorer("snapkv"), SnapKVScorer)
    for other in ("best", ScorerName.RECONSTRUCTION):
        with pytest.raises(ValueError, match="choose one of expected_attention, snapkv"):
            make_scorer(other)
