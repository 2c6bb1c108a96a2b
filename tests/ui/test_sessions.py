"""Workspaces: whose they are, how long they live, how much they may hold."""

from __future__ import annotations

import time
from types import SimpleNamespace

import gradio as gr
import pytest
from test_following import wait_for
from visitors import make_services

from nexusquant.config import PRESETS, SamplingParams
from ui import sessions
from ui.following import Phase
from ui.services import is_at_this_computer, owner_of
from ui.sessions import NotYoursError


def answered(workspace, text: str = "hello there") -> None:
    assert workspace.chat.send(text, SamplingParams())
    wait_for(lambda: not workspace.chat.is_busy)


def test_the_id_in_the_address_brings_the_chat_back(services):
    workspace = services.sessions.open(None, "ada")
    answered(workspace)
    again = services.sessions.open(workspace.id, "ada")
    assert again is workspace
    assert [m.role for m in again.chat.messages()] == ["user", "assistant"]


def test_somebody_elses_id_opens_an_empty_chat_of_ones_own(services):
    hers = services.sessions.open(None, "ada")
    answered(hers)
    his = services.sessions.open(hers.id, "bob")
    assert his.id != hers.id
    assert his.chat.messages() == []


def test_a_handler_refuses_a_workspace_of_somebody_else(services):
    hers = services.sessions.open(None, "ada")
    with pytest.raises(NotYoursError):
        services.sessions.get(hers.id, "bob")


def test_ids_cannot_be_guessed(services):
    ids = {services.sessions.open(None, "ada").id for _ in range(20)}
    assert len(ids) == 20
    assert min(len(one) for one in ids) >= 16


def test_a_page_that_comes_back_in_time_finds_its_answer_still_being_written(
    engine, script, tmp_path
):
    script.token_delay_s = 0.02
    services = make_services(engine, tmp_path, grace_s=0.1)
    workspace = services.sessions.open(None, "ada")
    services.sessions.attach("page-1", workspace)
    workspace.chat.send("hello", SamplingParams())
    services.sessions.detach("page-1")
    services.sessions.attach("page-2", services.sessions.open(workspace.id, "ada"))
    wait_for(lambda: not workspace.chat.is_busy)
    assert workspace.chat.snapshot().phase is Phase.DONE


def test_work_of_a_page_that_stays_away_is_stopped(engine, script, tmp_path):
    script.token_delay_s = 0.05
    services = make_services(engine, tmp_path, grace_s=0.1)
    workspace = services.sessions.open(None, "ada")
    services.sessions.attach("page-1", workspace)
    workspace.chat.send("hello", SamplingParams())
    wait_for(lambda: workspace.chat.snapshot().text != "")
    services.sessions.detach("page-1")
    wait_for(lambda: not workspace.chat.is_busy)
    assert workspace.chat.snapshot().phase is Phase.STOPPED
    assert [m.role for m in workspace.chat.messages()] == ["user", "assistant"]


def test_the_timer_of_one_page_does_not_stop_another_that_has_just_left(engine, script, tmp_path):
    script.token_delay_s = 0.05
    services = make_services(engine, tmp_path, grace_s=0.3)
    early, late = services.sessions.open(None, "ada"), services.sessions.open(None, "ada")
    services.sessions.attach("early", early)
    services.sessions.attach("late", late)
    services.sessions.detach("early")
    late.chat.send("hello", SamplingParams())
    time.sleep(0.2)
    services.sessions.detach("late")
    time.sleep(0.2)
    assert late.chat.is_busy
    wait_for(lambda: not late.chat.is_busy)
    assert late.chat.snapshot().phase is Phase.STOPPED


def test_the_longest_unused_cache_is_put_away_first_and_its_words_stay(services, monkeypatch):
    old, new = services.sessions.open(None, "ada"), services.sessions.open(None, "ada")
    answered(old, "word " * 100)
    answered(new)
    old.used_at, new.used_at = time.monotonic() - 10, time.monotonic()
    services.sessions._byte_budget = new.idle_bytes()
    services.sessions.make_room()
    assert old.idle_bytes() == 0
    assert new.idle_bytes() > 0
    assert len(old.chat.messages()) == 2


def test_a_chat_that_was_put_away_is_read_again_and_goes_on(services, engine):
    workspace = services.sessions.open(None, "ada")
    answered(workspace, "first question")
    workspace.put_away()
    answered(workspace, "second question")
    assert "first question" in engine.prompts[-1]
    assert (
        workspace.chat.turns()[-1].num_prompt_tokens > workspace.chat.turns()[0].num_prompt_tokens
    )
    assert workspace.chat.config == PRESETS["balanced"]


def test_within_the_budget_nothing_is_put_away(services):
    workspace, other = services.sessions.open(None, "a"), services.sessions.open(None, "a")
    answered(workspace)
    answered(other)
    services.sessions.make_room()
    assert workspace.idle_bytes() > 0


def test_many_chats_of_one_person_end_none_of_anothers(services):
    hers = [services.sessions.open(None, "ada") for _ in range(3)]
    answered(hers[0])
    for _ in range(sessions.MAX_WORKSPACES_PER_USER + 40):
        services.sessions.open(None, "bob")
    assert [services.sessions.look(one.id, "ada") for one in hers] == hers
    assert len(services.sessions) == 3 + sessions.MAX_WORKSPACES_PER_USER


def test_who_holds_the_most_makes_room_first(services):
    hers = services.sessions.open(None, "ada")
    answered(hers)
    his = [services.sessions.open(None, "bob") for _ in range(4)]
    for one in his:
        answered(one)
    services.sessions._byte_budget = 3 * hers.idle_bytes()
    services.sessions.make_room()
    # hers is the oldest of all, and stays
    assert hers.idle_bytes() > 0
    assert [one.idle_bytes() > 0 for one in his] == [False, False, True, True]


def test_a_page_that_has_no_chat_yet_gets_none_by_acting(services, me):
    with pytest.raises(gr.Error, match="still opening"):
        services.workspace("", me)
    assert len(services.sessions) == 0


def test_the_oldest_workspace_that_nobody_looks_at_goes_when_there_are_too_many(
    services, monkeypatch
):
    monkeypatch.setattr(sessions, "MAX_WORKSPACES_PER_USER", 2)
    shown = services.sessions.open(None, "ada")
    services.sessions.attach("page-1", shown)
    left = services.sessions.open(None, "ada")
    services.sessions.open(None, "ada")
    assert len(services.sessions) == 2
    assert services.sessions.open(shown.id, "ada") is shown
    assert services.sessions.open(left.id, "ada") is not left


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("192.168.1.7", False), ("testclient", False)],
)
def test_only_this_computer_counts_as_here(host, expected):
    assert is_at_this_computer(SimpleNamespace(client=SimpleNamespace(host=host))) is expected


def test_a_request_without_an_address_is_not_here():
    assert is_at_this_computer(None) is False


def test_without_logins_everybody_is_the_same_owner():
    assert owner_of(SimpleNamespace(username=None)) == owner_of(None)
    assert owner_of(SimpleNamespace(username="ada")) == "ada"
