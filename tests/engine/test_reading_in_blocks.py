"""A long text is read in blocks of what may stay exact: their ends, their progress, their stops."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import nexusquant
from nexusquant.cache import CompressedCache
from nexusquant.config import PRESETS, CompressionConfig, EvictionConfig, QuantConfig, ScorerName
from nexusquant.engine import (
    Generator,
    LoadedModel,
    PrefillProgress,
    RereadProgress,
    plan_memory,
    read_chunks,
)
from nexusquant.engine.blocks import block_ends, last_block
from nexusquant.engine.memory_plan import LEAST_EXACT_SPAN
from nexusquant.engine.reading_sizes import reading_sizes
from nexusquant.engine.rereading import reread_chunks
from nexusquant.errors import OutOfMemoryError

EVICTION = EvictionConfig(
    keep_ratio=0.25, head_floor=0.2, newest_share=0.3, observation_window=64, min_span=128
)
CONFIG = CompressionConfig(
    quant=QuantConfig(),
    eviction=EVICTION,
    num_sink_tokens=16,
    recent_window=16,
    exact_prefill_tokens=400,
)
NUM_TOKENS = 900
NUM_HEADS_OF_ALL_LAYERS = 4
IDS = torch.tensor([list((b"The quick brown fox jumps over the lazy dog. " * 20)[:NUM_TOKENS])])


def with_scorer(scorer: ScorerName) -> CompressionConfig:
    return replace(CONFIG, eviction=replace(EVICTION, scorer=scorer))


def read_in_blocks(
    tiny: LoadedModel, config: CompressionConfig
) -> tuple[CompressedCache, list[PrefillProgress | RereadProgress]]:
    events: list = []
    return nexusquant.prefill(tiny.model, IDS, config, on_progress=events.append), events


def test_blocks_are_as_few_and_as_even_as_can_be() -> None:
    assert block_ends(400, 400, 16) == [400]
    assert block_ends(401, 400, 16) == [201, 401]
    assert block_ends(900, 400, 16) == [300, 600, 900]
    # a window that leaves no room: blocks of a page
    assert block_ends(128, 100, 100) == [64, 128]
    for num_tokens in range(1, 3000, 7):
        ends = block_ends(num_tokens, 500, 16)
        sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        assert ends[-1] == num_tokens
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) + 16 * (len(sizes) > 1) <= 500
        assert last_block(num_tokens, 500, 16) == range([0, *ends][-2], num_tokens)


def test_a_text_that_fits_one_block_is_read_as_ever(tiny: LoadedModel) -> None:
    one, events = read_in_blocks(tiny, replace(CONFIG, exact_prefill_tokens=NUM_TOKENS))
    other, _ = read_in_blocks(tiny, replace(CONFIG, exact_prefill_tokens=16_384))
    assert {event.block for event in events} == {None}
    assert one.usage() == other.usage()
    ranges = [(index, index + 1) for index in range(NUM_TOKENS)]
    assert one.kept_shares(ranges) == other.kept_shares(ranges)


@pytest.mark.parametrize("most", [500, 899])
def test_a_text_that_is_too_much_for_a_chat_is_decided_on_from_its_first_block(
    tiny: LoadedModel, most: int
) -> None:
    # every block alone, and what is kept of all, would be little enough to stay
    for_chat = replace(CONFIG, eviction=replace(EVICTION, keeps_up_to=most))
    cache, events = read_in_blocks(tiny, for_chat)
    expected, as_ever = read_in_blocks(tiny, CONFIG)
    assert [type(event) for event in events] == [type(event) for event in as_ever]
    # the bytes of the room for what was to come, too
    assert cache.usage() == expected.usage()


def test_a_text_that_may_stay_is_kept_whole_in_blocks_too(tiny: LoadedModel) -> None:
    for_chat = replace(CONFIG, eviction=replace(EVICTION, keeps_up_to=NUM_TOKENS))
    cache, events = read_in_blocks(tiny, for_chat)
    assert cache.usage().kept_share == 1
    assert not any(isinstance(event, RereadProgress) for event in events)
    # until more comes, which may stay then
    rest = IDS[:, :200]
    for _ in reread_chunks(tiny.model, IDS, cache, num_to_come=rest.shape[1]):
        pass
    for _ in read_chunks(tiny.model, rest, cache):
        pass
    first, second = cache.kept_shares([(32, 800), (940, 1060)])
    assert first < 0.3
    assert second == 1


def test_every_block_is_read_and_read_again_before_the_next(tiny: LoadedModel) -> None:
    cache, events = read_in_blocks(tiny, CONFIG)
    seen = [(type(event), event.num_done, event.num_total) for event in events]
    assert seen == [
        (PrefillProgress, 300, 900),
        (RereadProgress, 268, 868),
        (PrefillProgress, 600, 900),
        (RereadProgress, 568, 868),
        (PrefillProgress, 900, 900),
        (RereadProgress, 868, 868),
    ]
    assert [event.block.number for event in events] == [1, 1, 2, 2, 3, 3]
    assert {event.block.num_blocks for event in events} == {3}
    assert [event.block.share for event in events] == pytest.approx([k / 6 for k in range(1, 7)])
    times = [event.elapsed_s for event in events]
    assert times == sorted(times)
    waiting = NUM_TOKENS - 32
    evicted = (1 - cache.usage().kept_share) * NUM_TOKENS * NUM_HEADS_OF_ALL_LAYERS
    kept = waiting * NUM_HEADS_OF_ALL_LAYERS - evicted
    assert kept == pytest.approx(0.25 * waiting * NUM_HEADS_OF_ALL_LAYERS, abs=3)


@pytest.mark.parametrize("scorer", ScorerName)
def test_every_rule_reads_in_blocks(tiny: LoadedModel, scorer: ScorerName) -> None:
    cache, events = read_in_blocks(tiny, with_scorer(scorer))
    assert events[-1].block.share == 1
    assert 0.25 < cache.usage().kept_share < 0.3


def test_without_eviction_blocks_are_coded_and_without_codes_there_are_none(
    tiny: LoadedModel,
) -> None:
    safe, events = read_in_blocks(tiny, replace(CONFIG, eviction=None))
    assert [event.block.number for event in events] == [1, 2, 3]
    assert safe.usage().kept_share == 1
    off, events = read_in_blocks(tiny, CompressionConfig(exact_prefill_tokens=400))
    assert {event.block for event in events} == {None}
    assert off.usage().num_quantized_pairs == 0


@pytest.mark.filterwarnings("ignore:The text was not read again")
@pytest.mark.parametrize("num_events", range(1, 6))
def test_a_reading_that_is_stopped_in_any_block_leaves_a_cache_that_goes_on(
    tiny: LoadedModel, num_events: int
) -> None:
    cache = CompressedCache(tiny.model, CONFIG)
    mark = cache.mark()
    events = read_chunks(tiny.model, IDS, cache)
    for _ in range(num_events):
        next(events)
    events.close()
    num_read = cache.num_seen_tokens
    assert num_read == 300 * ((num_events + 1) // 2)
    # the ids of what waits are not known any more: a rule of one reading decides on it
    list(read_chunks(tiny.model, IDS, cache))
    assert cache.num_seen_tokens == num_read + NUM_TOKENS
    assert 0.25 < cache.usage().kept_share < 0.35
    cache.rewind(mark)
    list(read_chunks(tiny.model, IDS, cache))
    ranges = [(index, index + 1) for index in range(NUM_TOKENS)]
    assert cache.kept_shares(ranges) == read_in_blocks(tiny, CONFIG)[0].kept_shares(ranges)


def test_a_generator_reads_in_blocks_and_answers(tiny: LoadedModel) -> None:
    cache = CompressedCache(tiny.model, CONFIG)
    params = nexusquant.SamplingParams(max_new_tokens=5, temperature=0)
    *_, finished = Generator(tiny).generate(IDS[0].tolist(), cache, params)
    assert finished.stats.num_new_tokens == 5
    assert finished.stats.usage.kept_share < 0.3


@pytest.fixture
def on_gpu(tiny: LoadedModel) -> SimpleNamespace:
    """Looks like a model on a GPU."""
    weight = SimpleNamespace(device=torch.device("cuda"))
    return SimpleNamespace(
        config=tiny.model.config, dtype=torch.bfloat16, parameters=lambda: iter([weight])
    )


def test_on_a_cpu_the_config_says_what_stays_exact(tiny: LoadedModel) -> None:
    cache = CompressedCache(tiny.model, CONFIG)
    assert reading_sizes(tiny.model, cache, 10**6) == (400, 512)


def test_on_a_gpu_the_block_is_what_fits(tiny: LoadedModel, on_gpu, monkeypatch) -> None:
    cache = CompressedCache(tiny.model, PRESETS["balanced"])
    plan = plan_memory(tiny.model.config, PRESETS["balanced"])
    num_new = 100_000

    def span_with(free: int) -> int:
        monkeypatch.setattr(
            "nexusquant.engine.reading_sizes.bytes_for_tensors", lambda device: free
        )
        return reading_sizes(on_gpu, cache, num_new).exact_span

    assert span_with(10**12) == 32_768

    def taken_with(span: int) -> int:
        own = plan.with_sizes(span, 512)
        return own.cache_peak_bytes(num_new) + own.idle_bytes(num_new)

    least, most = taken_with(LEAST_EXACT_SPAN), taken_with(32_768)
    for share in (0.3, 0.6, 0.9):
        free = round(least + share * (most - least))
        span = span_with(free)
        assert LEAST_EXACT_SPAN <= span < 32_768
        assert taken_with(span) <= free < taken_with(2 * span)
    # too little for any is told before a token is read
    with pytest.raises(OutOfMemoryError, match=r"100,000 tokens do not fit: .* GB can be had"):
        span_with(least - 10_000)
    assert span_with(least) == LEAST_EXACT_SPAN
    # a question needs no plan
    num_new = 100
    assert span_with(0) == 32_768
