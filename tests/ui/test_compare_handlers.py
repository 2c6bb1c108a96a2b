"""The Compare tab's handlers: two runs in turn, honest figures, the first difference."""

from __future__ import annotations

import pytest
from fake_engine import out_of_memory
from test_following import wait_for
from visitors import uploaded

from ui.compare_handlers import CURRENT, CompareHandlers
from ui.document_handlers import DocumentHandlers
from ui.following import Phase


@pytest.fixture
def handlers(services):
    return CompareHandlers(services)


def by_preset(_prompt, config):
    return "the sky is blue today" if config.is_off else "the sky is green today"


def run(handlers, workspace, me, with_document=False):
    return list(handlers.run("What colour is it?", "off", CURRENT, with_document, workspace.id, me))


def test_both_answers_stand_side_by_side_with_the_first_difference_marked(
    handlers, workspace, script, me
):
    script.answer = by_preset
    last = run(handlers, workspace, me)[-1]
    assert "Off" in last.left
    assert "Balanced" in last.right
    assert 'is <mark class="nq-first">blue</mark> today' in last.left
    assert 'is <mark class="nq-first">green</mark> today' in last.right
    assert "at word 4 of 5" in last.table
    for label in ("KV cache stored", "Factor, measured", "First token", "Answering speed"):
        assert label in last.table


def test_the_same_text_is_called_the_same(handlers, workspace, me):
    last = run(handlers, workspace, me)[-1]
    assert "The same text, word for word (12 words)" in last.table
    assert "<mark" not in last.left


def test_the_second_side_waits_for_the_first_and_the_page_says_so(
    handlers, workspace, script, engine, me
):
    script.token_delay_s = 0.03
    views = run(handlers, workspace, me)
    assert "one after the other" in views[0].status
    assert "Waits for the other side" in views[0].right
    assert engine.num_overlaps == 0
    assert len(engine.prompts) == 2


def test_only_the_side_that_evicts_reads_twice(handlers, workspace, script, me):
    script.chunk_delay_s = 0.05
    views = list(handlers.run("word " * 500, "off", CURRENT, False, workspace.id, me))
    assert any("Reading again to see what matters" in (view.right or "") for view in views)
    assert not any("Reading again" in (view.left or "") for view in views)


def test_both_sides_take_the_likeliest_token(handlers, workspace, services, me):
    seen = []
    original = services.engine.new_conversation

    def watch(config):
        conversation = original(config)
        reply = conversation.reply
        conversation.reply = lambda text, params: (seen.append(params), reply(text, params))[1]
        return conversation

    services.engine.new_conversation = watch
    run(handlers, workspace, me)
    assert [params.temperature for params in seen] == [0.0, 0.0]


def test_comparing_leaves_no_cache_behind(handlers, workspace, services, me):
    made = []
    original = services.engine.new_conversation
    services.engine.new_conversation = lambda config: made.append(original(config)) or made[-1]
    run(handlers, workspace, me)
    assert [conversation.is_closed for conversation in made] == [True, True]


def test_stop_ends_both_sides(handlers, workspace, script, engine, me):
    script.token_delay_s = 0.05
    stream = handlers.run("Count", "off", "max", False, workspace.id, me)
    next(stream)
    wait_for(lambda: workspace.compare.sides()[0].now.text != "")
    handlers.stop(workspace.id, me)
    last = list(stream)[-1]
    assert last.is_busy is False
    assert last.table == ""
    assert {side.now.phase for side in workspace.compare.sides()} == {Phase.STOPPED}
    assert len(engine.prompts) == 1


def test_one_side_out_of_memory_is_said_and_nothing_is_compared(handlers, workspace, script, me):
    script.fail_next = out_of_memory()
    last = run(handlers, workspace, me)[-1]
    assert "ran out of memory" in last.left
    assert "one two three" in last.right
    assert last.table == ""


def test_a_document_of_the_documents_tab_can_be_compared_over(
    handlers, services, workspace, tmp_path, engine, me
):
    path = tmp_path / "notes.txt"
    path.write_text("The sky over the harbour was green.\n" * 100)
    assert handlers.document_choice(workspace.id, me).document_label == ""
    list(DocumentHandlers(services).open_file(uploaded(services, path), workspace.id, me))
    assert "Over notes.txt, pages 1-" in handlers.document_choice(workspace.id, me).document_label
    last = run(handlers, workspace, me, with_document=True)[-1]
    assert "The same text" in last.table
    assert all("harbour was green" in prompt for prompt in engine.prompts)


def test_a_document_too_long_for_a_side_is_refused_there_and_not_cut(
    handlers, services, workspace, tmp_path, me
):
    path = tmp_path / "long.txt"
    path.write_text("The sky over the harbour was green.\n" * 400)
    list(DocumentHandlers(services).open_file(uploaded(services, path), workspace.id, me))
    last = run(handlers, workspace, me, with_document=True)[-1]
    assert 'role="alert"' in last.left
    assert last.table == ""


def test_the_pages_chosen_in_documents_are_the_ones_compared_over(
    handlers, services, workspace, tmp_path, engine, me
):
    path = tmp_path / "notes.txt"
    path.write_text("".join(f"line <{number}> of the notes\n" for number in range(400)))
    documents = DocumentHandlers(services)
    list(documents.open_file(uploaded(services, path), workspace.id, me))
    documents.choose_pages("2", workspace.id, me)
    assert handlers.document_choice(workspace.id, me).document_label.endswith("pages 2")
    run(handlers, workspace, me, with_document=True)
    assert "line <399>" not in engine.prompts[-1]
    assert "line <5>" not in engine.prompts[-1]


def test_a_second_comparison_waits_for_the_first(handlers, workspace, script, me):
    script.token_delay_s = 0.03
    stream = handlers.run("Count", "off", "max", False, workspace.id, me)
    next(stream)
    assert "Wait for the comparison" in run(handlers, workspace, me)[-1].status
    list(stream)


def test_no_question_is_asked_when_none_was_written(handlers, workspace, engine, me):
    list(handlers.run("  ", "off", "max", False, workspace.id, me))
    assert engine.prompts == []
