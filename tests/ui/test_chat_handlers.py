"""The Chat tab's handlers as plain generators: what a person sees after each press."""

from __future__ import annotations

import pytest
from fake_engine import FakeEngine, numbered_words, out_of_memory
from test_following import ALL_WORDS, wait_for
from visitors import make_services, person

from nexusquant.config import PRESETS, SamplingParams
from nexusquant.engine import Message, RereadProgress
from nexusquant.engine.turns import MAX_JOBS_PER_OWNER, MAX_STARTED
from ui.chat_handlers import SHOWN_MESSAGES, ChatHandlers, shown
from ui.preset_figures import picker_text
from ui.sessions import NotYoursError
from ui.settings_handlers import SettingsHandlers


@pytest.fixture
def handlers(services):
    return ChatHandlers(services)


def roles_and_texts(view) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in view.messages]


def test_an_answer_is_streamed_and_ends_with_its_figures(handlers, workspace, script, me):
    # some ten updates: a busy machine may miss most of them
    script.token_delay_s = 0.1
    views = list(handlers.send("Count to twelve", workspace.id, me))
    assert views[0].draft == ""
    assert views[0].is_busy is True
    partial = [v.messages[-1]["content"] for v in views if v.messages and len(v.messages) == 2]
    assert len(set(partial)) >= 3
    last = views[-1]
    assert roles_and_texts(last) == [("user", "Count to twelve"), ("assistant", ALL_WORDS)]
    assert last.is_busy is False
    assert "Measured factor" in last.figures
    assert "12 tokens" in last.figures
    assert last.has_turns
    assert len(last.figure.data[0].x) == 1


def test_updates_come_at_about_ten_a_second_and_not_per_token(handlers, workspace, script, me):
    script.answer = lambda _prompt, _config: "word " * 300
    script.token_delay_s = 0.002
    views = list(handlers.send("Write much", workspace.id, me))
    assert 4 <= len(views) <= 20


def test_turns_share_one_growing_conversation(handlers, workspace, engine, me):
    list(handlers.send("first", workspace.id, me))
    last = list(handlers.send("second", workspace.id, me))[-1]
    assert len(last.messages) == 4
    assert "first" in engine.prompts[1]
    assert ALL_WORDS in engine.prompts[1]
    first, second = workspace.chat.turns()
    assert second.usage.num_seen_tokens > first.usage.num_seen_tokens


@pytest.mark.parametrize("text", ["", "   \n"])
def test_nothing_is_sent_when_nothing_was_written(handlers, workspace, engine, text, me):
    list(handlers.send(text, workspace.id, me))
    assert engine.prompts == []


def test_a_second_message_is_refused_while_an_answer_is_written(
    handlers, workspace, script, engine, me
):
    script.token_delay_s = 0.05
    stream = handlers.send("first", workspace.id, me)
    next(stream)
    refused = list(handlers.send("second", workspace.id, me))
    assert "Wait for the answer" in refused[-1].status
    list(stream)
    assert len(engine.prompts) == 1


def test_stop_is_answered_at_once_and_the_partial_answer_stays(handlers, workspace, script, me):
    script.token_delay_s = 0.05
    stream = handlers.send("Count", workspace.id, me)
    wait_for(lambda: "two" in workspace.chat.snapshot().text if next(stream) else False)
    assert "Stopping" in handlers.stop(workspace.id, me).status
    last = list(handlers.after_stop(workspace.id, me))[-1]
    assert "Stopped" in last.status
    assert last.is_busy is False
    assert last.messages[-1]["content"].startswith("one two")
    assert last.messages[-1]["content"] != ALL_WORDS


def test_stop_during_prefill_leaves_the_question_and_no_answer(handlers, workspace, script, me):
    script.chunk_delay_s, script.chunk_tokens = 0.02, 1
    stream = handlers.send("word " * 200, workspace.id, me)
    next(stream)
    wait_for(lambda: workspace.chat.snapshot().progress is not None)
    handlers.stop(workspace.id, me)
    last = list(handlers.after_stop(workspace.id, me))[-1]
    assert [role for role, _ in roles_and_texts(last)] == ["user"]


LONG_MESSAGE = "word " * 600


