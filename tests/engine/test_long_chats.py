"""Chats of many short turns: the past is read again and thinned out, a part of it at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nexusquant.cache import CompressedCache
from nexusquant.config import (
    CompressionConfig,
    EvictionConfig,
    QuantConfig,
    SamplingParams,
)
from nexusquant.engine import (
    Conversation,
    Finished,
    FinishReason,
    Generator,
    LoadedModel,
    PrefillProgress,
    RereadProgress,
)

# nothing left to defaults, which are there to be tuned
EVICTION = EvictionConfig(
    keep_ratio=0.25, head_floor=0.2, newest_share=0.3, observation_window=64, min_span=128
)
CONFIG = CompressionConfig(
    quant=QuantConfig(), eviction=EVICTION, num_sink_tokens=16, recent_window=16
)
# what is waited for is about an eighth of what is thinned out after it
FOR_CHAT = replace(
    CONFIG,
    recent_window=32,
    eviction=replace(EVICTION, keep_ratio=0.03, keeps_up_to=358),
)
NUM_TURNS, NUM_NEW = 50, 24
GREEDY = SamplingParams(max_new_tokens=NUM_NEW, temperature=0)


@pytest.fixture
def talkative(tiny: LoadedModel) -> LoadedModel:
    """The tiny model with room for a long chat; a fifth of its tokens end an answer."""
    return replace(tiny, context_length=8192, end_ids=frozenset(range(0, 257, 5)))


def answer_of(events: list) -> str:
    assert events[-1].reason is FinishReason.END
    return "".join(getattr(event, "text", "") for event in events)


def test_a_long_chat_of_short_turns_stays_within_its_budget(talkative: LoadedModel) -> None:
    conversation = Conversation(talkative, CONFIG)
    text, num_reread, longest_turn = "", [], 0
    for turn in range(NUM_TURNS):
        question = f"<user>And what about number {turn * turn}?</>\n"
        before = conversation.num_tokens
        prompt = text + question
        events = list(conversation.reply(prompt, GREEDY))
        text = prompt + answer_of(events)
        # only what is new is read
        read = [e.num_total for e in events if isinstance(e, PrefillProgress)]
        assert read == [len(question)]
        num_reread += [e.num_total for e in events if isinstance(e, RereadProgress)]
        longest_turn = max(longest_turn, conversation.num_tokens - before)
    usage = conversation.usage()
    seen = usage.num_seen_tokens
    assert seen > 1500
    # nothing is read again twice, and never much at once
    assert seen - 128 - longest_turn - 32 <= sum(num_reread) <= seen
    assert max(num_reread) < 128 + longest_turn
    remainder = EVICTION.min_span + longest_turn + 32
    assert usage.num_stored_tokens <= EVICTION.keep_ratio * seen + remainder
    assert usage.num_stored_tokens >= EVICTION.keep_ratio * sum(num_reread)
    assert prompt + answer_of(list(conversation.reply(prompt, GREEDY))) == text


def test_a_chat_keeps_everything_while_it_holds_no_more_than_is_promised(
    talkative: LoadedModel,
) -> None:
    conversation, text, longest_turn = Conversation(talkative, FOR_CHAT), "", 0
    most, num_whole, num_decisions = FOR_CHAT.eviction.keeps_up_to, 0, 0
    while conversation.num_tokens < 1500:
        before = conversation.num_tokens
        prompt = text + f"<user>And what about number {before}?</>\n"
        events = list(conversation.reply(prompt, GREEDY))
        text = prompt + answer_of(events)
        usage = conversation.usage()
        longest_turn = max(longest_turn, usage.num_seen_tokens - before)
        read = [e.num_total for e in events if isinstance(e, PrefillProgress)]
        if before + read[0] <= most:
            assert usage.num_stored_tokens == usage.num_seen_tokens
            num_whole += 1
        num_decisions += any(isinstance(event, RereadProgress) for event in events)
        # what is over the most has waited for less than one more turn, or is too little to thin out
        assert usage.num_stored_tokens <= most + longest_turn + EVICTION.min_span
    assert num_whole >= 8
    assert 2 <= num_decisions < num_whole
    assert prompt + answer_of(list(conversation.reply(prompt, GREEDY))) == text


def test_a_chats_reserve_and_the_span_of_its_decisions_are_its_own(talkative: LoadedModel) -> None:
    eviction = replace(FOR_CHAT.eviction, keep_ratio=0.25, settle_span=64, reserve=1024)
    often = replace(FOR_CHAT, eviction=eviction)
    assert eviction.share_of(0, 1500) == 0.125
    conversation, text, num_reread = Conversation(talkative, often), "", []
    while conversation.num_tokens < 1500:
        prompt = text + f"<user>And what about number {conversation.num_tokens}?</>\n"
        events = list(conversation.reply(prompt, GREEDY))
        text = prompt + answer_of(events)
        num_reread += [e.num_total for e in events if isinstance(e, RereadProgress)]
    first, *others = dict.fromkeys(num_reread)
    assert first > 256
    assert 64 <= min(others) < EVICTION.min_span
    # what the first decision was about, past the sinks
    share = conversation.kept_shares([(16, 16 + first)])[0]
    assert share == pytest.approx(0.125, abs=0.01)


def test_what_waits_is_decided_on_before_a_prompt_that_would_be_too_much(
    talkative: LoadedModel,
) -> None:
    conversation, most = Conversation(talkative, FOR_CHAT), FOR_CHAT.eviction.keeps_up_to
    text = "<user>" + "What was told first. " * 15 + "</>\n"
    text += answer_of(list(conversation.reply(text, GREEDY)))
    assert conversation.usage().kept_share == 1
    text += "<user>" + "And then more of it. " * 20 + "</>\n"
    list(conversation.reply(text, GREEDY))
    # both were thinned out, the first one too, which had waited
    first, second = conversation.kept_shares([(32, 300), (400, 700)])
    assert first < 0.25 and second < 0.25
    assert conversation.usage().num_stored_tokens < most


def test_a_long_message_that_fits_is_kept_whole_and_a_document_is_not(
    talkative: LoadedModel,
) -> None:
    text = "<user>" + "What was told first. " * 15 + "</>\n"
    chat, document = Conversation(talkative, FOR_CHAT), Conversation(talkative, CONFIG)
    events = list(chat.reply(text, GREEDY))
    assert not any(isinstance(event, RereadProgress) for event in events)
    assert chat.usage().kept_share == 1
    assert isinstance(list(document.read(text))[-1], RereadProgress)
    assert document.usage().kept_share < 0.5


def test_answers_between_long_prompts_are_thinned_out_too(talkative: LoadedModel) -> None:
    conversation = Conversation(replace(talkative, end_ids=frozenset()), CONFIG)
    cut_off = replace(GREEDY, max_new_tokens=100)
    text, longest_turn = "", 0
    for turn in range(8):
        before = conversation.num_tokens
        text += f"<user>{turn} is what I wanted to ask about. " + "Is it? " * 20 + "</>\n"
        events = list(conversation.reply(text, cut_off))
        text += "".join(getattr(event, "text", "") for event in events)
        longest_turn = max(longest_turn, conversation.num_tokens - before)
    usage = conversation.usage()
    # each of two decisions a turn leaves a recent window behind that is no longer recent
    most = EVICTION.keep_ratio * usage.num_seen_tokens + longest_turn + 32 + 8 * 2 * 16
    assert usage.num_stored_tokens <= most


def test_an_answer_asked_for_again_is_the_same_also_after_an_eviction(
    talkative: LoadedModel,
) -> None:
    conversation, text, num_evictions = Conversation(talkative, CONFIG), "", 0
    for turn in range(12):
        prompt = text + f"<user>And what about number {turn}?</>\n"
        first = list(conversation.reply(prompt, GREEDY))
        seen, stored = conversation.num_tokens, conversation.usage().num_stored_pairs
        again = list(conversation.reply(prompt, GREEDY))
        assert answer_of(again) == answer_of(first)
        assert (conversation.num_tokens, conversation.usage().num_stored_pairs) == (seen, stored)
        num_evictions += any(isinstance(event, RereadProgress) for event in first)
        # what was evicted at the turn's beginning is not read again
        assert not any(isinstance(event, RereadProgress) for event in again)
        text = prompt + answer_of(again)
    assert num_evictions >= 2


def test_a_turn_that_is_stopped_while_the_past_is_read_again_can_be_asked_again(
    talkative: LoadedModel,
) -> None:
    undisturbed, stopped = (Conversation(talkative, CONFIG) for _ in range(2))
    texts = [""] * 2
    for number, conversation in enumerate((undisturbed, stopped)):
        while conversation.num_tokens < 160:
            prompt = texts[number] + "<user>Go on about that.</>\n"
            texts[number] = prompt + answer_of(list(conversation.reply(prompt, GREEDY)))
    events = stopped.reply(texts[0] + "Why?", GREEDY)
    assert isinstance(next(events), RereadProgress)
    events.close()
    assert stopped.num_tokens == undisturbed.num_tokens
    one, other = (list(c.reply(texts[0] + "Why?", GREEDY)) for c in (undisturbed, stopped))
    assert answer_of(one) == answer_of(other)
    assert isinstance(other[0], RereadProgress)
    assert stopped.usage() == undisturbed.usage()


def test_settling_too_little_does_nothing(talkative: LoadedModel) -> None:
    cache = CompressedCache(talkative.model, CONFIG)
    generator, prompt = Generator(talkative), list(b"The quick brown fox jumps over the lazy dog.")
    assert list(generator.settle([], cache)) == []
    events = list(generator.generate(prompt, cache, GREEDY))
    assert isinstance(events[-1], Finished)
    ids = [*prompt, *events[-1].new_ids[:-1]]
    before = cache.usage()
    assert list(generator.settle(ids, cache)) == []
    assert cache.usage() == before
