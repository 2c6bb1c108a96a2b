"""Sessions: read once, ask often, never cut, never in the cache from two threads."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from scripted_engine import ScriptedConversation, ScriptedEngine

from nexusquant.config import PRESETS, SamplingParams
from nexusquant.documents import Document, DocumentSession, Page
from nexusquant.documents.prompt import ANSWER_LEAD
from nexusquant.engine import Job, JobState, PrefillProgress, RereadProgress, TextDelta
from nexusquant.errors import CacheStateError, ContextLengthError, DocumentError

SAMPLING = SamplingParams()
DOCUMENT = Document(
    name="story.txt",
    kind="text",
    pages=(Page(1, "one " * 20), Page(2, "two " * 30), Page(3, ""), Page(4, "four " * 40)),
    sha256="",
)


def events_of(job: Job) -> list:
    events = [event for batch in job.batches(0.01) for event in batch]
    assert job.error is None
    return events


def answer_of(job: Job) -> str:
    return "".join(event.text for event in events_of(job) if isinstance(event, TextDelta))


def open_session(engine: ScriptedEngine, *numbers: int) -> DocumentSession:
    return DocumentSession(engine, DOCUMENT, numbers or (1, 2, 3, 4), PRESETS["off"])


def read_session(engine: ScriptedEngine, *numbers: int) -> DocumentSession:
    session = open_session(engine, *numbers)
    events_of(session.read())
    return session


def cache_of(engine: ScriptedEngine) -> ScriptedConversation:
    return engine.conversations[-1]


def test_only_the_chosen_pages_are_read(engine) -> None:
    session = open_session(engine, 4, 1)
    assert session.is_read is False
    events_of(session.read())
    assert session.is_read is True
    text = cache_of(engine).cached
    assert "[page 1]\none" in text
    assert "[page 4]\nfour" in text
    assert "two" not in text


def test_every_question_begins_with_what_is_in_the_cache(engine) -> None:
    session = read_session(engine)
    for question in ("Who?", "Why?"):
        events_of(session.ask(question, SAMPLING))
    cache = cache_of(engine)
    assert len(engine.conversations) == 1
    assert len(cache.prompts) == 2
    assert all(prompt.startswith(cache.cached) for prompt in cache.prompts)
    assert "Who?" not in cache.prompts[1]


def test_answers_begin_with_the_words_the_model_was_given(engine) -> None:
    session = read_session(engine)
    answer = answer_of(session.ask("Is it?", SAMPLING))
    assert cache_of(engine).prompts[0].endswith(ANSWER_LEAD)
    assert answer == f"{ANSWER_LEAD} 2, yes."
    assert session.cited_pages(answer) == (2,)


def test_pages_that_were_not_read_are_not_cited(engine) -> None:
    session = open_session(engine, 1, 2)
    assert session.cited_pages("pages 1-4 and p. 2") == (1, 2)


def test_progress_names_the_page_being_read(engine) -> None:
    session = open_session(engine, 1, 2, 4)
    events = [event for event in events_of(session.read()) if isinstance(event, PrefillProgress)]
    seen = [session.progress(event) for event in events]
    pages = [progress.page for progress in seen]
    assert pages == sorted(pages)
    assert set(pages) == {1, 2, 4}
    assert {progress.num_pages for progress in seen} == {3}
    assert all(progress.tok_s == pytest.approx(100) for progress in seen)
    first, last = seen[0], seen[-1]
    assert first.left_s == pytest.approx((first.num_total - first.num_done) / 100)
    assert (last.page, last.left_s, last.num_done) == (4, 0, last.num_total)


def test_a_page_is_named_from_the_first_token_of_its_mark_on(engine) -> None:
    session = read_session(engine, 1, 2)
    text = cache_of(engine).cached
    mark = engine.count_tokens(text[: text.index("[page 2]")].rstrip())
    pages = [session.progress(PrefillProgress(n, 99, 1.0)).page for n in (0, mark, mark + 1)]
    assert pages == [1, 1, 2]


def test_questions_can_be_asked_only_after_the_second_reading(engine) -> None:
    session = DocumentSession(engine, DOCUMENT, (1, 2), PRESETS["balanced"])
    was_read = []
    engine.before_chunk = lambda: was_read.append(session.is_read)
    *first, last = events_of(session.read())
    assert {type(event) for event in first} == {PrefillProgress}
    assert isinstance(last, RereadProgress)
    assert was_read == [False] * (len(first) + 1)
    assert session.is_read


def test_speed_is_unknown_before_there_is_one(engine) -> None:
    progress = open_session(engine).progress(PrefillProgress(0, 100, 0.0))
    assert (progress.page, progress.tok_s, progress.left_s) == (1, 0.0, None)


def test_what_does_not_fit_is_refused_with_what_would_and_nothing_is_cut() -> None:
    engine = ScriptedEngine(context_length=690)
    session = open_session(engine)
    with pytest.raises(ValueError, match=r"context holds 690: (\d) of 4 pages fit.*choose pages 1"):
        session.read()
    assert engine.conversations == []
    assert session.is_read is False
    engine.close()


def test_pages_that_do_not_fit_are_read_once_their_positions_are_scaled() -> None:
    engine = ScriptedEngine(context_length=690)
    with pytest.raises(ContextLengthError, match="positions scaled") as refusal:
        open_session(engine).read()
    assert refusal.value.context_length == 690
    numbers = tuple(page.number for page in DOCUMENT.pages)
    offer = refusal.value.offers[0]
    session = DocumentSession(engine, DOCUMENT, numbers, PRESETS["off"], offer)
    events_of(session.read())
    assert session.is_read
    engine.close()


@pytest.mark.parametrize(
    ("numbers", "sentence"), [((1, 9), "has no page 9; choose from pages 1 to 4"), ((), "no page")]
)
def test_pages_that_do_not_exist_are_refused(engine, numbers, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DocumentSession(engine, DOCUMENT, numbers, PRESETS["off"])


def test_pages_without_text_alone_are_refused(engine) -> None:
    with pytest.raises(DocumentError, match="have no text"):
        open_session(engine, 3)


def test_a_question_needs_a_document_that_was_read(engine) -> None:
    with pytest.raises(CacheStateError, match="has not been read"):
        open_session(engine).ask("Who?", SAMPLING)


def test_an_empty_question_is_refused(engine) -> None:
    with pytest.raises(ValueError, match="There is no question"):
        read_session(engine).ask("  \n", SAMPLING)


def test_shares_are_asked_for_ranges_that_cover_the_pages_and_do_not_overlap(engine) -> None:
    session = read_session(engine, 1, 2, 4)
    assert session.page_shares() == [(1, 1), (2, 1 / 2), (4, 1 / 3)]
    cache = cache_of(engine)
    ranges, offsets = cache.ranges, engine.token_offsets(cache.cached)
    for (start, _), number in zip(ranges, (1, 2, 4), strict=True):
        assert cache.cached[offsets[start] :].lstrip().startswith(f"[page {number}]")
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    assert ranges[-1][1] == len(offsets)


def test_nothing_is_measured_before_there_is_a_cache(engine) -> None:
    session = open_session(engine)
    assert session.usage() is None
    assert session.page_shares() == []
    events_of(session.read())
    assert session.usage().num_seen_tokens == engine.count_tokens(cache_of(engine).cached)


def test_closing_frees_the_cache_and_reading_again_makes_another(engine) -> None:
    session = read_session(engine)
    session.close()
    session.close()
    assert engine.conversations[0].is_closed
    assert session.is_read is False
    assert session.usage() is None
    events_of(session.read())
    assert session.is_read is True
    assert len(engine.conversations) == 2


def test_a_stopped_reading_leaves_the_document_unread(engine) -> None:
    session = open_session(engine)
    gate = threading.Event()
    engine.before_chunk = gate.wait
    job = session.read()
    job.cancel()
    gate.set()
    assert job.wait(5)
    assert job.state is JobState.CANCELLED
    assert session.is_read is False


def test_closing_while_the_engine_reads_waits_for_it_on_its_own_thread(engine) -> None:
    session = open_session(engine)
    inside, gate = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        gate.wait(5)

    engine.before_chunk = hold
    job = session.read()
    assert inside.wait(5)
    session.close()
    assert cache_of(engine).is_closed is False
    gate.set()
    assert job.wait(5)
    assert engine.submit(lambda: iter(())).wait(5)
    assert cache_of(engine).is_closed is True
    assert session.is_read is False