def test_reading_again_is_shown_before_the_answer_begins(handlers, workspace, script, me):
    script.chunk_delay_s = 0.05
    views = list(handlers.send(LONG_MESSAGE, workspace.id, me))
    again = ["Reading again to see what matters: " in (view.status or "") for view in views]
    assert any(again)
    # the first reading comes before it, and no word of the answer with it
    before = [view.status or "" for view in views[: again.index(True)]]
    assert any("Reading " in status and " tok/s" in status for status in before)
    shown_with = [view.messages for view, is_again in zip(views, again, strict=True) if is_again]
    assert {len(messages) for messages in shown_with} == {1}
    assert views[-1].status == ""
    assert views[-1].messages[-1]["content"] == ALL_WORDS


def test_a_preset_that_keeps_all_reads_once(handlers, workspace, script, me):
    workspace.use_config(PRESETS["safe"])
    script.chunk_delay_s = 0.02
    views = list(handlers.send(LONG_MESSAGE, workspace.id, me))
    assert not any("Reading again" in (view.status or "") for view in views)


def test_stop_during_the_second_reading_leaves_the_question_and_no_answer(
    handlers, workspace, script, me
):
    script.chunk_delay_s, script.chunk_tokens = 0.01, 10
    stream = handlers.send(LONG_MESSAGE, workspace.id, me)
    next(stream)
    wait_for(lambda: isinstance(workspace.chat.snapshot().progress, RereadProgress))
    handlers.stop(workspace.id, me)
    last = list(handlers.after_stop(workspace.id, me))[-1]
    assert "Stopped" in last.status
    assert [role for role, _ in roles_and_texts(last)] == ["user"]


def test_a_stopped_answer_can_be_written_again(handlers, workspace, script, me):
    test_stop_is_answered_at_once_and_the_partial_answer_stays(handlers, workspace, script, me)
    script.token_delay_s = 0.0
    last = list(handlers.regenerate(workspace.id, me))[-1]
    assert roles_and_texts(last) == [("user", "Count"), ("assistant", ALL_WORDS)]


def test_regenerate_replaces_the_last_answer_only(handlers, workspace, script, me):
    list(handlers.send("first", workspace.id, me))
    script.answer = lambda _prompt, _config: "another answer"
    last = list(handlers.regenerate(workspace.id, me))[-1]
    assert roles_and_texts(last) == [("user", "first"), ("assistant", "another answer")]


def test_regenerate_with_no_question_says_so(handlers, workspace, me):
    assert "no question" in list(handlers.regenerate(workspace.id, me))[-1].status


def test_a_new_chat_is_empty_and_old_words_are_not_read_again(handlers, workspace, engine, me):
    list(handlers.send("old secret", workspace.id, me))
    view = handlers.clear(workspace.id, me)
    assert view.messages == []
    assert view.has_turns is False
    list(handlers.send("new", workspace.id, me))
    assert "old secret" not in engine.prompts[-1]


def test_clearing_in_mid_answer_stops_it(handlers, workspace, script, engine, me):
    script.token_delay_s = 0.05
    stream = handlers.send("Count", workspace.id, me)
    next(stream)
    wait_for(lambda: workspace.chat.snapshot().text != "")
    follower = workspace.chat._follower
    assert handlers.clear(workspace.id, me).is_busy is False
    assert follower.wait(1)
    assert workspace.chat.messages() == []


def test_out_of_memory_is_explained_and_the_next_question_works(handlers, workspace, script, me):
    script.fail_next = out_of_memory()
    failed = list(handlers.send("too much", workspace.id, me))[-1]
    assert "ran out of memory" in failed.status
    assert "you can go on" in failed.status
    assert failed.is_busy is False
    fine = list(handlers.send("less", workspace.id, me))[-1]
    assert fine.messages[-1]["content"] == ALL_WORDS
    assert fine.status == ""


def test_a_message_longer_than_the_context_says_both_sizes(handlers, workspace, me):
    last = list(handlers.send("word " * 3000, workspace.id, me))[-1]
    assert "context holds 2048" in last.status


