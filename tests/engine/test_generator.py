"""Prefill and the decode loop."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from nexusquant.cache import CompressedCache
from nexusquant.config import PRESETS, SamplingParams
from nexusquant.engine import (
    Finished,
    FinishReason,
    Generator,
    LoadedModel,
    PrefillProgress,
    TextDelta,
)

GREEDY = SamplingParams(max_new_tokens=40, temperature=0)
PROMPT = list(b"The quick brown fox jumps over the lazy dog. " * 20)


def run(
    loaded: LoadedModel, params: SamplingParams, preset: str = "off", prompt: list[int] = PROMPT
):
    cache = CompressedCache(loaded.model, PRESETS[preset])
    events = list(Generator(loaded).generate(prompt, cache, params))
    return events, cache


def text_of(events: list) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_greedy_text_equals_transformers_generate(tiny: LoadedModel) -> None:
    events, _ = run(tiny, GREEDY)
    ids = torch.tensor([PROMPT])
    expected = tiny.model.generate(
        ids,
        max_new_tokens=40,
        do_sample=False,
        past_key_values=DynamicCache(config=tiny.model.config),
    )[0, ids.shape[1] :]
    assert text_of(events) == tiny.tokenizer.decode(expected.tolist(), skip_special_tokens=True)


def test_prefill_reports_every_chunk_up_to_the_last_token(tiny: LoadedModel) -> None:
    events, _ = run(tiny, GREEDY)
    progress = [event for event in events if isinstance(event, PrefillProgress)]
    assert [event.num_done for event in progress] == [512, 900]
    assert {event.num_total for event in progress} == {len(PROMPT)}
    assert progress[0].elapsed_s <= progress[1].elapsed_s


@pytest.mark.parametrize("preset", ["off", "safe", "high"])
def test_stats_count_the_turn_and_measure_the_cache(tiny: LoadedModel, preset: str) -> None:
    events, cache = run(tiny, GREEDY, preset)
    finished = events[-1]
    assert isinstance(finished, Finished)
    stats = finished.stats
    assert (stats.num_prompt_tokens, stats.num_new_tokens) == (len(PROMPT), 40)
    # the last token is never fed back
    assert stats.usage.num_seen_tokens == cache.num_seen_tokens == len(PROMPT) + 39
    assert stats.usage == cache.usage()
    assert stats.ttft_s > 0
    assert stats.decode_tok_s > 0
    assert stats.memory.device_total_bytes > stats.memory.process_bytes > 0


def test_an_answer_ends_at_the_length_asked_for(tiny: LoadedModel) -> None:
    events, _ = run(tiny, SamplingParams(max_new_tokens=7, temperature=0))
    assert events[-1].reason is FinishReason.LENGTH
    assert events[-1].stats.num_new_tokens == 7


def test_an_answer_ends_where_the_context_is_full(tiny: LoadedModel) -> None:
    prompt = (PROMPT * 2)[:1020]
    events, cache = run(tiny, GREEDY, prompt=prompt)
    assert events[-1].reason is FinishReason.CONTEXT
    assert cache.num_seen_tokens == 1024


def test_an_end_token_ends_the_answer_and_is_not_shown(tiny: LoadedModel) -> None:
    first = run(tiny, SamplingParams(max_new_tokens=1, temperature=0))[0]
    ids = run(tiny, GREEDY)[0][-1].new_ids
    ending = LoadedModel(
        tiny.name, tiny.model, tiny.tokenizer, 1024, frozenset({ids[0]}), tiny.device
    )
    events, _ = run(ending, GREEDY)
    assert events[-1].reason is FinishReason.END
    assert text_of(events) == ""
    assert first[-1].reason is FinishReason.LENGTH


def test_a_stop_text_ends_the_answer_before_it(tiny: LoadedModel) -> None:
    whole = text_of(run(tiny, GREEDY)[0])
    stop = whole[5:7]
    events, _ = run(tiny, SamplingParams(max_new_tokens=40, temperature=0, stop=(stop,)))
    assert text_of(events) == whole[: whole.find(stop)]
    assert events[-1].reason is FinishReason.END


def test_the_same_seed_gives_the_same_text(tiny: LoadedModel) -> None:
    params = SamplingParams(max_new_tokens=30, temperature=1.0, seed=11)
    other = SamplingParams(max_new_tokens=30, temperature=1.0, seed=12)
    assert text_of(run(tiny, params)[0]) == text_of(run(tiny, params)[0])
    assert text_of(run(tiny, params)[0]) != text_of(run(tiny, other)[0])


def test_closing_during_prefill_stops_after_the_chunk_at_hand(tiny: LoadedModel) -> None:
    cache = CompressedCache(tiny.model, PRESETS["off"])
    events = Generator(tiny).generate(PROMPT, cache, GREEDY)
    next(events)
    events.close()
    assert cache.num_seen_tokens == 512


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(tiny: LoadedModel) -> None:
    with pytest.raises(ValueError, match=r"1,800 tokens.*1,024"):
        run(tiny, GREEDY, prompt=PROMPT * 2)


def test_an_empty_prompt_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(ValueError, match="no text"):
        run(tiny, GREEDY, prompt=[])
