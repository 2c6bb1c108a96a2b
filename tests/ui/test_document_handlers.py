"""The Documents tab's handlers as plain generators, over real files and a fake model."""

from __future__ import annotations

import threading
import time

import pytest
from fake_engine import FakeEngine, out_of_memory
from test_following import ALL_WORDS, wait_for
from visitors import make_services, person, uploaded

from nexusquant.documents import Document, Page, PasswordError
from nexusquant.engine import RereadProgress
from nexusquant.errors import DocumentError
from ui import sessions
from ui.document_handlers import DocumentHandlers
from ui.sessions import NotYoursError

LINE = "The keeper wrote down the weather and counted the ships that passed.\n"


@pytest.fixture
def handlers(services):
    return DocumentHandlers(services)


@pytest.fixture
def long_file(tmp_path):
    """About 2,600 tokens of the fake tokenizer: more than its context of 2,048."""
    path = tmp_path / "notes & <b>more.md"
    path.write_text(LINE * 220)
    return path


@pytest.fixture
def short_file(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text(LINE * 100)
    return path


def opened(handlers, workspace, path, me):
    return list(handlers.open_file(uploaded(handlers._services, path), workspace.id, me))[-1]


def read_all(handlers, workspace, path, me):
    view = opened(handlers, workspace, path, me)
    return list(handlers.read(view.pages_text, workspace.id, me))[-1]


def test_pages_and_tokens_are_shown_before_anything_is_read(
    handlers, workspace, short_file, engine, me
):
    view = opened(handlers, workspace, short_file, me)
    num_pages = len(workspace.documents.opened.document.pages)
    assert view.is_open
    assert view.is_read is False
    assert f"{num_pages} pages" in view.card
    assert "1,200 tokens" in view.card
    assert view.pages_text == f"1-{num_pages}"
    assert "Fits" in view.fit
    assert engine.prompts == []


def test_what_does_not_fit_is_offered_as_a_choice_and_never_cut(handlers, workspace, long_file, me):
    view = opened(handlers, workspace, long_file, me)
    num_pages = len(workspace.documents.opened.document.pages)
    assert "Does not fit" in view.fit
    assert view.pages_text == f"1-{num_pages}"
    fewer = handlers.choose_fitting(view.pages_text, workspace.id, me)
    assert "Fits" in fewer.fit
    assert fewer.pages_text != view.pages_text
    assert f"first {fewer.pages_text.split('-')[-1]} pages" in view.fitting_button


def test_scaled_positions_are_offered_for_what_does_not_fit_and_kept_with_the_document(
    handlers, workspace, long_file, me
):
    view = opened(handlers, workspace, long_file, me)
    assert view.offer.startswith("Answer with scaled positions (yarn, factor ")
    taken = handlers.take_offer(view.pages_text, workspace.id, me)
    assert "Fits" in taken.fit
    assert "Positions are scaled here" in taken.fit
    assert taken.offer == taken.fitting_button == ""
    last = list(handlers.read(view.pages_text, workspace.id, me))[-1]
    assert last.is_read
    assert workspace.documents.read.session.scaling == workspace.documents.scaling
    # another file begins without
    assert opened(handlers, workspace, long_file, me).offer == view.offer


def test_reading_more_than_fits_is_refused_with_the_reason(handlers, workspace, long_file, me):
    last = read_all(handlers, workspace, long_file, me)
    assert last.is_read is False
    assert last.is_busy is False
    assert 'role="alert"' in last.status


def test_reading_shows_progress_by_page_and_ends_ready_for_questions(
    handlers, workspace, short_file, script, me
):
    script.chunk_delay_s = 0.05
    view = opened(handlers, workspace, short_file, me)
    views = list(handlers.read(view.pages_text, workspace.id, me))
    assert any(v.status and "Reading page 1," in v.status for v in views)
    last = views[-1]
    assert last.is_read
    assert last.status == ""
    assert "×" in last.gauge
    assert 'data-page="1"' in last.strip
    assert "read with Balanced" in last.strip


def test_the_second_reading_is_shown_with_the_time_left(
    handlers, workspace, short_file, script, me
):
    script.chunk_delay_s = 0.05
    view = opened(handlers, workspace, short_file, me)
    told = [v.status or "" for v in handlers.read(view.pages_text, workspace.id, me)]
    again = [text for text in told if "Reading again to see what matters: " in text]
    assert again
    assert all(" tokens, " in text and " left" in text for text in again)
    first = next(text for text in told if "Reading page 1," in text)
    assert "in the first of two readings" in first
    assert told.index(first) < told.index(again[0])


def test_an_answer_names_its_pages_and_they_can_be_shown(
    handlers, workspace, short_file, script, me
):
    read_all(handlers, workspace, short_file, me)
    script.answer = lambda _prompt, _config: "He counted ships [p. 2]. No such page: [p. 99]."
    last = list(handlers.ask("What did he count?", workspace.id, me))[-1]
    assert [m["role"] for m in last.messages] == ["user", "assistant"]
    assert last.cited == (2,)
    shown = handlers.show_page(2, workspace.id, me)
    assert "Page 2" in shown.page
    assert "counted the ships" in shown.page


def test_every_question_goes_to_the_document_alone(handlers, workspace, short_file, engine, me):
    read_all(handlers, workspace, short_file, me)
    list(handlers.ask("first question", workspace.id, me))
    last = list(handlers.ask("second question", workspace.id, me))[-1]
    assert "first question" not in engine.prompts[-1]
    assert "counted the ships" in engine.prompts[-1]
    assert len(last.messages) == 4
    # the document itself is not read a second time
    assert workspace.documents.read.last.stats.num_prompt_tokens < 100


def test_an_answer_that_is_there_at_once_is_noted(handlers, workspace, short_file, me, monkeypatch):
    read_all(handlers, workspace, short_file, me)

    class AtOnce(threading.Thread):
        def start(self):
            self.run()

    # it ends before anybody knows who follows it
    monkeypatch.setattr("ui.following.threading.Thread", AtOnce)
    messages = list(handlers.ask("first question", workspace.id, me))[-1].messages
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert workspace.documents.read.last.stats.num_new_tokens > 0


def test_only_the_chosen_pages_are_read(handlers, workspace, tmp_path, engine, me):
    path = tmp_path / "numbered.txt"
    path.write_text("".join(f"this line has number <{number}>\n" for number in range(250)))
    opened(handlers, workspace, path, me)
    pages = workspace.documents.opened.document.pages
    list(handlers.read("2", workspace.id, me))
    list(handlers.ask("Which?", workspace.id, me))
    assert pages[1].text.strip().splitlines()[1] in engine.prompts[-1]
    assert pages[0].text.strip().splitlines()[1] not in engine.prompts[-1]


@pytest.mark.parametrize("pages", ["abc", "0", "3-1", "1-999", ""])
def test_a_bad_choice_of_pages_is_explained(handlers, workspace, short_file, pages, me):
    opened(handlers, workspace, short_file, me)
    assert "nq-warn" in handlers.choose_pages(pages, workspace.id, me).fit
    assert "nq-warn" in list(handlers.read(pages, workspace.id, me))[-1].status


def test_stop_while_reading_keeps_nothing_and_says_so(handlers, workspace, short_file, script, me):
    view = opened(handlers, workspace, short_file, me)
    script.chunk_delay_s, script.chunk_tokens = 0.02, 1
    stream = handlers.read(view.pages_text, workspace.id, me)
    next(stream)
    wait_for(lambda: workspace.documents.snapshot().progress is not None)
    handlers.stop(workspace.id, me)
    last = list(handlers.after_stop(workspace.id, me))[-1]
    assert "Reading was stopped" in last.status
    assert last.is_read is False
    script.chunk_delay_s = 0.0
    assert list(handlers.read("1", workspace.id, me))[-1].is_read


def test_stop_in_the_second_reading_keeps_nothing_either(
    handlers, workspace, short_file, script, me
):
    view = opened(handlers, workspace, short_file, me)
    script.chunk_delay_s, script.chunk_tokens = 0.01, 16
    stream = handlers.read(view.pages_text, workspace.id, me)
    next(stream)
    wait_for(lambda: isinstance(workspace.documents.snapshot().progress, RereadProgress))
    handlers.stop(workspace.id, me)
    last = list(handlers.after_stop(workspace.id, me))[-1]
    assert "Reading was stopped" in last.status
    assert last.is_read is False


def test_a_stopped_answer_stays_and_the_document_is_still_read(
    handlers, workspace, short_file, script, me
):
    read_all(handlers, workspace, short_file, me)
    script.token_delay_s = 0.05
    stream = handlers.ask("Count", workspace.id, me)
    next(stream)
    wait_for(lambda: "two" in workspace.documents.snapshot().text)
    handlers.stop(workspace.id, me)
    last = list(handlers.after_stop(workspace.id, me))[-1]
    assert last.is_read
    assert "one two" in last.messages[-1]["content"]
    assert "twelve" not in last.messages[-1]["content"]
    script.token_delay_s = 0.0
    again = list(handlers.ask("Count again", workspace.id, me))[-1]
    assert again.messages[-1]["content"].endswith(ALL_WORDS)


def test_out_of_memory_while_reading_is_explained_and_fewer_pages_work(
    handlers, workspace, short_file, script, me
):
    script.fail_next = out_of_memory()
    assert "ran out of memory" in read_all(handlers, workspace, short_file, me).status
    assert list(handlers.read("1", workspace.id, me))[-1].is_read


def test_a_file_that_cannot_be_read_says_why(handlers, workspace, tmp_path, me):
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    last = opened(handlers, workspace, path, me)
    assert "is a picture" in last.status
    assert not last.is_open


def test_names_with_markup_are_escaped(handlers, services, workspace, long_file, me):
    views = list(handlers.open_file(uploaded(services, long_file), workspace.id, me))
    assert not any("<b>more" in (view.status or "") + (view.card or "") for view in views)
    assert "&lt;b&gt;more" in views[-1].card


def test_the_password_field_appears_only_for_a_locked_file(engine, tmp_path, me):
    def locked(path, *, password=None, name=None, **_):
        if password != "open sesame":
            raise PasswordError("This PDF is locked. Write its password.")
        return Document(name, "pdf", (Page(1, "a page"),), "00")

    services = make_services(engine, tmp_path, extract=locked)
    handlers, workspace = DocumentHandlers(services), services.sessions.open(None, "local")
    (tmp_path / "x.pdf").write_bytes(b"locked")
    asked = list(handlers.open_file(uploaded(services, tmp_path / "x.pdf"), workspace.id, me))[-1]
    assert asked.wants_password
    wrong = list(handlers.open_with_password("wrong", workspace.id, me))[-1]
    assert wrong.wants_password
    right = list(handlers.open_with_password("open sesame", workspace.id, me))[-1]
    assert right.is_open
    assert right.wants_password is False


def test_tokens_are_counted_once_the_model_is_there(script, short_file, tmp_path, me):
    script.load_delay_s = 0.05
    engine = FakeEngine(script, is_loaded=False)
    services = make_services(engine, tmp_path)
    services.models.load(None)
    workspace = services.sessions.open(None, "local")
    views = list(
        DocumentHandlers(services).open_file(uploaded(services, short_file), workspace.id, me)
    )
    assert "as soon as the model" in views[-2].fit
    assert "1,200 tokens" in views[-1].card
    engine.close()


def test_a_new_model_must_read_the_document_itself(handlers, services, workspace, short_file, me):
    read_all(handlers, workspace, short_file, me)
    services.models.load("another/model").wait(5)
    refused = list(handlers.ask("What?", workspace.id, me))[-1]
    assert "this model has not seen them" in refused.status


def test_a_new_file_takes_the_place_of_the_old_one(handlers, workspace, short_file, long_file, me):
    read_all(handlers, workspace, short_file, me)
    view = opened(handlers, workspace, long_file, me)
    assert view.is_read is False
    closed = list(handlers.open_file(None, workspace.id, me))[-1]
    assert closed.is_open is False
    assert closed.card == ""


def test_a_loaded_page_finds_document_questions_and_answers_again(
    handlers, workspace, short_file, me
):
    read_all(handlers, workspace, short_file, me)
    list(handlers.ask("Count", workspace.id, me))
    views = list(handlers.follow(workspace.id, person(page="page-2")))
    assert views[0].is_open
    assert "short.txt" in views[0].card
    assert views[-1].is_read
    assert views[-1].messages[-1]["content"].endswith(ALL_WORDS)


def test_questions_can_be_put_away_and_the_pages_stay_read(handlers, workspace, short_file, me):
    read_all(handlers, workspace, short_file, me)
    list(handlers.ask("Count", workspace.id, me))
    view = handlers.forget_questions(workspace.id, me)
    assert (view.messages, view.is_read, view.cited) == ([], True, ())
    assert len(list(handlers.ask("Count", workspace.id, me))[-1].messages) == 2


def test_nobody_reads_pages_of_somebody_elses_document(handlers, services, short_file):
    hers = services.sessions.open(None, "ada")
    list(handlers.open_file(uploaded(services, short_file, "ada"), hers.id, person("ada")))
    with pytest.raises(NotYoursError):
        handlers.show_page(1, hers.id, person("bob"))
    with pytest.raises(NotYoursError):
        next(handlers.ask("What?", hers.id, person("bob")))


@pytest.mark.parametrize("leaving", ["another file", "stop", "page", "closed"])
def test_a_file_that_nobody_waits_for_any_more_is_not_read_to_its_end(
    leaving, engine, tmp_path, short_file, me, monkeypatch
):
    asked, ended = threading.Event(), threading.Event()

    def endless(_path, *, is_wanted, **_):
        while is_wanted():
            asked.set()
            time.sleep(0.01)
        ended.set()
        raise DocumentError("Stopped.")

    services = make_services(engine, tmp_path, extract=endless)
    handlers, workspace = DocumentHandlers(services), services.sessions.open(None, "local")
    services.sessions.attach("page-1", workspace)
    opening = handlers.open_file(uploaded(services, short_file), workspace.id, me)
    threading.Thread(target=lambda: list(opening), daemon=True).start()
    assert asked.wait(5)
    if leaving == "another file":
        next(handlers.open_file(uploaded(services, short_file), workspace.id, me))
    elif leaving == "stop":
        handlers.stop(workspace.id, me)
    elif leaving == "page":
        monkeypatch.setattr(sessions, "RELOAD_S", 0.05)
        services.sessions.detach("page-1")
    else:
        list(handlers.open_file(None, workspace.id, me))
    assert ended.wait(5)
