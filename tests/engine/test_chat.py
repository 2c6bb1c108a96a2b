"""Turns on one growing cache, through the engine's thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nexusquant.config import PRESETS, RopeScaling, SamplingParams
from nexusquant.engine import ChatSession, Engine, Job, JobState, LoadedModel, Message, TextDelta

GREEDY = SamplingParams(max_new_tokens=12, temperature=0)


class TinyEngine(Engine):
    """The real engine around a model that is there already."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(Path("unused"), device="cpu")
        self._loaded = loaded


@pytest.fixture
def engine(tiny: LoadedModel) -> Iterator[Engine]:
    engine = TinyEngine(tiny)
    yield engine
    engine.close()


def answer(job: Job) -> str:
    text = "".join(e.text for batch in job.batches(0.01) for e in batch if isinstance(e, TextDelta))
    assert job.state is JobState.DONE, job.error
    return text


def test_three_turns_grow_one_cache(engine: Engine) -> None:
    chat = ChatSession(engine, PRESETS["safe"], system_prompt="Be brief.")
    answers = [answer(chat.send(question, GREEDY)) for question in ("One?", "Two?", "Three?")]
    assert [m.content for m in chat.messages if m.role == "assistant"] == answers
    seen = [turn.usage.num_seen_tokens for turn in chat.turns]
    assert seen == sorted(seen)
    assert len(set(seen)) == 3
    assert chat.usage() == chat.turns[-1].usage


def test_a_turn_that_ended_by_itself_is_not_read_again(tiny: LoadedModel) -> None:
    # every byte of the answer's first token ends it, so that the model ends by itself
    engine = TinyEngine(replace(tiny, end_ids=frozenset(range(257))))
    chat = ChatSession(engine, PRESETS["off"])
    answer(chat.send("A long question to begin with, so that the numbers differ", GREEDY))
    job = chat.send("Short", GREEDY)
    answer(job)
    prompt = engine.render(
        [Message("user", "A long question to begin with, so that the numbers differ")],
        add_generation_prompt=True,
    )
    whole = engine.render(chat.messages[:3], add_generation_prompt=True)
    assert chat.turns[1].num_prompt_tokens == len(whole) - len(prompt)
    engine.close()


def test_regenerate_answers_the_same_question_and_replaces_the_answer(engine: Engine) -> None:
    chat = ChatSession(engine, PRESETS["safe"])
    first = answer(chat.send("Question?", GREEDY))
    assert answer(chat.regenerate(GREEDY)) == first
    assert [m.role for m in chat.messages] == ["user", "assistant"]


def test_nothing_to_regenerate_is_said(engine: Engine) -> None:
    with pytest.raises(ValueError, match="no question"):
        ChatSession(engine, PRESETS["off"]).regenerate(GREEDY)


def test_a_stopped_answer_stays_as_far_as_it_got_and_the_chat_goes_on(engine: Engine) -> None:
    chat = ChatSession(engine, PRESETS["safe"])
    job = chat.send("Question?", replace(GREEDY, max_new_tokens=800))
    for batch in job.batches(0.01):
        if any(isinstance(event, TextDelta) and event.text for event in batch):
            job.cancel()
            break
    assert job.wait(5)
    assert job.state is JobState.CANCELLED
    assert chat.messages[-1].role == "assistant"
    assert chat.messages[-1].content
    answer(chat.send("Go on", GREEDY))
    assert len(chat.messages) == 4


def test_another_preset_reads_the_chat_again_and_keeps_it(engine: Engine) -> None:
    chat = ChatSession(engine, PRESETS["off"])
    answer(chat.send("Question?", GREEDY))
    chat.change_config(PRESETS["high"])
    answer(chat.send("And?", GREEDY))
    whole = engine.render(chat.messages[:3], add_generation_prompt=True)
    assert chat.turns[-1].num_prompt_tokens == len(whole.encode())


def test_a_chat_loses_nothing_while_it_is_short(engine: Engine) -> None:
    chat = ChatSession(engine, PRESETS["max"])
    answer(chat.send("Remember what is said here. " * 18, GREEDY))
    answer(chat.send("And what is said now. " * 12, GREEDY))
    usage = chat.usage()
    assert usage.num_seen_tokens > 3 * PRESETS["max"].eviction.min_span
    assert usage.kept_share == 1
    # what is shown and chosen is the preset
    assert chat.config == PRESETS["max"]
    chat.change_config(PRESETS["high"])
    answer(chat.send("Again?", GREEDY))
    assert chat.usage().kept_share == 1


def test_clear_forgets_everything(engine: Engine) -> None:
    chat = ChatSession(engine, PRESETS["safe"])
    answer(chat.send("Question?", GREEDY))
    chat.clear()
    assert (chat.messages, chat.turns, chat.usage()) == ([], [], None)


def test_a_message_too_long_for_the_context_fails_and_the_chat_survives(engine: Engine) -> None:
    chat = ChatSession(engine, PRESETS["safe"])
    job = chat.send("x" * 2000, GREEDY)
    assert job.wait(5)
    assert job.state is JobState.FAILED
    assert "context holds 1,024" in str(job.error)
    answer(chat.send("Short", GREEDY))
    assert chat.messages[0].content == "Short"


def test_two_chats_on_one_engine_do_not_see_each_other(engine: Engine) -> None:
    alone = answer(ChatSession(engine, PRESETS["safe"]).send("Hello", GREEDY))
    one, two = ChatSession(engine, PRESETS["safe"]), ChatSession(engine, PRESETS["safe"])
    jobs = [two.send("Something else entirely", GREEDY), one.send("Hello", GREEDY)]
    assert [answer(job) for job in jobs][1] == alone


@pytest.mark.parametrize("preset", ["off", "safe", "max"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_chats_that_take_turns_say_what_each_says_alone(
    tiny: LoadedModel, preset: str, temperature: float
) -> None:
    texts = {"ada": "One long text after another. " * 25, "bob": "Short", "eve": "Words. " * 60}
    params = replace(GREEDY, temperature=temperature, seed=7)
    scaled = {"eve": RopeScaling(factor=2.0)}

    def chat(engine: Engine, name: str) -> ChatSession:
        return ChatSession(engine, PRESETS[preset], owner=name, scaling=scaled.get(name))

    def both_turns(engine: Engine, names: list[str]) -> dict[str, list[str]]:
        chats = {name: chat(engine, name) for name in names}
        said = {name: [] for name in names}
        for question in (texts.__getitem__, lambda name: f"And {name}?"):
            jobs = {name: chats[name].send(question(name), params) for name in names}
            for name, job in jobs.items():
                said[name].append(answer(job))
        return said

    engine = TinyEngine(tiny)
    alone = {name: both_turns(engine, [name])[name] for name in texts}
    # every event ends a turn
    engine._worker._slice_s = 0.0
    assert both_turns(engine, list(texts)) == alone
    engine.close()
