"""The second reading as events: what is reported, and what a stop leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import nexusquant
from nexusquant.cache import CompressedCache
from nexusquant.config import CompressionConfig, EvictionConfig, QuantConfig, ScorerName
from nexusquant.engine import LoadedModel, PrefillProgress, RereadProgress, read_chunks
from nexusquant.engine.prefill import prefill_chunks
from nexusquant.engine.rereading import reread_chunks

# nothing left to defaults, which are there to be tuned
EVICTION = EvictionConfig(
    keep_ratio=0.25, head_floor=0.2, newest_share=0.3, observation_window=64, min_span=128
)
CONFIG = CompressionConfig(
    quant=QuantConfig(), eviction=EVICTION, num_sink_tokens=16, recent_window=16
)
NUM_TOKENS = 900
NUM_WAITING = NUM_TOKENS - 32
NUM_HEADS_OF_ALL_LAYERS = 4
TEXT = (b"The quick brown fox jumps over the lazy dog. " * 20)[:NUM_TOKENS]
IDS = torch.tensor([list(TEXT)])
OPTIONS = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}


def with_scorer(scorer: ScorerName) -> CompressionConfig:
    return replace(CONFIG, eviction=replace(EVICTION, scorer=scorer))


def prefill_events(tiny: LoadedModel, config: CompressionConfig) -> list:
    events: list = []
    nexusquant.prefill(tiny.model, IDS, config, on_progress=events.append)
    return events


def test_a_text_is_read_and_then_read_again_to_the_end(tiny: LoadedModel) -> None:
    events = prefill_events(tiny, CONFIG)
    kinds = [type(event) for event in events]
    assert kinds == [PrefillProgress] * 2 + [RereadProgress] * 2
    assert [event.num_done for event in events] == [512, NUM_TOKENS, 512, NUM_WAITING]
    assert [event.num_total for event in events] == [NUM_TOKENS] * 2 + [NUM_WAITING] * 2
    assert 0 < events[2].elapsed_s <= events[3].elapsed_s


@pytest.mark.parametrize("scorer", [s for s in ScorerName if s != ScorerName.RECONSTRUCTION])
def test_rules_of_one_reading_read_once(tiny: LoadedModel, scorer: ScorerName) -> None:
    kinds = {type(event) for event in prefill_events(tiny, with_scorer(scorer))}
    assert kinds == {PrefillProgress}


def test_a_text_too_short_to_thin_out_is_read_once(tiny: LoadedModel) -> None:
    events: list = []
    nexusquant.prefill(tiny.model, IDS[:, :159], CONFIG, on_progress=events.append)
    assert {type(event) for event in events} == {PrefillProgress}


def test_what_is_read_again_is_what_is_kept_by(tiny: LoadedModel) -> None:
    cache = nexusquant.prefill(tiny.model, IDS, CONFIG)
    by_hand = CompressedCache(tiny.model, CONFIG)
    with torch.no_grad():
        # the same chunks, with the eight tokens before each but none before the text
        for chunk in IDS.split(512, dim=1):
            tiny.model(chunk, past_key_values=by_hand)
        for first, stretch in ((8, range(16, 528)), (520, range(528, 884))):
            with by_hand.rereading([stretch]):
                tiny.model(IDS[:, first : stretch.stop], past_key_values=by_hand)
    by_hand.finish_prefill()
    ranges = [(index, index + 1) for index in range(NUM_TOKENS)]
    assert cache.kept_shares(ranges) == by_hand.kept_shares(ranges)
    assert 0.25 < cache.usage().kept_share < 0.3


@pytest.mark.parametrize(("chunk_size", "num_events"), [(512, 6), (1024, 4), (2048, 3), (4096, 2)])
def test_several_stretches_are_read_at_once_where_a_chunk_has_room(
    tiny: LoadedModel, chunk_size: int, num_events: int
) -> None:
    ids = IDS.repeat(1, 4)[:, : 32 + 6 * 512 - 100]
    shares = []
    for size in (512, chunk_size):
        cache = CompressedCache(tiny.model, CONFIG)
        for _ in prefill_chunks(tiny.model, ids, cache):
            pass
        events = list(reread_chunks(tiny.model, ids, cache, chunk_size=size))
        assert events[-1].num_done == events[-1].num_total == 6 * 512 - 100
        cache.finish_prefill()
        shares.append(cache.kept_shares([(index, index + 1) for index in range(ids.shape[1])]))
    # five stretches of one length, and a shorter one by itself
    assert len(events) == num_events
    # nearly equal scores may change places
    one, other = torch.tensor(shares)
    assert (one != other).float().mean() < 0.002


@pytest.mark.parametrize("num_events", [3, 4])
def test_a_second_reading_that_is_stopped_leaves_a_cache_that_goes_on(
    tiny: LoadedModel, num_events: int
) -> None:
    cache, plain = (CompressedCache(tiny.model, CONFIG) for _ in range(2))
    events = read_chunks(tiny.model, IDS, cache)
    for _ in range(num_events):
        last = next(events)
    events.close()
    assert isinstance(last, RereadProgress)
    with torch.no_grad():
        for chunk in IDS.split(512, dim=1):
            tiny.model(chunk, past_key_values=plain)
        assert cache.usage() == plain.usage()
        logits = [tiny.model(IDS[:, :9], past_key_values=c).logits for c in (cache, plain)]
    assert torch.equal(*logits)
    # the second reading can be made up for
    newest = torch.cat([IDS, IDS[:, :9]], dim=1)
    progress = list(reread_chunks(tiny.model, newest, cache))
    assert progress[-1].num_done == progress[-1].num_total == NUM_WAITING + 9
    cache.finish_prefill()
    evicted = (1 - cache.usage().kept_share) * (NUM_TOKENS + 9) * NUM_HEADS_OF_ALL_LAYERS
    budget = round(0.25 * (NUM_WAITING + 9) * NUM_HEADS_OF_ALL_LAYERS)
    assert round(evicted) == (NUM_WAITING + 9) * NUM_HEADS_OF_ALL_LAYERS - budget


def test_a_second_reading_without_all_the_tokens_is_refused(tiny: LoadedModel) -> None:
    cache = CompressedCache(tiny.model, CONFIG)
    with torch.no_grad():
        tiny.model(IDS, past_key_values=cache)
    # sinks do not wait
    with pytest.raises(ValueError, match=r"Tokens from 16 on wait .* newest_ids begin at 17"):
        list(reread_chunks(tiny.model, IDS[:, 17:], cache))
    assert len(list(reread_chunks(tiny.model, IDS[:, 16:], cache))) == 2


def test_a_plain_generate_warns_that_another_rule_chose_and_goes_on(tiny: LoadedModel) -> None:
    cache = CompressedCache(tiny.model, CONFIG)
    with pytest.warns(UserWarning, match="snapkv chose what is kept"):
        out = tiny.model.generate(IDS, past_key_values=cache, **OPTIONS)
    expected = tiny.model.generate(
        IDS, past_key_values=CompressedCache(tiny.model, with_scorer(ScorerName.SNAPKV)), **OPTIONS
    )
    assert torch.equal(out, expected)
    assert cache.usage().kept_share < 0.3
