"""What is in the cache is not read again, and going back is exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexusquant.config import PRESETS, SamplingParams
from nexusquant.engine import Conversation, LoadedModel, PrefillProgress, TextDelta
from nexusquant.errors import CacheStateError

GREEDY = SamplingParams(max_new_tokens=24, temperature=0)
DOCUMENT = "Once upon a time there was a river that ran uphill. " * 12


def drain(events) -> tuple[str, int]:
    """Text of the answer, and the tokens read for it."""
    text, num_read = "", 0
    for event in events:
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, PrefillProgress):
            num_read = event.num_total
    return text, num_read


@pytest.fixture(params=["off", "safe", "high"])
def conversation(tiny: LoadedModel, request: pytest.FixtureRequest) -> Conversation:
    return Conversation(tiny, PRESETS[request.param])


def test_questions_read_only_what_follows_the_document(conversation: Conversation) -> None:
    drain(conversation.read(DOCUMENT))
    _, num_read = drain(conversation.reply(DOCUMENT + "Why?", GREEDY))
    assert num_read == len("Why?")


def test_a_question_asked_again_after_others_gets_the_same_answer(
    conversation: Conversation,
) -> None:
    drain(conversation.read(DOCUMENT))
    first, _ = drain(conversation.reply(DOCUMENT + "What ran uphill?", GREEDY))
    drain(conversation.reply(DOCUMENT + "Who cares? " * 9, GREEDY))
    again, _ = drain(conversation.reply(DOCUMENT + "What ran uphill?", GREEDY))
    assert again == first


def test_a_stopped_answer_leaves_the_document_as_it_was(conversation: Conversation) -> None:
    drain(conversation.read(DOCUMENT))
    expected, _ = drain(conversation.reply(DOCUMENT + "Really?", GREEDY))
    events = conversation.reply(DOCUMENT + "Tell me more", GREEDY)
    for _ in range(6):
        next(events)
    events.close()
    assert drain(conversation.reply(DOCUMENT + "Really?", GREEDY))[0] == expected


def test_answering_again_gives_the_same_answer_and_reads_only_the_question(
    conversation: Conversation,
) -> None:
    drain(conversation.read(DOCUMENT))
    prompt = DOCUMENT + "Is it deep?"
    first, _ = drain(conversation.reply(prompt, GREEDY))
    second, num_read = drain(conversation.reply(prompt, GREEDY))
    assert (second, num_read) == (first, len("Is it deep?"))


def test_an_answer_that_was_cut_off_is_not_read_again(conversation: Conversation) -> None:
    first = "Tell me of the river. "
    answer, _ = drain(conversation.reply(first, GREEDY))
    prompt = first + answer + " Go on."
    second, num_read = drain(conversation.reply(prompt, GREEDY))
    # its last token was never fed back
    assert num_read == 1 + len(" Go on.")
    assert conversation.num_tokens == len(first) + 24 + len(" Go on.") + 23
    # answered again, and once more after that, it is the same
    assert drain(conversation.reply(prompt, GREEDY)) == (second, num_read)


def test_an_unrelated_prompt_starts_from_nothing(conversation: Conversation) -> None:
    drain(conversation.read(DOCUMENT))
    _, num_read = drain(conversation.reply("Hello there", GREEDY))
    assert num_read == len("Hello there")
    assert conversation.num_tokens == len("Hello there") + GREEDY.max_new_tokens - 1


def test_reading_that_is_stopped_frees_the_cache(tiny: LoadedModel) -> None:
    conversation = Conversation(tiny, PRESETS["safe"])
    events = conversation.read(DOCUMENT)
    next(events)
    events.close()
    assert conversation.num_tokens == 0


def test_a_text_that_does_not_fit_is_refused_and_nothing_is_held(tiny: LoadedModel) -> None:
    conversation = Conversation(tiny, PRESETS["safe"])
    with pytest.raises(ValueError, match="context holds 1,024"):
        drain(conversation.read(DOCUMENT * 3))
    assert conversation.num_tokens == 0


def test_a_saved_document_answers_as_before(tiny: LoadedModel, tmp_path: Path) -> None:
    conversation = Conversation(tiny, PRESETS["high"])
    drain(conversation.read(DOCUMENT))
    expected, _ = drain(conversation.reply(DOCUMENT + "Why?", GREEDY))
    conversation.save(tmp_path / "river.safetensors")
    other = Conversation(tiny, PRESETS["high"])
    other.restore(tmp_path / "river.safetensors", DOCUMENT)
    assert drain(other.reply(DOCUMENT + "Why?", GREEDY)) == (expected, len("Why?"))


def test_a_saved_document_of_another_preset_is_refused(tiny: LoadedModel, tmp_path: Path) -> None:
    conversation = Conversation(tiny, PRESETS["high"])
    drain(conversation.read(DOCUMENT))
    conversation.save(tmp_path / "river.safetensors")
    with pytest.raises(CacheStateError, match="other settings"):
        Conversation(tiny, PRESETS["safe"]).restore(tmp_path / "river.safetensors", DOCUMENT)


def test_saving_before_reading_is_refused(tiny: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to save"):
        Conversation(tiny, PRESETS["high"]).save(tmp_path / "x")
    assert not list(tmp_path.iterdir())
