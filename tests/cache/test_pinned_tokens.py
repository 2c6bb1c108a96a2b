from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
from driving import EVICTING, EVICTION, decode, read

import nexusquant
from nexusquant import CompressedCache, ScorerName
from nexusquant.engine import read_chunks

NUM_TOKENS = 400
document = tiny_models.token_ids(NUM_TOKENS)
answer = tiny_models.token_ids(5, seed=2)


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


def filled(model, *pinned, scorer=ScorerName.STREAMING, early=False):
    """A cache that keeps a tenth, besides what is pinned."""
    eviction = replace(EVICTION, keep_ratio=0.1, scorer=scorer)
    config = replace(EVICTING, eviction=eviction, exact_prefill_tokens=100 if early else 16_384)
    cache = CompressedCache(model, config)
    for tokens in pinned:
        cache.pin(tokens)
    for _ in read_chunks(model, document, cache):
        pass
    return cache


@pytest.mark.parametrize("scorer", [ScorerName.STREAMING, ScorerName.RECONSTRUCTION])
@pytest.mark.parametrize("early", [False, True])
def test_pinned_tokens_stay_in_every_head(model, scorer, early):
    cache = filled(model, range(50, 90), range(200, 201), scorer=scorer, early=early)
    assert cache.kept_shares([(50, 90), (200, 201)]) == [1.0, 1.0]
    assert cache.kept_shares([(4, 368)])[0] < 0.3


def test_pinned_tokens_are_kept_besides_the_budget(model):
    # a streaming cache keeps the newest, so nothing pinned at the front is in its budget
    plain, pinned = (filled(model, *ranges) for ranges in ((), (range(10, 60),)))
    more = pinned.usage().num_stored_pairs - plain.usage().num_stored_pairs
    assert more == 50 * 4


@pytest.mark.parametrize("tokens", [range(0, 4), range(390, 500), range(900, 950), range(7, 7)])
def test_pinning_what_is_never_evicted_changes_nothing(model, tokens):
    one, other = filled(model), filled(model, tokens)
    assert one.usage() == other.usage()
    assert decode(model, one, answer).equal(decode(model, other, answer))


def test_pins_are_forgotten_with_the_text(model):
    cache = filled(model, range(10, 60))
    cache.reset()
    read(model, cache, document)
    cache.finish_prefill()
    assert cache.usage().num_stored_pairs == filled(model).usage().num_stored_pairs


def test_a_config_says_which_texts_are_read_twice():
    config = nexusquant.PRESETS["balanced"]
    least = config.eviction.min_span + config.num_sink_tokens + config.recent_window
    assert [config.reads_twice(n) for n in (least - 1, least)] == [False, True]
    assert not nexusquant.PRESETS["safe"].reads_twice(10**6)
    one_pass = replace(config.eviction, scorer=ScorerName.SNAPKV)
    assert not replace(config, eviction=one_pass).reads_twice(10**6)