def test_a_message_longer_than_the_context_is_answered_once_the_offer_is_taken(
    handlers, workspace, services, me
):
    refused = list(handlers.send("word " * 3000, workspace.id, me))[-1]
    assert refused.offer == "Answer with scaled positions (yarn, factor 1.5)"
    assert workspace.chat.scaling is None
    first, *_, last = handlers.take_offer(workspace.id, me)
    assert first.offer == last.offer == ""
    assert last.messages[-1]["content"] == ALL_WORDS
    assert "scaled here (yarn, factor 1.5)" in last.status
    # the gauge counts with the longer context
    assert "3,072 tokens of context" in last.gauge
    # it is this chat's alone, and ends with it
    other = services.sessions.open(None, "local")
    assert other.chat.scaling is None
    handlers.clear(workspace.id, me)
    assert workspace.chat.scaling is None


def test_presets_are_tested_with_the_offer_that_was_taken_and_a_warning_stands_with_them(
    handlers, workspace, services, engine, me
):
    list(handlers.send("word " * 3000, workspace.id, me))
    assert services.report_of(workspace) is None
    last = list(handlers.take_offer(workspace.id, me))[-1]
    assert "The presets are tested with these positions" in last.status
    wait_for(lambda: services.report_of(workspace) is not None)
    report = services.report_of(workspace)
    assert report.scaling == "yarn, factor 1.5"
    told = picker_text(PRESETS["max"], report)
    assert "On this model with scaled positions (yarn, factor 1.5)" in told
    assert "Max is unsafe for this model" in told
    # one that damages this chat is asked about before it is used in it
    settings = SettingsHandlers(services)
    assert settings.choose_preset("max", workspace.id, me).asked == "max"
    # others are as they were, and the same is not measured twice
    assert services.report_of(services.sessions.open(None, "local")) is None
    services.models.test_scaled(workspace.chat.scaling)
    assert engine.num_tests == 1


def test_another_model_ends_a_test_with_scaled_positions(handlers, workspace, services, script, me):
    script.test_delay_s = 0.05
    list(handlers.send("word " * 3000, workspace.id, me))
    list(handlers.take_offer(workspace.id, me))
    scaling = workspace.chat.scaling
    services.models.load("another/model").wait(5)
    assert services.models.report_for(scaling) is None


def test_without_a_refusal_there_is_nothing_to_take(handlers, workspace, me):
    assert list(handlers.send("hello", workspace.id, me))[-1].offer == ""
    assert list(handlers.take_offer(workspace.id, me))[-1].offer == ""
    assert workspace.chat.scaling is None


def test_scaled_positions_end_with_the_model_they_were_for(handlers, workspace, services, me):
    list(handlers.send("word " * 3000, workspace.id, me))
    list(handlers.take_offer(workspace.id, me))
    services.models.load("another/model").wait(5)
    last = list(handlers.send("hello", workspace.id, me))[-1]
    assert workspace.chat.scaling is None
    assert last.status == ""


def test_an_error_with_markup_is_escaped(handlers, workspace, script, me):
    script.fail_next = ValueError("<img src=x onerror=alert(1)>")
    last = list(handlers.send("a", workspace.id, me))[-1]
    assert "<img" not in last.status
    assert "&lt;img" in last.status


def test_a_message_waits_for_the_model_that_is_being_loaded(script, tmp_path, me):
    script.load_delay_s = 0.05
    engine = FakeEngine(script, is_loaded=False)
    services = make_services(engine, tmp_path)
    services.models.load(None)
    workspace = services.sessions.open(None, "local")
    views = list(ChatHandlers(services).send("hello", workspace.id, me))
    assert any(v.status and "until the model is loaded" in v.status for v in views)
    assert views[-1].messages[-1]["content"] == numbered_words("", PRESETS["off"])
    engine.close()


def test_a_message_comes_back_to_the_input_when_there_is_no_model(script, tmp_path, me):
    engine = FakeEngine(script, is_loaded=False)
    services = make_services(engine, tmp_path)
    services.models.load("missing/model").wait(5)
    workspace = services.sessions.open(None, "local")
    last = list(ChatHandlers(services).send("my long question", workspace.id, me))[-1]
    assert last.draft == "my long question"
    assert "could not be loaded" in last.status
    assert "Settings" in last.status
    engine.close()


def test_a_new_model_starts_afresh_and_says_so(handlers, services, workspace, engine, me):
    list(handlers.send("to the old model", workspace.id, me))
    services.models.load("another/model").wait(5)
    last = list(handlers.send("to the new model", workspace.id, me))[-1]
    assert "to the old model" not in engine.prompts[-1]
    texts = [text for _, text in roles_and_texts(last)]
    assert texts[0] == "to the old model"
    assert any("model was changed" in text for text in texts)


def test_a_loaded_page_follows_an_answer_that_is_being_written(handlers, workspace, script, me):
    script.token_delay_s = 0.05
    stream = handlers.send("Count", workspace.id, me)
    next(stream)
    wait_for(lambda: workspace.chat.snapshot().text != "")
    views = list(handlers.follow(workspace.id, person(page="page-2")))
    assert "went on" in views[0].status
    assert views[-1].messages[-1]["content"] == ALL_WORDS
    assert "went on" not in views[-1].status


def test_two_chats_are_answered_in_turns(handlers, services, workspace, script, me):
    script.token_delay_s = 0.2
    first = handlers.send("Count", workspace.id, me)
    next(first)
    wait_for(lambda: workspace.chat.snapshot().text != "")
    other = services.sessions.open(None, "local")
    views = list(handlers.send("Count too", other.id, person(page="page-2")))
    assert views[-1].messages[-1]["content"] == ALL_WORDS
    # neither waited for the other's end
    assert not any(v.status and "2nd in line" in v.status for v in views)
    assert list(first)[-1].messages[-1]["content"] == ALL_WORDS


def test_a_chat_that_must_wait_is_told_its_place_in_line(handlers, services, script):
    script.token_delay_s = 0.5
    chats = [services.sessions.open(None, "local") for _ in range(MAX_STARTED + 2)]
    for chat in chats[:-1]:
        assert chat.chat.send("Count", SamplingParams())
    wait_for(lambda: all(chat.chat.snapshot().text for chat in chats[:MAX_STARTED]))
    views = []
    for view in handlers.send("Count too", chats[-1].id, person()):
        views.append(view)
        if view.status and "3rd in line" in view.status:
            script.token_delay_s = 0.0
    assert script.token_delay_s == 0.0
    assert views[-1].messages[-1]["content"] == ALL_WORDS


def test_too_many_questions_of_one_person_are_refused_with_the_reason(services, handlers, script):
    script.token_delay_s = 0.05
    chats = [services.sessions.open(None, "ada") for _ in range(MAX_JOBS_PER_OWNER + 1)]
    for chat in chats[:-1]:
        assert chat.chat.send("Count", SamplingParams())
    wait_for(lambda: services.engine.num_waiting == MAX_JOBS_PER_OWNER - 1)
    views = list(handlers.send("Count too", chats[-1].id, person("ada")))
    assert "of your requests are waiting" in views[-1].status
    assert views[-1].draft == "Count too"
    for chat in chats:
        chat.stop_all()


def test_each_phase_is_announced_once(handlers, workspace, script, me):
    script.token_delay_s = 0.04
    views = list(handlers.send("Count", workspace.id, me))
    spoken = [view.spoken for view in views if view.spoken]
    assert sum("answering" in text for text in spoken) == 1
    assert "done, 12 words" in spoken[-1]


def test_no_handler_serves_somebody_elses_chat(handlers, services):
    hers = services.sessions.open(None, "ada")
    for call in (handlers.stop, handlers.clear):
        with pytest.raises(NotYoursError):
            call(hers.id, person("bob"))
    for call in (handlers.regenerate, handlers.follow):
        with pytest.raises(NotYoursError):
            next(call(hers.id, person("bob")))
    with pytest.raises(NotYoursError):
        next(handlers.send("hello", hers.id, person("bob")))


def test_a_long_chat_draws_its_end_and_says_what_it_leaves_out():
    messages = [Message("user", str(number)) for number in range(SHOWN_MESSAGES + 7)]
    drawn = shown(messages)
    assert len(drawn) == SHOWN_MESSAGES + 1
    assert drawn[0]["content"].startswith("*7 earlier messages")
    assert drawn[-1]["content"] == str(SHOWN_MESSAGES + 6)
